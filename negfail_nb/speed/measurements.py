"""Measured speeds as rows that can be fitted and predicted: published ones, a server under load
(`server_rows`), and a GPU with some layers of a model (`read_gpu`).
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import Hardware, Unknown, get_hardware
from negfail_nb.speed.metrics import cells_of, request_table, summarise
from negfail_nb.speed.roofline import Workload
from negfail_nb.speed.rows import NEEDED, Measurement, Unpredictable, predicted, read_row
from negfail_nb.speed.traces import Trace

if TYPE_CHECKING:
    import pandas as pd

GPU_SCHEMA = "negfail_nb.gpu/1"
OLD_SCHEMA = "negfail_nb.card/1"  # the same, with the GPU under "card"
_UNBOUNDED = 2**31 - 1  # a truncated model has no window of its own

log = logging.getLogger("negfail_nb")


class Measurements(list[Measurement]):
    """Measured rows that can be predicted; ``left_out`` says why others cannot, and how many."""

    left_out: Mapping[str, int]

    def __init__(self, rows: Iterable[Measurement] = (), left_out: Mapping[str, int] | None = None):
        super().__init__(rows)
        self.left_out = dict(left_out or {})


def read_measurements(
    rows: str | Path | pd.DataFrame | Iterable[Mapping[str, Any]],
) -> Measurements:
    """Read measured speeds: a CSV file, a table, rows, or the JSON of a measured GPU.

    Columns are those of `negfail_nb.speed.rows`. Rows of a GPU, model or format that no table has,
    and of what is not predicted, are left out; the log and ``left_out`` of what is returned say how
    many and why.

    Raises
    ------
    ValueError
        For a missing column, or a row that is wrong in itself: no unit, a time that is not above
        0, an unknown metric. The text names file, row and field. Rows count from 1, without the
        header.
    """
    import pandas as pd

    name = "rows"
    if isinstance(rows, str | Path):
        path = Path(rows)
        if path.suffix == ".json":
            return Measurements(read_gpu(path).measurements)
        try:
            name = path.name
            rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path.name} cannot be read as a CSV file: {error}") from error
    table = (rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))).fillna("")
    missing = [column for column in NEEDED if column not in table.columns]
    if missing and len(table):
        lacks = f"{name} has no column {', '.join(missing)}"
        raise ValueError(f"{lacks}; needed are {', '.join(NEEDED)}")
    found, left_out = [], Counter()
    for number, row in enumerate(table.to_dict("records"), start=1):
        try:
            found.append(read_row(row))
        except (Unknown, Unpredictable) as error:
            left_out[str(error).partition("; it has")[0].partition("; known")[0]] += 1
        except ValueError as error:
            raise ValueError(f"{name}, row {number}: {error}") from error
    if left_out:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in left_out.most_common())
        about = name, left_out.total(), len(table), reasons
        log.warning("%s: %d of %d rows cannot be predicted, and are left out: %s", *about)
    return Measurements(found, left_out)


# A server under load


def server_rows(
    traces: Iterable[Trace],
    model: str,
    gpu: str,
    gpus: int = 1,
    engine: str = "my server",
    **more: Any,
) -> pd.DataFrame:
    """Return the measured rows of a server, for `read_measurements` or a CSV file.

    A cell of one request at a time gives TTFT and time per token (medians); one of several gives
    the tokens per second of all, without ramp-up and ramp-down. Only closed loops with a cold cache
    can be predicted; others are counted in the log and left out.

    Parameters
    ----------
    traces
        Of `measure_load`.
    model, gpu, gpus, engine
        What was served on what, by what: ``"llama-3.1-70b"``, ``"h100"``, 8, ``"vLLM 0.33"``.
    more
        Other columns of `read_measurements`: ``precision``, ``kv``.

    Raises
    ------
    RequestsFailed
        If a request failed.
    ValueError
        If no cell can be used, the server counts no tokens, or a name is unknown.
    """
    import pandas as pd

    cells = cells_of(traces)
    usable = [cell for cell in cells if cell.startswith("closed@") and cell.endswith("/cold")]
    if not usable:
        raise ValueError(
            "no closed loop with a cold cache among the traces; "
            "measure one: LoadSettings(concurrency=(1,))"
        )
    if left := len(cells) - len(usable):
        log.info("%d cells are no closed loops with a cold cache, and give no rows", left)
    shared = {"version": engine, "model": model, "gpu": gpu, "n_gpus": gpus}
    shared |= {"source": "measured here", **more}
    rows = [row | shared for cell in usable for row in _server_cell(cell, cells[cell])]
    get_architecture(model), get_hardware(gpu)  # an unknown name is said now, not at the fit
    read_measurements(rows)
    return pd.DataFrame(rows)


def _server_cell(cell: str, traces: list[Trace]) -> list[dict[str, Any]]:
    summed = summarise(traces, refuse_failures=True).table.iloc[0]
    middle = request_table(traces)[["prompt_tokens", "completion_tokens", "ttft", "tpot"]].median()
    if math.isnan(middle["prompt_tokens"]) or not summed["told"]:
        raise ValueError(f"{cell}: the server does not count tokens, so its times are of no use")
    at_once = int(cell.removeprefix("closed@").removesuffix("/cold"))
    about = {"isl": round(middle["prompt_tokens"]), "osl": round(middle["completion_tokens"])}
    about["concurrency"] = at_once
    if at_once > 1:
        rate = float(summed["steady_tokens_out_per_s"])
        about |= {"metric": "output_throughput_total", "value": rate, "unit": "tok/s"}
        return [about | {"batching": "continuous"}]
    about |= {"unit": "s", "batching": "static"}
    times = {name: float(middle[name]) for name in ("ttft", "tpot") if middle[name] > 0}
    return [about | {"metric": name, "value": value} for name, value in times.items()]


# A GPU, measured with a truncated model


@dataclass(frozen=True, slots=True)
class MeasuredGpu:
    """A GPU that was measured with `negfail_nb.speed.gpu`.

    A truncated model is a model of its own, with few layers: the analytic model predicts it as it
    stands, and numbers fitted on it hold for the whole. No engine is in them: scheduler, sampling
    and batching have to be measured on a server.
    """

    hardware: Hardware  # of the table, else with the rates that it was measured to reach
    measurements: tuple[Measurement, ...]  # of truncated models: fit efficiencies to these
    whole: tuple[Measurement, ...]  # of whole models by layer count: points beside a line
    rows: tuple[Mapping[str, Any], ...]  # as they were measured, those left out included
    finished: bool  # whether the run came to its end
    date: str = ""  # of the measurement; empty: of a version that did not note it

    def __repr__(self) -> str:
        done = len(self.measurements)
        left = len(self.rows) - done
        return f"MeasuredGpu({self.hardware.name}, {done} cells measured, {left} left out)"


def read_gpu(source: str | Path | Mapping[str, Any]) -> MeasuredGpu:
    """Read the JSON of ``python -m negfail_nb.speed.gpu``, or what `measure_gpu` returned.

    Raises
    ------
    ValueError
        If it is none, or of another schema.
    """
    name = "the measured GPU"
    found = source
    if not isinstance(source, Mapping):
        name = str(source)
        try:
            found = json.loads(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{name} cannot be read as a JSON file: {error}") from error
    schema = found.get("schema") if isinstance(found, Mapping) else None
    if schema not in (GPU_SCHEMA, OLD_SCHEMA):
        raise ValueError(
            f"{name}: schema is {schema!r}, and this version reads {GPU_SCHEMA!r}; give what "
            "python -m negfail_nb.speed.gpu wrote, or measure again"
        )
    try:
        hardware = _gpu(found["card" if schema == OLD_SCHEMA else "gpu"], found["rates"])
        rows = [row for row in found["rows"] if "seconds" in row]
        truncated, whole = (
            tuple(_gpu_row(row, found["shapes"], hardware, whole) for row in rows)
            for whole in (False, True)
        )
        every = tuple(found["rows"])
        finished = bool(found["finished"])
        return MeasuredGpu(hardware, truncated, whole, every, finished, str(found.get("date", "")))
    except (KeyError, TypeError, AttributeError) as error:
        text = f"{name} lacks what a measured GPU has ({error!r})"
        raise ValueError(f"{text}; measure again") from error


def _gpu(gpu: Mapping[str, Any], rates: Mapping[str, Any]) -> Hardware:
    try:
        known = get_hardware(gpu["name"])
    except ValueError:
        known = Hardware(
            name=gpu["name"],
            # A CPU that is measured in 32 bits computes everything in these.
            bf16_tflops=rates.get("bf16_tflops") or rates["fp32_tflops"],
            fp8_tflops=rates.get("fp8_tflops", 0.0),
            memory_gbs=rates["copy_gbs"],
            source="measured: square matrices, and a copy",
        )
    return replace(known, memory_gib=float(gpu["memory_gib"]), usable=1.0, reserve_gib=0.0)


def _gpu_row(
    row: Mapping[str, Any], shapes: Mapping[str, Any], hardware: Hardware, whole: bool
) -> Measurement:
    shape = Architecture(**shapes[row["model"]])
    engine = "truncated model on one GPU"
    if whole:
        engine += f", x {row['of_layers']} layers"
    else:
        shape = replace(shape, window=_UNBOUNDED)
        if row["layers"] < shape.layers:
            name = f"{shape.name}, {row['layers']} layers"
            shape = replace(shape, layers=row["layers"], name=name)
    decode = row["phase"] == "decode"  # one step, with the new token at the end of the context
    workload = Workload(
        input_tokens=max(1, row["tokens"] - 1) if decode else row["tokens"],
        output_tokens=2 if decode else 1,
        batch=row["batch"],
        weights=row["precision"],
        kv="fp32" if row["precision"] == "fp32" else "bf16",
    )
    metric = "tpot_seconds" if decode else "ttft_seconds"
    seconds = row["whole_seconds" if whole else "seconds"]
    return Measurement(shape, hardware, workload, metric, seconds, engine, "measured here")


def gpu_table(gpu: MeasuredGpu, efficiencies: Mapping[str, Efficiencies]) -> pd.DataFrame:
    """Return what was measured beside what is predicted, by names of efficiencies, such as
    ``{"before": Efficiencies(), "fitted": calibrate(gpu.measurements)}``.

    Returns
    -------
    pandas.DataFrame
        One row per cell and ``source`` (``"measured"``, or a name of ``efficiencies``): ``model``,
        ``layers``, ``weights``, ``phase``, ``tokens``, ``batch``, ``asked``, ``seconds``, ``low``,
        ``high`` (quartiles of it), and ``error``, relative and signed.
    """
    import pandas as pd

    lines = []
    rows = [row for row in gpu.rows if "seconds" in row]
    for row, measurement in zip(rows, gpu.measurements, strict=True):
        lines.append(row | {"weights": row["precision"], "source": "measured"})
        for name, reached in efficiencies.items():
            seconds = predicted(measurement, reached)
            found = {"seconds": seconds, "error": seconds / measurement.value - 1}
            lines.append(lines[-1] | found | {"source": name, "low": math.nan, "high": math.nan})
    columns = "model layers weights phase tokens batch asked source seconds low high error".split()
    return pd.DataFrame(lines, columns=columns)
