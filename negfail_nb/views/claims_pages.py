"""What is read of claims (08) in a notebook: the table to filter, the evidence of one claim, review
and corrections.

All text of claims, sources and models is escaped: HTML in it shows as text, and addresses are no
links.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from negfail_nb.claims.checking import TIERS, Checked
from negfail_nb.claims.evidence import measured_rows
from negfail_nb.claims.extraction import Candidates
from negfail_nb.claims.records import MEASURED, WRITTEN, Claim, Source, Verdict
from negfail_nb.claims.report import Report
from negfail_nb.claims.reviewing import BY_RULES, Review
from negfail_nb.views.browse import Page
from negfail_nb.views.claims import SHARES, VERDICT_COLORS
from negfail_nb.views.figures import FAILURE, SUCCESS, UNLABELLED

ALL = "all"
WRITTEN_COLORS = {
    "backed": SUCCESS,
    "doubtful": "#E69F00",
    "not found": FAILURE,
    "no source": UNLABELLED,
}
_CELL = "text-align:left;vertical-align:top;padding:4px 8px;border-top:1px solid #DDDDDD;white-space:pre-wrap"
_LINE = "margin:4px 0;padding:2px 8px;border-left:4px solid {};white-space:pre-wrap"
_WIDTHS = ("38%", "34%", "22%", "6%")


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
    """Return the claims of `claims_table` that fit all filters, each with its verdicts and
    interval.

    Parameters
    ----------
    table
        Of `negfail_nb.views.claims_table`.
    measured, written, group
        Only claims with this value; ``"all"``: any.
    """
    part = table
    for name, wanted in (("measured", measured), ("written", written), ("group", group)):
        part = part if wanted == ALL else part[part[name] == wanted]
    heads = ("claim", "measured here", "in its source", "tier")
    head = "".join(
        f'<th style="{_CELL};width:{width}">{title}</th>'
        for title, width in zip(heads, _WIDTHS, strict=True)
    )
    rows = "".join(map(_claim_row, part.to_dict("records")))
    return Page(
        f"<p>{len(part)} of {len(table)} claims</p>"
        f'<table style="width:100%;table-layout:fixed"><tr>{head}</tr>{rows}</table>'
    )


def _claim_row(row: Mapping[str, Any]) -> str:
    place = escape(f"{row['source'] or 'no source'}: {row['place']}")
    why = row["reason"] if row["measured"] == "not measured" else row["scope"]
    measured = "\n".join(
        filter(
            None,
            (
                _chip(row["measured"], VERDICT_COLORS),
                escape(_span(row)),
                f"<small>{escape(why)}</small>",
            ),
        )
    )
    written = f"{_chip(row['written'], WRITTEN_COLORS)}\n<small>{place}</small>"
    cells = (
        f"<b>{escape(row['claim'])}</b>\n{escape(row['text'])}",
        measured,
        written,
        escape(row["tier"]),
    )
    return "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"


def _chip(text: str, colors: Mapping[str, str]) -> str:
    """The word, with a square in its colour before it: colour alone says nothing to who does not
    see it.
    """
    return f'<span style="color:{colors.get(text, UNLABELLED)}">&#9632;</span> {escape(text)}'


def _span(row: Mapping[str, Any]) -> str:
    if row["value"] is None or pd.isna(row["value"]):
        return ""
    ends = "no interval" if pd.isna(row["low"]) else f"{row['low']:.3g}, {row['high']:.3g}"
    count = "" if row["n"] is None or pd.isna(row["n"]) else f"\n{row['n']:.0f} questions"
    return f"{row['value']:.3g} [{ends}] {row['unit']}{count}"


def show_evidence(checked: Checked, claim: str, figures: str | Path) -> Page:
    """Return all that one claim rests on: its words in the source, the checks, the cells of the
    table and its figure.

    Parameters
    ----------
    checked
        Of `negfail_nb.check_claims`.
    claim
        Its id.
    figures
        Folder of the tables.

    Raises
    ------
    ValueError
        If there is no such claim.
    """
    named = {c.id: (c, v) for c, v in zip(checked.claims, checked.verdicts, strict=True)}
    if claim not in named:
        raise ValueError(f"no claim {claim!r}; there are {', '.join(named)}")
    about, verdict = named[claim]
    sources = {source.id: source for source in checked.sources}
    return Page(
        f"<p><b>{escape(about.text)}</b><br>tier {escape(verdict.tier)}: {escape(TIERS[verdict.tier])}</p>"
        + _words(about, verdict, sources)
        + _measurement(about, verdict, Path(figures))
    )


def _words(claim: Claim, verdict: Verdict, sources: Mapping[str, Source]) -> str:
    color = WRITTEN_COLORS[verdict.written]
    lines = [f"{_chip(verdict.written, WRITTEN_COLORS)} in its source"]
    for name in dict.fromkeys((claim.source, verdict.sentence_source)):
        if name in sources:
            lines.append(f"<b>{escape(_reference(sources[name]))}</b>")
    lines.append(f"{escape(claim.place)}" if claim.place else "")
    lines.append(f"quoted: <q>{escape(claim.quotation)}</q>" if claim.quotation else "no quotation")
    if verdict.sentence:
        vectors = "" if verdict.dense is None else f", of vectors {verdict.dense:.2f}"
        lines.append(f"best sentence: <q>{escape(verdict.sentence)}</q>")
        lines.append(
            f"similarity of words {verdict.tfidf:.2f}{vectors}; "
            + ", ".join(map(_check, verdict.checks.items()))
        )
    return f'<div style="{_LINE.format(color)}">{chr(10).join(filter(None, lines))}</div>'


def _check(item: tuple[str, bool]) -> str:
    return f"{escape(item[0])} {'&#10003;' if item[1] else '<b>&#10007;</b>'}"


def _reference(source: Source) -> str:
    people = (
        source.authors[0] + (" et al." if len(source.authors) > 1 else "") if source.authors else ""
    )
    return ", ".join(
        filter(None, (people, source.title, source.year, source.venue or source.url, source.file))
    )


def _measurement(claim: Claim, verdict: Verdict, figures: Path) -> str:
    lines = f"{_chip(verdict.measured, VERDICT_COLORS)}: {escape(verdict.reason)}"
    box = f'<div style="{_LINE.format(VERDICT_COLORS[verdict.measured])}">{lines}</div>'
    if claim.measure is None:
        return box
    rows = measured_rows(claim.measure, figures)
    cells = "" if rows.empty else rows.map(_rounded).to_html(index=False, escape=True, border=0)
    return box + cells + _picture(figures / claim.measure.csv)


def _rounded(cell: str) -> str:
    """Numbers with fractions in five digits, as people read them; the csv has them whole."""
    return f"{float(cell):.5g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", cell) else cell


def _picture(table: Path) -> str:
    picture = table.with_suffix(".png")
    if not picture.is_file():
        return ""
    data = base64.b64encode(picture.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(picture.stem)}" style="max-width:640px;width:100%">'


def show_weakness(table: pd.DataFrame) -> Styler:
    """Return the table of `negfail_nb.claims.measure_weakness` for reading: faithful + false
    claims, shares in %.
    """
    sizes = zip(table["pairs"], table["faithful"], table["false"], strict=True)
    rows = pd.DataFrame({"pairs": [f"{name}: {right} + {wrong}" for name, right, wrong in sizes]})
    rows["check"] = table["check"].to_numpy()
    for name, title in {"precision": "precision", **SHARES, "recall": "recall"}.items():
        unit = title if name in ("precision", "recall") else f"accepted: {title}"
        rows[f"{unit}, %"] = [
            "" if pd.isna(value) else f"{100 * value:.0f}" for value in table[name]
        ]
    rows["F0.5"] = [f"{value:.2f}" for value in table["f_half"]]
    return _left(rows)


def show_review(review: Review) -> Page:
    """Return the votes and comments of each round, what was taken out, and how it ended."""
    parts = [f"<p>{escape(review.kind)}</p>"]
    for number, one in enumerate(review.rounds, 1):
        parts.append(
            f"<p><b>Round {number}: {one.score} of 10</b>, {len(one.stated)} claims stated</p>"
        )
        for opinion in one.opinions:
            by = "" if opinion.by == BY_RULES else f" ({opinion.by})"
            said = "\n".join(f"- {comment}" for comment in opinion.comments) or "no comment"
            text = escape(f"{opinion.role}{by}: {opinion.score}\n{said}")
            parts.append(f'<div style="{_LINE.format("#0072B2")}">{text}</div>')
    if review.withdrawn:
        parts.append("<p><b>The revision took out of the findings</b></p>")
        taken = "\n".join(f"{name}: {why}" for name, why in review.withdrawn.items())
        parts.append(f'<div style="{_LINE.format(FAILURE)}">{escape(taken)}</div>')
    return Page("".join(parts) + f"<p>{'Passed' if review.passed else 'Not passed'}.</p>")


def show_report(report: Report) -> Page:
    """Return where a report was written, and its record of corrections, oldest first."""
    names = ", ".join(sorted(path.name for path in report.folder.iterdir() if path.is_file()))
    kept = ("date", "claim", "change", "reason")
    entries = [{name: entry[name] for name in kept} for entry in report.record["corrections"]]
    none = [{"corrections": "none: no verdict has changed since the first report"}]
    head = f"<p><b>reports/{escape(report.folder.name)}</b>: {escape(names)}</p>"
    return Page(head + _left(pd.DataFrame(entries or none)).to_html())


def show_candidates(candidates: Candidates, limit: int = 20) -> Styler:
    """Return claims that the sources offer and that nobody has judged, with their places, the first
    ``limit``; then what of a model's claims was refused.
    """
    claims, problems = candidates.claims, candidates.problems
    rows = [{"source": c.source, "place": c.place, "candidate": c.text} for c in claims[:limit]]
    rest = len(claims) - len(rows)
    if rest > 0:
        rows.append({"source": "", "place": "", "candidate": f"{rest} more, in candidates.claims"})
    rows += [{"source": p.file, "place": "refused", "candidate": str(p)} for p in problems]
    return _left(pd.DataFrame(rows or [{"candidates": "none"}]))


def _left(table: pd.DataFrame) -> Styler:
    style = table.style.hide(axis="index").set_properties(
        **{"text-align": "left", "white-space": "pre-wrap"}
    )
    heads = [{"selector": "th", "props": [("text-align", "left"), ("vertical-align", "top")]}]
    return style.set_table_styles(heads).format(escape="html")
