"""A model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, ``transformers serve``, OpenAI itself."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Sequence
from typing import Any, Self

from negfail_nb.collect.fields import messages as as_messages
from negfail_nb.collect.jsontext import mend
from negfail_nb.collect.protocol import ModelError, Reply, Sampling
from negfail_nb.collect.transport import FieldRefused, Server, TryAgain
from negfail_nb.profiles import EndpointSettings
from negfail_nb.trajectory import Message

LONGEST_WAIT = 60.0  # seconds between two tries ..
LONGEST_ASKED_WAIT = 300.0  # .. and where the server asks for more
FAILURES_IN_A_ROW = 16  # lost replies, none good in between, after which the server counts as gone
SENT = ("role", "content", "tool_calls", "tool_call_id", "name")  # strict servers refuse any other field of a message
_MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)

logger = logging.getLogger("negfail_nb")


class EndpointModel:
    """A model behind an OpenAI-compatible server, asked for chat completions.

    Tried again, with back-off: 408, 409, 429, 5xx, timeouts, lost connections, answers that break off or are no JSON.
    ``Retry-After`` is honoured up to five minutes. A server that refuses ``seed`` or ``stop`` is asked without them
    from then on; one warning says so. The key is read when the model is entered and stands in no error.

    Parameters
    ----------
    settings
        Which server, and which of its models.
    first_wait
        Seconds before the second try; doubled for each further one, and jittered.
    """

    window: int | None = None

    def __init__(self, settings: EndpointSettings = EndpointSettings(), *, first_wait: float = 0.5) -> None:
        self.settings, self.name, self.first_wait = settings, settings.model, first_wait
        self._server: Server | None = None
        self._limit, self._left_out = "max_tokens", set[str]()
        self._lost, self._warned = 0, False

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
        """Return the next assistant message; see `negfail_nb.collect.protocol.Model`.

        Raises
        ------
        ModelError
            Unknown host, wrong key, unknown model, a web page instead of an answer, or many lost replies in a row.
        EpisodeTooLong
            Where the server says so.
        RuntimeError
            Where this one reply could not be had; the text gives the last reason.
        """
        if self._server is None:
            raise ModelError("the model is not entered; write: async with model: .. await model.reply(..)")
        try:
            reply = await self._with_tries(self._server, messages, sampling, tools)
        except RuntimeError as error:
            self._lost += 1
            if self._lost < FAILURES_IN_A_ROW or isinstance(error, ModelError):
                raise
            raise ModelError(f"{self._lost} replies in a row were lost; the last: {error}") from None
        self._lost = 0
        return reply

    async def _with_tries(
        self, server: Server, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]]
    ) -> Reply:
        tries = 0
        while True:
            start = time.perf_counter()
            try:
                content = await server.post(self._body(messages, sampling, tools))
                return self._read(server, content, time.perf_counter() - start)
            except FieldRefused as refusal:
                self._leave_out(server, refusal)
                continue
            except TryAgain as reason:
                tries += 1
                if tries > self.settings.retries:
                    kind = RuntimeError if server.answered else ModelError
                    raise kind(f"{server.url}: no reply in {tries} tries; the last: {reason}") from None
                wait = min(self.first_wait * 2 ** (tries - 1), LONGEST_WAIT) * random.uniform(0.5, 1.0)
                wait = max(wait, min(reason.wait, LONGEST_ASKED_WAIT))
                logger.info("%s; trying again in %.1f s", reason, wait)
            await asyncio.sleep(wait)

    def _body(self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [{k: m[k] for k in SENT if k in m} for m in messages],
            "temperature": sampling.temperature,
            self._limit: sampling.max_tokens,
        }
        optional = {"seed": sampling.seed, "stop": list(sampling.stop) or None, "tools": list(tools) or None}
        return body | {k: v for k, v in optional.items() if v is not None and k not in self._left_out}

    def _leave_out(self, server: Server, refusal: FieldRefused) -> None:
        """Send the field no more; requests that were under way may be refused for it once more."""
        if refusal.field == "max_tokens":
            self._limit = "max_completion_tokens"
        elif refusal.field not in self._left_out:
            logger.warning("%s takes no %r; it is left out from now on (%s)", server.url, refusal.field, refusal)
            self._left_out.add(refusal.field)

    def _read(self, server: Server, content: bytes, seconds: float) -> Reply:
        try:
            answer = mend(json.loads(content))
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            reply = Reply(
                message=_message(choice["message"]),
                finish_reason=str(choice.get("finish_reason") or "stop"),
                prompt_tokens=_count(usage, "prompt_tokens"),
                completion_tokens=_count(usage, "completion_tokens"),
                cached_tokens=_count(usage.get("prompt_tokens_details") or {}, "cached_tokens"),
                seconds=seconds,
            )
        except _MALFORMED as error:
            text = server.short(content.decode("utf-8", "replace"))
            raise TryAgain(f"the answer is no chat completion: {text}") from error
        self._warn_of_cut(reply)
        return reply

    def _warn_of_cut(self, reply: Reply) -> None:
        """Say once that replies end before they say anything, as those of models that think at length do."""
        silent = not reply.message["content"] and "tool_calls" not in reply.message
        if silent and reply.finish_reason == "length" and not self._warned:
            self._warned = True
            logger.warning("%s ran out of tokens before it answered; raise LiveSettings.max_tokens", self.name)


def _message(raw: dict[str, Any]) -> Message:
    given = {k: raw.get(k) for k in ("content", "tool_calls", "function_call")}
    message = as_messages([{"role": "assistant", **given}])[0]
    for number, call in enumerate(message.get("tool_calls", ())):
        call.setdefault("id", f"call_{number}")
    thought = raw.get("reasoning_content") or raw.get("reasoning")
    return message | ({"reasoning_content": thought} if isinstance(thought, str) else {})


def _count(usage: dict[str, Any], name: str) -> int | None:
    return usage[name] if type(usage.get(name)) is int else None
