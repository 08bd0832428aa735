"""The importers: which there are, and which one reads a file.

An importer is one small function. Your own takes ten lines:

>>> from negfail_nb.collect import importer
>>> @importer("diary", looks_like=lambda log: log.has("asked", "turns"))
... def diary(log):
...     '''My agent's diary: one JSON line an attempt, turns alternating between agent and tools.'''
...     def read(record, where):
...         roles = ("assistant", "user")
...         turns = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(record["turns"])]
...         messages = [{"role": "user", "content": record["asked"]}, *turns]
...         return log.trajectory(where, question=record["asked"], messages=messages, success=record["solved"])
...     return log.convert(read)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from negfail_nb.collect.reading import LogFile
from negfail_nb.trajectory import Problem, Trajectory

Read = Callable[[LogFile], Iterable[Trajectory | Problem]]


class Importer(NamedTuple):
    """A reader of one format and the test by which its files are recognised."""

    name: str
    read: Read
    looks_like: Callable[[LogFile], bool]
    fields: str = ""


_IMPORTERS: dict[str, Importer] = {}


def importer(name: str, *, looks_like: Callable[[LogFile], bool], fields: str = "") -> Callable[[Read], Read]:
    """Register a function that reads a format; the last one registered is asked first.

    Parameters
    ----------
    name
        What ``format=`` calls it. A name that is taken is replaced.
    looks_like
        Whether a file is of this format, judged from ``log.has(..)``, ``log.text`` or ``log.head``.
    fields
        The least that a record must hold, in a line of Markdown, for the table of formats.

    Returns
    -------
    callable
        The function, unchanged. It gets a `LogFile` and yields a `Trajectory`, or a `Problem`, for each record.
    """

    def register(read: Read) -> Read:
        _IMPORTERS.pop(name, None)
        _IMPORTERS[name] = Importer(name, read, looks_like, fields)
        return read

    return register


def formats() -> tuple[str, ...]:
    """Return the names of the formats that can be read, in alphabetical order."""
    return tuple(sorted(_IMPORTERS))


def find_importer(log: LogFile) -> tuple[Importer, LogFile]:
    """Return the importer that ``settings.format`` names, or else the one that recognises the file, and what it reads.

    An object with lists of objects is taken for lists of records; where no importer knows these, for one record.

    Raises
    ------
    ValueError
        Where there is none; the text says what the file looks like, and which formats there are.
    """
    name = log.settings.format
    # A format that was named needs no guess but where there are two ways to read the file.
    if name and not log.is_object:
        return named(name), log
    candidates = [named(name)] if name else list(reversed(_IMPORTERS.values()))
    for reading in _readings(log):
        for candidate in candidates:
            if candidate.looks_like(reading):
                return candidate, reading
    if name:
        return candidates[0], log
    raise ValueError(
        f"no known format: {_seen(log)}. Formats: {', '.join(formats())}; name one with format='...'{_hint(log)}"
    )


def _readings(log: LogFile) -> Iterator[LogFile]:
    yield log
    if log.is_object:
        yield log.joined()


def named(name: str) -> Importer:
    """Return an importer by its name.

    Raises
    ------
    ValueError
        Where there is none; the text lists those that exist.
    """
    if name not in _IMPORTERS:
        raise ValueError(f"no importer is called {name!r}; there are {', '.join(formats())}")
    return _IMPORTERS[name]


def _hint(log: LogFile) -> str:
    """What to do with files that people often have instead of JSON lines; empty where there is nothing to say."""
    convert = "pandas.read_{}('{}').to_json('logs.jsonl', orient='records', lines=True)"
    for begin, text in (
        (b"\x1f\x8b", "it is compressed (gzip): unpack it first"),
        (b"PK\x03\x04", "it is an archive (zip): unpack it first"),
        (b"\x28\xb5\x2f\xfd", "it is compressed (zstd): unpack it first"),
        (b"PAR1", f"it is Parquet: {convert.format('parquet', log.path.name)}"),
        (b"\xff\xfe", "it is UTF-16: save it as UTF-8"),
        (b"\xfe\xff", "it is UTF-16: save it as UTF-8"),
    ):
        if log.head.startswith(begin):
            return f"; {text}"
    if log.path.suffix.lower() in (".csv", ".tsv"):
        return f"; it is a table: {convert.format('csv', log.path.name)}"
    return ""


def _seen(log: LogFile) -> str:
    if log.samples:
        return f"its records have the keys {', '.join(sorted(map(str, log.samples[0]))[:12]) or '(none)'}"
    if b"\0" in log.head[:4096]:
        return f"binary, it starts with {log.head[:12]!r}"
    damage = next(log.damage(), None) if log.text.lstrip()[:1] in ("{", "[") else None
    return f"it starts with {log.text[:60]!r}" + (f" ({damage.where}: {damage.problem})" if damage else "")
