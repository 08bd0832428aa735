"""The report: one JSON, one Markdown and one HTML file, BibTeX, and the record of corrections.

The same inputs give the same bytes: no time of writing, no path, no name of a machine. All text of
claims and sources is escaped, so whatever stands in a source is shown and never rendered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.claims.checking import TIERS, Checked
from negfail_nb.claims.corrections import NAME as RECORD
from negfail_nb.claims.corrections import append_correction, changes, read_corrections
from negfail_nb.claims.literature import to_bibtex
from negfail_nb.claims.pages import to_markdown, to_page
from negfail_nb.claims.records import SCHEMA, to_record
from negfail_nb.claims.reviewing import Review, review
from negfail_nb.claims.weakness import check_weakness, load_pairs
from negfail_nb.environment import redact
from negfail_nb.runs import plain, write_json
from negfail_nb.settings import ClaimSettings

if TYPE_CHECKING:
    import pandas as pd

NAME = "report"  # of the files, without ending
UNCERTAINTY = (
    "What is measured here is of the same kind as what a paper claims, on this profile's own model and questions, or, "
    "in tables named 05_study, on those of the studies that come with the package: no replication. A claim that is "
    "contradicted here may be true where it was made, and the other way round.",
    "An interval says which questions were asked and, where the table says so, how training runs differ; not what "
    "another model, other data or other prompts would give.",
    "Intervals are not corrected for the number of claims: of twenty at 95 %, one is expected to miss.",
    "A sum of cells has the sum of their intervals, which is mostly too wide: such a claim is sooner undecided.",
    '"Backed" means that rules on words found no difference to a sentence of the source. How often it is '
    "right is measured below; exchanged names are what it misses most.",
    "Sources that are said to be transcribed were not compared with the papers themselves.",
)


@dataclass(frozen=True, slots=True)
class Report:
    """The files of a report, its JSON values, and the corrections that this writing added."""

    folder: Path
    record: Mapping[str, Any]
    corrected: tuple[str, ...]

    @property
    def html(self) -> Path:
        """The page."""
        return self.folder / f"{NAME}.html"

    @property
    def corrections(self) -> Path:
        """The record of corrections; not there before there is one."""
        return self.folder / RECORD


def write_report(
    checked: Checked,
    folder: str | Path,
    reviewed: Review | None = None,
    command: str = "negfail_nb.check_claims",
    date: str = "",
    settings: ClaimSettings = ClaimSettings(),
    weakness: pd.DataFrame | None = None,
) -> Report:
    """Write ``report.json``, ``report.md``, ``report.html``, ``report.bib`` and
    ``corrections.jsonl``.

    Where the folder holds an earlier report and a verdict is now another, the change is appended to
    the corrections.

    Parameters
    ----------
    reviewed
        Of `review`; ``None``: it is made here.
    command
        What a reader runs to make the report again.
    date
        ISO date of corrections; empty: today. It stands nowhere else.
    weakness
        Of `negfail_nb.claims.check_weakness` on pairs that the rules were not chosen on; ``None``:
        it is measured here.

    Raises
    ------
    RecordAltered
        Where the record of corrections was changed by hand.
    ValueError
        Where the earlier report is damaged; move it away, or restore it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if weakness is None:
        weakness = check_weakness(load_pairs(held_out=True), _used(checked))
    record = report_record(checked, reviewed or review(checked, settings), command, weakness)
    today = date or datetime.now(UTC).date().isoformat()
    found = changes(_earlier(folder / f"{NAME}.json"), record)
    known = {entry["claim"]: entry["change"] for entry in read_corrections(folder / RECORD)}
    for claim, change, reason in found:
        if known.get(claim) == change:  # a writing that was stopped half-way had noted it already
            continue
        append_correction(folder / RECORD, today, claim, change, redact(reason))
    record["corrections"] = read_corrections(folder / RECORD)
    pages = {"md": to_markdown(record), "html": to_page(record), "bib": to_bibtex(checked.sources)}
    for ending, text in pages.items():
        (folder / f"{NAME}.{ending}").write_text(redact(text), encoding="utf-8", newline="\n")
    write_json(folder / f"{NAME}.json", record)  # last: it is what the next report is compared with
    return Report(folder, record, tuple(claim for claim, _, _ in found))


def _earlier(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path.name} of the earlier report cannot be read: {error}; move it away"
        ) from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{path.name} has another schema than {SCHEMA}; move it away")
    return record


def _used(checked: Checked) -> ClaimSettings:
    """The thresholds that claims were checked with; vectors are not made again for the report."""
    return ClaimSettings(threshold=checked.provenance["settings"]["threshold"])


def report_record(
    checked: Checked, reviewed: Review, command: str, weakness: pd.DataFrame
) -> dict[str, Any]:
    """Return the JSON values of a report, without corrections."""
    return {
        "schema": SCHEMA,
        "claims": [to_record(claim) for claim in checked.claims],
        "verdicts": [to_record(verdict) for verdict in checked.verdicts],
        "tiers": dict(TIERS),
        "review": {
            "kind": reviewed.kind,
            "passed": reviewed.passed,
            "withdrawn": dict(reviewed.withdrawn),
            "rounds": [
                {"score": r.score, **json.loads(json.dumps(plain(r)))} for r in reviewed.rounds
            ],
        },
        "uncertainty": list(UNCERTAINTY),
        "checks": _trust(weakness),
        "provenance": {**plain(checked.provenance), "command": redact(command)},
        "sources": [
            {k: v for k, v in to_record(source).items() if k != "text"}
            for source in checked.sources
        ],
    }


def _trust(table: pd.DataFrame) -> list[str]:
    """How each check of the text did on pairs that its rules were not made for."""
    lines = []
    for row in table.to_dict("records"):
        counts = f"on {row['faithful']} faithful and {row['false']} false claims"
        counts += f" ({row['pairs']})" if "pairs" in row else ""
        lines.append(
            f"{row['check']}: precision {row['precision']:.2f}, recall {row['recall']:.2f}, {counts}"
        )
    return lines
