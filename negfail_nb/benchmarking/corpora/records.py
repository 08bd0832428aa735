"""What passes between the parts of the benchmark: questions, passages, and a pool of passages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from negfail_nb.grading import normalize_answer

ALIKE = 0.8  # share of a supporting sentence's words that a passage of another edition must hold


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
    evidence
        For each fact the passage that holds it, as the record has it; ``None`` where the record
        does not hold it. Two passages may have one title: which of them is gold, this tells. Empty:
        the record holds none.
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
    evidence: tuple[Passage | None, ...] = ()
    own: tuple[str, ...] = ()

    @property
    def gold(self) -> tuple[str, ...]:
        """Names of the passages that hold the supporting facts, each once, in the order of the
        facts.

        A name is the title; of the second gold passage with one title it is ``title (2)``.
        """
        names: dict[str, None] = {}
        for title, _ in self.needed():
            copies = (title, *(f"{title} ({number})" for number in range(2, len(self.facts) + 2)))
            names[next(name for name in copies if name not in names)] = None
        return tuple(names)

    def needed(self) -> dict[tuple[str, str | None], list[str]]:
        """Return the gold passages in the order of `gold`: title and text, with their supporting
        sentences.

        The text is ``None`` where the record does not hold the passage.
        """
        found: dict[tuple[str, str | None], list[str]] = {}
        for (title, number), passage in zip(
            self.facts, self.evidence or (None,) * len(self.facts), strict=True
        ):
            sentences = found.setdefault((title, None if passage is None else passage.text), [])
            sentences += () if passage is None else passage.sentences[number : number + 1]
        return found


class PassagePool(Protocol):
    """Passages by number, however they are stored; `negfail_nb.benchmarking.corpora.pool.Pool`
    keeps them memory-mapped.

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
        """Return the numbers of the passages with this title, byte for byte; none: an empty
        sequence.
        """
        ...


def gold_numbers(question: Question, pool: PassagePool) -> tuple[int, ...]:
    """Return the gold passages of a question by their numbers in a pool; of equal ones, the first."""
    return tuple(copies[0] for copies in gold_copies(question, pool))


def gold_copies(question: Question, pool: PassagePool) -> tuple[tuple[int, ...], ...]:
    """Return, for each gold passage of a question, the numbers under which a pool holds it.

    A passage is known by title and text. Where the pool has the title with another text, as in
    another edition of Wikipedia or cut into pieces, it is the one that holds most of the words of
    the supporting sentences.

    Parameters
    ----------
    question
        With supporting facts; see ``Question.evidence``.
    pool
        Where its gold passages are looked up.

    Returns
    -------
    tuple
        In the order of ``question.gold``: ascending numbers, at least one, several where the pool
        holds equal passages.

    Raises
    ------
    ValueError
        Where the pool lacks one, or has several of its title and nothing tells which is meant; the
        text names it.
    """
    return tuple(
        _copies(question.id, *named, sentences, pool)
        for named, sentences in question.needed().items()
    )


def _copies(
    name: str, title: str, text: str | None, sentences: Sequence[str], pool: PassagePool
) -> tuple[int, ...]:
    texts = {int(number): pool[int(number)].text for number in pool.find(title)}
    if not texts:
        raise ValueError(
            f"question {name!r}: the pool has no passage titled {title!r} among its {len(pool)}; titles match byte for "
            "byte. Build the pool from the questions' own passages, or from a corpus that holds their gold"
        )
    if text is None and len(set(texts.values())) > 1:
        raise ValueError(
            f"question {name!r}: the pool has {len(texts)} passages titled {title!r}, and the question's record does "
            "not hold the passage itself, so which of them is gold is not known; give records with their passages"
        )
    same = tuple(texts) if text is None else tuple(n for n, other in texts.items() if other == text)
    if same or (same := _most_alike(texts, sentences or [text])):
        return same
    raise ValueError(
        f"question {name!r}: of the pool's passages titled {title!r} ({len(texts)}) none has the supporting sentence "
        f"{' '.join(sentences or [text])[:80]!r}; does the pool belong to these questions?"
    )


def _most_alike(texts: Mapping[int, str], sentences: Sequence[str]) -> tuple[int, ...]:
    """Return the passages that hold most words of some sentences; none where none holds enough."""
    wanted = _words(" ".join(sentences))
    shares = {
        number: len(wanted & _words(text)) / max(1, len(wanted)) for number, text in texts.items()
    }
    best = max(ALIKE, *shares.values())
    return tuple(number for number, share in shares.items() if share >= best)


def _words(text: str) -> set[str]:
    return set(normalize_answer(text).split())
