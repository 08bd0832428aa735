"""Which passages surround the gold ones of a question, in which order, and which are left out
because they give away.

A passage that holds the answer, or nearly repeats a gold passage, would let a model answer without
finding gold (HELMET leaves out the former too).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np

from negfail_nb.benchmarking.corpora.records import Passage, PassagePool, Question, gold_copies
from negfail_nb.grading import normalize_answer
from negfail_nb.settings import ContextSettings

# Random filler of a larger pool comes from a sample of this many, so that tokenising it stays
# bounded.
SHARED = 50_000
REASONS = ("answer", "near_duplicate")  # for which filler is left out
_JOINTS = re.compile(r"[-‐-―−/'’]")  # "Paris-based" holds Paris
_NOT_A_STRING = frozenset({"", "yes", "no", "noanswer"})
_BITS = 1024


@dataclass(frozen=True, slots=True)
class Words:
    """What is compared of a passage: its normalised text, the size of its set of words, and a bit
    for each word.
    """

    text: str
    size: int
    bits: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """One filler passage. ``before`` counts by reason what was left out on the way to it."""

    number: int
    hard: bool
    answer: bool
    before: dict[str, int]


class Fillers:
    """Filler for each question of a benchmark.

    Parameters
    ----------
    pool
        The passages.
    settings
        Fill, screening and seed.
    hits
        Numbers of the passages retrieved for each question, best first, one row a question;
        negative ones are none.
    """

    def __init__(
        self, pool: PassagePool, settings: ContextSettings, hits: Sequence[Sequence[int]] | None
    ) -> None:
        self.pool, self.settings = pool, settings
        self.hits = None if hits is None else np.asarray(hits)
        self.random = np.arange(len(pool))
        if len(pool) > SHARED:
            self.random = np.random.default_rng(settings.seed).choice(
                len(pool), SHARED, replace=False
            )
        self._words: dict[int, Words] = {}

    def of(self, index: int, question: Question, gold: Sequence[int], rng: Any) -> Iterator[Chosen]:
        """Yield the filler of one question in order, until the pool is used up."""
        settings = self.settings
        answers = answer_strings(question)
        gold_words = [self.words(number) for number in gold] if settings.near_duplicate else []
        seen = {number for copies in gold_copies(question, self.pool) for number in copies}
        left_out: dict[str, int] = {}
        for number, hard in self._order(index, rng):
            if number in seen:
                continue
            seen.add(number)
            words = self.words(number)
            holds = any(answer in words.text for answer in answers)
            repeats = any(
                near_duplicate(words, other, settings.near_duplicate) for other in gold_words
            )
            if repeats or (holds and settings.answers == "drop"):
                reason = "near_duplicate" if repeats else "answer"
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
            yield Chosen(number, hard, holds, dict(left_out))

    def words(self, number: int) -> Words:
        """Return what is compared of a passage; it is made the first time only."""
        if number not in self._words:
            self._words[number] = words_of(self.pool[number])
        return self._words[number]

    def _order(self, index: int, rng: Any) -> Iterator[tuple[int, bool]]:
        """Yield numbers, and whether they were retrieved; random ones follow where retrieved ones
        run out.
        """
        chance = rng.permutation(self.random).tolist()
        if self.settings.fill == "random":
            return zip(chance, repeat(False))
        hard = [number for number in self.hits[index].tolist() if number >= 0]
        first = (
            hard
            if self.settings.fill == "hard"
            else chain.from_iterable(zip(hard, chance, strict=False))
        )
        retrieved = set(hard)
        return ((number, number in retrieved) for number in chain(first, chance))


def question_stream(seed: int, question: Question) -> Any:
    """Return the random numbers of one question, the same wherever it stands among others."""
    digest = hashlib.blake2b(question.id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])


def answer_strings(question: Question) -> list[str]:
    """Return what a passage must not hold: the answers, normalised, between spaces. None for yes
    and no.
    """
    plain = dict.fromkeys(_plain(answer) for answer in (question.answer, *question.aliases))
    return [f" {answer} " for answer in plain if answer not in _NOT_A_STRING]


def words_of(passage: Passage) -> Words:
    """Return what is compared of a passage, its title included."""
    text = _plain(f"{passage.title} {passage.text}")
    distinct, bits = set(text.split()), 0
    for word in distinct:
        bits |= 1 << hash(word) % _BITS
    return Words(f" {text} ", len(distinct), bits)


def near_duplicate(ours: Words, theirs: Words, threshold: float) -> bool:
    """Whether the two sets of words have this Jaccard similarity, at least.

    The bits are a bound that rules out nearly all pairs: as many as differ, so many words differ at
    least.
    """
    smaller = min(ours.size, theirs.size)
    if (ours.bits ^ theirs.bits).bit_count() > (1 - threshold) / threshold * smaller + 1e-9:
        return False
    a, b = set(ours.text.split()), set(theirs.text.split())
    return len(a & b) >= threshold * len(a | b) - 1e-9


def _plain(text: str) -> str:
    return normalize_answer(_JOINTS.sub(" ", text))
