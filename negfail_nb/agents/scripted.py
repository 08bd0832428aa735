"""A model that says what it was told to say: for tests, and to show an episode without a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from negfail_nb.agents.protocol import Reply, Sampling
from negfail_nb.steps import text
from negfail_nb.trajectory import Message

Line = str | Message | Reply | Exception
Lines = Sequence[Line]
Script = Callable[[Sequence[Message], Sampling], Line] | Mapping[str, Lines] | Lines


class ScriptedModel:
    """A model that replies from a script. Tokens are counted as words.

    Parameters
    ----------
    script
        The replies of every episode, in order; such lists by question; or a function of the
        messages and the sampling. A reply is a text, a message, a `Reply`, or an exception, which
        is raised.
    name, window
        As in `negfail_nb.agents.protocol.Model`.
    delay
        Seconds before each reply.

    Examples
    --------
    >>> model = ScriptedModel(["Action: search[Oslo]", "Action: finish[Norway]"])
    """

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        window: int | None = None,
        delay: float = 0.0,
    ) -> None:
        self.name = name
        self.window = window
        self._script = script
        self._delay = delay

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Return the next reply of the script; raises `LookupError` if there is none."""
        await asyncio.sleep(self._delay)
        line = self._line(messages, sampling)
        if isinstance(line, Exception):
            raise line
        if isinstance(line, Reply):
            return line
        message = {"role": "assistant", "content": line} if isinstance(line, str) else line
        return Reply(
            message=message,
            finish_reason="tool_calls" if message.get("tool_calls") else "stop",
            prompt_tokens=sum(len(text(m).split()) for m in messages),
            completion_tokens=len(text(message).split()),
            cached_tokens=0,
            seconds=self._delay,
        )

    def _line(self, messages: Sequence[Message], sampling: Sampling) -> Line:
        if callable(self._script):
            return self._script(messages, sampling)
        question = next((text(m) for m in messages if m["role"] == "user"), "")
        lines = self._script
        if isinstance(lines, Mapping):
            lines = lines.get(question, ())
        said = sum(m["role"] == "assistant" for m in messages)
        if said >= len(lines):
            raise LookupError(
                f"the script of {question!r} has {len(lines)} replies, and one more was asked for"
            )
        return lines[said]
