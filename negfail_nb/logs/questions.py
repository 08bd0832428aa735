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
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
Chats = Callable[[], Iterator["_Spoken"]]


def question_key(question: str) -> str:
    """Return the id of a question: a hash of its words, whatever their case and spacing."""
    return "q" + hashlib.sha256(" ".join(question.casefold().split()).encode()).hexdigest()[:12]


def first_user(messages: Sequence[Message]) -> int:
    """Return the index of the first user turn that says something, or -1."""
    return next((i for i, m in enumerate(messages) if m["role"] == "user" and text(m).strip()), -1)


@dataclass(frozen=True, slots=True)
class Frame:
    """What the chats of a file put around their questions.

    Attributes
    ----------
    shared
        The turns with which nearly all begin.
    together
        Digests of first turns and replies after which several chats go on differently.
    start, end
        Characters that all questions begin and end with.
    """

    shared: Head = ()
    together: frozenset[bytes] = frozenset()
    start: int = 0
    end: int = 0

    def settle(self, run: Trajectory) -> Trajectory:
        """Return a run, whose question was guessed, with its question.

        Assistant turns before it get weight 0. An id that the log gave stays.
        """
        return _asked_at(run, *self.question(_Spoken(run.messages)))

    def question(self, chat: _Spoken) -> tuple[int, str]:
        """Return the index of the user turn that is the question of a chat, and the question."""
        shared = len(self.shared)
        turn = chat.after(shared) if shared and chat.head(shared) == self.shared else -1
        head = chat.head(2)
        if turn < 0 and (chat.is_noted or _digest(head) in self.together):
            turn = chat.after(len(head))
        turn = turn if turn >= 0 else chat.first
        asked = text(chat.messages[turn]).strip()
        return turn, asked[self.start : len(asked) - self.end].strip()


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
        The runs, settled as `Frame.settle` says; and a sentence that says how many runs share a
        guessed question, ``""`` if none was guessed.
    """
    places = [place for place, run in enumerate(runs) if run.source.record in guessed]
    if not places:
        return list(runs), ""
    chats = [_Spoken(runs[place].messages) for place in places]
    frame = _find_frame(lambda: iter(chats))
    settled = list(runs)
    for place in places:
        settled[place] = frame.settle(runs[place])
    return settled, guess_note(Counter(settled[p].question_id for p in places), len(runs))


def find_frame(chats: Callable[[], Iterator[Sequence[Message]]]) -> Frame:
    """Return what chats, given as their messages, put around their questions.

    ``chats`` is called several times; what is kept of a chat is a digest of its first turns.
    """
    return _find_frame(lambda: map(_Spoken, chats()))


def guess_note(counts: Mapping[str, int], runs: int) -> str:
    """Return how many of a file's runs share a guessed question, given the runs of each."""
    most = max(counts.values())
    shared = "each has its own" if most == 1 else f"at most {most} runs share one"
    guesses = f"the question is guessed for {sum(counts.values())} of {runs} runs"
    return f"{guesses}: {len(counts)} questions, {shared}"


def _find_frame(chats: Chats) -> Frame:
    frame = Frame(_shared_turns(chats), frozenset(_noted_together(chats)))

    def asked(start: int = 0) -> Iterator[str]:
        return (frame.question(chat)[1][start:] for chat in chats())

    shared = _common_start(asked())
    if shared is None:
        return frame
    start = _start(shared)
    ending = _common_start(question[::-1] for question in asked(start)) or ""
    end = len(ending[: ending.rfind("\n")]) if ending.rfind("\n") >= LONG else 0
    cut = replace(frame, start=start, end=end)
    return cut if all(cut.question(chat)[1] for chat in chats()) else frame


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

    def after(self, at: int) -> int:
        """Return the place of the user's turn after so many; -1 if there is none, or a tool's."""
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


def _shared_turns(chats: Chats) -> Head:
    """Return the turns with which nearly all chats begin, up to the first in which they differ."""
    every = sum(1 for _ in chats())
    shared: Head = ()
    if every < 2:
        return ()
    while True:
        size = len(shared)
        left = 0
        heads: Counter[bytes] = Counter()
        for chat in chats():
            if chat.head(size) == shared:
                left += 1
                if len(chat.places) > size:
                    heads[_digest(chat.head(size + 1))] += 1
        digest, count = heads.most_common(1)[0] if heads else (b"", 0)
        if count < max(2, SHARED * every):
            break
        following = (chat.head(size + 1) for chat in chats())
        shared = next(head for head in following if _digest(head) == digest)
    differ = len(heads) > 1 and 2 * sum(heads.values()) > left
    # A shared question, which comes back to the agent or with which most runs end, is the question.
    asks_back = bool(shared) and shared[-1][1].endswith("?")
    return shared if differ and not asks_back else ()


def _noted_together(chats: Chats) -> set[bytes]:
    """Return first turns and replies after which several chats go on with different user turns."""
    first: dict[bytes, bytes] = {}
    several: set[bytes] = set()
    for chat in chats():
        head = chat.head(3)
        if [role for role, _ in head] != ["user", "assistant", "user"] or "?" in head[1][1]:
            continue
        if _is_short(chat.messages[chat.places[1]]):
            task = _digest(head[2:])
            begin = _digest(head[:2])
            if first.setdefault(begin, task) != task:
                several.add(begin)
    return several


def _digest(head: Head) -> bytes:
    told = "\0".join(part for turn in head for part in turn)
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _common_start(texts: Iterable[str]) -> str | None:
    """Return what all texts begin with, ``None`` if there are not two that differ."""
    lowest = highest = None
    for found in texts:
        lowest = found if lowest is None or found < lowest else lowest
        highest = found if highest is None or found > highest else highest
    return None if lowest == highest else os.path.commonprefix([lowest, highest])


def _is_short(message: Message) -> bool:
    """Whether a reply is short and does nothing."""
    return len(text(message)) <= _REPLY and not parse_actions(message)


def _start(shared: str) -> int:
    """Return where questions begin behind what they share: at its last line, after a heading."""
    line = shared.rfind("\n") + 1
    headings = [found.end() for found in _HEADING.finditer(shared) if found.end() >= line]
    return headings[-1] if headings else line if len(shared) >= LONG else 0
