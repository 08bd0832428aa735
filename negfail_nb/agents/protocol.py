"""What live collection asks of a model: one reply to one conversation; and the small records that
pass between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from negfail_nb.trajectory import Message

OBSERVATION = "\nObservation:"


class ModelError(RuntimeError):
    """A setting is wrong, or the model cannot be reached at all: no further episode could succeed.
    Stops collection.
    """


class EpisodeTooLong(ValueError):
    """The conversation does not fit the model's window. Ends one episode, which is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question to play.

    Attributes
    ----------
    id
        Unique among the tasks; the episodes' ids are made from it.
    question, answer
        The question, and its reference answer; an empty one leaves the episodes unlabelled.
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
    """How one reply is drawn. A reply ends before the first of the texts ``stop``; ``seed``
    ``None`` is any seed.
    """

    temperature: float
    max_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = (OBSERVATION,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a model answered, and what that cost. ``None`` means that the model does not say.

    Attributes
    ----------
    message
        An assistant message; its ``tool_calls``, if any, have ids and arguments as JSON text.
    finish_reason
        ``"stop"``, ``"length"``, ``"tool_calls"``, or whatever else the model says.
    prompt_tokens, completion_tokens, cached_tokens
        Cached tokens are those of the prompt that the model did not have to read again.
    seconds
        From asking to having the whole reply.
    first_seconds
        From asking to the first token: waiting for the others, and reading the prompt.
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
    """Something that replies. It is entered (``async with``) before the first reply, and left after
    the last.

    Attributes
    ----------
    name
        Goes into the records.
    window
        Longest prompt and reply together, in tokens; ``None`` where it is unknown.
    """

    name: str
    window: int | None

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Return the next assistant message of a conversation. Many calls run at once, in one event
        loop.

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
            Where no call could succeed.
        EpisodeTooLong
            Where the conversation does not fit the window.
        """
        ...

    async def __aenter__(self) -> Self:
        """Start what the model needs."""
        ...

    async def __aexit__(self, *error: object) -> None:
        """Free what the model holds."""
        ...
