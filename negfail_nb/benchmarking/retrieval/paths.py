"""Retrieval in three steps without a language model: search, the passages that the question names,
and links.

A path is one passage, or two that are linked. It is scored as one text: each word of the question
counts once, where it fits best, so that the second passage is worth what it adds to the first. A
comparison question names both of its passages; a bridge question names or describes the first, and
the second stands linked with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from negfail_nb.benchmarking.retrieval.fusion import Hits
from negfail_nb.settings import RetrievalSettings

if TYPE_CHECKING:
    from negfail_nb.benchmarking.retrieval.links import Links


class WordIndex(Protocol):
    """An index that finds passages, and knows what each word of a query is worth in a passage."""

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """Return the ``k`` best passages of each query."""
        ...

    def word_scores(self, query: str, numbers: np.ndarray) -> np.ndarray:
        """Return the BM25 score of each different word of a query in some passages, shape ``(words,
        passages)``.
        """
        ...


def linked_search(
    index: WordIndex,
    links: Links,
    queries: Sequence[str],
    k: int,
    settings: RetrievalSettings = RetrievalSettings(),
    first_hits: Hits | None = None,
) -> Hits:
    """Find passages by paths over links.

    From the best ``settings.first`` passages of the index and those that the query names, all links
    are followed. The second passage of a path adds the BM25 score by which its words
    exceed the first's, less ``log(1 + n)``, where ``n`` passages mention the title that
    makes the link. Two passages that the query names under different names are linked at no cost.

    Parameters
    ----------
    index
        Finds the first passages, and scores words.
    links
        Of the pool that the index is of.
    queries
        Questions.
    k
        How many passages for each.
    settings
        ``first`` counts here.
    first_hits
        What ``index.search`` found for the queries, where that is known already.

    Returns
    -------
    Hits
        A passage has the score of the best path it is on. Of a path, the first passage stands
        before the second.

    Raises
    ------
    ValueError
        Where ``k`` is below 1 or above the number of passages, or there are not as many hits as
        queries.
    """
    if not 1 <= k <= len(links):
        raise ValueError(f"k is {k}; the pool has {len(links)} passages, so give 1 to {len(links)}")
    wanted = min(max(k, settings.first), len(links))
    hits = index.search(queries, wanted) if first_hits is None else first_hits
    if len(hits.numbers) != len(queries):
        raise ValueError(
            f"first_hits has {len(hits.numbers)} rows for {len(queries)} queries; give one row a query"
        )
    firsts = hits.numbers[:, : settings.first]
    if hits.numbers.shape[1] < k:  # the rest of the k stands where no path leads
        hits = index.search(queries, k)
    rows = [
        _follow(index, links, *row, k, settings)
        for row in zip(queries, firsts, hits.numbers, strict=True)
    ]
    numbers, scores = (np.array([row[i] for row in rows]).reshape(len(rows), k) for i in (0, 1))
    return Hits(numbers.astype(np.int64), scores.astype(np.float32))


def _follow(
    index: WordIndex,
    links: Links,
    query: str,
    firsts: np.ndarray,
    found: np.ndarray,
    k: int,
    settings: RetrievalSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``k`` best passages of one query, and their scores."""
    named = links.named(query)
    first, second, counts = _pairs(links, np.unique(np.concatenate([firsts, *named])), named)
    numbers = np.unique(np.concatenate([found, firsts, *named, second]))
    words = index.word_scores(query, numbers)
    alone = words.sum(axis=0)
    one, two = np.searchsorted(numbers, first), np.searchsorted(numbers, second)
    gain = np.maximum(words[:, two] - words[:, one], 0).sum(axis=0)
    single = np.unique(np.concatenate([found, firsts, *named]))
    scores = np.concatenate(
        [alone[np.searchsorted(numbers, single)], alone[one] + gain - np.log1p(counts)]
    )
    return _passages(scores, np.concatenate([single, first]), np.concatenate([single, second]), k)


def _pairs(
    links: Links, starts: np.ndarray, named: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return paths of two: first and second passage, and how many passages mention the title that
    links them.
    """
    first, second, counts = [], [], []
    for start in starts:
        numbers, common = links.of(start)
        groups = [(numbers, common)]
        if any(start in group for group in named):
            groups += [(group, np.zeros(len(group))) for group in named if start not in group]
        for numbers, common in groups:
            first.append(np.full(len(numbers), start))
            second.append(numbers)
            counts.append(common)
    return tuple(np.concatenate(part) for part in (first, second, counts))


def _passages(
    scores: np.ndarray, first: np.ndarray, second: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the passages of the best paths, each at its best."""
    order = np.lexsort((second, first, -scores))
    numbers, scores = (
        np.stack([first[order], second[order]], axis=1).ravel(),
        np.repeat(scores[order], 2),
    )
    places = np.sort(np.unique(numbers, return_index=True)[1])[:k]
    return numbers[places], scores[places]
