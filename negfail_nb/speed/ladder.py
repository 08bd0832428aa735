"""Time and throughput against the length of the context, beside a pipeline that retrieves:
predicted, and measured; and the length at which both take the same time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.bands import half_width
from negfail_nb.speed.efficiencies import Efficiencies, Many
from negfail_nb.speed.hardware import Hardware, get_hardware
from negfail_nb.speed.roofline import prepare
from negfail_nb.speed.rows import Measurement
from negfail_nb.speed.workload import DoesNotFit, Workload, capacity

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
    found = _evens(*asked, efficiencies.drawn(DRAWS), tool_seconds)
    ordered = np.sort(found[1:])
    low, high = (ordered[round(share * (DRAWS - 1))] for share in (TAIL, 1 - TAIL))
    return BreakEven(*(None if math.isinf(end) else int(end) for end in (found[0], low, high)))


def break_even_tokens(
    architecture: Architecture | str,
    hardware: Hardware | str,
    pipeline: Workload,
    efficiencies: Efficiencies = Efficiencies(),
    tool_seconds: float = 0.0,
) -> int | None:
    """Return the tokens of `break_even` alone; None if the longest prompt takes less."""
    asked = get_architecture(architecture), get_hardware(hardware), pipeline
    found = _evens(*asked, efficiencies.drawn(0), tool_seconds)[0]
    return None if math.isinf(found) else int(found)


def _evens(
    model: Architecture, gpu: Hardware, pipeline: Workload, reached: Many, tool_seconds: float
) -> np.ndarray:
    """Return the tokens from which one call takes as long, for each of many efficiencies; infinite:
    the longest prompt that can be served takes less.
    """
    count = len(reached.compute)
    steps = prepare([(model, gpu, pipeline)]).repeated(count)
    budget = steps.metrics(steps.timed(reached))["e2e_seconds"] + tool_seconds
    once = replace(pipeline, calls=1, added_tokens=0, cached_tokens=0)
    calls = prepare([(model, gpu, replace(once, input_tokens=1))]).repeated(count)

    def takes_less(tokens: np.ndarray) -> np.ndarray:
        asked = calls.asked._replace(tokens=tokens.astype(float))
        if once.chunk_tokens:
            asked = asked._replace(pieces=np.ceil(tokens / once.chunk_tokens))
        now = calls._replace(asked=asked)
        return now.metrics(now.timed(reached))["e2e_seconds"] < budget

    longest = _longest(model, gpu, once)
    low, high = np.ones(count, int), np.full(count, longest)
    never = takes_less(high)
    while (low < high).any():
        middle = (low + high) // 2
        less = takes_less(middle)
        low, high = np.where(less, np.minimum(middle + 1, high), low), np.where(less, high, middle)
    return np.where(never, math.inf, low)


def _longest(model: Architecture, gpu: Hardware, once: Workload) -> int:
    """Return the tokens of the longest prompt that can be served."""

    def served(tokens: int) -> bool:
        try:
            return capacity(model, gpu, replace(once, input_tokens=tokens))[0] >= 1
        except DoesNotFit:
            return False

    low, high = 1, max(1, model.window - once.output_tokens)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if served(middle) else (low, middle - 1)
    return low


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
    draws = efficiencies.drawn(DRAWS)

    def row(kind: str, length: int, workload: Workload, tools: float = 0.0) -> dict[str, Any]:
        about = {"kind": kind, "source": "predicted", "length": length, "calls": workload.calls}
        try:
            work = workload, efficiencies, draws, load, tools
            return about | _speeds(architecture, hardware, *work)
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
    efficiencies: Efficiencies,
    draws: Many,
    load: int,
    tools: float,
) -> dict[str, Any]:
    """Every speed with its interval: what efficiencies leave, and how far unseen rows are off."""
    single = replace(workload, batch=1)
    busy = replace(workload, batch=load, batching="continuous")
    fit, _ = capacity(architecture, hardware, busy)
    found: dict[str, Any] = {"batch": load or min(fit, busy.max_batch), "note": ""}
    for work, names, more in ((single, ALONE, tools), (busy, LOADED, 0.0)):
        many = prepare([(architecture, hardware, work)]).repeated(len(draws.compute))
        speeds = many.metrics(many.timed(draws))
        for name in names:
            value, drawn = speeds[name][0] + more, speeds[name][1:] + more
            low, high = np.quantile(drawn, (TAIL, 1 - TAIL))
            half = half_width(name, hardware, efficiencies)
            below, above = (math.hypot(math.log(end / value), half) for end in (low, high))
            ends = value * math.exp(-below), value * math.exp(above)
            found |= {name: float(value), f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return found


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
