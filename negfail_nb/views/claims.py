"""Tables and figures of claims (08): what was measured of each, and how far checks of words can be
trusted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from textwrap import fill, shorten

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from negfail_nb.claims.checking import Checked
from negfail_nb.claims.records import MEASURED, Claim, Measure, Verdict
from negfail_nb.claims.weakness import GENERATED, HELD_OUT
from negfail_nb.views.browse import Page
from negfail_nb.views.figures import FAILURE, SUCCESS, UNLABELLED, new_figure, paper_style

VERDICT_COLORS: Mapping[str, str] = {
    "supported": SUCCESS,
    "undecided": "#E69F00",
    "contradicted": FAILURE,
    "not measured": UNLABELLED,
}
VERDICT_MARKERS: Mapping[str, str] = {"supported": "o", "undecided": "D", "contradicted": "s"}
SHARES = {"recall": "faithful", "numbers swapped": "numbers swapped", "negated": "negated"}
SHARES |= {"names exchanged": "names exchanged"}
SHARE_LOOKS = {
    "recall": ("o", SUCCESS),
    "numbers swapped": ("s", FAILURE),
    "negated": ("^", "#CC79A7"),
}
SHARE_LOOKS |= {"names exchanged": ("D", "#E69F00")}
POINTS = "points"
_UNITS = {"em_difference": POINTS, "action_error_rate_difference": POINTS, "difference": "loss"}
_NOTHING = "No claim is measured in points yet: run notebooks 05 to 07 first."


def claims_table(checked: Checked) -> pd.DataFrame:
    """Return one row per claim, with the numbers that `draw_verdicts` plots.

    Parameters
    ----------
    checked
        Of `negfail_nb.check_claims`.

    Returns
    -------
    pandas.DataFrame
        The columns of `negfail_nb.claims.Checked.table`, ``scope``, ``dense``; ``csv``, ``column``,
        ``direction``, ``threshold`` and ``unit`` of what measures the claim; ``margin`` with
        ``_low`` and ``_high``: how far the value lies on the claimed side of the threshold, so
        above 0 is as claimed.
    """
    rows = [_measured_by(c, v) for c, v in zip(checked.claims, checked.verdicts, strict=True)]
    table = checked.table.join(pd.DataFrame(rows))
    return table.astype(
        dict.fromkeys(("value", "low", "high", "n", "tfidf", "dense", "threshold"), float)
    )


def say_verdicts(checked: Checked) -> Page:
    """Return how many claims came to which verdict, which sources were one, and what could not be
    read or found.
    """
    counts = Counter(verdict.measured for verdict in checked.verdicts)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in MEASURED if counts[verdict])
    lines = [f"{len(checked.claims)} claims: {told}; sources: {len(checked.sources)}"]
    lines += [f"{dropped} is {kept}: {why}" for kept, dropped, why in checked.merged]
    lines += map(str, checked.problems)
    return Page("".join(f"<p>{escape(line)}</p>" for line in lines))


def _measured_by(claim: Claim, verdict: Verdict) -> dict[str, object]:
    measure = claim.measure
    about = {"scope": claim.scope, "dense": verdict.dense, "csv": "", "column": "", "direction": ""}
    about |= {"threshold": np.nan, "unit": ""}
    if measure is None:
        return about | {"margin": np.nan, "margin_low": np.nan, "margin_high": np.nan}
    about |= {name: getattr(measure, name) for name in ("csv", "column", "direction", "threshold")}
    given = [np.nan if end is None else end for end in (verdict.value, verdict.low, verdict.high)]
    margins = dict(
        zip(("margin", "margin_low", "margin_high"), _margins(measure, *given), strict=True)
    )
    return about | {"unit": _unit(measure)} | margins


def _margins(measure: Measure, value: float, low: float, high: float) -> tuple[float, float, float]:
    """How far value and interval lie on the claimed side."""
    edge = measure.threshold
    if measure.direction == "above":
        return value - edge, low - edge, high - edge
    if measure.direction == "below":
        return edge - value, edge - high, edge - low
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return edge - abs(value), edge - max(abs(low), abs(high)), edge - nearest


def _unit(measure: Measure) -> str:
    against = measure.terms[0].row.get("against", "")
    return _UNITS.get(
        measure.column, {"seconds_p50": "seconds"}.get(against, against or measure.column)
    )


@paper_style()
def draw_verdicts(table: pd.DataFrame) -> Figure:
    """Draw `claims_table`: left, how many claims of each group came to which verdict; right, those
    in points.

    Right of 0 is as claimed. Bars are intervals; where one reaches over 0, nothing is decided.
    Claims in other units are in the table alone.
    """
    shown = table[(table["unit"] == POINTS) & table["margin"].notna()].iloc[::-1]
    figure, (left, right) = new_figure(
        width=6.75, height=1.3 + 0.23 * max(len(shown), 5), columns=2, width_ratios=(1, 1.15)
    )
    _draw_counts(left, table)
    _draw_margins(right, shown)
    others = int((table["margin"].notna() & (table["unit"] != POINTS)).sum())
    right.set_title("Measured")
    if others:  # a longer title would not fit
        right.set_xlabel(f"{right.get_xlabel()}\n({others} more in other units)")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=len(MEASURED)
    )
    return figure


def _draw_counts(panel: Axes, table: pd.DataFrame) -> None:
    groups = list(dict.fromkeys(table["group"]))[::-1]
    start = np.zeros(len(groups))
    for verdict in MEASURED:
        counts = np.array(
            [((table["group"] == g) & (table["measured"] == verdict)).sum() for g in groups]
        )
        bars = panel.barh(
            range(len(groups)), counts, left=start, color=VERDICT_COLORS[verdict], label=verdict
        )
        panel.bar_label(
            bars, [str(n) if n else "" for n in counts], label_type="center", fontsize=7
        )
        start = start + counts
    panel.set_yticks(range(len(groups)), [group.replace(" ", "\n") or "other" for group in groups])
    panel.set(xlabel="claims", title="Verdicts")
    panel.grid(visible=False, axis="y")


def _draw_margins(panel: Axes, shown: pd.DataFrame) -> None:
    panel.axvline(0, color="#888888", linewidth=0.8, zorder=0)
    for place, row in enumerate(shown.to_dict("records")):
        ends = np.abs(
            np.array([row["margin"] - row["margin_low"], row["margin_high"] - row["margin"]])
        )
        bars = None if np.isnan(ends).any() else ends[:, None]
        look = {
            "color": VERDICT_COLORS[row["measured"]],
            "fmt": VERDICT_MARKERS.get(row["measured"], "o"),
        }
        panel.errorbar(row["margin"], place, xerr=bars, capsize=3, **look)
    panel.set_yticks(
        range(len(shown)), [shorten(name, 28, placeholder="..") for name in shown["claim"]]
    )
    panel.set(xlabel="points on the claimed side", ylim=(-0.7, max(len(shown), 1) - 0.3))
    panel.grid(visible=False, axis="y")
    if shown.empty:
        panel.text(
            0.5,
            0.5,
            _NOTHING,
            ha="center",
            va="center",
            transform=panel.transAxes,
            fontsize=7,
            wrap=True,
        )


@paper_style()
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
    rows = max(len(part) for part in parts.values())
    figure, axes = new_figure(
        width=6.75, height=1.2 + 0.3 * rows, columns=len(parts), sharey=True, squeeze=False
    )
    for panel, (name, part) in zip(axes[0], parts.items(), strict=True):
        _draw_shares(panel, part)
        panel.set_title(
            f"{name}: {part['faithful'].iloc[0]} faithful, {part['false'].iloc[0]} false"
        )
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SHARES)
    )
    return figure


def _draw_shares(panel: Axes, part: pd.DataFrame) -> None:
    for shift, (name, (marker, color)) in zip(
        np.linspace(0.3, -0.3, 4), SHARE_LOOKS.items(), strict=True
    ):
        panel.plot(
            100 * part[name], np.arange(len(part)) + shift, marker, color=color, label=SHARES[name]
        )
    panel.set_yticks(range(len(part)), [fill(check, 22) for check in part["check"]])
    panel.set(xlabel="accepted, %", xlim=(-3, 103))
    panel.axhline(
        len(part) - len(_single(part)) - 0.5, color="#888888", linewidth=0.8, linestyle=":"
    )


def _single(part: pd.DataFrame) -> Sequence[str]:
    """The checks alone, without the combinations of them."""
    return [name for name in part["check"] if "+" not in name and not name.startswith("all")]
