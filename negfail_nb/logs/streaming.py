"""`load_trajectories` for more logs than memory holds: the same, piece by piece, into files."""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from negfail_nb import runs
from negfail_nb.content import counted, file_hash, fingerprint
from negfail_nb.logs.contents import NO_RECORDS, Contents, find_stretches
from negfail_nb.logs.files import Found
from negfail_nb.logs.questions import Frame, find_frame, guess_note
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.stretches import Stretch
from negfail_nb.settings import CollectSettings
from negfail_nb.source import source_hash
from negfail_nb.stored import (
    RECORD,
    TRAJECTORIES,
    Parts,
    Stored,
    announce,
    hash_bytes,
    json_codec,
    make_trajectory,
)
from negfail_nb.trajectory import Problem, Trajectory, read_records, unique_ids, write_lines

PIECE = 2**24  # bytes of logs that are read together
SAMPLE = 2**18  # bytes of a log that time and room are estimated from
SECONDS = 3e-7  # per byte of what cannot be sampled
GROWTH = 1.3  # a trajectory as it is kept, to its record in a log
SETTINGS = ("format", "questions", "task", "score", "strict", "max_record_mb")
COPY = re.compile(r"~\d+\Z")

# A trajectory, and whether its question is a guess.
_RAW = json_codec(
    lambda values: values,
    lambda pair: pair[0],
    id=lambda pair: pair[0].id,
    question_id=lambda pair: pair[0].question_id,
    question=lambda pair: pair[0].question,
    guessed=lambda pair: "yes" if pair[1] else "",
)

logger = logging.getLogger("negfail_nb")

Told = tuple[Stored, tuple[Problem, ...], tuple[str, ...]]


class Piece(NamedTuple):
    """A file, by its number, or a stretch of it in a known format."""

    file: int
    size: int
    stretch: Stretch | None = None
    format: str = ""


def load_stored(
    files: Sequence[tuple[str, Found]],
    settings: CollectSettings,
    columns: Mapping[str, str],
    folder: str | Path | runs.Place,
) -> Told:
    """Read log files (name and place) into a folder; return trajectories, problems and notes."""
    known = {name: value for name, value in counted(settings).items() if name in SETTINGS}
    wanted = {"collect": known, "columns": dict(columns)}
    inputs = {"logs": _Content(files)}

    def compute(run: runs.Run) -> dict[str, Any]:
        return _Import(files, settings, columns, run.folder).run()

    run = runs.make(folder, wanted, compute, inputs, source_hash("logs.loading"))
    (head,) = read_records(run.path("logs.json"), dict)
    problems = tuple(Problem(*told) for told in head["problems"])
    return Stored(run.path("trajectories"), TRAJECTORIES), problems, tuple(head["notes"])


class _Content:
    """Log files, as an input with a hash over names and contents."""

    def __init__(self, files: Sequence[tuple[str, Found]]) -> None:
        self.content = fingerprint([[name, f.problem, _hash_of(f)] for name, f in files])


class _Import:
    """An import into a folder, piece by piece; what is whole there is not read again."""

    def __init__(
        self,
        files: Sequence[tuple[str, Found]],
        settings: CollectSettings,
        columns: Mapping[str, str],
        folder: Path,
    ) -> None:
        self.files = files
        self.settings = settings
        self.columns = columns
        self.folder = folder
        self.parts = Parts(folder / "trajectories", _RAW)

    def run(self) -> dict[str, Any]:
        """Write all files; return what is worth seeing in the manifest."""
        notes = list(self._read())
        told = [one for note in notes for one in note["pieces"]]
        by_file: list[list[Any]] = [[] for _ in self.files]
        for one in told:
            by_file[one[0]].append(one)
        counts = [sum(one[1] for one in found) for found in by_file]
        guesses = [sum(one[2] for one in found) for found in by_file]
        problems = []
        for number, found in enumerate(by_file):
            listed = [problem for one in found for problem in one[3]]
            if not counts[number] and not listed:
                self._log(number).report("", NO_RECORDS)
                listed = [[self._log(number).name, "", NO_RECORDS]]
            problems += listed
        said = self._settle(np.cumsum([0, *counts]), guesses)
        write_lines(self.folder / "logs.json", [{"problems": problems, "notes": said}])
        return {"trajectories": sum(counts), "problems": len(problems)}

    def _log(self, number: int) -> LogFile:
        name, found = self.files[number]
        return LogFile(found.path, name, self.settings, self.columns)

    @cached_property
    def _units(self) -> list[list[Piece]]:
        """Pieces that are read together; small files share a unit."""
        units: list[list[Piece]] = [[]]
        room = PIECE
        for number, (_, found) in enumerate(self.files):
            for piece in self._pieces(number, found):
                if units[-1] and piece.size > room:
                    units.append([])
                    room = PIECE
                units[-1].append(piece)
                room -= piece.size
        return units

    def _pieces(self, number: int, found: Found) -> Iterator[Piece]:
        size = _bytes(found)
        log = self._log(number)
        stretches = find_stretches(log, PIECE) if size > PIECE else []
        if not stretches:
            yield Piece(number, size)
        for stretch in stretches:
            yield Piece(number, stretch.end - stretch.start, stretch, log.format)

    def _read(self) -> Iterator[dict[str, Any]]:
        waiting = [u for n, u in enumerate(self._units) if self.parts.note(f"{n:05}") is None]
        if waiting:
            self._announce(sum(piece.size for unit in waiting for piece in unit))
        total = sum(piece.size for unit in self._units for piece in unit)
        with tqdm(total=total, desc="import", unit="B", unit_scale=True, leave=False) as progress:
            for number, unit in enumerate(self._units):
                note = self.parts.note(f"{number:05}")
                if note is None:
                    told: list[list[Any]] = []
                    records = self._records(unit, told)
                    note = self.parts.write(f"{number:05}", records, lambda t=told: {"pieces": t})
                yield note
                progress.update(sum(piece.size for piece in unit))

    def _records(
        self, unit: list[Piece], told: list[list[Any]]
    ) -> Iterator[tuple[Trajectory, bool]]:
        """Yield the trajectories of some pieces; tell of each its file, counts and problems."""
        for piece in unit:
            log = self._log(piece.file)
            if piece.stretch:
                log.format = piece.format
                log = log.stretch(piece.stretch)
            contents = Contents(log, self.files[piece.file][1].problem)
            count = guesses = 0
            for trajectory in contents:
                guess = trajectory.source.record in contents.guessed
                count += 1
                guesses += guess
                yield trajectory, guess
            problems = [[p.file, p.record, p.reason] for p in log.problems]
            told.append([piece.file, count, guesses, problems])

    def _announce(self, size: int) -> None:
        """Say how long it will take, and whether it fits, before it begins."""
        rate, growth = SECONDS, GROWTH
        largest = max(range(len(self.files)), key=lambda n: _bytes(self.files[n][1]))
        log = self._log(largest)
        if stretches := find_stretches(log, SAMPLE):
            began = time.perf_counter()
            rows = [_RAW.values((t, False)) for t in Contents(log.stretch(stretches[0]))]
            rate = (time.perf_counter() - began) / stretches[0].end
            growth = sum(len(value) for row in rows for value in row) / stretches[0].end
        announce(f"reading {size / 1e9:,.2f} GB of logs", rate * size, growth * size, self.folder)

    def _settle(self, starts: np.ndarray, guesses: list[int]) -> list[str]:
        """Settle guessed questions and repeated ids, file by file; return what to say of them."""
        records = self.parts.stored()
        frames = {
            number: _frame(records.take(np.arange(starts[number], starts[number + 1])))
            for number, count in enumerate(guesses)
            if count
        }
        renamed = self._renamed(records)
        counts: dict[int, Counter[str]] = {number: Counter() for number in frames}
        row = 0
        for place, size in enumerate(records.sizes):
            rows = range(row, row + size)
            first, last = np.searchsorted(starts, [row, row + size - 1], side="right") - 1
            row += size
            if frames.keys() & set(range(first, last + 1)) or renamed.keys() & set(rows):
                numbers = np.searchsorted(starts, np.array(rows), side="right") - 1
                part = records.take(np.array(rows))
                made = _mended(part, zip(rows, numbers.tolist(), strict=True), frames, renamed)
                self.parts.rewrite(records.files[place], _counted(made, numbers.tolist(), counts))
        names = (self._log(number).name for number in frames)
        return [
            f"{name}: {guess_note(counts[n], int(starts[n + 1] - starts[n]))}"
            for n, name in zip(frames, names, strict=True)
        ]

    def _renamed(self, records: Stored) -> dict[int, str]:
        """Return the new ids of those that were there already, by row; found only once."""
        path = self.folder / "renamed.json"
        if not path.is_file():
            found = _repeated(records)
            write_lines(path, ({"row": row, "id": name} for row, name in found.items()))
        return {told["row"]: told["id"] for told in read_records(path, dict)}


def _bytes(found: Found) -> int:
    return 0 if found.problem else found.path.stat().st_size


def _hash_of(found: Found) -> str:
    try:
        return "" if found.problem else file_hash(found.path)
    except OSError as error:
        return str(error)


def _frame(records: Stored) -> Frame:
    """Return what the chats of a file, of those whose question is a guess, put around it."""

    def chats() -> Iterator[Sequence[Any]]:
        for batch in records.batches("guessed", RECORD):
            for guess, record in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                if guess:
                    yield json.loads(record)["messages"]

    return find_frame(chats)


def _mended(
    part: Stored,
    places: Iterable[tuple[int, int]],
    frames: Mapping[int, Frame],
    renamed: Mapping[int, str],
) -> Iterator[tuple[Trajectory, bool]]:
    """Yield trajectories with settled questions and ids, given row and file of each.

    One that was settled before stays as it is, so a stop in between does no harm.
    """
    guesses = (bool(guess) for guess in part.column("guessed"))
    for (row, number), guess, values in zip(places, guesses, part, strict=True):
        trajectory = make_trajectory(values)
        if guess:
            trajectory = frames[number].settle(trajectory)
        if row in renamed:
            trajectory = trajectory.replace(id=renamed[row])
        yield trajectory, guess


def _counted(
    pairs: Iterable[tuple[Trajectory, bool]],
    numbers: Sequence[int],
    counts: Mapping[int, Counter[str]],
) -> Iterator[tuple[Trajectory, bool]]:
    for number, (trajectory, guess) in zip(numbers, pairs, strict=True):
        if guess:
            counts[number][trajectory.question_id] += 1
        yield trajectory, guess


def _repeated(records: Stored) -> dict[int, str]:
    """Return the new ids of trajectories whose ids were there before, by row.

    An id can only be given twice if it stands there twice, or looks like what a second one gets.
    """
    hashes = map(hash_bytes, records.column("id"))
    every = np.fromiter(hashes, dtype=np.uint64, count=len(records))
    _, inverse, times = np.unique(every, return_inverse=True, return_counts=True)
    often = times[inverse] > 1
    texts = (name.decode("utf-8", "surrogatepass") for name in records.column("id"))
    near = [(row, name) for row, name in enumerate(texts) if often[row] or COPY.search(name)]
    unique = unique_ids(name for _, name in near)
    return {row: new for (row, old), new in zip(near, unique, strict=True) if new != old}
