"""06: the events of a stream, read as they come: each gets the time at which its bytes were there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from negfail_nb.speed.server.trace import Chunk

SHOWN = 200  # characters of an event in an error
_MALFORMED = (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError)


@dataclass(slots=True)
class Answer:
    """What came back for a request, filled while it comes. Times are those of the connection's
    clock.

    Attributes
    ----------
    sent, ended, chunks, status, finish, usage, error
        As in `negfail_nb.speed.server.trace.Trace`.
    kind, location
        The content type, and where a redirect points.
    body
        What came, where it is no stream.
    done
        Whether the server said that the stream is over.
    """

    sent: float = 0.0
    ended: float = 0.0
    status: int = 0
    kind: str = ""
    location: str = ""
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
        self._kind, self._begun = b"", b""

    def feed(self, data: bytes | bytearray, now: float) -> None:
        """Read on; what is complete now gets this time."""
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = bytes(lines.pop())
        for line in lines:
            if line.startswith(b"data:"):
                self._data(line[5:].strip(), now)
            elif not line.strip():
                self._close()
            elif line.startswith(b"event:"):
                self._kind = line[6:].strip()
            # others are comments that keep the connection alive, or names and waits that nobody
            # needs

    def _data(self, data: bytes | bytearray, now: float) -> None:
        """Take a line of data: mostly a whole event, and there are servers that put nothing between
        two events.
        """
        if data == b"[DONE]":
            self._answer.done = True
            return
        data = self._begun + b"\n" + data if self._begun else bytes(data)
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            self._begun = data  # it may go on in the next line
            return
        self._begun = b""
        try:
            self._take(event, now)
        except _MALFORMED:
            self._refuse(data)

    def _close(self) -> None:
        """End an event."""
        if self._begun:
            self._refuse(self._begun)
        self._kind = self._begun = b""

    def _refuse(self, data: bytes) -> None:
        shown = data[:SHOWN].decode("utf-8", "replace")
        said = shown if self._kind == b"error" else f"an event is no chunk of a completion: {shown}"
        self._answer.error = self._answer.error or said

    def _take(self, event: dict[str, Any], now: float) -> None:
        answer = self._answer
        if said := _error_in(event, self._kind):
            answer.error = answer.error or said
            return
        usage, choices = event.get("usage"), event.get("choices") or []
        if isinstance(usage, dict):
            answer.usage = usage
        if not choices and not usage:
            return  # a sign of life
        chunk = _chunk(choices, usage, now)
        answer.chunks.append(chunk)
        if chunk.choices:
            answer.finish = choices[0].get("finish_reason") or answer.finish


def _error_in(event: dict[str, Any], kind: bytes) -> str:
    """Return the error that an event tells of, or an empty text."""
    said = event.get("error") or (
        event if kind == b"error" or event.get("object") == "error" else None
    )
    if isinstance(said, dict):
        said = said.get("message") or said.get("detail") or json.dumps(said, ensure_ascii=False)
    return str(said)[:SHOWN] if said else ""


def _chunk(choices: list[dict[str, Any]], usage: Any, now: float) -> Chunk:
    """Return an event as a chunk. In `usage` of a chunk with choices stand the tokens so far."""
    if not choices:
        return Chunk(now, choices=False)
    said = choices[0].get("delta") or {}
    text, thought = _texts(said.get("content") or choices[0].get("text") or "")
    text += said.get("refusal") or ""
    text += "".join(_call(call) for call in said.get("tool_calls") or [])
    thought += said.get("reasoning_content") or said.get("reasoning") or ""
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Chunk(now, text, thought, tokens if type(tokens) is int else None)


def _texts(content: str | list[dict[str, Any]]) -> tuple[str, str]:
    """Return what content says and thinks; some servers send it in blocks."""
    if isinstance(content, str):
        return content, ""
    said, thought = "", ""
    for block in content:
        inner = block.get("thinking", block.get("text", ""))
        part = inner if isinstance(inner, str) else "".join(b["text"] for b in inner)
        said, thought = (
            (said, thought + part) if block.get("type") == "thinking" else (said + part, thought)
        )
    return said, thought


def _call(call: dict[str, Any]) -> str:
    """Return what a model wrote of a tool call: its name, its arguments, or a part of them."""
    function = call.get("function") or {}
    return (function.get("name") or "") + (function.get("arguments") or "")
