"""Time and throughput against the length of the context, beside a pipeline that retrieves:
predicted, and measured; and the length at which both take the same time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.efficiencies import PRIORS, SHARES, Efficiencies
from negfail_nb.speed.hardware import Hardware, get_hardware
from negfail_nb.speed.measurements import Measurement
from negfail_nb.speed.roofline import DoesNotFit, Workload, predict

if TYPE_CHECKING:
    import pandas as pd


LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
ALONE = ("ttft_seconds", "e2e_seconds")
LOADED = ("input_tokens_per_second", "output_tokens_per_second", "requests_per_second")
SPEEDS = (*ALONE, *LOADED)  # all of them are names of `Prediction`
LONG = "long context"
CACHED = "long context, cached"
PIPELINE = "retrieval"
# Of the efficiencies: an interval of 95 % from so many is stable to about a tenth of its width.
DRAWS = 60
TAIL = 0.025

log = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The shortest prompt whose one call takes as long as the pipeline, with its 95 % interval."""

    tokens: int | None  # None: the longest prompt that can be served takes less
    low: int | None
    high: int | None


def pipeline_workload(
    steps: int = 3,
    passages: int = 5,
    passage_tokens: int = 132,
    question_tokens: int = 200,
    **served: Any,
) -> Workload:
    """Return the calls of a pipeline that retrieves, reads and retrieves again.

    Parameters
    ----------
    steps, passages
        Calls, each waiting for the one before, and passages that each finds.
    passage_tokens, question_tokens
        Per passage (132: the mean of HotpotQA's), and of instructions and question.
    served
        Other fields of `Workload`: ``output_tokens``, ``tensor_parallel``, ``weights``.
    """
    found = passages * passage_tokens
    return Workload(input_tokens=question_tokens + found, calls=steps, added_tokens=found, **served)


def break_even(
    architecture: Architecture | str,
    hardware: Hardware | str,
    pipeline: Workload,
    efficiencies: Efficiencies = Efficiencies(),
    tool_seconds: float = 0.0,
) -> BreakEven:
    """Return the prompt length from which one call takes as long as a pipeline, for one request
    alone; its interval is over drawn efficiencies.

    Parameters
    ----------
    architecture, hardware, efficiencies
        As `predict` takes them.
    pipeline
        The dependent calls, as of `pipeline_workload`. The long call has its answer length,
        precision and GPUs, and no cached prefix.
    tool_seconds
        Time of all retrievals of the pipeline together.

    Raises
    ------
    DoesNotFit
        If the pipeline itself does not fit.
    """
    asked = get_architecture(architecture), get_hardware(hardware), replace(pipeline, batch=1)
    tokens = break_even_tokens(*asked, efficiencies, tool_seconds)
    drawn = [break_even_tokens(*asked, e, tool_seconds) for e in _drawn(efficiencies)]
    ordered = sorted(math.inf if found is None else found for found in drawn)
    low, high = (ordered[round(share * (DRAWS - 1))] for share in (TAIL, 1 - TAIL))
    return BreakEven(tokens, *(None if math.isinf(end) else int(end) for end in (low, high)))


def break_even_tokens(
    architecture: Architecture | str,
    hardware: Hardware | str,
    pipeline: Workload,
    efficiencies: Efficiencies = Efficiencies(),
    tool_seconds: float = 0.0,
) -> int | None:
    """Return the tokens of `break_even` alone; None if the longest prompt takes less."""
    architecture = get_architecture(architecture)
    hardware = get_hardware(hardware)
    budget = predict(architecture, hardware, pipeline, efficiencies).e2e_seconds + tool_seconds
    once = replace(pipeline, calls=1, added_tokens=0, cached_tokens=0)

    def seconds(tokens: int) -> float:
        try:
            work = replace(once, input_tokens=tokens)
            return predict(architecture, hardware, work, efficiencies).e2e_seconds
        except DoesNotFit:
            return math.inf

    low = 1
    high = architecture.window - pipeline.output_tokens
    if seconds(high) < budget:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if seconds(middle) >= budget else (middle + 1, high)
    return low if math.isfinite(seconds(low)) else None


def speed_table(
    architecture: Architecture | str,
    hardware: Hardware | str,
    lengths: Sequence[int] = LENGTHS,
    pipeline: Workload | None = None,
    efficiencies: Efficiencies = Efficiencies(),
    tool_seconds: float = 0.0,
    load: int = 0,
    measured: Sequence[Measurement] = (),
) -> pd.DataFrame:
    """Return what is predicted for each length of the context and for the pipeline, and what was
    measured.

    Times are those of one request alone; throughput is that of ``load`` requests at once.

    Parameters
    ----------
    architecture, hardware, efficiencies
        As `predict` takes them; fit the last with `calibrate`.
    lengths
        Tokens of prompt and answer together: a window of 131,072 holds a length of 131,072.
    pipeline
        The dependent calls; ``None``: `pipeline_workload`, on one GPU. Long contexts have its
        answer length, precision and number of GPUs.
    tool_seconds
        All retrievals of one question together; they add to times, and keep no GPU busy.
    load
        Sequences at once; 0: as many as fit.
    measured
        Rows of `read_measurements`; those of another model, GPU, precision or load are left out.

    Returns
    -------
    pandas.DataFrame
        ``kind`` (`LONG`, `CACHED`: all but the last 200 tokens in the prefix cache, `PIPELINE`),
        ``source`` (``"predicted"`` or ``"measured"``), ``length`` (of the pipeline: its longest),
        ``calls``, ``batch`` (sequences at once under load); each of `SPEEDS` with the 95 %
        interval that the efficiencies leave, ``_low`` and ``_high``; ``note``: why there is none.

    Raises
    ------
    ValueError
        For an unknown name, no lengths, or a length that has no room for the answer.
    """
    import pandas as pd

    architecture = get_architecture(architecture)
    hardware = get_hardware(hardware)
    pipeline = pipeline or pipeline_workload()
    if not len(lengths):
        raise ValueError("lengths is empty; give some, such as (4096, 131072)")
    if min(lengths) <= pipeline.output_tokens:
        raise ValueError(
            f"a length of {min(lengths)} tokens has no room for an answer of "
            f"{pipeline.output_tokens}; a length is that of prompt and answer together, so use a "
            "longer one"
        )
    draws = [efficiencies, *_drawn(efficiencies)]

    def row(kind: str, length: int, workload: Workload, tools: float = 0.0) -> dict[str, Any]:
        about = {"kind": kind, "source": "predicted", "length": length, "calls": workload.calls}
        try:
            return about | _speeds(architecture, hardware, workload, draws, load, tools)
        except DoesNotFit as error:
            return about | {"note": str(error)}

    rows = []
    for length in sorted(lengths):
        tokens = length - pipeline.output_tokens
        once = replace(pipeline, input_tokens=tokens, calls=1, added_tokens=0, cached_tokens=0)
        rows.append(row(LONG, length, once))
        rows.append(row(CACHED, length, replace(once, cached_tokens=max(0, tokens - 200))))
    longest = pipeline.prompts()[-1][0] + pipeline.output_tokens
    rows.append(row(PIPELINE, longest, pipeline, tool_seconds))
    rows += _measured(architecture, hardware, pipeline, measured)
    numbers = ["batch", *(f"{name}{end}" for name in SPEEDS for end in ("", "_low", "_high"))]
    columns = ["kind", "source", "length", "calls", *numbers, "note"]
    return pd.DataFrame(rows).reindex(columns=columns).astype(dict.fromkeys(numbers, float))


def _speeds(
    architecture: Architecture,
    hardware: Hardware,
    workload: Workload,
    efficiencies: Sequence[Efficiencies],
    load: int,
    tools: float,
) -> dict[str, Any]:
    """Every speed with its interval; the first of the efficiencies gives the value."""
    single = replace(workload, batch=1)
    busy = replace(workload, batch=load, batching="continuous")
    drawn = []
    for reached in efficiencies:
        alone = predict(architecture, hardware, single, reached)
        loaded = predict(architecture, hardware, busy, reached)
        times = [getattr(alone, name) + tools for name in ALONE]
        drawn.append(times + [getattr(loaded, name) for name in LOADED])
    low, high = np.quantile(drawn[1:], (TAIL, 1 - TAIL), axis=0)
    found: dict[str, Any] = {"batch": loaded.batch, "note": ""}
    for name, *ends in zip(SPEEDS, drawn[0], low, high, strict=True):
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), map(float, ends), strict=True))
    return found


def _drawn(efficiencies: Efficiencies) -> Iterator[Efficiencies]:
    """Draw efficiencies: log-normal, within their intervals or, if not fitted, their priors."""
    rng = np.random.default_rng(0)
    spreads = {name: prior.spread for name, prior in PRIORS.items()}
    for e in efficiencies.estimates:
        if 0 < e.low < e.value:
            spreads[e.name] = math.log(e.value / e.low) / 1.96
    for _ in range(DRAWS):
        values = {
            name: getattr(efficiencies, name) * math.exp(rng.normal(0, spreads[name]))
            for name in PRIORS
        }
        yield replace(efficiencies, **values | {name: min(values[name], 1.0) for name in SHARES})


def _measured(
    architecture: Architecture,
    hardware: Hardware,
    pipeline: Workload,
    measured: Sequence[Measurement],
) -> list[dict[str, Any]]:
    """Return the rows of the same model, GPUs and precision."""
    rows = []
    wanted = (architecture.name, hardware.name, pipeline.tensor_parallel, pipeline.weights)
    for point in measured:
        work = point.workload
        about = (point.architecture.name, point.hardware.name, work.tensor_parallel, work.weights)
        timed = point.metric in ALONE and work.batch == 1
        loaded = point.metric in LOADED and point.saturated
        if about == wanted and (timed or loaded):
            note = f"{point.engine} {point.source}".strip()
            length = work.input_tokens + work.output_tokens
            row = {"kind": LONG, "source": "measured", "length": length, "calls": 1, "note": note}
            rows.append(row | {point.metric: point.value})
    if left := len(measured) - len(rows):
        text = "%d of %d measured rows are of another model, GPU or load, and left out"
        log.warning(text, left, len(measured))
    return rows
