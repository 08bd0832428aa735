"""TRL's preference trainers on our tokens and masks: observations stay in the context and out of
the preference.

TRL's own tokenisation counts every token behind the prompt as the model's, so an agent would be
rewarded for what its tools said. The losses go by ``completion_mask``, so it is enough to give that
mask ourselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from trl import DPOTrainer, KTOTrainer

Row = dict[str, Any]
# What TRL adds to the rows: log-likelihoods under the model that training starts from, and their
# names in a batch.
REFERENCES = ("ref_chosen_logps", "ref_rejected_logps", "ref_logps", "ref_KL_logps")


class PairTrainer(DPOTrainer):
    """`DPOTrainer` on rows of ``chosen_ids``, ``chosen_mask``, ``rejected_ids``, ``rejected_mask``."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class SingleTrainer(KTOTrainer):
    """`KTOTrainer` on rows of ``ids``, ``mask``, ``label``, and ``KL_ids``, ``KL_mask`` of a
    mismatched run.
    """

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Rows to a padded batch as `DPOTrainer` takes it: all chosen runs, then all rejected ones."""

    pad: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask``, ``completion_mask``: shapes ``(2 * pairs,
        tokens)``.
        """
        sides = [
            (row[f"{side}_ids"], row[f"{side}_mask"])
            for side in ("chosen", "rejected")
            for row in rows
        ]
        return _padded(sides, self.pad) | _references(rows)


@dataclass(frozen=True, slots=True)
class SingleCollator:
    """Rows to a padded batch as `KTOTrainer` takes it: the runs, their labels, and the mismatched
    runs.
    """

    pad: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return masks and ids of shapes ``(runs, tokens)``, with and without ``KL_``, and
        ``label``, ``(runs,)``.
        """
        batch = _padded([(row["ids"], row["mask"]) for row in rows], self.pad)
        batch |= _padded([(row["KL_ids"], row["KL_mask"]) for row in rows], self.pad, "KL_")
        return batch | {"label": torch.tensor([row["label"] for row in rows])} | _references(rows)


def _padded(runs: Sequence[tuple[Any, Any]], pad: int, prefix: str = "") -> dict[str, torch.Tensor]:
    ids = [torch.as_tensor(i, dtype=torch.long) for i, _ in runs]
    masks = [torch.as_tensor(m, dtype=torch.long) for _, m in runs]
    return {
        f"{prefix}input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
        f"{prefix}attention_mask": pad_sequence(
            [torch.ones_like(i) for i in ids], batch_first=True
        ),
        f"{prefix}completion_mask": pad_sequence(masks, batch_first=True),
    }


def _references(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    return {
        name: torch.tensor([row[name] for row in rows]) for name in REFERENCES if name in rows[0]
    }
