"""The report for people: the same record as one Markdown and one HTML page.

All text of claims and sources is escaped, so whatever stands in a source is shown and never
rendered.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from negfail_nb.claims.records import MEASURED, WRITTEN
from negfail_nb.claims.reviewing import BY_RULES

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


def _rows(record: Mapping[str, Any]) -> list[tuple[list[str], ...]]:
    """The table's rows; a cell is a list of lines."""
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
    if failed := ", ".join(name for name, passed in verdict["checks"].items() if not passed):
        similar += f"; failed: {failed}"
    return [claim["id"], claim["text"]], [verdict["tier"]], measured, [*written, similar]


def _interval(verdict: Mapping[str, Any]) -> str:
    if verdict["value"] is None:
        return ""
    low, high = _number(verdict["low"]), _number(verdict["high"])
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
    return [
        ("Summary", _summary(record)),
        ("Tiers", [f"{tier}: {rule}" for tier, rule in record["tiers"].items()]),
        ("Review", _reviewed(record["review"])),
        ("Uncertainty", record["uncertainty"]),
        ("How far the checks of the text can be trusted", record["checks"]),
        ("Corrections", fixed or ["none"]),
        ("Provenance", [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in made]),
        ("Sources", [_reference(source) for source in record["sources"]]),
    ]


def _reference(source: Mapping[str, Any]) -> str:
    return f"{source['id']}: {source['title']} ({source['year'] or 'no year'}) {source['url']}"


def _summary(record: Mapping[str, Any]) -> list[str]:
    """How many claims came to which verdict, and which."""
    lines = []
    for verdict in MEASURED:
        named = [v["claim"] for v in record["verdicts"] if v["measured"] == verdict]
        which = "" if verdict == MEASURED[-1] else f": {', '.join(named)}"
        lines += [f"{len(named)} {verdict}{which}"] if named else []
    written = Counter(verdict["written"] for verdict in record["verdicts"])
    told = ", ".join(f"{written[name]} {name}" for name in WRITTEN if written[name])
    passed, rounds = record["review"]["passed"], record["review"]["rounds"]
    last = f"{'passed' if passed else 'not passed'} with {rounds[-1]['score']} of 10"
    lines.append(f"in their sources: {told}")
    return [*lines, f"review: {last} after {len(rounds)} round(s)"]


def _reviewed(judged: Mapping[str, Any]) -> list[str]:
    lines = [judged["kind"]]
    for number, one in enumerate(judged["rounds"], 1):
        lines.append(f"Round {number}: {one['score']} of 10, {len(one['stated'])} claims stated")
        for o in one["opinions"]:
            by = "" if o["by"] == BY_RULES else f" ({o['by']})"
            lines.append(
                f"{o['role']}{by}, {o['score']}: {'; '.join(o['comments']) or 'no comment'}"
            )
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
