"""Two parts that `LocalModel` adds to transformers' continuous batching: attention for CPUs, and seeded draws.

Transformers' own ``sdpa`` puts all requests of a batch into one row with a mask, so 64 requests cost 64 times the
attention that they need; on a CPU that is most of the time. `paged_sdpa` gives each request its own keys and values
only. And transformers draws all replies of a batch from one random stream, so that a reply depends on what else
runs; `SeededNoise` gives each request a stream of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, LogitsProcessorList, TemperatureLogitsWarper
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
    ContinuousBatchingTemperatureLogitsWarper,
)

from negfail_nb.collect.dense import DenseCache, Row

PAGED_SDPA = "paged_sdpa"
DENSE = "negfail_dense"  # attribute of the engine's cache
_BITS = 0xFFFF_FFFF


def register_paged_sdpa() -> str:
    """Make ``"paged_sdpa"`` known to transformers; return that name."""
    AttentionInterface.register(PAGED_SDPA, paged_sdpa)
    return PAGED_SDPA


def paged_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    cache: Any,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: dict[str, torch.Tensor],
    read_index: Sequence[torch.Tensor],
    write_index: Sequence[torch.Tensor],
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention over a paged cache: one call for all that ask for one token, and one for each other request.

    Parameters
    ----------
    query, key, value
        Of the new tokens of all requests, shape ``(1, heads, tokens, head size)``; key and value may have fewer heads.
    attention_mask
        Always ``None``; transformers makes masks only for the attentions that it knows to need one.
    scaling
        Of the scores.
    cache, cu_seq_lens_q, cu_seq_lens_k, read_index, write_index
        As transformers' continuous batching gives them: where the requests begin, and where their keys and values are.
        The cache's attribute `DENSE` is its `DenseCache`; without one, each request is a call of its own.

    Returns
    -------
    tuple
        Attention output of shape ``(1, tokens, heads, head size)``, and no attention weights.

    Notes
    -----
    Covered: models whose layers all have full attention. Not covered: sliding windows, score biases, sinks.
    """
    if any(unused.get(name) is not None for name in ("softcap", "position_bias", "s_aux")):
        raise ValueError("paged_sdpa has no softcap, score biases or sinks")
    layer, pages = module.layer_idx, cache.layer_to_allocator[module.layer_idx]
    new = key[0].transpose(0, 1), value[0].transpose(0, 1)
    none, nothing = write_index[pages.index][:0], (new[0][:0], new[1][:0])
    pages.update(*new, layer, none, write_index[pages.index])  # writes all, reads nothing
    counts, lengths = cu_seq_lens_q.diff().tolist(), cu_seq_lens_k[pages.layer_type].diff().tolist()
    starts, out = [0, *accumulate(counts)], torch.empty_like(query)
    # Where no request has anything in the cache from before, the keys are the new ones, in full.
    rows = read_index[pages.index].split(lengths) if read_index[pages.index].numel() else ()

    def read(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pages.update(*nothing, layer, rows, none)

    dense: DenseCache = getattr(cache, DENSE, None) or DenseCache(0)
    if layer == 0:
        dense.begin([Row(n, starts[n], r) for n, r in enumerate(rows) if counts[n] == 1 and len(r) > 1])
    dense.attend(layer, query, new, read, scaling, out)
    for number, (start, end) in enumerate(pairwise(starts)):
        if number not in dense.placed:
            known = read(rows[number]) if rows else (new[0][start:end], new[1][start:end])
            part = (p.transpose(0, 1)[None] for p in known)
            out[:, :, start:end] = _attend(query[:, :, start:end], *part, scaling)
    return out.transpose(1, 2), None


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention of one request whose last tokens are the query."""
    tokens, length, heads = query.shape[2], key.shape[2], query.shape[1]
    if tokens == 1:  # the query heads of one key head become its rows, so that no key is copied
        packed = query.reshape(1, key.shape[1], -1, query.shape[3])
        return scaled_dot_product_attention(packed, key, value, scale=scaling).reshape(1, heads, 1, -1)
    shared = {"scale": scaling, "enable_gqa": heads != key.shape[1]}
    if tokens == length:
        return scaled_dot_product_attention(query, key, value, is_causal=True, **shared)
    mask = torch.ones(tokens, length, dtype=torch.bool, device=query.device).tril(length - tokens)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, **shared)


def request_processors() -> ContinuousBatchingLogitsProcessorList:
    """Return processors under which each request has a ``temperature`` (above 0) and a ``seed`` (0: greedy).

    They turn the engine's arg max into a draw: the largest of logits / temperature + Gumbel noise is distributed as
    the softmax of logits / temperature (Gumbel 1954; Maddison et al., arXiv 1411.0030).
    """
    temperature = ContinuousBatchingTemperatureLogitsWarper(TemperatureLogitsWarper(1.0))
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([temperature, SeededNoise()]))
    processors.tensors_required = len(processors.logits_processor)
    return processors


class SeededNoise(ContinuousBatchingLogitsProcessor):
    """Gumbel noise that depends on a request's seed, the position and the token only, not on the rest of the batch."""

    supported_kwargs: dict[str, type] = {"seed": int}
    ignored_kwargs: tuple[str, ...] = ()

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """No noise where a request gives no seed."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """Return one number a request and position; 0 where there is no noise."""
        return torch.tensor([_key(request.state) for request in requests_with_new_token], dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Add the noise to scores of shape ``(requests, vocabulary)``."""
        keys = tensor_arg[: scores.shape[0], None].long()
        tokens = _mixed(torch.arange(scores.shape[1], device=scores.device))
        # 23 bits and a half: the nearest float32 to either end is neither 0 nor 1, whose logarithms are infinite.
        uniform = ((_mixed(tokens ^ keys) >> 9) + 0.5) / 2**23
        return torch.where(keys == 0, scores, scores - torch.log(-torch.log(uniform)))


def _key(state: Any) -> int:
    seed = state.logit_processor_kwargs.get("seed", 0)
    return seed and (_mixed(_mixed(seed & _BITS) ^ state.position_offset) >> 1 or 1)


def _mixed(x: Any) -> Any:
    """Mix the lower 32 bits of a number, or of each of a tensor (lowbias32: https://nullprogram.com/blog/2018/07/31/)."""
    x = ((x ^ (x >> 16)) * 0x7FEB_352D) & _BITS
    x = ((x ^ (x >> 15)) * 0x846C_A68B) & _BITS
    return x ^ (x >> 16)
