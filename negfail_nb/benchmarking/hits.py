"""What a search finds: the best passages of each query, and how several rankings become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RANK_CONSTANT = 60
_BLOCK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """The best passages of several queries, best first; equal scores in the order of the pool.

    Attributes
    ----------
    numbers
        Numbers of the passages, int64, queries x k.
    scores
        Their scores, float32, queries x k. Scores of different methods cannot be compared.
    """

    numbers: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)


def best(
    scores: np.ndarray, k: int, numbers: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers and scores of the ``k`` best candidates of one query, ties by number.

    Without ``numbers``, a candidate's number is its place in ``scores``.
    """
    places = np.arange(len(scores))
    if k < len(scores):
        places = np.flatnonzero(scores >= _floor(scores, k))
    numbers = places if numbers is None else numbers[places]
    order = np.lexsort((numbers, -scores[places]))[:k]
    return numbers[order].astype(np.int64), scores[places][order].astype(np.float32)


def _floor(scores: np.ndarray, k: int) -> float:
    """Return a score that the ``k``-th best reaches, and few others.

    Of millions, the ``k``-th best of the blocks' best is found much sooner than the ``k``-th best
    of all, and is not above it.
    """
    blocks = len(scores) // _BLOCK
    tops = scores
    if blocks >= 2 * k:
        tops = scores[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    return np.partition(tops, len(tops) - k)[len(tops) - k]


def stack(rows: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> Hits:
    """Return the hits of several queries from the ``k`` numbers and scores of each."""
    numbers = np.array([numbers for numbers, _ in rows], np.int64).reshape(len(rows), k)
    return Hits(numbers, np.array([scores for _, scores in rows], np.float32).reshape(len(rows), k))


def fuse(rankings: Sequence[Hits], k: int, how: str = "rank") -> Hits:
    """Return one ranking made of several over the same queries.

    What one retriever did not return gets nothing from it. ``"rank"`` is reciprocal rank fusion,
    the sum of 1 / (60 + rank); a passage with the score 0, which shares no word with the query, has
    no rank (Cormack, Clarke and Buettcher, SIGIR 2009). ``"z"`` is the sum of the scores,
    standardised over each ranking; a passage that a ranking lacks gets the ranking's lowest.
    """
    if how not in ("rank", "z"):
        raise ValueError(f"fusion is {how!r}; use 'rank' or 'z'")
    parts = _by_rank if how == "rank" else _by_z
    queries = range(len(rankings[0]))
    return stack(
        [_sum([parts(r.numbers[q], r.scores[q]) for r in rankings], k) for q in queries], k
    )


def _by_rank(numbers: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    ranks = RANK_CONSTANT + 1 + np.arange(len(numbers))
    return numbers, np.where(scores != 0, 1 / ranks, 0.0), 0.0


def _by_z(numbers: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    spread = scores.std(dtype=np.float64)
    z = (scores - scores.mean(dtype=np.float64)) / spread if spread > 0 else np.zeros(len(scores))
    return numbers, z, float(z.min())


def _sum(
    parts: Sequence[tuple[np.ndarray, np.ndarray, float]], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sum what each ranking gives to each candidate; the third of a part is for what it lacks."""
    candidates, places = np.unique(
        np.concatenate([numbers for numbers, _, _ in parts]), return_inverse=True
    )
    total = np.full(len(candidates), sum(missing for *_, missing in parts))
    start = 0
    for numbers, values, missing in parts:
        total[places[start : start + len(numbers)]] += values - missing
        start += len(numbers)
    return best(total, k, candidates)
