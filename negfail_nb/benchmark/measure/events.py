"""06: the events of a stream, read as they come: each gets the time at which its bytes were there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from negfail_nb.benchmark.measure.trace import Chunk

SHOWN = 200  # characters of an event in an error
_MALFORMED = (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError)


@dataclass(slots=True)
class Answer:
    """What came back for a request, filled while it comes. Times are those of the connection's clock.

    Attributes
    ----------
    sent, ended, chunks, status, finish, usage, error
        As in `negfail_nb.benchmark.measure.trace.Trace`.
    kind
        The content type.
    body
        What came, where it is no stream.
    done
        Whether the server said that the stream is over.
    """

    sent: float = 0.0
    ended: float = 0.0
    status: int = 0
    kind: str = ""
    chunks: list[Chunk] = field(default_factory=list)
    finish: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    body: bytearray = field(default_factory=bytearray)
    done: bool = False

    @property
    def streamed(self) -> bool:
        """Whether the server answers with a stream of events."""
        return self.status == 200 and self.kind.startswith("text/event-stream")


class Events:
    """Reads the lines of a stream into an answer, however its bytes are cut."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self._rest = answer, b""

    def feed(self, data: bytes | bytearray, now: float) -> None:
        """Read on; what is complete now gets this time."""
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = bytes(lines.pop())
        for line in lines:
            if line.startswith(b"data:"):  # others are comments that keep the connection alive
                self._event(line[5:].strip(), now)

    def _event(self, data: bytes | bytearray, now: float) -> None:
        if data == b"[DONE]":
            self._answer.done = True
            return
        try:
            self._take(json.loads(data), now)
        except _MALFORMED:
            shown = data[:SHOWN].decode("utf-8", "replace")
            self._answer.error = self._answer.error or f"an event is no chunk of a completion: {shown}"

    def _take(self, event: dict[str, Any], now: float) -> None:
        answer = self._answer
        if event.get("error"):
            said = event["error"]
            answer.error = str(said.get("message") or said) if isinstance(said, dict) else str(said)
            return
        usage = event.get("usage")
        if isinstance(usage, dict):
            answer.usage = usage
        chunk = _chunk(event["choices"], usage, now)
        answer.chunks.append(chunk)
        if chunk.choices:
            answer.finish = event["choices"][0].get("finish_reason") or answer.finish


def _chunk(choices: list[dict[str, Any]], usage: Any, now: float) -> Chunk:
    """Return an event as a chunk. In `usage` of a chunk with choices stand the tokens so far."""
    if not choices:
        return Chunk(now, choices=False)
    choice = choices[0]
    said = choice.get("delta") or {}
    text = said.get("content") or choice.get("text") or ""
    thought = said.get("reasoning_content") or said.get("reasoning") or ""
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if type(text) is not str or type(thought) is not str:
        raise TypeError("the text of a chunk is no text")
    return Chunk(now, text, thought, tokens if type(tokens) is int else None)
