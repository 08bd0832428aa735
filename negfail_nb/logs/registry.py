"""The importers: which exist, and which one reads a file.

An importer is one small function. Your own takes ten lines:

>>> from negfail_nb import importer
>>> @importer("diary", looks_like=lambda log: log.has("asked", "turns"))
... def diary(log):
...     '''My agent's diary: one JSON line per attempt, turns of agent and tools in turn.'''
...     def read(record, where):
...         roles, said = ("user", "assistant"), [record["asked"], *record["turns"]]
...         turns = [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]
...         return log.trajectory(
...             where, question=record["asked"], messages=turns, success=record["solved"]
...         )
...     return log.convert(read)

An importer of this package is such a function in a file of `negfail_nb/logs/importers`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from negfail_nb.logs.reading import UNREADABLE, LogFile
from negfail_nb.trajectory import Problem, Trajectory

SHOWN_KEYS = 12
PACKED = (
    (b"PK\x03\x04", "it is an archive (zip): unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed (zstd): unpack it first"),
    (b"BZh", "it is compressed (bzip2): unpack it first"),
    (b"\xfd7zXZ", "it is compressed (xz): unpack it first"),
    (b"7z\xbc\xaf", "it is an archive (7z): unpack it first"),
    (b"\xff\xfe", "it is UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "it is UTF-16: save it as UTF-8"),
)
SKELETON = """\
from negfail_nb import importer

@importer("mine", looks_like=lambda log: log.has({keys}))
def mine(log):
    def read(record, where):
        return log.trajectory(
            where, question=record[{texts!r}], messages=record[{lists!r}], success={success}
        )
    return log.convert(read)"""
HEAD = """# Formats of logs

Which logs are read, and the least that a record must hold. This page is made from the importers:
`python -m negfail_nb formats --markdown > docs/formats.md`; a test says when it is old. The format
is guessed from the content, whatever the file is called; `format="..."` names it. Other logs take
an importer of ten lines, which the error prints with the keys of your records.

Records are JSON lines, a JSON array, arrays under keys of an object, values of an object, rows of a
CSV or Parquet table (`columns={"question": "q"}` says which column is which), or the format's own
text. Files may be packed with gzip. A record that cannot be read is counted with its place and the
reason, and costs no other.

| format | what it is | the least a record holds |
|---|---|---|"""

logger = logging.getLogger("negfail_nb")

Read = Callable[[LogFile], Iterable[Trajectory | Problem]]


class Importer(NamedTuple):
    """A reader of one format and the test that recognises its files."""

    name: str
    read: Read
    looks_like: Callable[[LogFile], bool]
    fields: str = ""


_IMPORTERS: dict[str, Importer] = {}


def importer(
    name: str, *, looks_like: Callable[[LogFile], bool], fields: str = ""
) -> Callable[[Read], Read]:
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
        The function, unchanged. It gets a `LogFile` and yields a `Trajectory`, or a `Problem`, for
        each record.
    """

    def register(read: Read) -> Read:
        _IMPORTERS.pop(name, None)
        _IMPORTERS[name] = Importer(name, read, looks_like, fields)
        return read

    return register


def formats() -> tuple[str, ...]:
    """Return the names of the formats that can be read, in alphabetical order."""
    return tuple(sorted(_IMPORTERS))


def named(name: str) -> Importer:
    """Return an importer by its name.

    Raises
    ------
    ValueError
        If there is none; the text lists those that exist.
    """
    if name not in _IMPORTERS:
        raise ValueError(f"no importer is called {name!r}; there are {', '.join(formats())}")
    return _IMPORTERS[name]


def find_importer(log: LogFile) -> tuple[Importer, LogFile]:
    """Return the importer that ``settings.format`` names, or that recognises the file, and what it
    reads.

    An object that holds more than lists is read as one record, if an importer knows it; else its
    lists of objects are lists of records, or it is one record after all.

    Raises
    ------
    ValueError
        If there is none; the text says what the file looks like, and which formats exist.
    """
    name = log.settings.format
    # A format that was named needs no guess unless there are two ways to read the file.
    if name and not log.is_object:
        return named(name), log
    log.samples  # noqa: B018 - if the file itself cannot be read, this says so
    candidates = [named(name)] if name else list(reversed(_IMPORTERS.values()))
    readings = [log, log.joined()] if log.is_object else [log]
    for reading in reversed(readings) if log.is_record else readings:
        for candidate in candidates:
            if _recognises(candidate, reading):
                return candidate, reading
    if name:
        return candidates[0], log
    log = log.joined() if log.is_record else log
    known = f"Formats: {', '.join(formats())}; name one with format='...'"
    raise ValueError(f"no known format: {_seen(log)}. {known}{_hint(log)}")


def _recognises(candidate: Importer, log: LogFile) -> bool:
    try:
        return bool(candidate.looks_like(log))
    except UNREADABLE:
        logger.debug("%s: %s cannot tell", log.name, candidate.name, exc_info=True)
        return False


def formats_table() -> str:
    """Return the page of formats as Markdown: what each is, and the least that a record holds."""
    rows = (
        f"| `{name}` | {_first_sentence(found.read)} | {found.fields} |"
        for name, found in sorted(_IMPORTERS.items())
    )
    return "\n".join([HEAD, *rows]) + "\n"


def _first_sentence(read: Read) -> str:
    text = " ".join((read.__doc__ or "").split("\n\n")[0].replace("``", "`").split())
    return text.partition(". ")[0].removesuffix(".").replace("|", "\\|")


def _seen(log: LogFile) -> str:
    """Say what a file that no importer knows looks like."""
    if log.table:
        columns = ", ".join(log.table.header()[:SHOWN_KEYS])
        return f"it is a table with the columns {columns or '(none)'}"
    if log.samples:
        keys = sorted(map(str, log.samples[0]))
        more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
        return f"its records have the keys {', '.join(keys[:SHOWN_KEYS]) or '(none)'}{more}"
    if b"\0" in log.head[:4096]:
        return f"binary, it starts with {log.head[:12]!r}"
    start = f"it starts with {log.text[:60]!r}"
    if log.text.lstrip()[:1] not in ("{", "["):
        return start
    damage = next(log.damage(), None)
    if damage is None and next(log.records(), None) is None:
        return f"it is an empty list or object ({log.text[:60].strip()!r})"
    return f"{start} ({damage.where}: {damage.problem})" if damage else start


def _hint(log: LogFile) -> str:
    """Say what to do with a file that no importer knows."""
    for begin, text in PACKED:
        if log.head.startswith(begin):
            return f"; {text}"
    if b"ustar" in log.head[257:263]:
        return "; it is an archive (tar): unpack it first"
    if log.table:
        return f"; say which column is which: columns={_columns(log.table.header())!r}"
    if not log.samples:
        return ""
    return f"; or write the ten lines of an importer:\n{_skeleton(log.samples[0])}"


def _columns(names: list[str]) -> dict[str, str]:
    """Return a mapping to be corrected: columns with a field's name, then the others in order."""
    wanted = ("question", "messages", "success")
    others = iter([name for name in names if name not in wanted])
    return {field: field if field in names else next(others, "..") for field in wanted}


def _skeleton(sample: Mapping[str, Any]) -> str:
    """Return an importer for records such as this one, with keys to be corrected."""
    keys = list(map(str, sample)) or [".."]
    lists = next((key for key in keys if isinstance(sample[key], list)), keys[-1])
    texts = next((key for key in keys if isinstance(sample[key], str)), keys[0])
    flags = next((key for key in keys if isinstance(sample[key], bool | int | float)), "")
    success = f"bool(record[{flags!r}])" if flags else "None"
    return SKELETON.format(
        keys=", ".join(map(repr, keys[:3])), texts=texts, lists=lists, success=success
    )
