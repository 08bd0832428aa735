"""06: what traces say of each request and of each moment: first token, time a token, whole reply,
steady state.

Definitions
-----------
TTFT
    From when the request was due (its arrival, in an open loop) to the first chunk that holds text.
    A chunk that only names the role is no token.
TPOT
    From the first chunk with text to the last, by the tokens that came after the first chunk.
ITL
    A gap between two chunks with text. Where a server puts several tokens into a chunk, it is no
    time of a token.
E2E
    From when the request was due to the last chunk with text.

A request that failed was never answered: its TTFT, TPOT and E2E are infinite, and count as such in
every quantile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from negfail_nb.speed.server.trace import Trace
from negfail_nb.speed.server.workload import OPEN

if TYPE_CHECKING:
    import pandas as pd

LATENCIES = ("ttft", "tpot", "e2e")
STEADY = 0.9  # of the most requests at once


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a cell's time, in seconds since its begin."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


def cells_of(traces: Iterable[Trace]) -> dict[str, list[Trace]]:
    """Return the measured traces of each cell, in order."""
    found: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.phase == "measured":
            found.setdefault(trace.cell, []).append(trace)
    return found


def request_table(traces: Iterable[Trace]) -> pd.DataFrame:
    """Return one row a measured request.

    Returns
    -------
    pandas.DataFrame
        ``cell``, ``number``, ``prompt``, ``ok``, ``status``, ``error``; ``scheduled``, ``sent``,
        ``ended``, ``lag`` (how long after it was due it was sent), ``ttft``, ``tpot``, ``e2e``, all
        in seconds, infinite where the request failed, and ``tpot`` NaN where a reply has one token;
        ``prompt_tokens``, ``cached_tokens``, NaN where the server does not say;
        ``completion_tokens``, 0 where it failed; and ``told``, whether the server said these, or
        chunks were counted.
    """
    import pandas as pd

    return pd.DataFrame(
        [_row(trace) for cell in cells_of(traces).values() for trace in cell], columns=_COLUMNS
    )


_COLUMNS = (
    *("cell", "number", "prompt", "ok", "status", "error", "scheduled", "sent", "ended", "lag"),
    *(*LATENCIES, "prompt_tokens", "cached_tokens", "completion_tokens", "told"),
)


def _row(trace: Trace) -> dict[str, Any]:
    kept = ("cell", "number", "prompt", "ok", "status", "error", "scheduled", "sent", "ended")
    row = {name: getattr(trace, name) for name in kept} | {"lag": trace.sent - trace.scheduled}
    row |= dict(zip(LATENCIES, latencies(trace), strict=True))
    row |= {name: _number(getattr(trace, name)) for name in ("prompt_tokens", "cached_tokens")}
    return row | {
        "completion_tokens": tokens_out(trace),
        "told": trace.completion_tokens is not None,
    }


def latencies(trace: Trace) -> tuple[float, float, float]:
    """Return TTFT, TPOT and E2E of a request in seconds; infinite where it failed."""
    spoken = trace.spoken
    if not trace.ok or not spoken:
        return math.inf, math.inf, math.inf
    first, last = spoken[0], spoken[-1]
    later = tokens_out(trace) - (first.tokens or 1)
    tpot = (last.time - first.time) / later if later > 0 else math.nan
    return first.time - trace.scheduled, tpot, last.time - trace.scheduled


def tokens_out(trace: Trace) -> int:
    """Return the tokens of a reply: what the server says, else its chunks with text; 0 where it
    failed.
    """
    if not trace.ok:
        return 0
    told = trace.completion_tokens
    return len(trace.spoken) if told is None else told


def gaps(trace: Trace) -> list[float]:
    """Return the seconds between the chunks with text of a request; none where it failed."""
    times = [chunk.time for chunk in trace.spoken] if trace.ok else []
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


def whole_window(traces: Sequence[Trace]) -> Window:
    """Return the time from when the first request was due until the last had ended."""
    return Window(min(trace.scheduled for trace in traces), max(trace.ended for trace in traces))


def steady_window(traces: Sequence[Trace]) -> Window:
    """Return the part of a cell in which the load was the one that was set.

    In a closed loop: from the first to the last moment with nine tenths of the most requests at
    once, which cuts off the begin and the end, where few run. In an open loop: from the first
    arrival to the last, as nothing arrives after.
    """
    if traces[0].cell.startswith(OPEN):
        return Window(min(t.scheduled for t in traces), max(t.scheduled for t in traces))
    moments = list(_at_once(traces))
    most = max(count for _, count in moments)
    full = [number for number, (_, count) in enumerate(moments) if count >= STEADY * most]
    after = min(full[-1] + 1, len(moments) - 1)
    return Window(moments[full[0]][0], moments[after][0])


def peak(traces: Sequence[Trace]) -> int:
    """Return the most requests that were under way at once."""
    return max(count for _, count in _at_once(traces))


def tokens_within(traces: Iterable[Trace], window: Window) -> float:
    """Return the tokens that came within a window; what a server puts into one chunk counts at its
    time.
    """
    return sum(
        tokens
        for trace in traces
        for time, tokens in _arrived(trace)
        if window.start <= time < window.end
    )


def _at_once(traces: Sequence[Trace]) -> Iterator[tuple[float, int]]:
    """Yield how many requests are under way after each begin and end."""
    # Where one ends as the next begins, the end comes first.
    changes = sorted(
        [(trace.sent, 1) for trace in traces] + [(trace.ended, -1) for trace in traces]
    )
    count = 0
    for time, change in changes:
        count += change
        yield time, count


def _arrived(trace: Trace) -> Iterator[tuple[float, float]]:
    spoken, before = trace.spoken, 0
    for chunk in spoken if trace.ok else ():
        if chunk.tokens is None:
            yield chunk.time, tokens_out(trace) / len(spoken)
        else:
            yield chunk.time, chunk.tokens - before
            before = chunk.tokens


def _number(count: int | None) -> float:
    return math.nan if count is None else float(count)
