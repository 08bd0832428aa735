"""Questions, passages, and where a pool holds the gold passages of a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from negfail_nb.grading import normalize_answer

ALIKE = 0.8  # share of a supporting sentence's words that a passage of another edition must hold


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage of a corpus.

    Attributes
    ----------
    title
        Byte for byte as in the corpus; supporting facts name it.
    sentences
        In order; they join with ``''``, as HotpotQA's do (all but the first begin with a space).
    """

    title: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences, joined."""
        return "".join(self.sentences)

    @property
    def searched(self) -> str:
        """What retrieval sees: title and text."""
        return f"{self.title} {self.text}"


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
        Other answers that count (MuSiQue and 2WikiMultiHopQA have them).
    type, level
        As the data set says: ``"bridge"``, ``"comparison"`` ..; may be empty.
    facts
        Supporting facts: title and number of the sentence, from 0.
    evidence
        The passage of each fact, ``None`` if the record does not hold it. If two passages share a
        title, this tells which one is gold. Empty: the record holds none.
    own
        Titles of the paragraphs in the record itself, gold ones among them, in its order.
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
        """Names of the passages with supporting facts, each once, in the order of the facts.

        A name is the title; a second gold passage with the same title is ``title (2)``.
        """
        names: dict[str, None] = {}
        for title, _ in self.needed():
            copies = (title, *(f"{title} ({number})" for number in range(2, len(self.facts) + 2)))
            names[next(name for name in copies if name not in names)] = None
        return tuple(names)

    def needed(self) -> dict[tuple[str, str | None], list[str]]:
        """Return title and text of each gold passage, in the order of `gold`, with its supporting
        sentences; the text is ``None`` if the record does not hold the passage.
        """
        found: dict[tuple[str, str | None], list[str]] = {}
        evidence = self.evidence or (None,) * len(self.facts)
        for (title, number), passage in zip(self.facts, evidence, strict=True):
            sentences = found.setdefault((title, None if passage is None else passage.text), [])
            sentences += () if passage is None else passage.sentences[number : number + 1]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Question:
        """Build a question from JSON values; ``ValueError`` or ``TypeError`` for another schema."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        values["facts"] = tuple((title, number) for title, number in record["facts"])
        values["evidence"] = tuple(
            p and Passage(p["title"], tuple(p["sentences"])) for p in record["evidence"]
        )
        return cls(**values)


class PassagePool(Protocol):
    """Passages by number; `negfail_nb.benchmarking.pools` has one on disk and one in memory.

    Attributes
    ----------
    content
        SHA-256 over titles and texts, in order.
    """

    content: str

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Passage: ...

    def __iter__(self) -> Iterator[Passage]: ...

    def find(self, title: str) -> Sequence[int]:
        """Return the numbers of the passages with this title, byte for byte."""
        ...


def gold_numbers(question: Question, pool: PassagePool) -> tuple[int, ...]:
    """Return the numbers of a question's gold passages in a pool; of equal passages, the first."""
    return tuple(copies[0] for copies in gold_copies(question, pool))


def gold_copies(question: Question, pool: PassagePool) -> tuple[tuple[int, ...], ...]:
    """Return, for each gold passage of a question, its numbers in a pool, in the order of
    ``question.gold``; several if the pool holds equal passages.

    A passage is known by title and text. If the pool has the title with another text only, as in
    another edition of Wikipedia, it is the passage with most words of the supporting sentences.

    Raises
    ------
    ValueError
        If the pool lacks a passage, or has several of its title and nothing tells which is meant;
        the text names it.
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
            f"question {name!r}: the pool has no passage titled {title!r} among its {len(pool)}; "
            "titles match byte for byte. Build the pool from the questions' own passages, or from "
            "a corpus that holds their gold"
        )
    if text is None and len(set(texts.values())) > 1:
        raise ValueError(
            f"question {name!r}: the pool has {len(texts)} passages titled {title!r}, and the "
            "question's record does not hold the passage itself, so which of them is gold is not "
            "known; give records with their passages"
        )
    same = tuple(texts) if text is None else tuple(n for n, other in texts.items() if other == text)
    if same or (same := _most_alike(texts, sentences or [text])):
        return same
    raise ValueError(
        f"question {name!r}: of the pool's passages titled {title!r} ({len(texts)}) none has the "
        f"supporting sentence {' '.join(sentences or [text])[:80]!r}; does the pool belong to "
        "these questions?"
    )


def _most_alike(texts: Mapping[int, str], sentences: Sequence[str]) -> tuple[int, ...]:
    """Return the passages with most words of some sentences; none if no passage has enough."""
    wanted = set(normalize_answer(" ".join(sentences)).split())
    shares = {
        number: len(wanted & set(normalize_answer(text).split())) / max(1, len(wanted))
        for number, text in texts.items()
    }
    best = max(ALIKE, *shares.values())
    return tuple(number for number, share in shares.items() if share >= best)
