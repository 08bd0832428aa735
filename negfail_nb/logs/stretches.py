"""Files that are read in stretches, or unpacked on the way."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

GZIP = b"\x1f\x8b"
MAX_RATIO = 200  # of unpacked to packed size; JSON logs pack 5 to 40 times


class Stretch(NamedTuple):
    """A stretch of a file: its first byte, the byte behind it, and the lines before it."""

    start: int
    end: int
    number: int


def cut(stream: BinaryIO, size: int) -> Iterator[Stretch]:
    """Yield stretches of at least ``size`` bytes, cut between lines."""
    start = number = 0
    while block := stream.read(size):
        block += stream.readline()
        yield Stretch(start, start + len(block), number)
        start += len(block)
        number += block.count(b"\n")


class Gunzip(gzip.GzipFile):
    """A packed file that refuses to grow beyond ``most`` bytes."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        super().__init__(fileobj=stream, mode="rb")
        self._packed = stream
        self._most = most

    def read(self, size: int | None = -1) -> bytes:
        """Return some bytes."""
        return self._checked(super().read(size))

    def readline(self, size: int | None = -1) -> bytes:
        """Return a line."""
        return self._checked(super().readline(size))

    def close(self) -> None:
        """Close the packed file too."""
        super().close()
        self._packed.close()

    def _checked(self, raw: bytes) -> bytes:
        if self.tell() > self._most:
            size = f"{self._most} bytes, {MAX_RATIO} times its size"
            raise ValueError(f"it unpacks to more than {size}; not read on")
        return raw
