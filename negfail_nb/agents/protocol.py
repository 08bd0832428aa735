"""What live collection asks of a model (a reply to a conversation), and the records around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from negfail_nb.trajectory import Message

OBSERVATION = "\nObservation:"


class ModelError(RuntimeError):
    """A wrong setting, or a model that cannot be reached: no episode could succeed. Stops all."""


class EpisodeTooLong(ValueError):
    """The conversation does not fit the model's window. Ends one episode, which is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question to play.

    Attributes
    ----------
    id
        Unique among the tasks; the ids of the episodes are made from it.
    question, answer
        The question and its reference answer; without one, the episodes stay unlabelled.
    task
        How the answer is graded: ``"qa"``, ``"math"`` or ``"yes_no"``.
    prompt
        What the agent is shown; empty: the question.
    gold_titles, split
        As in `Trajectory`.
    """

    id: str
    question: str
    answer: str = ""
    task: str = "qa"
    prompt: str = ""
    gold_titles: tuple[str, ...] = ()
    split: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one reply is drawn: it ends before the first of the texts ``stop``."""

    temperature: float
    max_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = (OBSERVATION,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A model's answer and its cost; ``None`` means that the model does not report it.

    Attributes
    ----------
    message
        An assistant message; its ``tool_calls``, if any, have ids and arguments as JSON text.
    finish_reason
        ``"stop"``, ``"length"``, ``"tool_calls"``, or whatever else the model says.
    prompt_tokens, completion_tokens, cached_tokens
        Cached tokens are the part of the prompt that the model did not read again.
    seconds, first_seconds
        From the request to the whole reply, and to its first token: queueing and prefill.
    """

    message: Message
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    seconds: float = 0.0
    first_seconds: float | None = None


@runtime_checkable
class Model(Protocol):
    """Something that replies. It is entered (``async with``) before its first reply.

    Attributes
    ----------
    name
        Goes into the records.
    window
        Most tokens of prompt and reply together; ``None``: unknown.

    Notes
    -----
    If it also has a ``content`` (a text that changes with its weights), that decides whether the
    episodes of a run folder are its own; else its name does.
    """

    name: str
    window: int | None

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Return the next assistant message. Many calls run at once, in one event loop.

        Parameters
        ----------
        messages
            OpenAI chat messages, in order; they must not be changed.
        sampling
            How the reply is drawn.
        tools
            JSON schemas of tools that the model may call by ``tool_calls``.

        Raises
        ------
        ModelError
            If no call could succeed.
        EpisodeTooLong
            If the conversation does not fit the window.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...
