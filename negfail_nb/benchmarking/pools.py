"""Pools of passages that are searched and that contexts are filled from: on disk or in memory.

The folder of a `Pool` holds the UTF-8 bytes of titles and sentences one after the other (``text``),
where each of them ends (``ends``), with which of them each passage begins (``firsts``), and hashes
of the titles in ascending order with their passages' numbers (``hashes``, ``titled``). The manifest
is written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from negfail_nb.benchmarking.layouts import read_passages
from negfail_nb.benchmarking.questions import Questions
from negfail_nb.benchmarking.records import Passage, PassagePool
from negfail_nb.content import file_hash, write_json
from negfail_nb.locks import alone
from negfail_nb.logs.jsontext import explain
from negfail_nb.runs import MANIFEST, Place

FORMAT = 1
FILES = ("text", "ends", "firsts", "hashes", "titled")
_BLOCK = 1024  # passages that are read at once
_KEPT = 64 * _BLOCK  # passages after which iteration gives back the memory of the files

logger = logging.getLogger("negfail_nb")


def open_pool(source: Questions | str | Path, folder: str | Path | Place = "") -> PassagePool:
    """Return the passages of questions, in memory, or those of a corpus, memory-mapped.

    Parameters
    ----------
    source
        Questions, or the path of a corpus as `read_passages` takes it.
    folder
        Where pools of corpora are kept, each in a folder named by the corpus's content. One that is
        there and undamaged is opened, not built again.
    """
    if isinstance(source, Questions):
        return MemoryPool(source.passages)
    base = folder.root / folder.name if isinstance(folder, Place) else Path(folder)
    made = base / file_hash(source)[:16]
    try:
        return Pool.open(made)
    except ValueError as reason:
        logger.info("the pool of %s is built: %s", source, reason)
        return Pool.build(read_passages(source), made)


class Pool:
    """Passages in a folder, memory-mapped: millions of them take hardly any memory. Made by `build`
    or `open`.

    Attributes
    ----------
    folder
        Where it is.
    content
        Changes with a title, a text, a border between sentences, or the order.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.content = folder, str(manifest["fingerprint"])
        self._length = int(manifest["passages"])
        self._maps = maps = {name: _mapped(folder / name) for name in FILES}
        self._text = maps["text"]
        self._ends, self._firsts, self._hashes, self._titled = (
            np.frombuffer(maps[n], "<u8") for n in FILES[1:]
        )

    @classmethod
    def build(cls, passages: Iterable[Passage], folder: str | Path) -> Pool:
        """Write a pool, and open it. A pool that is there is replaced once the new one is written.

        Equal passages stay (see `distinct`). ``ValueError`` if there is no passage, or one whose
        text UTF-8 cannot hold; the text names it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / "pool", f"the pool in {folder}"):
            try:
                count, digest = _write_files(passages, folder)
                (folder / MANIFEST).unlink(missing_ok=True)
                for name in FILES:  # those who have the old ones open keep them
                    os.replace(folder / f"{name}.part", folder / name)
            finally:
                for name in FILES:
                    (folder / f"{name}.part").unlink(missing_ok=True)
            files = {
                name: {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)}
                for name in FILES
            }
            manifest = {"format": FORMAT, "passages": count, "fingerprint": digest, "files": files}
            write_json(folder / MANIFEST, manifest)
            return cls(folder, manifest)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> Pool:
        """Open a pool that `build` wrote.

        With ``verify`` all files are read, some seconds for millions of passages; else only their
        sizes are compared. ``ValueError`` if the folder holds no finished pool, or a file that
        changed; the text names it.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        for name in FILES:
            path = folder / name
            wanted = manifest["files"][name]
            size = path.stat().st_size if path.is_file() else -1
            if size != wanted["bytes"] or (verify and file_hash(path) != wanted["sha256"]):
                state = "is missing" if size < 0 else "is not as it was written"
                raise ValueError(f"{path} {state}; build the pool again, with Pool.build")
        return cls(folder, manifest)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Passage:
        """Return one passage; ``IndexError`` for any other number, also below 0."""
        number = _inside(number, self._length)
        (passage,) = self._read(number, number + 1)
        return passage

    def __iter__(self) -> Iterator[Passage]:
        """Iterate faster than one by one, and without holding on to what was read."""
        for start in range(0, self._length, _BLOCK):
            yield from self._read(start, min(start + _BLOCK, self._length))
            if start % _KEPT == 0:
                self._forget()

    def _forget(self) -> None:
        """Give back the memory of what was read; the system's cache of files still has it."""
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
        wanted = title.encode("utf-8", "surrogatepass")
        # A key of the array's own type: for any other, the whole array would be converted.
        key = np.uint64(title_hash(wanted))
        start, stop = (int(np.searchsorted(self._hashes, key, side)) for side in ("left", "right"))
        return tuple(n for n in self._titled[start:stop].tolist() if self._title(n) == wanted)

    def _title(self, number: int) -> bytes:
        first = int(self._firsts[number])
        return self._text[int(self._ends[first]) : int(self._ends[first + 1])]

    def __repr__(self) -> str:
        return f"Pool({self._length} passages in {self.folder.name})"


class MemoryPool:
    """Passages in memory, for those of a few thousand questions; ``content`` is that of a `Pool` of
    the same passages.

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
            _digest(digest, _pieces(passage, number))
            self._titled.setdefault(passage.title, []).append(number)
        self.content = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._passages)

    def __getitem__(self, number: int) -> Passage:
        """Return one passage; ``IndexError`` as for `Pool`."""
        return self._passages[_inside(number, len(self._passages))]

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._passages)

    def find(self, title: str) -> Sequence[int]:
        """Return the numbers of the passages with this title, byte for byte, in ascending order."""
        return tuple(self._titled.get(title, ()))

    def __repr__(self) -> str:
        return f"MemoryPool({len(self._passages)} passages)"


def title_hash(title: bytes) -> int:
    """Return a hash of 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(title, digest_size=8).digest(), "little")


def _inside(number: int, length: int) -> int:
    number = index(number)
    if not 0 <= number < length:
        raise IndexError(f"there is no passage {number}; the pool has those from 0 to {length - 1}")
    return number


def _write_files(passages: Iterable[Passage], folder: Path) -> tuple[int, str]:
    """Write the files as ``*.part``; return the number of passages and their hash."""
    from tqdm.auto import tqdm

    digest = hashlib.sha256()
    hashes = array("Q")
    count = 0
    pieces = 0
    end = 0
    with (
        (folder / "text.part").open("wb") as text,
        (folder / "ends.part").open("wb") as ends,
        (folder / "firsts.part").open("wb") as firsts,
    ):
        ends.write(_number(0))
        firsts.write(_number(0))
        bar = tqdm(passages, desc="pool", unit="passage", leave=False)
        for count, passage in enumerate(bar, 1):
            found = _pieces(passage, count - 1)
            text.write(_digest(digest, found))
            hashes.append(title_hash(found[0]))
            for piece in found:
                ends.write(_number(end := end + len(piece)))
            firsts.write(_number(pieces := pieces + len(found)))
    if not count:
        raise ValueError("there are no passages; a pool needs at least one")
    titles = np.frombuffer(hashes, np.uint64)
    order = np.argsort(titles, kind="stable")
    titles[order].astype("<u8").tofile(folder / "hashes.part")
    order.astype("<u8").tofile(folder / "titled.part")
    return count, digest.hexdigest()


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _pieces(passage: Passage, number: int) -> list[bytes]:
    """Return title and sentences in UTF-8; ``ValueError`` if it cannot hold them."""
    try:
        return [piece.encode() for piece in (passage.title, *passage.sentences)]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"passage {number} ({passage.title!r}) holds {error.object[error.start]!r}, no text"
        ) from error


def _digest(digest: Any, pieces: Sequence[bytes]) -> bytes:
    """Add a passage to a hash, lengths first so that borders count; return its bytes."""
    content = b"".join(pieces)
    digest.update(b"%d:%s;" % (len(pieces), b",".join(b"%d" % len(piece) for piece in pieces)))
    digest.update(content)
    return content


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    advice = "with Pool.build"
    if not path.is_file():
        raise ValueError(f"{folder} holds no finished pool: it has no {MANIFEST}; make it {advice}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT or set(manifest["files"]) != set(FILES):
            raise ValueError(f"its format is {manifest['format']!r}, and another is read here")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no manifest of pool: {explain(error)}; make it anew {advice}"
        ) from error
    return manifest


def _mapped(path: Path) -> mmap.mmap | bytes:
    """Return a file's bytes as a memory map; an empty file cannot be one."""
    if not path.stat().st_size:
        return b""
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
