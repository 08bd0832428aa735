"""Tokens that a model does not know: rows of its embeddings that nothing trained, and that an
adapter leaves alone.

Base models have rows for the control tokens of chats that nothing was ever learnt for (Llama 3's
``<|eot_id|>`` and headers are near zero). Training all weights learns them; an adapter on the
linear layers does not.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

log = logging.getLogger("negfail_nb")

NEAR_ZERO = 0.1  # of the median norm of all rows
SHOWN = 8


def untrained_tokens(model: Any, dataset: Dataset, tokenizer: Any) -> tuple[str, ...]:
    """Say which tokens of the data have rows that are zero or near it and will stay so; empty where
    there are none.

    Parameters
    ----------
    model
        With its adapter, before training.
    dataset
        ``input_ids`` and ``labels``: what is read, and what is to be written.
    tokenizer
        Names the tokens.

    Returns
    -------
    tuple of str
        For input and output embeddings; each is also a warning in the log.
    """
    read, written = _used(dataset)
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    notes = []
    for ids, side, module in (
        (read, "input", base.get_input_embeddings()),
        (written, "output", base.get_output_embeddings()),
    ):
        if module is None or any(p.requires_grad for p in module.parameters()):
            continue
        weak = _near_zero(module.weight, ids)
        if weak:
            names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(weak[:SHOWN])))
            more = f" and {len(weak) - SHOWN} more" if len(weak) > SHOWN else ""
            notes.append(
                f"the {side} embeddings of {names}{more} are zero or near it, and the adapter leaves them so: the "
                f"model cannot learn to {'read' if side == 'input' else 'write'} these tokens. Set "
                'lora.modules_to_save="embed_tokens,lm_head" (in peft also trainable_token_indices), train all weights '
                "(lora.rank=0), or choose a chat template of tokens that the model knows"
            )
            log.warning("%s", notes[-1])
    return tuple(notes)


def _used(dataset: Dataset) -> tuple[list[int], list[int]]:
    """Return the ids that occur, and those that carry loss, in order."""
    import numpy as np

    read: set[int] = set()
    written: set[int] = set()
    for batch in dataset.select_columns(["input_ids", "labels"]).with_format("numpy").iter(1000):
        read.update(np.unique(np.concatenate(list(batch["input_ids"]))).tolist())
        written.update(np.unique(np.concatenate(list(batch["labels"]))).tolist())
    return sorted(read), sorted(written - {-100})


def _near_zero(rows: torch.Tensor, ids: list[int]) -> list[int]:
    """Return those ids whose rows are far shorter than the median of all that are not zero."""
    norms = rows.detach().float().norm(dim=-1)
    some = norms[norms > 0]
    usual = float(some.median()) if len(some) else 0.0
    return [i for i in ids if float(norms[i]) <= NEAR_ZERO * usual]
