"""Logs that are tables: each row of a CSV, TSV or Parquet file is a record."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from negfail_nb.logs.jsontext import Line, Record, parse, too_large
from negfail_nb.trajectory import find_endless, replace_surrogates

PARQUET = b"PAR1"
DELIMITERS = {".tsv": "\t", ".csv": ",;\t|"}  # by the end of a file's name
BATCH = 64  # rows of a Parquet file in memory at once


class Table:
    """A table in a file.

    Parameters
    ----------
    path, head
        The file and its first bytes.
    lines
        Opens the file and yields its lines.
    limit
        Largest record in bytes.
    columns
        Which field is in which column; other fields have the names of their columns.
    """

    def __init__(
        self,
        path: Path,
        head: bytes,
        lines: Callable[[], Iterator[Line]],
        limit: int,
        columns: Mapping[str, str],
    ) -> None:
        self._path = path
        self._head = head
        self._lines = lines
        self._limit = limit
        self._names = {column: field for field, column in columns.items()}
        self._is_parquet = head.startswith(PARQUET)

    def header(self) -> list[str]:
        """Return the names of the columns, as they are in the file."""
        if self._is_parquet:
            return _open_parquet(self._path).schema_arrow.names
        return next(self._rows(), (0, [], ""))[1]

    def records(self) -> Iterator[Record]:
        """Yield a record per row. A cell with a JSON list or object is parsed; an empty cell is no
        field.

        Raises
        ------
        ValueError
            If two columns have the same name, or a column that is asked for is missing.
        """
        given = self.header()
        twice = next((name for name in given if given.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two columns are called {twice!r}; rename one")
        missing = next((column for column in self._names if column not in given), None)
        if missing is not None:
            raise ValueError(f"there is no column {missing!r}; the table has {', '.join(given)}")
        for where, row, problem in self._parquet() if self._is_parquet else self._delimited():
            if problem:
                yield Record(where, None, problem)
            else:
                named = {self._names.get(key, key): value for key, value in row.items()}
                yield self._record(where, named)

    def _record(self, where: str, row: dict[str, Any]) -> Record:
        size = sum(len(value) for value in row.values() if isinstance(value, str))
        if size > self._limit:
            return Record(where, None, too_large(size, self._limit))
        found = {}
        for name, value in row.items():
            if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
                cell = parse(value, name)
                if cell.problem and value.lstrip().startswith(("[{", "{'", '{"')):
                    hint = _HINT if "'" in value[:3] else ""
                    return Record(where, None, f"the column {name!r} is {cell.problem}{hint}")
                value = cell.value if isinstance(cell.value, list | dict) else value
            if value not in ("", None):
                found[name] = value
        if name := find_endless(found):
            return Record(where, None, f"the column {name!r} is infinite or no number")
        return Record(where, replace_surrogates(found))

    def _delimited(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        rows = self._rows()
        _, names, problem = next(rows)
        if problem:
            yield "line 1", {}, problem
            return
        for number, cells, problem in rows:
            if not problem and len(cells) != len(names):
                problem = f"the row has {len(cells)} cells, the header {len(names)}"
            yield f"row {number}", dict(zip(names, cells, strict=False)), problem

    def _rows(self) -> Iterator[tuple[int, list[str], str]]:
        """Yield number, cells and problem of each row; the header is row 0."""
        # The module's limit of 131,072 characters is too small for runs, and global.
        csv.field_size_limit(max(csv.field_size_limit(), self._limit))
        wrong: list[str] = []

        def texts() -> Iterator[str]:
            for line in self._lines():
                wrong.extend([line.problem] if line.problem else [])
                yield line.text + "\n"

        reader = csv.reader(texts(), delimiter=self._delimiter(), strict=True)
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

    def _delimiter(self) -> str:
        head = self._head.decode("utf-8", "replace").partition("\n")[0]
        ending = Path(self._path.name.lower().removesuffix(".gz")).suffix
        return max(DELIMITERS[ending], key=head.count)

    def _parquet(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        number = 0
        with _open_parquet(self._path) as file:
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    # An empty cell is null, or NaN as pandas writes it.
                    filled = {k: v for k, v in row.items() if v is not None and v == v}
                    yield f"row {number}", {k: _plain(v) for k, v in filled.items()}, ""


# pandas writes lists of dictionaries as Python shows them.
_HINT = "; it looks like Python, write the column with json.dumps"


def _open_parquet(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path)


def _plain(value: Any) -> Any:
    """Return a value of Parquet as JSON has it, without the nulls that its fixed columns add."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
