"""TRL's trainers of preferences, on rows that are tokens already, in one or several processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import pad
from trl import DPOTrainer, KTOTrainer

from negfail_nb.training.arms import Arm
from negfail_nb.training.sharing import ROWS, SharedTrainer


class MaskedTrainer(SharedTrainer):
    """Takes rows with masks of their own.

    TRL averages the loss over the rows of a forward pass. The ranks may have different numbers of
    them, so each weighs as much as it has rows: then the mean over ranks is that over rows.
    """

    weight: Any = 1.0

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset  # tokens already; TRL would tokenise texts, and lose the masks

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss of the rows of one rank, a scalar."""
        if ROWS not in inputs:
            return super().compute_loss(model, inputs, *args, **kwargs)
        rows = inputs[ROWS]
        self.weight = rows * self.ranks / self.accelerator.gather(rows).sum()
        rest = {name: value for name, value in inputs.items() if name != ROWS}
        return super().compute_loss(model, rest, *args, **kwargs) * self.weight


class MaskedDPOTrainer(MaskedTrainer, DPOTrainer):
    """Pairs.

    What TRL reports of each pair is gathered from all ranks, and waits for ever if they have
    different numbers of them.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Let the accelerator gather any number of rows."""
        super().create_accelerator_and_postprocess()
        if self.ranks > 1:
            self.accelerator.gather = partial(_gather_rows, self.accelerator.gather)


class MaskedKTOTrainer(MaskedTrainer, KTOTrainer):
    """Runs with a label."""

    def _compute_kl_logps(self, model: Any, batch: dict[str, Any]) -> Any:
        """Weigh how far the model has moved, whose mean TRL takes over ranks, by the rows too."""
        moved = super()._compute_kl_logps(model, batch)
        if "ref_KL_logps" not in batch:  # the reference itself
            return moved
        start = batch["ref_KL_logps"]
        return start + self.weight * (moved - start)


def masked_trainer(arm: Arm) -> type[MaskedTrainer]:
    """Return the trainer of an arm."""
    return MaskedDPOTrainer if arm.name == "dpo" else MaskedKTOTrainer


def _gather_rows(gather: Any, values: Any) -> Any:
    """Gather vectors of different lengths; anything else as the accelerator does."""
    if not isinstance(values, torch.Tensor) or values.ndim != 1:
        return gather(values)
    sizes = gather(torch.tensor(len(values), device=values.device)).tolist()
    parts = gather(pad(values, (0, max(sizes) - len(values)))).split(max(sizes))
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
