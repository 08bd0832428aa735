"""What a file of another tool comes to: runs of one load each, as traces or as stated numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from negfail_nb.speed.traces import UNKNOWN, Chunk, Trace

STATISTICS = ("mean", "p50", "p90", "p95", "p99")


class UnknownVersion(ValueError):
    """A file of a known tool, in a form that this version does not know."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One load: its name without the cache's state (``closed@16``), and what is known of it.

    Traces where the tool kept its requests; else ``numbers`` of `METRICS` and ``times`` of
    `LATENCIES` and ``itl``, by statistic, in seconds. ``notes`` say how they differ from ours.
    """

    load: str
    traces: Sequence[Trace] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Tool(NamedTuple):
    """How results of a tool are recognised, of which files, and read; `read` raises KeyError,
    TypeError or ValueError where the file is not what it looks like.
    """

    name: str
    files: str  # in words
    looks_like: Callable[[Any], bool]  # the first record of the file
    read: Callable[[Sequence[Any], Path], list[Run]]  # all of its records, and where it lies


def closed(count: int) -> str:
    """Return the name of a closed loop."""
    return f"closed@{count}"


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """Return how many spans of time, each from a start to an end, overlap at most."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    at_once = most = 0
    for _, change in changes:
        at_once += change
        most = max(most, at_once)
    return most


def chunks_at(times: Sequence[float], answer: float | None = None) -> tuple[Chunk, ...]:
    """Return chunks of unknown words; those before ``answer``, if it is given, are thoughts."""
    before = [answer is not None and time < answer for time in times]
    return tuple(
        Chunk(time, "" if thought else UNKNOWN, UNKNOWN if thought else "")
        for time, thought in zip(times, before, strict=True)
    )


def counts(prompt: Any, completion: Any, cached: Any = None, **more: Any) -> dict[str, Any]:
    """Return token counts as a server's usage; what is no whole number is not told."""
    usage: dict[str, Any] = dict(more)
    for name, value in (("prompt_tokens", prompt), ("completion_tokens", completion)):
        if isinstance(value, int | float) and value == int(value):
            usage[name] = int(value)
    if isinstance(cached, int | float):
        usage["prompt_tokens_details"] = {"cached_tokens": int(cached)}
    return usage


def in_seconds(stated: Mapping[str, Any], names: Mapping[str, str], scale: float) -> dict:
    """Return the statistics of ``stated`` under our names, times ``scale``; missing ones left out.

    ``names`` is ours to theirs.
    """
    found = {ours: stated.get(theirs) for ours, theirs in names.items()}
    return {ours: scale * v for ours, v in found.items() if isinstance(v, int | float)}
