"""What is nearly the same: trajectories by what their agents wrote, questions by their words.

MinHash and LSH (the library ``rensa``) find candidates; the Jaccard similarity of each candidate is
then computed from the sets themselves, so that a threshold is what it says. LSH misses a pair at
the threshold with a probability below 0.001, more similar ones with less.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

PERMUTATIONS = 128
_MISS = 1e-3
_SEED = 1
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
            r"(?<=\w)[+*=<>^]+(?=\w)|(?<=\w\s)[+*=<>^]+(?=\s\w)",  # speed * time, but not *emphasis*
            "[×÷±√∞∀-⋿]",
        )
    )
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
# MINT writes its answer format behind GSM8K's questions; a copy of a short question could not be
# found with it.
_OUTPUT_FORMAT = re.compile(r"\s*Solution output format:[^\n]*\Z", re.IGNORECASE)


def question_words(question: str) -> list[str]:
    """Return the words of a question, case kept, without punctuation and MINT's answer format.

    Symbols that change the question stay: arithmetic is one word, and so are signed numbers and
    names such as C++.

    Examples
    --------
    >>> question_words("Is C++ (not C#) older than 7 - 2 years, or 50 %?")
    ['Is', 'C++', 'not', 'C#', 'older', 'than', '7-2', 'years', 'or', '50%']
    """
    plain = unicodedata.normalize("NFKC", _OUTPUT_FORMAT.sub("", question.strip())).replace(
        "\u2044", "/"
    )
    return [
        _closed("".join(m[0].split()))
        for m in _TOKEN.finditer(_DASHES.sub("-", _THOUSANDS.sub("", plain)))
    ]


def question_key(question: str) -> str:
    """Return the normalised text by which two questions are the same.

    Examples
    --------
    >>> question_key("Who  wrote “Dune”?") == question_key("who wrote Dune")
    True
    """
    return " ".join(question_words(question)).lower()


def shingles(words: Sequence[str], size: int = 3, salt: int = 0) -> np.ndarray:
    """Return the sorted distinct 64-bit hashes of all runs of ``size`` words; fewer words make one
    run.

    Parameters
    ----------
    salt
        Below 2**64. Sets with different salts share nothing (but for collisions of 64-bit hashes).

    Returns
    -------
    numpy.ndarray
        Of uint64, one-dimensional, empty only where there are no words.
    """
    from rensa import RMinHash

    hashes = np.array(RMinHash.hash_token_sets([list(words)])[0], dtype=np.uint64)
    if not len(hashes):
        return hashes
    size = min(size, len(hashes))
    runs = np.full(len(hashes) - size + 1, salt, dtype=np.uint64)
    for offset in range(size):
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : offset + len(runs)]
    return np.unique(runs)


def jaccard(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return |intersection| / |union| of two sets given as sorted distinct values; of two empty
    sets 1.
    """
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
        from rensa import RMinHashLSH

        self.threshold = threshold
        self._sets: list[np.ndarray] = []
        self._index = RMinHashLSH(threshold, PERMUTATIONS, _bands(threshold))

    def similar(self, values: np.ndarray) -> list[tuple[int, float]]:
        """Return ``(number, Jaccard similarity)`` of the sets at or above the threshold, in the
        order of adding.
        """
        candidates = sorted(self._index.query(_minhash(values)))
        found = ((number, jaccard(values, self._sets[number])) for number in candidates)
        return [
            (number, similarity) for number, similarity in found if similarity >= self.threshold
        ]

    def add(self, values: np.ndarray) -> int:
        """Add a set and return its number, counted from 0."""
        self._index.insert(len(self._sets), _minhash(values))
        self._sets.append(values)
        return len(self._sets) - 1


class SimilarQuestions:
    """Questions that can be asked which of them say the same as another.

    Two questions are the same where the Jaccard similarity of their word sets (without case)
    reaches the threshold, and they speak of the same things: a number or symbol in only one of
    them, or different names (capitalised words, a question's first word aside) on both sides, make
    two questions. Without that rule questions from templates were all the same. Order does not
    count. Languages written without spaces are compared as wholes only.
    """

    def __init__(self, threshold: float, questions: Iterable[str] = ()) -> None:
        self._sets = SimilarSets(threshold)
        self._words: list[list[str]] = []
        for question in questions:
            self.add(question)

    def similar(self, question: str) -> list[tuple[int, float]]:
        """Return ``(number, Jaccard similarity)`` of the questions that are the same; none for one
        without words.
        """
        words = question_words(question)
        if not words:
            return []
        found = self._sets.similar(_word_set(words))
        return [
            (number, value) for number, value in found if same_things(words, self._words[number])
        ]

    def add(self, question: str) -> int:
        """Add a question and return its number, counted from 0."""
        self._words.append(question_words(question))
        return self._sets.add(_word_set(self._words[-1]))


def same_things(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether two questions, given as words, do not differ in a number, a symbol or a name."""
    ours_only, theirs_only = _differing(ours, theirs), _differing(theirs, ours)
    if any(
        c.isdigit() or not (c.isalnum() or c == "_")
        for word in ours_only + theirs_only
        for c in word
    ):
        return False
    return not (
        any(word[0].isupper() for word in ours_only)
        and any(word[0].isupper() for word in theirs_only)
    )


def closest_overlap(questions: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Return the word-level Jaccard similarity of each question with the closest of the others.

    Exact, by sparse products: time and memory grow with the product of the two lengths, in blocks.

    Returns
    -------
    numpy.ndarray
        Shape (questions,), 0 where there are no others.
    """
    if not questions or not others:
        return np.zeros(len(questions))
    matrix = _incidence([set(question_key(question).split()) for question in (*questions, *others)])
    ours, theirs = matrix[: len(questions)], matrix[len(questions) :].T.tocsc()
    sizes, their_sizes = ours.sum(axis=1), theirs.sum(axis=0)
    rows = max(1, 4_000_000 // len(others))
    best = np.zeros(len(questions))
    for start in range(0, len(questions), rows):
        same = (ours[start : start + rows] @ theirs).toarray()
        union = sizes[start : start + rows, None] + their_sizes[None, :] - same
        best[start : start + rows] = (same / np.maximum(union, 1)).max(axis=1)
    return best


def _closed(word: str) -> str:
    # A bracket around more than the arithmetic ("(see 3 + 4)") is punctuation.
    return word if word.count("(") == word.count(")") else word.strip("()")


def _incidence(sets: Sequence[set[str]]) -> csr_array:
    from scipy.sparse import csr_array

    numbers: dict[str, int] = {}
    columns = [numbers.setdefault(word, len(numbers)) for words in sets for word in words]
    starts = np.cumsum([0, *map(len, sets)])
    return csr_array(
        (np.ones(len(columns), dtype=np.int32), columns, starts),
        shape=(len(sets), max(len(numbers), 1)),
    )


def _bands(threshold: float) -> int:
    # Fewer bands of more rows mean fewer false candidates; take the fewest that rarely miss a pair
    # at the threshold.
    for rows in (16, 8, 4, 2):
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= _MISS:
            return PERMUTATIONS // rows
    return PERMUTATIONS


def _minhash(values: np.ndarray) -> object:
    from rensa import RMinHash

    sketch = RMinHash(num_perm=PERMUTATIONS, seed=_SEED)
    sketch.update(values.view("V8").tolist())
    return sketch


def _word_set(words: Sequence[str]) -> np.ndarray:
    return shingles([word.lower() for word in words], size=1)


def _differing(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    known = {word.lower() for word in theirs}
    # The first word's capital says nothing.
    first = [ours[0].lower()] if ours else []
    return [word for word in [*first, *ours[1:]] if word.lower() not in known]
