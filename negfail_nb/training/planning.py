"""`plan`: what training will take, before it starts: rows, steps, and how much packing saves."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from negfail_nb.settings import TrainSettings
from negfail_nb.training.model import only_our_bars

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

ROW_TOKENS = 4096
PADDED_BATCH = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """Size of a training run, in examples, tokens and steps.

    Attributes
    ----------
    examples, tokens, trained_tokens
        Of one epoch; trained tokens are those in the loss.
    longest
        Tokens of the longest example.
    row_tokens
        Most tokens of a packed row.
    rows
        Packed rows of one epoch.
    fill
        Share of the rows that holds tokens: ``tokens / (rows * row_tokens)``. Rows are not padded,
        so a lower fill costs steps but no arithmetic.
    padded_tokens
        What one epoch would process in padded batches of 8, in random order.
    rows_per_step
        Rows that one optimiser step sums over.
    steps
        Optimiser steps of the whole run.
    epochs
        Passes over the data in the whole run.
    """

    examples: int
    tokens: int
    trained_tokens: int
    longest: int
    row_tokens: int
    rows: int
    fill: float
    padded_tokens: int
    rows_per_step: int
    steps: int
    epochs: float

    @property
    def gain(self) -> float:
        """How many times fewer tokens are processed than in padded batches of 8."""
        return self.padded_tokens / self.tokens

    def __str__(self) -> str:
        """What a run takes, in a line."""
        tokens = round(self.tokens * self.epochs)
        return (
            f"{self.steps} steps, {self.epochs:.3g} epochs of {self.examples} trajectories, about "
            f"{tokens:,} tokens"
        )

    @property
    def table(self) -> pd.DataFrame:
        """One row per number."""
        import pandas as pd

        values = {f.name.replace("_", " "): getattr(self, f.name) for f in fields(self)}
        values["packing gain"] = self.gain
        shown = [f"{v:,.3g}" if isinstance(v, float) else f"{v:,}" for v in values.values()]
        return pd.DataFrame({"value": shown}, values)

    def _repr_html_(self) -> str:
        return self.table.to_html()


def plan(data: Any, settings: TrainSettings = TrainSettings()) -> Plan:
    """Return what training on rendered data will take; packs it once: seconds for 100,000 examples.

    Parameters
    ----------
    data
        What `negfail_nb.render` returned: ``data.dataset()`` has ``input_ids``, ``labels`` and
        ``id``.
    settings
        The budget, and the tokens of one optimiser step.

    Raises
    ------
    ValueError
        If there are no examples, or one has no trained token.
    """
    from trl import pack_dataset

    dataset = data.dataset()
    lengths, trained = token_counts(dataset)
    if not len(lengths):
        raise ValueError(
            "no examples to train on: 0 were given. Select or render at least one trajectory."
        )
    if masked := (trained == 0).nonzero()[0].tolist():
        names = dataset["id"] if "id" in dataset.column_names else range(len(lengths))
        raise ValueError(
            f"{len(masked)} of {len(lengths)} examples have no trained token "
            f"({', '.join(str(names[i]) for i in masked[:3])}); leave them out, as "
            "negfail_nb.render does"
        )
    if settings.context_parallel > 1:  # a row each, as the rows of several cannot be shared
        row, rows, usual = int(lengths.max()), len(lengths), float(lengths.mean())
    else:
        row = row_tokens(int(lengths.max()), settings.batch_tokens)
        shuffled = dataset.select_columns(["input_ids"]).shuffle(seed=settings.seed)
        with only_our_bars():
            rows, usual = len(pack_dataset(shuffled, row, "bfd")), row
    rows_per_step = max(1, round(settings.batch_tokens / usual))
    steps_per_epoch = math.ceil(rows / rows_per_step)
    steps = (
        settings.steps
        if settings.budget == "steps"
        else max(1, math.ceil(settings.epochs * steps_per_epoch))
    )
    return Plan(
        examples=len(lengths),
        tokens=int(lengths.sum()),
        trained_tokens=int(trained.sum()),
        longest=int(lengths.max()),
        row_tokens=row,
        rows=rows,
        fill=float(lengths.sum() / (rows * row)),
        padded_tokens=padded_tokens(lengths, settings.seed),
        rows_per_step=rows_per_step,
        steps=steps,
        epochs=steps / steps_per_epoch,
    )


def row_tokens(longest: int, batch_tokens: int) -> int:
    """Return the tokens of a packed row: a whole fraction of a step, near 4,096, and never below
    the longest example.

    Long rows leave less unused space and need fewer passes per step; attention does not get dearer
    with them, because it runs example by example.
    """
    if longest >= batch_tokens:
        return longest
    return batch_tokens // max(1, batch_tokens // max(longest, ROW_TOKENS))


def padded_tokens(lengths: np.ndarray, seed: int = 0, batch: int = PADDED_BATCH) -> int:
    """Return the tokens that one epoch of padded batches in random order would process."""
    order = np.random.default_rng(seed).permutation(lengths)
    parts = np.split(order, range(batch, len(order), batch))
    return int(sum(part.max() * len(part) for part in parts))


def token_counts(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each example, its tokens and those in the loss; shapes ``(examples,)``.

    The first token of an example is predicted from nothing, so it is never in the loss, whatever
    its label says.
    """
    counts = [
        (len(labels), int(np.count_nonzero(np.asarray(labels[1:]) != -100)))
        for batch in dataset.select_columns(["labels"]).with_format("numpy").iter(1000)
        for labels in batch["labels"]
    ]
    return tuple(np.array(counts, dtype=np.int64).reshape(-1, 2).T)  # type: ignore[return-value]
