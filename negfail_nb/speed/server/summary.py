"""06: what a load measurement comes to, cell by cell: rates, goodput, quantiles with intervals; and
what failed.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from negfail_nb.intervals import draw_weights, percentile_interval, weighted_quantiles
from negfail_nb.settings import EvaluateSettings
from negfail_nb.speed.server.metrics import (
    LATENCIES,
    cells_of,
    gaps,
    latencies,
    peak,
    steady_window,
    tokens_out,
    tokens_within,
    whole_window,
)
from negfail_nb.speed.server.trace import Trace

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

QUANTILES = (0.5, 0.9, 0.95, 0.99)

logger = logging.getLogger("negfail_nb")


class RequestsFailed(ValueError):
    """Requests failed, so a summary would speak of others than were asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request must keep to be a good one, in seconds."""

    ttft: float = math.inf
    tpot: float = math.inf
    e2e: float = math.inf

    def kept_by(self, trace: Trace) -> bool:
        """Whether a request succeeded and kept all of them. A reply of one token has no time a
        token to keep.
        """
        bounds = (self.ttft, self.tpot, self.e2e)
        took = zip(latencies(trace), bounds, strict=True)
        return trace.ok and not any(seconds > bound for seconds, bound in took)


@dataclass(frozen=True)
class LoadSummary:
    """What `summarise` returns.

    Attributes
    ----------
    table
        One row a cell: ``cell``; ``requests``, ``failures``, ``success_rate``, ``error`` (the most
        frequent); ``seconds``, ``requests_per_s`` (that succeeded), ``tokens_in_per_s``,
        ``tokens_out_per_s``; ``steady_seconds``, ``steady_tokens_out_per_s``, without begin and
        end; ``goodput`` (requests a second within the limits) and ``good_share`` (of all); ``peak``
        (requests at once); ``cached_share`` (of the prompts' tokens); ``tokens_out_min``,
        ``tokens_out_max`` of the replies; ``told`` (whether the server counted tokens in all of
        them); ``lag_p99`` (seconds from due to sent: the client's own delay).
    latencies
        One row a cell, ``metric`` (``ttft``, ``tpot``, ``e2e``, ``itl``) and ``statistic``
        (``mean``, ``p50`` .. ``p99``): ``value`` with ``low`` and ``high``, in seconds, over all
        requests. Failed ones are infinite, but for ``itl``, which has gaps of those that succeeded.
    warning
        What failed, in words; empty where nothing did. Whoever shows the numbers shows this with
        them.
    """

    table: pd.DataFrame
    latencies: pd.DataFrame
    warning: str

    @property
    def failed(self) -> bool:
        """Whether requests failed."""
        return bool(self.warning)


def summarise(
    traces: Iterable[Trace],
    limits: Limits = Limits(),
    settings: EvaluateSettings = EvaluateSettings(),
    *,
    refuse_failures: bool = False,
) -> LoadSummary:
    """Return what traces come to.

    Parameters
    ----------
    traces
        Of any number of cells; warm-ups do not count.
    limits
        For goodput.
    settings
        Resamples, confidence and seed of the intervals: percentile bootstrap over requests, so that
        chunks of one request stay together.
    refuse_failures
        Raise where any request failed.

    Raises
    ------
    RequestsFailed
        Where none of a cell succeeded, or, if asked for, any failed.
    ValueError
        Where there is no measured trace.
    """
    import pandas as pd

    cells = cells_of(traces)
    if not cells:
        raise ValueError(
            "no measured request among the traces; measure a server first (measure_load)"
        )
    warning = _failures(cells, refuse_failures)
    table = pd.DataFrame([_cell(label, found, limits) for label, found in cells.items()])
    rows = [row for label, found in cells.items() for row in _latencies(label, found, settings)]
    if warning:
        logger.warning("%s", warning)
    return LoadSummary(table, pd.DataFrame(rows), warning)


def _failures(cells: dict[str, list[Trace]], refuse: bool) -> str:
    texts = []
    for label, traces in cells.items():
        failed = [trace for trace in traces if not trace.ok]
        if not failed:
            continue
        texts.append(
            f"{label}: {len(failed)} of {len(traces)} requests failed ({_frequent(failed)})"
        )
        if len(failed) == len(traces):
            raise RequestsFailed(
                f"{texts[-1]}: there is nothing to sum up. Measure the cell again."
            )
    if texts and refuse:
        raise RequestsFailed(
            f"{'; '.join(texts)}. Measure again, or take the failures into account (refuse_failures)."
        )
    return "; ".join(texts)


def _frequent(failed: Sequence[Trace]) -> str:
    return Counter(trace.error for trace in failed).most_common(1)[0][0] if failed else ""


def _cell(label: str, traces: Sequence[Trace], limits: Limits) -> dict[str, Any]:
    import numpy as np

    window, steady = whole_window(traces), steady_window(traces)
    succeeded = [trace for trace in traces if trace.ok]
    good = sum(limits.kept_by(trace) for trace in traces)
    out = [tokens_out(trace) for trace in succeeded]
    prompt = [trace.prompt_tokens for trace in succeeded]
    told_in = sum(prompt) if None not in prompt else math.nan
    cached = [trace.cached_tokens for trace in succeeded]
    return {
        "cell": label,
        "requests": len(traces),
        "failures": len(traces) - len(succeeded),
        "success_rate": len(succeeded) / len(traces),
        "error": _frequent([trace for trace in traces if not trace.ok]),
        "seconds": window.seconds,
        "requests_per_s": _rate(len(succeeded), window.seconds),
        "tokens_in_per_s": _rate(told_in, window.seconds),
        "tokens_out_per_s": _rate(sum(out), window.seconds),
        "steady_seconds": steady.seconds,
        "steady_tokens_out_per_s": _rate(tokens_within(traces, steady), steady.seconds),
        "goodput": _rate(good, window.seconds),
        "good_share": good / len(traces),
        "peak": peak(traces),
        "cached_share": sum(cached) / told_in if None not in cached else math.nan,
        "tokens_out_min": min(out),
        "tokens_out_max": max(out),
        "told": all(trace.completion_tokens is not None for trace in succeeded),
        "lag_p99": float(np.quantile([t.sent - t.scheduled for t in traces], 0.99)),
    }


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else math.nan


def _latencies(
    label: str, traces: Sequence[Trace], settings: EvaluateSettings
) -> list[dict[str, Any]]:
    import numpy as np

    of_requests = np.array([latencies(trace) for trace in traces], dtype=float).T
    measured = {
        name: (values, np.arange(len(traces)))
        for name, values in zip(LATENCIES, of_requests, strict=True)
    }
    each = [gaps(trace) for trace in traces]
    owners = np.repeat(np.arange(len(traces)), [len(found) for found in each])
    measured["itl"] = (np.array([gap for found in each for gap in found], dtype=float), owners)
    rows = []
    for name, (values, owner) in measured.items():
        known = ~np.isnan(values)
        for statistic, found in spread(values[known], owner[known], len(traces), settings).items():
            rows.append({"cell": label, "metric": name, "statistic": statistic, **found})
    return rows


def spread(
    values: np.ndarray,
    owners: np.ndarray,
    requests: int,
    settings: EvaluateSettings = EvaluateSettings(),
) -> dict[str, dict[str, float]]:
    """Return mean and quantiles of values, each with an interval.

    Parameters
    ----------
    values, owners
        Values, and which request each is of, shapes ``(values,)``.
    requests
        How many requests there are. They are what the bootstrap draws.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    dict
        ``value``, ``low`` and ``high`` of ``mean``, ``p50``, ``p90``, ``p95`` and ``p99``; NaN
        where there are no values, and as interval of an infinite mean.
    """
    import numpy as np

    names = ["mean", *(f"p{round(100 * q)}" for q in QUANTILES)]
    if not len(values):
        return {name: dict.fromkeys(("value", "low", "high"), math.nan) for name in names}
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    value = _statistics(values, owners, np.ones((1, requests)))[0]
    weights = draw_weights(requests, settings, len(values))
    drawn = np.concatenate([_statistics(values, owners, w) for w in weights])
    # No value between two draws: they may be infinite.
    ends = [percentile_interval(column, settings, "inverted_cdf") for column in drawn.T]
    return {
        name: {"value": float(v), "low": low, "high": high}
        for name, v, (low, high) in zip(names, value, ends, strict=True)
    }


def _statistics(values: np.ndarray, owners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return mean and quantiles of each draw, shape ``(draws, 1 + quantiles)``."""
    import numpy as np

    if np.isinf(values[-1]):
        mean = np.full(len(weights), math.inf if len(weights) == 1 else math.nan)
    else:
        counts = weights[:, owners]
        total = counts.sum(axis=1)
        mean = np.divide(
            counts @ values, total, out=np.full(len(weights), math.nan), where=total > 0
        )
    return np.column_stack([mean, weighted_quantiles(values, owners, QUANTILES, weights)])
