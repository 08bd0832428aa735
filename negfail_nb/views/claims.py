"""08: claims as tables and figures: what was measured of each, and how far checks of words can be
trusted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import fill, shorten

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from negfail_nb.claims.checking import Checked
from negfail_nb.claims.extraction import Candidates
from negfail_nb.claims.records import MEASURED, Claim, Measure, Verdict
from negfail_nb.claims.weakness import GENERATED, HELD_OUT
from negfail_nb.views.figures import (
    FAILURE,
    FULL_WIDTH,
    SUCCESS,
    UNLABELLED,
    name_rows,
    new_figure,
    paper_style,
    reach,
)
from negfail_nb.views.layout import legend_outside
from negfail_nb.views.pages import page, readable, to_html

VERDICT_COLORS: Mapping[str, str] = {
    "supported": SUCCESS,
    "undecided": "#E69F00",
    "contradicted": FAILURE,
    "not measured": UNLABELLED,
}
VERDICT_MARKERS: Mapping[str, str] = {"supported": "o", "undecided": "D", "contradicted": "s"}
# Of what a check of words accepts: its name, and how it looks.
SHARES = {
    "recall": ("faithful", "o", SUCCESS),
    "numbers swapped": ("numbers swapped", "s", FAILURE),
    "negated": ("negated", "^", "#CC79A7"),
    "names exchanged": ("names exchanged", "D", "#E69F00"),
}
POINTS = "points"
_UNITS = {"em_difference": POINTS, "action_error_rate_difference": POINTS, "difference": "loss"}
_NOTHING = "No claim is measured in points yet: run notebooks 05 to 07 first."
_MARGINS = ("margin", "margin_low", "margin_high")


@to_html.register(Checked)
def _(value: Checked) -> str:
    """How many claims came to which verdict, which sources were one, what could not be read."""
    counts = Counter(verdict.measured for verdict in value.verdicts)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in MEASURED if counts[verdict])
    head = f"{len(value.claims)} claims: {told}; sources: {len(value.sources)}"
    merged = (f"{dropped} is {kept}: {why}" for kept, dropped, why in value.merged)
    return page(head, *merged, *map(str, value.problems)).html


def claims_table(checked: Checked) -> pd.DataFrame:
    """Return one row per claim, with the numbers that `draw_verdicts` plots.

    Returns
    -------
    pandas.DataFrame
        The columns of `negfail_nb.claims.Checked.table`, ``scope``, ``dense``; ``csv``, ``column``,
        ``direction``, ``threshold`` and ``unit`` of what measures the claim; ``margin`` with
        ``_low`` and ``_high``: how far the value lies on the claimed side of the threshold, so
        above 0 is as claimed.
    """
    both = zip(checked.claims, checked.verdicts, strict=True)
    table = checked.table.join(pd.DataFrame([_measured_by(c, v) for c, v in both]))
    numbers = ("value", "low", "high", "n", "tfidf", "dense", "threshold")
    return table.astype(dict.fromkeys(numbers, float))


def _measured_by(claim: Claim, verdict: Verdict) -> dict[str, object]:
    row = {"scope": claim.scope, "dense": verdict.dense, "csv": "", "column": "", "direction": ""}
    row |= {"threshold": np.nan, "unit": "", **dict.fromkeys(_MARGINS, np.nan)}
    measure = claim.measure
    if measure is None:
        return row
    row |= {name: getattr(measure, name) for name in ("csv", "column", "direction", "threshold")}
    given = [np.nan if end is None else end for end in (verdict.value, verdict.low, verdict.high)]
    against = measure.terms[0].row.get("against", "")
    unit = {"seconds_p50": "seconds"}.get(against, against or measure.column)
    row["unit"] = _UNITS.get(measure.column, unit)
    return row | dict(zip(_MARGINS, _margins(measure, *given), strict=True))


def _margins(measure: Measure, value: float, low: float, high: float) -> tuple[float, float, float]:
    """How far value and interval lie on the claimed side."""
    edge = measure.threshold
    if measure.direction == "above":
        return value - edge, low - edge, high - edge
    if measure.direction == "below":
        return edge - value, edge - high, edge - low
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return edge - abs(value), edge - max(abs(low), abs(high)), edge - nearest


@paper_style
def draw_verdicts(table: pd.DataFrame) -> Figure:
    """Draw `claims_table`: left, how many claims of each group came to which verdict; right, those
    in points.

    Right of 0 is as claimed. Bars are intervals; if one reaches over 0, nothing is decided. Claims
    in other units are in the table alone.
    """
    measured = table["margin"].notna()
    shown = table[(table["unit"] == POINTS) & measured].iloc[::-1]
    size = {"height": 1.3 + 0.23 * max(len(shown), 5), "width_ratios": (1, 1.15)}
    figure, (left, right) = new_figure(FULL_WIDTH, columns=2, **size)
    _draw_counts(left, table)
    _draw_margins(right, shown)
    others = int((measured & (table["unit"] != POINTS)).sum())
    right.set_title("Measured")
    if others:  # a longer title would not fit
        right.set_xlabel(f"{right.get_xlabel()}\n({others} more in other units)")
    handles, labels = left.get_legend_handles_labels()
    legend_outside(figure, handles, labels, ncols=len(MEASURED))
    return figure


def _draw_counts(panel: Axes, table: pd.DataFrame) -> None:
    groups = list(dict.fromkeys(table["group"]))[::-1]
    rows = range(len(groups))
    start = np.zeros(len(groups))
    for verdict in MEASURED:
        found = table.loc[table["measured"] == verdict, "group"].value_counts()
        counts = found.reindex(groups, fill_value=0).to_numpy()
        look = {"color": VERDICT_COLORS[verdict], "label": verdict}
        bars = panel.barh(rows, counts, left=start, **look)
        names = [str(n) if n else "" for n in counts]
        panel.bar_label(bars, names, label_type="center", fontsize=7)
        start = start + counts
    name_rows(panel, rows, [group.replace(" ", "\n") or "other" for group in groups])
    panel.set(xlabel="claims", title="Verdicts")


def _draw_margins(panel: Axes, shown: pd.DataFrame) -> None:
    panel.axvline(0, color="#888888", linewidth=0.8, zorder=0)
    for place, (_, row) in enumerate(shown.iterrows()):
        ends = np.abs(reach(row.to_frame().T, "margin"))
        verdict = row["measured"]
        look = {"color": VERDICT_COLORS[verdict], "fmt": VERDICT_MARKERS.get(verdict, "o")}
        bars = None if np.isnan(ends).any() else ends
        panel.errorbar(row["margin"], place, xerr=bars, capsize=3, **look)
    name_rows(panel, range(len(shown)), (shorten(n, 28, placeholder="..") for n in shown["claim"]))
    panel.set(xlabel="points on the claimed side", ylim=(-0.7, max(len(shown), 1) - 0.3))
    if shown.empty:
        middle = {"ha": "center", "va": "center", "transform": panel.transAxes}
        panel.text(0.5, 0.5, _NOTHING, fontsize=7, wrap=True, **middle)


@paper_style
def draw_weakness(table: pd.DataFrame, pairs: Sequence[str] = (HELD_OUT, GENERATED)) -> Figure:
    """Draw what each check of words lets pass: claims that say what their sentence says, and three
    kinds that do not.

    Parameters
    ----------
    table
        Of `negfail_nb.claims.measure_weakness`.
    pairs
        Which of its sets, a panel each.
    """
    parts = {name: table[table["pairs"] == name].iloc[::-1] for name in pairs}
    height = 1.2 + 0.3 * max(len(part) for part in parts.values())
    figure, axes = new_figure(FULL_WIDTH, height, len(parts), sharey=True, squeeze=False)
    for panel, (name, part) in zip(axes[0], parts.items(), strict=True):
        for shift, (share, (label, marker, color)) in zip(
            np.linspace(0.3, -0.3, 4), SHARES.items(), strict=True
        ):
            at = np.arange(len(part)) + shift
            panel.plot(100 * part[share], at, marker, color=color, label=label)
        panel.set_yticks(range(len(part)), [fill(check, 22) for check in part["check"]])
        panel.set(xlabel="accepted, %", xlim=(-3, 103))
        # Checks alone stand above the line, combinations of them below.
        joined = sum("+" in check or check.startswith("all") for check in part["check"])
        panel.axhline(joined - 0.5, color="#888888", linewidth=0.8, linestyle=":")
        first = part.iloc[0]
        panel.set_title(f"{name}: {first['faithful']} faithful, {first['false']} false")
    handles, labels = axes[0][0].get_legend_handles_labels()
    legend_outside(figure, handles, labels, ncols=len(SHARES))
    return figure


def show_weakness(table: pd.DataFrame) -> Styler:
    """Return the table of `negfail_nb.claims.measure_weakness` for reading: faithful + false
    claims, shares in %.
    """
    sizes = zip(table["pairs"], table["faithful"], table["false"], strict=True)
    rows = pd.DataFrame({"pairs": [f"{name}: {right} + {wrong}" for name, right, wrong in sizes]})
    rows["check"] = table["check"].to_numpy()
    titles = {"precision": "precision"}
    titles |= {n: f"accepted: {t}" for n, (t, *_) in SHARES.items() if n != "recall"}
    for name, title in {**titles, "recall": "recall"}.items():
        values = ("" if pd.isna(value) else f"{100 * value:.0f}" for value in table[name])
        rows[f"{title}, %"] = list(values)
    rows["F0.5"] = [f"{value:.2f}" for value in table["f_half"]]
    return readable(rows)


def show_candidates(candidates: Candidates, limit: int = 20) -> Styler:
    """Return claims that the sources offer and that nobody has judged, with their places, the first
    ``limit``; then what of a model's claims was refused.
    """
    claims = candidates.claims
    problems = candidates.problems
    rows = [{"source": c.source, "place": c.place, "candidate": c.text} for c in claims[:limit]]
    rest = len(claims) - len(rows)
    if rest > 0:
        rows.append({"source": "", "place": "", "candidate": f"{rest} more, in candidates.claims"})
    rows += [{"source": p.file, "place": "refused", "candidate": str(p)} for p in problems]
    return readable(pd.DataFrame(rows or [{"candidates": "none"}]))
