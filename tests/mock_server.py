"""A small OpenAI-compatible server on loopback, with fixed delays and scripted faults.

A question "What is 7?" is searched for until the last of ``calls`` replies, which finishes with 7,
or wrong where the temperature is above 0.6. The stop text is not honoured. In a test: ``with
MockServer(faults=["429"]) as server: .. server.url``; as a process: ``python tests/mock_server.py
'{"delay": 0.25}'``, which prints its address.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import threading
from collections import deque
from typing import Any

LONG = (
    "This model's maximum context length is {} tokens. "
    "However, your messages resulted in {} tokens."
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_AUTHORIZATION = re.compile(rb"\r\nauthorization: *([^\r]*)", re.IGNORECASE)
PAGE = b"<!DOCTYPE html><html><body>It works!</body></html>"


class MockServer:
    """The server.

    Parameters
    ----------
    delay
        Seconds before each answer.
    calls
        Replies of an episode.
    faults
        What happens to the first requests, one each: a status ("429", "500"; "429:0.2" with
        Retry-After), "half", "garbage", "empty", "hang", "drop", "html"; "" is no fault.
    always
        The fault of every request whose conversation holds a text.
    key, model, window, refuses, usage
        The only key and model that are taken (empty: any), the longest conversation in words,
        refused fields, and whether tokens are told.
    slots
        Requests that are worked on at once; others wait. 0: no limit.
    caching
        Tokens count as cached only if this server had the conversation before; else always.
    card, tokens
        What its list of models says of its one model, and into what it cuts any text; empty: it
        has no such page.
    port
        Where it listens; 0: a free one.
    """

    def __init__(
        self,
        *,
        delay: float = 0.0,
        calls: int = 2,
        faults: list[str] | tuple[str, ...] = (),
        always: dict[str, str] | None = None,
        key: str = "",
        model: str = "",
        window: int = 0,
        refuses: tuple[str, ...] = (),
        usage: bool = True,
        slots: int = 0,
        caching: bool = False,
        card: dict[str, Any] | None = None,
        tokens: list[int] | None = None,
        port: int = 0,
    ) -> None:
        self.slots, self.waiting, self.working = slots, deque(), 0
        self.pages = {"/v1/models": {"data": [card]} if card else None}
        self.pages["/tokenize"] = {"tokens": tokens} if tokens else None
        self.looks: list[str] = []
        self.caching, self.seen = caching, set()
        self.delay, self.calls, self.faults, self.always = delay, calls, deque(faults), always or {}
        self.key, self.model, self.window, self.refuses, self.usage = (
            key,
            model,
            window,
            refuses,
            usage,
        )
        self.requests: list[dict[str, Any]] = []
        self.connections: set[asyncio.BaseTransport] = set()
        self.connected = 0
        self.most_at_once = self._at_once = 0
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> MockServer:
        self._loop = asyncio.new_event_loop()
        self._stop = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self.run(self._stop),)
        )
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread.is_alive():
            self.kill()
        self._thread.join()
        self._loop.close()

    def kill(self) -> None:
        """Break all connections, and take no more."""
        self._loop.call_soon_threadsafe(lambda: self._stop.done() or self._stop.set_result(None))

    async def run(self, stop: asyncio.Future | None = None) -> None:
        """Serve until stopped; without ``stop`` for good."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), sock=self._socket)
        await (stop or loop.create_future())
        server.close()
        for connection in tuple(self.connections):
            connection.abort()

    def take(self, path: str, authorization: str, body: Any, to: asyncio.Transport) -> None:
        """Take a request, which is answered after the delay."""
        if path in self.pages:
            self.looks.append(path)
            page = self.pages[path]
            to.write(_response(200 if page else 404, json.dumps(page).encode()))
            return
        self.requests.append(body)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self.waiting.append((path, authorization, body, to))
        self._work()

    def _work(self) -> None:
        while self.waiting and not (self.slots and self.working >= self.slots):
            self.working += 1
            given = self.waiting.popleft()
            asyncio.get_running_loop().call_later(self.delay, self._done, given)

    def _done(self, given: tuple[Any, ...]) -> None:
        self._answer(*given)
        self.working -= 1
        self._work()

    def _answer(self, path: str, authorization: str, body: Any, to: asyncio.Transport) -> None:
        said = json.dumps(body) if self.always else ""
        fault = next((f for text, f in self.always.items() if text in said), None)
        fault = fault or (self.faults.popleft() if self.faults else "")
        if fault != "hang":
            self._at_once -= 1
        if fault:
            return self._fail(fault, to)
        status, answer = self._reply(path, authorization, body)
        to.write(_response(status, json.dumps(answer).encode()))

    def _fail(self, fault: str, to: asyncio.Transport) -> None:
        status, _, after = fault.partition(":")
        if status.isdigit():
            wait = f"Retry-After: {after}\r\n" if after else ""
            answer = {"error": {"message": f"scripted {status}", "type": "scripted", "code": None}}
            to.write(_response(int(status), json.dumps(answer).encode(), wait))
        elif fault == "half":
            to.write(
                _response(200, json.dumps(_completion("Action: finish[half]", {})).encode())[:-40]
            )
            to.close()
        elif fault in ("garbage", "empty"):
            to.write(
                _response(
                    200, b'{"choices": [{"mess\x00' if fault == "garbage" else b'{"choices": []}'
                )
            )
        elif fault == "html":
            to.write(_response(200, PAGE, kind="text/html"))
        elif fault == "drop":
            to.close()

    def _reply(self, path: str, authorization: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self.key and authorization != f"Bearer {self.key}":
            return 401, {
                "error": {"message": f"Incorrect API key provided: {authorization.split()[-1]}"}
            }
        if path != "/v1/chat/completions":
            return 404, {"detail": "Not Found"}
        if self.model and body["model"] != self.model:
            return 404, {
                "error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}
            }
        if refused := set(body) & set(self.refuses):
            return 422, {"detail": f"Unexpected fields in the request: {refused}"}
        words = sum(len((m["content"] or "").split()) for m in body["messages"])
        if self.window and words > self.window:
            return 400, {"error": {"message": LONG.format(self.window, words), "code": 400}}
        said = sum(m["role"] == "assistant" for m in body["messages"])
        question = next(m["content"] for m in body["messages"] if m["role"] == "user")
        number = re.search(r"\d+", question)[0]
        answer = number if body["temperature"] <= 0.6 else "wrong"
        action = (
            ("search", "query", question) if said < self.calls - 1 else ("finish", "answer", answer)
        )
        if self.caching:
            earlier = json.dumps(body["messages"][:-2])
            said = said if earlier in self.seen else 0
            self.seen.add(json.dumps(body["messages"]))
        usage = {
            "prompt_tokens": words,
            "completion_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": said},
        }
        return 200, _completion(
            action if "tools" in body else _text(action), usage if self.usage else {}
        )


def _text(action: tuple[str, str, str]) -> str:
    return f"Thought: so\nAction: {action[0]}[{action[2]}]\nObservation: invented"


def _completion(said: str | tuple[str, str, str], usage: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said}
    if not isinstance(said, str):
        function = {"name": said[0], "arguments": json.dumps({said[1]: said[2]})}
        message |= {
            "content": None,
            "tool_calls": [{"id": "call_x", "type": "function", "function": function}],
        }
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "mock",
        "object": "chat.completion",
        "created": 0,
        "choices": [choice],
        "usage": usage,
    }


class RawServer(MockServer):
    """A server whose answers are given as bytes, or as status, JSON and headers; the last of them
    is for good.
    """

    def __init__(self, *answers: bytes | tuple[Any, ...], close: bool = False) -> None:
        super().__init__()
        self.answers, self.close = list(answers), close

    def _answer(self, path: str, authorization: str, body: Any, to: asyncio.Transport) -> None:
        self._at_once -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not isinstance(answer, bytes):
            status, content, *more = answer
            answer = _response(status, json.dumps(content).encode(), *more)
        to.write(answer)
        if self.close:
            to.close()


class _Connection(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self, server: MockServer) -> None:
        self._server, self._read = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.connections.add(transport)
        self._server.connected += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and len(body) >= (int(length[1]) if length else 0):
            self._read = b""
            authorization = _AUTHORIZATION.search(head)
            self._server.take(
                head.split(b" ", 2)[1].decode("latin-1"),
                authorization[1].decode("latin-1") if authorization else "",
                json.loads(body or b"null"),
                self._transport,
            )


def _response(status: int, body: bytes, more: str = "", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} Scripted\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


if __name__ == "__main__":
    server = MockServer(**json.loads(sys.argv[1] if sys.argv[1:] else "{}"))
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    asyncio.run(server.run())
