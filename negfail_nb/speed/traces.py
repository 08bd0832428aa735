"""The raw trace of one request, chunk by chunk: every metric is derived from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from negfail_nb.trajectory import read_records

SCHEMA = "negfail_nb.trace/1"
PHASES = ("measured", "warmup", "prime")
MOST = 10**8  # tokens; a server that tells of more does not count


class ClockError(ValueError):
    """A clock went backwards, so no time of the request can be trusted."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a stream; one that only names the role has neither text nor thought."""

    time: float  # seconds since the cell began, when it was read
    text: str = ""  # what it adds to the reply
    thought: str = ""  # what it adds to the reasoning before the reply
    tokens: int | None = None  # of the reply so far, if the server says so in every chunk
    choices: bool = True  # a chunk that only tells the usage has none

    @property
    def spoken(self) -> bool:
        """Whether it holds a part of what the model wrote."""
        return bool(self.text or self.thought)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One request. Times are seconds since the cell began, of one clock that never goes back."""

    cell: str
    number: int  # its place in the cell
    phase: str = "measured"  # or a warm-up, or a prime, which brings a prompt into the cache
    prompt: int = 0  # which of the prompts it sends
    nonce: str = ""  # the text that makes the prompt new
    asked: int = 0  # tokens that were asked for, at most
    scheduled: float = 0.0  # when it was due: its arrival in an open loop, else when it was sent
    sent: float = 0.0  # in an open loop, a connection may have to be opened before
    ended: float = 0.0  # when the last byte was read, or the request was given up
    chunks: tuple[Chunk, ...] = ()
    status: int = 200  # of HTTP; 0 if no answer came
    finish: str = ""  # "stop", "length", or whatever else the server says
    usage: Mapping[str, Any] = field(default_factory=dict)  # as the server sent it
    error: str = ""  # why it failed; empty if it did not

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"trace {self.id!r}: phase is {self.phase!r}; use one of {PHASES}")
        times = [self.scheduled, self.sent, *(chunk.time for chunk in self.chunks), self.ended]
        for earlier, later in zip(times, times[1:], strict=False):
            if not earlier <= later:
                raise ClockError(
                    f"trace {self.id!r}: the clock goes backwards, from {earlier!r} s to "
                    f"{later!r} s. Measure the cell again, by a clock that never goes back "
                    "(time.perf_counter)."
                )

    @property
    def id(self) -> str:
        """Unique in a measurement."""
        return f"{self.cell}/{self.phase}/{self.number}"

    @property
    def ok(self) -> bool:
        """Whether the request succeeded."""
        return not self.error

    @property
    def spoken(self) -> tuple[Chunk, ...]:
        """The chunks that hold a part of what the model wrote."""
        return tuple(chunk for chunk in self.chunks if chunk.spoken)

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens of the prompt; ``None`` if the server does not say, or says what cannot be."""
        told = _count(self.usage, "prompt_tokens", 1)
        cached = self.cached_tokens
        # Some servers count only what was not cached.
        return told + cached if told and cached and cached > told else told

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of the reply; ``None`` if the server does not say, or says 0 of a text."""
        return _count(self.usage, "completion_tokens", int(bool(self.spoken)))

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt from the prefix cache; ``None`` if the server does not say."""
        return _count(self.usage.get("prompt_tokens_details"), "cached_tokens", 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, the chunks in columns; the inverse of `from_dict`."""
        values = {name: getattr(self, name) for name in _FIELDS}
        columns = {name: [getattr(chunk, name) for chunk in self.chunks] for name in _COLUMNS}
        return {"schema": SCHEMA, **values, "usage": dict(self.usage), "chunks": columns}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Trace:
        """Build a trace from JSON values; ValueError or TypeError if they are none."""
        values = dict(record)
        schema = values.pop("schema", None)
        if schema != SCHEMA:
            raise ValueError(
                f"the schema is {schema!r}, and this version reads {SCHEMA!r}; "
                "read it with the version that wrote it"
            )
        if missing := [name for name in (*_FIELDS, "chunks") if name not in values]:
            raise ValueError(f"the field {missing[0]!r} is missing")
        columns = values.pop("chunks")
        rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
        return cls(**values, chunks=tuple(Chunk(*row) for row in rows))


_FIELDS = tuple(name for name in Trace.__slots__ if name != "chunks")
_COLUMNS = Chunk.__slots__


def read_traces(path: str | Path) -> Iterator[Trace]:
    """Yield the traces of a JSONL file; UnreadableLog at the first line that is none."""
    return read_records(path, Trace.from_dict)


def _count(usage: Any, name: str, low: int) -> int | None:
    told = usage.get(name) if isinstance(usage, Mapping) else None
    return told if type(told) is int and low <= told <= MOST else None
