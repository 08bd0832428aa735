"""Which passages surround the gold ones of a question, at which places, and how the last is cut.

A passage that holds the answer, or nearly repeats a gold passage, would let a model answer without
finding gold, so it is left out (HELMET leaves out the former too).

Each passage has a place between 0 and 1 that it keeps at every length: gold as the settings say,
filler evenly spread. So a longer context holds the passages of a shorter one in the same order, and
gold stays at about the same depth.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, repeat
from typing import Any

import numpy as np

from negfail_nb.benchmarking.records import Passage, PassagePool, Question, gold_copies
from negfail_nb.grading import normalize_answer
from negfail_nb.settings import ContextSettings

Size = Callable[[Passage], int]
Cut = tuple[Passage, str]

# Random filler of a larger pool comes from a sample of this many, which bounds tokenisation.
SHARED = 50_000
GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, spread evenly however many there are
_JOINTS = re.compile(r"[-‐-―−/'’]")  # "Paris-based" holds Paris
_NOT_A_STRING = frozenset({"", "yes", "no", "noanswer"})
_BITS = 1024


@dataclass(frozen=True, slots=True)
class Words:
    """What is compared of a passage: its normalised text, its number of different words, and a bit
    per word.
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

    ``hits`` are the numbers of the passages retrieved for each question, best first, one row per
    question; negative ones are none.
    """

    def __init__(
        self, pool: PassagePool, settings: ContextSettings, hits: Sequence[Sequence[int]] | None
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.hits = None if hits is None else np.asarray(hits)
        self.random = np.arange(len(pool))
        if len(pool) > SHARED:
            rng = np.random.default_rng(settings.seed)
            self.random = rng.choice(len(pool), SHARED, replace=False)
        self._words: dict[int, Words] = {}

    def of(self, index: int, question: Question, gold: Sequence[int], rng: Any) -> Iterator[Chosen]:
        """Yield the filler of one question in order, until the pool is used up."""
        settings = self.settings
        answers = _answer_strings(question)
        gold_words = [self._words_of(number) for number in gold] if settings.near_duplicate else []
        seen = {number for copies in gold_copies(question, self.pool) for number in copies}
        left_out: dict[str, int] = {}
        for number, hard in self._order(index, rng):
            if number in seen:
                continue
            seen.add(number)
            words = self._words_of(number)
            holds = any(answer in words.text for answer in answers)
            repeats = any(
                near_duplicate(words, other, settings.near_duplicate) for other in gold_words
            )
            if repeats or (holds and settings.answers == "drop"):
                reason = "near_duplicate" if repeats else "answer"
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
            yield Chosen(number, hard, holds, dict(left_out))

    def _words_of(self, number: int) -> Words:
        if number not in self._words:
            self._words[number] = words_of(self.pool[number])
        return self._words[number]

    def _order(self, index: int, rng: Any) -> Iterator[tuple[int, bool]]:
        """Yield numbers, and whether they were retrieved; random ones follow the retrieved ones."""
        chance = rng.permutation(self.random).tolist()
        if self.settings.fill == "random":
            return zip(chance, repeat(False))
        hard = [number for number in self.hits[index].tolist() if number >= 0]
        first = hard
        if self.settings.fill == "mixed":
            first = chain.from_iterable(zip(hard, chance, strict=False))
        retrieved = set(hard)
        return ((number, number in retrieved) for number in chain(first, chance))


def question_stream(seed: int, question: Question) -> Any:
    """Return the random numbers of one question, whatever other questions there are."""
    digest = hashlib.blake2b(question.id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])


def words_of(passage: Passage) -> Words:
    """Return what is compared of a passage, its title included."""
    text = _plain(f"{passage.title} {passage.text}")
    distinct = set(text.split())
    bits = 0
    for word in distinct:
        bits |= 1 << hash(word) % _BITS
    return Words(f" {text} ", len(distinct), bits)


def near_duplicate(ours: Words, theirs: Words, threshold: float) -> bool:
    """Whether the Jaccard similarity of two sets of words is at least the threshold.

    The bits are a bound that rules out nearly all pairs: at least as many words differ as bits.
    """
    smaller = min(ours.size, theirs.size)
    if (ours.bits ^ theirs.bits).bit_count() > (1 - threshold) / threshold * smaller + 1e-9:
        return False
    a = set(ours.text.split())
    b = set(theirs.text.split())
    return len(a & b) >= threshold * len(a | b) - 1e-9


def _answer_strings(question: Question) -> list[str]:
    """Return the normalised answers, which filler must not hold; none for yes and no."""
    plain = dict.fromkeys(_plain(answer) for answer in (question.answer, *question.aliases))
    return [f" {answer} " for answer in plain if answer not in _NOT_A_STRING]


def _plain(text: str) -> str:
    return normalize_answer(_JOINTS.sub(" ", text))


@dataclass(frozen=True, slots=True)
class Plan:
    """What the contexts of one question share.

    Attributes
    ----------
    gold, gold_places
        Numbers of the gold passages in the pool, and their places.
    filler, sizes
        Filler in the order in which it is taken, and the tokens of each without its prompt number.
    start
        Place of the first filler.
    """

    gold: tuple[int, ...]
    gold_places: np.ndarray
    filler: list[Chosen]
    sizes: list[int]
    start: float

    def order(self, count: int) -> np.ndarray:
        """Return the order of gold (0 ..) and of the first ``count`` filler passages (from
        ``len(gold)``).
        """
        filler = (self.start + GOLDEN * np.arange(count)) % 1.0
        return np.argsort(np.concatenate([self.gold_places, filler]), kind="stable")

    def numbers(self, count: int) -> list[int]:
        """Return the passages' numbers in the pool, in order of `order`'s indices."""
        return [*self.gold, *(chosen.number for chosen in self.filler[:count])]

    def take(self, costs: np.ndarray, free: int) -> int:
        """Return how many filler passages fit into ``free`` tokens; ``costs`` are the tokens of the
        first 0, 1, .. prompt numbers together.
        """
        sums = np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])
        sums = sums + costs[: len(self.sizes) + 1]
        return max(0, int(np.searchsorted(sums, free, side="right")) - 1)


def gold_places(depth: float, count: int, rng: Any) -> np.ndarray:
    """Return a place per gold passage; at a set depth they are together, in an order drawn by
    ``rng``.
    """
    if depth < 0:
        return rng.random(count)
    return depth + rng.permutation(count) * 1e-9


def depths(sizes: np.ndarray, positions: Sequence[int]) -> tuple[float, ...]:
    """Return for each position the share of the other passages' tokens before it."""
    before = np.cumsum(sizes) - sizes
    return tuple(float(before[p] / max(1, sizes.sum() - sizes[p])) for p in positions)


def fill_up(
    passages: Sequence[Passage], sizes: Sequence[int], size: Size, least: int, most: int
) -> list[Cut]:
    """Cut the last filler so that the context is filled; if there is no room for its title, also
    the one before it.

    Of the one or two passages, the last does not fit into ``least`` to ``most`` tokens, the one
    before does. What is left of them is returned, each with ``"sentence"`` or ``"token"``; nothing,
    if no cut helps.
    """
    *before, last = passages
    if cut := shorten(last, size, least, most):
        return [cut]
    missing = size(_first(last, 1)) + 1 - most
    if not before or missing <= 0 or not (other := shorten(before[0], size, 1, sizes[0] - missing)):
        return []
    gained = sizes[0] - size(other[0])
    cut = shorten(last, size, least + gained, most + gained)
    return [other, cut] if cut else []


def shorten(passage: Passage, size: Size, least: int, most: int) -> Cut | None:
    """Cut a passage to ``least`` to ``most`` tokens: behind a sentence if possible, else behind a
    token.
    """
    sentences = list(accumulate(map(len, passage.sentences[:-1])))
    for kind, ends in (("sentence", sentences), ("token", range(1, len(passage.text)))):
        # Longer texts have more tokens, but for a word whose end makes it one token; then the cut
        # is a little short.
        fitting = bisect.bisect_right(ends, most, key=lambda end: size(_first(passage, end)))
        if fitting and size(shorter := _first(passage, ends[fitting - 1])) >= least:
            return shorter, kind
    return None


def _first(passage: Passage, characters: int) -> Passage:
    """Return the passage up to a number of characters."""
    starts = accumulate(map(len, passage.sentences), initial=0)
    kept = (
        s[: max(0, characters - start)] for start, s in zip(starts, passage.sentences, strict=False)
    )
    return replace(passage, sentences=tuple(filter(None, kept)))
