"""Measured evidence: the table beside a figure, the cell that a claim names, and what its interval
says.

A table is trusted only while it is what its figure was drawn from: its content still has the hash
beside it, and the runs named there are still there. Otherwise the claim is not measured, and the
reason is given.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.claims.records import Measure, Term
from negfail_nb.content import fingerprint
from negfail_nb.csvs import read_csv

if TYPE_CHECKING:
    import pandas as pd

_MOVED = 1e-4  # relative: people write rounded numbers


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured: one of `negfail_nb.claims.records.MEASURED`, the reason in words, value
    and interval.
    """

    measured: str
    reason: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None


class NotMeasured(ValueError):
    """A cell that cannot be read or trusted; the text says why."""


def judge(measure: Measure, figures: str | Path, runs: Collection[str] | None = None) -> Finding:
    """Return what the table beside a figure says of a claim. Never raises for what is missing or
    damaged.

    The interval decides. Wholly on the claimed side of the threshold: supported; wholly on the
    other: contradicted; on both, touching it, or of no width (few questions that all went alike):
    undecided. A sum of cells has the sum of their intervals, which covers at least what both cover
    together (two of 95 %: 90 %) and is mostly wider than one computed from the questions.

    Parameters
    ----------
    measure
        Which cells, and which side of which threshold.
    figures
        Folder of the tables, as `negfail_nb.views.save_figure` writes them.
    runs
        The runs that are there, from `finished_runs`; ``None``: not checked.
    """
    try:
        table = _table(Path(figures) / measure.csv, runs)
        cells = [
            [_cell(row, t, measure) for row in _rows(table, t, measure)] for t in measure.terms
        ]
    except NotMeasured as error:
        return Finding("not measured", str(error))
    if measure.terms[0].take == "every":
        return _every([_verdict(measure, cell) for cell in cells[0]])
    return _verdict(measure, _sum([one for (one,) in cells]))


def measured_rows(measure: Measure, figures: str | Path) -> pd.DataFrame:
    """Return the rows that a claim is judged by, as they stand in the table, with their ``weight``;
    none if they cannot be read. Only the columns that name a row, the value, its interval and the
    number of questions.
    """
    import pandas as pd

    try:
        table = _table(Path(figures) / measure.csv, None)
        found = [
            row | {"weight": f"{term.weight:g}"}
            for term in measure.terms
            for row in _rows(table, term, measure)
        ]
    except NotMeasured:
        return pd.DataFrame()
    names = [key for term in measure.terms for key in term.row]
    names += [measure.column, f"{measure.column}_low", f"{measure.column}_high"]
    names += ["questions", "seeds", "weight"]
    return pd.DataFrame(found)[[name for name in dict.fromkeys(names) if name in found[0]]]


def finished_runs(folder: str | Path) -> set[str]:
    """Return the first eight digits of the fingerprint of every run in a folder that has a
    manifest. Their files are not hashed again: the stages do that before they use them.
    """
    return {path.parent.name.rpartition("-")[2] for path in Path(folder).rglob("*-*/manifest.json")}


def _table(path: Path, runs: Collection[str] | None) -> pd.DataFrame:
    if not path.is_file():
        raise NotMeasured(f"{path.name} is not there: no run of this profile has drawn this figure")
    try:
        table = read_csv(path, dtype=str, keep_default_na=False)
        beside = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except OSError:
        reason = f"{path.stem}.json is not there, so nobody knows what {path.name} came from"
        raise NotMeasured(reason) from None
    except ValueError as error:
        raise NotMeasured(f"{path.name} or its .json cannot be read: {error}") from error
    content = fingerprint(path.read_bytes().decode("utf-8", "replace"))
    if not isinstance(beside, dict) or beside.get("table") != content:
        raise NotMeasured(f"{path.name} has changed since its figure was drawn: draw it again")
    gone = sorted(_origins(beside.get("provenance")) - set(runs)) if runs is not None else []
    if gone:
        raise NotMeasured(
            f"the run {', '.join(gone)} that {path.name} came from is gone: run that stage again"
        )
    return table


def _origins(provenance: Any) -> set[str]:
    """The first eight digits of every run's fingerprint; the inputs of a run do not count."""
    if not isinstance(provenance, dict):
        return set()
    if isinstance(provenance.get("fingerprint"), str):
        return {provenance["fingerprint"][:8]}
    return {run for value in provenance.values() for run in _origins(value)}


def _rows(table: pd.DataFrame, term: Term, measure: Measure) -> list[dict[str, str]]:
    absent = sorted(({measure.column, *term.row, term.order} - {""}) - set(table.columns))
    if absent:
        if "note" in table and len(table):  # the figure itself says that there is nothing to draw
            raise NotMeasured(f"{measure.csv}: {table['note'].iloc[0]}")
        raise NotMeasured(
            f"{measure.csv} has no column {', '.join(absent)}: the cell moved, or was not measured"
        )
    found = [
        row
        for row in table.to_dict("records")
        if all(fnmatchcase(row[k], str(v)) for k, v in term.row.items())
    ]
    named = ", ".join(f"{k}={v}" for k, v in term.row.items())
    rows = found
    if measure.column.endswith("_difference"):  # that of the baseline is 0 by definition
        rows = [row for row in found if not _is_baseline(row)]
    if found and not rows:
        raise NotMeasured(
            f"{measure.csv}, row {named}: what the others are compared with, so its difference "
            "says nothing"
        )
    if not rows:
        raise NotMeasured(f"{measure.csv} has no row {named}: the cell moved, or was not measured")
    if term.take == "only" and len(rows) > 1:
        raise NotMeasured(f"{measure.csv} has {len(rows)} rows {named}: the claim must name one")
    if term.order:
        rows = sorted(rows, key=lambda row: _number(row[term.order]) or 0.0)
    return {"first": rows[:1], "last": rows[-1:]}.get(term.take, rows)


def _is_baseline(row: dict[str, str]) -> bool:
    return bool(row.get("baseline")) and row["baseline"] == (row.get("condition") or row.get("arm"))


@dataclass(frozen=True, slots=True)
class _Cell:
    value: float
    low: float | None
    high: float | None
    n: int | None
    name: str


def _cell(row: dict[str, str], term: Term, measure: Measure) -> _Cell:
    """Read a cell, times the weight of its term; a negative weight turns the interval round."""
    names = (measure.column, f"{measure.column}_low", f"{measure.column}_high", "questions")
    value, low, high, n = (_number(row.get(name, "")) for name in names)
    if value is None:
        raise NotMeasured(
            f"{measure.csv}, column {measure.column}: {row[measure.column]!r} is no number"
        )
    ends = [None if end is None else end * term.weight for end in (low, high)]
    name = ", ".join(row[key] for key in term.row if row[key])
    low, high = ends if term.weight >= 0 else ends[::-1]
    return _Cell(value * term.weight, low, high, None if n is None else int(n), name)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None  # neither NaN nor infinite


def _sum(cells: list[_Cell]) -> _Cell:
    ends = [[getattr(cell, name) for cell in cells] for name in ("low", "high")]
    low, high = (None if None in end else sum(end) for end in ends)
    least = min((cell.n for cell in cells if cell.n is not None), default=None)
    name = " and ".join(cell.name for cell in cells)
    return _Cell(sum(cell.value for cell in cells), low, high, least, name)


def _verdict(measure: Measure, cell: _Cell) -> Finding:
    numbers = cell.value, cell.low, cell.high, cell.n
    where = f"{measure.csv}, {cell.name}, {measure.column}"
    if cell.low is None or cell.high is None:
        return Finding("undecided", f"{where}: no interval", cell.value, n=cell.n)
    if cell.low == cell.high:
        return Finding("undecided", f"{where}: no width, no certainty", *numbers)
    sign = "±" if measure.direction == "within" else ""
    reason = f"{where}: claimed {measure.direction} {sign}{measure.threshold:g}"
    was = measure.was
    if was is not None and abs(was - cell.value) > _MOVED * max(1.0, abs(was)):
        reason += f"; it was {was:g} when the claim was written"
    return Finding(_side(measure, cell.low, cell.high), reason, *numbers)


def _side(measure: Measure, low: float, high: float) -> str:
    edge = measure.threshold
    inside, outside = {
        "above": (low > edge, high < edge),
        "below": (high < edge, low > edge),
        "within": (-edge <= low and high <= edge, low > edge or high < -edge),
    }[measure.direction]
    return "supported" if inside else "contradicted" if outside else "undecided"


def _every(findings: list[Finding]) -> Finding:
    """One row that contradicts is enough; support needs all. The deciding row is shown."""
    for measured in ("contradicted", "undecided"):
        for finding in findings:
            if finding.measured == measured:
                return replace(finding, reason=f"{finding.reason}; of {len(findings)} rows")
    return replace(findings[0], reason=f"{findings[0].reason}; all of {len(findings)} rows")
