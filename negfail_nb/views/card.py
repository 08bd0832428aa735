"""A measured card (07): what its layers take, beside what was predicted before and after the fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from negfail_nb.speed import MeasuredGpu
from negfail_nb.views.agents import draw_note
from negfail_nb.views.axes import length_axis, plain_ticks
from negfail_nb.views.benchmark_figures import FULL_WIDTH
from negfail_nb.views.browse import Page, note
from negfail_nb.views.figures import COLORS, MARKERS, new_figure, paper_style

MEASURED = "measured"
# What a panel shows, and how many of its unit are a second.
PHASES = {"prefill": ("one prompt, s", 1.0), "decode": ("one step, ms", 1e3)}
# How lines of the first two predictions look: before any row of this card, and fitted to them.
_DASHES = ((0, (1, 1.5)), "-")


@paper_style()
def draw_card(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw `negfail_nb.curves.gpu_table`: prefill (left) and decode (right) against the length, a
    row a precision.

    Points are measured medians with their quartiles, lines are predicted: dotted the first of the
    table, drawn through the second. Of several models the first is drawn, of several numbers of
    layers its first.
    """
    if table.empty:
        return draw_note("Nothing was measured; the file says why.")
    first = table.iloc[0]
    part = table[(table["model"] == first["model"]) & (table["layers"] == first["layers"])]
    # A model that is measured whole, too, has its slice measured twice.
    part = part.drop_duplicates(["weights", "phase", "tokens", "asked", "source"])
    weights = list(dict.fromkeys(part["weights"]))
    figure, panels = new_figure(
        FULL_WIDTH, 0.8 + 2.3 * len(weights), 2, len(weights), squeeze=False
    )
    for row, precision in zip(panels, weights, strict=True):
        for panel, (phase, (label, scale)) in zip(row, PHASES.items(), strict=True):
            rows = part[(part["weights"] == precision) & (part["phase"] == phase)]
            if rows.empty:
                panel.set_axis_off()
                continue
            _draw_batches(
                panel,
                rows.assign(**{name: scale * rows[name] for name in ("seconds", "low", "high")}),
            )
            length_axis(panel, sorted(set(rows["tokens"])))
            panel.set(yscale="log", ylabel=label, title=f"{phase}, {precision}")
            plain_ticks(panel.yaxis)
    figure.suptitle(title, fontsize=9, fontweight="bold", x=0.01, ha="left")
    figure.legend(handles=_handles(part), loc="outside lower center", ncols=3, handlelength=2.4)
    return figure


def _draw_batches(panel: Axes, rows: pd.DataFrame) -> None:
    lines = [name for name in dict.fromkeys(rows["source"]) if name != MEASURED][: len(_DASHES)]
    for (_, part), color, marker in zip(_by_batch(rows), COLORS, MARKERS, strict=False):
        for name, dashes in zip(lines, _DASHES, strict=False):
            line = part[part["source"] == name].sort_values("tokens")
            panel.plot(
                line["tokens"], line["seconds"], color=color, linestyle=dashes, linewidth=1.2
            )
        points = part[part["source"] == MEASURED]
        spans = np.array([points["seconds"] - points["low"], points["high"] - points["seconds"]])
        hollow = {"marker": marker, "markerfacecolor": "white", "markersize": 5, "zorder": 4}
        panel.errorbar(
            points["tokens"], points["seconds"], spans, fmt="none", ecolor=color, elinewidth=0.8
        )
        panel.plot(points["tokens"], points["seconds"], color=color, linestyle="", **hollow)


def _by_batch(rows: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """Cells by the batch that was asked for: one that memory cut stays in its line."""
    return [(int(batch), part) for batch, part in rows.groupby("asked", sort=True)]


def _handles(part: pd.DataFrame) -> list[Line2D]:
    handles = []
    for (batch, _), color, marker in zip(_by_batch(part), COLORS, MARKERS, strict=False):
        look = {"color": color, "marker": marker, "markerfacecolor": "white", "linestyle": ""}
        handles.append(Line2D([], [], **look, label=f"measured, {batch} at a time"))
    names = [name for name in dict.fromkeys(part["source"]) if name != MEASURED]
    for name, dashes in zip(names, _DASHES, strict=False):
        handles.append(
            Line2D(
                [], [], color="#333333", linestyle=dashes, linewidth=1.2, label=f"predicted, {name}"
            )
        )
    return handles


def say_card(table: pd.DataFrame, card: MeasuredGpu) -> Page:
    """Return what `draw_card` shows in words: from how many cells, how far predictions are off, and
    what is missing.
    """
    cells = int((table["source"] == MEASURED).sum())
    words = [
        f"{cells} cells measured on {card.hardware.name}, medians with quartiles, random weights, no questions."
    ]
    for name, rows in table[table["source"] != MEASURED].groupby("source", sort=False):
        off = rows["error"].abs()
        words.append(
            f"Predicted, {name}: off by {off.median():.0%} in the median, {off.quantile(0.9):.0%} at p90."
        )
    if left := [row for row in card.rows if "seconds" not in row]:
        cell = f"{left[0]['phase']} of {left[0]['tokens']:,} tokens: {left[0]['note']}"
        words.append(f"{len(left)} of those planned are left out, such as {cell}.")
    if cut := [row for row in card.rows if "seconds" in row and row["batch"] < row["asked"]]:
        words.append(
            f"{len(cut)} have fewer sequences than asked for, as memory has no room for more."
        )
    if not card.finished:
        words.append("The run was stopped before its end.")
    return note(" ".join(words))
