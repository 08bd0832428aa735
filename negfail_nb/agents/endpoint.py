"""A model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, ``transformers serve``,
OpenAI itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from negfail_nb.agents.protocol import EpisodeTooLong, ModelError, Reply, Sampling
from negfail_nb.agents.refusals import FieldRefused, TryAgain
from negfail_nb.agents.spending import BudgetSpent, lose_nothing
from negfail_nb.agents.transport import Server
from negfail_nb.logs.fields import messages as as_messages
from negfail_nb.logs.jsontext import mend
from negfail_nb.settings import EndpointSettings
from negfail_nb.steps import text
from negfail_nb.trajectory import Message

LONGEST_WAIT = 60.0  # seconds between two tries ..
LONGEST_ASKED_WAIT = 300.0  # .. and where the server asks for more
FAILURES_IN_A_ROW = 16  # lost replies, none good in between, after which the server counts as gone
# Strict servers refuse any other field of a message.
SENT = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # as servers call them
_TOLD = re.compile(rb'"(prompt|completion)_tokens"\s*:\s*(\d{1,12})\b')
_MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)

logger = logging.getLogger("negfail_nb")


class EndpointModel:
    """A model behind an OpenAI-compatible server, asked for chat completions.

    Tried again, with back-off: 408, 409, 429, 5xx, timeouts, lost connections, answers that break
    off or are no JSON. ``Retry-After`` is honoured up to five minutes; a server that is loading its
    model is waited for. A server that refuses ``seed``, ``stop`` or ``reasoning_content`` is asked
    without them from then on; of one that takes no system message, it becomes the begin of the
    first user turn. One warning says so. The key is read when the model is entered and stands in no
    error.

    Attributes
    ----------
    lose
        Called with the prompt and completion tokens of each answer of which nothing could be used.

    Parameters
    ----------
    settings
        Which server, and which of its models.
    first_wait
        Seconds before the second try; doubled for each further one, and jittered.
    """

    window: int | None = None

    def __init__(
        self, settings: EndpointSettings = EndpointSettings(), *, first_wait: float = 0.5
    ) -> None:
        self.settings, self.name, self.first_wait = settings, settings.model, first_wait
        self._server: Server | None = None
        self._limit, self._left_out = "max_tokens", set[str]()
        self._lost, self._said = 0, set[str]()
        self.lose = lose_nothing

    async def __aenter__(self) -> Self:
        """Get ready to ask.

        Raises
        ------
        ModelError
            Where a setting or the key is missing or cannot be right.
        """
        self._server, self._lost = Server(self.settings), 0
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connections."""
        server, self._server = self._server, None
        if server:
            await server.close()

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Return the next assistant message; see `negfail_nb.agents.protocol.Model`.

        Raises
        ------
        ModelError
            Unknown host, wrong key, unknown model, a web page instead of an answer, or many lost
            replies in a row.
        EpisodeTooLong
            Where the server says so.
        RuntimeError
            Where this one reply could not be had; the text gives the last reason.
        """
        if self._server is None:
            raise ModelError(
                "the model is not entered; write: async with model: .. await model.reply(..)"
            )
        try:
            reply = await self._with_tries(self._server, messages, sampling, tools)
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
        return reply

    async def _with_tries(
        self,
        server: Server,
        messages: Sequence[Message],
        sampling: Sampling,
        tools: Sequence[dict[str, Any]],
    ) -> Reply:
        tries = 0
        while True:
            start, body = time.perf_counter(), self._body(messages, sampling, tools)
            try:
                content = await server.post(body)
                return self._read(server, body, content, time.perf_counter() - start)
            except FieldRefused as refusal:
                self._leave_out(server, refusal)
                continue
            except TryAgain as reason:
                tries += 1
                if tries > self.settings.retries:
                    kind = RuntimeError if server.answered else ModelError
                    raise kind(
                        f"{server.url}: no reply in {tries} tries; the last: {reason}"
                    ) from None
                wait = min(self.first_wait * 2 ** (tries - 1), LONGEST_WAIT) * random.uniform(
                    0.5, 1.0
                )
                wait = max(wait, min(reason.wait, LONGEST_ASKED_WAIT))
                logger.info("%s; trying again in %.1f s", reason, wait)
            await asyncio.sleep(wait)

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
        return body | {
            k: v for k, v in optional.items() if v is not None and k not in self._left_out
        }

    def _leave_out(self, server: Server, refusal: FieldRefused) -> None:
        """Send the field no more; requests that were under way may be refused for it once more."""
        if refusal.field == "max_tokens":
            self._limit = "max_completion_tokens"
        elif refusal.field not in self._left_out:
            done = "it is left out from now on"
            if refusal.field == "system":
                done = "the instruction is put before the first user turn from now on"
            logger.warning("%s takes no %r; %s (%s)", server.url, refusal.field, done, refusal)
            self._left_out.add(refusal.field)

    def _read(self, server: Server, body: dict[str, Any], content: bytes, seconds: float) -> Reply:
        """Return an answer as a reply; one of which nothing can be used is paid for, and raised as
        what it means.
        """
        try:
            answer = mend(json.loads(content))
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
            raise TryAgain(
                f"the answer is no chat completion: {server.short(content.decode('utf-8', 'replace'))}"
            )
        self._warn_of_silence(reply)
        return reply

    def _reply(
        self, answer: dict[str, Any], body: dict[str, Any], size: int, seconds: float
    ) -> Reply:
        choice, usage = answer["choices"][0], _object(answer.get("usage"))
        message = _message(choice["message"])
        details = _object(usage.get("prompt_tokens_details"))
        # A token has at least a byte; a template, or what a model thinks in silence, adds some
        # thousands.
        prompt = self._count(usage, "prompt_tokens", 1, 2 * len(json.dumps(body)) + 10_000)
        cached = self._count(details, "cached_tokens", 0, 10**9)
        if prompt is not None and cached is not None and cached > prompt:
            prompt += cached  # some count only what was not cached
        written = bool(
            text(message) or message.get("tool_calls") or message.get("reasoning_content")
        )
        most = 2 * body[self._limit if self._limit in body else "max_tokens"] + size + 1000
        return Reply(
            message=message,
            finish_reason=str(choice.get("finish_reason") or "stop"),
            prompt_tokens=prompt,
            completion_tokens=self._count(usage, "completion_tokens", int(written), most),
            cached_tokens=cached,
            seconds=seconds,
        )

    def _count(self, usage: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
        """Return what a server tells of tokens, where that can be."""
        told = usage.get(name)
        if type(told) is float and told.is_integer():
            told = int(told)
        if type(told) is not int:
            return None
        if low <= told <= high:
            return told
        self._say(
            name,
            "%s says %s %d, which cannot be; such counts are taken as unknown",
            self.name,
            name,
            told,
        )
        return None

    def _warn_of_silence(self, reply: Reply) -> None:
        """Say once that replies end before they say anything, as those of models that think at
        length do.
        """
        if reply.message["content"] or "tool_calls" in reply.message:
            return
        if reply.finish_reason == "length":
            self._say(
                "length",
                "%s ran out of tokens before it answered; raise LiveSettings.max_tokens",
                self.name,
            )
        if reply.finish_reason == "content_filter":
            self._say(
                "filter",
                "%s: the server's content filter withheld a reply; it counts as empty",
                self.name,
            )

    def _say(self, what: str, said: str, *given: Any) -> None:
        """Warn of a thing once."""
        if what not in self._said:
            self._said.add(what)
            logger.warning(said, *given)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _folded(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with the system's before the first user turn, for templates that know no
    system.
    """
    said = [text(m) for m in messages if m["role"] == "system"]
    others = [m for m in messages if m["role"] != "system"]
    first = next((n for n, m in enumerate(others) if m["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": "\n\n".join(said)}, *others]
    asked = others[first]
    others[first] = asked | {"content": "\n\n".join([*said, text(asked)])}
    return others


def _error_in(answer: Any) -> Any:
    """Return the error that an answer with status 200 holds instead of a reply, as proxies send it;
    else nothing.
    """
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
    """Return the status that an error names; that of a broken server where it names none."""
    code = error.get("code") or error.get("status") if isinstance(error, dict) else None
    return int(code) if str(code).isdigit() and 400 <= int(code) < 600 else 500


def _message(raw: dict[str, Any]) -> Message:
    """Return a server's message in one form: what was said as ``content``, what was thought beside
    it.
    """
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
    return isinstance(part, dict) and str(part.get("type")) in (
        "thinking",
        "reasoning",
        "redacted_thinking",
    )


def _thought(part: dict[str, Any]) -> str:
    """Return the text of a block of thought, which is a text or again a list of blocks."""
    inner = next((part[k] for k in ("thinking", "reasoning", "text") if part.get(k)), "")
    blocks = inner if isinstance(inner, list) else [inner]
    return "".join(b if isinstance(b, str) else str(b.get("text", "")) for b in blocks)
