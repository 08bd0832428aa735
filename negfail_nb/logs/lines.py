"""Lines of a text file that may be damaged or far too long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from negfail_nb.logs.jsontext import too_large

BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20


class Line(NamedTuple):
    """A line of a text file, without its end; ``problem`` says why its text cannot be used."""

    number: int
    text: str
    problem: str = ""


def read_lines(stream: BinaryIO, limit: int) -> Iterator[Line]:
    """Yield the lines of a file, and close it. One over ``limit`` bytes, or not UTF-8, carries a
    problem.
    """
    with stream:
        for number, (raw, size) in enumerate(_raw_lines(stream, limit), 1):
            if raw is None:
                yield Line(number, "", too_large(size, limit))
            else:
                yield _decoded(number, raw.removeprefix(BOM) if number == 1 else raw)


def _raw_lines(stream: Any, limit: int) -> Iterator[tuple[bytes | None, int]]:
    """Yield lines and their sizes; of one over the limit only the size, its rest being read in
    chunks.
    """
    while line := stream.readline(limit + 2):
        size = len(line.rstrip(b"\r\n"))
        if size <= limit:
            yield line, size
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(_CHUNK)
            size += len(line.rstrip(b"\r\n"))
        yield None, size


def _decoded(number: int, raw: bytes) -> Line:
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return Line(number, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        return Line(number, raw.decode("utf-8", "replace"), reason)
