"""Which turn is the question, if a log does not say: what all its runs share is an instruction, not
the question.

The first guess is the first user turn. Logs that put an instruction first (AgentInstruct, ETO)
would then have a single question. So if the runs of a file begin alike, the question is the first
user turn in which they differ; if that turn begins or ends alike in all runs, it is the rest.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

from negfail_nb.steps import FINISH, parse_actions, text
from negfail_nb.trajectory import Message, Trajectory

SHARED = 0.9  # of a file's runs must begin alike
LONG = 80  # least length, in characters, of a shared beginning or end that is an instruction
_REPLY = 200  # characters of a reply that only takes note of an instruction
_HEADING = re.compile(
    r"^[ \t#*]*(?:question|task|problem|input|query)[*]*[ \t]*:[*]*\s*",
    re.IGNORECASE | re.MULTILINE,
)
# "OK.", "I've understood your instruction, start please.": a reply to an instruction, not to a
# question.
_NOTED = re.compile(
    r"(?:(?:ok(?:ay)?|understood|got it|acknowledged|roger|ready)\b"
    r"(?![,.!]?\s+(?:so|but|what|which|who|how)\b)"
    r"|(?:ok(?:ay)?|sure|yes|understood|got it)?[,.!]?\s*"
    r"(?:i(?:'ve| have)? (?:fully )?underst(?:and|ood)|i(?:'m| am) ready|i(?:'ll| will) follow)\b)",
    re.IGNORECASE,
)

Head = tuple[tuple[str, str], ...]  # role and text of the first turns


def question_key(question: str) -> str:
    """Return the id of a question: a hash of its words, whatever their case and spacing."""
    return "q" + hashlib.sha256(" ".join(question.casefold().split()).encode()).hexdigest()[:12]


def first_user(messages: Sequence[Message]) -> int:
    """Return the index of the first user turn that says something, or -1."""
    return next((i for i, m in enumerate(messages) if m["role"] == "user" and text(m).strip()), -1)


def settle_questions(
    runs: Sequence[Trajectory], guessed: Collection[str]
) -> tuple[list[Trajectory], str]:
    """Find the questions of runs of one file whose log names none.

    Parameters
    ----------
    runs
        The trajectories of the file; those guessed have the first user turn as their question.
    guessed
        Which records' questions are guesses (``source.record``).

    Returns
    -------
    tuple
        The runs, with corrected questions and weight 0 for the assistant turns before them; and a
        sentence that says how many runs share a guessed question, ``""`` if none was guessed. An
        id that the log gave stays.
    """
    places = [place for place, run in enumerate(runs) if run.source.record in guessed]
    if not places:
        return list(runs), ""
    turns = _question_turns([runs[place].messages for place in places])
    asked = _without_frame(
        [text(runs[p].messages[turn]).strip() for p, turn in zip(places, turns, strict=True)]
    )
    settled = list(runs)
    for place, turn, question in zip(places, turns, asked, strict=True):
        settled[place] = _asked_at(runs[place], turn, question)
    counts = Counter(settled[place].question_id for place in places)
    most = max(counts.values())
    shared = "each has its own" if most == 1 else f"at most {most} runs share one"
    guesses = f"the question is guessed for {len(places)} of {len(runs)} runs"
    return settled, f"{guesses}: {len(counts)} questions, {shared}"


def _asked_at(run: Trajectory, turn: int, question: str) -> Trajectory:
    if not question or question == run.question:
        return run
    given = run.question_id != question_key(run.question)
    messages = tuple(
        {**message, "weight": 0} if message["role"] == "assistant" and number < turn else message
        for number, message in enumerate(run.messages)
    )
    key = run.question_id if given else question_key(question)
    return replace(run, question=question, question_id=key, messages=messages)


def _question_turns(runs: Sequence[Sequence[Message]]) -> list[int]:
    """Return for each run the index of the user turn that is its question."""
    spoken = [_Spoken(messages) for messages in runs]
    shared = _shared_turns(spoken)
    together = _noted_together(spoken)
    found = []
    for run in spoken:
        turn = run.after(shared) if shared and run.head(len(shared)) == shared else -1
        if turn < 0 and (run.is_noted or run.head(2) in together):
            turn = run.after(run.head(2))
        found.append(turn if turn >= 0 else run.first)
    return found


class _Spoken:
    """What is said from the first user turn on: role and text of each turn, and where it stands."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.first = first_user(messages)
        begin = range(self.first, len(messages))
        self.places = [i for i in begin if messages[i]["role"] != "system"]

    def head(self, size: int) -> Head:
        """Return role and text of the first turns."""
        turns = (self.messages[i] for i in self.places[:size])
        return tuple((turn["role"], text(turn).strip()) for turn in turns)

    def after(self, turns: Head) -> int:
        """Return the place of the user's turn after these, or -1 if there is none, or a tool's."""
        at = len(turns)
        if at >= len(self.places) or self.messages[self.places[at]]["role"] != "user":
            return -1
        before = self.messages[self.places[at - 1]]
        actions = parse_actions(before) if before["role"] == "assistant" else ()
        pending = bool(actions) and actions[-1].name not in FINISH
        return -1 if pending else self.places[at]

    @property
    def is_noted(self) -> bool:
        """Whether the first reply only takes note of an instruction."""
        if len(self.places) < 3 or self.messages[self.places[1]]["role"] != "assistant":
            return False
        reply = self.messages[self.places[1]]
        return _is_short(reply) and _NOTED.match(text(reply).strip()) is not None


def _shared_turns(runs: Sequence[_Spoken]) -> Head:
    """Return the turns with which nearly all runs begin, up to the first in which they differ."""
    left = list(runs)
    size = 0
    if len(runs) < 2:
        return ()
    while True:
        heads = Counter(run.head(size + 1) for run in left if len(run.places) > size)
        head, count = heads.most_common(1)[0] if heads else ((), 0)
        if count < max(2, SHARED * len(runs)) or len(head) <= size:
            break
        left = [run for run in left if run.head(len(head)) == head]
        size = size + 1
    following = [run.head(size + 1)[size] for run in left if len(run.places) > size]
    shared = left[0].head(size)
    differ = len(set(following)) > 1 and 2 * len(following) > len(left)
    # A shared question, which comes back to the agent or with which most runs end, is the question.
    asks_back = bool(size) and shared[-1][1].endswith("?")
    return shared if differ and not asks_back else ()


def _noted_together(runs: Sequence[_Spoken]) -> set[Head]:
    """Return first turns and replies after which several runs go on with different user turns."""
    following: dict[Head, list[str]] = defaultdict(list)
    for run in runs:
        head = run.head(3)
        roles = [role for role, _ in head]
        if roles == ["user", "assistant", "user"] and _is_short(run.messages[run.places[1]]):
            following[head[:2]].append(head[2][1])
    several = (head for head, tasks in following.items() if len(set(tasks)) > 1)
    return {head for head in several if "?" not in head[1][1]}


def _is_short(message: Message) -> bool:
    """Whether a reply is short and does nothing."""
    return len(text(message)) <= _REPLY and not parse_actions(message)


def _without_frame(asked: list[str]) -> list[str]:
    """Cut off what all questions begin or end with, if it is as long as an instruction."""
    distinct = set(asked)
    if len(distinct) < 2:
        return asked
    start = _start(os.path.commonprefix(list(distinct)))
    ending = os.path.commonprefix([question[start:][::-1] for question in distinct])
    end = len(ending[: ending.rfind("\n")]) if ending.rfind("\n") >= LONG else 0
    cut = [question[start : len(question) - end].strip() for question in asked]
    return cut if all(cut) else asked


def _start(shared: str) -> int:
    """Return where questions begin behind what they share: at its last line, after a heading."""
    line = shared.rfind("\n") + 1
    headings = [found.end() for found in _HEADING.finditer(shared) if found.end() >= line]
    return headings[-1] if headings else line if len(shared) >= LONG else 0
