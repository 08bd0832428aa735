"""Rows of measured speeds: published ones, or the user's own, as they stand in tables.

Columns: ``version`` (engine and its version), ``model``, ``gpu``, ``n_gpus``, ``isl``, ``osl``,
``concurrency`` (a number, or text that starts with ``max``: as many as fit, or as the first number
in it says), ``metric``, ``value``, ``unit``. Optional: ``precision`` (of weights; default bf16),
``kv`` (default: fp8 with weights of 8 or 4 floating bits, but with vLLM and SGLang bf16), ``pp``
(stages of a pipeline among the GPUs), ``usable`` (share of memory that the engine takes),
``max_batch`` (sequences that it allows), ``batching`` (static, or continuous: one request joins
whenever one leaves), ``requests`` (of the whole run, if its beginning is measured, too),
``source``, ``notes``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import FORMATS, Hardware, Unknown, closest, get_hardware
from negfail_nb.speed.roofline import Workload, predict

NEEDED = "version model gpu n_gpus isl osl concurrency metric value unit".split()
# Names in published tables -> names of `Prediction`.
_METRICS = {
    "batch_e2e_latency": "e2e_seconds",
    "e2e": "e2e_seconds",
    "batch_ttft": "ttft_seconds",
    "ttft": "ttft_seconds",
    "tpot": "tpot_seconds",
    "itl": "tpot_seconds",
    "per_user_speed": "tpot_seconds",
    "output_throughput_total": "output_tokens_per_second",
    "output_throughput_per_gpu": "output_tokens_per_second",
    "input_throughput_total": "input_tokens_per_second",
    "total_throughput": "tokens_per_second",
    "request_throughput": "requests_per_second",
}
_OTHER_FORMATS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "4bit": "int4"}
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_MEAN = re.compile(r"_(mean|median|p50|avg)$")
_PERCENTILE = re.compile(r"_p\d+$")
# How engines were set for their published rows. TensorRT-LLM at saturation: its performance page
# raises the share of memory to 0.95 "in many cases", and says how many requests are queued, by
# tokens of prompt and answer; 2048 sequences are the default of its engines (from memory).
_AT_SATURATION = {"tensorrt-llm": {"usable": 0.95, "max_batch": 2048}}
_QUEUED = {
    (128, 128): 30000,
    (128, 2048): 3000,
    (128, 4096): 1500,
    (500, 2000): 3000,
    (1000, 1000): 3000,
    (1000, 2000): 1500,
    (2048, 128): 3000,
    (2048, 2048): 1500,
    (5000, 500): 1500,
    (20000, 2000): 1000,
}
# AIConfigurator's sample: its tool sends ten rounds, to engines that allow as many sequences as
# there are clients (both from memory). With TensorRT-LLM exactly one request waits for a place at
# every load, by Little's law of the rows of an 8B: one place less serves requests.
_SAMPLE = "aiconfigurator"
_ONE_LESS = ("trtllm", "tensorrt-llm")
# Engines that keep keys and values in 16 bits with weights of 8, if nobody asks otherwise. AMD
# publishes speeds of checkpoints that ask for 8.
_KV_16 = ("sglang", "vllm")


class Unpredictable(ValueError):
    """A row that is right, and of which the model says nothing."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured speed; ``metric`` is a name of `Prediction`, in seconds or 1/s."""

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


def predicted(measurement: Measurement, efficiencies: Efficiencies) -> float:
    """Return what the analytic model says of a measured row, with the numbers of its engine if that
    was fitted; `DoesNotFit` if it cannot be.
    """
    m = measurement
    reached = efficiencies.of(m.engine)
    return getattr(predict(m.architecture, m.hardware, m.workload, reached), m.metric)


def read_row(row: Mapping[str, Any]) -> Measurement:
    """Return one row as a measurement.

    Raises
    ------
    ValueError
        If it is wrong in itself: no unit, a value that is not above 0, an unknown metric.
    Unknown, Unpredictable
        If it is of a model, GPU or format that no table has, or of what is not predicted.
    """
    written = str(row["metric"])
    metric = _metric(written)
    value = _value(row, metric)
    hardware, weights = _gpu(row), _weights(row)
    engine = str(row["version"])
    stated = str(row["concurrency"])
    most = stated.startswith("max")
    stages = _stages(row)
    gpus = _whole(row, "n_gpus")
    loop = _looped(row, written)
    served = _served(row, engine, stated)
    workload = Workload(
        input_tokens=_tokens(row, "isl"),
        output_tokens=_tokens(row, "osl"),
        batch=0 if most else _whole(row, "concurrency"),
        tensor_parallel=gpus // stages,
        pipeline_parallel=stages,
        weights=weights,
        kv=str(row.get("kv", "")) or _kv(weights, engine.lower()),
        batching="continuous" if most or loop else str(row.get("batching", "")) or "static",
        queued=loop and not most,
        requests=served["requests"],
        max_batch=served["max_batch"],
    )
    return Measurement(
        architecture=get_architecture(str(row["model"])),
        hardware=replace(hardware, usable=served.get("usable", hardware.usable)),
        workload=workload,
        metric=metric,
        value=value,
        engine=engine,
        source=str(row.get("source", "")),
    )


def _metric(written: str) -> str:
    known = _METRICS | {name: name for name in _METRICS.values()}
    plain = _MEAN.sub("", written)
    if _PERCENTILE.sub("", plain) in known and _PERCENTILE.search(plain):
        raise Unpredictable(f"metric {written}: means are predicted, no percentiles")
    if plain not in known:
        near = closest(plain, known)
        raise ValueError(f"metric is {written!r}; {near}use one of {', '.join(sorted(known))}")
    return known[plain]


def _value(row: Mapping[str, Any], metric: str) -> float:
    """Return the value in seconds or 1/s, of all GPUs and users together."""
    unit = str(row["unit"])
    wanted = "req/s" if metric == "requests_per_second" else "tok/s"
    rates = (wanted, *(("tok/s/GPU",) if wanted == "tok/s" else ()))
    if metric.endswith("_seconds"):
        rates = ("tok/s/user",) if metric == "tpot_seconds" else ()
    allowed = (*rates, *(() if metric.endswith("_per_second") else _UNITS))
    if unit not in allowed:
        raise ValueError(f"unit of {metric} is {unit!r}; use {' or '.join(allowed)}")
    value = _number(row, "value") * _UNITS.get(unit, 1.0)
    if not value > 0:
        raise ValueError(f"value is {row['value']!r}; a measured speed is above 0")
    per_gpu = unit == "tok/s/GPU" or str(row["metric"]).endswith("_per_gpu")
    value *= _whole(row, "n_gpus") if per_gpu else 1
    return 1 / value if unit == "tok/s/user" else value


def _gpu(row: Mapping[str, Any]) -> Hardware:
    name = str(row["gpu"])
    if name.lower().startswith("unstated") or not name:
        raise Unpredictable("the hardware is not stated")
    return get_hardware(name)


def _weights(row: Mapping[str, Any]) -> str:
    """Return the format of the weights: ``fp8(assumed)`` is fp8, ``int4-awq`` int4."""
    written = str(row.get("precision", "")) or "bf16"
    plain = re.sub(r"\(.*\)|[-_](awq|gptq|block|static|dynamic)", "", written.lower()).strip()
    plain = _OTHER_FORMATS.get(plain, plain)
    if plain not in FORMATS:
        raise Unknown(f"no format {written!r}; {closest(plain, FORMATS)}known are {list(FORMATS)}")
    return plain


def _kv(weights: str, engine: str) -> str:
    wide = engine.startswith(_KV_16) and "rocm" not in engine
    return "bf16" if wide or FORMATS[weights].bits == 16 else "fp8"


def _stages(row: Mapping[str, Any]) -> int:
    notes = str(row.get("notes", ""))
    if re.search(r"\bCP\d", notes):
        raise Unpredictable("context parallelism is not predicted")
    if row.get("pp", "") != "":
        stages = _whole(row, "pp")
    else:
        stages = _whole(row, "n_gpus") if "PP=n_gpus" in notes else 1
    if _whole(row, "n_gpus") % stages:
        raise ValueError(f"pp is {stages}, which does not divide n_gpus {row['n_gpus']!r}")
    return stages


def _looped(row: Mapping[str, Any], written: str) -> bool:
    """Whether clients asked again as soon as they were answered, as means over requests tell."""
    if row.get("batching", "") != "":
        return str(row["batching"]) == "continuous"
    notes = str(row.get("notes", "")).lower().replace("-", " ")
    means = bool(_MEAN.search(written)) or written == "per_user_speed"
    return means or "closed loop" in notes or _metric(written).endswith("_per_second")


def _served(row: Mapping[str, Any], engine: str, stated: str) -> dict[str, Any]:
    """Return how the engine was set: by the row's own columns, else as known of published rows."""
    found: dict[str, Any] = {"max_batch": 1024, "requests": 0}
    if stated.startswith("max"):
        for name, known in _AT_SATURATION.items():
            if engine.lower().startswith(name):
                lengths = _tokens(row, "isl"), _tokens(row, "osl")
                found |= known | {"requests": _QUEUED.get(lengths, 0)}
        if number := re.search(r"\d+", stated):  # so many prompts, all sent at once
            found |= {"max_batch": int(number[0]), "requests": int(number[0])}
    elif _SAMPLE in str(row.get("source", "")):
        clients = _whole(row, "concurrency")
        places = clients - engine.lower().startswith(_ONE_LESS)
        found |= {"max_batch": max(1, places), "requests": 10 * clients}
    if row.get("usable", "") != "":
        found["usable"] = _number(row, "usable")
    for name in ("max_batch", "requests"):
        if row.get(name, "") != "":
            found[name] = _whole(row, name)
    return found


def _tokens(row: Mapping[str, Any], field: str) -> int:
    if re.fullmatch(r"[A-Za-z][\w -]*", str(row[field])):
        raise Unpredictable(f"lengths are those of {row[field]}, not a number")
    return _whole(row, field)


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
