"""What traces come to: per request, per cell, and with what intervals.

Definitions
-----------
TTFT
    From when the request was due (its arrival, in an open loop) to the first chunk with text. A
    chunk that only names the role is no token.
TPOT
    From the first chunk with text to the last, per token that came after the first chunk.
ITL
    A gap between two chunks with text. If a server puts several tokens into a chunk, it is no time
    of a token.
E2E
    From when the request was due to the last chunk with text.

A request that failed was never answered: its TTFT, TPOT and E2E are infinite, and count as such in
every quantile.

A new metric of a request is an entry of `LATENCIES`, a new one of a cell an entry of `METRICS`.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from negfail_nb.intervals import draw_weights, percentile_interval, weighted_quantiles
from negfail_nb.settings import EvaluateSettings
from negfail_nb.speed.traces import Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LATENCIES", "METRICS", "CellTraces", "Limits", "LoadSummary", "Metric"]
__all__ += ["RequestsFailed", "request_table", "summarise"]

OPEN = "poisson@"  # how the name of an open loop begins
STEADY = 0.9  # of the most requests at once
QUANTILES = (0.5, 0.9, 0.95, 0.99)

logger = logging.getLogger("negfail_nb")


class RequestsFailed(ValueError):
    """Requests failed, so a summary would speak of others than were asked."""


class Metric(NamedTuple):
    """A number of a request or of a cell: how it is computed, its title (empty: tables for reading
    leave it out), and its unit.
    """

    of: Callable[[Any], Any]
    title: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request must keep to be a good one, in seconds."""

    ttft: float = math.inf
    tpot: float = math.inf
    e2e: float = math.inf

    def kept_by(self, trace: Trace) -> bool:
        """Whether a request succeeded and kept all of them. A reply of one token has no time per
        token to keep.
        """
        slow = (LATENCIES[name].of(trace) > getattr(self, name) for name in self.__slots__)
        return trace.ok and not any(slow)


@dataclass(frozen=True)
class LoadSummary:
    """What `summarise` returns.

    Attributes
    ----------
    table
        One row per cell: ``cell`` and each of `METRICS`.
    latencies
        One row per cell, ``metric`` (of `LATENCIES`, and ``itl``) and ``statistic`` (``mean``,
        ``p50`` .. ``p99``): ``value`` with ``low`` and ``high``, in seconds, over all requests.
        Failed ones are infinite, but for ``itl``, which has gaps of those that succeeded.
    warning
        What failed, in words; empty if nothing did. Whoever shows the numbers shows this with them.
    """

    table: pd.DataFrame
    latencies: pd.DataFrame
    warning: str

    @property
    def failed(self) -> bool:
        """Whether requests failed."""
        return bool(self.warning)


# Of a request


def ttft(trace: Trace) -> float:
    """Return the time to first token of a request in seconds; infinite if it failed."""
    return trace.spoken[0].time - trace.scheduled if trace.ok and trace.spoken else math.inf


def tpot(trace: Trace) -> float:
    """Return the time per token after the first chunk; NaN if no token came after it."""
    if not trace.ok or not trace.spoken:
        return math.inf
    first, last = trace.spoken[0], trace.spoken[-1]
    later = tokens_out(trace) - (first.tokens or 1)
    return (last.time - first.time) / later if later > 0 else math.nan


def e2e(trace: Trace) -> float:
    """Return the time to the last token."""
    return trace.spoken[-1].time - trace.scheduled if trace.ok and trace.spoken else math.inf


LATENCIES = {
    "ttft": Metric(ttft, "time to first token", "s"),
    "tpot": Metric(tpot, "time per token after it", "s"),
    "e2e": Metric(e2e, "time to last token", "s"),
}


def tokens_out(trace: Trace) -> int:
    """Return the tokens of a reply: what the server says, else its chunks with text; 0 if it
    failed.
    """
    if not trace.ok:
        return 0
    told = trace.completion_tokens
    return len(trace.spoken) if told is None else told


def gaps(trace: Trace) -> list[float]:
    """Return the seconds between the chunks with text of a request; none if it failed."""
    times = [chunk.time for chunk in trace.spoken] if trace.ok else []
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


def request_table(traces: Iterable[Trace]) -> pd.DataFrame:
    """Return one row per measured request.

    Returns
    -------
    pandas.DataFrame
        ``cell``, ``number``, ``prompt``, ``ok``, ``status``, ``error``; ``scheduled``, ``sent``,
        ``ended`` and ``lag`` (from due to sent); each of `LATENCIES`, infinite if the request
        failed, and ``tpot`` NaN if a reply has one token: all in seconds; ``prompt_tokens`` and
        ``cached_tokens``, NaN if the server does not say; ``completion_tokens``, 0 if it failed;
        and ``told``: whether the server said these, or chunks were counted.
    """
    import pandas as pd

    kept = "cell number prompt ok status error scheduled sent ended".split()
    rows = []
    for trace in (trace for cell in cells_of(traces).values() for trace in cell):
        row = {name: getattr(trace, name) for name in kept}
        row["lag"] = trace.sent - trace.scheduled
        row |= {name: metric.of(trace) for name, metric in LATENCIES.items()}
        row |= {name: _or_nan(getattr(trace, name)) for name in ("prompt_tokens", "cached_tokens")}
        row["completion_tokens"] = tokens_out(trace)
        row["told"] = trace.completion_tokens is not None
        rows.append(row)
    columns = [*kept, "lag", *LATENCIES, "prompt_tokens", "cached_tokens", "completion_tokens"]
    return pd.DataFrame(rows, columns=[*columns, "told"])


def _or_nan(count: int | None) -> float:
    return math.nan if count is None else float(count)


def cells_of(traces: Iterable[Trace]) -> dict[str, list[Trace]]:
    """Return the measured traces of each cell, in order."""
    found: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.phase == "measured":
            found.setdefault(trace.cell, []).append(trace)
    return found


# Of a cell


@dataclass(frozen=True)
class CellTraces:
    """The measured traces of a cell, and what its metrics share."""

    traces: Sequence[Trace]
    limits: Limits = Limits()

    @cached_property
    def ok(self) -> list[Trace]:
        """The requests that succeeded."""
        return [trace for trace in self.traces if trace.ok]

    @cached_property
    def seconds(self) -> float:
        """From when the first request was due until the last had ended."""
        return max(t.ended for t in self.traces) - min(t.scheduled for t in self.traces)

    @cached_property
    def steady(self) -> tuple[float, float]:
        """The part of a cell's time in which the load was the one that was set: start and end.

        In a closed loop: from the first to the last moment with nine tenths of the most requests at
        once, which cuts off ramp-up and ramp-down. In an open loop: from the first arrival to the
        last.
        """
        if self.traces[0].cell.startswith(OPEN):
            due = [trace.scheduled for trace in self.traces]
            return min(due), max(due)
        moments = list(self._at_once())
        full = [n for n, (_, count) in enumerate(moments) if count >= STEADY * self.peak]
        after = min(full[-1] + 1, len(moments) - 1)
        return moments[full[0]][0], moments[after][0]

    @cached_property
    def peak(self) -> int:
        """The most requests that were under way at once."""
        return max(count for _, count in self._at_once())

    @cached_property
    def tokens_in(self) -> float:
        """Prompt tokens of those that succeeded; NaN if the server does not say."""
        return sum(_or_nan(trace.prompt_tokens) for trace in self.ok)

    @cached_property
    def tokens_out(self) -> list[int]:
        """Tokens of each reply."""
        return [tokens_out(trace) for trace in self.ok]

    @cached_property
    def good(self) -> int:
        """Requests that kept the limits."""
        return sum(map(self.limits.kept_by, self.traces))

    def per_second(self, count: float, seconds: float | None = None) -> float:
        """Return a rate over the cell's time, or over another."""
        seconds = self.seconds if seconds is None else seconds
        return count / seconds if seconds > 0 else math.nan

    def steady_rate(self) -> float:
        """Return the tokens per second within `steady`; those of one chunk count at its time."""
        start, end = self.steady
        arrived = (pair for trace in self.ok for pair in _arrived(trace))
        return self.per_second(sum(n for time, n in arrived if start <= time < end), end - start)

    def _at_once(self) -> Iterator[tuple[float, int]]:
        """Yield how many requests are under way after each start and end."""
        starts = [(trace.sent, 1) for trace in self.traces]
        ends = [(trace.ended, -1) for trace in self.traces]
        count = 0
        for time, change in sorted(starts + ends):  # if one ends as the next starts, the end first
            count += change
            yield time, count


def _arrived(trace: Trace) -> Iterator[tuple[float, float]]:
    before = 0
    for chunk in trace.spoken:
        if chunk.tokens is None:
            yield chunk.time, tokens_out(trace) / len(trace.spoken)
        else:
            yield chunk.time, chunk.tokens - before
            before = chunk.tokens


def _frequent(traces: Iterable[Trace]) -> str:
    """The most frequent error."""
    found = Counter(trace.error for trace in traces if not trace.ok).most_common(1)
    return found[0][0] if found else ""


def _lag(c: CellTraces) -> float:
    return float(np.quantile([t.sent - t.scheduled for t in c.traces], 0.99))


METRICS = {
    "requests": Metric(lambda c: len(c.traces), "requests"),
    "failures": Metric(lambda c: len(c.traces) - len(c.ok)),
    "success_rate": Metric(lambda c: len(c.ok) / len(c.traces), "succeeded", "share"),
    "error": Metric(lambda c: _frequent(c.traces), "most frequent failure"),
    "seconds": Metric(lambda c: c.seconds, "", "s"),
    "requests_per_s": Metric(lambda c: c.per_second(len(c.ok)), "requests per second", "1/s"),
    "tokens_in_per_s": Metric(lambda c: c.per_second(c.tokens_in), "", "1/s"),
    "tokens_out_per_s": Metric(lambda c: c.per_second(sum(c.tokens_out)), "", "1/s"),
    "steady_seconds": Metric(lambda c: c.steady[1] - c.steady[0], "", "s"),
    # Without ramp-up and ramp-down.
    "steady_tokens_out_per_s": Metric(lambda c: c.steady_rate(), "output tokens per second", "1/s"),
    # Requests within the limits, per second and of all.
    "goodput": Metric(lambda c: c.per_second(c.good), "good requests per second", "1/s"),
    "good_share": Metric(lambda c: c.good / len(c.traces), "", "share"),
    "peak": Metric(lambda c: c.peak),
    "cached_share": Metric(
        lambda c: sum(_or_nan(t.cached_tokens) for t in c.ok) / c.tokens_in,
        "share of the prompt cached",
        "share",
    ),
    "tokens_out_min": Metric(lambda c: min(c.tokens_out)),
    "tokens_out_max": Metric(lambda c: max(c.tokens_out)),
    # Whether the server counted the tokens of every reply.
    "told": Metric(lambda c: all(t.completion_tokens is not None for t in c.ok)),
    "lag_p99": Metric(_lag, "", "s"),  # from due to sent: the client's own delay
}


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
        Raise if any request failed.

    Raises
    ------
    RequestsFailed
        If none of a cell succeeded, or, with ``refuse_failures``, any failed.
    ValueError
        If there is no measured trace.
    """
    import pandas as pd

    cells = cells_of(traces)
    if not cells:
        raise ValueError(
            "no measured request among the traces; measure a server first (measure_load)"
        )
    warning = _failures(cells, refuse_failures)
    rows, latencies = [], []
    for label, found in cells.items():
        cell = CellTraces(found, limits)
        rows.append({"cell": label} | {name: metric.of(cell) for name, metric in METRICS.items()})
        latencies += _latencies(label, found, settings)
    if warning:
        logger.warning("%s", warning)
    return LoadSummary(pd.DataFrame(rows), pd.DataFrame(latencies), warning)


def _failures(cells: dict[str, list[Trace]], refuse: bool) -> str:
    texts = []
    for label, traces in cells.items():
        failed = sum(not trace.ok for trace in traces)
        if failed:
            reason = _frequent(traces)
            texts.append(f"{label}: {failed} of {len(traces)} requests failed ({reason})")
        if failed == len(traces):
            raise RequestsFailed(f"{texts[-1]}: nothing to sum up. Measure the cell again.")
    if texts and refuse:
        raise RequestsFailed(
            f"{'; '.join(texts)}. Measure again, or take the failures into account "
            "(refuse_failures)."
        )
    return "; ".join(texts)


def _latencies(
    label: str, traces: Sequence[Trace], settings: EvaluateSettings
) -> Iterator[dict[str, Any]]:
    of_requests = np.arange(len(traces))
    each = [gaps(trace) for trace in traces]
    measured = {
        name: (np.array([metric.of(trace) for trace in traces], dtype=float), of_requests)
        for name, metric in LATENCIES.items()
    }
    owners = np.repeat(of_requests, [len(found) for found in each])
    measured["itl"] = (np.array([gap for found in each for gap in found], dtype=float), owners)
    for name, (values, owner) in measured.items():
        known = ~np.isnan(values)
        found = spread(values[known], owner[known], len(traces), settings)
        for statistic, numbers in found.items():
            yield {"cell": label, "metric": name, "statistic": statistic, **numbers}


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
        The values, and which request each belongs to, shapes ``(values,)``.
    requests
        How many requests there are. The bootstrap resamples them.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    dict
        ``value``, ``low`` and ``high`` of ``mean``, ``p50``, ``p90``, ``p95`` and ``p99``; NaN
        without values, and as interval of an infinite mean.
    """
    names = ["mean", *(f"p{round(100 * q)}" for q in QUANTILES)]
    if not len(values):
        return {name: dict.fromkeys(("value", "low", "high"), math.nan) for name in names}
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    once = _statistics(values, owners, np.ones((1, requests)))[0]
    weights = draw_weights(requests, settings, len(values))
    drawn = np.concatenate([_statistics(values, owners, w) for w in weights])
    found = {}
    for name, value, column in zip(names, once, drawn.T, strict=True):
        # No value between two draws: they may be infinite.
        low, high = percentile_interval(column, settings, "inverted_cdf")
        found[name] = {"value": float(value), "low": low, "high": high}
    return found


def _statistics(values: np.ndarray, owners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return mean and quantiles of each draw, shape ``(draws, 1 + quantiles)``."""
    mean = np.full(len(weights), math.nan)
    if np.isinf(values[-1]):
        mean[:] = math.inf if len(weights) == 1 else math.nan
    else:
        counts = weights[:, owners]
        total = counts.sum(axis=1)
        np.divide(counts @ values, total, out=mean, where=total > 0)
    return np.column_stack([mean, weighted_quantiles(values, owners, QUANTILES, weights)])
