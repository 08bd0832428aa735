"""Retrieval in three steps without a language model: search, the passages that the question names,
and links.

A path is one passage, or two that are linked. It is scored as one text: each word of the question
counts once, in the passage that it fits best, so the second passage is worth what it adds to the
first. A comparison question names both of its passages; a bridge question names or describes the
first, and the second is linked with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from negfail_nb.benchmarking.hits import Hits
from negfail_nb.benchmarking.links import Links
from negfail_nb.settings import RetrievalSettings


def linked_search(
    index: Any,
    links: Links,
    queries: Sequence[str],
    k: int,
    settings: RetrievalSettings = RetrievalSettings(),
    first_hits: Hits | None = None,
) -> Hits:
    """Find passages by paths over links.

    All links are followed from the best ``settings.first`` passages of the index and from those
    that the query names. The second passage of a path adds the BM25 score by which its words exceed
    the first's, less ``log(1 + n)`` if ``n`` passages mention the title that makes the link. Two
    passages that the query names under different names are linked at no cost.

    Parameters
    ----------
    index
        With `search` and `word_scores`, as `negfail_nb.benchmarking.index.Index`.
    links
        Of the pool that the index is of.
    queries
        Questions.
    k
        Passages per question.
    settings
        ``first`` counts here.
    first_hits
        What ``index.search`` found for the queries, if that is known already.

    Returns
    -------
    Hits
        A passage has the score of the best path it is on; a path's first passage comes first.

    Raises
    ------
    ValueError
        If ``k`` is below 1 or above the number of passages, or if there are not as many hits as
        queries.
    """
    if not 1 <= k <= len(links):
        raise ValueError(f"k is {k}; the pool has {len(links)} passages, so give 1 to {len(links)}")
    wanted = min(max(k, settings.first), len(links))
    hits = index.search(queries, wanted) if first_hits is None else first_hits
    if len(hits.numbers) != len(queries):
        raise ValueError(
            f"first_hits has {len(hits.numbers)} rows for {len(queries)} queries; give one row per "
            "query"
        )
    firsts = hits.numbers[:, : settings.first]
    if hits.numbers.shape[1] < k:  # the rest of the k is on no path
        hits = index.search(queries, k)
    rows = [
        _follow(index, links, *row, k, settings)
        for row in zip(queries, firsts, hits.numbers, strict=True)
    ]
    numbers, scores = (np.array([row[i] for row in rows]).reshape(len(rows), k) for i in (0, 1))
    return Hits(numbers.astype(np.int64), scores.astype(np.float32))


def _follow(
    index: Any,
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
    single = np.unique(np.concatenate([found, firsts, *named]))
    numbers = np.unique(np.concatenate([single, second]))
    words = index.word_scores(query, numbers)
    alone = words.sum(axis=0)
    one = np.searchsorted(numbers, first)
    two = np.searchsorted(numbers, second)
    gain = np.maximum(words[:, two] - words[:, one], 0).sum(axis=0)
    together = alone[one] + gain - np.log1p(counts)
    scores = np.concatenate([alone[np.searchsorted(numbers, single)], together])
    return _best(scores, np.concatenate([single, first]), np.concatenate([single, second]), k)


def _pairs(
    links: Links, starts: np.ndarray, named: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the paths of two passages, and how many passages mention the title that links them."""
    first = []
    second = []
    counts = []
    for start in starts:
        groups = [links.of(start)]
        if any(start in group for group in named):
            groups += [(group, np.zeros(len(group))) for group in named if start not in group]
        for numbers, common in groups:
            first.append(np.full(len(numbers), start))
            second.append(numbers)
            counts.append(common)
    return tuple(np.concatenate(part) for part in (first, second, counts))


def _best(
    scores: np.ndarray, first: np.ndarray, second: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the passages of the best paths, each at its best."""
    order = np.lexsort((second, first, -scores))
    numbers = np.stack([first[order], second[order]], axis=1).ravel()
    places = np.sort(np.unique(numbers, return_index=True)[1])[:k]
    return numbers[places], np.repeat(scores[order], 2)[places]
