"""A client that takes as little time as it can: the bytes of a stream get their time before
anything else happens.

A client with a queue, a timeout and several generators between socket and reader costs more per
chunk than a fast server does, and its delays are then taken for the server's. Here `asyncio` reads
the socket, and `h11`, on which httpx stands, reads HTTP. HTTP/1.1, with or without TLS; proxies and
redirects are not followed.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import h11

from negfail_nb.agents import ModelError, transport
from negfail_nb.agents.transport import CONNECT, Server, addresses, secure_context
from negfail_nb.secrets import redact
from negfail_nb.settings import EndpointSettings
from negfail_nb.speed.traces import Chunk

SHOWN = 200  # characters of an event in an error
_MALFORMED = (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError)


@dataclass(slots=True)
class Answer:
    """What came back for a request: fields of a `Trace`, by the client's clock, and more."""

    sent: float = 0.0
    ended: float = 0.0
    status: int = 0
    kind: str = ""  # the content type
    location: str = ""  # where a redirect points
    chunks: list[Chunk] = field(default_factory=list)
    finish: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    drafts: dict[str, Any] = field(default_factory=dict)  # told beside the usage, and put into it
    error: str = ""
    body: bytearray = field(default_factory=bytearray)  # what came, if it is no stream
    done: bool = False  # whether the server said that the stream is over

    @property
    def streamed(self) -> bool:
        """Whether the server answers with a stream of events."""
        return self.status == 200 and self.kind.startswith("text/event-stream")

    @property
    def failure(self) -> str:
        """Why it is no success; empty if it is one."""
        if self.error:
            return self.error
        if 300 <= self.status < 400:
            sent = f"it sends requests on to {self.location}, and redirects are not followed"
            return f"status {self.status}: {sent}"
        if self.status != 200:
            return f"status {self.status}: {' '.join(self.body.decode('utf-8', 'replace').split())}"
        if not self.streamed:
            return f"the answer is no stream, but {self.kind or 'without a content type'}"
        if not any(chunk.spoken for chunk in self.chunks):
            reason = f" (finish_reason {self.finish!r})" if self.finish else ""
            return f"the stream held no text{reason}"
        return "" if self.done or self.finish else "the stream broke off"


class Client:
    """Connections to a server, kept open from request to request.

    The key is read when the client is made, and stands in no error; ``clock`` must never go back.
    """

    def __init__(
        self, settings: EndpointSettings, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.settings = settings
        self.clock = clock
        url, *others = addresses(settings)
        if others:
            raise ModelError(
                f"EndpointSettings.base_url names {1 + len(others)} servers; a load is measured at "
                f"one: keep one of {', '.join(map(redact, (url, *others)))}"
            )
        self.server = Server(settings, url)  # checks the settings, and knows what refusals mean
        self._address = urlsplit(self.server.address)
        self._headers = [("Host", self._address.netloc), *self.server.headers.items()]
        self._idle: list[_Connection] = []
        self._secure: Any = secure_context() if self._address.scheme == "https" else None

    async def __aenter__(self) -> Self:
        """Return the client itself; leaving closes its connections."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connections."""
        for connection in self._idle:
            connection.transport.abort()
        self._idle.clear()
        await self.server.close()

    async def connect(self, count: int) -> None:
        """Have ``count`` connections open, so that opening them is no part of a request."""
        self._idle = [connection for connection in self._idle if connection.open]
        more = range(count - len(self._idle))
        self._idle += await asyncio.gather(*(self._open() for _ in more))

    async def ask(self, path: str, body: bytes = b"", method: str = "POST") -> Answer:
        """Send a request, and return what came; failures stand in the answer, in its words.

        ``path`` is behind the server's ``base_url``; with ``//`` before it, behind its name.
        """
        target = self._address.path + path + self.server.query
        if path.startswith("//"):
            target = path[1:]
        headers = [*self._headers, ("Content-Length", str(len(body)))]
        request = h11.Request(method=method, target=target, headers=headers)
        answer = Answer(sent=self.clock())
        seconds = self.settings.timeout
        try:
            async with asyncio.timeout(seconds):
                await self._send(request, body, answer)
        except TimeoutError:
            answer.error = f"timeout: not answered within {seconds:g} s (EndpointSettings.timeout)"
            answer.ended = self.clock()
        except OSError as error:
            answer.error = f"cannot reach {self.server.url} ({type(error).__name__}: {error})"
            answer.ended = self.clock()
        return answer

    async def _send(self, request: h11.Request, body: bytes, answer: Answer) -> None:
        while self._idle and not self._idle[-1].open:
            self._idle.pop()
        connection = self._idle.pop() if self._idle else await self._open()
        await connection.send(request, body, answer)
        if connection.open:
            self._idle.append(connection)

    async def _open(self) -> _Connection:
        port = self._address.port or (443 if self._secure else 80)
        async with asyncio.timeout(CONNECT):
            made = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self.clock, transport.MOST_BYTES),
                self._address.hostname,
                port,
                ssl=self._secure,
            )
        return made[1]


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self._clock, self._http, self._most = clock, h11.Connection(h11.CLIENT), most
        self._answer, self._events = Answer(), Events(Answer())
        self._unpack = _as_it_is
        self._length = 0
        self._waiting: asyncio.Future[None] | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    async def send(self, request: h11.Request, body: bytes, answer: Answer) -> None:
        """Send a request and fill its answer; the connection closes if nobody waits any more."""
        self._answer, self._events, self._length = answer, Events(answer), 0
        self._waiting = asyncio.get_running_loop().create_future()
        events = (request, h11.Data(body), h11.EndOfMessage())
        data = b"".join(map(self._http.send, events))
        answer.sent = self._clock()
        self.transport.write(data)
        try:
            await self._waiting
        except asyncio.CancelledError:
            self._close()
            raise

    def data_received(self, data: bytes) -> None:
        now = self._clock()  # first of all
        try:
            self._http.receive_data(data)
            while self._waiting and not self._waiting.done():
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._take(event, now)
        except (h11.RemoteProtocolError, zlib.error) as error:
            self._end(now, f"the connection was lost, or is no HTTP ({error})")

    def eof_received(self) -> None:
        self.data_received(b"")

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._end(self._clock(), f"the connection was lost ({error or 'closed by the server'})")

    def _take(self, event: Any, now: float) -> None:
        if type(event) is h11.Data:
            self._read(event.data, now)
        elif type(event) is h11.Response:
            self._begin(event)
        elif type(event) is h11.EndOfMessage:
            self._end(now)
        elif type(event) is h11.ConnectionClosed:
            self._end(now, "the connection was closed by the server")

    def _begin(self, response: h11.Response) -> None:
        headers = {name: value.decode("latin-1") for name, value in response.headers}
        self._answer.status = response.status_code
        self._answer.kind = headers.get(b"content-type", "").lower()
        self._answer.location = headers.get(b"location", "")
        packed = headers.get(b"content-encoding", "identity").lower()
        self._unpack = _unpacker() if packed in ("gzip", "deflate") else _as_it_is
        if packed not in ("identity", "", "gzip", "deflate"):
            self._answer.error = f"the answer is packed by {packed}, although none was asked for"

    def _read(self, data: bytes | bytearray, now: float) -> None:
        """Take a part of the body; what is longer than a reply can be is not read on."""
        data = self._unpack(data, self._most - self._length + 1)
        self._length += len(data)
        if self._length > self._most:
            self._end(now, f"over {self._most / 1e6:g} MB came, which no reply needs")
        elif self._answer.streamed:
            self._events.feed(data, now)
        else:
            self._answer.body += data

    def _end(self, now: float, error: str = "") -> None:
        states = {self._http.our_state, self._http.their_state}
        if not error and states == {h11.DONE}:
            self._http.start_next_cycle()
        else:
            self._close()
        if self._waiting and not self._waiting.done():
            self._answer.ended = now
            self._answer.error = error or self._answer.error
            self._waiting.set_result(None)

    def _close(self) -> None:
        self.open = False
        self.transport.abort()


def _as_it_is(data: bytes | bytearray, most: int) -> bytes | bytearray:
    return data


def _unpacker() -> Callable[[bytes | bytearray, int], bytes]:
    """Return what unpacks the parts of a body in turn, and no more than is asked for."""
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # both kinds, by their head
    return lambda data, most: unpack.decompress(data, most)


class Events:
    """Reads the lines of a stream into an answer, however its bytes are cut."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._rest = b""
        self._kind = b""
        self._begun = b""

    def feed(self, data: bytes | bytearray, now: float) -> None:
        """Read on; what is complete now gets this time."""
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = bytes(lines.pop())
        for line in lines:
            if line.startswith(b"data:"):
                self._data(line[5:].strip(), now)
            elif not line.strip():  # the end of an event
                if self._begun:
                    self._refuse(self._begun)
                self._kind = self._begun = b""
            elif line.startswith(b"event:"):
                self._kind = line[6:].strip()
            # others are comments that keep the connection alive, names, or waits

    def _data(self, data: bytes | bytearray, now: float) -> None:
        """Take a line of data, mostly a whole event; some servers put nothing between two."""
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

    def _refuse(self, data: bytes) -> None:
        shown = data[:SHOWN].decode("utf-8", "replace")
        said = shown if self._kind == b"error" else f"an event is no chunk of a completion: {shown}"
        self._answer.error = self._answer.error or said

    def _take(self, event: dict[str, Any], now: float) -> None:
        answer = self._answer
        if said := _error_in(event, self._kind):
            answer.error = answer.error or said
            return
        if told := _drafts_in(event):
            answer.drafts = told
        usage = event.get("usage")
        choices = event.get("choices") or []
        if isinstance(usage, dict):
            answer.usage = usage
        answer.usage |= answer.drafts
        if not choices and not usage:
            return  # a sign of life
        chunk = _chunk(choices, usage, now)
        answer.chunks.append(chunk)
        if chunk.choices:
            answer.finish = choices[0].get("finish_reason") or answer.finish


def _drafts_in(event: dict[str, Any]) -> dict[str, Any]:
    """Return what vLLM and llama.cpp tell of speculative decoding, beside the usage."""
    metrics, timings = event.get("metrics"), event.get("timings")
    if isinstance(metrics, dict) and isinstance(metrics.get("speculative_decoding"), dict):
        return {"speculative_decoding": metrics["speculative_decoding"]}
    if isinstance(timings, dict) and "draft_n" in timings:
        return {"timings": timings}
    return {}


def _error_in(event: dict[str, Any], kind: bytes) -> str:
    """Return the error that an event tells of, or an empty text."""
    said = event.get("error")
    if not said and (kind == b"error" or event.get("object") == "error"):
        said = event
    if isinstance(said, dict):
        said = said.get("message") or said.get("detail") or json.dumps(said, ensure_ascii=False)
    return str(said)[:SHOWN] if said else ""


def _chunk(choices: list[dict[str, Any]], usage: Any, now: float) -> Chunk:
    """Return an event as a chunk. The usage of a chunk with choices tells the tokens so far."""
    if not choices:
        return Chunk(now, choices=False)
    said = choices[0].get("delta") or {}
    text, thought = _texts(said.get("content") or choices[0].get("text") or "")
    text += said.get("refusal") or ""
    for call in said.get("tool_calls") or []:
        function = call.get("function") or {}
        text += (function.get("name") or "") + (function.get("arguments") or "")
    thought += said.get("reasoning_content") or said.get("reasoning") or ""
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Chunk(now, text, thought, tokens if type(tokens) is int else None)


def _texts(content: str | list[dict[str, Any]]) -> tuple[str, str]:
    """Return what content says and thinks; some servers send it in blocks."""
    if isinstance(content, str):
        return content, ""
    texts = {True: "", False: ""}
    for block in content:
        inner = block.get("thinking", block.get("text", ""))
        part = inner if isinstance(inner, str) else "".join(b["text"] for b in inner)
        texts[block.get("type") == "thinking"] += part
    return texts[False], texts[True]
