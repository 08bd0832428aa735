"""Links between passages: which of them mentions the title of which.

A passage is named by its title, and by its title without a bracket at the end: ``Kiss and Tell
(1945 film)`` and ``Kiss and Tell``. A name counts if it occurs exactly as written, in whole words.
"""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from negfail_nb.benchmarking.pools import title_hash
from negfail_nb.benchmarking.records import PassagePool

Span = tuple[int, int]

ARRAYS = ("starts", "mentioned", "ends", "mentioning", "hashes", "owners")
LEFT_OUT = "left_out.json"
_SHOWN = 20  # names that were left out and that the log shows
_LONGEST = 120  # characters of a name that is looked up in a question
_BRACKET = re.compile(r"(?<!\s)\s*\([^()]*\)$")

logger = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """Which passages mention the title of which, by numbers of a pool; made by `build_links`.

    Attributes
    ----------
    left_out
        Number of names that would have made too many links; see `build_links`.
    starts, mentioned
        Passage ``p`` mentions ``mentioned[starts[p]:starts[p + 1]]``, in ascending order;
        compressed sparse rows.
    ends, mentioning
        The other direction: passage ``p`` is mentioned by ``mentioning[ends[p]:ends[p + 1]]``.
    hashes, owners
        64 bits of each name, in ascending order, and the passage that it names, for finding names
        in questions.
    """

    left_out: int
    starts: np.ndarray
    mentioned: np.ndarray
    ends: np.ndarray
    mentioning: np.ndarray
    hashes: np.ndarray
    owners: np.ndarray

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self.starts) - 1

    def __repr__(self) -> str:
        counts = f"{len(self.mentioned)} between {len(self)} passages"
        return f"Links({counts}, {self.left_out} names left out)"

    def mentions(self, number: int) -> np.ndarray:
        """Return the passages whose titles a passage mentions, in ascending order."""
        return self.mentioned[self.starts[number] : self.starts[number + 1]]

    def mentioned_by(self, number: int) -> np.ndarray:
        """Return the passages that mention the title of a passage, in ascending order."""
        return self.mentioning[self.ends[number] : self.ends[number + 1]]

    def of(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the passages linked with one, in either direction, and how common each link is.

        Returns
        -------
        numbers
            In ascending order, each once.
        counts
            How many passages mention the title that makes the link; the smaller count if both are
            mentioned.
        """
        out = self.mentions(number)
        into = self.mentioned_by(number)
        numbers = np.concatenate([out, into])
        counts = np.concatenate(
            [self.ends[out + 1] - self.ends[out], np.full(len(into), len(into))]
        )
        order = np.lexsort((counts, numbers))
        numbers, first = np.unique(numbers[order], return_index=True)
        return numbers, counts[order][first]

    def named(self, text: str) -> list[np.ndarray]:
        """Return, for each name in a text, in its order, the numbers of the passages it names.

        Of names that overlap, the longest counts. Names are told apart by 64 bits only.
        """
        spans = name_spans(text)
        keys = name_hashes([text[start:end] for start, end in spans])
        low, high = (
            np.searchsorted(self.hashes, keys, side).tolist() for side in ("left", "right")
        )
        found = {
            span: self.owners[a:b] for span, a, b in zip(spans, low, high, strict=True) if a < b
        }
        return [found[span] for span in without_overlaps(found)]

    def save(self, folder: str | Path) -> Path:
        """Write the links into a folder; return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / LEFT_OUT).write_text(json.dumps(self.left_out), encoding="utf-8")
        return folder

    @classmethod
    def open(cls, folder: str | Path) -> Links:
        """Open links that `save` wrote, memory-mapped."""
        folder = Path(folder)
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ARRAYS
        }
        return cls(json.loads((folder / LEFT_OUT).read_text(encoding="utf-8")), **arrays)


def build_links(pool: PassagePool, *, most: int = 1000, names_at_once: int = 1_000_000) -> Links:
    """Look every title up in the text of every passage.

    Parameters
    ----------
    pool
        The passages.
    most
        Links that one name may make: passages that mention it times passages that it names. A name
        that would make more, such as the novel ``She`` or a country in millions of passages, is
        left out, and counted; its links would grow faster than the pool, and lead from anywhere to
        anywhere.
    names_at_once
        Names that are looked up in one walk over the texts. It bounds the memory, at about 1 KB per
        name.

    Raises
    ------
    ValueError
        If ``most`` or ``names_at_once`` is below 1.
    """
    if most < 1 or names_at_once < 1:
        raise ValueError(f"most is {most} and names_at_once is {names_at_once}; give 1 or more")
    parts = -(-len(pool) // names_at_once)
    found = [
        _look_up(pool, NameFinder(named_passages(pool, part, parts)), most) for part in range(parts)
    ]
    sources, targets, hashes, owners = (
        np.concatenate([part[i] for part in found]) for i in range(4)
    )
    left_out = [name for part in found for name in part[4]]
    if left_out:
        shown = ", ".join(left_out[:_SHOWN])
        logger.info(
            "links: %d names with more than %d links are left out: %s", len(left_out), most, shown
        )
    order = np.argsort(hashes, kind="stable")
    rows = _rows(sources, targets, len(pool))
    return Links(len(left_out), *rows, hashes[order], owners[order])


def _look_up(
    pool: PassagePool, finder: NameFinder, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return sources and targets of links, hashes and owners of names, and the names left out."""
    sources, places = _walk(pool, finder)
    widths = np.array([len(numbers) for numbers in finder.owners], np.int64)
    kept = np.bincount(places, minlength=len(widths)) * widths <= most
    flat = np.frombuffer(b"".join(numbers.tobytes() for numbers in finder.owners), np.int64)
    sources = sources[kept[places]]
    places = places[kept[places]]
    targets = _gather(flat, np.cumsum(widths) - widths, widths, places)
    names = [name for name, stays in zip(finder.names, kept, strict=True) if stays]
    left_out = [name for name, stays in zip(finder.names, kept, strict=True) if not stays]
    hashes = np.repeat(name_hashes(names), widths[kept])
    owners = flat[np.repeat(kept, widths)]
    return np.repeat(sources, widths[places]), targets, hashes, owners, left_out


def _walk(pool: PassagePool, finder: NameFinder) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of passages, and places of the names that they mention."""
    from tqdm.auto import tqdm

    sources = array("q")
    places = array("q")
    bar = tqdm(pool, total=len(pool), desc="links", unit="passage", leave=False)
    for number, passage in enumerate(bar):
        found = finder.find(passage.text)
        sources.extend([number] * len(found))
        places.extend(found)
    return np.frombuffer(sources, np.int64), np.frombuffer(places, np.int64)


def _gather(
    flat: np.ndarray, starts: np.ndarray, widths: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the rows of ``flat`` that begin at ``starts``, one after the other."""
    lengths = widths[rows]
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    return flat[np.repeat(starts[rows], lengths) + within]


def _rows(sources: np.ndarray, targets: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """Return the links as sparse rows in both directions, each once, none to the same passage."""
    apart = sources != targets
    pairs = np.unique(sources[apart] * count + targets[apart])
    sources, targets = np.divmod(pairs, count)
    order = np.argsort(targets, kind="stable")
    numbers = np.int32 if count < 2**31 else np.int64
    bounds = [
        np.concatenate([[0], np.cumsum(np.bincount(side, minlength=count))])
        for side in (sources, targets)
    ]
    return bounds[0], targets.astype(numbers), bounds[1], sources[order].astype(numbers)


def names_of(title: str) -> tuple[str, ...]:
    """Return the names of a passage with this title: with and without a bracket at its end."""
    title = title.strip()
    return tuple(dict.fromkeys(name for name in (title, _BRACKET.sub("", title)) if name))


def named_passages(pool: PassagePool, part: int = 0, parts: int = 1) -> Iterator[tuple[str, int]]:
    """Yield names with the passages that they name; a name is in one of the parts only, and the
    parts are about equally large.
    """
    for number, passage in enumerate(pool):
        for name in names_of(passage.title):
            if parts == 1 or crc32(_encoded(name)) % parts == part:
                yield name, number


class NameFinder:
    """Finds many names in a text in one walk over it (Aho-Corasick, by pyahocorasick).

    ``names`` has each name once; ``owners`` the numbers of the passages that each one names.
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
        """Return the names that occur in a text, in whole words."""
        if not self.names:
            return set()
        return {
            place
            for end, place in self._automaton.iter(text)
            if _is_border(text, end + 1) and _is_border(text, end + 1 - len(self.names[place]))
        }


def name_hashes(names: Sequence[str]) -> np.ndarray:
    """Return 64 bits per name; among millions, two names hardly ever share them."""
    return np.array([title_hash(_encoded(name)) for name in names], np.uint64)


def name_spans(text: str) -> list[Span]:
    """Return all parts of a text that could be a name, long ones first."""
    borders = [at for at in range(len(text) + 1) if _is_border(text, at)]
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


def _is_border(text: str, at: int) -> bool:
    """Whether a word can begin or end here: not between two letters, digits or underscores."""
    return at in (0, len(text)) or not (_in_word(text[at - 1]) and _in_word(text[at]))


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
