"""Near-duplicates of trajectories and of questions, and the split that keeps them together.

Of many runs, MinHash and LSH (the library ``rensa``) find candidates; the Jaccard similarity of
each candidate is then computed from the sets themselves, so that a threshold is what it says. LSH
misses a pair at the threshold with a probability below 0.001, more similar ones with less. Of
questions, and of few runs, none is missed.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

PERMUTATIONS = 128
_MISS = 1e-3
_SEED = 1
_FEW = 16  # sets that are compared with each
_PAIRS = 100_000  # compared at once
_ROUNDING = 1e-9
_DASHES = re.compile("[\u2010-\u2015\u2212]")
# What arithmetic is made of: words with a digit and single letters, with what belongs to them, and
# operators.
_OPERAND = (
    r"[(]{0,3}[-+]?[$€£]?(?<!\w)(?:(?=[^\W\d]*+\d)\w++(?:\.\d++)?|[^\W\d_])(?!\w)%?"
    r"(?:!(?=\s*[-+*/^=)]))?[)]{0,3}"
)
_OPERATOR = r"(?:[ \t]*(?:!=|[-+*/^=<>%·×÷±≤≥≠≈])+[ \t]*|(?<=\d):(?=\d))"
_TOKEN = re.compile(
    "|".join(
        (
            rf"{_OPERAND}(?:{_OPERATOR}{_OPERAND})+",  # 2 + 2 is one token, for 7 - 2 is not 2 - 7
            r"(?<![\w)])[-+]?[$€£]?\d++(?:\.\d++)?(?:\s?%)?(?!\w)",  # -5, $5, 3.5, 50%
            r"[^\W\d]\w*(?:\+\+|[+#](?!\w))",  # C++, C#
            r"\w+",
            r"(?<=\w)[+*=<>^]+(?=\w)|(?<=\w\s)[+*=<>^]+(?=\s\w)",  # speed * time, not *emphasis*
            "[×÷±√∞∀-⋿]",
        )
    )
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
# MINT writes its answer format behind GSM8K's questions; a copy of a short question could not be
# found with it.
_OUTPUT_FORMAT = re.compile(r"(?<!\s)\s*Solution output format:[^\n]*\Z", re.IGNORECASE)


def question_words(question: str) -> list[str]:
    """Return the words of a question, case kept, without punctuation and MINT's answer format.

    Symbols that change the question stay: arithmetic is one word, and so are signed numbers and
    names such as C++.

    Examples
    --------
    >>> question_words("Is C++ (not C#) older than 7 - 2 years, or 50 %?")
    ['Is', 'C++', 'not', 'C#', 'older', 'than', '7-2', 'years', 'or', '50%']
    """
    plain = unicodedata.normalize("NFKC", _OUTPUT_FORMAT.sub("", question.strip()))
    plain = _DASHES.sub("-", _THOUSANDS.sub("", plain.replace("\u2044", "/")))
    words = ("".join(found[0].split()) for found in _TOKEN.finditer(plain))
    # A bracket around more than the arithmetic ("(see 3 + 4)") is punctuation.
    return [w if w.count("(") == w.count(")") else w.strip("()") for w in words]


@lru_cache(maxsize=4096)  # attempts at one question stand near each other
def question_key(question: str) -> str:
    """Return the normalised text by which two questions are the same.

    Examples
    --------
    >>> question_key("Who  wrote “Dune”?") == question_key("who wrote Dune")
    True
    """
    return " ".join(question_words(question)).lower()


def shingles(words: Sequence[str], size: int = 3) -> np.ndarray:
    """Return the sorted distinct 64-bit hashes of all runs of ``size`` words, as uint64.

    Fewer words make one run; no words make none.
    """
    from rensa import RMinHash

    hashes = np.array(RMinHash.hash_token_sets([list(words)])[0], dtype=np.uint64)
    if not len(hashes):
        return hashes
    size = min(size, len(hashes))
    runs = np.zeros(len(hashes) - size + 1, dtype=np.uint64)
    for offset in range(size):
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : offset + len(runs)]
    return np.unique(runs)


def jaccard(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return |intersection| / |union| of two sets, given as sorted values; 1 if both are empty."""
    same = len(np.intersect1d(ours, theirs, assume_unique=True))
    union = len(ours) + len(theirs) - same
    return same / union if union else 1.0


class SimilarSets:
    """Sets that can be asked which of them are similar to a new one.

    Parameters
    ----------
    threshold
        Smallest Jaccard similarity that counts, above 0.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._sets: list[np.ndarray] = []
        self._index: Any = None

    def similar(self, values: np.ndarray) -> list[tuple[int, float]]:
        """Return ``(number, Jaccard similarity)`` of the sets at or above the threshold."""
        if self._index is None:
            candidates: Iterable[int] = range(len(self._sets))
        else:
            candidates = sorted(self._index.query(_minhash(values)))
        found = [(number, jaccard(values, self._sets[number])) for number in candidates]
        return [hit for hit in found if hit[1] >= self.threshold]

    def add(self, values: np.ndarray) -> int:
        """Add a set and return its number, counted from 0."""
        self._sets.append(values)
        if self._index is not None:
            self._index.insert(len(self._sets) - 1, _minhash(values))
        elif len(self._sets) > _FEW:  # from here on, comparing with each would take longer
            self._index = _make_index(self.threshold)
            for number, known in enumerate(self._sets):
                self._index.insert(number, _minhash(known))
        return len(self._sets) - 1


class SimilarQuestions:
    """Questions that can be asked which of them say the same as another.

    Two questions are the same if the Jaccard similarity of their word sets (without case) reaches
    the threshold, and they speak of the same things: a number or symbol in only one of them, or
    different names (capitalised words, a question's first word aside) on both sides, make two
    questions. Without that rule all questions from one template would be the same. Order does not
    count. Languages written without spaces are compared as wholes only.

    No pair is missed: two sets that are so similar share one of their rarest words (the prefix
    filter of Chaudhuri et al., ICDE 2006), so only questions that do are compared.
    """

    def __init__(self, threshold: float, questions: Iterable[str] = ()) -> None:
        self.threshold = threshold
        self._words: list[list[str]] = []
        self._sets: list[frozenset[str]] = []
        self._counts: Counter[str] = Counter()
        self._index: dict[str, list[int]] = {}
        self._indexed = 0
        for question in questions:
            self.add(question)

    def similar(self, question: str) -> list[tuple[int, float]]:
        """Return ``(number, Jaccard similarity)`` of the questions that are the same."""
        if self._indexed < len(self._sets):
            self._make_index()
        words = question_words(question)
        ours = _lower(words)
        near = {n for word in self._rarest(ours) for n in self._index.get(word, ())}
        found = []
        for number in sorted(near):
            theirs = self._sets[number]
            score = len(ours & theirs) / len(ours | theirs)
            if score >= self.threshold and same_things(words, self._words[number]):
                found.append((number, score))
        return found

    def add(self, question: str) -> int:
        """Add a question and return its number, counted from 0."""
        self._words.append(question_words(question))
        self._sets.append(_lower(self._words[-1]))
        self._counts.update(self._sets[-1])
        return len(self._sets) - 1

    def _make_index(self) -> None:
        # Which words are rare changed with what was added.
        self._index = {}
        self._indexed = len(self._sets)
        for number, words in enumerate(self._sets):
            for word in self._rarest(words):
                self._index.setdefault(word, []).append(number)

    def _rarest(self, words: frozenset[str]) -> list[str]:
        ordered = sorted(words, key=lambda word: (self._counts[word], word))
        return ordered[: int(_prefix(len(ordered), self.threshold))]


def same_things(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether two questions, given as words, do not differ in a number, a symbol or a name."""
    ours_only = _differing(ours, theirs)
    theirs_only = _differing(theirs, ours)
    letters = "".join(ours_only + theirs_only)
    if any(c.isdigit() or not (c.isalnum() or c == "_") for c in letters):
        return False
    return not all(any(word[0].isupper() for word in words) for words in (ours_only, theirs_only))


def closest_overlap(questions: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Return the word-level Jaccard similarity of each question with the closest of the others.

    Exact, by sparse products: time and memory grow with the product of the two lengths, in blocks.

    Returns
    -------
    numpy.ndarray
        Shape (questions,), 0 if there are no others.
    """
    from scipy.sparse import csr_array

    best = np.zeros(len(questions))
    if not questions or not others:
        return best
    sets = [set(question_key(question).split()) for question in (*questions, *others)]
    numbers: dict[str, int] = {}
    columns = [numbers.setdefault(word, len(numbers)) for words in sets for word in words]
    starts = np.cumsum([0, *map(len, sets)])
    ones = np.ones(len(columns), dtype=np.int32)
    # One row per question, one column per word.
    matrix = csr_array((ones, columns, starts), shape=(len(sets), max(len(numbers), 1)))
    ours = matrix[: len(questions)]
    theirs = matrix[len(questions) :].T.tocsc()
    sizes = ours.sum(axis=1)
    their_sizes = theirs.sum(axis=0)
    rows = max(1, 4_000_000 // len(others))
    for start in range(0, len(questions), rows):
        same = (ours[start : start + rows] @ theirs).toarray()
        union = sizes[start : start + rows, None] + their_sizes[None, :] - same
        best[start : start + rows] = (same / np.maximum(union, 1)).max(axis=1)
    return best


def rank(seed: int, *parts: str) -> bytes:
    """Return a random-looking rank that depends on seed and text only, not on the input's order."""
    text = "\0".join((str(seed), *parts)).encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=16).digest()


def connected(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return the connected component of each of ``count`` nodes, given the edges."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = np.array(pairs, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist()


def question_groups(
    questions: Mapping[str, str], similarity: float, same: Mapping[str, str] | None = None
) -> list[list[str]]:
    """Group questions that are near-duplicates, directly or through others.

    ``questions`` has texts by normalised key; ``same`` says for each key which key it is another
    wording of, and only those are then in the groups. Groups and their members are sorted. Beside
    the texts this takes some 200 bytes a question.
    """
    same = same or {}
    keys = sorted(questions)
    known = dict(zip(keys, range(len(keys)), strict=True))
    wordings = [(known[key], known[first]) for key, first in same.items() if key != first]
    labels = similar_groups([questions[key] for key in keys], similarity, wordings)
    groups: dict[int, set[str]] = {}
    for key, group in zip(keys, labels, strict=True):
        groups.setdefault(group, set()).add(same.get(key, key))
    return sorted(map(sorted, groups.values()))


def similar_groups(
    questions: Sequence[str], similarity: float, pairs: Iterable[tuple[int, int]] = ()
) -> list[int]:
    """Return for each question the first of those that are the same, directly or through others.

    The rule is that of `SimilarQuestions`; ``pairs`` are known to be the same.
    """
    first = list(range(len(questions)))

    def find(number: int) -> int:
        while first[number] != number:
            first[number] = number = first[first[number]]
        return number

    def join(one: int, other: int) -> None:
        one, other = sorted((find(one), find(other)))
        first[other] = one

    for one, other in pairs:
        join(one, other)
    for one, other in _near_pairs(questions, similarity):
        # What others have joined need not be compared.
        if find(one) != find(other):
            words = question_words(questions[one]), question_words(questions[other])
            if same_things(*words):
                join(one, other)
    return list(map(find, range(len(questions))))


def _near_pairs(questions: Sequence[str], similarity: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs whose word sets have this Jaccard similarity, by the prefix filter."""
    from scipy.sparse import csr_array

    numbers: dict[str, int] = {}
    words = array("q")
    sizes = np.zeros(len(questions), dtype=np.int64)
    for place, question in enumerate(questions):
        found = _lower(question_words(question))
        words.extend(numbers.setdefault(word, len(numbers)) for word in found)
        sizes[place] = len(found)
    columns = np.frombuffer(words, dtype=np.int64) if words else np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ones = np.ones(len(columns), dtype=np.int32)
    matrix = csr_array((ones, columns, starts), shape=(len(sizes), max(len(numbers), 1)))
    for ours, theirs in _sharing_rare_words(columns, sizes, similarity):
        alike = (
            np.minimum(sizes[ours], sizes[theirs])
            >= similarity * np.maximum(sizes[ours], sizes[theirs]) - _ROUNDING
        )
        ours, theirs = ours[alike], theirs[alike]
        for start in range(0, len(ours), _PAIRS):
            one, other = ours[start : start + _PAIRS], theirs[start : start + _PAIRS]
            shared = (matrix[one] * matrix[other]).sum(axis=1)
            near = shared / (sizes[one] + sizes[other] - shared) >= similarity
            yield from zip(one[near].tolist(), other[near].tolist(), strict=True)


def _sharing_rare_words(
    columns: np.ndarray, sizes: np.ndarray, similarity: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of sets (two arrays of their numbers) that share one of their rarest words."""
    counts = np.bincount(columns)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    owners = np.repeat(np.arange(len(sizes)), sizes)
    ranks = rank[columns]
    order = np.lexsort((ranks, owners))
    inside = np.arange(len(columns)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = order[inside < np.repeat(_prefix(sizes, similarity), sizes)]
    kept = kept[np.argsort(ranks[kept], kind="stable")]
    ranks, owners = ranks[kept], owners[kept]
    places = np.arange(len(ranks))
    # Those that share a word stand side by side: each with the next, the one after it, and so on.
    for step in range(1, len(ranks)):
        places = places[places < len(ranks) - step]
        places = places[ranks[places] == ranks[places + step]]
        if not len(places):
            return
        yield owners[places], owners[places + step]


def heldout_questions(groups: Sequence[Sequence[str]], share: float, seed: int) -> frozenset[str]:
    """Draw whole groups until about ``share`` of the questions are held out.

    Nothing is held out for a share of 0 or a single group; otherwise at least one group is, and at
    least one is not. Groups too large for what is left of the share stay in training, so it is met
    as nearly as groups allow, from below.
    """
    if share <= 0 or len(groups) < 2:
        return frozenset()
    wanted = max(1, round(share * sum(map(len, groups))))
    drawn: list[Sequence[str]] = []
    for group in sorted(groups, key=lambda g: rank(seed, g[0])):
        if len(group) <= wanted and len(drawn) < len(groups) - 1:
            drawn.append(group)
            wanted -= len(group)
    drawn = drawn or [min(groups, key=lambda g: (len(g), rank(seed, g[0])))]
    return frozenset(key for group in drawn for key in group)


def _bands(threshold: float) -> int:
    # Fewer bands of more rows mean fewer false candidates; take the fewest that rarely miss a pair
    # at the threshold.
    for rows in (16, 8, 4, 2):
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= _MISS:
            return PERMUTATIONS // rows
    return PERMUTATIONS


def _make_index(threshold: float) -> Any:
    from rensa import RMinHashLSH

    return RMinHashLSH(threshold, PERMUTATIONS, _bands(threshold))


def _minhash(values: np.ndarray) -> object:
    from rensa import RMinHash

    sketch = RMinHash(num_perm=PERMUTATIONS, seed=_SEED)
    sketch.update(values.view("V8").tolist())
    return sketch


def _lower(words: Iterable[str]) -> frozenset[str]:
    return frozenset(word.lower() for word in words)


def _prefix(size: Any, similarity: float) -> Any:
    """How many of a set's rarest words the prefix filter looks at; also for an array of sizes."""
    return size - np.ceil(similarity * size - _ROUNDING).astype(np.int64) + (np.asarray(size) > 0)


def _differing(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    known = {word.lower() for word in theirs}
    # The first word's capital says nothing.
    first = [ours[0].lower()] if ours else []
    return [word for word in [*first, *ours[1:]] if word.lower() not in known]
