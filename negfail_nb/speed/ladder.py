"""Time and throughput against the length of the context, beside a pipeline that retrieves:
predicted, and measured.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.breakeven import break_even_tokens
from negfail_nb.speed.calibration import SHARES
from negfail_nb.speed.efficiencies import PRIORS, Efficiencies
from negfail_nb.speed.hardware import Hardware, get_hardware
from negfail_nb.speed.published import Measurement
from negfail_nb.speed.roofline import DoesNotFit, Prediction, predict
from negfail_nb.speed.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LENGTHS", "SPEEDS", "BreakEven", "break_even", "pipeline_workload", "speed_table"]

LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
ALONE = ("ttft_seconds", "e2e_seconds")
LOADED = ("input_tokens_per_second", "output_tokens_per_second", "requests_per_second")
SPEEDS = (*ALONE, *LOADED)
LONG, CACHED, PIPELINE = "long context", "long context, cached", "retrieval"
DRAWS = 60  # of the efficiencies: an interval of 95 % from so many is stable to about a tenth of its width
TAIL = 0.025

log = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The shortest prompt whose one call takes as long as the pipeline, with its 95 % interval.

    ``None``: the longest prompt that can be served takes less; as ``high``, more than 2.5 % of the
    draws say so.
    """

    tokens: int | None
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
    passage_tokens
        Of one passage; 132 is the mean of HotpotQA's.
    question_tokens
        Instructions and question, in the first prompt.
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
    seed: int = 0,
) -> BreakEven:
    """Return `break_even_tokens` of one request alone, with its interval: efficiencies are drawn
    from their own.

    Raises
    ------
    DoesNotFit
        Where the pipeline itself does not fit.
    """
    pipeline = replace(pipeline, batch=1)
    tokens = break_even_tokens(architecture, hardware, pipeline, efficiencies, tool_seconds)
    drawn = (
        break_even_tokens(architecture, hardware, pipeline, e, tool_seconds)
        for e in _drawn(efficiencies, seed)
    )
    ordered = sorted(math.inf if found is None else found for found in drawn)
    low, high = (ordered[round(share * (DRAWS - 1))] for share in (TAIL, 1 - TAIL))
    return BreakEven(tokens, *(None if math.isinf(end) else int(end) for end in (low, high)))


def speed_table(
    architecture: Architecture | str,
    hardware: Hardware | str,
    lengths: Sequence[int] = LENGTHS,
    pipeline: Workload | None = None,
    efficiencies: Efficiencies = Efficiencies(),
    tool_seconds: float = 0.0,
    load: int = 0,
    measured: Sequence[Measurement] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Return what is predicted for each length of the context and for the pipeline, and what was
    measured.

    Time is that of one request alone; throughput is that of ``load`` requests at a time.

    Parameters
    ----------
    architecture, hardware
        By name, or as records.
    lengths
        Tokens of prompt and answer together, so that a window of 131,072 holds a length of 131,072.
    pipeline
        The dependent calls; ``None``: those of `pipeline_workload`, on one GPU. Long contexts have
        its answer length, precision and number of GPUs.
    efficiencies
        What the engine reaches; fit them with `calibrate`.
    tool_seconds
        All retrievals of one question together; they add to times, and keep no GPU busy.
    load
        Sequences at a time; 0: as many as fit.
    measured
        Rows of `read_measurements`. Those of another model, GPU, number of GPUs or precision, and
        those of more than one sequence at a time (times) or fewer than fit (throughput), are
        counted in the log and left out.
    seed
        Of the draws of efficiencies.

    Returns
    -------
    pandas.DataFrame
        ``kind`` (long context, the same with all but the last 200 tokens in the prefix cache,
        retrieval), ``source`` (``"predicted"`` or ``"measured"``), ``length`` (of the pipeline: its
        longest), ``calls``, ``batch`` (sequences at a time under load); ``ttft_seconds``,
        ``e2e_seconds``, ``input_tokens_per_second``, ``output_tokens_per_second`` and
        ``requests_per_second``, each with the 95 % interval that the efficiencies leave, ``_low``
        and ``_high``; ``note``: why there is no number.

    Raises
    ------
    ValueError
        For an unknown name, no lengths, or a length that has no room for the answer.
    """
    import pandas as pd

    architecture = get_architecture(architecture) if isinstance(architecture, str) else architecture
    hardware = get_hardware(hardware) if isinstance(hardware, str) else hardware
    pipeline = pipeline or pipeline_workload()
    _check(lengths, pipeline)
    draws = _drawn(efficiencies, seed)

    def row(kind: str, length: int, workload: Workload, tools: float = 0.0) -> dict[str, Any]:
        about = {"kind": kind, "source": "predicted", "length": length, "calls": workload.calls}
        try:
            found = _speeds(architecture, hardware, workload, [efficiencies, *draws], load, tools)
        except DoesNotFit as error:
            return about | {"note": str(error)}
        return about | found | {"note": ""}

    rows = []
    for length in sorted(lengths):
        tokens = length - pipeline.output_tokens
        once = replace(pipeline, input_tokens=tokens, calls=1, added_tokens=0, cached_tokens=0)
        rows.append(row(LONG, length, once))
        rows.append(row(CACHED, length, replace(once, cached_tokens=max(0, tokens - 200))))
    rows.append(
        row(PIPELINE, pipeline.prompts()[-1][0] + pipeline.output_tokens, pipeline, tool_seconds)
    )
    rows += _measured(architecture, hardware, pipeline, measured)
    ends = [f"{name}{end}" for name in SPEEDS for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows).reindex(
        columns=["kind", "source", "length", "calls", "batch", *ends, "note"]
    )
    return table.astype(dict.fromkeys(["batch", *ends], float))


def _check(lengths: Sequence[int], pipeline: Workload) -> None:
    if not len(lengths):
        raise ValueError("lengths is empty; give some, such as (4096, 131072)")
    if min(lengths) <= pipeline.output_tokens:
        raise ValueError(
            f"a length of {min(lengths)} tokens has no room for an answer of {pipeline.output_tokens}; "
            "a length is that of prompt and answer together, so use a longer one"
        )


def _speeds(
    architecture: Architecture,
    hardware: Hardware,
    workload: Workload,
    efficiencies: Sequence[Efficiencies],
    load: int,
    tools: float,
) -> dict[str, float]:
    """Every speed with its interval; the first of the efficiencies gives the value."""
    import numpy as np

    busy = replace(workload, batch=load, batching="continuous")

    def numbers(e: Efficiencies) -> list[float]:
        alone = predict(architecture, hardware, replace(workload, batch=1), e)
        loaded = predict(architecture, hardware, busy, e)
        times = [getattr(alone, name) + tools for name in ALONE]
        return times + [
            loaded.input_tokens_per_second,
            loaded.output_tokens_per_second,
            _requests(loaded),
        ]

    values, *drawn = [numbers(e) for e in efficiencies]
    low, high = np.quantile(drawn, (TAIL, 1 - TAIL), axis=0)
    found: dict[str, float] = {"batch": predict(architecture, hardware, busy).batch}
    for name, *ends in zip(SPEEDS, values, low, high, strict=True):
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), map(float, ends), strict=True))
    return found


def _requests(loaded: Prediction) -> float:
    """Whole questions a second, all their calls included."""
    return loaded.batch / loaded.e2e_seconds


def _drawn(efficiencies: Efficiencies, seed: int) -> list[Efficiencies]:
    """Efficiencies as they may be: log-normal within their intervals, or within the priors where
    nothing was fitted.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    spreads = {name: prior.spread for name, prior in PRIORS.items()}
    spreads |= {
        e.name: math.log(e.value / e.low) / 1.96
        for e in efficiencies.estimates
        if 0 < e.low < e.value
    }
    drawn = []
    for _ in range(DRAWS):
        values = {
            name: getattr(efficiencies, name) * math.exp(rng.normal(0, spreads[name]))
            for name in PRIORS
        }
        drawn.append(
            replace(efficiencies, **values | {name: min(values[name], 1.0) for name in SHARES})
        )
    return drawn


def _measured(
    architecture: Architecture,
    hardware: Hardware,
    pipeline: Workload,
    measured: Sequence[Measurement],
) -> list[dict[str, Any]]:
    """Rows of the same model, GPUs and precision."""
    rows = []
    for point in measured:
        work = point.workload
        same = (point.architecture.name, point.hardware.name) == (architecture.name, hardware.name)
        same &= (work.tensor_parallel, work.weights) == (pipeline.tensor_parallel, pipeline.weights)
        timed = point.metric in ALONE and work.batch == 1
        loaded = point.metric in LOADED and point.saturated
        if same and (timed or loaded):
            length = work.input_tokens + work.output_tokens
            about = {"kind": LONG, "source": "measured", "length": length, "calls": 1}
            rows.append(
                about
                | {point.metric: point.value, "note": f"{point.engine} {point.source}".strip()}
            )
    if left := len(measured) - len(rows):
        log.warning(
            "%d of %d measured rows are of another model, GPU or load, and left out",
            left,
            len(measured),
        )
    return rows
