"""Logs that are tables: CSV, TSV and Parquet files become records, a row each."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.logs.jsontext import Record, mend, parse, too_large
from negfail_nb.trajectory import find_endless

if TYPE_CHECKING:
    from negfail_nb.logs.reading import LogFile

PARQUET = b"PAR1"
DELIMITERS = {".tsv": "\t", ".csv": ",;\t|"}
BATCH = 64  # rows of a Parquet file in memory at once


def is_table(path: Path, head: bytes) -> bool:
    """Whether a file is a table: Parquet by its content, CSV and TSV by its name."""
    return head.startswith(PARQUET) or (
        _suffix(path) in DELIMITERS and head.lstrip()[:1] not in (b"{", b"[")
    )


def read_table(log: LogFile) -> Iterator[Record]:
    """Yield a record a row, its fields named as ``columns`` says, else as in the file.

    A text that is a JSON list or object is parsed; an empty cell is no field.

    Raises
    ------
    ValueError
        Where two columns have one name, or one that is asked for is missing.
    """
    rows = _parquet(log) if log.head.startswith(PARQUET) else _delimited(log)
    names = {column: name for name, column in log.columns.items()}
    _check(header(log), names)
    for where, row, problem in rows:
        if problem:
            yield Record(where, None, problem)
            continue
        yield _record(log, where, {names.get(key, key): value for key, value in row.items()})


def _check(given: list[str], wanted: Iterable[str]) -> None:
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two columns are called {twice!r}; rename one")
    missing = next((column for column in wanted if column not in given), None)
    if missing is not None:
        raise ValueError(f"there is no column {missing!r}; the table has {', '.join(given)}")


def header(log: LogFile) -> list[str]:
    """Return the names of a table's columns, as they are in the file."""
    if log.head.startswith(PARQUET):
        return _parquet_file(log).schema_arrow.names
    return next(_rows(log), (0, [], ""))[1]


def _record(log: LogFile, where: str, row: dict[str, Any]) -> Record:
    size = sum(len(value) for value in row.values() if isinstance(value, str))
    if size > log.limit:
        return Record(where, None, too_large(size, log.limit))
    found = {}
    for name, value in row.items():
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            cell = parse(value, name)
            looks_written = isinstance(cell.value, list | dict)
            if cell.problem and value.lstrip().startswith(("[{", "{'", '{"')):
                return Record(
                    where, None, f"the column {name!r} is {cell.problem}{_repr_hint(value)}"
                )
            value = cell.value if looks_written else value
        if value not in ("", None):
            found[name] = value
    if name := find_endless(found):
        return Record(where, None, f"the column {name!r} is infinite or no number")
    return Record(where, mend(found))


def _repr_hint(value: str) -> str:
    """Say what pandas does with lists of dictionaries: it writes them as Python shows them, not as
    JSON.
    """
    return "; it looks like Python, write the column with json.dumps" if "'" in value[:3] else ""


def _delimited(log: LogFile) -> Iterator[tuple[str, dict[str, Any], str]]:
    rows = _rows(log)
    _, names, problem = next(rows)
    if problem:
        yield "line 1", {}, problem
        return
    for number, cells, problem in rows:
        if not problem and len(cells) != len(names):
            problem = f"the row has {len(cells)} cells, the header {len(names)}"
        yield f"row {number}", dict(zip(names, cells, strict=False)), problem


def _rows(log: LogFile) -> Iterator[tuple[int, list[str], str]]:
    """Yield the rows, from the header on, which is row 0, with what is wrong with their text."""
    # The module's bound of 131,072 characters is too small for runs; it is one for the whole
    # process.
    csv.field_size_limit(max(csv.field_size_limit(), log.limit))
    wrong: list[str] = []

    def texts() -> Iterator[str]:
        for line in log.lines():
            wrong.extend([line.problem] if line.problem else [])
            yield line.text + "\n"

    reader = csv.reader(texts(), delimiter=_delimiter(log), strict=True)
    number = 0
    while True:
        wrong.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            wrong.append(f"not valid CSV: {error}")
            cells = []
        if cells or wrong:
            yield number, cells, wrong[0] if wrong else ""
            number += 1


def _delimiter(log: LogFile) -> str:
    """Return the sign that stands most often in the header."""
    head = log.text.partition("\n")[0]
    return max(DELIMITERS[_suffix(log.path)], key=head.count)


def _parquet(log: LogFile) -> Iterator[tuple[str, dict[str, Any], str]]:
    with _parquet_file(log) as file:
        number = 0
        for batch in file.iter_batches(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield (
                    f"row {number}",
                    {key: _plain(value) for key, value in row.items() if not _missing(value)},
                    "",
                )


def _parquet_file(log: LogFile) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(log.path)


def _missing(value: Any) -> bool:
    """Whether a cell is empty: null, or NaN as pandas writes it."""
    return value is None or value != value


def _plain(value: Any) -> Any:
    """Return a value of Parquet as JSON has it, without the nulls that its fixed columns put in."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix
