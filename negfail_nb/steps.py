"""What an agent did, turn by turn: thought, action, observation, read from a trajectory's messages.

How actions are written is the business of `negfail_nb.actions`. They are read from what was said,
never from a private thought (`negfail_nb.said`), and up to an observation that the agent wrote
itself: what follows it was not played.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from negfail_nb.actions import find_lead, read_actions, why_no_action
from negfail_nb.said import split_thought
from negfail_nb.toolcalls import FINISH, Action, argument_of, name_of, parsed
from negfail_nb.trajectory import Message, Trajectory

__all__ = ["FINISH", "Action", "Step", "final_answer", "parse_actions", "read_steps", "text"]

_THOUGHT = re.compile(r"^[ \t>*_#`-]*Thought[ \t]*\d*[*_`]*[ \t]*[:\uff1a][ \t*_`]*", re.IGNORECASE)
_TAG = re.compile("<execute>|<solution>", re.IGNORECASE)
_OBSERVATION = re.compile(r"^\s*Observation[ \t]*\d*[ \t]*:?[ \t]*", re.IGNORECASE)
_REFUSED_ACTION = re.compile(
    r"I don't understand your input|\binvalid action\b|\binvalid tool\b|\bunknown tool\b|could not parse|no such tool",
    re.IGNORECASE,
)
_REFUSED_WORDS = (
    "understand your input",
    "invalid action",
    "invalid tool",
    "unknown tool",
    "could not parse",
    "no such tool",
)
_FAILED_WORDS = (
    "rror",
    "ERROR",
    "Traceback",
    "xception",
    "last page Searched",
    "timed out",
    "TIMED OUT",
)
_FAILED_TOOL = re.compile(
    r"\A\s*(?:Error\b|ERROR\b)|Traceback \(most recent call last\)|^\w*(?:Error|Exception): "
    r"|The last page Searched was not found|\btimed out\b",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the agent and what came back.

    Attributes
    ----------
    message
        Index of the assistant's message in ``trajectory.messages``.
    thought
        What it wrote before its action, without the word "Thought". What it only thought, as
        ``reasoning_content`` has it, stands here if it wrote nothing.
    actions
        The actions of the turn; mostly one, none where nothing could be parsed.
    observation
        What the tools answered, without the word "Observation".
    error
        ``""``, ``"parse"`` (no valid action: none was found, or the environment refused it) or
        ``"tool"`` (the tool reported an error). A search without results is no error.
    reason
        Why there is no valid action, where ``error`` is ``"parse"``.
    """

    message: int
    thought: str
    actions: tuple[Action, ...]
    observation: str
    error: str
    reason: str = ""

    @property
    def action(self) -> str:
        """Name of the first action, or ``""``."""
        return self.actions[0].name if self.actions else ""

    @property
    def argument(self) -> str:
        """Argument of the first action, or ``""``."""
        return self.actions[0].argument if self.actions else ""


def read_steps(trajectory: Trajectory) -> list[Step]:
    """Return the agent's turns, in order. A message before the question counts too; few logs have
    one.
    """
    messages = trajectory.messages
    turns = [
        _Turn(messages, index)
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    react = any(turn.react for turn in turns)
    return [turn.step(react) for turn in turns]


class _Turn:
    """A message of the agent, read once."""

    def __init__(self, messages: Sequence[Message], index: int) -> None:
        self.message, self._index = messages[index], index
        self._thought, self.said, self._closed = split_thought(text(self.message))
        found = [] if self.message.get("tool_calls") else read_actions(self.said)
        self.actions = _calls(self.message) or tuple(one.action for one in found)
        lead = find_lead(self.said)
        self.react = lead is not None and (bool(found) or lead[1])
        tag = _TAG.search(self.said)
        ends = [first.start for first in found[:1]] + [lead[0] for lead in (lead,) if lead]
        self._spoken = self.said[: min([*ends, tag.start() if tag else len(self.said)])]
        self._observation = _observation_after(messages, index)
        self._last = index == len(messages) - 1

    def step(self, react: bool) -> Step:
        """Return the step; ``react``: whether the trajectory's actions are written as ReAct text."""
        error, reason = self._error(react)
        aloud = "\n".join(filter(None, (self._thought, self._spoken)))
        thought = _THOUGHT.sub("", aloud).strip() or str(
            self.message.get("reasoning_content") or ""
        )
        return Step(self._index, thought, self.actions, self._observation, error, reason)

    def _error(self, react: bool) -> tuple[str, str]:
        # A log that ends in an action was cut there; only a missing action is an error then.
        if react and not self.actions:
            return "parse", why_no_action(
                self.said
            ) if self._closed else "the reply ends within its thought"
        if _is_refused(self._observation):
            return (
                "parse",
                f"the environment refused it: {self._observation.partition(chr(10))[0][:80]!r}",
            )
        if any(_broken_arguments(call) for call in self.message.get("tool_calls") or ()):
            return "parse", "the arguments of the tool call are no JSON"
        return ("tool" if not self._last and _is_failure(self._observation) else ""), ""


def parse_actions(message: Message) -> tuple[Action, ...]:
    """Return the actions of an assistant message: its ``tool_calls``, or those written in what it
    says.
    """
    return _calls(message) or tuple(
        found.action for found in read_actions(split_thought(text(message))[1])
    )


def final_answer(messages: Sequence[Message]) -> str | None:
    """Return the answer of the last finishing action, or ``None`` where there was none."""
    for message in reversed(messages):
        if message["role"] == "assistant":
            for action in reversed(parse_actions(message)):
                if action.is_finish:
                    return action.argument
    return None


def text(message: Message) -> str:
    """Return a message's text; parts of a multi-part content are joined, missing content is ``""``."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(
            part.get("text", "") if isinstance(part, dict) else str(part) for part in content
        )
    return content or ""


def _calls(message: Message) -> tuple[Action, ...]:
    return tuple(_tool_call(call) for call in message.get("tool_calls") or ())


def _tool_call(call: dict[str, Any]) -> Action:
    function = call.get("function") or call
    arguments, name = function.get("arguments", ""), name_of(str(function.get("name", "")))
    return Action(
        name, argument_of(name, parsed(arguments) if isinstance(arguments, str) else arguments)
    )


def _observation_after(messages: Sequence[Message], index: int) -> str:
    answers = []
    for message in messages[index + 1 :]:
        if message["role"] not in ("user", "tool"):
            break
        answers.append(_OBSERVATION.sub("", text(message), count=1))
    return "\n".join(answers).strip()


# Plain substring tests first: most observations hold none of the words, and the patterns cost ten
# times as much.
def _is_refused(observation: str) -> bool:
    lowered = observation.lower()
    return any(word in lowered for word in _REFUSED_WORDS) and bool(
        _REFUSED_ACTION.search(observation)
    )


def _is_failure(observation: str) -> bool:
    return any(word in observation for word in _FAILED_WORDS) and bool(
        _FAILED_TOOL.search(observation)
    )


def _broken_arguments(call: dict[str, Any]) -> bool:
    arguments = (call.get("function") or call).get("arguments", "")
    if not isinstance(arguments, str):
        return False
    try:
        json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return True
    return False
