"""What an agent did, turn by turn: thought, action, observation, read from a trajectory's messages.

Actions (`negfail_nb.actions`) are read from what was said, never from a private thought
(`negfail_nb.said`), and up to an observation that the agent wrote itself: what follows it was not
played.
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
    r"I don't understand your input|\binvalid action\b|\binvalid tool\b|\bunknown tool\b"
    r"|could not parse|no such tool",
    re.IGNORECASE,
)
# An observation without one of these matches no pattern; the search is ten times as quick.
_REFUSED_WORDS = (
    *("understand your input", "invalid action", "invalid tool"),
    *("unknown tool", "could not parse", "no such tool"),
)
_FAILED_WORDS = (
    *("rror", "ERROR", "Traceback", "xception"),
    *("last page Searched", "timed out", "TIMED OUT"),
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
        What it wrote before its action, without the word "Thought"; if it wrote nothing, its
        ``reasoning_content``.
    actions
        The actions of the turn; mostly one, none if nothing could be parsed.
    observation
        What the tools answered, without the word "Observation".
    error
        ``""``, ``"parse"`` (no valid action: none was found, or the environment refused it) or
        ``"tool"`` (the tool reported an error). A search without results is no error.
    reason
        Why there is no valid action, if ``error`` is ``"parse"``.
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
    """Return the agent's turns, in order; a message before the question counts too."""
    messages = trajectory.messages
    places = [index for index, turn in enumerate(messages) if turn["role"] == "assistant"]
    turns = [_Turn(messages, place) for place in places]
    react = any(turn.react for turn in turns)
    return [turn.step(react) for turn in turns]


class _Turn:
    """A message of the agent, read once."""

    def __init__(self, messages: Sequence[Message], index: int) -> None:
        self.message = messages[index]
        self.index = index
        self.thought, self.said, self.closed = split_thought(text(self.message))
        found = [] if self.message.get("tool_calls") else read_actions(self.said)
        self.actions = _calls(self.message) or tuple(one.action for one in found)
        lead = find_lead(self.said)
        self.react = lead is not None and (bool(found) or lead[1])
        tag = _TAG.search(self.said)
        ends = [one.start for one in found[:1]] + ([lead[0]] if lead else [])
        self.spoken = self.said[: min([*ends, tag.start() if tag else len(self.said)])]
        self.observation = _observation_after(messages, index)
        self.is_last = index == len(messages) - 1

    def step(self, react: bool) -> Step:
        """Return the step; ``react``: whether the trajectory writes its actions as ReAct text."""
        error, reason = self._error(react)
        aloud = "\n".join(filter(None, (self.thought, self.spoken)))
        kept = str(self.message.get("reasoning_content") or "")
        thought = _THOUGHT.sub("", aloud).strip() or kept
        return Step(self.index, thought, self.actions, self.observation, error, reason)

    def _error(self, react: bool) -> tuple[str, str]:
        # A log that ends in an action was cut there; only a missing action is an error then.
        if react and not self.actions:
            if self.closed:
                return "parse", why_no_action(self.said)
            return "parse", "the reply ends within its thought"
        if _is_refused(self.observation):
            first = self.observation.partition("\n")[0][:80]
            return "parse", f"the environment refused it: {first!r}"
        if any(map(_has_broken_arguments, self.message.get("tool_calls") or ())):
            return "parse", "the arguments of the tool call are no JSON"
        return ("" if self.is_last or not _is_failure(self.observation) else "tool"), ""


def parse_actions(message: Message) -> tuple[Action, ...]:
    """Return the actions of an assistant message: its ``tool_calls``, or those that it writes."""
    if calls := _calls(message):
        return calls
    return tuple(found.action for found in read_actions(split_thought(text(message))[1]))


def final_answer(messages: Sequence[Message]) -> str | None:
    """Return the answer of the last finishing action, or ``None`` if there was none."""
    for message in reversed(messages):
        if message["role"] == "assistant":
            for action in reversed(parse_actions(message)):
                if action.is_finish:
                    return action.argument
    return None


def text(message: Message) -> str:
    """Return a message's text; its parts are joined, missing content is ``""``."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(p.get("text", "") if isinstance(p, dict) else str(p) for p in content)
    return content or ""


def _calls(message: Message) -> tuple[Action, ...]:
    return tuple(_tool_call(call) for call in message.get("tool_calls") or ())


def _tool_call(call: dict[str, Any]) -> Action:
    function = call.get("function") or call
    name = name_of(str(function.get("name", "")))
    arguments = function.get("arguments", "")
    values = parsed(arguments) if isinstance(arguments, str) else arguments
    return Action(name, argument_of(name, values))


def _observation_after(messages: Sequence[Message], index: int) -> str:
    answers = []
    for message in messages[index + 1 :]:
        if message["role"] not in ("user", "tool"):
            break
        answers.append(_OBSERVATION.sub("", text(message), count=1))
    return "\n".join(answers).strip()


def _is_refused(observation: str) -> bool:
    lowered = observation.lower()
    maybe = any(word in lowered for word in _REFUSED_WORDS)
    return maybe and _REFUSED_ACTION.search(observation) is not None


def _is_failure(observation: str) -> bool:
    maybe = any(word in observation for word in _FAILED_WORDS)
    return maybe and _FAILED_TOOL.search(observation) is not None


def _has_broken_arguments(call: dict[str, Any]) -> bool:
    arguments = (call.get("function") or call).get("arguments", "")
    if not isinstance(arguments, str):
        return False
    try:
        json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return True
    return False
