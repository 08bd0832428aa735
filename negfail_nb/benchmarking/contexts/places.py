"""Which passages a context of a given room takes, and in which order.

Each passage has a place between 0 and 1 that it keeps at every length: gold as the settings say,
filler evenly spread. So a longer context holds the passages of a shorter one in the same order, and
gold stays at about the same depth.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from negfail_nb.benchmarking.contexts.filler import Chosen
from negfail_nb.benchmarking.corpora.records import Passage

Size = Callable[[Passage], int]
Cut = tuple[Passage, str]

GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, spread evenly however many there are


@dataclass(frozen=True, slots=True)
class Plan:
    """What the contexts of one question share.

    Attributes
    ----------
    gold, gold_places
        Numbers of the gold passages in the pool, and their places.
    filler, sizes
        Filler in the order in which it is taken, and the tokens of each without its number in the
        prompt.
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
        """Return how many filler passages fit.

        Parameters
        ----------
        costs
            Tokens of the labels of the first 0, 1, .. filler passages together.
        free
            Tokens there are for them.
        """
        sums = (
            np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])
            + costs[: len(self.sizes) + 1]
        )
        return max(0, int(np.searchsorted(sums, free, side="right")) - 1)


def gold_places(depth: float, count: int, rng: Any) -> np.ndarray:
    """Return a place for each gold passage; at a set depth they stand together, in an order drawn
    by ``rng``.
    """
    if depth < 0:
        return rng.random(count)
    return depth + rng.permutation(count) * 1e-9


def depths(sizes: np.ndarray, positions: Sequence[int]) -> tuple[float, ...]:
    """Return for each position the share of the other passages' tokens that stand before it."""
    before = np.cumsum(sizes) - sizes
    return tuple(float(before[p] / max(1, sizes.sum() - sizes[p])) for p in positions)


def fill_up(
    passages: Sequence[Passage], sizes: Sequence[int], size: Size, least: int, most: int
) -> list[Cut]:
    """Cut the last filler so that the context is filled; the one before it too where there is no
    room for its title.

    Parameters
    ----------
    passages, sizes
        One or two of them, and their tokens; the last one does not fit, the one before does.
    size
        Returns the tokens of a passage.
    least, most
        Tokens that are left for the last one.

    Returns
    -------
    list
        What is left of the last one, or of both, each with ``"sentence"`` or ``"token"``; empty
        where nothing helps.
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
    """Cut a passage to ``least`` to ``most`` tokens: behind a sentence if that can be, else behind
    a token.
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
