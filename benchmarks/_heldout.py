"""How far predictions are off on rows that were never fitted: fit one model, GPU or engine, and
predict another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from negfail_nb.speed.calibration import calibrate
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.measurements import Measurement, predicted
from negfail_nb.speed.workload import DoesNotFit, capacity

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "Split", "compare", "error_table", "fits", "splits", "summarise"]

KINDS = ("model", "gpu", "engine", "context", "saturation")
LARGE = 20e9  # parameters from which a model counts as large: 70B, not 8B
SHORT = 16_384  # tokens to which a prompt counts as short


class Split(NamedTuple):
    """Rows to fit, and rows to predict. ``kind`` is what is held out, one of `KINDS`."""

    kind: str
    name: str
    fitted: tuple[Measurement, ...]
    held_out: tuple[Measurement, ...]


def compare(measurements: Sequence[Measurement], efficiencies: Efficiencies) -> pd.DataFrame:
    """Return measured and predicted, one line per row; ``error`` is relative and signed.

    A row that the model says does not fit has no prediction, and the reason in ``note``.
    """
    import pandas as pd

    return pd.DataFrame(
        [_compared(measurement, efficiencies) for measurement in measurements], columns=_COLUMNS
    )


_COLUMNS = [
    "engine",
    "model",
    "gpu",
    "gpus",
    "weights",
    "input_tokens",
    "output_tokens",
    "batch",
    "metric",
] + ["measured", "predicted", "error", "note"]


def _compared(measurement: Measurement, efficiencies: Efficiencies) -> tuple:
    work, note, value = measurement.workload, "", math.nan
    try:
        value = predicted(measurement, efficiencies)
    except DoesNotFit as error:
        note = str(error)
    return (
        measurement.engine,
        measurement.architecture.name,
        measurement.hardware.name,
        work.tensor_parallel,
        work.weights,
        work.input_tokens,
        work.output_tokens,
        work.batch,
        measurement.metric,
        measurement.value,
        value,
        value / measurement.value - 1,
        note,
    )


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return rows, median and 90th percentile of the absolute error, its signed median, and rows
    without prediction.
    """
    error = table["error"].dropna()
    return {
        "rows": len(error),
        "median": float(error.abs().median()),
        "p90": float(error.abs().quantile(0.9)),
        "bias": float(error.median()),
        "unpredicted": len(table) - len(error),
    }


def fits(measurement: Measurement) -> bool:
    """Return whether all sequences that are asked for at once fit into memory at once."""
    m = measurement
    try:
        return capacity(m.architecture, m.hardware, m.workload)[0] >= m.workload.batch
    except DoesNotFit:
        return False


def splits(measurements: Sequence[Measurement]) -> Iterator[Split]:
    """Yield every split that the rows allow.

    ``model`` fits 8B and predicts 70B; ``gpu`` and ``engine`` fit the 8B rows of one and predict
    another, models of both sizes; ``context`` fits TTFT to 16K tokens and predicts longer prompts;
    ``saturation`` fits 8B at saturation and predicts 70B there. All but the last take rows of a
    fixed number of sequences.
    """
    fixed, full = (
        _cells(m for m in measurements if not m.saturated),
        _cells(m for m in measurements if m.saturated),
    )
    small = {cell: tuple(m for m in rows if not _large(m)) for cell, rows in fixed.items()}
    timed = {
        cell: tuple(m for m in rows if m.metric == "e2e_seconds") for cell, rows in fixed.items()
    }
    for cell in fixed:
        yield Split(
            "model",
            f"{cell[0]}, {cell[1]}: 8B -> 70B",
            small[cell],
            tuple(filter(_large, timed[cell])),
        )
    for (engine, gpu), (other_engine, other) in permutations(fixed, 2):
        rows = small[engine, gpu], timed[other_engine, other]
        if engine == other_engine:
            yield Split("gpu", f"{engine}: {gpu} -> {other}", *rows)
        elif gpu == other:
            yield Split("engine", f"{gpu}: {engine} -> {other_engine}", *rows)
    for (engine, gpu), rows in fixed.items():
        first = tuple(m for m in rows if m.metric == "ttft_seconds")
        short = tuple(m for m in first if m.workload.input_tokens <= SHORT)
        yield Split(
            "context",
            f"{engine}, {gpu}: to 16K -> longer",
            short,
            tuple(m for m in first if m not in short),
        )
    for (engine, gpu), rows in full.items():
        rows = tuple(m for m in rows if not _large(m)), tuple(filter(_large, rows))
        yield Split("saturation", f"{engine}, {gpu}: 8B -> 70B", *rows)


def error_table(measurements: Sequence[Measurement], kinds: Sequence[str] = KINDS) -> pd.DataFrame:
    """Fit and predict every split; return one line each, with the ideal roofline's errors on the
    same rows beside.
    """
    import pandas as pd

    lines = []
    for split in splits(measurements):
        if split.kind not in kinds or not split.fitted or not split.held_out:
            continue
        ours = summarise(compare(split.held_out, calibrate(split.fitted)))
        ideal = summarise(compare(split.held_out, Efficiencies.ideal()))
        peer = {f"ideal_{name}": ideal[name] for name in ("median", "p90")}
        lines.append(
            {
                "held_out": split.kind,
                "split": split.name,
                "fitted": len(split.fitted),
                **ours,
                **peer,
            }
        )
    return pd.DataFrame(lines)


def _large(measurement: Measurement) -> bool:
    return measurement.architecture.parameters >= LARGE


def _cells(measurements: Iterable[Measurement]) -> dict[tuple[str, str], tuple[Measurement, ...]]:
    """Return rows by engine and GPU."""
    cells: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        cells.setdefault((measurement.engine, measurement.hardware.name), []).append(measurement)
    return {cell: tuple(rows) for cell, rows in sorted(cells.items())}
