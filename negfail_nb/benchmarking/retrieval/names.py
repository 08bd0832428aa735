"""Names of passages, and where they stand in texts.

A passage is named by its title, and by its title without a bracket at the end: ``Kiss and Tell
(1945 film)`` and ``Kiss and Tell``. A name counts where it stands as it is written, in whole words.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

from negfail_nb.benchmarking.corpora.pool_files import title_hash
from negfail_nb.benchmarking.corpora.records import PassagePool

if TYPE_CHECKING:
    import numpy as np

Span = tuple[int, int]

_BRACKET = re.compile(r"\s*\([^()]*\)$")
_LONGEST = 120  # characters of a name that is looked up in a question


def names_of(title: str) -> tuple[str, ...]:
    """Return the names of a passage with this title; none for a title of spaces.

    Examples
    --------
    >>> names_of("Kiss and Tell (1945 film)")
    ('Kiss and Tell (1945 film)', 'Kiss and Tell')
    """
    title = title.strip()
    return tuple(dict.fromkeys(name for name in (title, _BRACKET.sub("", title)) if name))


def named_passages(pool: PassagePool, part: int = 0, parts: int = 1) -> Iterator[tuple[str, int]]:
    """Yield names with the passages that they name. No name is in two parts; all parts are about
    equally large.
    """
    for number, passage in enumerate(pool):
        for name in names_of(passage.title):
            if parts == 1 or crc32(_encoded(name)) % parts == part:
                yield name, number


class NameFinder:
    """Finds many names in a text in one walk over it (Aho-Corasick, by pyahocorasick).

    Parameters
    ----------
    named
        Names, each with the number of a passage that it names, in any order.

    Attributes
    ----------
    names
        Each once. `find` returns places in it.
    owners
        For each name, the numbers of its passages.
    """

    def __init__(self, named: Iterable[tuple[str, int]]) -> None:
        import ahocorasick

        found: dict[str, array] = {}
        for name, number in named:
            found.setdefault(name, array("q")).append(number)
        self.names, self.owners = list(found), list(found.values())
        self._automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
        for place, name in enumerate(self.names):
            self._automaton.add_word(name, place)
        self._automaton.make_automaton()

    def find(self, text: str) -> set[int]:
        """Return the names that stand in a text, in whole words."""
        if not self.names:
            return set()
        return {
            place for end, place in self._automaton.iter(text) if self._whole(text, end + 1, place)
        }

    def _whole(self, text: str, end: int, place: int) -> bool:
        return is_border(text, end) and is_border(text, end - len(self.names[place]))


def name_hashes(names: Sequence[str]) -> np.ndarray:
    """Return 64 bits for each name, shape ``(names,)``; among millions, two names hardly ever share
    them.
    """
    import numpy as np

    return np.array([title_hash(_encoded(name)) for name in names], np.uint64)


def name_spans(text: str) -> list[Span]:
    """Return all parts of a text in which a name could stand, long ones first."""
    borders = [at for at in range(len(text) + 1) if is_border(text, at)]
    starts = [at for at in borders if at < len(text) and not text[at].isspace()]
    ends = [at for at in borders if at > 0 and not text[at - 1].isspace()]
    found = [(start, end) for start in starts for end in ends if 0 < end - start <= _LONGEST]
    return sorted(found, key=lambda span: (span[0] - span[1], span))


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """Return the spans that overlap none before them, in the order of the text."""
    kept: list[Span] = []
    for start, end in spans:
        if all(end <= a or b <= start for a, b in kept):
            kept.append((start, end))
    return sorted(kept)


def is_border(text: str, at: int) -> bool:
    """Return whether a word can begin or end here: not between two letters, digits or underscores."""
    return at in (0, len(text)) or not (_in_word(text[at - 1]) and _in_word(text[at]))


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
