"""Which turn is the question, where a log does not say: what all its runs share is instruction, not
question.

A log knows its questions, or it is guessed: the first user turn. Logs that put an instruction first
(AgentInstruct, ETO) would all have one question then. So of a file whose runs begin alike the
question is the first user turn in which they differ, and of a turn that begins or ends alike in all
of them it is the rest.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from negfail_nb.steps import FINISH, parse_actions, text
from negfail_nb.trajectory import Message, Trajectory

SHARED = 0.9  # of a file's runs must begin alike
LONG = 80  # characters that a shared beginning or end of one turn must have to be taken for an instruction
_REPLY = 200  # characters of a reply that only takes note of an instruction
_HEADING = re.compile(
    r"^[ \t#*]*(?:question|task|problem|input|query)[*]*[ \t]*:[*]*\s*",
    re.IGNORECASE | re.MULTILINE,
)
# "OK.", "I've understood your instruction, start please.": an answer to an instruction, not to a
# question.
_NOTED = re.compile(
    r"(?:(?:ok(?:ay)?|understood|got it|acknowledged|roger|ready)\b(?![,.!]?\s+(?:so|but|what|which|who|how)\b)"
    r"|(?:ok(?:ay)?|sure|yes|understood|got it)?[,.!]?\s*"
    r"(?:i(?:'ve| have)? (?:fully )?underst(?:and|ood)|i(?:'m| am) ready|i(?:'ll| will) follow)\b)",
    re.IGNORECASE,
)


def settle_questions(
    runs: Sequence[Trajectory], guessed: Collection[str], key: Callable[[str], str]
) -> tuple[list[Trajectory], str]:
    """Find the questions of runs of one file whose log names none.

    Parameters
    ----------
    runs
        The trajectories of the file; those guessed have the first user turn as their question.
    guessed
        Which records' questions are guesses (``source.record``).
    key
        Makes a question's id from its text; an id that the log gave stays.

    Returns
    -------
    tuple
        The runs, with questions corrected and the assistant turns before them of weight 0; and a
        sentence that says how many runs share a guessed question, ``""`` where none was guessed.
    """
    places = [place for place, run in enumerate(runs) if run.source.record in guessed]
    if not places:
        return list(runs), ""
    turns = _question_turns([runs[place].messages for place in places])
    asked = _without_frame(
        [
            text(runs[place].messages[turn]).strip()
            for place, turn in zip(places, turns, strict=True)
        ]
    )
    settled = list(runs)
    for place, turn, question in zip(places, turns, asked, strict=True):
        settled[place] = _asked_at(runs[place], turn, question, key)
    return settled, _note([settled[place] for place in places], len(runs))


def first_user(messages: Sequence[Message]) -> int:
    """Return the index of the first user turn that says something; -1 where there is none."""
    return next((i for i, m in enumerate(messages) if m["role"] == "user" and text(m).strip()), -1)


def _question_turns(runs: Sequence[Sequence[Message]]) -> list[int]:
    """Return for each run the index of the user turn that is its question."""
    firsts = [first_user(messages) for messages in runs]
    behind = [_Spoken(messages, first) for messages, first in zip(runs, firsts, strict=True)]
    shared = _shared_turns(behind)
    together = _noted_together(behind)
    found = []
    for run, first in zip(behind, firsts, strict=True):
        turn = run.after(shared) if shared and run.begins(shared) else -1
        turn = (
            turn
            if turn >= 0
            else run.after(run.head(2))
            if run.is_noted or run.head(2) in together
            else -1
        )
        found.append(turn if turn >= 0 else first)
    return found


class _Spoken:
    """What is said from the first user turn on: role and text of each turn, and where it stands."""

    def __init__(self, messages: Sequence[Message], first: int) -> None:
        self.messages = messages
        self.places = [i for i in range(first, len(messages)) if messages[i]["role"] != "system"]

    def head(self, size: int) -> tuple[tuple[str, str], ...]:
        """Return role and text of the first turns."""
        return tuple(
            (self.messages[i]["role"], text(self.messages[i]).strip()) for i in self.places[:size]
        )

    def begins(self, turns: tuple[tuple[str, str], ...]) -> bool:
        """Whether these are the first turns."""
        return self.head(len(turns)) == turns

    def after(self, turns: tuple[tuple[str, str], ...]) -> int:
        """Return where the turn behind them stands; -1 where it is no user turn, or an answer to an
        action.
        """
        at = len(turns)
        if at >= len(self.places) or self.messages[self.places[at]]["role"] != "user":
            return -1
        return -1 if _is_pending(self.messages[self.places[at - 1]]) else self.places[at]

    @property
    def is_noted(self) -> bool:
        """Whether the first reply does nothing but take note of an instruction."""
        if len(self.places) < 3 or self.messages[self.places[1]]["role"] != "assistant":
            return False
        reply = text(self.messages[self.places[1]]).strip()
        return _is_short(self.messages[self.places[1]]) and _NOTED.match(reply) is not None


def _shared_turns(runs: Sequence[_Spoken]) -> tuple[tuple[str, str], ...]:
    """Return the turns with which nearly all runs begin alike, up to the first in which they
    differ.
    """
    left, size = list(runs), 0
    if len(runs) < 2:
        return ()
    while True:
        heads = Counter(run.head(size + 1) for run in left if len(run.places) > size)
        head, count = heads.most_common(1)[0] if heads else ((), 0)
        if count < max(2, SHARED * len(runs)) or len(head) <= size:
            break
        left, size = [run for run in left if run.begins(head)], size + 1
    following = [run.head(size + 1)[size] for run in left if len(run.places) > size]
    # A question that came back to the agent, or that most runs end with, is that of all these
    # attempts.
    asks_back = bool(size) and left[0].head(size)[-1][1].endswith("?")
    return (
        left[0].head(size)
        if len(set(following)) > 1 and 2 * len(following) > len(left) and not asks_back
        else ()
    )


def _noted_together(runs: Sequence[_Spoken]) -> set[tuple[tuple[str, str], ...]]:
    """Return first turns and replies of which several runs go on with different user turns."""
    following: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    for run in runs:
        head = run.head(3)
        if [role for role, _ in head] == ["user", "assistant", "user"] and _is_short(
            run.messages[run.places[1]]
        ):
            following[head[:2]].append(head[2][1])
    return {
        head for head, tasks in following.items() if len(set(tasks)) > 1 and "?" not in head[1][1]
    }


def _is_short(message: Message) -> bool:
    """Whether a reply is short and does nothing."""
    return len(text(message)) <= _REPLY and not parse_actions(message)


def _is_pending(message: Message) -> bool:
    """Whether a turn waits for the answer of a tool."""
    actions = parse_actions(message) if message["role"] == "assistant" else ()
    return bool(actions) and actions[-1].name not in FINISH


def _without_frame(asked: list[str]) -> list[str]:
    """Cut off what all questions begin or end with, line by line, where it is long enough for an
    instruction.
    """
    distinct = set(asked)
    if len(distinct) < 2:
        return asked
    start = _start(os.path.commonprefix(list(distinct)))
    ending = os.path.commonprefix([question[start:][::-1] for question in distinct])
    end = len(ending[: ending.rfind("\n")]) if ending.rfind("\n") >= LONG else 0
    cut = [question[start : len(question) - end].strip() for question in asked]
    return cut if all(cut) else asked


def _start(shared: str) -> int:
    """Return where the questions begin behind what they share: at its last line, behind a heading
    there.
    """
    line = shared.rfind("\n") + 1
    headings = [found.end() for found in _HEADING.finditer(shared) if found.end() >= line]
    return headings[-1] if headings else line if len(shared) >= LONG else 0


def _asked_at(run: Trajectory, turn: int, question: str, key: Callable[[str], str]) -> Trajectory:
    if not question or question == run.question:
        return run
    given = run.question_id != key(run.question)
    messages = tuple(
        {**message, "weight": 0} if message["role"] == "assistant" and number < turn else message
        for number, message in enumerate(run.messages)
    )
    return replace(
        run,
        question=question,
        question_id=run.question_id if given else key(question),
        messages=messages,
    )


def _note(runs: Sequence[Trajectory], total: int) -> str:
    counts = Counter(run.question_id for run in runs)
    most = max(counts.values())
    shared = "each has its own" if most == 1 else f"at most {most} runs share one"
    return f"the question is guessed for {len(runs)} of {total} runs: {len(counts)} questions, {shared}"
