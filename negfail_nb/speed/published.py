"""Measured speeds: published rows and the user's own, as records that can be predicted.

Columns, of a CSV file or a table: ``version`` (engine and its version), ``model``, ``gpu``,
``n_gpus``, ``isl``, ``osl``, ``concurrency`` (a number, or text that starts with ``max``: as many
as fit), ``metric``, ``value``, ``unit``; and where they are known ``precision`` (of weights; bf16
if empty), ``kv`` (else fp8 with fp8 weights, as engines do), ``usable`` (share of memory that the
engine takes), ``max_batch`` (sequences that it allows), ``batching`` (static, or continuous: one
request joins whenever one leaves), ``source``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.hardware import Hardware, get_hardware
from negfail_nb.speed.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Measurement", "read_measurements"]

# Names in published tables -> names of `Prediction`.
_METRICS = {
    "batch_e2e_latency": "e2e_seconds",
    "e2e": "e2e_seconds",
    "batch_ttft": "ttft_seconds",
    "ttft": "ttft_seconds",
    "tpot": "tpot_seconds",
    "itl": "tpot_seconds",
    "output_throughput_total": "output_tokens_per_second",
}
# How engines were set for their published rows at saturation. TensorRT-LLM: its performance page
# raises the share of memory to 0.95 "in many cases"; 2048 sequences are the default of its engines
# (from memory: the page does not say).
_AT_SATURATION = {"tensorrt-llm": {"usable": 0.95, "max_batch": 2048}}
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "tok/s": 1.0}
_NEEDED = (
    "version",
    "model",
    "gpu",
    "n_gpus",
    "isl",
    "osl",
    "concurrency",
    "metric",
    "value",
    "unit",
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured speed: of which model, GPU and workload; ``metric`` is a name of `Prediction`,
    in seconds or 1/s.
    """

    architecture: Architecture
    hardware: Hardware
    workload: Workload
    metric: str
    value: float
    engine: str
    source: str

    @property
    def saturated(self) -> bool:
        """Whether the engine held as many sequences as fit, instead of a fixed number."""
        return self.workload.batch == 0


def read_measurements(
    rows: str | Path | pd.DataFrame | Iterable[Mapping[str, Any]],
) -> list[Measurement]:
    """Read measured speeds from a CSV file, a table, an iterable of rows, or the JSON of a measured
    card.

    Raises
    ------
    ValueError
        For a column that is missing, and for a field that cannot be used; the text names file, row
        and field. Rows count from 1, without the header.
    """
    import pandas as pd

    name = "rows"
    if isinstance(rows, str | Path) and Path(rows).suffix == ".json":
        from negfail_nb.speed.card import read_card

        return list(read_card(rows).measurements)
    if isinstance(rows, str | Path):
        name, rows = Path(rows).name, _csv(Path(rows))
    table = (rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))).fillna("")
    missing = [column for column in _NEEDED if column not in table.columns]
    if missing and len(table):
        raise ValueError(
            f"{name} has no column {', '.join(missing)}; needed are {', '.join(_NEEDED)}"
        )
    measurements = []
    for number, row in enumerate(table.to_dict("records"), start=1):
        try:
            measurements.append(_measurement(row))
        except ValueError as error:
            raise ValueError(f"{name}, row {number}: {error}") from error
    return measurements


def _csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} is not a CSV file that can be read: {error}") from error


def _measurement(row: Mapping[str, Any]) -> Measurement:
    metric, unit = str(row["metric"]), str(row["unit"])
    metric = _METRICS.get(metric, metric)
    if metric not in _METRICS.values():
        raise ValueError(
            f"metric is {metric!r}; use one of {', '.join(sorted({*_METRICS, *_METRICS.values()}))}"
        )
    if unit not in _UNITS or (unit == "tok/s") != metric.endswith("_per_second"):
        raise ValueError(
            f"unit of {metric} is {unit!r}; use {'tok/s' if metric.endswith('_per_second') else 's or ms'}"
        )
    value = _number(row, "value") * _UNITS[unit]
    if not value > 0:
        raise ValueError(f"value is {row['value']!r}; a measured speed is above 0")
    hardware, workload = _served(row, get_hardware(str(row["gpu"])), _workload(row))
    return Measurement(
        architecture=get_architecture(str(row["model"])),
        hardware=hardware,
        workload=workload,
        metric=metric,
        value=value,
        engine=str(row["version"]),
        source=str(row.get("source", "")),
    )


def _workload(row: Mapping[str, Any]) -> Workload:
    weights = str(row.get("precision", "")) or "bf16"
    most = str(row["concurrency"]).startswith("max")
    return Workload(
        input_tokens=_whole(row, "isl"),
        output_tokens=_whole(row, "osl"),
        batch=0 if most else _whole(row, "concurrency"),
        tensor_parallel=_whole(row, "n_gpus"),
        weights=weights,
        kv=str(row.get("kv", "")) or ("fp8" if weights == "fp8" else "bf16"),
        batching="continuous" if most else str(row.get("batching", "")) or "static",
    )


def _served(
    row: Mapping[str, Any], hardware: Hardware, workload: Workload
) -> tuple[Hardware, Workload]:
    """Return both as the engine was set: by the row's own columns, else as is known of published
    rows.
    """
    known = [
        values
        for name, values in _AT_SATURATION.items()
        if str(row["version"]).lower().startswith(name)
    ]
    values = dict(known[0]) if known and workload.batch == 0 else {}
    if row.get("usable", "") != "":
        values["usable"] = _number(row, "usable")
    if row.get("max_batch", "") != "":
        values["max_batch"] = _whole(row, "max_batch")
    return (
        replace(hardware, usable=values.get("usable", hardware.usable)),
        replace(workload, max_batch=values.get("max_batch", workload.max_batch)),
    )


def _number(row: Mapping[str, Any], field: str) -> float:
    try:
        value = float(row[field])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{field} is {row[field]!r}; give a number")
    return value


def _whole(row: Mapping[str, Any], field: str) -> int:
    value = _number(row, field)
    if value != int(value) or value < 1:
        raise ValueError(f"{field} is {row[field]!r}; give a whole number above 0")
    return int(value)
