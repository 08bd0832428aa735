"""Records of a file, one after the other: JSON lines, one JSON text, or parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from negfail_nb.logs.reading import LogFile
from negfail_nb.settings import CollectSettings
from negfail_nb.trajectory import Problem

_LARGEST_MB = 64.0  # of one JSON record
_BATCH = 1024  # rows of a parquet file


def open_records(path: Path) -> tuple[Iterator[tuple[str, Any]], list[Problem]]:
    """Open a file of records.

    Parameters
    ----------
    path
        The file, JSON in UTF-8 whatever its name, or parquet by its name.

    Returns
    -------
    tuple
        An iterator over where a record stands and its value, and a list that grows, while that is
        taken, by what is no JSON.

    Raises
    ------
    ValueError
        Where the file is not there; while it is taken, where a parquet file is damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.suffix == ".parquet":
        return _parquet_rows(path), []
    log = LogFile(path, settings=CollectSettings(max_record_mb=_LARGEST_MB))
    if log.is_object and _is_record(whole := log.joined()):
        return ((f"record {where}", value) for where, value in whole.records()), whole.problems
    return log.records(), log.problems


def _is_record(log: LogFile) -> bool:
    """Whether a JSON object is one record; else it holds lists of them."""
    return any(
        isinstance(value, Mapping) and {"question", "title"} & value.keys()
        for _, value in log.records()
    )


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (OSError, ValueError) as error:  # the library's own errors are one of these too
        raise ValueError(f"{path}: cannot be read after row {number}: {error}") from error
