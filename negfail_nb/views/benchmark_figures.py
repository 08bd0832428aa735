"""Figures of the benchmark (06); each draws a table of `negfail_nb.views.benchmark`, and nothing
else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from negfail_nb.benchmarking import ARMS
from negfail_nb.views.agents import draw_note
from negfail_nb.views.benchmark import LONG, MEASURE_TITLES, arm_title, tokens_title
from negfail_nb.views.figures import COLORS, LINES, MARKERS, new_figure, paper_style

NOT_LONG = 'No long context was asked. Put "long_context" among benchmark.arms.'
NO_GOLD = "No question has supporting facts, so what retrieval should find is not known."
NOT_MEASURED = "No arm has the measure {}: replies are asked to cite only where passages are shown"
FOUND = {"recall": "Gold passages found (R@k), %", "all_gold": "All gold passages found, %"}
DOTS = "#999999"
FULL_WIDTH, TEXT_WIDTH = 6.75, 5.5
SPREAD = 0.3  # height that the dots of one length spread over, of 1
SHOWN_GROUPS = 4
Look = dict[str, Any]


@paper_style()
def draw_retrieval(table: pd.DataFrame) -> Figure:
    """Draw `retrieval_table`: left the share of the gold passages among the first k, right how
    often all are there.
    """
    if table.empty:
        return draw_note(NO_GOLD)
    figure, panels = new_figure(width=FULL_WIDTH, height=2.4, columns=2, sharey=True)
    methods = list(dict.fromkeys(table["method"]))
    for panel, (measure, title) in zip(panels, FOUND.items(), strict=True):
        part = table[(table["group"] == "all") & (table["measure"] == measure)]
        for place, (method, look) in enumerate(zip(methods, _cycled(), strict=False)):
            rows = part[part["method"] == method]
            # Beside each other, so that intervals do not hide one another.
            at = rows["k"].to_numpy(float) * 1.03 ** (place - (len(methods) - 1) / 2)
            panel.errorbar(
                at,
                rows["value"],
                _ends(rows, "value", "low", "high"),
                capsize=2,
                label=method,
                **look,
            )
        ks = sorted(part["k"].unique())
        panel.set_xscale("log")
        panel.set_xticks(ks, [str(k) for k in ks])
        panel.set_xticks([], minor=True)
        panel.set(xlabel="first k passages", title=title)
    panels[0].set_ylim(top=103)
    panels[1].legend(loc="lower right")
    return figure


@paper_style()
def draw_places(table: pd.DataFrame) -> Figure:
    """Draw `place_table`: where gold stands in the contexts of each length, a dot a gold passage.

    Those of one question are joined by lines from length to length: their order stays, their depth
    need not.
    """
    if table.empty:
        return draw_note(NOT_LONG)
    lengths = sorted(table["target"].unique())
    figure, axes = new_figure(width=TEXT_WIDTH, height=1.3 + 0.34 * len(lengths))
    rows = {length: row for row, length in enumerate(lengths)}
    spread = (
        table.groupby("target").cumcount() / table.groupby("target")["depth"].transform("size")
        - 0.5
    )
    heights = table["target"].map(rows) + 2 * SPREAD * spread
    axes.plot(table["depth"], heights, "o", color=DOTS, markersize=2.5, markeredgewidth=0)
    most = table.loc[
        table["gold"].idxmax(), "question_id"
    ]  # the first of those with most gold passages
    for (gold, part), look in zip(
        table[table["question_id"] == most].groupby("gold"), _cycled(), strict=False
    ):
        part = part.sort_values("target")
        axes.plot(
            part["depth"],
            part["target"].map(rows),
            label=f"gold passage {gold} of one question",
            **look,
        )
    asked = table["question_id"].nunique()
    axes.set_yticks(list(rows.values()), [tokens_title(int(length)) for length in rows])
    axes.set(
        xlabel="place of gold in the context (0: first, 1: last)",
        ylabel="context length",
        xlim=(-0.03, 1.03),
    )
    axes.set(title=f"Where gold stands, {asked:,} questions", ylim=(-0.6, len(lengths) - 0.4))
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@paper_style()
def draw_accuracy(table: pd.DataFrame, measure: str = "em") -> Figure:
    """Draw `reading_table`: long contexts along their length, and all other arms as flat lines
    beside them.

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
    long, flat = table[table["length"] > 0].sort_values("length"), table[table["length"] == 0]
    parts = [part for part in (long, flat) if len(part)]
    ratios = {
        "width_ratios": [2 + len(long) if part is long else 1 + 0.5 * len(flat) for part in parts]
    }
    figure, panels = new_figure(
        FULL_WIDTH, 2.8, len(parts), sharey=True, squeeze=False, gridspec_kw=ratios
    )
    if len(long):
        _draw_lengths(panels[0][0], long, measure)
    if len(flat):
        _draw_flat(panels[0], flat, measure)
    asked, confidence = int(table["questions"].max()), table["confidence"].iloc[0]
    top = np.nanmax(table[[measure, f"{measure}_high"]].to_numpy(float))
    panels[0][0].set(
        ylabel=f"{MEASURE_TITLES[measure]}, %", ylim=(-0.04 * max(top, 1), 1.06 * max(top, 1))
    )
    panels[0][0].set_title(f"{asked:,} questions, {confidence:.0%} intervals")
    shown, names = (
        sum(found, [])
        for found in zip(*(p.get_legend_handles_labels() for p in panels[0]), strict=True)
    )
    # Without the bars, so that markers and dashes can be told apart.
    figure.legend([bars[0] for bars in shown], names, loc="outside right center", handlelength=2.6)
    return figure


def _draw_lengths(panel: Axes, long: pd.DataFrame, measure: str) -> None:
    panel.fill_between(
        long["length"],
        long[f"{measure}_low"],
        long[f"{measure}_high"],
        color=COLORS[0],
        alpha=0.18,
        linewidth=0,
    )
    ends = _ends(long, measure)
    panel.errorbar(
        long["length"],
        long[measure],
        ends,
        capsize=2,
        zorder=3,
        label=arm_title(LONG),
        **_look(LONG),
    )
    panel.set_xscale("log")
    panel.set_xticks(list(long["length"]), [tokens_title(int(n)) for n in long["length"]])
    panel.set_xticks([], minor=True)
    panel.set(
        xlabel="context length, tokens",
        xlim=(long["length"].min() / 1.2, long["length"].max() * 1.2),
    )


def _draw_flat(panels: Sequence[Axes], flat: pd.DataFrame, measure: str) -> None:
    """In the last panel a dot with its interval; its line goes through all panels, in the same
    colour and dashes.
    """
    last = panels[-1]
    for place, (_, row) in enumerate(flat.iterrows()):
        look = _look(row["arm"])
        for panel in panels:
            reach = {"xmax": (place + 0.5) / len(flat)} if panel is last else {}
            line = {
                "color": look["color"],
                "linestyle": look["linestyle"],
                "linewidth": 1,
                "alpha": 0.8,
                "zorder": 1,
            }
            panel.axhline(row[measure], **line, **reach)
        ends = _ends(row.to_frame().T, measure)
        last.errorbar(
            [place], [row[measure]], ends, capsize=2, zorder=3, label=arm_title(row["arm"]), **look
        )
    last.set(xlim=(-0.5, len(flat) - 0.5), xticks=[], xlabel="other arms")


@paper_style()
def draw_groups(table: pd.DataFrame, measure: str = "em", column: str = "type") -> Figure:
    """Draw `reading_table` split by a column: a panel a group, a row an arm, with intervals.

    Groups beyond the four with most questions are left out, and the title counts them.
    """
    table = _with(table, measure)
    if table.empty:
        return draw_note(NOT_MEASURED.format(MEASURE_TITLES[measure]))
    sizes = (
        table.groupby(column, sort=False)["questions"]
        .max()
        .sort_values(ascending=False, kind="stable")
    )
    shown, arms = list(sizes.index[:SHOWN_GROUPS]), list(dict.fromkeys(table["arm"]))
    rows = dict(zip(arms, reversed(range(len(arms))), strict=True))
    height = 0.95 + 0.22 * len(arms)
    figure, panels = new_figure(
        FULL_WIDTH, height, len(shown), sharex=True, sharey=True, squeeze=False
    )
    for panel, group in zip(panels[0], shown, strict=True):
        _draw_rows(panel, table[table[column] == group], rows, measure)
        panel.set(title=f"{group or 'all'} (n = {sizes[group]})", xlim=(-4, 104))
    more = (
        f"; {len(sizes) - len(shown)} smaller groups are in the table"
        if len(sizes) > len(shown)
        else ""
    )
    figure.supxlabel(f"{MEASURE_TITLES[measure]}, %{more}", fontsize=9)
    return figure


@paper_style()
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
    rows = dict(zip(table["arm"], reversed(range(len(table))), strict=True))
    figure, (left, right) = new_figure(FULL_WIDTH, 0.95 + 0.22 * len(rows), columns=2, sharey=True)
    _draw_rows(left, table, rows, measure)
    _draw_rows(right, table, rows, f"{measure}_difference")
    baseline, title = arm_title(table["baseline"].iloc[0]), MEASURE_TITLES[measure]
    left.set(xlabel=f"{title}, %", title=f"{int(table['questions'].max()):,} questions")
    right.axvline(0, color="#888888", linewidth=0.8, zorder=0)
    right.set(xlabel=f"{title} minus {baseline}, points", title="Paired, by question")
    return figure


def _draw_rows(panel: Axes, table: pd.DataFrame, rows: dict[str, int], value: str) -> None:
    """A row an arm: a dot with its interval."""
    for _, row in table.iterrows():
        look, ends = _look(row["arm"]) | {"linestyle": ""}, _ends(row.to_frame().T, value)
        panel.errorbar([row[value]], [rows[row["arm"]]], xerr=ends, capsize=2, **look)
    panel.set_yticks(list(rows.values()), [arm_title(arm) for arm in rows])
    panel.set_ylim(-0.6, len(rows) - 0.4)
    panel.grid(visible=False, axis="y")


@paper_style()
def draw_depths(table: pd.DataFrame, measure: str = "em") -> Figure:
    """Draw `depth_table`: left a cell a length and depth with its number of questions, right all
    lengths together.
    """
    table = _with(table, measure) if len(table) else table
    if table.empty:
        return draw_note(NOT_LONG)
    cells, pooled = table[table["length"] > 0], table[table["length"] == 0]
    bands, lengths = sorted(table["depth_band"].unique()), sorted(cells["length"].unique())
    ratios = {"width_ratios": [max(len(lengths), 2), 3]}
    figure, (left, right) = new_figure(
        FULL_WIDTH, 0.9 + 0.34 * len(bands), 2, sharey=True, gridspec_kw=ratios
    )
    for _, cell in cells.iterrows():
        place = lengths.index(cell["length"]), bands.index(cell["depth_band"])
        _draw_cell(left, *place, cell[measure], cell["questions"])
    left.set_xticks(range(len(lengths)), [tokens_title(int(n)) for n in lengths])
    left.set_yticks(range(len(bands)), bands)
    left.set(
        xlim=(-0.5, len(lengths) - 0.5),
        ylim=(len(bands) - 0.5, -0.5),
        xlabel="context length, tokens",
    )
    left.set(ylabel="mean depth of gold", title=f"{MEASURE_TITLES[measure]}, % (questions)")
    left.grid(visible=False)
    rows = [bands.index(band) for band in pooled["depth_band"]]
    look = _look(LONG) | {"linestyle": ""}
    right.errorbar(pooled[measure], rows, xerr=_ends(pooled, measure), capsize=2, **look)
    right.set(xlabel=f"{MEASURE_TITLES[measure]}, %", title="All lengths", xlim=(-4, 104))
    return figure


def _draw_cell(panel: Axes, x: int, y: int, value: float, count: int) -> None:
    shade = 0.08 + 0.82 * value / 100
    panel.bar(x, 1, 1, y - 0.5, color=COLORS[0], alpha=shade, edgecolor="white", linewidth=1)
    color = "white" if shade > 0.6 else "black"
    panel.text(x, y, f"{value:.0f} ({count})", ha="center", va="center", fontsize=7, color=color)


def _with(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows that have a measure."""
    if measure not in MEASURE_TITLES:
        raise ValueError(f"no measure {measure!r}; use one of {', '.join(MEASURE_TITLES)}")
    return table[table[measure].notna()]


def _look(label: str) -> Look:
    """An arm looks the same in every figure; all lengths of long contexts alike."""
    known = [LONG, *(arm for arm in ARMS if arm != LONG)]
    name = label.partition("@")[0]
    place = known.index(name) if name in known else len(known)
    return next(islice(_cycled(), place, None))


def _cycled() -> Iterator[Look]:
    """Colour, marker and dashes, one set after the other."""
    for color, marker, line in zip(cycle(COLORS), cycle(MARKERS), cycle(LINES), strict=False):
        yield {"color": color, "marker": marker, "linestyle": line}


def _ends(rows: pd.DataFrame, value: str, low: str = "", high: str = "") -> np.ndarray:
    """How far intervals reach to both sides, shape ``(2, rows)``; 0 where there is none."""
    low, high = low or f"{value}_low", high or f"{value}_high"
    spans = np.array([rows[value] - rows[low], rows[high] - rows[value]], dtype=float)
    return np.nan_to_num(np.clip(spans, 0, None))
