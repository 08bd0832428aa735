"""06: a client that takes as little time as it can: a stream's bytes get their time before anything
else happens.

A client with a queue, a timeout and several generators between socket and reader costs more for
each chunk than a fast server does, and its delays are then taken for the server's. Here `asyncio`
reads the socket, and `h11`, on which httpx stands, reads HTTP. HTTP/1.1, with or without TLS;
proxies and redirects are not followed.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

import h11

from negfail_nb.agents import transport
from negfail_nb.agents.transport import CONNECT, Server, secure_context
from negfail_nb.settings import EndpointSettings
from negfail_nb.speed.server.events import Answer, Events


class Client:
    """Connections to a server, kept open from request to request.

    Parameters
    ----------
    settings
        Which server. The key is read when the client is made, and stands in no error.
    clock
        Returns seconds; must never go back.

    Raises
    ------
    ModelError
        Where a setting or the key is missing or cannot be right.
    """

    def __init__(
        self, settings: EndpointSettings, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.settings, self.clock = settings, clock
        self.server = Server(settings)  # checks the settings, and knows what refusals mean
        self._address = urlsplit(self.server.address)
        self._headers = [("Host", self._address.netloc), *self.server.headers.items()]
        self._idle: list[_Connection] = []
        self._secure: Any = None

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
        """Have so many connections open, so that opening them is no part of a request.

        Raises
        ------
        OSError
            Where the server cannot be reached.
        """
        self._idle = [connection for connection in self._idle if connection.open]
        more = range(count - len(self._idle))
        self._idle += await asyncio.gather(*(self._open() for _ in more))

    async def ask(self, path: str, body: bytes = b"", method: str = "POST") -> Answer:
        """Send a request, and return what came; a failure stands in the answer's ``error``, in the
        server's words.

        Parameters
        ----------
        path
            Behind the server's ``base_url``; with ``//`` before it, behind the server's name.
        body
            JSON.
        """
        target = (
            path[1:] if path.startswith("//") else self._address.path + path + self.server.query
        )
        headers = [*self._headers, ("Content-Length", str(len(body)))]
        request = h11.Request(method=method, target=target, headers=headers)
        answer = Answer(sent=self.clock())
        try:
            async with asyncio.timeout(self.settings.timeout):
                await self._send(request, body, answer)
        except TimeoutError:
            answer.error = f"timeout: not answered within {self.settings.timeout:g} s (EndpointSettings.timeout)"
            answer.ended = self.clock()
        except OSError as error:
            answer.error = f"cannot reach {self.server.url} ({type(error).__name__}: {error})"
            answer.ended = self.clock()
        return answer

    async def _send(self, request: h11.Request, body: bytes, answer: Answer) -> None:
        connection = self._kept() or await self._open()
        await connection.send(request, body, answer)
        if connection.open:
            self._idle.append(connection)

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def _open(self) -> _Connection:
        loop, secure = asyncio.get_running_loop(), self._address.scheme == "https"
        if secure and not self._secure:
            self._secure = secure_context()
        port = self._address.port or (443 if secure else 80)
        async with asyncio.timeout(CONNECT):
            made = await loop.create_connection(
                lambda: _Connection(self.clock, transport.MOST_BYTES),
                *(self._address.hostname, port),
                ssl=self._secure if secure else None,
            )
        return made[1]


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self._clock, self._http, self._most = clock, h11.Connection(h11.CLIENT), most
        self._answer, self._events = Answer(), Events(Answer())
        self._unpack, self._length = _as_it_is, 0
        self._waiting: asyncio.Future[None] | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    async def send(self, request: h11.Request, body: bytes, answer: Answer) -> None:
        """Send a request and fill its answer; where nobody waits for it any more, the connection is
        closed.
        """
        self._answer, self._events, self._length = answer, Events(answer), 0
        self._waiting = asyncio.get_running_loop().create_future()
        data = (
            self._http.send(request)
            + self._http.send(h11.Data(body))
            + self._http.send(h11.EndOfMessage())
        )
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
            return self._end(now, f"over {self._most / 1e6:g} MB came, which no reply needs")
        if self._answer.streamed:
            self._events.feed(data, now)
        else:
            self._answer.body += data

    def _end(self, now: float, error: str = "") -> None:
        whole = (
            not error and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        )
        if whole:
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
    """Return what unpacks the parts of a body one after the other, and no more of each than is
    asked for.
    """
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # both kinds, by their head
    return lambda data, most: unpack.decompress(data, most)
