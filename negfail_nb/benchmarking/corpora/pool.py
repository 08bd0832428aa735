"""A pool of passages that retrieval searches and contexts are filled from: memory-mapped, or a list
in memory.

The folder of a `Pool` holds the UTF-8 bytes of titles and sentences one after the other (``text``),
where each of them ends (``ends``), with which of them each passage begins (``firsts``), and hashes
of the titles in ascending order with their passages' numbers (``hashes``, ``titled``). The manifest
is written last.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from operator import index
from pathlib import Path
from typing import Any

from negfail_nb.benchmarking.corpora.layouts import distinct, read_passage_record
from negfail_nb.benchmarking.corpora.pool_files import (
    FILES,
    FORMAT,
    digested,
    mapped,
    pieces_of,
    read_manifest,
    title_hash,
    write_files,
)
from negfail_nb.benchmarking.corpora.records import Passage
from negfail_nb.benchmarking.corpora.sources import open_records
from negfail_nb.locks import alone
from negfail_nb.logs.jsontext import explain
from negfail_nb.logs.reading import UNREADABLE
from negfail_nb.runs import MANIFEST, file_hash, write_json

_BLOCK = 1024  # passages that are read at once
_KEPT = 64 * _BLOCK  # passages after which iteration gives back the memory of the files


class Pool:
    """Passages in a folder, memory-mapped: millions of them take hardly any memory. Made by `build`
    or `open`.

    Attributes
    ----------
    folder
        Where it is.
    fingerprint
        Changes when a title, a text, a border between sentences or the order changes.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        import numpy as np

        self.folder, self.fingerprint = folder, str(manifest["fingerprint"])
        self._length = int(manifest["passages"])
        self._maps = maps = {name: mapped(folder / name) for name in FILES}
        self._text = maps["text"]
        self._ends, self._firsts, self._hashes, self._titled = (
            np.frombuffer(maps[n], "<u8") for n in FILES[1:]
        )

    @classmethod
    def build(cls, passages: Iterable[Passage], folder: str | Path) -> Pool:
        """Write a pool, and open it.

        Parameters
        ----------
        passages
            In order; they are taken one after the other, and equal ones stay (see `distinct`).
        folder
            Is made; a pool that is there is replaced once the new one is written.

        Returns
        -------
        Pool
            The passages, numbered from 0.

        Raises
        ------
        ValueError
            Where there is no passage, or one with text that UTF-8 cannot hold; the text names it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / "pool", f"the pool in {folder}"):
            try:
                count, digest = write_files(passages, folder)
                (folder / MANIFEST).unlink(missing_ok=True)
                for name in FILES:  # those who have the old ones open keep them
                    os.replace(folder / f"{name}.part", folder / name)
            finally:
                for name in FILES:
                    (folder / f"{name}.part").unlink(missing_ok=True)
            paths = {name: folder / name for name in FILES}
            files = {
                name: {"bytes": path.stat().st_size, "sha256": file_hash(path)}
                for name, path in paths.items()
            }
            write_json(
                folder / MANIFEST,
                {"format": FORMAT, "passages": count, "fingerprint": digest, "files": files},
            )
            return cls.open(folder, verify=False)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> Pool:
        """Open a pool.

        Parameters
        ----------
        folder
            Where `build` wrote it.
        verify
            Read all files to see whether they are as they were written, some seconds for millions
            of passages; else only their sizes are compared.

        Raises
        ------
        ValueError
            Where the folder holds no finished pool, or a file that changed; the text names it.
        """
        folder = Path(folder)
        manifest = read_manifest(
            folder,
            "pool",
            "Pool.build",
            lambda found: found["format"] == FORMAT and set(found["files"]) == set(FILES),
        )
        for name in FILES:
            path, wanted = folder / name, manifest["files"][name]
            size = path.stat().st_size if path.is_file() else -1
            if size != wanted["bytes"] or (verify and file_hash(path) != wanted["sha256"]):
                state = "is missing" if size < 0 else "is not as it was written"
                raise ValueError(f"{path} {state}; build the pool again, with Pool.build")
        return cls(folder, manifest)

    def __len__(self) -> int:
        """Return how many passages there are."""
        return self._length

    def __getitem__(self, number: int) -> Passage:
        """Return one passage.

        Raises
        ------
        IndexError
            Where no passage has this number; numbers below 0 are no passages either.
        """
        number = _inside(number, self._length)
        (passage,) = self._read(number, number + 1)
        return passage

    def __iter__(self) -> Iterator[Passage]:
        """Iterate over the passages, faster than one by one, and without holding on to what was
        read.
        """
        for start in range(0, self._length, _BLOCK):
            yield from self._read(start, min(start + _BLOCK, self._length))
            if start % _KEPT == 0:
                self._forget()

    def _forget(self) -> None:
        """Give back the memory of what was read; what is read again comes from the system's cache
        of files.
        """
        for file in self._maps.values():
            if hasattr(mmap, "MADV_DONTNEED") and isinstance(file, mmap.mmap):
                file.madvise(mmap.MADV_DONTNEED)

    def _read(self, start: int, stop: int) -> Iterator[Passage]:
        firsts = self._firsts[start : stop + 1].tolist()
        ends = self._ends[firsts[0] : firsts[-1] + 1].tolist()
        text = self._text[ends[0] : ends[-1]]
        pieces = [text[a - ends[0] : b - ends[0]].decode() for a, b in pairwise(ends)]
        for first, last in pairwise(firsts):
            title, *sentences = pieces[first - firsts[0] : last - firsts[0]]
            yield Passage(title, tuple(sentences))

    def find(self, title: str) -> Sequence[int]:
        """Return the numbers of the passages with this title, byte for byte, in ascending order."""
        import numpy as np

        wanted = title.encode("utf-8", "surrogatepass")
        # A key of the array's own type: for any other, the whole array would be converted.
        key = np.uint64(title_hash(wanted))
        start, stop = (int(np.searchsorted(self._hashes, key, side)) for side in ("left", "right"))
        return tuple(
            number for number in self._titled[start:stop].tolist() if self._title(number) == wanted
        )

    def _title(self, number: int) -> bytes:
        first = int(self._firsts[number])
        return self._text[int(self._ends[first]) : int(self._ends[first + 1])]

    def __repr__(self) -> str:
        """Return the count and the folder's name."""
        return f"Pool({self._length} passages in {self.folder.name})"


class MemoryPool:
    """Passages in memory, for those of a few thousand questions; else as `Pool`, whose fingerprint
    it shares.

    Raises
    ------
    ValueError
        As `Pool.build`.
    """

    def __init__(self, passages: Iterable[Passage]) -> None:
        self._passages = tuple(passages)
        if not self._passages:
            raise ValueError("there are no passages; a pool needs at least one")
        self._titled: dict[str, list[int]] = {}
        digest = hashlib.sha256()
        for number, passage in enumerate(self._passages):
            digested(digest, pieces_of(passage, number))
            self._titled.setdefault(passage.title, []).append(number)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        """Return how many passages there are."""
        return len(self._passages)

    def __getitem__(self, number: int) -> Passage:
        """Return one passage; ``IndexError`` as for `Pool`."""
        return self._passages[_inside(number, len(self._passages))]

    def __iter__(self) -> Iterator[Passage]:
        """Iterate over the passages."""
        return iter(self._passages)

    def find(self, title: str) -> Sequence[int]:
        """Return the numbers of the passages with this title, byte for byte, in ascending order."""
        return tuple(self._titled.get(title, ()))

    def __repr__(self) -> str:
        """Return the count."""
        return f"MemoryPool({len(self._passages)} passages)"


def read_passages(path: str | Path) -> Iterator[Passage]:
    """Read the passages of a corpus, one after the other.

    Parameters
    ----------
    path
        A file of JSON lines, one JSON list, or parquet. A record has ``title`` and ``text`` (or
        ``sentences``); of questions (HotpotQA, 2WikiMultiHopQA, MuSiQue) the passages are read,
        each once. Or a folder: BEIR's, with a ``corpus.jsonl``, or one of parquet files.

    Yields
    ------
    Passage
        A text that comes whole is one sentence.

    Raises
    ------
    ValueError
        Where a file or a record cannot be read; the text names file, record and field.
    """
    for file in _corpus_files(Path(path)):
        yield from _read_file(file)


def _corpus_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    beir = path / "corpus.jsonl"
    if not (files := [beir] if beir.is_file() else sorted(path.glob("*.parquet"))):
        raise ValueError(f"{path}: the folder has neither a corpus.jsonl nor parquet files")
    return files


def _read_file(path: Path) -> Iterator[Passage]:
    records, problems = open_records(path)
    shared: set[tuple[str, str]] = (
        set()
    )  # questions share passages; a corpus of millions is not kept in memory
    for where, record in records:
        _refuse(path, problems)
        try:
            found = read_passage_record(record)
        except UNREADABLE as error:
            raise ValueError(f"{path}: {where}: {explain(error)}") from error
        yield from distinct(found, shared) if "title" not in record else found
    _refuse(path, problems)


def _refuse(path: Path, problems: Sequence[Any]) -> None:
    if problems:
        raise ValueError(f"{path}: {problems[0].record}: {problems[0].reason}")


def _inside(number: int, length: int) -> int:
    number = index(number)
    if not 0 <= number < length:
        raise IndexError(f"there is no passage {number}; the pool has those from 0 to {length - 1}")
    return number
