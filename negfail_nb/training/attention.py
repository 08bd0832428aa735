"""Attention over packed rows without flash-attention: exact isolation, and the cost of the parts,
not of the row.

TRL packs several trajectories into one row and marks the borders by position ids that start again
at 0. With transformers' own ``sdpa`` such a row costs the square of its length, because the borders
become a full ``(1, 1, N, N)`` mask. ``packed_sdpa`` runs `scaled_dot_product_attention` once per
trajectory instead: the cost is the sum of the squares, no mask is built, and nothing can leak from
one trajectory into another.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available

PACKED_SDPA = "packed_sdpa"


def register_packed_sdpa() -> str:
    """Make ``attn_implementation="packed_sdpa"`` known to transformers; return that name.

    Notes
    -----
    Covered: any model that takes its attention and its masks from transformers' interfaces,
    grouped-query attention, KV caches, padded batches (these go to ordinary ``sdpa``), sliding
    windows (exact; cheap while no packed trajectory is longer than the window). Not covered: biases
    added to the scores of a packed row.
    """
    AttentionInterface.register(PACKED_SDPA, packed_sdpa)
    AttentionMaskInterface.register(PACKED_SDPA, packed_lengths_or_mask)
    return PACKED_SDPA


def choose_attention(dtype: torch.dtype) -> str:
    """Return flash-attn if it can run here with weights of this type, else `packed_sdpa`.

    flash-attn needs CUDA and bfloat16. Weights kept in float32 get `packed_sdpa` even if they are
    trained in bfloat16: only autocast would make them fit flash-attn, and the same model has to run
    outside of it too.
    """
    if dtype == torch.bfloat16 and torch.cuda.is_available() and is_flash_attn_2_available():
        return "flash_attention_2"
    return register_packed_sdpa()


def packed_lengths_or_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Any,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    **kwargs: Any,
) -> torch.Tensor | None:
    """Return the lengths of the packed sequences, shape ``(sequences,)`` on the CPU, or the mask
    that ``sdpa`` takes.

    The borders are read off the mask function itself (a token that may not see the one before it
    starts a sequence), so whatever transformers recognises as packed is isolated, and nothing else
    is.
    """
    one_row = batch_size == 1 and 1 < q_length == kv_length and attention_mask is None
    # transformers forbids the causal shortcut for packed rows; a custom overlay would need
    # `use_vmap`
    if one_row and not kwargs.get("allow_is_causal_skip", True) and not kwargs.get("use_vmap"):
        lengths = _packed_lengths(mask_function, q_length, kwargs.get("device", "cpu"))
        if lengths is not None and (local_size is None or int(lengths.max()) <= local_size):
            return lengths
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        **kwargs,
    )


def packed_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention, one call per packed sequence.

    ``query``, ``key``, ``value`` have shapes ``(batch, heads, tokens, head size)``; key and value
    may have fewer heads. ``attention_mask`` has lengths from `packed_lengths_or_mask`, shape
    ``(sequences,)``, or is what ordinary ``sdpa`` takes. The output has shape ``(batch, tokens,
    heads, head size)``; there are no attention weights.
    """
    if attention_mask is None or attention_mask.ndim != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if kwargs.get("position_bias") is not None:
        raise ValueError(
            "packed_sdpa has no score biases for packed rows; load this model with attention='sdpa'"
        )
    lengths = attention_mask.tolist()
    parts = zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True)
    outputs = [sdpa_attention_forward(module, q, k, v, None, **kwargs)[0] for q, k, v in parts]
    return torch.cat(outputs, dim=1), None


def _packed_lengths(
    mask_function: Any, tokens: int, device: torch.device | str
) -> torch.Tensor | None:
    """Lengths of the sequences of one row; ``None`` if a token may see a later one."""
    here = torch.arange(1, tokens, device=device)
    zero = torch.zeros_like(here)
    if bool(torch.as_tensor(mask_function(zero, zero, here - 1, here)).any()):
        return None
    starts = (~mask_function(zero, zero, here, here - 1)).nonzero().flatten().cpu() + 1
    borders = torch.cat([starts.new_zeros(1), starts, starts.new_full((1,), tokens)])
    return borders.diff()
