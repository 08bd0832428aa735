"""The report: one JSON, one Markdown and one HTML file, BibTeX, and the record of corrections.

The same inputs give the same bytes: no time of writing, no path, no name of a machine. All text of claims and sources
is escaped, so whatever stands in a source is shown and never rendered.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.claims.checking import TIERS, Checked
from negfail_nb.claims.corrections import NAME, append_correction, changes, read_corrections
from negfail_nb.claims.literature import to_bibtex
from negfail_nb.claims.records import SCHEMA, to_record
from negfail_nb.claims.review import Review, review
from negfail_nb.claims.weakness import check_weakness, load_pairs
from negfail_nb.environment import redact
from negfail_nb.runs import plain, write_json
from negfail_nb.settings.claims import ClaimSettings

if TYPE_CHECKING:
    import pandas as pd

UNCERTAINTY = (
    "An interval says which questions were asked and, where the table says so, how training runs differ; not what "
    "another model, other data or other prompts would give.",
    "Intervals are not corrected for the number of claims: of twenty at 95 %, one is expected to miss.",
    "A sum of cells has the sum of their intervals, which is mostly too wide: such a claim is sooner undecided.",
    '"Backed" means that rules on words found no difference to a sentence of the source. How often it is '
    "right is measured below; exchanged names are what it misses most.",
    "Sources that are said to be transcribed were not compared with the papers themselves.",
)
STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.3em .5em;text-align:left;vertical-align:top}"
)


@dataclass(frozen=True, slots=True)
class Report:
    """The files of a report, its JSON values, and the corrections that this writing added."""

    folder: Path
    record: Mapping[str, Any]
    corrected: tuple[str, ...]
    name: str = "report"

    @property
    def html(self) -> Path:
        """The page."""
        return self.folder / f"{self.name}.html"

    @property
    def corrections(self) -> Path:
        """The record of corrections; not there before there is one."""
        return self.folder / NAME


def write_report(
    checked: Checked,
    folder: str | Path,
    reviewed: Review | None = None,
    command: str = "negfail_nb.check_claims",
    date: str = "",
    settings: ClaimSettings = ClaimSettings(),
    weakness: pd.DataFrame | None = None,
    name: str = "report",
) -> Report:
    """Write ``report.json``, ``report.md``, ``report.html``, ``report.bib`` and ``corrections.jsonl``.

    Where the folder holds an earlier report and a verdict is now another, the change is appended to the corrections.

    Parameters
    ----------
    reviewed
        Of `review`; ``None``: it is made here.
    command
        What a reader runs to make the report again.
    date
        ISO date of corrections; empty: today. It stands nowhere else.
    weakness
        Of `negfail_nb.claims.check_weakness` on pairs that the rules were not chosen on; ``None``: it is measured here.
    name
        Of the files, without ending.

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
    found = changes(_earlier(folder / f"{name}.json"), record)
    known = {entry["claim"]: entry["change"] for entry in read_corrections(folder / NAME)}
    for claim, change, reason in found:
        if known.get(claim) == change:  # a writing that was stopped half-way had noted it already
            continue
        append_correction(folder / NAME, today, claim, change, redact(reason))
    record["corrections"] = read_corrections(folder / NAME)
    pages = {
        "md": to_markdown(record),
        "html": to_page(record),
        "bib": to_bibtex(checked.sources),
    }
    for ending, text in pages.items():
        (folder / f"{name}.{ending}").write_text(redact(text), encoding="utf-8", newline="\n")
    write_json(folder / f"{name}.json", record)  # last: it is what the next report is compared with
    return Report(folder, record, tuple(claim for claim, _, _ in found), name)


def _earlier(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} of the earlier report cannot be read: {error}; move it away") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{path.name} has another schema than {SCHEMA}; move it away")
    return record


def _used(checked: Checked) -> ClaimSettings:
    """The thresholds that claims were checked with; vectors are not made again for the report."""
    return ClaimSettings(threshold=checked.provenance["settings"]["threshold"])


def report_record(checked: Checked, reviewed: Review, command: str, weakness: pd.DataFrame) -> dict[str, Any]:
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
            "rounds": [{"score": r.score, **json.loads(json.dumps(plain(r)))} for r in reviewed.rounds],
        },
        "uncertainty": list(UNCERTAINTY),
        "checks": _trust(weakness),
        "provenance": {**plain(checked.provenance), "command": redact(command)},
        "sources": [{k: v for k, v in to_record(source).items() if k != "text"} for source in checked.sources],
    }


def _trust(table: pd.DataFrame) -> list[str]:
    """How each check of the text did on pairs that were written after its rules."""
    return [
        f"{row['check']}: precision {row['precision']:.2f}, recall {row['recall']:.2f}, on {row['faithful']} faithful "
        f"and {row['false']} false claims"
        for row in table.to_dict("records")
    ]


def _rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = [("Claim", "Tier", "Measured", "Value and interval", "In the source", "Evidence")]
    for claim, verdict in zip(record["claims"], record["verdicts"], strict=True):
        cited = f"{claim['source']}, {claim['place']}" if claim["source"] else "no source"
        evidence = f'{cited}: "{claim["quotation"]}" {verdict["reason"]}'
        rows.append(
            (
                f"{claim['id']}: {claim['text']}",
                verdict["tier"],
                verdict["measured"],
                _interval(verdict),
                f"{verdict['written']} ({_number(verdict['tfidf'])})",
                evidence,
            )
        )
    return rows


def _interval(verdict: Mapping[str, Any]) -> str:
    if verdict["value"] is None:
        return "-"
    ends = "no interval" if verdict["low"] is None else f"{_number(verdict['low'])} to {_number(verdict['high'])}"
    return f"{_number(verdict['value'])} [{ends}]" + (f", n = {verdict['n']}" if verdict["n"] is not None else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _sections(record: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Headings with their lines, as plain text."""
    counts = Counter(verdict["measured"] for verdict in record["verdicts"])
    judged = record["review"]
    lines = [
        judged["kind"],
        f"{'Passed' if judged['passed'] else 'Not passed'} after {len(judged['rounds'])} round(s).",
    ]
    for number, one in enumerate(judged["rounds"], 1):
        lines.append(f"Round {number}: {one['score']} of 10, {len(one['stated'])} claims stated")
        lines += [f"{o['role']}, {o['score']}: {'; '.join(o['comments']) or 'no comment'}" for o in one["opinions"]]
    lines += [f"Withdrawn: {name}: {why}" for name, why in judged["withdrawn"].items()]
    fixed = [f"{e['date']}, {e['claim']}: {e['change']} ({e['reason']})" for e in record["corrections"]]
    made = record["provenance"]
    return [
        ("Summary", [f"{count} {name}" for name, count in sorted(counts.items())]),
        ("Tiers", [f"{tier}: {rule}" for tier, rule in record["tiers"].items()]),
        ("Review", lines),
        ("Uncertainty", record["uncertainty"]),
        ("How far the checks of the text can be trusted", record["checks"]),
        ("Corrections", fixed or ["none"]),
        ("Provenance", [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in made.items()]),
        ("Sources", [f"{s['id']}: {s['title']} ({s['year'] or 'no year'}) {s['url']}" for s in record["sources"]]),
    ]


def to_markdown(record: Mapping[str, Any]) -> str:
    """Return the report as Markdown; marks of Markdown and HTML in its texts are escaped."""
    head, *rows = _rows(record)
    table = [_line(head), _line(["---"] * len(head), escape=False), *map(_line, rows)]
    parts = ["# Claims and their evidence", "\n".join(table)]
    parts += [
        "\n".join([f"## {title}", "", *(f"- {_plain(line)}" for line in lines)]) for title, lines in _sections(record)
    ]
    return "\n\n".join(parts) + "\n"


def _line(cells: Iterable[str], escape: bool = True) -> str:
    return "| " + " | ".join(_plain(cell) if escape else cell for cell in cells) + " |"


def _plain(text: str) -> str:
    """HTML as entities, the marks of Markdown with a backslash, one line; addresses stay text."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", flat).replace("://", ":&#47;&#47;")


def to_page(record: Mapping[str, Any]) -> str:
    """Return the report as one HTML page without scripts, links or pictures; every text is escaped."""
    head, *rows = _rows(record)
    body = [_cells(head, "th"), *(_cells(row, "td") for row in rows)]
    parts = [f"<h1>Claims and their evidence</h1><table>{''.join(body)}</table>"]
    for title, lines in _sections(record):
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        parts.append(f"<h2>{html.escape(title)}</h2><ul>{items}</ul>")
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    top = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{policy}<title>Claims</title>'
    return f"{top}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"


def _cells(row: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
