"""From a trajectory to the turns that are rendered: its label in the question turn, and which turns
carry loss.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from negfail_nb.said import as_said, split_thought
from negfail_nb.trajectory import Message, Trajectory

THOUGHT = "reasoning_content"  # a reasoning model's private thought, kept beside what it said
# A heading that a log may have put before its question; every template brings its own.
HEADING = re.compile(r"(?:question|task|problem)\s*:\Z", re.IGNORECASE)
_LONGEST_HEADING = 40


class Refused(ValueError):
    """A trajectory that cannot be rendered; the text is the reason that is counted."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of one trajectory as they are rendered.

    Attributes
    ----------
    messages
        Up to the last assistant turn; contents are strings, arguments of tool calls are objects
        if they can be. An assistant's private thought, if it is shown, is its
        ``reasoning_content``.
    answers, trained
        Indices of the assistant turns behind the question, and of those that carry loss.
    label, question
        The labelled text in the question turn, and the question within it.
    tools
        Schemas of the tools that were offered.
    added
        How many turns stand before those of the trajectory; -1 if a system turn was folded in.
    unshown
        How many turns had a thought that is left out, as ``thoughts="neither"`` asks.
    judged
        Verdict and reason of each turn of the agent, where steps are judged.
    weight
        What the loss of the run is multiplied by.
    """

    id: str
    messages: tuple[Message, ...]
    answers: tuple[int, ...]
    trained: frozenset[int]
    label: str
    question: str
    tools: tuple[dict[str, Any], ...] = ()
    added: int = 0
    unshown: int = 0
    judged: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    weight: float = 1.0

    def original(self, index: int) -> int:
        """Return the index in the trajectory of a message."""
        return index - self.added

    def fold_system(self) -> Conversation:
        """Return the same with a leading system turn moved into the user turn behind it."""
        if [message["role"] for message in self.messages[:2]] != ["system", "user"]:
            return self
        system, user, *rest = self.messages
        merged = {**user, "content": f"{system['content']}\n\n{user['content']}"}
        return replace(
            self,
            messages=(merged, *rest),
            answers=tuple(i - 1 for i in self.answers),
            trained=frozenset(i - 1 for i in self.trained),
            judged={i - 1: told for i, told in self.judged.items()},
            added=self.added - 1,
        )


def conversation(
    trajectory: Trajectory,
    label: Callable[[str], str],
    instruction: Sequence[Message] = (),
    masked: frozenset[int] = frozenset(),
    thoughts: str = "neither",
) -> Conversation:
    """Put the label into the question turn and say which turns carry loss.

    Parameters
    ----------
    trajectory
        What is on each turn; it stays as it is.
    label
        Returns the question turn's text for a question.
    instruction
        Turns put first if nothing stands before the question; they carry no loss.
    masked
        Indices in ``trajectory.messages`` of assistant turns that stay in the context only.
    thoughts
        As in `PrefixSettings`; ``"neither"`` leaves the thoughts out.

    Raises
    ------
    Refused
        If there is no assistant turn, no question turn, a content that is not text, or a weight
        that is not 0 or 1.

    Notes
    -----
    Turns behind the last assistant turn go: the original repository puts an end token with loss
    behind a last observation. Assistant turns before the question are instruction or examples, and
    carry no loss. Nor do turns of ``weight`` 0, and turns that only hold a thought: nothing was
    said, and the thought was most likely cut by length.
    """
    roles = [message.get("role") for message in trajectory.messages]
    assistants = [i for i, role in enumerate(roles) if role == "assistant"]
    if not assistants:
        raise Refused("no assistant message")
    shown = thoughts != "neither"
    given = [_said(message) for message in trajectory.messages[: assistants[-1] + 1]]
    messages = [_plain(i, message, shown) for i, message in enumerate(given)]
    turn, start, end = _find_question(messages, trajectory.question)
    content = messages[turn]["content"]
    question = content[start:end]
    before = _without_heading(content[:start])
    text = label(question)
    line = "\n" if before.strip() else ""
    messages[turn] = {**messages[turn], "content": before + line + text + content[end:]}
    added = () if turn or before.strip() else tuple(instruction)
    # The loss mask, turn by turn; `negfail_nb.prefix.masks` goes on with it token by token.
    without = {i for i in assistants if not _weight(i, given[i]) or _only_thinks(i, given[i])}
    answers = [i for i in assistants if i > turn]
    trained = [i for i in answers if i not in masked | without]
    return Conversation(
        id=trajectory.id,
        messages=(*added, *messages),
        answers=tuple(i + len(added) for i in answers),
        trained=frozenset(i + len(added) for i in trained),
        label=text,
        question=question,
        tools=trajectory.tools,
        added=len(added),
        unshown=0 if shown else sum(bool(given[i].get(THOUGHT)) for i in assistants),
    )


def check_whole(c: Conversation, text: str, name: str, advice: str) -> None:
    """Raise `Refused`, naming the message, if a content is missing in a rendered text or changed:
    some templates leave out roles that they do not know. Errors say ``name`` and ``advice``.
    """
    position = 0
    for index, message in enumerate(c.messages):
        calls = [call.get("function", call)["name"] for call in message.get("tool_calls", ())]
        for content in (message["content"].strip(), *calls):
            # Some templates write the system turn elsewhere.
            start = 0 if message["role"] == "system" else position
            found = text.find(content, start)
            if found < 0:  # Llama 3.1 writes what a tool gave as a JSON string
                found = text.find(json.dumps(content, ensure_ascii=False)[1:-1], start)
            if found < 0:
                where = f"message {c.original(index)} ({message['role']})"
                raise Refused(f"{where}: {name} leaves out its content or changes it{advice}")
            position = max(position, found)


def _without_heading(before: str) -> str:
    """Return what stands before a question without a heading on a line of its own at its end."""
    text = before.rstrip()
    found = HEADING.search(text, max(0, len(text) - _LONGEST_HEADING))
    if found is None:
        return before
    lead = text[: found.start()].rstrip()
    if not lead:
        return ""
    line = text.find("\n", len(lead), found.start())
    return before if line < 0 else text[:line]


def _find_question(messages: Sequence[Message], question: str) -> tuple[int, int, int]:
    """Turn, start and end of the question; if no turn has its text, the whole first user turn."""
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        raise Refused("no user turn to put the question in")
    first_answer = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    # The last turn before the first answer, or else (instruction and examples come first) the
    # earliest behind it.
    order = [i for i in reversed(users) if i < first_answer]
    order += [i for i in users if i > first_answer]
    wanted = question.strip()
    for turn in order if wanted else ():
        start = messages[turn]["content"].rfind(wanted)
        if start >= 0:
            return turn, start, start + len(wanted)
    content = messages[users[0]]["content"]
    start = len(content) - len(content.lstrip())
    return users[0], start, max(start, len(content.rstrip()))


def _said(message: Message) -> Message:
    """The message with its thought beside its content; an empty thought is none."""
    message = as_said(message)
    content = message.get("content")
    if message.get("role") == "assistant" and isinstance(content, str):
        return message | {"content": split_thought(content)[1]}
    return message


def _weight(index: int, message: Message) -> bool:
    """Whether a turn carries loss, as far as the log says: its ``weight`` is 1 or missing."""
    weight = message.get("weight")
    if weight is None or weight in (0, 1):
        return weight != 0
    raise Refused(f"message {index}: its weight is {weight!r}; a turn carries loss (1) or none (0)")


def _only_thinks(index: int, message: Message) -> bool:
    said = _text(index, message.get("content")).strip() or message.get("tool_calls")
    return bool(message.get(THOUGHT)) and not said


def _plain(index: int, message: Message, shown: bool) -> Message:
    """The message as chat templates take it: contents as text, arguments as objects."""
    changed = {k: v for k, v in message.items() if k not in (THOUGHT, "weight")}
    changed["content"] = _text(index, message.get("content"))
    if shown and message["role"] == "assistant" and _text(index, message.get(THOUGHT)).strip():
        changed[THOUGHT] = _text(index, message[THOUGHT])
    if message.get("tool_calls"):
        changed["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    else:
        changed.pop("tool_calls", None)
    return changed


def _text(index: int, content: Any) -> str:
    if isinstance(content, list):  # OpenAI's content parts
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else content
    if content is not None and not isinstance(content, str):
        raise Refused(f"message {index}: its content is not text; only text can be rendered")
    return content or ""


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """The call with its arguments as an object; malformed JSON stays what the model wrote."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = arguments
        arguments = parsed if isinstance(parsed, dict) else arguments
    function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function
