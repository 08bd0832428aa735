"""Replies to several prompts at once by transformers' own ``generate``, each as if it were alone.

Prompts are padded on the left. What is ours: which rows are over (`_Ends`), and draws that depend
on a request's seed, not on what else runs (`SeededNoise`), as ``generate`` has one random stream
for all rows.
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

SPREAD = 2  # the longest prompt of a batch has at most so many times the tokens of the shortest
_BITS = 0xFFFF_FFFF


@dataclass(slots=True, eq=False)
class Request:
    """A prompt, how it is replied to, and the reply so far.

    Attributes
    ----------
    prompt, limit
        Its tokens, and how many tokens the reply may have.
    temperature, seed
        Of the draws; temperature 0 is greedy.
    stop
        Texts that end the reply.
    done
        For who waits; it gets this request.
    tokens, first
        The reply, its end token included, and when its first token was there, by
        ``time.perf_counter``.
    withdrawn
        Nobody waits any more.
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
    """Write the replies into requests; those that do not fit the accelerator's memory together go
    by halves.

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
    for request in requests:  # behind the handler, as the error holds what was computed
        request.tokens.clear()
    middle = len(requests) // 2
    generate(model, requests[:middle], ends, decode)
    generate(model, requests[middle:], ends, decode)


def _generate(model: Any, requests: Sequence[Request], ends: frozenset[int], decode: Any) -> None:
    longest = max(len(request.prompt) for request in requests)
    missing = [longest - len(request.prompt) for request in requests]
    padded = [[0] * n + list(r.prompt) for n, r in zip(missing, requests, strict=True)]
    mask = [[0] * n + [1] * (longest - n) for n in missing]
    own, model.generation_config = model.generation_config, GenerationConfig(do_sample=False)
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
    """Hands each row its tokens until that row is over; the rest of what it generates is nobody's."""

    def __init__(
        self, requests: Sequence[Request], ends: frozenset[int], decode: Callable[[list[int]], str]
    ) -> None:
        self._requests, self._ends, self._decode = requests, ends, decode
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
            # A token has a byte at least; one more, as the first of a text may lose its space.
            or any(text in self._decode(tokens[-len(text.encode()) - 1 :]) for text in request.stop)
        )


class SeededNoise(LogitsProcessor):
    """Turns ``generate``'s arg max into a draw: logits / temperature + Gumbel noise, whose arg max
    is softmax's draw.

    (Gumbel 1954; Maddison et al., arXiv 1411.0030.) The noise depends on a row's seed, the number
    of its token in the reply and the token only. Rows of temperature 0 stay as they are.

    Parameters
    ----------
    temperatures, seeds
        One a row.
    start
        Tokens of a row before its reply, padding included.
    """

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int], start: int) -> None:
        self._temperatures, self._seeds, self._start = temperatures, seeds, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add the noise to scores of shape ``(rows, vocabulary)``."""
        drawn = [row for row, temperature in enumerate(self._temperatures) if temperature]
        if not drawn:
            return scores
        place, scores = input_ids.shape[1] - self._start, scores.clone()
        keys = scores.new_tensor(
            [_mixed(_mixed(self._seeds[r] & _BITS) ^ place) for r in drawn], dtype=torch.long
        )
        tokens = _mixed(torch.arange(scores.shape[1], device=scores.device))
        # 23 bits and a half: the nearest float32 to either end is neither 0 nor 1, whose logarithms
        # are infinite.
        uniform = ((_mixed(tokens ^ keys[:, None]) >> 9) + 0.5) / 2**23
        temperatures = scores.new_tensor([self._temperatures[r] for r in drawn])
        scores[drawn] = scores[drawn] / temperatures[:, None] - torch.log(-torch.log(uniform))
        return scores


def _mixed(x: Any) -> Any:
    """Mix the lower 32 bits of a number, or of each of a tensor (lowbias32:
    https://nullprogram.com/blog/2018/07/31/).
    """
    x = ((x ^ (x >> 16)) * 0x7FEB_352D) & _BITS
    x = ((x ^ (x >> 15)) * 0x846C_A68B) & _BITS
    return x ^ (x >> 16)


def next_batch(waiting: Sequence[Request], fits: Callable[[int, int, int], bool]) -> list[Request]:
    """Return the request that waits longest, and those that go with it, the nearest in length
    first.

    Parameters
    ----------
    waiting
        At least one, in order of arrival.
    fits
        Whether so many rows may go together, from their number, the tokens of the longest prompt
        and of the longest reply. One alone always goes.
    """
    first = waiting[0]
    batch, shortest, longest, limit = [first], len(first.prompt), len(first.prompt), first.limit
    for request in sorted(waiting[1:], key=lambda r: abs(len(r.prompt) - len(first.prompt))):
        length = len(request.prompt)
        ends = min(shortest, length), max(longest, length), max(limit, request.limit)
        if ends[1] <= SPREAD * ends[0] and fits(len(batch) + 1, ends[1], ends[2]):
            batch.append(request)
            shortest, longest, limit = ends
    return batch


def batch_bytes(model: PreTrainedModel, rows: int, tokens: int) -> int:
    """Return about how many bytes so many rows of so many tokens take beside the weights."""
    config, size = model.config.get_text_config(), model.dtype.itemsize
    heads, hidden = config.num_attention_heads, config.hidden_size
    width = getattr(config, "head_dim", None) or hidden // heads
    kept = (
        2
        * config.num_hidden_layers
        * (getattr(config, "num_key_value_heads", None) or heads)
        * width
    )
    computed = 4 * (hidden + (getattr(config, "intermediate_size", None) or 4 * hidden))
    drawn = (
        40 * config.vocab_size
    )  # logits and noise of a row: ten numbers of 4 bytes a token of the vocabulary
    return rows * (
        tokens * (size * (kept + computed) + tokens) + drawn
    )  # a byte of the mask for each pair of tokens


def free_bytes(device: torch.device) -> int:
    """Return the bytes of a device that are free."""
    if device.type != "cuda":
        from negfail_nb.training.model import free_memory

        return free_memory()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept
