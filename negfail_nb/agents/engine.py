"""Replies to several prompts at once by transformers' ``generate``, each as if it were alone.

Prompts are padded on the left. ``generate`` has one random stream for all rows, so the draws are
ours: they depend on a request's seed, not on what else runs (`SeededNoise`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

if TYPE_CHECKING:
    from asyncio import Future

    from transformers import PreTrainedModel

SPREAD = 2  # ratio of the longest to the shortest prompt of a batch, at most
_BITS = 0xFFFF_FFFF


@dataclass(slots=True, eq=False)
class Request:
    """A prompt, how it is replied to, and the reply so far.

    Attributes
    ----------
    prompt, limit
        Its tokens, and how many tokens the reply may have.
    temperature, seed, stop
        How the reply is drawn (temperature 0 is greedy), and texts that end it.
    done
        Set to this request when the reply is there.
    tokens, first
        The reply, its end token included, and the ``time.perf_counter`` of its first token.
    withdrawn
        Nobody waits for it any more.
    """

    prompt: Sequence[int]
    limit: int
    temperature: float
    seed: int
    stop: tuple[str, ...]
    done: Future[Request]
    tokens: list[int] = field(default_factory=list)
    first: float | None = None
    withdrawn: bool = False


def generate(
    model: PreTrainedModel,
    requests: Sequence[Request],
    ends: frozenset[int],
    decode: Callable[[list[int]], str],
) -> None:
    """Write the replies into requests, by halves if a GPU's memory does not hold all at once.

    Parameters
    ----------
    model
        In evaluation mode. Penalties and the like of its ``generation_config`` are not applied.
    requests
        At least one.
    ends
        Tokens that end a reply.
    decode
        From tokens to text, to look for the texts that end a reply.
    """
    try:
        return _generate(model, requests, ends, decode)
    except torch.OutOfMemoryError:
        if len(requests) == 1:
            raise
    for request in requests:  # outside the handler: the error holds what was computed
        request.tokens.clear()
    middle = len(requests) // 2
    generate(model, requests[:middle], ends, decode)
    generate(model, requests[middle:], ends, decode)


def _generate(model: Any, requests: Sequence[Request], ends: frozenset[int], decode: Any) -> None:
    longest = max(len(request.prompt) for request in requests)
    missing = [longest - len(request.prompt) for request in requests]
    padded = [[0] * n + list(r.prompt) for n, r in zip(missing, requests, strict=True)]
    mask = [[0] * n + [1] * (longest - n) for n in missing]
    own = model.generation_config
    model.generation_config = GenerationConfig(do_sample=False)
    try:
        model.generate(
            torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max(request.limit for request in requests),
            logits_processor=[
                SeededNoise([r.temperature for r in requests], [r.seed for r in requests], longest)
            ],
            stopping_criteria=[_Ends(requests, ends, decode)],
        )
    finally:
        model.generation_config = own


class _Ends(StoppingCriteria):
    """Gives each request its tokens until its reply is over; what follows is dropped."""

    def __init__(
        self, requests: Sequence[Request], ends: frozenset[int], decode: Callable[[list[int]], str]
    ) -> None:
        self._requests = requests
        self._ends = ends
        self._decode = decode
        self._over = [False] * len(requests)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **unused: Any) -> torch.Tensor:
        """Return which rows are over, shape ``(rows,)``."""
        now = time.perf_counter()
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if not self._over[row]:
                request = self._requests[row]
                request.first = request.first or now
                request.tokens.append(token)
                self._over[row] = self._is_over(request)
        return torch.tensor(self._over, device=input_ids.device)

    def _is_over(self, request: Request) -> bool:
        tokens = request.tokens
        return (
            request.withdrawn
            or tokens[-1] in self._ends
            or len(tokens) >= request.limit
            # A token has at least a byte; one more, since the first of a text may lose its space.
            or any(text in self._decode(tokens[-len(text.encode()) - 1 :]) for text in request.stop)
        )


class SeededNoise(LogitsProcessor):
    """Turns ``generate``'s arg max into a draw, by Gumbel noise added to logits / temperature.

    The arg max of that is a draw from the softmax (Gumbel 1954; Maddison et al., arXiv 1411.0030).
    The noise depends on a row's seed, the token, and its place in the reply only. Rows of
    temperature 0 stay as they are.

    Parameters
    ----------
    temperatures, seeds
        One per row.
    start
        Tokens of a row before its reply, padding included.
    """

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int], start: int) -> None:
        self._temperatures = temperatures
        self._seeds = seeds
        self._start = start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add the noise to scores of shape ``(rows, vocabulary)``."""
        drawn = [row for row, temperature in enumerate(self._temperatures) if temperature]
        if not drawn:
            return scores
        place = input_ids.shape[1] - self._start
        scores = scores.clone()
        keys = scores.new_tensor(
            [_mixed(_mixed(self._seeds[r] & _BITS) ^ place) for r in drawn], dtype=torch.long
        )
        tokens = _mixed(torch.arange(scores.shape[1], device=scores.device))
        # 23 bits and a half, so that float32 never rounds to 0 or 1, whose logarithms are infinite.
        uniform = ((_mixed(tokens ^ keys[:, None]) >> 9) + 0.5) / 2**23
        temperatures = scores.new_tensor([self._temperatures[r] for r in drawn])
        scores[drawn] = scores[drawn] / temperatures[:, None] - torch.log(-torch.log(uniform))
        return scores


def _mixed(x: Any) -> Any:
    """Mix the lower 32 bits (lowbias32: https://nullprogram.com/blog/2018/07/31/)."""
    x = ((x ^ (x >> 16)) * 0x7FEB_352D) & _BITS
    x = ((x ^ (x >> 15)) * 0x846C_A68B) & _BITS
    return x ^ (x >> 16)


def next_batch(waiting: Sequence[Request], fits: Callable[[int, int, int], bool]) -> list[Request]:
    """Return the request that waits longest, and those of similar length that fit beside it.

    ``waiting`` is in order of arrival. ``fits`` takes the number of rows and the tokens of the
    longest prompt and of the longest reply; one request alone always goes.
    """
    first = waiting[0]
    batch = [first]
    shortest = longest = len(first.prompt)
    limit = first.limit
    for request in sorted(waiting[1:], key=lambda r: abs(len(r.prompt) - len(first.prompt))):
        length = len(request.prompt)
        ends = min(shortest, length), max(longest, length), max(limit, request.limit)
        if ends[1] <= SPREAD * ends[0] and fits(len(batch) + 1, ends[1], ends[2]):
            batch.append(request)
            shortest, longest, limit = ends
    return batch


def batch_bytes(model: PreTrainedModel, rows: int, tokens: int) -> int:
    """Return roughly how many bytes a batch takes beside the weights."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    hidden = config.hidden_size
    width = getattr(config, "head_dim", None) or hidden // heads
    kept = 2 * config.num_hidden_layers * width
    kept *= getattr(config, "num_key_value_heads", None) or heads
    computed = 4 * (hidden + (getattr(config, "intermediate_size", None) or 4 * hidden))
    # Logits and noise of a row: ten numbers of 4 bytes for each token of the vocabulary.
    drawn = 40 * config.vocab_size
    # The mask has one byte for each pair of tokens.
    return rows * (tokens * (model.dtype.itemsize * (kept + computed) + tokens) + drawn)
