"""Pictures of logs (01) and of their quality control (02): for each the table of numbers, and its
drawing.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from negfail_nb.trajectory import Trajectory
from negfail_nb.views.figures import COLORS, FAILURE, SUCCESS, UNLABELLED, new_figure, paper_style

OUTCOMES = {
    "success": (SUCCESS, ""),
    "failure": (FAILURE, "///"),
    "unlabelled": (UNLABELLED, "..."),
}


def outcome_table(trajectories: Iterable[Trajectory]) -> pd.DataFrame:
    """Return one row a log: how many successes, failures and unlabelled runs, and how many
    questions.

    A log is one task of one format, such as ``mint math``.
    """
    rows = [(f"{t.source.format} {t.task}", t.outcome, t.question_id) for t in trajectories]
    frame = pd.DataFrame(rows, columns=["log", "outcome", "question"])
    table = frame.groupby(["log", "outcome"]).size().unstack(fill_value=0)
    table = table.reindex(columns=list(OUTCOMES), fill_value=0)
    table["questions"] = frame.groupby("log")["question"].nunique()
    return table.sort_values("failure", ascending=False).reset_index()


@paper_style()
def draw_outcomes(table: pd.DataFrame) -> Figure:
    """Draw `outcome_table` as stacked bars."""
    figure, axes = new_figure(height=1.0 + 0.34 * len(table))
    left = pd.Series(0, index=table.index)
    for outcome, (color, hatch) in OUTCOMES.items():
        if table[outcome].any():
            axes.barh(
                table["log"],
                table[outcome],
                left=left,
                color=color,
                hatch=hatch,
                edgecolor="white",
                label=outcome,
            )
            left = left + table[outcome]
    for row, (total, won) in enumerate(zip(left, table["success"], strict=True)):
        axes.text(total, row, f"  {won / max(total, 1):.0%} of {total:,}", va="center", fontsize=8)
    axes.set(xlabel="trajectories", xlim=(0, left.max() * 1.22), title="Most runs fail")
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    _legend_above(axes)
    return figure


def termination_table(trajectories: Iterable[Trajectory]) -> pd.DataFrame:
    """Return how often runs of each outcome ended in which way."""
    frame = pd.DataFrame(
        [(t.termination, t.outcome) for t in trajectories], columns=["termination", "outcome"]
    )
    return frame.value_counts().rename("trajectories").reset_index()


@paper_style()
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


@paper_style()
def draw_funnel(funnel: pd.DataFrame) -> Figure:
    """Draw ``report.funnel()``: what is left after each filter that is on, successes and failures
    apart.
    """
    table = funnel[funnel["setting"] != "off"].reset_index(drop=True)
    labels = ["as read", *table["filter"].str.replace("_", " ")]
    figure, axes = new_figure(height=0.7 + 0.24 * len(labels))
    axes.barh(labels[0], table["before"].iloc[0], color=UNLABELLED)
    won, lost = table["successes after"], table["failures after"]
    axes.barh(labels[1:], won, color=SUCCESS, label="success")
    axes.barh(
        labels[1:], lost, left=won, color=FAILURE, hatch="///", edgecolor="white", label="failure"
    )
    totals, removed = [table["before"].iloc[0], *table["after"]], [0, *table["removed"]]
    for row, (total, gone) in enumerate(zip(totals, removed, strict=True)):
        axes.text(
            total, row, f"  {total:,}" + (f"  (-{gone:,})" if gone else ""), va="center", fontsize=8
        )
    axes.set(
        xlabel="trajectories left", title="What quality control removes", xlim=(0, totals[0] * 1.25)
    )
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    _legend_above(axes)
    return figure


@paper_style()
def draw_scores(table: pd.DataFrame) -> Figure:
    """Draw how far failed runs got: a histogram of the column ``score`` of failures in
    ``report.table()``.
    """
    failures = table[table["outcome"] == "failure"]
    figure, axes = new_figure(height=2.0)
    axes.hist(
        failures["score"], bins=[i / 20 for i in range(21)], color=COLORS[1], edgecolor="white"
    )
    axes.set(
        xlabel="quality score of a failed run (0: nothing right, 1: almost there)",
        ylabel="runs",
        xlim=(0, 1),
    )
    axes.set_title("How far failed runs got")
    return figure


def _legend_above(axes: Axes) -> None:
    """Beside the title, where no bar can be."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1)
