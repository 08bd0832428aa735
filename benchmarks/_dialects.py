"""The same traces under the names, and by the definitions, of vLLM's, guidellm's and AIPerf's
load generators.

They mean different things by one name, so a number of theirs is comparable with the one here of
that tool only:

- vLLM takes the first chunk with choices for the first token, also one that only names the role.
  Its ITL is a gap between chunks.
- guidellm's ``time_per_output_token_ms`` includes the time to the first token. Its
  ``inter_token_latency_ms`` is vLLM's TPOT; both count each token once, so that long replies weigh
  more.
- AIPerf's ITL is a request's TPOT, and vLLM's ITL its ICL.

All three start at sending, not when the request was due, and leave failed requests out of every
latency. Written after vllm bench serve (main of 2026), guidellm 0.8.1 and AIPerf 0.13.0, AIPerf
with the server's token counts. What they show per token needs the server to count tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from negfail_nb.speed.metrics import cells_of, gaps, tokens_out
from negfail_nb.speed.traces import Trace

if TYPE_CHECKING:
    import pandas as pd

TOOLS = ("vllm", "guidellm", "aiperf")
# Values of a request, each with how much it weighs.
Weighed = list[tuple[float, float]]


def dialects(traces: Iterable[Trace]) -> pd.DataFrame:
    """Return what each tool would show for the measured traces.

    Returns
    -------
    pandas.DataFrame
        One row per ``cell``, ``tool``, ``name`` and ``statistic``: ``value`` and ``unit``.
        Statistics are ``mean``, ``p50``, ``p90``, ``p95`` and ``p99``, or ``rate`` and ``count``
        for what is one number per cell; NaN if nothing can be said.
    """
    import pandas as pd

    rows = []
    for cell, found in cells_of(traces).items():
        good = [trace for trace in found if trace.ok]
        seconds = max(t.ended for t in found) - min(t.sent for t in found)
        for tool, named in (("vllm", _vllm), ("guidellm", _guidellm), ("aiperf", _aiperf)):
            for name, unit, scale, of_request in named():
                weighed = [pair for trace in good for pair in of_request(trace)]
                rows += [
                    (cell, tool, name, s, scale * value, unit) for s, value in _statistics(weighed)
                ]
            rows += [
                (cell, tool, name, *rest)
                for name, *rest in _rates(tool, good, len(found) - len(good), seconds)
            ]
    return pd.DataFrame(rows, columns=["cell", "tool", "name", "statistic", "value", "unit"])


Named = list[tuple[str, str, float, Callable[[Trace], Weighed]]]


def _vllm() -> Named:
    return [
        ("ttft_ms", "ms", 1e3, lambda t: _one(_vllm_first(t) - t.sent)),
        ("tpot_ms", "ms", 1e3, _vllm_tpot),
        (
            "itl_ms",
            "ms",
            1e3,
            lambda t: [(gap, 1.0) for gap in _differences([c.time for c in t.chunks if c.choices])],
        ),
        ("e2el_ms", "ms", 1e3, lambda t: _one(_vllm_last(t) - t.sent)),
    ]


def _guidellm() -> Named:
    return [
        ("time_to_first_token_ms", "ms", 1e3, lambda t: _one(t.spoken[0].time - t.sent)),
        ("inter_token_latency_ms", "ms", 1e3, lambda t: _tpot(t, weigh=True)),
        ("time_per_output_token_ms", "ms", 1e3, _guidellm_per_token),
        ("request_latency", "s", 1.0, lambda t: _one(t.ended - t.sent)),
    ]


def _aiperf() -> Named:
    return [
        ("time_to_first_token", "ms", 1e3, lambda t: _one(t.spoken[0].time - t.sent)),
        ("time_to_second_token", "ms", 1e3, lambda t: [(gap, 1.0) for gap in gaps(t)[:1]]),
        ("inter_token_latency", "ms", 1e3, _aiperf_itl),
        ("inter_chunk_latency", "ms", 1e3, lambda t: [(gap, 1.0) for gap in gaps(t)]),
        ("request_latency", "ms", 1e3, lambda t: _one(t.spoken[-1].time - t.sent)),
        ("output_sequence_length", "tokens", 1.0, lambda t: _one(tokens_out(t))),
    ]


def _rates(
    tool: str, good: Sequence[Trace], failed: int, seconds: float
) -> list[tuple[str, str, float, str]]:
    """Return rates over a cell: its name, statistic, value and unit."""
    names = {
        "vllm": (
            "request_throughput",
            "output_throughput",
            "total_token_throughput",
            "completed",
            "failed",
        ),
        "guidellm": (
            "requests_per_second",
            "output_tokens_per_second",
            "tokens_per_second",
            "successful",
            "errored",
        ),
        "aiperf": (
            *("request_throughput", "output_token_throughput", "total_token_throughput"),
            *("request_count", "error_request_count"),
        ),
    }[tool]
    out = sum(tokens_out(trace) for trace in good)
    told = [trace.prompt_tokens for trace in good]
    total = out + sum(told) if None not in told else math.nan
    per_second = [count / seconds if seconds > 0 else math.nan for count in (len(good), out, total)]
    units = ("requests/s", "tokens/s", "tokens/s")
    rates = [(n, "rate", v, u) for n, v, u in zip(names[:3], per_second, units, strict=True)]
    return rates + [
        (n, "count", float(v), "requests")
        for n, v in zip(names[3:], (len(good), failed), strict=True)
    ]


def _statistics(weighed: Weighed) -> list[tuple[str, float]]:
    """Return mean and quantiles; between two values as numpy's default does where all weigh alike,
    as the tools do.
    """
    import numpy as np

    names = ("mean", "p50", "p90", "p95", "p99")
    if not weighed:
        return [(name, math.nan) for name in names]
    values, weights = np.array(weighed, dtype=float).T
    quantiles = (0.5, 0.9, 0.95, 0.99)
    if (weights == weights[0]).all():
        found = np.quantile(values, quantiles)
    else:
        found = np.quantile(values, quantiles, weights=weights, method="inverted_cdf")
    return list(
        zip(names, [float(np.average(values, weights=weights)), *map(float, found)], strict=True)
    )


def _one(value: float) -> Weighed:
    return [(value, 1.0)]


def _differences(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


def _tpot(trace: Trace, weigh: bool = False) -> Weighed:
    later, spoken = tokens_out(trace) - 1, trace.spoken
    return (
        [((spoken[-1].time - spoken[0].time) / later, float(later) if weigh else 1.0)]
        if later > 0
        else []
    )


def _guidellm_per_token(trace: Trace) -> Weighed:
    count = tokens_out(trace)
    return [((trace.spoken[-1].time - trace.sent) / count, float(count))] if count else []


def _aiperf_itl(trace: Trace) -> Weighed:
    # Without --per-chunk-usage, which is its default, the first chunk counts as one token.
    return _tpot(trace)


def _vllm_first(trace: Trace) -> float:
    return next(chunk.time for chunk in trace.chunks if chunk.choices)


def _vllm_last(trace: Trace) -> float:
    return max(chunk.time for chunk in trace.chunks if chunk.choices)


def _vllm_tpot(trace: Trace) -> Weighed:
    later = tokens_out(trace) - 1
    return _one((_vllm_last(trace) - _vllm_first(trace)) / later) if later > 0 else []
