"""07: the question itself: read everything or retrieve, in one figure and one paragraph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from pandas.io.formats.style import Styler

from negfail_nb.curves.answer import MEASURED, PREDICTED, PUBLISHED, QUESTIONS
from negfail_nb.speed.ladder import CACHED, LONG, PIPELINE
from negfail_nb.views.figures import (
    COLORS,
    FULL_WIDTH,
    length_axis,
    log_ticks,
    new_figure,
    paper_style,
    plain_ticks,
    tokens_title,
)
from negfail_nb.views.layout import label_points, legend_outside, write_small
from negfail_nb.views.pages import number, readable, spans
from negfail_nb.views.speed import KINDS

_STEPS = (COLORS[1], COLORS[2], COLORS[3])
_SHAPES = "os^Dv<>"  # those that can be hollow
_HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 1.2}


def way_title(way: str, calls: int) -> str:
    """Return how a way to an answer is called: ``retrieval, 3 steps``."""
    return f"{way}, {calls:.0f} step{'s' if calls > 1 else ''}" if way == PIPELINE else way


def show_answer(table: pd.DataFrame, currency: str = "") -> Styler:
    """Return `negfail_nb.curves.answer.answer_table` for reading."""
    table = table[table["kind"] == PREDICTED].reset_index(drop=True)
    rows = pd.DataFrame(
        {"way": [way_title(*pair) for pair in zip(table["way"], table["calls"], strict=True)]}
    )
    rows["tokens"] = [tokens_title(int(length)) for length in table["length"]]
    rows["seconds, alone"] = spans(table, "seconds", number)
    rows["questions a second, full server"] = spans(table, "rate", number)
    if table["money"].notna().any():
        rows[f"{currency} for {QUESTIONS:,} questions".strip()] = spans(table, "money", number)
    return readable(rows.assign(note=table["note"]))


def show_changes(table: pd.DataFrame) -> Styler:
    """Return `negfail_nb.curves.answer.changes_table` for reading."""
    rows = table[["changed", "to"]].copy()
    rows["break-even, tokens"] = spans(table, "tokens", _tokens, ends=("low", "high"))
    return readable(rows.assign(note=table["note"]))


def _tokens(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:,.0f}"


@paper_style
def draw_answer(table: pd.DataFrame, title: str = "", currency: str = "") -> Figure:
    """Draw accuracy against the seconds of one question (left), and what a full server answers
    against the length of the context (right).

    Hollow points: published accuracy at predicted seconds. Full points: measured. Lines and bands
    without points: predicted, with 95 % intervals.

    Parameters
    ----------
    table
        Of `negfail_nb.curves.answer.answer_table`.
    title
        The model and its GPUs.
    currency
        Of money; the right panel then has a second axis.
    """
    ways = table[table["kind"] == PREDICTED]
    published, measured = (table[table["kind"] == kind] for kind in (PUBLISHED, MEASURED))
    figure, (left, right) = new_figure(FULL_WIDTH, 3.4, 2)
    _draw_steps(left, ways, "seconds")
    _draw_published(left, published)
    _draw_measured(left, measured)
    left.set(xscale="log", xlabel="seconds of one question alone", ylabel="accuracy, %")
    left.set_title(title)
    plain_ticks(left.xaxis)
    _draw_rates(right, ways)
    _money_axis(right, ways, currency)
    shown: dict[str, Any] = {}
    for panel in (left, right):
        handles, labels = panel.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    legend_outside(figure, list(shown.values()), list(shown), handlelength=2.4)
    _name_lengths(left, pd.concat([published, measured]))
    figure.caption = _caption(table[table["kind"] != PREDICTED])
    return figure


def _draw_steps(panel: Axes, table: pd.DataFrame, name: str) -> None:
    """A line with its band for each number of steps: upright for seconds, level for rates."""
    line, span = (
        (panel.axvline, panel.axvspan) if name == "seconds" else (panel.axhline, panel.axhspan)
    )
    rows = table[(table["way"] == PIPELINE) & table[name].notna()].sort_values("calls")
    for color, (_, row) in zip(_STEPS, rows.iterrows(), strict=False):
        label = f"{way_title(PIPELINE, row['calls'])}, predicted"
        line(row[name], color=color, linestyle="-.", linewidth=1, label=label, zorder=1)
        span(row[f"{name}_low"], row[f"{name}_high"], color=color, alpha=0.1, linewidth=0, zorder=0)


def _draw_published(panel: Axes, points: pd.DataFrame) -> None:
    named = zip(points.groupby("name", sort=False), _SHAPES, strict=False)
    for (name, rows), marker in named:
        rows = rows.sort_values("length")
        long = rows["way"].iloc[0] == LONG
        look = {"color": COLORS[0], "linestyle": "-"} if long else {"color": "#555555"}
        look |= {"marker": marker, "linewidth": 0.8, **_HOLLOW}
        label = f"{name}, published"
        panel.plot(rows["seconds"], rows["accuracy"], label=label, **{"linestyle": "", **look})


def _name_lengths(panel: Axes, points: pd.DataFrame) -> None:
    """Write its length beside one point of each length, last, so that no point is hidden."""
    ladder = points[points["way"] == LONG].drop_duplicates("length")
    names = [(tokens_title(int(r.length)), r.seconds, r.accuracy) for r in ladder.itertuples()]
    marks = points[["seconds", "accuracy"]].itertuples(index=False)
    label_points(panel, names, marks, write_small(panel))


def _draw_measured(panel: Axes, points: pd.DataFrame) -> None:
    for i, row in enumerate(points.to_dict("records")):
        look = {"color": "black", "marker": _SHAPES[i % len(_SHAPES)], "linestyle": ""}
        panel.plot(row["seconds"], row["accuracy"], label=f"{row['name']}, measured", **look)


def _draw_rates(panel: Axes, table: pd.DataFrame) -> None:
    for way in (LONG, CACHED):
        rows = table[(table["way"] == way) & table["rate"].notna()]
        look = KINDS[way] | {"marker": ""}
        shade = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
        panel.fill_between(rows["length"], rows["rate_low"], rows["rate_high"], **shade)
        panel.plot(rows["length"], rows["rate"], label=f"{way}, predicted", **look)
    _draw_steps(panel, table, "rate")
    length_axis(panel, sorted(set(table.loc[table["way"] == LONG, "length"])))
    panel.set(yscale="log", ylabel="questions a second, full server")
    plain_ticks(panel.yaxis)


def _money_axis(panel: Axes, table: pd.DataFrame, currency: str) -> None:
    known = table[table["money"].notna()]
    if known.empty:
        return
    price = float((known["money"] * known["rate"]).iloc[0])  # money x rate is the same in each row

    def turned(values: np.ndarray) -> np.ndarray:
        return price / np.maximum(values, 1e-12)

    axis = panel.secondary_yaxis("right", functions=(turned, turned))
    axis.set_ylabel(f"{currency} for {QUESTIONS:,} questions".strip())
    low, high = panel.get_ylim()
    axis.yaxis.set_major_locator(FixedLocator(log_ticks(price / high, price / low)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _caption(points: pd.DataFrame) -> str:
    lines = ["Hollow: published accuracy at predicted seconds. Measures differ between names."]
    for row in points.drop_duplicates("name").to_dict("records"):
        lines.append(f"{row['name']}: {row['measure']}; {row['source']} ({row['kind']}).")
    return "\n".join(lines)
