"""The report: one JSON, one Markdown and one HTML file, BibTeX, and the record of corrections.

The same inputs give the same bytes: no time of writing, no path, no name of a machine. All text of
claims and sources is escaped, so whatever stands in a source is shown and never rendered. The
record of corrections is append-only: each entry has the hash of the one before, so a change shows.
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
from negfail_nb.claims.readers import to_bibtex
from negfail_nb.claims.records import MEASURED, SCHEMA, WRITTEN
from negfail_nb.claims.reviewing import BY_RULES, Review, review
from negfail_nb.claims.weakness import CHOSEN_ON, check_weakness, load_pairs
from negfail_nb.content import fingerprint, plain, write_json
from negfail_nb.environment import redact
from negfail_nb.settings import ClaimSettings

if TYPE_CHECKING:
    import pandas as pd

NAME, RECORD = "report", "corrections.jsonl"  # the report's files are named without ending
_WATCHED = ("measured", "written", "tier")
UNCERTAINTY = (
    "What is measured here is of the same kind as what a paper claims, on this profile's own model "
    "and questions: no replication. A claim that is contradicted here may be true where it was "
    "made, and the other way round. Tables named 05_study are only there in the profile that made "
    "the studies.",
    "An interval says which questions were asked and, where the table says so, how training runs "
    "differ; not what another model, other data or other prompts would give.",
    "Intervals are not corrected for the number of claims: of twenty at 95 %, one is expected to "
    "miss.",
    "A sum of cells has the sum of their intervals, which is mostly too wide: such a claim is "
    "sooner undecided.",
    '"Backed" means that rules on words found no difference to a sentence of the source. How often '
    "it is right is measured below; exchanged names are what it misses most.",
    "Sources that are said to be transcribed were not compared with the papers themselves.",
)
STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:72em;margin:2em auto;padding:0 1em;"
    "overflow-wrap:anywhere}"
    "table{border-collapse:collapse;width:100%;table-layout:fixed}h1,h2{line-height:1.2}"
    "li{margin:.2em 0}"
    "td,th{border-top:1px solid #ccc;padding:.4em .6em;text-align:left;vertical-align:top}"
    "td:first-child{border-left:6px solid #bbb}.supported{border-left-color:#0072b2!important}"
    ".contradicted{border-left-color:#d55e00!important}"
    ".undecided{border-left-color:#e69f00!important}"
    ".name{font-weight:bold}th:nth-child(1){width:26%}th:nth-child(2){width:3em}"
)
POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)
FIRST = 2  # sections before the table
HEADS = ("Claim", "Tier", "Measured here", "In its source")


class RecordAltered(ValueError):
    """The record of corrections is not the one that was written; the text names the line."""


@dataclass(frozen=True, slots=True)
class Report:
    """The files of a report, its JSON values, and the claims that this writing corrected."""

    folder: Path
    record: Mapping[str, Any]
    corrected: tuple[str, ...]


def write_report(
    checked: Checked,
    folder: str | Path,
    reviewed: Review | None = None,
    weakness: pd.DataFrame | None = None,
    command: str = "negfail_nb.check_claims",
    date: str = "",
) -> Report:
    """Write ``report.json``, ``report.md``, ``report.html``, ``report.bib`` and
    ``corrections.jsonl``.

    If the folder holds an earlier report and a verdict is now another, the change is appended to
    the corrections.

    Parameters
    ----------
    reviewed
        Of `review`; ``None``: it is made here.
    weakness
        Of `negfail_nb.claims.measure_weakness`; pairs that the rules were chosen on are left out.
        ``None``: measured here, on the pairs that were held out.
    command
        What a reader runs to make the report again.
    date
        ISO date of corrections; empty: today. It stands nowhere else.

    Raises
    ------
    RecordAltered
        If the record of corrections was changed by hand.
    ValueError
        If the earlier report is damaged; move it away, or restore it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if weakness is None:  # without vectors: they are not made again for the report
        settings = ClaimSettings(threshold=checked.provenance["settings"]["threshold"])
        weakness = check_weakness(load_pairs(held_out=True), settings)
    record = _record(checked, reviewed or review(checked), weakness, command)
    today = date or datetime.now(UTC).date().isoformat()
    found = _changes(_earlier(folder / f"{NAME}.json"), record)
    known = {entry["claim"]: entry["change"] for entry in read_corrections(folder / RECORD)}
    for claim, change, reason in found:
        if known.get(claim) != change:  # a writing that was stopped half-way had noted it already
            append_correction(folder / RECORD, today, claim, change, redact(reason))
    record["corrections"] = read_corrections(folder / RECORD)
    pages = {"md": to_markdown(record), "html": to_page(record), "bib": to_bibtex(checked.sources)}
    for ending, text in pages.items():
        (folder / f"{NAME}.{ending}").write_text(redact(text), encoding="utf-8", newline="\n")
    write_json(folder / f"{NAME}.json", record)  # last: it is what the next report is compared with
    return Report(folder, record, tuple(claim for claim, _, _ in found))


def _record(
    checked: Checked, reviewed: Review, weakness: pd.DataFrame, command: str
) -> dict[str, Any]:
    """The JSON values of a report, without corrections."""
    return {
        "schema": SCHEMA,
        "claims": [plain(claim) for claim in checked.claims],
        "verdicts": [plain(verdict) for verdict in checked.verdicts],
        "tiers": dict(TIERS),
        "review": {
            "kind": reviewed.kind,
            "passed": reviewed.passed,
            "withdrawn": dict(reviewed.withdrawn),
            "rounds": [{"score": one.score, **plain(one)} for one in reviewed.rounds],
        },
        "uncertainty": list(UNCERTAINTY),
        "checks": _trust(weakness),
        "provenance": {**plain(checked.provenance), "command": redact(command)},
        "sources": [
            {name: value for name, value in plain(source).items() if name != "text"}
            for source in checked.sources
        ],
    }


def _trust(table: pd.DataFrame) -> list[str]:
    """How each check of the text did on pairs that its rules were not made for."""
    lines = []
    for row in table.to_dict("records"):
        if row.get("pairs") != CHOSEN_ON:
            counts = f"on {row['faithful']} faithful and {row['false']} false claims"
            counts += f" ({row['pairs']})" if "pairs" in row else ""
            shares = f"precision {row['precision']:.2f}, recall {row['recall']:.2f}"
            lines.append(f"{row['check']}: {shares}, {counts}")
    return lines


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


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Claim, change and reason for each verdict that differs between two reports."""
    before, after = ({v["claim"]: v for v in one.get("verdicts", [])} for one in (old, new))
    found = []
    for name, was in before.items():
        now = after.get(name)
        if now is None:
            found.append((name, "the claim was taken out", ""))
        elif parts := [f"{k}: {was.get(k)} -> {now[k]}" for k in _WATCHED if was.get(k) != now[k]]:
            found.append((name, "; ".join(parts), now["reason"]))
    return found


def read_corrections(path: str | Path) -> list[dict[str, Any]]:
    """Return the entries, oldest first; none if there is no file.

    Raises
    ------
    RecordAltered
        If a line was changed, taken out or put in. A record that lost its last lines cannot be told
        from a shorter one, unless a report was kept: it names the number of entries and the last
        hash.
    """
    path = Path(path)
    entries: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            whole = fingerprint({k: v for k, v in entry.items() if k != "hash"}) == entry["hash"]
            follows = entry["before"] == (entries[-1]["hash"] if entries else "")
        except (ValueError, TypeError, KeyError, AttributeError):
            whole = follows = False
        if not (whole and follows):
            raise RecordAltered(
                f"{path.name}, line {number}: changed after it was written; restore it from a copy"
            )
        entries.append(entry)
    return entries


def append_correction(path: str | Path, date: str, claim: str, change: str, reason: str) -> None:
    """Append one entry; `RecordAltered` if the record was altered before."""
    entries = read_corrections(path)
    entry = {"date": date, "claim": claim, "change": change, "reason": reason}
    entry["before"] = entries[-1]["hash"] if entries else ""
    entry["hash"] = fingerprint(entry)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a", encoding="utf-8", newline="\n") as stream:
        stream.write(json.dumps(entry, ensure_ascii=False) + "\n")


# The pages. Cells of their table are lists of lines.


def _rows(record: Mapping[str, Any]) -> list[tuple[list[str], ...]]:
    return [_row(c, v) for c, v in zip(record["claims"], record["verdicts"], strict=True)]


def _row(claim: Mapping[str, Any], verdict: Mapping[str, Any]) -> tuple[list[str], ...]:
    value = _interval(verdict)
    measured = [verdict["measured"], *([value] if value else []), verdict["reason"]]
    cited = f"{claim['source']}, {claim['place']}" if claim["source"] else "no source is named"
    quoted = f'"{claim["quotation"]}"' if claim["quotation"] else "no quotation"
    written = [verdict["written"], cited, quoted]
    if verdict["sentence"] and verdict["written"] != "backed":
        written.append(f'best sentence, in {verdict["sentence_source"]}: "{verdict["sentence"]}"')
    similar = f"similarity of words {_number(verdict['tfidf'])}"
    if verdict["dense"] is not None:
        similar += f", of vectors {_number(verdict['dense'])}"
    if verdict["decided"]:
        similar += f"; decided by checks that {verdict['decided']}"
    return [claim["id"], claim["text"]], [verdict["tier"]], measured, [*written, similar]


def _interval(verdict: Mapping[str, Any]) -> str:
    if verdict["value"] is None:
        return ""
    low = _number(verdict["low"])
    high = _number(verdict["high"])
    ends = "no interval" if verdict["low"] is None else f"{low} to {high}"
    count = "" if verdict["n"] is None else f", n = {verdict['n']}"
    return f"{_number(verdict['value'])} [{ends}]{count}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _sections(record: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Headings with their lines, as plain text; the first ``FIRST`` stand before the table."""
    fixed = [
        f"{e['date']}, {e['claim']}: {e['change']} ({e['reason']})" for e in record["corrections"]
    ]
    made = record["provenance"].items()
    sources = []
    for s in record["sources"]:
        sources.append(f"{s['id']}: {s['title']} ({s['year'] or 'no year'}) {s['url']}")
    return [
        ("Summary", _summary(record)),
        ("Tiers", [f"{tier}: {rule}" for tier, rule in record["tiers"].items()]),
        ("Review", _reviewed(record["review"])),
        ("Uncertainty", record["uncertainty"]),
        ("How far the checks of the text can be trusted", record["checks"]),
        ("Corrections", fixed or ["none"]),
        ("Provenance", [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in made]),
        ("Sources", sources),
    ]


def _summary(record: Mapping[str, Any]) -> list[str]:
    """How many claims came to which verdict, and which."""
    lines = []
    for verdict in MEASURED:
        named = [v["claim"] for v in record["verdicts"] if v["measured"] == verdict]
        which = "" if verdict == MEASURED[-1] else f": {', '.join(named)}"
        lines += [f"{len(named)} {verdict}{which}"] if named else []
    written = Counter(verdict["written"] for verdict in record["verdicts"])
    told = ", ".join(f"{written[name]} {name}" for name in WRITTEN if written[name])
    passed = record["review"]["passed"]
    rounds = record["review"]["rounds"]
    last = f"{'passed' if passed else 'not passed'} with {rounds[-1]['score']} of 10"
    lines.append(f"in their sources: {told}")
    return [*lines, f"review: {last} after {len(rounds)} round(s)"]


def _reviewed(judged: Mapping[str, Any]) -> list[str]:
    lines = [judged["kind"]]
    for number, one in enumerate(judged["rounds"], 1):
        lines.append(f"Round {number}: {one['score']} of 10, {len(one['stated'])} claims stated")
        for o in one["opinions"]:
            by = "" if o["by"] == BY_RULES else f" ({o['by']})"
            comments = "; ".join(o["comments"]) or "no comment"
            lines.append(f"{o['role']}{by}, {o['score']}: {comments}")
    return lines + [f"Withdrawn: {name}: {why}" for name, why in judged["withdrawn"].items()]


def to_markdown(record: Mapping[str, Any]) -> str:
    """Return the report as Markdown; marks of Markdown and HTML in its texts are escaped."""
    table = [_line([[head] for head in HEADS]), "| --- | --- | --- | --- |"]
    table += map(_line, _rows(record))
    listed = [
        "\n".join([f"## {title}", "", *(f"- {_plain(line)}" for line in lines)])
        for title, lines in _sections(record)
    ]
    claims = ["## Claims", "\n".join(table)]
    parts = ["# Claims and their evidence", *listed[:FIRST], *claims, *listed[FIRST:]]
    return "\n\n".join(parts) + "\n"


def _line(cells: Iterable[Sequence[str]]) -> str:
    return "| " + " | ".join("<br>".join(map(_plain, lines)) for lines in cells) + " |"


def _plain(text: str) -> str:
    """HTML as entities, the marks of Markdown with a backslash, one line; addresses stay text."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", flat).replace("://", ":&#47;&#47;")


def to_page(record: Mapping[str, Any]) -> str:
    """Return the report as one HTML page without scripts, links or pictures, all text escaped."""
    heads = "".join(f"<th>{title}</th>" for title in HEADS)
    verdicts = (verdict["measured"] for verdict in record["verdicts"])
    rows = map(_cells, _rows(record), verdicts)
    listed = []
    for title, lines in _sections(record):
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        listed.append(f"<h2>{html.escape(title)}</h2><ul>{items}</ul>")
    table = f"<h2>Claims</h2><table><tr>{heads}</tr>{''.join(rows)}</table>"
    body = ["<h1>Claims and their evidence</h1>", *listed[:FIRST], table, *listed[FIRST:]]
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8">' + POLICY
    head += f"<title>Claims</title><style>{STYLE}</style></head>"
    return f"{head}<body>{''.join(body)}</body></html>\n"


def _cells(row: Sequence[Sequence[str]], measured: str) -> str:
    mark = measured if measured in MEASURED else ""  # a class name, so no foreign text
    shown = []
    for place, lines in enumerate(row):
        first = f'<span class="name">{html.escape(lines[0])}</span>'
        text = "<br>".join([first, *map(html.escape, lines[1:])])
        shown.append(f'<td class="{mark}">{text}</td>' if place == 0 else f"<td>{text}</td>")
    return f"<tr>{''.join(shown)}</tr>"
