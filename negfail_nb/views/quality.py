"""02: why runs failed, what quality control removes, and how far failures got, as figures."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from negfail_nb.views.figures import (
    COLORS,
    FAILURE,
    SUCCESS,
    UNLABELLED,
    legend_above,
    new_figure,
    paper_style,
)


@paper_style
def draw_kinds(kinds: pd.DataFrame) -> Figure:
    """Draw why runs failed: ``report.kinds()``, of which ``failures`` and ``share`` (of all
    failures) are used.
    """
    table = kinds[kinds["failures"] > 0].sort_values("failures", ascending=False)
    figure, axes = new_figure(height=0.7 + 0.22 * len(table))
    axes.barh(table["kind"].str.replace("_", " "), table["failures"], color=FAILURE)
    for row, (count, share) in enumerate(zip(table["failures"], table["share"], strict=True)):
        axes.text(count, row, f"  {share:.0%}", va="center", fontsize=8)
    axes.set(xlabel="failed trajectories (a run may fail in several ways)", title="Why runs fail")
    axes.set_xlim(0, table["failures"].max() * 1.1)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return figure


@paper_style
def draw_funnel(funnel: pd.DataFrame) -> Figure:
    """Draw ``report.funnel()``: what is left after each filter that is on, by outcome."""
    table = funnel[funnel["setting"] != "off"].reset_index(drop=True)
    labels = ["as read", *table["filter"].str.replace("_", " ")]
    figure, axes = new_figure(height=0.7 + 0.24 * len(labels))
    axes.barh(labels[0], table["before"].iloc[0], color=UNLABELLED)
    won = table["successes after"]
    lost = table["failures after"]
    axes.barh(labels[1:], won, color=SUCCESS, label="success")
    look = {"color": FAILURE, "hatch": "///", "edgecolor": "white", "label": "failure"}
    axes.barh(labels[1:], lost, left=won, **look)
    totals = [table["before"].iloc[0], *table["after"]]
    removed = [0, *table["removed"]]
    for row, (total, gone) in enumerate(zip(totals, removed, strict=True)):
        text = f"  {total:,}" + (f"  (-{gone:,})" if gone else "")
        axes.text(total, row, text, va="center", fontsize=8)
    axes.set(xlabel="trajectories left", xlim=(0, totals[0] * 1.25))
    axes.set_title("What quality control removes")
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    legend_above(axes)
    return figure


@paper_style
def draw_scores(table: pd.DataFrame) -> Figure:
    """Draw how far failed runs got: the column ``score`` of ``report.table()``, failures only."""
    scores = table.loc[table["outcome"] == "failure", "score"]
    figure, axes = new_figure(height=2.0)
    axes.hist(scores, bins=[i / 20 for i in range(21)], color=COLORS[1], edgecolor="white")
    label = "quality score of a failed run (0: nothing right, 1: almost there)"
    axes.set(xlabel=label, ylabel="runs", xlim=(0, 1), title="How far failed runs got")
    return figure
