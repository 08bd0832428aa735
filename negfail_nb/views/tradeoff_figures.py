"""Figures of the trade-off (07); each draws a table of `negfail_nb.views.tradeoff` or
`negfail_nb.curves`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from negfail_nb.benchmarking import ARMS
from negfail_nb.curves import Curve
from negfail_nb.speed import BreakEven, Efficiencies, Measurement, Workload, break_even, speed_table
from negfail_nb.speed.ladder import CACHED, LONG, PIPELINE
from negfail_nb.views.agents import draw_note
from negfail_nb.views.axes import length_axis, plain_ticks
from negfail_nb.views.benchmark import LONG as LONG_ARM
from negfail_nb.views.benchmark import MEASURE_TITLES, arm_title, tokens_title
from negfail_nb.views.benchmark_figures import FULL_WIDTH, _cycled, _ends, _look
from negfail_nb.views.browse import Page, to_html
from negfail_nb.views.figures import COLORS, new_figure, paper_style
from negfail_nb.views.tradeoff import (
    COST_TITLES,
    KIND_TITLES,
    SPEED_TITLES,
    say_speed,
    say_tradeoff,
    show_speed,
    tradeoff_table,
)

FAINT = 0.35
KINDS: dict[str, dict[str, Any]] = {
    LONG: {"color": COLORS[0], "linestyle": "-", "marker": "o"},
    CACHED: {"color": COLORS[4], "linestyle": "--", "marker": "s"},
    PIPELINE: {"color": COLORS[1], "linestyle": "-.", "marker": ""},
}
PUBLISHED_TITLES = {"accuracy": "accuracy, %", "seconds": "seconds a question"}
NO_ROOM = "does not fit"
# The model's time: in its two parts, or as a whole where these are not known.
STAGES = {
    "prefill_seconds": ("waiting, reading the prompt", COLORS[4]),
    "decode_seconds": ("writing", COLORS[0]),
    "model_seconds": ("model, not split", COLORS[6]),
}


@paper_style()
def draw_tradeoff(table: pd.DataFrame) -> Figure:
    """Draw `tradeoff_table`: accuracy against cost, a panel a cost, up and left is better.

    The black line is the best that can be had for at most this cost, with its band. Arms that
    another one beats are faint, controls are hollow, and long contexts are joined from length to
    length.
    """
    costs = list(dict.fromkeys(table["against"]))
    figure, panels = new_figure(FULL_WIDTH, 3.0, len(costs), sharey=True, squeeze=False)
    for panel, cost in zip(panels[0], costs, strict=True):
        part = table[table["against"] == cost]
        arms = part[part["what"] == "arm"]
        if (arms["cost"] > 0).all():
            panel.set_xscale("log")
        _draw_frontier(panel, part[part["what"] == "frontier"])
        _draw_arms(panel, arms)
        if panel.get_xscale() == "log":
            panel.set_xlim(
                arms[["cost", "cost_low"]].min(axis=None) / 1.3,
                arms[["cost", "cost_high"]].max(axis=None) * 1.4,
            )
            plain_ticks(panel.xaxis)
        panel.set(xlabel=COST_TITLES[cost])
    top, arms = table["value_high"].max(), table[table["what"] == "arm"]
    panels[0][0].set(ylim=(-0.04 * max(top, 1), 1.06 * max(top, 1)))
    panels[0][0].set(ylabel=f"{MEASURE_TITLES[table['measure'].iloc[0]]}, %")
    asked, level = int(arms["questions"].max()), table["confidence"].iloc[0]
    panels[0][0].set_title(f"{asked:,} questions, {level:.0%} intervals")
    figure.legend(handles=_handles(arms), loc="outside right center", handlelength=2.2)
    return figure


def _handles(arms: pd.DataFrame) -> list[Line2D]:
    """Every arm in full colour, in the order of other figures; the frontier before them."""
    names = list(dict.fromkeys(LONG_ARM if arm.partition("@")[2] else arm for arm in arms["arm"]))
    names.sort(key=lambda name: list(ARMS).index(name) if name in ARMS else len(ARMS))
    controls, handles = (
        set(arms.loc[arms["control"].astype(bool), "arm"]),
        [Line2D([], [], color="black", linewidth=1)],
    )
    handles[0].set_label("frontier")
    for name in names:
        look = _look(name) | {"linestyle": "", "label": arm_title(name)}
        handles.append(
            Line2D(
                [], [], **look, markersize=6, markerfacecolor="white" if name in controls else None
            )
        )
    return handles


def _draw_frontier(panel: Axes, line: pd.DataFrame) -> None:
    if len(line):
        step = {"step": "post", "color": "#888888", "alpha": 0.2, "linewidth": 0, "zorder": 0}
        panel.fill_between(line["cost"], line["value_low"], line["value_high"], **step)
        panel.step(line["cost"], line["value"], where="post", color="black", linewidth=1, zorder=1)


def _draw_arms(panel: Axes, arms: pd.DataFrame) -> None:
    long = arms[arms["length"] > 0].sort_values("length")
    look = _look(LONG_ARM)
    panel.plot(
        long["cost"],
        long["value"],
        color=look["color"],
        linestyle=":",
        linewidth=1,
        alpha=0.7,
        zorder=1,
    )
    halo = [withStroke(linewidth=2, foreground="white")]  # readable over lines and bands
    for _, arm in arms.iterrows():
        _draw_arm(panel, arm.to_frame().T)
    height, before = 3, None
    for arm in long.itertuples():
        # One above the other where two lengths lie on the same spot.
        near = (
            before
            and abs(arm.value - before.value) < 4
            and abs(arm.cost - before.cost) <= 0.2 * arm.cost
        )
        height, before = (height + 9 if near else 3), arm
        words = {"textcoords": "offset points", "fontsize": 7, "path_effects": halo, "zorder": 5}
        panel.annotate(tokens_title(int(arm.length)), (arm.cost, arm.value), (5, height), **words)


def _draw_arm(panel: Axes, row: pd.DataFrame) -> None:
    arm = row.iloc[0]
    look = _look(arm["arm"]) | {"linestyle": ""}
    bold = bool(arm["on_frontier"]) or bool(arm["control"])
    bars = {"capsize": 0, "elinewidth": 0.8, "alpha": 0.8 if bold else FAINT, "zorder": 2}
    ends = _ends(row, "cost"), _ends(row, "value")
    panel.errorbar(
        row["cost"], row["value"], ends[1], ends[0], fmt="none", ecolor=look["color"], **bars
    )
    fill = "white" if arm["control"] else look["color"]
    panel.plot(
        row["cost"], row["value"], **look, alpha=1 if bold else FAINT, zorder=3, markerfacecolor=fill, markersize=6
    )  # fmt: skip


@paper_style()
def draw_split(table: pd.DataFrame) -> Figure:
    """Draw `split_table`: mean seconds of a question, those of retrieval hatched, an arm a row.

    Where the model says when its first tokens came, its time is split there.
    """
    timed = table[table["model_seconds"].notna()]
    if timed.empty:
        return draw_note("No question got a reply, so there is no time to split.")
    figure, axes = new_figure(FULL_WIDTH, 1.2 + 0.24 * len(timed))
    rows, found = np.arange(len(timed))[::-1], timed["retrieval_seconds"]
    axes.barh(
        rows,
        found,
        0.6,
        color=COLORS[1],
        hatch="////",
        edgecolor="white",
        linewidth=0,
        label="retrieval",
    )
    ends = _ends(timed, "model_seconds")
    error = {"ecolor": "#333333", "elinewidth": 0.8, "capsize": 2}
    left = found
    for name, (label, color) in STAGES.items():
        known = timed["prefill_seconds"].notna()
        part = timed[name].where(known if name != "model_seconds" else ~known)
        if part.notna().any():
            axes.barh(rows, part, 0.6, left, color=color, label=label)
            left = left + part.fillna(0)
    axes.barh(rows, timed["model_seconds"], 0.6, found, xerr=ends, color="none", error_kw=error)
    reach = (found + timed["model_seconds"]).to_numpy() + ends[1]
    for row, at, seconds in zip(rows, reach, found, strict=True):
        note = f"retrieval {1000 * seconds:.1f} ms" if seconds else ""
        axes.annotate(note, (at, row), (5, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(rows, [arm_title(arm) for arm in timed["arm"]])
    axes.set(xlabel="mean seconds a question", title=f"{int(timed['questions'].max()):,} questions")
    axes.set_xlim(0, 1.2 * reach.max())
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@paper_style()
def draw_speed(
    table: pd.DataFrame,
    even: BreakEven | None = None,
    time: str = "ttft_seconds",
    rate: str = "requests_per_second",
    title: str = "",
) -> Figure:
    """Draw `speed_table`: time of one request alone (left) and throughput under load (right),
    against the length.

    Lines are predicted, hollow points measured. A cross at the bottom: this length does not fit.

    Parameters
    ----------
    table
        Of `negfail_nb.curves.speed_table`.
    even
        The break-even length, a vertical line with its interval; ``None``: none is drawn.
    time, rate
        Columns of the table.
    title
        What was predicted, such as the GPUs.

    Raises
    ------
    ValueError
        For a column that the table does not have.
    """
    if unknown := [name for name in (time, rate) if name not in SPEED_TITLES]:
        raise ValueError(f"unknown speed {unknown[0]!r}; use one of {', '.join(SPEED_TITLES)}")
    figure, panels = new_figure(FULL_WIDTH, 3.0, 2)
    for panel, name in zip(panels, (time, rate), strict=True):
        _draw_kinds(panel, table, name)
        lengths = sorted(set(table.loc[table["kind"] == LONG, "length"]))
        length_axis(panel, lengths)
        panel.set(yscale="log", ylabel=SPEED_TITLES[name])
        plain_ticks(panel.yaxis)
        _draw_lost(panel, table, lengths)
    if even and even.tokens is not None:
        _draw_even(panels[0], even, max(lengths))
    panels[0].set_title(title)
    shown = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    shown |= dict(zip(*reversed(panels[1].get_legend_handles_labels()), strict=True))
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=3, handlelength=2.8
    )
    return figure


def _draw_kinds(panel: Axes, table: pd.DataFrame, name: str) -> None:
    for kind, look in KINDS.items():
        rows = table[(table["kind"] == kind) & table[name].notna()]
        line, points = rows[rows["source"] == "predicted"], rows[rows["source"] == "measured"]
        label, shade = KIND_TITLES[kind], {"color": look["color"], "alpha": 0.15, "linewidth": 0}
        if kind == PIPELINE and len(line):
            row = line.iloc[0]
            calls = f"{label}, {row['calls']:.0f} call{'s' if row['calls'] > 1 else ''}"
            panel.axhline(row[name], color=look["color"], linestyle=look["linestyle"], label=calls)
            panel.axhspan(row[f"{name}_low"], row[f"{name}_high"], **shade)
        elif len(line):
            panel.fill_between(line["length"], line[f"{name}_low"], line[f"{name}_high"], **shade)
            panel.plot(line["length"], line[name], label=label, **look)
        if len(points):
            hollow = {
                "color": "black",
                "linestyle": "",
                "marker": "D",
                "markerfacecolor": "white",
                "zorder": 4,
            }
            panel.plot(points["length"], points[name], label="measured", **hollow)


def _draw_lost(panel: Axes, table: pd.DataFrame, lengths: list[int]) -> None:
    lost = table[(table["kind"] == LONG) & (table["source"] == "predicted") & (table["note"] != "")]
    if len(lost):
        place = {"transform": panel.get_xaxis_transform(), "clip_on": False, "zorder": 4}
        look = {"color": "#B00020", "linestyle": "", "marker": "x", "markersize": 6}
        panel.plot(lost["length"], np.full(len(lost), 0.04), label=NO_ROOM, **look, **place)


def _draw_even(panel: Axes, even: BreakEven, longest: int) -> None:
    low, high = (longest * 1.15 if end is None else end for end in (even.low, even.high))
    panel.axvspan(low, high, color="#888888", alpha=0.15, linewidth=0, zorder=0)
    panel.axvline(
        even.tokens,
        color="#333333",
        linewidth=1,
        zorder=1.5,
        label=f"break-even, {even.tokens:,} tokens",
    )


@paper_style()
def draw_published(table: pd.DataFrame, ours: pd.DataFrame | None = None) -> Figure:
    """Draw `literature_table` against the length, a panel a kind, and one's own long contexts
    before it.

    Parameters
    ----------
    table
        Of `negfail_nb.curves.literature_table`.
    ours
        Own points: ``kind`` (``"accuracy"``, percent, or ``"seconds"``), ``length``, ``value``;
        ``None``: none.
    """
    kinds = list(dict.fromkeys(table["kind"]))
    figure, panels = new_figure(FULL_WIDTH, 3.0, len(kinds), squeeze=False)
    for panel, kind in zip(panels[0], kinds, strict=True):
        part = table[table["kind"] == kind]
        for (name, rows), look in zip(part.groupby("name", sort=False), _cycled(), strict=False):
            panel.plot(
                rows["length"], rows["value"], label=name, **look | {"color": "#666666"}, alpha=0.9
            )
        lengths = set(part["length"]) if kind == "accuracy" else {16_384, 32_768, 65_536, 131_072}
        own = (
            ours[ours["kind"] == kind].sort_values("length") if ours is not None else part.iloc[:0]
        )
        if len(own):
            panel.plot(
                own["length"],
                own["value"],
                label="own long contexts",
                **_look(LONG_ARM),
                markersize=6,
            )
        length_axis(panel, sorted(lengths | set(own["length"])))
        panel.set(ylabel=PUBLISHED_TITLES[kind], yscale="log" if kind == "seconds" else "linear")
        if kind == "seconds":
            plain_ticks(panel.yaxis)
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=7, handlelength=2.8)
    return figure


def tradeoff_page(
    curve: Curve, measure: str = "em", costs: Sequence[str] = ("seconds_p50", "tokens")
) -> Page:
    """Return figure and sentence of one choice of measure and costs, for controls to change; equal
    costs once.
    """
    table = tradeoff_table(curve, measure, tuple(dict.fromkeys(costs)))
    return Page(to_html(draw_tradeoff(table)) + say_tradeoff(table).html)


def speed_page(
    architecture: str,
    hardware: str,
    pipeline: Workload,
    measured: Sequence[Measurement] = (),
    efficiencies: Efficiencies = Efficiencies(),
    tool_seconds: float = 0.0,
    load: int = 0,
    **drawn: str,
) -> Page:
    """Return prediction, figure, sentence and table for one choice of GPUs and pipeline, for
    controls to change.

    Parameters
    ----------
    architecture, hardware, pipeline, measured, efficiencies, tool_seconds, load
        As `negfail_nb.curves.speed_table` takes them.
    drawn
        ``time`` and ``rate`` of `draw_speed`.
    """
    said = {"pipeline": pipeline, "efficiencies": efficiencies, "tool_seconds": tool_seconds}
    table = speed_table(architecture, hardware, **said, load=load, measured=measured)
    # Without room for the pipeline there is nothing to break even with; the table says why.
    fits = table.loc[table["kind"] == PIPELINE, "note"].iloc[0] == ""
    even = break_even(architecture, hardware, **said) if fits else None
    title = f"{architecture}, {pipeline.tensor_parallel} x {hardware}, {pipeline.weights}"
    figure = draw_speed(table, even, title=title, **drawn)
    return Page(to_html(figure) + say_speed(table, even).html + to_html(show_speed(table)))
