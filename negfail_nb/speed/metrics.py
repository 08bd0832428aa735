"""What traces come to: per request, per cell, and with what intervals.

Definitions
-----------
TTFT
    From when the request was due (its arrival, in an open loop) to the first chunk with text. A
    chunk that only names the role is no token.
TTFA
    From when the request was due to the first chunk of the answer, after what a model only thinks.
    Equal to TTFT where nothing is thought; infinite if the reply was cut before its answer.
TPOT
    From the first chunk with text to the last, per token that came after the first chunk.
ITL
    A gap between two chunks with text. If a server puts several tokens into a chunk, it is no time
    of a token.
Tokens a step
    Tokens after the first chunk, for each step of the model after its first: where the server tells
    how many drafted tokens were accepted, these make the difference; else chunks count as steps,
    which they are not for a server that gathers tokens before it sends them.
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
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from negfail_nb.intervals import draw_weights, percentile_interval, weighted_quantiles
from negfail_nb.settings import EvaluateSettings
from negfail_nb.speed.traces import Trace

if TYPE_CHECKING:
    import pandas as pd

OPEN = "poisson@"  # how the name of an open loop begins
SHAPES = (OPEN, "constant@", "rate@")  # the same of all open loops: other tools have more
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
    tpot: float = math.inf  # a reply of one token has no time per token to keep
    e2e: float = math.inf


@dataclass(frozen=True)
class LoadSummary:
    """What `summarise` returns."""

    table: pd.DataFrame  # one row per cell: ``cell`` and each of `METRICS`
    # One row per cell, ``metric`` (of `LATENCIES`, and ``itl``) and ``statistic`` (``mean``,
    # ``p50`` .. ``p99``): ``value`` with ``low`` and ``high``, in seconds, over all requests.
    # Failed ones are infinite, but for ``itl``, which has gaps of those that succeeded.
    latencies: pd.DataFrame
    warning: str  # what failed, if anything did; whoever shows the numbers shows this with them
    notes: tuple[str, ...] = ()  # how numbers of other tools differ from ours


# Of a request


def _tpot(trace: Trace) -> float:
    first = trace.spoken[0]
    last = trace.spoken[-1]
    later = tokens_out(trace) - (first.tokens or 1)
    return (last.time - first.time) / later if later > 0 else math.nan


def _ttfa(trace: Trace) -> float:
    return trace.answer.time - trace.scheduled if trace.answer else math.inf


# Of requests that succeeded; of others they are infinite.
LATENCIES = {
    "ttft": Metric(lambda t: t.spoken[0].time - t.scheduled, "time to first token", "s"),
    "ttfa": Metric(_ttfa, "time to first token of the answer", "s"),
    "tpot": Metric(_tpot, "time per token after it", "s"),
    "e2e": Metric(lambda t: t.spoken[-1].time - t.scheduled, "", "s"),
}


def tokens_out(trace: Trace) -> int:
    """Return the tokens of a reply: as the server counts, else its chunks with text."""
    told = trace.completion_tokens if trace.ok else 0
    return len(trace.spoken) if told is None else told


def gaps(trace: Trace) -> list[float]:
    """Return the seconds between the chunks with text of a request; none if it failed, or only its
    ends are known.
    """
    times = [chunk.time for chunk in trace.spoken] if trace.ok and not trace.ends else []
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


def steps_of(trace: Trace) -> tuple[int, int]:
    """Return the tokens after the first chunk, and the steps that the model took for them.

    Both are 0 where nothing tells: of a request that failed, or without the server's counts.
    """
    if not trace.ok or not trace.spoken or trace.completion_tokens is None:
        return 0, 0
    later = tokens_out(trace) - (trace.spoken[0].tokens or 1)
    if trace.drafts:
        return later, max(later - trace.drafts[1], 0)
    chunks = trace.usage.get("chunks", 0) if trace.ends else len(trace.spoken)
    return (later, chunks - 1) if later > 0 and chunks > 1 else (0, 0)


def request_table(traces: Iterable[Trace]) -> pd.DataFrame:
    """Return one row per measured request.

    Returns
    -------
    pandas.DataFrame
        Fields of `Trace`; ``lag`` (from due to sent); each of `LATENCIES`, in seconds, infinite if
        the request failed, and ``tpot`` NaN if a reply has one token; ``prompt_tokens`` and
        ``cached_tokens``, NaN if the server does not say; ``completion_tokens``, 0 if it failed;
        and ``told``: whether the server said these, or chunks were counted.
    """
    import pandas as pd

    kept = "cell number prompt ok status error scheduled sent ended".split()
    rows = []
    for trace in (trace for cell in cells_of(traces).values() for trace in cell):
        row = {name: getattr(trace, name) for name in kept}
        row["lag"] = trace.sent - trace.scheduled
        answered = trace.ok and trace.spoken
        for name, metric in LATENCIES.items():
            row[name] = metric.of(trace) if answered else math.inf
        for name in ("prompt_tokens", "cached_tokens"):
            told = getattr(trace, name)
            row[name] = math.nan if told is None else float(told)
        row["completion_tokens"] = tokens_out(trace)
        row["told"] = trace.completion_tokens is not None
        rows.append(row)
    columns = [*kept, "lag", *LATENCIES, "prompt_tokens", "cached_tokens", "completion_tokens"]
    return pd.DataFrame(rows, columns=[*columns, "told"])


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
    def rows(self) -> pd.DataFrame:
        """Their `request_table`."""
        return request_table(self.traces)

    @cached_property
    def ok(self) -> pd.DataFrame:
        """The requests that succeeded."""
        return self.rows[self.rows["ok"]]

    @cached_property
    def good(self) -> int:
        """How many of them kept the limits."""
        slow = [self.ok[name] > limit for name, limit in asdict(self.limits).items()]
        return int((~np.any(slow, axis=0)).sum())

    @cached_property
    def seconds(self) -> float:
        """From when the first request was due until the last had ended."""
        return self.rows["ended"].max() - self.rows["scheduled"].min()

    @cached_property
    def at_once(self) -> list[tuple[float, int]]:
        """How many requests are under way after each start and end, with its time."""
        starts = [(trace.sent, 1) for trace in self.traces]
        ends = [(trace.ended, -1) for trace in self.traces]
        changes = sorted(starts + ends)  # if one ends as the next starts, the end comes first
        counts = accumulate(change for _, change in changes)
        return [(time, count) for (time, _), count in zip(changes, counts, strict=True)]

    @cached_property
    def steady(self) -> tuple[float, float]:
        """The part of a cell's time in which the load was the one that was set: start and end.

        In a closed loop, from the first to the last moment with nine tenths of the most requests at
        once: without ramp-up and ramp-down. In an open loop, from the first arrival to the last.
        """
        if self.traces[0].cell.startswith(SHAPES):
            return self.rows["scheduled"].min(), self.rows["scheduled"].max()
        most = max(count for _, count in self.at_once)
        full = [n for n, (_, count) in enumerate(self.at_once) if count >= STEADY * most]
        after = min(full[-1] + 1, len(self.at_once) - 1)
        return self.at_once[full[0]][0], self.at_once[after][0]

    def steady_rate(self) -> float:
        """Return the tokens per second within `steady`; those of one chunk count at its time."""
        start, end = self.steady
        arrived = (pair for trace in self.traces if trace.ok for pair in _arrived(trace))
        return _rate(sum(count for time, count in arrived if start <= time < end), end - start)

    def per_step(self) -> float:
        """Return the tokens a step of the model, over all requests of which that is known."""
        counts = [steps_of(trace) for trace in self.traces]
        return _rate(sum(tokens for tokens, _ in counts), sum(steps for _, steps in counts))

    def accepted(self) -> float:
        """Return the share of drafted tokens that were accepted; NaN if no server says it."""
        told = [trace.drafts for trace in self.traces if trace.ok and trace.drafts]
        return _rate(sum(a for _, a in told), sum(drafted for drafted, _ in told))


def _arrived(trace: Trace) -> Iterator[tuple[float, float]]:
    before = 0
    first, count = trace.spoken[0].time, tokens_out(trace)
    if trace.ends:  # evenly, as nothing else is known
        pace = (trace.spoken[-1].time - first) / max(count - 1, 1)
        yield from ((first + n * pace, 1.0) for n in range(count))
        return
    for chunk in trace.spoken:
        if chunk.tokens is None:
            yield chunk.time, count / len(trace.spoken)
        else:
            yield chunk.time, chunk.tokens - before
            before = chunk.tokens


def _frequent(traces: Iterable[Trace]) -> str:
    """The most frequent error."""
    found = Counter(trace.error for trace in traces if not trace.ok).most_common(1)
    return found[0][0] if found else ""


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else math.nan


def _of_ok(column: str) -> Callable[[CellTraces], float]:
    """The sum over requests that succeeded; NaN if the server does not say it of one."""
    return lambda c: c.ok[column].sum(skipna=False)


_prompt, _cached, _out = map(_of_ok, ("prompt_tokens", "cached_tokens", "completion_tokens"))
METRICS = {
    "requests": Metric(lambda c: len(c.rows), "requests"),
    "failures": Metric(lambda c: len(c.rows) - len(c.ok)),
    "success_rate": Metric(lambda c: len(c.ok) / len(c.rows), "succeeded", "share"),
    "seconds": Metric(lambda c: c.seconds, "", "s"),
    "requests_per_s": Metric(lambda c: _rate(len(c.ok), c.seconds), "requests per second", "1/s"),
    "tokens_in_per_s": Metric(lambda c: _rate(_prompt(c), c.seconds), "", "1/s"),
    "tokens_out_per_s": Metric(lambda c: _rate(_out(c), c.seconds), "", "1/s"),
    "steady_seconds": Metric(lambda c: c.steady[1] - c.steady[0], "", "s"),
    # Without ramp-up and ramp-down.
    "steady_tokens_out_per_s": Metric(CellTraces.steady_rate, "output tokens per second", "1/s"),
    # Requests within the limits, per second and of all.
    "goodput": Metric(lambda c: _rate(c.good, c.seconds), "good requests per second", "1/s"),
    "good_share": Metric(lambda c: c.good / len(c.rows), "", "share"),
    "peak": Metric(lambda c: max(count for _, count in c.at_once)),
    "cached_share": Metric(lambda c: _cached(c) / _prompt(c), "cached share of prompts", "share"),
    # Replies that got to an answer, and were not cut while the model was thinking.
    "answered": Metric(lambda c: _rate(np.isfinite(c.ok["ttfa"]).sum(), len(c.ok)), "", "share"),
    "tokens_per_step": Metric(CellTraces.per_step, "output tokens a step", "tokens"),
    "drafts_accepted": Metric(CellTraces.accepted, "drafted tokens accepted", "share"),
    "tokens_out_min": Metric(lambda c: c.ok["completion_tokens"].min()),
    "tokens_out_max": Metric(lambda c: c.ok["completion_tokens"].max()),
    # Whether the server counted the tokens of every reply.
    "told": Metric(lambda c: bool(c.ok["told"].all())),
    # From due to sent: the client's own delay.
    "lag_p99": Metric(lambda c: float(np.quantile(c.rows["lag"], 0.99)), "", "s"),
    "error": Metric(lambda c: _frequent(c.traces), "most frequent failure", "text"),
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
    rows = []
    latencies = []
    for label, found in cells.items():
        cell = CellTraces(found, limits)
        rows.append({"cell": label} | {name: metric.of(cell) for name, metric in METRICS.items()})
        latencies += _latencies(label, cell, settings)
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
    label: str, cell: CellTraces, settings: EvaluateSettings
) -> Iterator[dict[str, Any]]:
    requests = np.arange(len(cell.rows))
    each = [gaps(trace) for trace in cell.traces]
    measured = {name: (cell.rows[name].to_numpy(float), requests) for name in LATENCIES}
    owners = np.repeat(requests, [len(found) for found in each])
    measured["itl"] = (np.array([gap for found in each for gap in found], dtype=float), owners)
    for name, (values, owner) in measured.items():
        known = ~np.isnan(values)
        found = spread(values[known], owner[known], len(requests), settings)
        for statistic, numbers in found.items():
            yield {"cell": label, "metric": name, "statistic": statistic, **numbers}


def spread(
    values: np.ndarray,
    owners: np.ndarray,
    requests: int,
    settings: EvaluateSettings = EvaluateSettings(),
) -> dict[str, dict[str, float]]:
    """Return ``value``, ``low`` and ``high`` of mean and quantiles; NaN without values, and as
    interval of an infinite mean.

    ``owners`` are the requests that the values belong to, of which there are ``requests``: the
    bootstrap resamples these.
    """
    names = ["mean", *(f"p{round(100 * q)}" for q in QUANTILES)]
    if not len(values):
        return {name: dict.fromkeys(("value", "low", "high"), math.nan) for name in names}
    order = np.argsort(values, kind="stable")
    values = values[order]
    owners = owners[order]
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
