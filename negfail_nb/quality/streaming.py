"""`assess` for more runs than memory holds: the same, some questions at a time, in files.

Runs of one question, and whatever is compared with them, go through the filters together; so the
runs are divided into shards, by hashes of question and id that only say which runs must not be
parted. What compares different questions (a cap per model, the overlap with solved questions, a
filter of one's own) is done last, over all that is left.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from negfail_nb import runs
from negfail_nb.quality.case_files import (
    CASES,
    EARLY_REMOVALS,
    FINDINGS,
    OUTCOMES,
    REMOVALS,
    Row,
    StoredCases,
    column_of,
    texts_of,
    values_of,
)
from negfail_nb.quality.cases import asked_text, make_cases
from negfail_nb.quality.failures import KINDS
from negfail_nb.quality.filters import FILTERS, Context, apply_filters
from negfail_nb.quality.report import Kept, Removal, Report, Stage
from negfail_nb.quality.split import Counts, Questions, all_removed, count, make_notes, make_stage
from negfail_nb.settings import QualitySettings
from negfail_nb.source import source_hash
from negfail_nb.stored import (
    RECORD,
    ROWS,
    Parts,
    Stored,
    announce,
    as_stored,
    hash_bytes,
    json_lines,
    open_batch,
    save_batch,
)
from negfail_nb.trajectory import Trajectory, jsonable, read_records, write_lines

if TYPE_CHECKING:
    import pyarrow as pa

SHARD = 2**24  # bytes of trajectories, as JSON, that are examined together; a question stays whole
SAMPLE = 200  # trajectories that the time is estimated from
LEFT = -1  # instead of the number of the filter that removed a case

logger = logging.getLogger("negfail_nb")


def assess_stored(
    trajectories: Iterable[Trajectory], settings: QualitySettings, folder: str | Path | runs.Place
) -> Report:
    """Do what `assess` does, in a folder."""
    records = getattr(trajectories, "trajectories", trajectories)
    given = records if hasattr(records, "content") else tuple(_checked(records))
    inputs = {"trajectories": given if hasattr(given, "content") else _Content(given)}
    known = {"filters": [step.name for step in FILTERS], "kinds": [kind.name for kind in KINDS]}

    def stored(run: runs.Run) -> Stored:
        return given if isinstance(given, Stored) else as_stored(given, run.path("input"))

    def compute(run: runs.Run) -> dict[str, Any]:
        return _Assessment(stored(run), settings, run.folder).run()

    parts = {"quality": settings, **known}
    run = runs.make(folder, parts, compute, inputs, source_hash("quality.streaming"))
    return _open_report(run.folder, stored(run), settings)


class _Content:
    """Trajectories in memory, as an input with a hash."""

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        digest = sha256()
        for line in json_lines(trajectories):
            digest.update(line + b"\n")
        self.content = digest.hexdigest()


def _checked(records: Iterable[Any]) -> Iterator[Trajectory]:
    if isinstance(records, str):
        raise TypeError(
            f"assess takes trajectories, not text ({records!r}); use load_trajectories first"
        )
    for record in records:
        if not isinstance(record, Trajectory):
            raise TypeError(
                f"assess takes Trajectory records, not {type(record).__name__}; see "
                "load_trajectories"
            )
        yield record


class _Assessment:
    """Quality control in a folder, shard by shard; what is whole there is not done again."""

    def __init__(self, records: Stored, settings: QualitySettings, folder: Path) -> None:
        self.records = records
        self.settings = settings
        self.folder = folder
        # Filters from the first on that compares questions are applied to all at once.
        across = (i for i, f in enumerate(FILTERS) if f.across and f.active(settings))
        self.first = next(across, len(FILTERS))

    def run(self) -> dict[str, Any]:
        """Write all files; return what is worth seeing in the manifest."""
        if not len(self.records):
            raise ValueError(
                "there are no trajectories to assess; look at what load_trajectories could not read"
            )
        self._announce()
        shard = self._route()
        order = np.argsort(shard, kind="stable")
        counts = self._examine(order, np.bincount(shard))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        cases = Stored(self.folder / "shards", CASES, place)
        fate, late = self._apply_late(cases, counts)
        stages = [make_stage(step, self.settings, counts[i]) for i, step in enumerate(FILTERS)]
        if not np.any(fate == LEFT):
            raise ValueError(all_removed(stages))
        groups, heldout = self._split(order, fate)
        self._write(cases, fate, late, heldout)
        outcome = column_of(cases, "outcome")
        solved = bool(np.any(heldout & (fate == LEFT) & (outcome == 0)))
        left = {OUTCOMES[number] for number in np.unique(outcome[fate == LEFT])}
        outcomes = Counter(
            {OUTCOMES[n]: c for n, c in enumerate(np.bincount(outcome, minlength=3))}
        )
        notes = make_notes(outcomes, left, groups, solved, self.settings)
        head = {"stages": [jsonable(stage) for stage in stages], "notes": notes}
        write_lines(self.folder / "report.json", [head])
        return {"kept": int(np.sum(fate == LEFT)), "removed": int(np.sum(fate != LEFT))}

    def _route(self) -> np.ndarray:
        """Return the shard of each trajectory: those that may be compared are in one."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        path = self.folder / "routes.arrow"
        if path.is_file():
            return open_batch(path).column(0).to_numpy()
        _refuse_twice(self.records)
        texts, names, sizes = _hashes(self.records)
        known, text = np.unique(texts, return_inverse=True)
        _, first, name = np.unique(names, return_index=True, return_inverse=True)
        ones = np.ones(len(text), dtype=bool)
        edges = coo_array((ones, (text, text[first][name])), shape=(len(known), len(known)))
        question = connected_components(edges, directed=False)[1][text]
        _, begins, question = np.unique(question, return_index=True, return_inverse=True)
        size = np.bincount(question, weights=sizes)
        by_age = np.argsort(begins, kind="stable")  # questions stay near each other
        shard = np.empty(len(size), dtype=np.int64)
        shard[by_age] = (np.cumsum(size[by_age]) - size[by_age]) // SHARD
        shard = np.unique(shard, return_inverse=True)[1][question].astype(np.int32)
        save_batch(path, _batch(shard=shard))
        return shard

    def _examine(self, order: np.ndarray, sizes: np.ndarray) -> list[Counts]:
        """Examine and filter every shard; return the counts of each filter, over all."""
        parts = Parts(self.folder / "shards", CASES)
        context = Context(self.settings, frozenset())
        ends = np.cumsum(sizes)
        sums = np.zeros((len(FILTERS), 4), dtype=np.int64)
        with tqdm(total=len(order), desc="quality", unit="trajectory", leave=False) as progress:
            for number, (size, end) in enumerate(zip(sizes, ends, strict=True)):
                unit = f"{number:05}"
                if (note := parts.note(unit)) is None:
                    found = self._shard(order[end - size : end], context)
                    note = parts.write(unit, found[0], lambda n=found[1]: {"counts": n})
                sums[: self.first] += np.array(note["counts"], dtype=np.int64).reshape(-1, 4)
                progress.update(int(size))
        return [tuple(row) for row in sums.tolist()]

    def _announce(self) -> None:
        """Say how long it will take, and whether it fits, before it begins."""
        if any((self.folder / "shards").glob("*.arrow")):
            return  # it was said
        every = len(self.records)
        rows = np.linspace(0, every - 1, min(SAMPLE, every), dtype=np.int64)
        began = time.perf_counter()
        values = [values_of((0, c, LEFT, "")) for c in make_cases(self.records.take(rows))]
        seconds = 1.5 * every * (time.perf_counter() - began) / len(values)
        texts = (len(v) for row in values for v in row if isinstance(v, bytes))
        size = 1.1 * every * sum(texts) / len(values)
        announce(f"quality control of {every:,} trajectories", seconds, size, self.folder)

    def _shard(self, rows: np.ndarray, context: Context) -> tuple[list[Row], list[Counts]]:
        every = make_cases(self.records.take(rows))
        row_of = {case.trajectory.id: int(row) for case, row in zip(every, rows, strict=True)}
        fates: dict[int, tuple[int, str]] = {}
        counts = []
        for number, (_, cases, reasons) in enumerate(
            apply_filters(every, context, FILTERS[: self.first])
        ):
            counts.append(count(cases, reasons))
            for i, reason in reasons.items():
                fates[row_of[cases[i].trajectory.id]] = number, reason
        found = zip(map(int, rows), every, strict=True)
        return [(row, case, *fates.get(row, (LEFT, ""))) for row, case in found], counts

    def _apply_late(
        self, cases: Stored, counts: list[Counts]
    ) -> tuple[np.ndarray, list[tuple[int, int, str]]]:
        """Apply the filters that compare questions, and those after them; add their counts.

        Returns the filter of each trajectory, and row, filter and reason of those that went now.
        """
        fate = column_of(cases, "fate").copy()
        late: list[tuple[int, int, str]] = []
        if self.first == len(FILTERS):
            return fate, late
        solved = cases.take(column_of(cases, "outcome") == 0).batches("key", size=ROWS)
        keys = frozenset(key for batch in solved for key in texts_of(batch.column(0)))
        context = Context(self.settings, keys)
        rows = np.flatnonzero(fate == LEFT)
        left = StoredCases(self.records.take(rows), cases.take(rows))
        steps = apply_filters(left, context, FILTERS[self.first :])
        for number, (_, before, reasons) in enumerate(steps, self.first):
            counts[number] = count(before, reasons)
            gone = np.array(sorted(reasons), dtype=np.int64)
            late += [
                (int(row), number, reasons[int(i)]) for row, i in zip(rows[gone], gone, strict=True)
            ]
            fate[rows[gone]] = number
            rows = np.delete(rows, gone)
        return fate, late

    def _split(self, order: np.ndarray, fate: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
        """Return the groups of questions, and for each trajectory whether its own is held out."""
        questions = Questions()
        for keys in self._shards(order, "finding", "text", "key"):
            rows, found, texts, own = keys
            left = [i for i, row in enumerate(rows) if fate[row] == LEFT]
            about = (json.loads(found[i])[:2] for i in left)
            questions.add(
                (id, texts[i], own[i], asked) for i, (id, asked) in zip(left, about, strict=True)
            )
        groups, drawn = questions.hold_out(self.settings)
        heldout = np.zeros(len(fate), dtype=bool)
        for rows, own in self._shards(order, "key"):
            heldout[rows] = [key in drawn for key in own]
        return groups, heldout

    def _shards(self, order: np.ndarray, *columns: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of each shard, and some columns of its cases, as texts."""
        parts = Parts(self.folder / "shards", CASES)
        stored = parts.stored()
        at = 0
        for number in range(len(list(parts.folder.glob("*.json")))):
            size = parts.note(f"{number:05}")["records"]
            batch = next(stored.take(np.arange(at, at + size)).batches(*columns, size=size))
            yield order[at : at + size], *map(texts_of, batch.columns)
            at += size

    def _write(
        self, cases: Stored, fate: np.ndarray, late: list[tuple[int, int, str]], heldout: np.ndarray
    ) -> None:
        """Write what is known of each trajectory, and what was removed, filter by filter."""
        early = column_of(cases, "fate")
        gone = np.flatnonzero(early != LEFT)
        gone = gone[np.argsort(early[gone], kind="stable")]
        ids = cases.take(np.array([row for row, _, _ in late], dtype=np.int64)).seen_as(FINDINGS)
        told = (
            Removal(finding.id, FILTERS[number].name, reason)
            for finding, (_, number, reason) in zip(ids, late, strict=True)
        )
        removed = cases.take(gone).seen_as(EARLY_REMOVALS)
        Parts(self.folder / "removed", REMOVALS).write("removed", _chain(removed, told))
        about = {"place": cases.rows, "kept": fate == LEFT, "heldout": heldout}
        about |= {"solved": column_of(cases, "outcome") == 0, "score": column_of(cases, "score")}
        save_batch(self.folder / "rows.arrow", _batch(**about))


def _open_report(folder: Path, records: Stored, settings: QualitySettings) -> Report:
    rows = open_batch(folder / "rows.arrow")
    about = {
        n: c.to_numpy(zero_copy_only=False) for n, c in zip(rows.schema.names, rows, strict=True)
    }
    kept = np.flatnonzero(about["kept"])
    (head,) = read_records(folder / "report.json", dict)
    return Report(
        settings=settings,
        kept=Kept(records, kept, *(about[n][kept] for n in ("heldout", "solved", "score"))),
        removed=Stored(folder / "removed", REMOVALS),
        findings=Stored(folder / "shards", FINDINGS, about["place"]),
        stages=tuple(Stage(**stage) for stage in head["stages"]),
        notes=tuple(head["notes"]),
    )


def _hashes(records: Stored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each record a hash of its question's text, one of its id, and its size."""
    import pyarrow.compute as pc

    texts, names, sizes = [], [], []
    for batch in records.batches("question", "question_id", RECORD, size=ROWS):
        known: dict[tuple[str, str], tuple[int, int]] = {}
        pairs = list(zip(*map(texts_of, batch.columns[:2]), strict=True))
        for pair in set(pairs):
            text = asked_text(*pair)
            told = (f"text {text}", pair[1] or f"text {text}")
            known[pair] = tuple(hash_bytes(t.encode("utf-8", "surrogatepass")) for t in told)
        found = np.array([known[pair] for pair in pairs], dtype=np.uint64)
        texts.append(found[:, 0])
        names.append(found[:, 1])
        sizes.append(pc.binary_length(batch.column(2)).to_numpy())
    return np.concatenate(texts), np.concatenate(names), np.concatenate(sizes)


def _refuse_twice(records: Stored) -> None:
    """Raise `ValueError` if two trajectories have one id."""
    every = np.fromiter(map(hash_bytes, records.column("id")), dtype=np.uint64, count=len(records))
    known, times = np.unique(every, return_counts=True)
    often = np.isin(every, known[times > 1])
    ids = (name for name, again in zip(records.column("id"), often, strict=True) if again)
    counts = Counter(ids).most_common(1)
    if counts and counts[0][1] > 1:
        name = counts[0][0].decode("utf-8", "surrogatepass")
        raise ValueError(
            f"{counts[0][1]} trajectories have the id {name!r}; load each log once, or give each "
            "its own id"
        )


def _chain(*parts: Iterable[Any]) -> Iterator[Any]:
    for part in parts:
        yield from part


def _batch(**columns: np.ndarray) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.record_batch({name: pa.array(column) for name, column in columns.items()})
