"""06: figures of the benchmark; each draws a table of `negfail_nb.views.benchmark` and nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from negfail_nb.views.benchmark import MEASURE_TITLES, NO_GOLD, NOT_LONG
from negfail_nb.views.figures import (
    COLORS,
    FULL_WIDTH,
    LONG,
    Look,
    arm_title,
    draw_note,
    draw_row,
    length_axis,
    lines_of,
    look_of,
    looks,
    name_rows,
    new_figure,
    number_axis,
    paper_style,
    reach,
    rows_of,
    tokens_title,
)
from negfail_nb.views.layout import BESIDE, legend_outside

NOT_MEASURED = "No arm has the measure {}: replies are asked to cite only where passages are shown"
FOUND = {"recall": "Gold passages found (R@k), %", "all_gold": "All gold passages found, %"}
DOTS = "#999999"
SPREAD = 0.3  # height that the dots of one length spread over, of 1
SHOWN_GROUPS = 4


@paper_style
def draw_retrieval(table: pd.DataFrame) -> Figure:
    """Draw `retrieval_table`: left the share of the gold passages among the first k, right how
    often all are there.
    """
    if table.empty:
        return draw_note(NO_GOLD)
    figure, panels = new_figure(FULL_WIDTH, 2.4, columns=2, sharey=True)
    methods = list(dict.fromkeys(table["method"]))
    for panel, (measure, title) in zip(panels, FOUND.items(), strict=True):
        part = table[(table["group"] == "all") & (table["measure"] == measure)]
        for place, (method, look) in enumerate(zip(methods, looks(), strict=False)):
            rows = part[part["method"] == method]
            # Beside each other, so that intervals do not hide one another.
            at = rows["k"].to_numpy(float) * 1.03 ** (place - (len(methods) - 1) / 2)
            ends = reach(rows, "value", "low", "high")
            panel.errorbar(at, rows["value"], ends, capsize=2, label=method, **look)
        ks = sorted(part["k"].unique())
        panel.set_xscale("log")
        number_axis(panel, ks, [f"{k:g}" for k in ks])
        panel.set(xlabel="first k passages", title=title)
    panels[0].set_ylim(top=103)
    legend_outside(figure, *panels[1].get_legend_handles_labels())
    return figure


@paper_style
def draw_places(table: pd.DataFrame) -> Figure:
    """Draw `place_table`: where gold stands in the contexts of each length, a dot per gold passage.

    Those of one question are joined by lines from length to length: their order stays, their depth
    need not.
    """
    if table.empty:
        return draw_note(NOT_LONG)
    lengths = sorted(table["target"].unique())
    figure, axes = new_figure(height=1.3 + 0.34 * len(lengths))
    rows = {length: row for row, length in enumerate(lengths)}
    groups = table.groupby("target")
    spread = groups.cumcount() / groups["depth"].transform("size") - 0.5
    heights = table["target"].map(rows) + 2 * SPREAD * spread
    axes.plot(table["depth"], heights, "o", color=DOTS, markersize=2.5, markeredgewidth=0)
    # The first of the questions with most gold passages.
    most = table[table["question_id"] == table.loc[table["gold"].idxmax(), "question_id"]]
    for (gold, part), look in zip(most.groupby("gold"), looks(), strict=False):
        part = part.sort_values("target")
        label = f"gold passage {gold} of one question"
        axes.plot(part["depth"], part["target"].map(rows), label=label, **look)
    name_rows(axes, rows.values(), [tokens_title(int(length)) for length in rows])
    axes.set(xlabel="place of gold in the context (0: first, 1: last)", ylabel="context length")
    asked = table["question_id"].nunique()
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(lengths) - 0.4))
    axes.set_title(f"Where gold stands, {asked:,} questions")
    legend_outside(figure, ncols=2)
    return figure


@paper_style
def draw_accuracy(table: pd.DataFrame, measure: str = "em") -> Figure:
    """Draw `reading_table`: arms that have lengths along them, and all others as flat lines beside
    them. Of several readers the last is drawn so; the others are hollow, and dotted.

    Parameters
    ----------
    table
        Of `negfail_nb.views.reading_table`, arms only.
    measure
        One of `negfail_nb.benchmarking.scores.MEASURES`.

    Raises
    ------
    ValueError
        For another measure.
    """
    table = _with(table, measure)
    if table.empty:
        return draw_note(NOT_MEASURED.format(MEASURE_TITLES[measure]))
    every = table
    table, others = _split_readers(table)
    long = table[table["length"] > 0].sort_values("length")
    flat = table[table["length"] == 0]
    lengths = long["length"].nunique()
    widths = [2 + lengths] * (lengths > 0) + [1 + 0.5 * len(flat)] * (len(flat) > 0)
    given = {"sharey": True, "squeeze": False, "width_ratios": widths}
    figure, (panels,) = new_figure(FULL_WIDTH, 2.8, len(widths), **given)
    if len(long):
        _draw_lengths(panels[0], long, measure)
    if len(flat):
        _draw_flat(panels, flat, measure)
    for part in others:
        _draw_other(panels, part, list(flat["arm"]), measure)
    asked = int(table["questions"].max())
    confidence = table["confidence"].iloc[0]
    top = max(np.nanmax(every[[measure, f"{measure}_high"]].to_numpy(float)), 1)
    panels[0].set(ylabel=f"{MEASURE_TITLES[measure]}, %", ylim=(-0.04 * top, 1.06 * top))
    panels[0].set_title(f"{asked:,} questions, {confidence:.0%} intervals")
    found = [panel.get_legend_handles_labels() for panel in panels]
    # Without the bars, so that markers and dashes can be told apart.
    shown = [bars[0] for handles, _ in found for bars in handles]
    names = [name for _, labels in found for name in labels]
    for reader in dict.fromkeys(every.get("reader", ())):
        shown.append(Line2D([], [], **_mark(reader != table["reader"].iloc[0])))
        names.append(reader)
    legend_outside(figure, shown, names, "right", handlelength=2.6)
    return figure


def _split_readers(table: pd.DataFrame) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Return the rows of the last reader, and those of each other one."""
    if "reader" not in table:
        return table, []
    *others, last = (part for _, part in table.groupby("reader", sort=False))
    return last, others


def _mark(hollow: bool) -> Look:
    look = {"color": "black", "marker": "o", "linestyle": "", "markersize": 6}
    return look | {"markerfacecolor": "white" if hollow else "black"}


def _draw_other(panels: Sequence[Axes], part: pd.DataFrame, flat: list[str], measure: str) -> None:
    """Hollow, beside the dots of the reader that is shown."""
    hollow = {"markerfacecolor": "white", "markersize": 5, "zorder": 2, "capsize": 2}
    for name, long in lines_of(part):
        look = look_of(name) | hollow | {"linestyle": ":"}
        panels[0].errorbar(long["length"] * 1.04, long[measure], reach(long, measure), **look)
    for _, row in part[part["arm"].isin(flat)].iterrows():
        look = look_of(row["arm"]) | hollow | {"linestyle": ""}
        at = flat.index(row["arm"]) + 0.3
        panels[-1].errorbar([at], [row[measure]], reach(row.to_frame().T, measure), **look)


def _draw_lengths(panel: Axes, long: pd.DataFrame, measure: str) -> None:
    for place, (name, line) in enumerate(lines_of(long)):
        look = look_of(name)
        if name == LONG:
            band = {"color": look["color"], "alpha": 0.18, "linewidth": 0}
            ends = line[f"{measure}_low"], line[f"{measure}_high"]
            panel.fill_between(line["length"], *ends, **band)
        # Beside each other, so that intervals do not hide one another.
        at = line["length"] * 1.07 ** (place * (-1) ** place)
        look |= {"capsize": 2, "zorder": 3, "label": arm_title(name)}
        panel.errorbar(at, line[measure], reach(line, measure), **look)
    length_axis(panel, sorted(set(long["length"])))


def _draw_flat(panels: Sequence[Axes], flat: pd.DataFrame, measure: str) -> None:
    """In the last panel a dot with its interval; its line goes through all panels, in the same
    colour and dashes.
    """
    last = panels[-1]
    for place, (_, row) in enumerate(flat.iterrows()):
        look = look_of(row["arm"])
        line = {"linewidth": 1, "alpha": 0.8, "zorder": 1}
        line |= {name: look[name] for name in ("color", "linestyle")}
        for panel in panels:
            end = {"xmax": (place + 0.5) / len(flat)} if panel is last else {}
            panel.axhline(row[measure], **line, **end)
        look |= {"capsize": 2, "zorder": 3, "label": arm_title(row["arm"])}
        last.errorbar([place], [row[measure]], reach(row.to_frame().T, measure), **look)
    last.set(xlim=(-0.5, len(flat) - 0.5), xticks=[], xlabel="other arms")


@paper_style
def draw_groups(table: pd.DataFrame, measure: str = "em", column: str = "type") -> Figure:
    """Draw `reading_table` split by a column: a panel per group, a row per arm, with intervals.

    Groups beyond the four with most questions are left out, and the title counts them.
    """
    table = _with(table, measure)
    if table.empty:
        return draw_note(NOT_MEASURED.format(MEASURE_TITLES[measure]))
    sizes = table.groupby(column, sort=False)["questions"].max()
    sizes = sizes.sort_values(ascending=False, kind="stable")
    shown = list(sizes.index[:SHOWN_GROUPS])
    rows = rows_of(table["arm"])
    given = {"sharex": True, "sharey": True, "squeeze": False}
    figure, panels = new_figure(FULL_WIDTH, 0.95 + 0.22 * len(rows), len(shown), **given)
    for panel, group in zip(panels[0], shown, strict=True):
        _draw_rows(panel, table[table[column] == group], rows, measure)
        panel.set(title=f"{group or 'all'} (n = {sizes[group]})", xlim=(-4, 104))
    left = len(sizes) - len(shown)
    more = f"; {left} smaller groups are in the table" if left else ""
    figure.supxlabel(f"{MEASURE_TITLES[measure]}, %{more}", fontsize=9)
    return figure


@paper_style
def draw_pairs(table: pd.DataFrame, measure: str = "em") -> Figure:
    """Draw `paired_table`: left each arm, right its paired difference to the arm compared with;
    right of 0 is better.

    Parameters
    ----------
    table
        Of `negfail_nb.views.paired_table`.
    measure
        ``"em"`` or ``"f1"``.
    """
    rows = rows_of(table["arm"])
    height = 0.95 + 0.22 * len(rows)
    figure, (left, right) = new_figure(FULL_WIDTH, height, columns=2, sharey=True)
    _draw_rows(left, table, rows, measure)
    _draw_rows(right, table, rows, f"{measure}_difference")
    baseline = arm_title(table["baseline"].iloc[0])
    title = MEASURE_TITLES[measure]
    left.set(xlabel=f"{title}, %", title=f"{int(table['questions'].max()):,} questions")
    right.axvline(0, color="#888888", linewidth=0.8, zorder=0)
    right.set(xlabel=f"{title} minus {baseline}, points", title="Paired, by question")
    return figure


def _draw_rows(panel: Axes, table: pd.DataFrame, rows: Mapping[str, int], value: str) -> None:
    for _, row in table.iterrows():
        draw_row(panel, row, value, rows[row["arm"]], look_of(row["arm"]), capsize=2)
    name_rows(panel, rows.values(), map(arm_title, rows))
    panel.set_ylim(-0.6, len(rows) - 0.4)


@paper_style
def draw_depths(table: pd.DataFrame, measure: str = "em") -> Figure:
    """Draw `depth_table`: left a cell per length and depth with its number of questions, right all
    lengths together.
    """
    table = _with(table, measure) if len(table) else table
    if table.empty:
        return draw_note(NOT_LONG)
    cells = table[table["length"] > 0]
    pooled = table[table["length"] == 0]
    bands = sorted(table["depth_band"].unique())
    lengths = sorted(cells["length"].unique())
    given = {"sharey": True, "width_ratios": [max(len(lengths), 2), 3]}
    figure, (left, right) = new_figure(FULL_WIDTH, 0.9 + 0.34 * len(bands), 2, **given)
    for _, cell in cells.iterrows():
        place = lengths.index(cell["length"]), bands.index(cell["depth_band"])
        small = figure.get_figwidth() < BESIDE
        _draw_cell(left, *place, cell[measure], cell["questions"], "\n" if small else " ")
    left.set_xticks(range(len(lengths)), [tokens_title(int(n)) for n in lengths])
    left.set_yticks(range(len(bands)), bands)
    left.set(xlim=(-0.5, len(lengths) - 0.5), ylim=(len(bands) - 0.5, -0.5))
    left.set(xlabel="context length, tokens", ylabel="mean depth of gold")
    left.set_title(f"{MEASURE_TITLES[measure]}, % (questions)")
    left.grid(visible=False)
    rows = [bands.index(band) for band in pooled["depth_band"]]
    look = look_of(LONG) | {"linestyle": "", "capsize": 2}
    right.errorbar(pooled[measure], rows, xerr=reach(pooled, measure), **look)
    right.set(xlabel=f"{MEASURE_TITLES[measure]}, %", title="All lengths", xlim=(-4, 104))
    return figure


def _draw_cell(panel: Axes, x: int, y: int, value: float, count: int, between: str) -> None:
    shade = 0.08 + 0.82 * value / 100
    panel.bar(x, 1, 1, y - 0.5, color=COLORS[0], alpha=shade, edgecolor="white", linewidth=1)
    color = "white" if shade > 0.6 else "black"
    text = f"{value:.0f}{between}({count})"
    panel.text(x, y, text, ha="center", va="center", fontsize=7, color=color)


def _with(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows that have a measure."""
    if measure not in MEASURE_TITLES:
        raise ValueError(f"no measure {measure!r}; use one of {', '.join(MEASURE_TITLES)}")
    return table[table[measure].notna()]
