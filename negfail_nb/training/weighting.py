"""A weight for each token through packing, batches and loss; TRL carries none.

Rows are packed in the same order and places as TRL packs them without weights, so weights of 1
train the same model to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from negfail_nb.settings import TrainSettings

if TYPE_CHECKING:
    from datasets import Dataset

WEIGHTS = "weights"  # the column, one number a token
COLUMNS = ("input_ids", "labels", WEIGHTS)


@dataclass(frozen=True, slots=True)
class Weighed:
    """A collator of packed rows that keeps their weights."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch: rows one behind the other, as the collator puts their tokens."""
        weights = [torch.tensor(row[WEIGHTS], dtype=torch.float32) for row in rows]
        return {**self.collate(rows), WEIGHTS: torch.cat(weights)[None]}


def is_weighed(dataset: Dataset) -> bool:
    """Whether the rows have weights."""
    return WEIGHTS in dataset.column_names


def check_weights(dataset: Dataset, settings: TrainSettings) -> None:
    """Raise `ValueError` if rows have weights that cannot be trained with."""
    if not is_weighed(dataset):
        return
    if settings.context_parallel > 1:
        raise ValueError(
            f"train.context_parallel is {settings.context_parallel}, and these rows have weights, "
            "which devices that share a trajectory do not pass on; use 1, or an arm without weights"
        )
    rows = dataset.select_columns(list(COLUMNS)).with_format("numpy")
    for number, row in enumerate(rows):
        weights = np.asarray(row[WEIGHTS], dtype=np.float64)
        if len(weights) != len(row["input_ids"]):
            what = f"{len(weights)} weights for {len(row['input_ids'])} tokens"
        elif not (np.isfinite(weights) & (weights >= 0)).all():
            what = "a weight that is negative or no number"
        else:
            continue
        raise ValueError(f"row {number} has {what}; give each token a weight of 0 or more")


def pack(dataset: Dataset, tokens: int, seed: int) -> Dataset:
    """Return packed rows with their weights, in the order in which TRL packs and shuffles."""
    from trl import pack_dataset

    shuffled = dataset.select_columns(list(COLUMNS)).shuffle(seed=seed)
    return pack_dataset(shuffled, tokens, "bfd", {"desc": "packing"}).shuffle(seed=seed)


def summed_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Return the cross-entropy summed over tokens, each times its weight; a scalar.

    Parameters
    ----------
    logits, targets, weights
        Shapes ``(tokens, vocabulary)``, ``(tokens,)`` and ``(tokens,)``; ``None``: all are 1.
    """
    if weights is None:
        return cross_entropy(logits, targets, reduction="sum")
    # One sum for each weight, not a product for each token: the order of additions, and so the
    # last bit, is that of the sum without weights.
    parts = [
        weight * cross_entropy(logits[here], targets[here], reduction="sum")
        for weight in weights.unique()
        for here in [weights == weight]
    ]
    return torch.stack(parts).sum()
