"""Which questions are trained on and which are held out: near-duplicates stay together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from negfail_nb.quality.duplicates import SimilarQuestions


def rank(seed: int, *parts: str) -> bytes:
    """Return a random-looking rank that depends on seed and text only, never on the order of the
    input.
    """
    return blake2b(
        "\0".join((str(seed), *parts)).encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


def question_groups(
    questions: Mapping[str, str], similarity: float, same: Mapping[str, str] | None = None
) -> list[list[str]]:
    """Group questions that are near-duplicates, directly or through others.

    Parameters
    ----------
    questions
        Text by normalised key.
    similarity
        See `SimilarQuestions`.
    same
        For each key, the key of the question that it words, where several do; these are then in the
        groups.

    Returns
    -------
    list
        Groups of keys; each sorted, and sorted among each other.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys = sorted(questions)
    index, pairs = SimilarQuestions(similarity), []
    for number, key in enumerate(keys):
        pairs += [(number, other) for other, _ in index.similar(questions[key])]
        index.add(questions[key])
    known = dict(zip(keys, range(len(keys)), strict=True))
    pairs += [(known[key], known[first]) for key, first in (same or {}).items()]
    rows, columns = np.array(pairs, dtype=int).reshape(-1, 2).T
    graph = coo_array(
        (np.ones(len(rows), dtype=bool), (rows, columns)), shape=(len(keys), len(keys))
    )
    groups: dict[int, set[str]] = {}
    for key, group in zip(keys, connected_components(graph, directed=False)[1], strict=True):
        groups.setdefault(int(group), set()).add((same or {}).get(key, key))
    return sorted(map(sorted, groups.values()))


def heldout_questions(groups: Sequence[Sequence[str]], share: float, seed: int) -> frozenset[str]:
    """Draw whole groups until about ``share`` of the questions are held out.

    Nothing is held out for a share of 0 or a single group; otherwise at least one group is, and at
    least one is not. Groups too large for what is left of the share stay in training, so it is met
    as nearly as groups allow, from below.
    """
    if share <= 0 or len(groups) < 2:
        return frozenset()
    total = sum(map(len, groups))
    wanted = max(1, round(share * total))
    drawn: list[Sequence[str]] = []
    for group in sorted(groups, key=lambda g: rank(seed, g[0])):
        if len(group) <= wanted and len(drawn) < len(groups) - 1:
            drawn.append(group)
            wanted -= len(group)
    drawn = drawn or [min(groups, key=lambda g: (len(g), rank(seed, g[0])))]
    return frozenset(key for group in drawn for key in group)
