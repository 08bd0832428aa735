"""What a grid has to ask: its turns, those already answered in a file, and what that file's answers
were made with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from negfail_nb.agents.queue import Queue
from negfail_nb.benchmarking.arms.answers import read_answers
from negfail_nb.benchmarking.arms.sitting import Setup
from negfail_nb.benchmarking.corpora.records import Question
from negfail_nb.journal import Journal
from negfail_nb.runs import fingerprint
from negfail_nb.settings import ContextSettings

if TYPE_CHECKING:
    from negfail_nb.benchmarking.contexts.ladder import Contexts

LONG = "long_context"


class Turn(NamedTuple):
    """One question under one arm, with its context where the arm has one."""

    label: str
    question: Question
    context: Any = None

    @property
    def id(self) -> str:
        """As `Answered.id`."""
        return f"{self.label}/{self.question.id}"


def open_journal(path: Path, plan: dict[str, Any]) -> Journal:
    """Return the file of answers; see `negfail_nb.journal.Journal`."""
    return Journal(path, plan, read_answers, "benchmark", "answers", "benchmarking.arms.grid")


class Todo:
    """The turns of a grid that its queue has left."""

    def __init__(self, labels: Sequence[str], questions: Sequence[Question], queue: Queue) -> None:
        self.labels, self.questions, self.queue = labels, questions, queue

    def has(self, label: str) -> bool:
        """Whether a question of an arm is left."""
        return any(Turn(label, question).id not in self.queue.kept for question in self.questions)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of long contexts; none where nothing is left at any of them. All are made, as
        they are nested.
        """
        long = [label for label in self.labels if label.startswith(f"{LONG}@")]
        return (
            tuple(int(label.partition("@")[2]) for label in long)
            if any(map(self.has, long))
            else ()
        )

    def turns(self, contexts: Contexts | None) -> Iterator[Turn]:
        """Yield what is left, arm by arm and length by length: what is under way together takes
        about as long.
        """
        left = (turn for turn in self._all(contexts) if turn.id not in self.queue.kept)
        return islice(left, self.queue.left)

    def _all(self, contexts: Contexts | None) -> Iterator[Turn]:
        by_id = {question.id: question for question in self.questions}
        for label in filter(self.has, self.labels):
            if contexts is not None and label.startswith(f"{LONG}@"):
                made = contexts.of_length(int(label.partition("@")[2]))
                yield from (Turn(label, by_id[c.question_id], c) for c in made)
            else:
                yield from (Turn(label, question) for question in self.questions)


def make_grid_plan(
    setup: Setup, questions: Sequence[Question], contexts: ContextSettings, tokenizer: Any
) -> dict[str, Any]:
    """Return what makes an answer what it is; with another of these a folder is not gone on with."""
    agent = setup.agent
    return {
        "reading": {k: v for k, v in asdict(setup.settings).items() if k != "concurrency"},
        "contexts": {k: v for k, v in asdict(contexts).items() if k != "lengths"},
        "retrieval": asdict(setup.retrieval),
        "model": setup.model.name,
        "agent": {
            "model": agent.model.name if agent.model else setup.model.name,
            "prompt": agent.prompt("question"),
            "live": {k: v for k, v in asdict(agent.live).items() if k != "concurrency"},
        },
        "prompt": setup.prompt.fingerprint,
        "tokenizer": _tokenizer_fingerprint(tokenizer),
        "pool": setup.pool.fingerprint,
        "index": str(getattr(setup.index, "fingerprint", "")),
        "questions": {
            "count": len(questions),
            "hash": fingerprint([asdict(question) for question in questions]),
        },
    }


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    if tokenizer is None:
        return ""
    return fingerprint([tokenizer.get_vocab(), getattr(tokenizer, "chat_template", None)])[:16]
