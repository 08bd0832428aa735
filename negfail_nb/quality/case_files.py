"""Cases of quality control in Arrow files: how they are kept, and read as findings or removals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from negfail_nb.quality.cases import Case
from negfail_nb.quality.failures import Finding
from negfail_nb.quality.filters import FILTERS
from negfail_nb.quality.report import Removal
from negfail_nb.stored import ROWS, Codec, Stored, json_codec
from negfail_nb.trajectory import jsonable

if TYPE_CHECKING:
    import pyarrow as pa

OUTCOMES = ("success", "failure", "unlabelled")

Row = tuple[int, Case, int, str]  # of a case: row of its trajectory, filter (or LEFT), reason


class StoredCases(Sequence):
    """Cases that are read from files as they are asked for."""

    def __init__(self, records: Stored, found: Stored) -> None:
        self.records = records
        self.found = found

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Case]:
        for trajectory, known in zip(self.records, self.found, strict=True):
            yield Case(trajectory, *known)

    def __getitem__(self, index: int) -> Case:
        return Case(self.records[index], *self.found[index])

    def take(self, places: Sequence[int] | np.ndarray) -> StoredCases:
        """Return the cases at some places."""
        return StoredCases(self.records.take(places), self.found.take(places))


def column_of(stored: Stored, name: str) -> np.ndarray:
    """Return a column of numbers, in the order of the rows."""
    whole = Stored(stored.folder, stored.codec)
    columns = [batch.column(0).to_numpy() for batch in whole.batches(name, size=ROWS)]
    column = np.concatenate(columns)
    return column if stored.rows is None else column[stored.rows]


def texts_of(column: Any) -> list[str]:
    """Return a column of texts."""
    return [value.decode("utf-8", "surrogatepass") for value in column.to_pylist()]


def _case_schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {"fate": pa.int16(), "outcome": pa.int8(), "score": pa.float64()}
    texts = ("finding", "reason", "text", "key", "task", "digest")
    return pa.schema([*kinds.items(), *((name, pa.binary()) for name in texts)])


def values_of(row: Row) -> tuple:
    """Return the values of a case, in the order of the columns."""
    _, case, fate, reason = row
    score = case.finding.score
    finding = json.dumps([getattr(case.finding, name) for name in Finding.__slots__]).encode()
    texts = (t.encode("utf-8", "surrogatepass") for t in (reason, case.text, case.key, case.task))
    outcome = OUTCOMES.index(case.finding.outcome)
    return fate, outcome, np.nan if score is None else score, finding, *texts, case.digest


def _finding(values: bytes) -> Finding:
    fields = json.loads(values)
    place = Finding.__slots__.index("kinds")
    fields[place] = tuple(fields[place])
    return Finding(**dict(zip(Finding.__slots__, fields, strict=True)))


def _findings(batch: pa.RecordBatch) -> Iterator[Finding]:
    return map(_finding, batch.column("finding").to_pylist())


def _known(batch: pa.RecordBatch) -> Iterator[tuple]:
    texts = (texts_of(batch.column(name)) for name in ("text", "key", "task"))
    return zip(_findings(batch), *texts, batch.column("digest").to_pylist(), strict=True)


def _early(batch: pa.RecordBatch) -> Iterator[Removal]:
    told = zip(batch.column("fate").to_pylist(), texts_of(batch.column("reason")), strict=True)
    for finding, (fate, reason) in zip(batch.column("finding").to_pylist(), told, strict=True):
        yield Removal(json.loads(finding)[0], FILTERS[fate].name, reason)


CASES = Codec(_case_schema, values_of, _known)
FINDINGS = CASES._replace(records=_findings)
EARLY_REMOVALS = CASES._replace(records=_early)
REMOVALS = json_codec(lambda values: Removal(**values), jsonable)
