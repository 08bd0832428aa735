"""Records in Arrow files of one folder, read when they are asked for: more than memory holds.

Records are written in units (a piece of a log, some questions). A unit is one or more files, and a
mark that comes last: what has no mark was cut short, and is written again. Files are opened for a
moment only, a few at a time, so that what was read does not stay in memory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from negfail_nb.trajectory import Source, Trajectory, Usage, jsonable, write_lines

if TYPE_CHECKING:
    import pyarrow as pa

ENDING = ".arrow"
MARK = ".json"
RECORD = "record"  # the column of the record itself, as JSON
ROWS, BYTES = 8_192, 2**24  # of a file, at most; the last record may go beyond the bytes
AT_ONCE = 256  # records that are made together
OPEN = 3  # files
WORTH_SAYING = 60.0  # seconds

logger = logging.getLogger("negfail_nb")


class Codec(NamedTuple):
    """How records of one kind are kept: the columns, a record's values, and the way back."""

    schema: Callable[[], pa.Schema]
    values: Callable[[Any], tuple]
    records: Callable[[pa.RecordBatch], Iterable[Any]]


class Stored(Sequence):
    """Records of a folder; behaves like a tuple of them, and a slice of it is another one.

    Parameters
    ----------
    folder, codec
        Where they are, and how they are kept.
    rows
        Which of them, and in which order; ``None``: all, as they were written.
    """

    def __init__(self, folder: Path, codec: Codec, rows: np.ndarray | None = None) -> None:
        self.folder = Path(folder)
        self.codec = codec
        self.rows = rows
        self._files = sorted(self.folder.glob(f"*{ENDING}"))
        counts = [_open(path).num_rows for path in self._files]
        self._starts = np.cumsum([0, *counts])
        self._opened: dict[int, pa.RecordBatch] = {}

    def __len__(self) -> int:
        return int(self._starts[-1]) if self.rows is None else len(self.rows)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = range(len(self))[index]  # raises IndexError, counts from the end
        row = place if self.rows is None else int(self.rows[place])
        return next(iter(self.codec.records(self._gather(np.array([row])))))

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches():
            yield from self.codec.records(batch)

    def __repr__(self) -> str:
        return f"Stored({len(self)} records in {self.folder})"

    def take(self, places: np.ndarray | Sequence[int]) -> Stored:
        """Return the records at some places, or where a mask holds, in that order."""
        places = np.asarray(places)
        if places.dtype == bool:
            places = np.flatnonzero(places)
        places = places.astype(np.int64)
        rows = places if self.rows is None else self.rows[places]
        return Stored(self.folder, self.codec, rows)

    def seen_as(self, codec: Codec) -> Stored:
        """Return the same rows as records of another kind."""
        return Stored(self.folder, codec, self.rows)

    def batches(self, *columns: str, size: int = AT_ONCE) -> Iterator[pa.RecordBatch]:
        """Yield the columns (none named: all) of some records at once, in order."""
        if self.rows is None:
            for number in range(len(self._files)):
                batch = self._part(number)
                batch = batch.select(columns) if columns else batch
                for start in range(0, len(batch), size):
                    yield batch.slice(start, size)
            return
        for start in range(0, len(self.rows), size):
            yield self._gather(self.rows[start : start + size], columns)

    def column(self, name: str) -> Iterator[Any]:
        """Yield the values of a column."""
        for batch in self.batches(name, size=ROWS):
            yield from batch.column(0).to_pylist()

    @property
    def sizes(self) -> list[int]:
        """Records of each file."""
        return np.diff(self._starts).tolist()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, each a stream that `datasets.Dataset.from_file` opens."""
        return tuple(self._files)

    @property
    def content(self) -> str:
        """SHA-256 of the records, as JSON lines."""
        digest = hashlib.sha256()
        for record in self.column(RECORD):
            digest.update(record + b"\n")
        return digest.hexdigest()

    def _gather(self, rows: np.ndarray, columns: Sequence[str] = ()) -> pa.RecordBatch:
        """Return some rows as one batch, in their order."""
        import pyarrow as pa

        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        edges = np.flatnonzero(np.diff(numbers[order])) + 1
        parts = []
        for places in np.split(order, edges):
            number = int(numbers[places[0]])
            batch = self._part(number)
            batch = batch.select(columns) if columns else batch
            inside = rows[places] - self._starts[number]
            first, last = int(inside[0]), int(inside[-1])
            if last - first == len(inside) - 1 and np.all(np.diff(inside) == 1):
                parts.append(batch.slice(first, len(inside)))
            else:
                parts.append(batch.take(pa.array(inside)))
        if len(parts) == 1 and np.all(order[:-1] < order[1:]):
            return parts[0]
        joined = pa.concat_batches(parts)
        return joined.take(pa.array(np.argsort(order, kind="stable")))

    def _part(self, number: int) -> pa.RecordBatch:
        if number not in self._opened:
            while len(self._opened) >= OPEN:
                del self._opened[next(iter(self._opened))]
            self._opened[number] = _open(self._files[number])
        return self._opened[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}


def take(records: Sequence[Any], places: Sequence[int] | np.ndarray) -> Sequence[Any]:
    """Return the records at some places: of stored ones stored ones, else a tuple."""
    if hasattr(records, "take"):
        return records.take(places)
    return tuple(records[place] for place in places)


class Parts:
    """A folder that records are written into, unit by unit.

    Parameters
    ----------
    folder, codec
        Where they go, and how they are kept. The folder is made.
    """

    def __init__(self, folder: Path, codec: Codec) -> None:
        self.folder = Path(folder)
        self.codec = codec
        self.folder.mkdir(parents=True, exist_ok=True)

    def note(self, unit: str) -> dict[str, Any] | None:
        """Return what `write` noted of a unit, or ``None`` for one that is not whole."""
        path = self.folder / (unit + MARK)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write(
        self, unit: str, records: Iterable[Any], note: Callable[[], Mapping[str, Any]] = dict
    ) -> dict[str, Any]:
        """Write a unit; units are read in the order of their names.

        ``note`` is called when all records are written; what it returns, with their number as
        ``"records"``, is kept in the unit's mark.
        """
        for left in self.folder.glob(f"{unit}-*"):
            left.unlink()
        rows: list[tuple] = []
        size = total = number = 0
        for record in records:
            rows.append(self.codec.values(record))
            size += sum(map(_size, rows[-1]))
            if len(rows) == ROWS or size >= BYTES:
                self._flush(unit, number, rows)
                total, number, size, rows = total + len(rows), number + 1, 0, []
        if rows:
            self._flush(unit, number, rows)
        noted = {**note(), "records": total + len(rows)}
        write_lines(self.folder / (unit + MARK), [noted])
        return noted

    def rewrite(self, path: Path, records: Iterable[Any]) -> None:
        """Put other records in the place of those of one file, whole."""
        self._save(path, list(map(self.codec.values, records)))

    def stored(self) -> Stored:
        """Return all records."""
        return Stored(self.folder, self.codec)

    def _flush(self, unit: str, number: int, rows: list[tuple]) -> None:
        self._save(self.folder / f"{unit}-{number:05}{ENDING}", rows)

    def _save(self, path: Path, rows: list[tuple]) -> None:
        import pyarrow as pa

        schema = self.codec.schema()
        columns = zip(*rows, strict=True)
        arrays = [pa.array(c, type=kind) for c, kind in zip(columns, schema.types, strict=True)]
        save_batch(path, pa.record_batch(arrays, schema=schema))


def save_batch(path: Path, batch: pa.RecordBatch) -> None:
    """Write a batch as an Arrow stream; the file appears whole or not at all."""
    import pyarrow as pa

    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            with pa.ipc.new_stream(stream, batch.schema) as writer:
                writer.write_batch(batch)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def open_batch(path: Path) -> pa.RecordBatch:
    """Return what `save_batch` wrote, memory-mapped."""
    return _open(path)


def json_codec(
    make: Callable[[Any], Any], plain: Callable[[Any], Any], **columns: Callable[[Any], str]
) -> Codec:
    """Return how records are kept as JSON, beside columns of texts that are read alone.

    Parameters
    ----------
    make, plain
        From JSON values to a record, and back; what ``plain`` leaves is turned by `jsonable`.
    columns
        A function for each column; lone surrogates are kept.
    """

    def schema() -> pa.Schema:
        import pyarrow as pa

        return pa.schema([(name, pa.binary()) for name in (*columns, RECORD)])

    def values(record: Any) -> tuple:
        texts = (get(record).encode("utf-8", "surrogatepass") for get in columns.values())
        return *texts, json.dumps(plain(record), default=jsonable).encode()

    def records(batch: pa.RecordBatch) -> Iterable[Any]:
        for value in batch.column(batch.schema.get_field_index(RECORD)).to_pylist():
            yield make(json.loads(value))

    return Codec(schema, values, records)


def json_lines(records: Iterable[Any]) -> Iterator[bytes]:
    """Yield records as JSON, without line ends."""
    if isinstance(records, Stored) and records.codec.records is TRAJECTORIES.records:
        return records.column(RECORD)
    return (json.dumps(record, default=jsonable).encode() for record in records)


def hash_bytes(value: bytes) -> int:
    """Return a hash below 2**64, the same in every process."""
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little")


def make_trajectory(values: dict[str, Any]) -> Trajectory:
    """Return a trajectory from the JSON values of one that was checked before."""
    for name in ("messages", "gold_titles", "tools"):
        values[name] = tuple(values[name])
    values["source"] = Source(**values["source"])
    values["usage"] = Usage(**values["usage"])
    return Trajectory(**values)


TRAJECTORIES = json_codec(
    make_trajectory,
    jsonable,
    id=lambda t: t.id,
    question_id=lambda t: t.question_id,
    question=lambda t: t.question,
)


def as_stored(trajectories: Iterable[Trajectory], folder: Path) -> Stored:
    """Write trajectories into a folder, unless they are there, and return them as stored ones."""
    parts = Parts(folder, TRAJECTORIES)
    if parts.note("all") is None:
        parts.write("all", trajectories)
    return parts.stored()


def announce(what: str, seconds: float, needed: float, folder: Path) -> None:
    """Say how long something will take and how much room, before it begins.

    Raises
    ------
    OSError
        If the disk has not so many bytes free; nothing is written then.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        text = (
            f"{what} needs about {needed / 1e9:,.2f} GB there, and {free / 1e9:,.2f} GB are free; "
            "make room, or give a folder on another disk"
        )
        raise OSError(errno.ENOSPC, text, str(folder))
    if seconds >= WORTH_SAYING:
        taken = f"about {seconds / 60:,.0f} minutes and {needed / 1e9:,.1f} GB in {folder}"
        logger.warning("%s takes %s; interrupted, it goes on when called again", what, taken)


def _open(path: Path) -> pa.RecordBatch:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return reader.read_next_batch()


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) if isinstance(value, bytes | str) else 8
