"""A small OpenAI-compatible server on loopback that streams tokens at fixed times, as several real
servers do.

Token ``k`` of a reply leaves ``ttft + k * itl`` seconds after its request came, whatever happened
before it. In a test: ``with StreamServer(kind="vllm") as server: .. server.url``; as a process:
``python tests/stream_server.py '{"ttft": 0.1}'``, which prints its address.
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

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
KNOWN = {
    "messages",
    "prompt",
    "model",
    "stream",
    "max_tokens",
    "temperature",
    "seed",
    "stop",
    "generation_config",
}
FIXED_LENGTH = {
    "vllm": {"ignore_eos", "min_tokens"},
    "sglang": {"ignore_eos", "min_tokens"},
    "llama.cpp": {"ignore_eos"},
}
RESETS = {"vllm": "/reset_prefix_cache", "sglang": "/flush_cache"}
_PLAIN = (
    b'data: {"id":"mock","object":"chat.completion.chunk","created":0,'
    b'"choices":[{"index":0,"delta":{%b"%b":"%b"},"finish_reason":null}]}\n\n'
)
_SHORT = {
    "choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]
}
BLOCK = 16  # words of a block of the prefix cache


class StreamServer:
    """The server.

    Parameters
    ----------
    kind
        Whose manners it has: "vllm", "sglang", "transformers", "llama.cpp"; "" is a plain one.
    ttft, itl
        Seconds to the first token, and between tokens.
    tokens
        Where a reply ends by itself, unless the request sets ``ignore_eos``.
    merged
        Tokens that one chunk carries.
    thoughts
        How many tokens of a chat's reply are reasoning, before its answer begins.
    drafted
        Of so many drafted tokens a step, all but one are accepted, and the server tells it as vLLM
        does; 0: no speculative decoding. Give ``merged`` to match.
    faults
        What happens to the first completions, one each: a status ("429", "500"), "loading" (503, as
        llama.cpp says it), "silent" (an empty stream), "role" (only a chunk without text), "drop"
        (after two chunks), "hang", "garbage", "error" (an error event), "html", "quote" (a refusal
        with the request's head in it), or, as bytes, the whole answer to a stream; "" is no fault.
    fault
        What happens to all further streams.
    model, usage, cache
        The only model that is taken (empty: any), whether tokens are told, and whether prefixes are
        cached.
    """

    def __init__(
        self,
        *,
        kind: str = "",
        ttft: float = 0.0,
        itl: float = 0.0,
        tokens: int = 8,
        merged: int = 1,
        thoughts: int = 0,
        drafted: int = 0,
        faults: list[str | bytes] | tuple[str | bytes, ...] = (),
        fault: str | bytes = "",
        model: str = "",
        usage: bool = True,
        cache: bool = True,
    ) -> None:
        self.kind, self.ttft, self.itl, self.tokens, self.merged = kind, ttft, itl, tokens, merged
        self.thoughts, self.drafted = thoughts, drafted
        self.faults, self.fault, self.model, self.usage, self.cache = (
            deque(faults),
            fault,
            model,
            usage,
            cache,
        )
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.head = ""
        self.seen: set[int] = set()
        self.at_once = self.most_at_once = 0
        self.connections: set[asyncio.BaseTransport] = set()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> StreamServer:
        self._loop = asyncio.new_event_loop()
        self._stop = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self.run(self._stop),)
        )
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set_result, None)
        self._thread.join()
        self._loop.close()

    async def run(self, stop: asyncio.Future | None = None) -> None:
        """Serve until stopped; without ``stop`` for good."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), sock=self._socket)
        await (stop or loop.create_future())
        server.close()
        for connection in tuple(self.connections):
            connection.abort()

    def take(self, path: str, body: Any, to: asyncio.Transport) -> None:
        """Answer a request."""
        self.paths.append(path)
        if not path.endswith("/completions"):
            return to.write(_json(*self._look_up(path)))
        self.requests.append(body)
        fault = self.faults.popleft() if self.faults else self.fault
        if isinstance(fault, bytes):
            return to.write(fault) if body.get("stream") else to.write(_json(200, _SHORT))
        if fault in ("hang", "html", "quote", "loading") or fault.isdigit():
            return self._fail(fault, to)
        if refusal := self._refusal(body):
            return to.write(_json(*refusal))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        reply = _Reply(self, body, path, fault, to)
        reply.begin() if body.get("stream") else asyncio.get_running_loop().call_later(
            self.ttft + (reply.count - 1) * self.itl, reply.whole
        )

    def cached(self, words: list[str]) -> int:
        """Return how many words at the start of a prompt were seen before, in whole blocks, and
        remember all.
        """
        blocks = [hash(tuple(words[:end])) for end in range(BLOCK, len(words), BLOCK)]
        known = next((n for n, block in enumerate(blocks) if block not in self.seen), len(blocks))
        self.seen.update(blocks)
        return known * BLOCK if self.cache else 0

    def _fail(self, fault: str, to: asyncio.Transport) -> None:
        if fault == "html":
            to.write(
                _response(200, b"<!DOCTYPE html><html><body>It works!</body></html>", "text/html")
            )
        elif fault == "quote":
            to.write(_json(500, {"error": {"message": self.head}}))
        elif fault == "loading":
            to.write(
                _json(503, {"error": {"message": "Loading model", "type": "unavailable_error"}})
            )
        elif fault != "hang":
            to.write(_json(int(fault), {"error": {"message": f"scripted {fault}"}}))

    def _look_up(self, path: str) -> tuple[int, Any]:
        if path == "/v1/models":
            owner = "llamacpp" if self.kind == "llama.cpp" else self.kind
            models = (
                []
                if self.kind == "transformers"
                else [{"id": self.model or "mock", "owned_by": owner}]
            )
            return 200, {"object": "list", "data": models}
        if path == RESETS.get(self.kind):
            self.seen.clear()
            return 200, {}
        return (200, {"status": "ok"}) if path == "/health" else (404, {"detail": "Not Found"})

    def _refusal(self, body: dict[str, Any]) -> tuple[int, Any] | None:
        if self.model and body["model"] != self.model:
            return 404, {
                "error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}
            }
        unknown = set(body) - KNOWN - {"stream_options"}
        if self.kind == "transformers" and unknown:
            return 422, {"detail": f"Unexpected fields in the request: {unknown}"}
        return None


class _Reply:
    """One reply, on its way."""

    def __init__(
        self,
        server: StreamServer,
        body: dict[str, Any],
        path: str,
        fault: str,
        to: asyncio.Transport,
    ) -> None:
        self.server, self.fault, self.to = server, fault, to
        self.chat = path.endswith("chat/completions")
        given = (
            " ".join(_text(m["content"]) for m in body["messages"]) if self.chat else body["prompt"]
        )
        words = given.split()
        self.prompt, self.cached = len(words), server.cached(words)
        self.most = body.get("max_tokens") or body.get("max_completion_tokens") or server.tokens
        self.count = self.most if self._endless(body) else min(self.most, server.tokens)
        self.finish = "length" if self.count == self.most else "stop"
        options = body.get("stream_options") or {}
        self.include = server.usage and bool(options.get("include_usage"))
        self.always = (
            self.include
            and bool(options.get("continuous_usage_stats"))
            and server.kind in ("vllm", "sglang")
        )
        self.sent = 0

    def begin(self) -> None:
        self.to.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        self.start = loop.time() + self.server.ttft
        if self.fault == "silent":
            return self._end()
        if self.server.kind and self.chat:
            self._event({"role": "assistant", "content": ""})
        if self.fault == "role":
            return self._end()
        loop.call_at(self.start, self._step)

    def whole(self) -> None:
        self.server.at_once -= 1
        text = "".join(f"t{n} " for n in range(self.count))
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, "finish_reason": self.finish, **said}
        self.to.write(
            _json(200, {"id": "mock", "choices": [choice], "usage": self._usage(self.count)})
        )

    def _endless(self, body: dict[str, Any]) -> bool:
        if self.server.kind == "transformers" and "generation_config" in body:
            return json.loads(body["generation_config"]).get("eos_token_id") == -1
        return bool(body.get("ignore_eos")) and "ignore_eos" in FIXED_LENGTH.get(
            self.server.kind, ()
        )

    def _step(self) -> None:
        if self.to.is_closing():
            self.server.at_once -= 1
            return
        if self.fault in ("drop", "garbage", "error") and self.sent >= 2:
            return self._break()
        step = min(self.server.merged, self.count - self.sent)
        kind = "reasoning_content" if self.sent < self.server.thoughts else "content"
        text = "".join(f"t{n} " for n in range(self.sent, self.sent + step))
        self.sent += step
        last = self.sent >= self.count
        self._event({kind: text} if self.chat else text, self.finish if last else None)
        if last:
            return self._end()
        asyncio.get_running_loop().call_at(self.start + self.sent * self.server.itl, self._step)

    def _event(self, said: Any, finish: str | None = None) -> None:
        if self.chat and not (finish or self.always):
            return self._write_plain(said)
        choice = {
            "index": 0,
            "finish_reason": finish,
            **({"delta": said} if self.chat else {"text": said}),
        }
        event: dict[str, Any] = {
            "id": "mock",
            "object": "chat.completion.chunk",
            "created": 0,
            "choices": [choice],
        }
        told = self.always or (finish and self.server.kind == "transformers" and self.server.usage)
        self._write(event | ({"usage": self._usage(self.sent)} if told else {}))

    def _end(self) -> None:
        self.server.at_once -= 1
        if (
            self.include
            and self.server.kind != "transformers"
            and self.fault not in ("silent", "role")
        ):
            self._write(
                {
                    "id": "mock",
                    "object": "chat.completion.chunk",
                    "choices": [],
                    "usage": self._usage(self.sent),
                    **self._drafts(),
                }
            )
        self.to.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    def _drafts(self) -> dict[str, Any]:
        drafted = self.server.drafted
        if not drafted:
            return {}
        steps = -(-(self.sent - 1) // drafted)  # each adds the accepted ones and one more
        told = {"num_spec_steps": steps, "num_draft_tokens": drafted * steps}
        told["num_accepted_draft_tokens"] = self.sent - 1 - steps
        return {"metrics": {"speculative_decoding": told}}

    def _break(self) -> None:
        self.server.at_once -= 1
        if self.fault == "drop":
            return self.to.abort()
        error = b'data: {"error": {"message": "the engine died", "code": 500}}\n\n'
        self.to.write(
            _chunk(b'data: {"choi\n\n' if self.fault == "garbage" else error) + b"0\r\n\r\n"
        )

    def _write_plain(self, said: dict[str, str]) -> None:
        """Write what most events are, as fast as possible: the server is not what is measured."""
        role = b'"role":"assistant",' if "role" in said else b""
        kind = "content" if "content" in said else "reasoning_content"
        self.to.write(_chunk(_PLAIN % (role, kind.encode(), said[kind].encode())))

    def _write(self, event: dict[str, Any]) -> None:
        self.to.write(
            _chunk(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")
        )

    def _usage(self, sent: int) -> dict[str, Any]:
        details = (
            {"prompt_tokens_details": {"cached_tokens": self.cached}}
            if self.server.kind != "transformers"
            else {}
        )
        sent += (
            self.finish == "stop" and sent == self.count
        )  # the end token counts, and says nothing
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": sent,
            "total_tokens": self.prompt + sent,
            **details,
        }


class _Connection(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self, server: StreamServer) -> None:
        self._server, self._read = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        # Else small writes wait for the answer to the last one, up to 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.connections.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and len(body) >= (int(length[1]) if length else 0):
            self._read = b""
            self._server.head = head.decode("latin-1")
            self._server.take(
                self._server.head.split(" ", 2)[1], json.loads(body or b"null"), self._transport
            )


def _text(content: Any) -> str:
    return (
        " ".join(part["text"] for part in content) if isinstance(content, list) else content or ""
    )


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(status: int, value: Any) -> bytes:
    return _response(status, json.dumps(value).encode())


def _response(status: int, body: bytes, kind: str = "application/json") -> bytes:
    return (
        f"HTTP/1.1 {status} Scripted\r\nContent-Type: {kind}\r\n".encode()
        + f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


if __name__ == "__main__":
    server = StreamServer(**json.loads(sys.argv[1] if sys.argv[1:] else "{}"))
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    asyncio.run(server.run())
