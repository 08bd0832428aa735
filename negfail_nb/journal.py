"""The file that live runs write: one synced line per record, and beside it what made them."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from negfail_nb.content import differences, write_json
from negfail_nb.locks import alone
from negfail_nb.runs import SettingsChanged, make_plan
from negfail_nb.source import source_hash
from negfail_nb.trajectory import line_of, read_trajectories

SETTINGS = ".settings.json"  # appended to the file's name: what its records were made with
SOURCES = "sources"  # in it: hashes of the source that made the records

logger = logging.getLogger("negfail_nb")


class Journal:
    """A file of records (episodes, answers ..) that may break off at any moment, and be resumed.

    A thread writes the lines, with one ``fsync`` for all that wait, so that a slow disk blocks no
    record; leaving the journal waits for the last of them. One process at a time writes: another
    that opens the same file waits until the first one leaves it, and then finds its records.

    Parameters
    ----------
    path
        The file; it and its folder are made if they are missing.
    plan
        Settings that the records depend on.
    read
        Yields the records of a file; they have an ``id`` and a ``to_dict()``.
    stage, things
        Name of the stage, and what its records are called, in errors.
    source
        The module that makes them, as `negfail_nb.source.source_hash` takes it. A warning says if
        the file has records of another source; they are kept.

    Raises
    ------
    SettingsChanged
        If the file has records that were made with something else; the text names each field.
    UnreadableLog
        If a line of the file, other than an unfinished last one, is no record.
    OSError
        If the folder cannot be written to.
    """

    def __init__(
        self,
        path: str | Path,
        plan: Mapping[str, Any],
        read: Callable[[Path], Iterable[Any]] = read_trajectories,
        stage: str = "collect",
        things: str = "episodes",
        source: str = "agents.live",
    ) -> None:
        self.path = Path(path)
        self.things = things
        with alone(self.path, self.path.name):
            _cut_unfinished(self.path)
            # If a record was made again, its last line counts.
            found = read(self.path) if self.path.exists() else ()
            self.records = {record.id: record for record in found}
            self._agree(make_plan(stage, plan)["settings"], source_hash(source))
            self._read = self._size()
        self._waiting: deque[Any] = deque()
        self._failed: Exception | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(alone(self.path, self.path.name))
            if self._size() != self._read:
                raise RuntimeError(
                    f"{self.path} was written by another process since it was read; call again"
                )
            # Unbuffered: what a full disk did not take must not be written again on closing.
            self._stream = stack.enter_context(self.path.open("ab", buffering=0))
            self._held = stack.pop_all()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._writer.shutdown()
        with self._held:
            self._read = self._size()
        if self._failed and kind is None:
            raise self._failed

    def add(self, record: Any) -> None:
        """Write a record soon; raises `OSError` if an earlier one could not be written."""
        if self._failed:
            raise self._failed
        self.records[record.id] = record
        self._waiting.append(record)
        self._writer.submit(self._write)

    def _write(self) -> None:
        """Write all that waits; later calls then find nothing to do."""
        records = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not records or self._failed:
            return
        try:
            self._append("".join(line_of(record.to_dict()) for record in records).encode())
        except OSError as error:  # raised by the next `add`, or on leaving
            self._failed = _named(error, self.path, f"{len(self.records)} {self.things}")
        except Exception as error:  # noqa: BLE001 - as above
            self._failed = error

    def _append(self, data: bytes) -> None:
        """Write all of it; if a full disk takes only a part, its whole lines stay."""
        try:
            while data:
                data = data[self._stream.write(data) :]
            os.fsync(self._stream.fileno())
        except OSError:
            with suppress(OSError):
                _cut_unfinished(self.path)
            raise

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _agree(self, plan: dict[str, Any], source: str) -> None:
        beside = self.path.with_name(self.path.name + SETTINGS)
        try:
            old = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            old = None
        sources = old.pop(SOURCES, []) if isinstance(old, dict) else []
        if self.records and old is None:
            raise SettingsChanged(
                f"{self.path} has {len(self.records)} {self.things}, but {beside.name} beside it "
                "is missing or damaged, so nobody knows how they were made. Give another file."
            )
        changes = differences(old, plan) if self.records else []
        if changes:
            raise SettingsChanged(
                f"{self.path} was begun with other settings: {'; '.join(changes)}. Use the old "
                "ones, or another file."
            )
        before = sources if self.records else []
        if before and source not in before:
            message = "%s: its %d %s were made by another source of this package; they are kept"
            logger.warning(message, self.path, len(self.records), self.things)
        if old != plan or source not in sources:
            try:
                write_json(beside, {**plan, SOURCES: sorted({*before, source})})
            except OSError as error:
                raise _named(error, beside, "the settings") from error


def _named(error: OSError, path: Path, what: str) -> OSError:
    """Return an error of the disk with the file's name, and what to do."""
    advice = "Make room, and call again: what is there is kept"
    reason = f"{error.strerror or error}: {what} cannot be written. {advice}"
    return OSError(error.errno, reason, str(path))


def _cut_unfinished(path: Path) -> None:
    """Cut off an unfinished last line: its writer was killed, and its record is made again."""
    if not path.exists():
        return
    with path.open("rb+") as stream:
        size = end = stream.seek(0, os.SEEK_END)
        block = b""
        while end > 0 and b"\n" not in block:
            end, start = max(end - (1 << 16), 0), end
            stream.seek(end)
            block = stream.read(start - end)
        whole = end + block.rfind(b"\n") + 1
        if whole < size:
            logger.warning(
                "%s: the last line breaks off; its %d bytes are cut off", path, size - whole
            )
            stream.truncate(whole)
            os.fsync(stream.fileno())
