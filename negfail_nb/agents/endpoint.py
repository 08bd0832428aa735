"""A model behind an OpenAI-compatible server, such as vLLM, SGLang, llama.cpp or OpenAI."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from negfail_nb.agents.protocol import EpisodeTooLong, ModelError, Reply, Sampling
from negfail_nb.agents.refusals import FieldRefused, TryAgain
from negfail_nb.agents.servers import Servers
from negfail_nb.agents.spending import BudgetSpent, lose_nothing
from negfail_nb.agents.transport import Server
from negfail_nb.logs.messages import as_messages
from negfail_nb.settings import EndpointSettings
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, replace_surrogates

FAILURES_IN_A_ROW = 16  # lost replies after which the server counts as gone
# Strict servers refuse any other field of a message.
SENT = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # as servers call them
_TOLD = re.compile(rb'"(prompt|completion)_tokens"\s*:\s*(\d{1,12})\b')
_MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)

logger = logging.getLogger("negfail_nb")


class EndpointModel:
    """A model behind one or several OpenAI-compatible servers, asked for chat completions.

    Retried with back-off: 408, 409, 429, 5xx, timeouts, lost connections, answers that break off or
    are no JSON. ``Retry-After`` is honoured up to five minutes; a server that loads its model is
    waited for. A server that refuses ``seed``, ``stop`` or ``reasoning_content`` is asked without
    them from then on; if it takes no system message, that goes before the first user turn. One
    warning says so. The key is read when the model is entered, and is in no error.

    Of several servers, a conversation stays with the one that has its beginning in its cache, and a
    new one goes to the least busy. A server that cannot be reached, does not answer in time, or
    fails after all retries is left out for a while, and its conversations go on at the others.

    Parameters
    ----------
    settings
        Which servers, and which of their models.
    first_wait
        Seconds before the second try; doubled for each further one, and jittered.

    Attributes
    ----------
    lose
        Called with the prompt and completion tokens of each answer that cannot be used.
    """

    window: int | None = None
    tokenizer: Any = None  # of a served model, for those who count its tokens beforehand

    def __init__(
        self, settings: EndpointSettings = EndpointSettings(), *, first_wait: float = 0.5
    ) -> None:
        self.settings = settings
        self.name = settings.model
        self.first_wait = first_wait
        self.lose = lose_nothing
        self._servers: Servers | None = None
        self._limit = "max_tokens"
        self._left_out: set[str] = set()
        self._lost = 0
        self._said: set[str] = set()

    @property
    def content(self) -> str:
        """The model's name: what a server does under it cannot be looked into."""
        return self.name

    async def __aenter__(self) -> Self:
        servers = Servers(self.settings, self.first_wait)
        try:
            await servers.open()
        except BaseException:
            await servers.close()
            raise
        self._servers = servers
        self._lost = 0
        return self

    async def __aexit__(self, *error: object) -> None:
        servers = self._servers
        self._servers = None
        if servers:
            await servers.close()

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Return the next assistant message; see `Model.reply`.

        Raises
        ------
        ModelError
            Unknown host, wrong key, unknown model, a web page instead of an answer, many lost
            replies in a row, or no server of several that answers.
        RuntimeError
            If this one reply could not be had; the text gives the last reason.
        """
        if self._servers is None:
            raise ModelError(
                "the model is not entered; write: async with model: .. await model.reply(..)"
            )
        try:
            reply = await self._with_tries(self._servers, messages, sampling, tools)
        except (ModelError, EpisodeTooLong, BudgetSpent):
            raise
        except Exception as error:
            self._lost += 1
            if self._lost < FAILURES_IN_A_ROW:
                raise
            raise ModelError(
                f"{self._lost} replies in a row were lost; the last: {error}"
            ) from None
        self._lost = 0
        self._check_window(self._servers.window, reply, sampling)
        return reply

    async def _with_tries(
        self,
        servers: Servers,
        messages: Sequence[Message],
        sampling: Sampling,
        tools: Sequence[dict[str, Any]],
    ) -> Reply:
        turn = servers.turn(messages, sampling)
        while True:
            try:
                async with turn.server() as server:
                    body = self._body(messages, sampling, tools)
                    start = time.perf_counter()
                    content = await server.post(body)
                    return self._read(server, body, content, time.perf_counter() - start)
            except FieldRefused as refusal:
                self._leave_out(server, refusal)
            except TryAgain as reason:
                await turn.pause(reason)

    def _check_window(self, window: int | None, reply: Reply, sampling: Sampling) -> None:
        """Refuse what the server with the smallest window would have refused, and pay for it."""
        if window is None or reply.prompt_tokens is None:
            return
        if reply.prompt_tokens + sampling.max_tokens > window:
            self.lose(reply.prompt_tokens, reply.completion_tokens or 0)
            raise EpisodeTooLong(
                f"the conversation has {reply.prompt_tokens} tokens, and a reply may have "
                f"{sampling.max_tokens}: more than the {window} of the server with the smallest "
                "window"
            )

    def _body(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        kept = [field for field in SENT if field not in self._left_out]
        sent = [{k: m[k] for k in kept if k in m} for m in messages]
        body: dict[str, Any] = {
            "model": self.name,
            "messages": _folded(sent) if "system" in self._left_out else sent,
            "temperature": sampling.temperature,
            self._limit: sampling.max_tokens,
        }
        optional = {
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "tools": list(tools) or None,
        }
        given = {k: v for k, v in optional.items() if v is not None and k not in self._left_out}
        return body | given

    def _leave_out(self, server: Server, refusal: FieldRefused) -> None:
        """Leave the field out from now on; requests under way may be refused for it once more."""
        if refusal.field == "max_tokens":
            self._limit = "max_completion_tokens"
        elif refusal.field not in self._left_out:
            done = "it is left out from now on"
            if refusal.field == "system":
                done = "the instruction is put before the first user turn from now on"
            logger.warning("%s takes no %r; %s (%s)", server.url, refusal.field, done, refusal)
            self._left_out.add(refusal.field)

    def _read(self, server: Server, body: dict[str, Any], content: bytes, seconds: float) -> Reply:
        """Return an answer as a reply; one that cannot be used is paid for, and raised."""
        try:
            answer = replace_surrogates(json.loads(content))
            error = _error_in(answer)
            reply = None if error else self._reply(answer, body, len(content), seconds)
        except _MALFORMED:
            error = reply = None
        if reply is None:
            told = {kind: int(count) for kind, count in _TOLD.findall(content)}
            self.lose(told.get(b"prompt", 0), told.get(b"completion", 0))
        if error:
            raise server.meaning(server.refusal(error, _status(error)), body)
        if reply is None:
            said = server.short(content.decode("utf-8", "replace"))
            raise TryAgain(f"the answer is no chat completion: {said}")
        self._warn_of_silence(reply)
        return reply

    def _reply(
        self, answer: dict[str, Any], body: dict[str, Any], size: int, seconds: float
    ) -> Reply:
        choice = answer["choices"][0]
        message = _message(choice["message"])
        usage = _object(answer.get("usage"))
        details = _object(usage.get("prompt_tokens_details"))
        # A token has at least a byte; a template or hidden thoughts add some thousands.
        prompt = self._count(usage, "prompt_tokens", 1, 2 * len(json.dumps(body)) + 10_000)
        cached = self._count(details, "cached_tokens", 0, 10**9)
        if prompt is not None and cached is not None and cached > prompt:
            prompt += cached  # some count only what was not cached
        said = text(message), message.get("tool_calls"), message.get("reasoning_content")
        most = 2 * body[self._limit if self._limit in body else "max_tokens"] + size + 1000
        return Reply(
            message=message,
            finish_reason=str(choice.get("finish_reason") or "stop"),
            prompt_tokens=prompt,
            completion_tokens=self._count(usage, "completion_tokens", int(any(said)), most),
            cached_tokens=cached,
            seconds=seconds,
        )

    def _count(self, usage: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
        """Return a server's count of tokens, if it can be right."""
        told = usage.get(name)
        if type(told) is float and told.is_integer():
            told = int(told)
        if type(told) is not int:
            return None
        if low <= told <= high:
            return told
        said = "%s says %s %d, which cannot be; such counts are taken as unknown"
        self._say(name, said, self.name, name, told)
        return None

    def _warn_of_silence(self, reply: Reply) -> None:
        """Warn once if a reply says nothing, as happens with models that think at length."""
        if reply.message["content"] or "tool_calls" in reply.message:
            return
        if reply.finish_reason == "length":
            said = "%s ran out of tokens before it answered; raise LiveSettings.max_tokens"
            self._say("length", said, self.name)
        if reply.finish_reason == "content_filter":
            said = "%s: the server's content filter withheld a reply; it counts as empty"
            self._say("filter", said, self.name)

    def _say(self, what: str, said: str, *given: Any) -> None:
        """Warn once."""
        if what not in self._said:
            self._said.add(what)
            logger.warning(said, *given)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _folded(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the system message before the first user turn, for templates without a system role."""
    said = [text(m) for m in messages if m["role"] == "system"]
    others = [m for m in messages if m["role"] != "system"]
    first = next((n for n, m in enumerate(others) if m["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": "\n\n".join(said)}, *others]
    asked = others[first]
    others[first] = asked | {"content": "\n\n".join([*said, text(asked)])}
    return others


def _error_in(answer: Any) -> Any:
    """Return the error in an answer with status 200, as some proxies send it, or ``None``."""
    if not isinstance(answer, dict):
        return None
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if isinstance(choice, dict) and choice.get("error"):
        return choice["error"]
    if answer.get("error") and not choice:
        return answer["error"]
    return answer if answer.get("object") == "error" and not choice else None


def _status(error: Any) -> int:
    """Return the status that an error names, else that of a broken server."""
    code = error.get("code") or error.get("status") if isinstance(error, dict) else None
    return int(code) if str(code).isdigit() and 400 <= int(code) < 600 else 500


def _message(raw: dict[str, Any]) -> Message:
    """Return a server's message in one form, with thoughts as ``reasoning_content``."""
    given = {k: raw.get(k) for k in ("content", "tool_calls", "function_call")}
    parts = given["content"] if isinstance(given["content"], list) else []
    thoughts = [raw[name] for name in THOUGHTS if isinstance(raw.get(name), str) and raw[name]][:1]
    thoughts += [_thought(part) for part in parts if _is_thought(part)]
    if parts:
        given["content"] = [part for part in parts if not _is_thought(part)]
    if not given["content"] and isinstance(raw.get("refusal"), str):
        given["content"] = raw["refusal"]  # what the model said instead of an answer
    message = as_messages([{"role": "assistant", **given}])[0]
    for number, call in enumerate(message.get("tool_calls", ())):
        call.setdefault("id", f"call_{number}")
    return message | ({"reasoning_content": "".join(thoughts)} if thoughts else {})


def _is_thought(part: Any) -> bool:
    kinds = ("thinking", "reasoning", "redacted_thinking")
    return isinstance(part, dict) and str(part.get("type")) in kinds


def _thought(part: dict[str, Any]) -> str:
    """Return the text of a block of thought, which is a text or a list of blocks."""
    inner = next((part[k] for k in ("thinking", "reasoning", "text") if part.get(k)), "")
    blocks = inner if isinstance(inner, list) else [inner]
    return "".join(b if isinstance(b, str) else str(b.get("text", "")) for b in blocks)
