"""What an agent did, turn by turn: thought, action, observation, read from a trajectory's messages.

Three dialects are understood: ReAct text (``Action: search[..]``, numbered or not, or as LangChain writes it: ``Action:
search``, ``Action Input: ..``, ``Final Answer: ..``), tags (``<execute>``, ``<solution>``) and ``tool_calls``. Reading
never executes anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from negfail_nb.trajectory import Message, Trajectory

FINISH = frozenset({"finish", "final_answer", "answer", "submit"})
# Under which of its arguments a finishing call holds the answer, the first that there is.
ANSWER_KEYS = ("answer", "final_answer", "result", "response", "output", "value", "text")

_ACTION = re.compile(r"^[ \t]*(?:Action[ \t]*\d*|(Final[ \t]Answer))[ \t]*:", re.MULTILINE | re.IGNORECASE)
_NEXT_PART = re.compile(
    r"^[ \t]*(?:(?:Thought|Observation|Action)[ \t]*\d*|Final[ \t]Answer)[ \t]*:", re.MULTILINE | re.IGNORECASE
)
_WITH_INPUT = re.compile(
    r"[ \t]*([A-Za-z][\w -]{0,63}?)[ \t]*\n[ \t]*Action[ \t]Input[ \t]*\d*[ \t]*:(.*)", re.DOTALL | re.IGNORECASE
)
_NAME_LENGTH = 64
# A name ends where its bracket opens; a digit or a hyphen belongs to it only inside of a word.
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z_ ]|(?<=[\w-])\d|(?<=\w)-(?=\w))*\Z", re.ASCII)
# The innermost tag counts: "<solution> The answer is <solution> 140 </solution>" answers 140.
_TAGS = re.compile(r"<(execute|solution)>((?:(?!<\1>).)*?)(?:</\1>|\Z)", re.DOTALL)
_THOUGHT = re.compile(r"^[ \t]*Thought[ \t]*\d*[ \t]*:[ \t]*", re.IGNORECASE)
_THOUGHT_END = re.compile(_ACTION.pattern + "|<execute>|<solution>", re.MULTILINE | re.IGNORECASE)
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
_FAILED_WORDS = ("rror", "ERROR", "Traceback", "xception", "last page Searched", "timed out", "TIMED OUT")
_FAILED_TOOL = re.compile(
    r"\A\s*(?:Error\b|ERROR\b)|Traceback \(most recent call last\)|^\w*(?:Error|Exception): "
    r"|The last page Searched was not found|\btimed out\b",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Action:
    """One call of a tool: its name in lower case, and its argument as text."""

    name: str
    argument: str

    @property
    def is_finish(self) -> bool:
        """Whether the call ends the episode with an answer."""
        return self.name in FINISH


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the agent and what came back.

    Attributes
    ----------
    message
        Index of the assistant's message in ``trajectory.messages``.
    thought
        What it wrote before its action.
    actions
        The actions of the turn; mostly one, none where nothing could be parsed.
    observation
        What the tools answered, without the word "Observation".
    error
        ``""``, ``"parse"`` (no valid action: none was found, or the environment refused it) or ``"tool"`` (the tool
        reported an error). A search without results is no error.
    """

    message: int
    thought: str
    actions: tuple[Action, ...]
    observation: str
    error: str

    @property
    def action(self) -> str:
        """Name of the first action, or ``""``."""
        return self.actions[0].name if self.actions else ""

    @property
    def argument(self) -> str:
        """Argument of the first action, or ``""``."""
        return self.actions[0].argument if self.actions else ""


def steps(trajectory: Trajectory) -> list[Step]:
    """Return the agent's turns, in order. A message before the question counts too; few logs have one."""
    messages = trajectory.messages
    react = any(_ACTION.search(text(m)) for m in messages if m["role"] == "assistant")
    found = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            actions = parse_actions(message)
            observation = _observation_after(messages, index)
            error = _error(actions, observation, message, react, last=index == len(messages) - 1)
            found.append(Step(index, _thought(text(message)), actions, observation, error))
    return found


def parse_actions(message: Message) -> tuple[Action, ...]:
    """Return the actions of an assistant message: its ``tool_calls``, or those written in its text."""
    calls = message.get("tool_calls")
    if calls:
        return tuple(_tool_call(call) for call in calls)
    content = text(message)
    tagged = tuple(
        Action("finish" if tag == "solution" else tag, argument.strip()) for tag, argument in _TAGS.findall(content)
    )
    return tagged or parse_react(content)


def parse_react(content: str) -> tuple[Action, ...]:
    r"""Return the actions of ReAct text: numbered or not, brackets nested, several on one line.

    An action whose bracket is never closed is not an action.

    Examples
    --------
    >>> parse_react("Thought: two\nAction 2: Search[a [b] c], Lookup[d]")
    (Action(name='search', argument='a [b] c'), Action(name='lookup', argument='d'))
    """
    found = []
    for start in _ACTION.finditer(content):
        stop = _NEXT_PART.search(content, start.end())
        part = content[start.end() : stop.start() if stop else len(content)]
        if start[1]:
            found.append(Action("final_answer", part.strip()))
        elif call := _WITH_INPUT.match(part):
            found.append(Action(_name(call[1]), _argument(_name(call[1]), _input(call[2].strip()))))
        else:
            found += _calls(part)
    return tuple(found)


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
        return "".join(part.get("text", "") if isinstance(part, dict) else str(part) for part in content)
    return content or ""


def _calls(part: str) -> list[Action]:
    found, position = [], 0
    while (opening := part.find("[", position)) >= 0:
        # Looked for backwards and in a window, as degenerate output may be one word of megabytes.
        match = _NAME.search(part[max(position, opening - 2 * _NAME_LENGTH) : opening].rstrip(" \t"))
        position = opening + 1
        if match and len(match[0]) <= _NAME_LENGTH:
            end = _closing_bracket(part, position)
            if end < 0:
                break
            # "Search[a] and Search[b]": the word between the calls is not part of the second name.
            name = re.sub(r"^(?:and|then|or)\s+", "", match[0].lower())
            found.append(Action(_name(name), part[position:end].strip()))
            position = end + 1
    return found


def _name(written: str) -> str:
    """Return a tool's name in lower case; "Final Answer" is the finishing action of that name."""
    name = written.strip().lower()
    folded = re.sub("[ -]", "_", name)
    return folded if folded in FINISH else name


def _closing_bracket(part: str, start: int) -> int:
    depth = 1
    for match in re.compile(r"[\[\]]").finditer(part, start):
        depth += 1 if match[0] == "[" else -1
        if depth == 0:
            return match.start()
    return -1


def _tool_call(call: dict[str, Any]) -> Action:
    function = call.get("function") or call
    arguments, name = function.get("arguments", ""), _name(str(function.get("name", "")))
    return Action(name, _argument(name, _parsed(arguments) if isinstance(arguments, str) else arguments))


def _input(written: str) -> Any:
    """Return an "Action Input": a JSON object or a quoted text by its content, else word for word."""
    return _parsed(written) if written.startswith(("{", '"')) else written


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _argument(name: str, values: Any) -> str:
    """Return arguments as one text: the answer of a finishing call, the only argument, or all as JSON."""
    if isinstance(values, dict):
        key = next((k for k in ANSWER_KEYS if k in values), None) if name in FINISH else None
        if key is not None or len(values) == 1:
            values = values[key] if key is not None else next(iter(values.values()))
    argument = values if isinstance(values, str) else json.dumps(values, ensure_ascii=False)
    # An escaped lone surrogate, which no file can hold, comes to light only here.
    return argument.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _thought(content: str) -> str:
    end = _THOUGHT_END.search(content)
    return _THOUGHT.sub("", content[: end.start()] if end else content).strip()


def _observation_after(messages: Sequence[Message], index: int) -> str:
    answers = []
    for message in messages[index + 1 :]:
        if message["role"] not in ("user", "tool"):
            break
        answers.append(_OBSERVATION.sub("", text(message), count=1))
    return "\n".join(answers).strip()


def _error(actions: tuple[Action, ...], observation: str, message: Message, react: bool, last: bool) -> str:
    # A log that ends in an action was cut there; only a missing action is an error then.
    if (react and not actions) or _is_refused(observation):
        return "parse"
    if any(_broken_arguments(call) for call in message.get("tool_calls") or ()):
        return "parse"
    return "tool" if not last and _is_failure(observation) else ""


# Plain substring tests first: most observations hold none of the words, and the patterns cost ten times as much.
def _is_refused(observation: str) -> bool:
    lowered = observation.lower()
    return any(word in lowered for word in _REFUSED_WORDS) and bool(_REFUSED_ACTION.search(observation))


def _is_failure(observation: str) -> bool:
    return any(word in observation for word in _FAILED_WORDS) and bool(_FAILED_TOOL.search(observation))


def _broken_arguments(call: dict[str, Any]) -> bool:
    arguments = (call.get("function") or call).get("arguments", "")
    if not isinstance(arguments, str):
        return False
    try:
        json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return True
    return False
