"""The files of a pool: how passages become bytes and numbers on disk, and what tells that they did
not change.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from negfail_nb.benchmarking.corpora.records import Passage
from negfail_nb.logs.jsontext import explain
from negfail_nb.runs import MANIFEST

FORMAT = 1
FILES = ("text", "ends", "firsts", "hashes", "titled")
_WIDTH = 8  # bytes of a number in the files
_BUFFER = 1 << 16  # numbers that are held back before they are written


def write_files(passages: Iterable[Passage], folder: Path) -> tuple[int, str]:
    """Write the files under names of their own; return how many passages there are, and their
    fingerprint.

    Raises
    ------
    ValueError
        Where there is no passage, or one with text that UTF-8 cannot hold.
    """
    from tqdm.auto import tqdm

    digest, hashes, count, pieces, end = hashlib.sha256(), array("Q"), 0, 0, 0
    with ExitStack() as stack:
        text = stack.enter_context((folder / "text.part").open("wb"))
        ends, firsts = (
            stack.enter_context(_Numbers(folder / f"{name}.part")) for name in ("ends", "firsts")
        )
        ends.add(0)
        firsts.add(0)
        for count, passage in enumerate(
            tqdm(passages, desc="pool", unit="passage", leave=False), 1
        ):
            found = pieces_of(passage, count - 1)
            text.write(digested(digest, found))
            hashes.append(title_hash(found[0]))
            for piece in found:
                ends.add(end := end + len(piece))
            firsts.add(pieces := pieces + len(found))
    if not count:
        raise ValueError("there are no passages; a pool needs at least one")
    _write_titles(hashes, folder)
    return count, digest.hexdigest()


def _write_titles(hashes: array, folder: Path) -> None:
    import numpy as np

    found = np.frombuffer(hashes, np.uint64)
    order = np.argsort(found, kind="stable")
    found[order].astype("<u8").tofile(folder / "hashes.part")
    order.astype("<u8").tofile(folder / "titled.part")


class _Numbers:
    """A file of numbers that are written in blocks."""

    def __init__(self, path: Path) -> None:
        self.stream, self.block = path.open("wb"), array("Q")

    def add(self, number: int) -> None:
        self.block.append(number)
        if len(self.block) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        import numpy as np

        self.stream.write(np.array(self.block, "<u8").tobytes())
        self.block = array("Q")

    def __enter__(self) -> _Numbers:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self.stream.close()


def pieces_of(passage: Passage, number: int) -> list[bytes]:
    """Return title and sentences in UTF-8; ``ValueError`` where it cannot hold them."""
    try:
        return [piece.encode() for piece in (passage.title, *passage.sentences)]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"passage {number} ({passage.title!r}) holds {error.object[error.start]!r}, no text"
        ) from error


def digested(digest: Any, pieces: Sequence[bytes]) -> bytes:
    """Add a passage to a hash, lengths first so that borders count; return its bytes."""
    content = b"".join(pieces)
    digest.update(b"%d:%s;" % (len(pieces), b",".join(b"%d" % len(piece) for piece in pieces)))
    digest.update(content)
    return content


def title_hash(title: bytes) -> int:
    """Return a hash of 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(title, digest_size=_WIDTH).digest(), "little")


def read_manifest(
    folder: Path, what: str, build: str, known: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Return the manifest of a finished folder.

    Parameters
    ----------
    folder
        Holds the files that the manifest lists.
    what, build
        What the files are, and what writes them anew; both stand in errors.
    known
        Whether it is one that this version writes.

    Raises
    ------
    ValueError
        Where there is none that can be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no finished {what}: it has no {MANIFEST}; make it with {build}"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not known(manifest):
            raise ValueError(f"its format is {manifest['format']!r}, and another is read here")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no manifest of {what}: {explain(error)}; make it anew with {build}"
        ) from error
    return manifest


def mapped(path: Path) -> mmap.mmap | bytes:
    """Return a file's bytes as a memory map; an empty file cannot be one."""
    with path.open("rb") as stream:
        return (
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
        )
