"""A corpus for the search tool, read from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from negfail_nb.logs.jsontext import BOM, Line, Record, parse, read_lines

_LONGEST_LINE = 1 << 30  # bytes


def load_corpus(path: str | Path) -> list[tuple[str, str]]:
    """Read passages from a file of JSON lines, or one JSON list, of records.

    A record is a passage with a ``title`` and a ``text``, or a HotpotQA question whose ``context``
    holds passages (native layout, or that of the datasets library). Other fields are not read.
    Equal passages, as questions share them, are kept once.

    Parameters
    ----------
    path
        The file, in UTF-8.

    Returns
    -------
    list
        ``(title, text)`` pairs in the order of the file.

    Raises
    ------
    ValueError
        Where the file cannot be read, holds no passage, or holds a record that is none; the text
        names file and line (of a JSON list: the record).
    """
    path = Path(path)
    found: dict[tuple[str, str], None] = {}
    for where, record, problem in _records(path):
        try:
            if problem:
                raise ValueError(problem)
            found.update(dict.fromkeys(_passages(record)))
        except ValueError as error:
            raise ValueError(f"{path}: {where}: {error}") from error
    if not found:
        raise ValueError(
            f"{path}: there are no passages; a corpus has one JSON record a line, with title and text"
        )
    return list(found)


def _records(path: Path) -> Iterator[Record]:
    try:
        with path.open("rb") as stream:
            is_list = stream.read(1024).removeprefix(BOM).lstrip().startswith(b"[")
        if not is_list:
            for line in read_lines(path.open("rb"), _LONGEST_LINE):
                if line.text.strip() or line.problem:
                    yield _line(line)
            return
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot read the corpus: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 at byte {error.start + 1}; save the corpus as UTF-8"
        ) from error
    whole = parse(content, "JSON list")
    yield from (
        [whole]
        if whole.problem
        else (Record(f"record {n}", r) for n, r in enumerate(whole.value, 1))
    )


def _line(line: Line) -> Record:
    return (
        Record(f"line {line.number}", None, line.problem)
        if line.problem
        else parse(line.text, f"line {line.number}")
    )


def _passages(record: Any) -> list[tuple[str, str]]:
    if not isinstance(record, Mapping):
        raise ValueError(
            f"the record is {type(record).__name__}, not an object with title and text"
        )
    found = (
        _context(record["context"])
        if "context" in record
        else [(record.get("title"), record.get("text"))]
    )
    return [(_checked("title", title), _checked("text", text)) for title, text in found]


def _context(context: Any) -> list[tuple[Any, str]]:
    try:
        if isinstance(context, Mapping):
            context = zip(context["title"], context["sentences"], strict=True)
        return [(title, "".join(sentences)) for title, sentences in context]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("the context is not a list of [title, sentences]") from error


def _checked(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r}; every passage needs a {name}")
    return value.strip()
