"""08: what is read of claims: the table to filter, the evidence of one claim, review and
corrections.

All text of claims, sources and models is escaped: HTML in it shows as text, and addresses are no
links.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from negfail_nb.claims.checking import TIERS, Checked
from negfail_nb.claims.evidence import measured_rows
from negfail_nb.claims.records import MEASURED, WRITTEN, Claim, Source, Verdict
from negfail_nb.claims.report import Report
from negfail_nb.claims.reviewing import BY_RULES, Review
from negfail_nb.views.claims import VERDICT_COLORS, claims_table
from negfail_nb.views.figures import FAILURE, SUCCESS, UNLABELLED
from negfail_nb.views.pages import LINE, Page, html_table, page, picture_html, readable, to_html
from negfail_nb.views.widgets import Explorer, choices, explore

ALL = "all"
WRITTEN_COLORS = {
    "backed": SUCCESS,
    "doubtful": "#E69F00",
    "not found": FAILURE,
    "no source": UNLABELLED,
}
_HEADS = ("claim", "measured here", "in its source", "tier")
_WIDTHS = ("38%", "34%", "22%", "6%")


def browse_claims(checked: Checked, figures: str | Path) -> Explorer:
    """Return claims to look through: filters above their table, and below it the evidence of the
    claim that is chosen.

    Parameters
    ----------
    checked
        The claims with their verdicts.
    figures
        Folder of the tables that they were measured by.
    """
    table = claims_table(checked)
    rows = sorted(table.to_dict("records"), key=lambda row: row["measured"] == "not measured")
    names = {f"{row['claim']}: {row['text'][:90]}": row["claim"] for row in rows}
    filters = {name: choices(name, found) for name, found in claim_filters(table).items()}
    return explore(
        lambda claim, **wanted: page(
            show_claims(table, **wanted), show_evidence(checked, claim, figures)
        ),
        **filters,
        claim=choices("claim", names, wide=True),
    )


def claim_filters(table: pd.DataFrame) -> dict[str, Sequence[str]]:
    """Return the choices of each filter of `show_claims` that occur: ``measured``, ``written`` and
    ``group``.
    """
    order = {"measured": MEASURED, "written": WRITTEN, "group": list(dict.fromkeys(table["group"]))}
    return {
        name: (ALL, *(v for v in values if v in set(table[name]))) for name, values in order.items()
    }


def show_claims(
    table: pd.DataFrame, measured: str = ALL, written: str = ALL, group: str = ALL
) -> Page:
    """Return the claims of `claims_table` that fit all filters, with verdicts and intervals."""
    part = table
    for name, wanted in (("measured", measured), ("written", written), ("group", group)):
        part = part if wanted == ALL else part[part[name] == wanted]
    cells = map(_claim_cells, part.to_dict("records"))
    shown = html_table(_HEADS, cells, _WIDTHS)
    return page(f"{len(part)} of {len(table)} claims", Page(shown))


def _claim_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    why = escape(row["reason"] if row["measured"] == "not measured" else row["scope"])
    place = escape(f"{row['source'] or 'no source'}: {row['place']}")
    measured = (_chip(row["measured"]), escape(_interval(row)), f"<small>{why}</small>")
    return (
        f"<b>{escape(row['claim'])}</b>\n{escape(row['text'])}",
        "\n".join(filter(None, measured)),
        f"{_chip(row['written'])}\n<small>{place}</small>",
        escape(row["tier"]),
    )


def _color(verdict: str) -> str:
    return (VERDICT_COLORS | WRITTEN_COLORS).get(verdict, UNLABELLED)


def _chip(verdict: str) -> str:
    """The word after a square in its colour: colour alone says nothing to who does not see it."""
    return f'<span style="color:{_color(verdict)}">&#9632;</span> {escape(verdict)}'


def _interval(row: Mapping[str, Any]) -> str:
    if pd.isna(row["value"]):
        return ""
    ends = "no interval" if pd.isna(row["low"]) else f"{row['low']:.3g}, {row['high']:.3g}"
    count = "" if pd.isna(row["n"]) else f"\n{row['n']:.0f} questions"
    return f"{row['value']:.3g} [{ends}] {row['unit']}{count}"


def show_evidence(checked: Checked, claim: str, figures: str | Path) -> Page:
    """Return all that one claim rests on: its words in the source, the checks, the cells of the
    table and its figure.
    """
    both = zip(checked.claims, checked.verdicts, strict=True)
    named = {about.id: (about, verdict) for about, verdict in both}
    if claim not in named:
        raise ValueError(f"no claim {claim!r}; there are {', '.join(named)}")
    about, verdict = named[claim]
    sources = {source.id: source for source in checked.sources}
    tier = f"tier {escape(verdict.tier)}: {escape(TIERS[verdict.tier])}"
    return Page(
        f"<p><b>{escape(about.text)}</b><br>{tier}</p>"
        + _words(about, verdict, sources)
        + _measurement(about, verdict, Path(figures))
    )


def _box(lines: Sequence[str], color: str) -> str:
    return f'<div style="{LINE.format(color)}">{chr(10).join(filter(None, lines))}</div>'


def _words(claim: Claim, verdict: Verdict, sources: Mapping[str, Source]) -> str:
    lines = [f"{_chip(verdict.written)} in its source"]
    for name in dict.fromkeys((claim.source, verdict.sentence_source)):
        if name in sources:
            lines.append(f"<b>{escape(_reference(sources[name]))}</b>")
    lines.append(escape(claim.place))
    lines.append(f"quoted: <q>{escape(claim.quotation)}</q>" if claim.quotation else "no quotation")
    if verdict.sentence:
        vectors = "" if verdict.dense is None else f", of vectors {verdict.dense:.2f}"
        checks = ", ".join(
            f"{escape(name)} {'&#10003;' if passed else '<b>&#10007;</b>'}"
            for name, passed in verdict.checks.items()
        )
        lines.append(f"best sentence: <q>{escape(verdict.sentence)}</q>")
        lines.append(f"similarity of words {verdict.tfidf:.2f}{vectors}; {checks}")
        lines.append(f"decided by checks that {escape(verdict.decided)}")
    return _box(lines, _color(verdict.written))


def _reference(source: Source) -> str:
    people = " et al.".join(source.authors[:1] + ("",) * (len(source.authors) > 1))
    parts = (people, source.title, source.year, source.venue or source.url, source.file)
    return ", ".join(filter(None, parts))


def _measurement(claim: Claim, verdict: Verdict, figures: Path) -> str:
    line = f"{_chip(verdict.measured)}: {escape(verdict.reason)}"
    box = _box([line], _color(verdict.measured))
    if claim.measure is None:
        return box
    rows = measured_rows(claim.measure, figures)
    if not rows.empty:
        box += rows.map(_rounded).to_html(index=False, escape=True, border=0)
    picture = (figures / claim.measure.csv).with_suffix(".png")
    if not picture.is_file():
        return box
    return box + picture_html(picture.read_bytes(), picture.stem, "max-width:640px;width:100%")


def _rounded(cell: str) -> str:
    """Numbers with fractions in five digits, as people read them; the csv has them whole."""
    return f"{float(cell):.5g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", cell) else cell


@to_html.register(Review)
def _(value: Review) -> str:
    """The votes and comments of each round, what was taken out, and how it ended."""
    parts = [to_html(value.kind)]
    for number, one in enumerate(value.rounds, 1):
        stated = f"{one.score} of 10</b>, {len(one.stated)} claims stated"
        parts.append(f"<p><b>Round {number}: {stated}</p>")
        for opinion in one.opinions:
            by = "" if opinion.by == BY_RULES else f" ({opinion.by})"
            said = [f"- {comment}" for comment in opinion.comments] or ["no comment"]
            lines = [f"{opinion.role}{by}: {opinion.score}", *said]
            parts.append(_box(list(map(escape, lines)), "#0072B2"))
    if value.withdrawn:
        parts.append("<p><b>The revision took out of the findings</b></p>")
        taken = [escape(f"{name}: {why}") for name, why in value.withdrawn.items()]
        parts.append(_box(taken, FAILURE))
    return "".join(parts) + f"<p>{'Passed' if value.passed else 'Not passed'}.</p>"


@to_html.register(Report)
def _(value: Report) -> str:
    """Where it was written, and its record of corrections, oldest first."""
    names = ", ".join(sorted(path.name for path in value.folder.iterdir() if path.is_file()))
    kept = ("date", "claim", "change", "reason")
    entries = [{name: entry[name] for name in kept} for entry in value.record["corrections"]]
    none = [{"corrections": "none: no verdict has changed since the first report"}]
    head = f"{value.folder}: {names}"
    return page(head, readable(pd.DataFrame(entries or none))).html
