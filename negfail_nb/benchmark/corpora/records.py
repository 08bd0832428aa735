"""What passes between the parts of the benchmark: questions, passages, and a pool of passages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage of a corpus.

    Attributes
    ----------
    title
        Byte for byte as the corpus has it; supporting facts name it.
    sentences
        In order; they join with ``''``, as HotpotQA's do (all but the first begin with a space).
    """

    title: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences, joined."""
        return "".join(self.sentences)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question with what is needed to answer and to judge it.

    Attributes
    ----------
    id
        Unique among the questions.
    question, answer
        The question and its reference answer.
    aliases
        Other answers that count, beside ``answer`` (MuSiQue and 2WikiMultiHopQA have them).
    type, level
        As the data set says: ``"bridge"``, ``"comparison"`` ..; empty where it does not.
    facts
        Supporting facts: title and number of the sentence, from 0.
    own
        Titles of the paragraphs that the record itself holds, gold ones among them, in its order.
    """

    id: str
    question: str
    answer: str
    aliases: tuple[str, ...] = ()
    type: str = ""
    level: str = ""
    facts: tuple[tuple[str, int], ...] = ()
    own: tuple[str, ...] = ()

    @property
    def gold(self) -> tuple[str, ...]:
        """Titles of the passages that hold the supporting facts, each once, in the order of the facts."""
        return tuple(dict.fromkeys(title for title, _ in self.facts))


class PassagePool(Protocol):
    """Passages by number, however they are stored; `negfail_nb.benchmark.corpora.pool.Pool` keeps them memory-mapped.

    Attributes
    ----------
    fingerprint
        Changes when a title or a text changes.
    """

    fingerprint: str

    def __len__(self) -> int:
        """Return how many passages there are."""
        ...

    def __getitem__(self, number: int) -> Passage:
        """Return one passage."""
        ...

    def __iter__(self) -> Iterator[Passage]:
        """Iterate over the passages."""
        ...

    def find(self, title: str) -> Sequence[int]:
        """Return the numbers of the passages with this title, byte for byte; none: an empty sequence."""
        ...


def gold_numbers(question: Question, pool: PassagePool) -> tuple[int, ...]:
    """Return the gold passages of a question by their numbers in a pool; of several of one title, the first.

    Raises
    ------
    ValueError
        Where the pool lacks one.
    """
    found = [pool.find(title)[:1] for title in question.gold]
    lacking = [title for title, numbers in zip(question.gold, found, strict=True) if not len(numbers)]
    if lacking:
        raise ValueError(
            f"question {question.id!r}: the pool has no passage titled {lacking[0]!r}; build the pool from the "
            "questions' own passages, or from a corpus that holds their gold"
        )
    return tuple(int(numbers[0]) for numbers in found)
