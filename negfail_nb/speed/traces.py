"""The raw trace of one request, chunk by chunk: every metric is derived from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from negfail_nb.said import split_thought
from negfail_nb.trajectory import read_records

SCHEMA = "negfail_nb.trace/1"
PHASES = ("measured", "warmup", "prime")
MOST = 10**8  # tokens; a server that tells of more does not count
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # text of a chunk whose words another tool did not keep


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
    by: str = ""  # the tool that measured it; empty: `measure_load`
    ends: bool = False  # whether only the first and the last chunk, and the answer's, are known

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
    def answer(self) -> Chunk | None:
        """The first chunk with a part of the answer, after what the model only thought.

        Thoughts come in a field of their own, or within the text between tags. ``None``: the reply
        holds no answer, mostly because it was cut while the model was thinking.
        """
        text = "".join(chunk.text for chunk in self.chunks)
        thought, said, _ = split_thought(text)
        place = text.rfind(said.strip()) if thought else 0  # mostly the end of the text
        if place < 0:  # thoughts stand within it: where its first line is
            place = text.find(said.strip().split("\n")[0])
        for chunk in self.chunks if said.strip() or not thought else ():
            place -= len(chunk.text)
            if chunk.text and place < 0:
                return chunk
        return None

    @property
    def drafts(self) -> tuple[int, int] | None:
        """Tokens that were drafted, and of these accepted; ``None`` if the server does not say.

        As OpenAI (``prediction_tokens``), vLLM (``speculative_decoding``) and llama.cpp
        (``timings``) tell it.
        """
        told = self.usage
        accepted, refused = (
            _count(told.get("completion_tokens_details"), f"{name}_prediction_tokens", 0)
            for name in ("accepted", "rejected")
        )
        if accepted is not None and refused is not None and accepted + refused:
            return accepted + refused, accepted
        for name, keys in _DRAFTS.items():
            drafted, accepted = (_count(told.get(name), key, 0) for key in keys)
            if drafted and accepted is not None:
                return drafted, accepted
        return None

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
        values |= {name: getattr(self, name) for name in _OTHERS if getattr(self, name)}
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


_OTHERS = ("by", "ends")  # of the traces of other tools; ours are written without them
_FIELDS = tuple(name for name in Trace.__slots__ if name not in ("chunks", *_OTHERS))
_DRAFTS = {
    "speculative_decoding": ("num_draft_tokens", "num_accepted_draft_tokens"),
    "timings": ("draft_n", "draft_n_accepted"),
}
_COLUMNS = Chunk.__slots__


def read_own(path: str | Path) -> Iterator[Trace]:
    """Yield the traces of a file of `measure_load`; UnreadableLog at the first line that is none.

    `negfail_nb.speed.read_traces` also reads what other tools wrote.
    """
    return read_records(path, Trace.from_dict)


def _count(usage: Any, name: str, low: int) -> int | None:
    told = usage.get(name) if isinstance(usage, Mapping) else None
    return told if type(told) is int and low <= told <= MOST else None
