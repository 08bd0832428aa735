"""07: published times to the first token of a 70B beside the predicted ones."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from negfail_nb.views.figures import (
    COLORS,
    FULL_WIDTH,
    MARKERS,
    length_axis,
    new_figure,
    paper_style,
)
from negfail_nb.views.layout import legend_outside

MEASURED, PREDICTED = "measured", "predicted"


@paper_style
def draw_ladders(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw `negfail_nb.speed.published_ladders`: time to the first token against the prompt, a
    colour for each hardware and engine.

    Hollow points are published, lines predicted with their 95 % band; hardware that is not modelled
    has points only.
    """
    figure, panel = new_figure(FULL_WIDTH, 3.4)
    for number, (name, part) in enumerate(table.groupby("ladder", sort=False)):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        line, points = part[part["source"] == PREDICTED], part[part["source"] == MEASURED]
        panel.fill_between(
            line["tokens"], line["low"], line["high"], color=color, alpha=0.12, linewidth=0
        )
        panel.plot(line["tokens"], line["seconds"], color=color, linewidth=1.2)
        look = {"color": color, "marker": marker, "markerfacecolor": "white", "linestyle": ""}
        panel.plot(points["tokens"], points["seconds"], label=name, zorder=4, **look)
    tokens = table.loc[table["source"] == MEASURED, "tokens"]
    length_axis(panel, [2**n for n in range(5, 19) if tokens.min() / 2 < 2**n <= tokens.max()])
    panel.set(yscale="log", ylabel="time to first token, s", title=title)
    decades = [10.0**n for n in range(-4, 7)]
    low, high = panel.get_ylim()
    panel.set_yticks([tick for tick in decades if low <= tick <= high])
    panel.yaxis.set_major_formatter("{x:,g}")
    handles, labels = panel.get_legend_handles_labels()
    legend_outside(figure, handles, labels)
    figure.caption = _caption(table)
    return figure


def _caption(table: pd.DataFrame) -> str:
    """How far predictions are off, and what is not predicted."""
    points = table[table["source"] == MEASURED]
    words = [
        f"{len(points)} published points, hollow, 0 questions, none of them fitted.",
        "Lines are predicted, with their 95 % band.",
    ]
    for name, part in points.groupby("ladder", sort=False):
        off = part["error"].dropna()
        if len(off):
            words.append(f"{name}: off by {off.min():+.0%} to {off.max():+.0%}.")
        else:
            words.append(f"{name}: not modelled.")
    return " ".join(words)
