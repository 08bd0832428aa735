"""Links between passages: which of them mentions the title of which. An index of its own, built
once for a pool.
"""

from __future__ import annotations

import logging
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from negfail_nb.benchmarking.corpora.pool_files import read_manifest
from negfail_nb.benchmarking.corpora.records import PassagePool
from negfail_nb.benchmarking.retrieval.names import (
    NameFinder,
    name_hashes,
    name_spans,
    named_passages,
    without_overlaps,
)
from negfail_nb.runs import MANIFEST, file_hash, write_json

__all__ = ["Links", "build_links"]

FORMAT = 1
ARRAYS = ("starts", "mentioned", "ends", "mentioning", "hashes", "owners")
_SHOWN = 20  # names that were left out and that the manifest and the log show

logger = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """Which passages mention the title of which, by numbers of a pool. Made by `build_links`,
    `save`d and `open`ed.

    Attributes
    ----------
    fingerprint
        Of the pool.
    most
        As many links a name may make; see `build_links`.
    left_out
        How many names would have made more.
    starts, mentioned
        Passage ``p`` mentions ``mentioned[starts[p]:starts[p + 1]]``, in ascending order;
        compressed sparse rows.
    ends, mentioning
        The other direction: passage ``p`` is mentioned by ``mentioning[ends[p]:ends[p + 1]]``.
    hashes, owners
        64 bits of each name, in ascending order, and the passage that it names, for finding names
        in questions.
    """

    fingerprint: str
    most: int
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
        """Return the counts."""
        return f"Links({len(self.mentioned)} between {len(self)} passages, {self.left_out} names left out)"

    def mentions(self, number: int) -> np.ndarray:
        """Return the passages whose titles stand in a passage, in ascending order."""
        return self.mentioned[self.starts[number] : self.starts[number + 1]]

    def mentioned_by(self, number: int) -> np.ndarray:
        """Return the passages in whose text the title of a passage stands, in ascending order."""
        return self.mentioning[self.ends[number] : self.ends[number + 1]]

    def of(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the passages linked with one, in either direction, and how common each link is.

        Returns
        -------
        numbers
            In ascending order, each once.
        counts
            How many passages mention the title that makes the link; the smaller count where both
            are mentioned.
        """
        out, into = self.mentions(number), self.mentioned_by(number)
        numbers = np.concatenate([out, into])
        counts = np.concatenate(
            [self.ends[out + 1] - self.ends[out], np.full(len(into), len(into))]
        )
        order = np.lexsort((counts, numbers))
        numbers, first = np.unique(numbers[order], return_index=True)
        return numbers, counts[order][first]

    def named(self, text: str) -> list[np.ndarray]:
        """Return the passages that are named in a text: for each name, in its order, the numbers of
        its passages.

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
        """Write the links into a folder, the manifest last; return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in ARRAYS:
            part = folder / f"{name}.part"
            with part.open("wb") as stream:
                np.save(stream, getattr(self, name))
            part.replace(folder / f"{name}.npy")  # those who have the old ones open keep them
        files = {name: file_hash(folder / f"{name}.npy") for name in ARRAYS}
        write_json(
            folder / MANIFEST,
            {"format": FORMAT, **{name: getattr(self, name) for name in _PLAIN}, "files": files},
        )
        return folder

    @classmethod
    def open(cls, folder: str | Path, pool: PassagePool, *, verify: bool = True) -> Links:
        """Open links, memory-mapped.

        Parameters
        ----------
        folder
            Where `save` wrote them.
        pool
            The passages they are between.
        verify
            Read all files to see whether they are as they were written.

        Raises
        ------
        ValueError
            Where the folder holds no finished links, links of another pool, or a file that changed;
            the text names it.
        """
        folder = Path(folder)
        manifest = read_manifest(
            folder,
            "links",
            "build_links",
            lambda found: found["format"] == FORMAT and {*_PLAIN, "files"} <= set(found),
        )
        if manifest["fingerprint"] != pool.fingerprint:
            raise ValueError(
                f"{folder} holds links between the passages of another pool; build them for this one"
            )
        for name in ARRAYS:
            path = folder / f"{name}.npy"
            if not path.is_file() or verify and file_hash(path) != manifest["files"][name]:
                raise ValueError(
                    f"{path} is missing or not as it was written; build the links again, with build_links"
                )
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ARRAYS
        }
        return cls(**{name: manifest[name] for name in _PLAIN}, **arrays)


_PLAIN = ("fingerprint", "most", "left_out")


def build_links(pool: PassagePool, *, most: int = 1000, names_at_once: int = 1_000_000) -> Links:
    """Look every title up in the text of every passage.

    Parameters
    ----------
    pool
        The passages.
    most
        Links that one name may make: passages that mention it times passages that it names. A name
        that would make more, such as the novel ``She`` or a country in millions of passages, is
        left out, and counted; it would make the links grow faster than the pool, and lead from
        anywhere to anywhere.
    names_at_once
        Names that are looked up in one walk over the texts. It bounds the memory, at about 1 KB a
        name.

    Returns
    -------
    Links
        In memory; `Links.save` writes them.

    Raises
    ------
    ValueError
        Where ``most`` or ``names_at_once`` is below 1.
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
    return Links(pool.fingerprint, most, len(left_out), *rows, hashes[order], owners[order])


def _look_up(
    pool: PassagePool, finder: NameFinder, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return sources and targets of links, hashes and owners of names, and the names that were left
    out.
    """
    sources, places = _walk(pool, finder)
    widths = np.array([len(numbers) for numbers in finder.owners], np.int64)
    kept = np.bincount(places, minlength=len(widths)) * widths <= most
    flat = np.frombuffer(b"".join(numbers.tobytes() for numbers in finder.owners), np.int64)
    sources, places = sources[kept[places]], places[kept[places]]
    targets = _gather(flat, np.cumsum(widths) - widths, widths, places)
    names = [name for name, stays in zip(finder.names, kept, strict=True) if stays]
    left_out = [name for name, stays in zip(finder.names, kept, strict=True) if not stays]
    hashes = np.repeat(name_hashes(names), widths[kept])
    return (
        np.repeat(sources, widths[places]),
        targets,
        hashes,
        flat[np.repeat(kept, widths)],
        left_out,
    )


def _walk(pool: PassagePool, finder: NameFinder) -> tuple[np.ndarray, np.ndarray]:
    from tqdm.auto import tqdm

    sources, places = array("q"), array("q")
    for number, passage in enumerate(
        tqdm(pool, total=len(pool), desc="links", unit="passage", leave=False)
    ):
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
    """Return the links as compressed sparse rows in both directions, each once, none from a passage
    to itself.
    """
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
