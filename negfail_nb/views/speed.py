"""07: how fast models are: predicted against the length, and a measured GPU beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.io.formats.style import Styler

from negfail_nb.speed import (
    BreakEven,
    Efficiencies,
    MeasuredGpu,
    Measurement,
    Workload,
    break_even,
    hardware_table,
    pipeline_workload,
    speed_table,
)
from negfail_nb.speed.ladder import CACHED, LONG, PIPELINE
from negfail_nb.views.figures import (
    COLORS,
    FULL_WIDTH,
    MARKERS,
    draw_note,
    length_axis,
    new_figure,
    paper_style,
    plain_ticks,
    reach,
    tokens_title,
)
from negfail_nb.views.layout import legend_outside
from negfail_nb.views.pages import ERROR, Page, number, page, readable, spans, to_html, written
from negfail_nb.views.widgets import Explorer, choices, explore, slider

SPEED_TITLES: Mapping[str, str] = {
    "ttft_seconds": "time to first token, s",
    "e2e_seconds": "time to last token, s",
    "requests_per_second": "questions a second",
    "output_tokens_per_second": "output tokens a second",
    "input_tokens_per_second": "prompt tokens a second",
}
KIND_TITLES = {LONG: "long context", CACHED: "long context, cached", PIPELINE: "retrieval"}
KINDS: dict[str, dict[str, Any]] = {
    LONG: {"color": COLORS[0], "linestyle": "-", "marker": "o"},
    CACHED: {"color": COLORS[4], "linestyle": "--", "marker": "s"},
    PIPELINE: {"color": COLORS[1], "linestyle": "-.", "marker": ""},
}
NO_ROOM = "does not fit"
MEASURED = "measured"
# What a panel of a measured GPU shows, and how many of its unit are a second.
PHASES = {"prefill": ("one prompt, s", 1.0), "decode": ("one step, ms", 1e3)}
# How lines of the first two predictions look: before any row of this GPU, and fitted to them.
_DASHES = ((0, (1, 1.5)), "-")


def show_speed(table: pd.DataFrame) -> Styler:
    """Return `speed_table` for reading; if a length does not fit, the row says why."""
    rows = pd.DataFrame({"kind": table["kind"].map(KIND_TITLES), "source": table["source"]})
    rows["length"] = [tokens_title(int(length)) for length in table["length"]]
    rows["calls"] = table["calls"]
    rows["at a time"] = written(table["batch"], "{:.0f}")
    for name, title in SPEED_TITLES.items():
        rows[title] = spans(table, name, number)
    return readable(rows.assign(note=table["note"]))


@paper_style
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
        Of `negfail_nb.speed.speed_table`.
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
    lengths = sorted(set(table.loc[table["kind"] == LONG, "length"]))
    for panel, name in zip(panels, (time, rate), strict=True):
        _draw_kinds(panel, table, name)
        length_axis(panel, lengths)
        panel.set(yscale="log", ylabel=SPEED_TITLES[name])
        plain_ticks(panel.yaxis)
        _draw_lost(panel, table)
    if even and even.tokens is not None:
        low, high = (max(lengths) * 1.15 if end is None else end for end in (even.low, even.high))
        panels[0].axvspan(low, high, color="#888888", alpha=0.15, linewidth=0, zorder=0)
        label = f"break-even, {even.tokens:,} tokens"
        panels[0].axvline(even.tokens, color="#333333", linewidth=1, zorder=1.5, label=label)
    panels[0].set_title(title)
    shown = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    legend_outside(figure, list(shown.values()), list(shown), handlelength=2.8)
    figure.caption = _speed_caption(table, even)
    return figure


def _draw_kinds(panel: Axes, table: pd.DataFrame, name: str) -> None:
    for kind, look in KINDS.items():
        rows = table[(table["kind"] == kind) & table[name].notna()]
        line = rows[rows["source"] == "predicted"]
        points = rows[rows["source"] == MEASURED]
        label = KIND_TITLES[kind]
        shade = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
        if kind == PIPELINE and len(line):
            row = line.iloc[0]
            calls = f"{label}, {row['calls']:.0f} call{'s' if row['calls'] > 1 else ''}"
            panel.axhline(row[name], color=look["color"], linestyle=look["linestyle"], label=calls)
            panel.axhspan(row[f"{name}_low"], row[f"{name}_high"], **shade)
        elif len(line):
            panel.fill_between(line["length"], line[f"{name}_low"], line[f"{name}_high"], **shade)
            panel.plot(line["length"], line[name], label=label, **look)
        if len(points):
            hollow = {"color": "black", "linestyle": "", "marker": "D", "markerfacecolor": "white"}
            panel.plot(points["length"], points[name], label=MEASURED, zorder=4, **hollow)


def _draw_lost(panel: Axes, table: pd.DataFrame) -> None:
    lost = table[(table["kind"] == LONG) & (table["source"] == "predicted") & (table["note"] != "")]
    if len(lost):
        look = {"transform": panel.get_xaxis_transform(), "clip_on": False, "zorder": 4}
        look |= {"color": ERROR, "linestyle": "", "marker": "x", "markersize": 6}
        panel.plot(lost["length"], np.full(len(lost), 0.04), label=NO_ROOM, **look)


def _speed_caption(table: pd.DataFrame, even: BreakEven | None) -> str:
    """The break-even length, how much was measured, and what does not fit."""
    count = (table["source"] == MEASURED).sum()
    points = f"{count} point{'' if count == 1 else 's'}"
    words = [f"Lines are predicted, from 0 questions; {points} measured."]
    if even and even.tokens is not None:
        longer = "longer than any that can be served"
        ends = " to ".join(longer if n is None else f"{n:,}" for n in (even.low, even.high))
        words.append(f"From {even.tokens:,} prompt tokens on ({ends}), one long call takes longer")
        words.append("than the pipeline.")
    elif even:
        words.append("One long call takes less time than the pipeline at every length that can be")
        words.append("served.")
    words.append("Bands: what the efficiencies leave open, 95 %.")
    lost = (table["source"] == "predicted") & (table["note"].fillna("") != "")
    for kind, rows in table[lost & (table["kind"] != CACHED)].groupby("kind", sort=False):
        lengths = ", ".join(tokens_title(int(length)) for length in rows["length"])
        name = KIND_TITLES[str(kind)].capitalize()
        words.append(f"{name} of {lengths} does not fit: {rows['note'].iloc[0]}.")
    return " ".join(words)


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
    """Return prediction, figure, caption and table for one choice of GPUs and pipeline, given as
    `negfail_nb.speed.speed_table` and `draw_speed` take them.
    """
    given = {"pipeline": pipeline, "efficiencies": efficiencies, "tool_seconds": tool_seconds}
    table = speed_table(architecture, hardware, **given, load=load, measured=measured)
    # If the pipeline does not fit there is nothing to break even with; the table says why.
    fits = table.loc[table["kind"] == PIPELINE, "note"].iloc[0] == ""
    even = break_even(architecture, hardware, **given) if fits else None
    title = f"{architecture}, {pipeline.tensor_parallel} x {hardware}, {pipeline.weights}"
    return page(draw_speed(table, even, title=title, **drawn), show_speed(table))


def explore_speed(
    architecture: str,
    gpu: str,
    gpus: int = 1,
    measured: Sequence[Measurement] = (),
    efficiencies: Efficiencies = Efficiencies(),
    tool_seconds: float = 0.0,
) -> Explorer:
    """Return predicted speed to look through: choose GPUs, weights, load, and the pipeline of
    retrieval.

    Parameters
    ----------
    architecture, gpu, gpus
        Of which model, and where the controls stand at first.
    measured, efficiencies, tool_seconds
        As `negfail_nb.speed.speed_table` takes them.
    """

    def show(load: int, rate: str, **chosen: Any) -> Page:
        pipeline = pipeline_workload(
            chosen["steps"],
            chosen["passages"],
            output_tokens=chosen["answer"],
            tensor_parallel=chosen["gpus"],
            weights=chosen["weights"],
        )
        given = (pipeline, measured, efficiencies, tool_seconds, load)
        return speed_page(architecture, chosen["gpu"], *given, rate=rate)

    loads = {"what fits": 0, **{str(n): n for n in (1, 4, 16, 64)}}
    rates = {title: name for name, title in SPEED_TITLES.items() if name.endswith("_per_second")}
    return explore(
        show,
        gpu=choices("GPU", list(hardware_table().index), value=gpu),
        gpus=choices("how many (TP)", (1, 2, 4, 8), value=gpus),
        weights=choices("weights", ("bf16", "fp8")),
        load=choices("at a time", loads),
        steps=slider("steps", 3, 1, 8),
        passages=slider("per step", 5, 1, 20),
        answer=slider("answer", 128, 16, 1024, step=16),
        rate=choices("rate", rates),
    )


@paper_style
def draw_gpu(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw `negfail_nb.speed.gpu_table`: prefill (left) and decode (right) of a measured GPU
    against the length, a row per precision.

    Points are measured medians with their quartiles, lines are predicted: dotted the first of the
    table, drawn through the second. Of several models the first is drawn, of several numbers of
    layers its first.
    """
    if table.empty:
        return draw_note("Nothing was measured; the file says why.")
    first = table.iloc[0]
    part = table[(table["model"] == first["model"]) & (table["layers"] == first["layers"])]
    # A model that is measured whole, too, has its truncated model measured twice.
    part = part.drop_duplicates(["weights", "phase", "tokens", "asked", "source"])
    weights = list(dict.fromkeys(part["weights"]))
    height = 0.8 + 2.3 * len(weights)
    size = (2, len(weights))
    figure, panels = new_figure(FULL_WIDTH, height, *size, squeeze=False)
    for row, precision in zip(panels, weights, strict=True):
        for panel, (phase, (label, scale)) in zip(row, PHASES.items(), strict=True):
            rows = part[(part["weights"] == precision) & (part["phase"] == phase)]
            if rows.empty:
                panel.set_axis_off()
                continue
            scaled = {name: scale * rows[name] for name in ("seconds", "low", "high")}
            _draw_batches(panel, rows.assign(**scaled))
            length_axis(panel, sorted(set(rows["tokens"])))
            panel.set(yscale="log", ylabel=label, title=f"{phase}, {precision}")
            plain_ticks(panel.yaxis)
    figure.suptitle(title, fontsize=9, fontweight="bold", x=0.01, ha="left")
    legend_outside(figure, _handles(part), handlelength=2.4)
    figure.caption = _gpu_caption(table)
    return figure


def _draw_batches(panel: Axes, rows: pd.DataFrame) -> None:
    """A colour and a marker per batch that was asked for: one that memory cut stays in its line."""
    lines = _predictions(rows)[: len(_DASHES)]
    for (_, part), color, marker in zip(rows.groupby("asked"), COLORS, MARKERS, strict=False):
        for name, dashes in zip(lines, _DASHES, strict=False):
            line = part[part["source"] == name].sort_values("tokens")
            look = {"color": color, "linestyle": dashes, "linewidth": 1.2}
            panel.plot(line["tokens"], line["seconds"], **look)
        points = part[part["source"] == MEASURED]
        ends = reach(points, "seconds", "low", "high")
        bars = {"fmt": "none", "ecolor": color, "elinewidth": 0.8}
        panel.errorbar(points["tokens"], points["seconds"], ends, **bars)
        hollow = {"marker": marker, "markerfacecolor": "white", "markersize": 5, "zorder": 4}
        panel.plot(points["tokens"], points["seconds"], color=color, linestyle="", **hollow)


def _predictions(rows: pd.DataFrame) -> list[str]:
    return [name for name in dict.fromkeys(rows["source"]) if name != MEASURED]


def _handles(part: pd.DataFrame) -> list[Line2D]:
    handles = []
    batches = sorted(set(part["asked"]))
    for batch, color, marker in zip(batches, COLORS, MARKERS, strict=False):
        look = {"color": color, "marker": marker, "markerfacecolor": "white", "linestyle": ""}
        handles.append(Line2D([], [], **look, label=f"measured, {batch:.0f} at a time"))
    for name, dashes in zip(_predictions(part), _DASHES, strict=False):
        look = {"color": "#333333", "linestyle": dashes, "linewidth": 1.2}
        handles.append(Line2D([], [], **look, label=f"predicted, {name}"))
    return handles


def _gpu_caption(table: pd.DataFrame) -> str:
    """From how many cells, and how far predictions are off."""
    cells = (table["source"] == MEASURED).sum()
    words = [f"{cells} cells, medians with quartiles, random weights, no questions."]
    for name in _predictions(table):
        off = table.loc[table["source"] == name, "error"].abs()
        middle = off.median()
        late = off.quantile(0.9)
        words.append(f"Predicted, {name}: off by {middle:.0%} in the median, {late:.0%} at p90.")
    return " ".join(words)


@to_html.register(MeasuredGpu)
def _(value: MeasuredGpu) -> str:
    """Which GPU was measured, and what is missing."""
    date = f", {value.date}" if value.date else ""
    words = [f"Measured on {value.hardware.name}{date}."]
    if left := [row for row in value.rows if "seconds" not in row]:
        cell = f"{left[0]['phase']} of {left[0]['tokens']:,} tokens: {left[0]['note']}"
        words.append(f"{len(left)} of the planned cells are left out, such as {cell}.")
    if cut := [row for row in value.rows if "seconds" in row and row["batch"] < row["asked"]]:
        words.append(f"{len(cut)} have fewer sequences than asked for, as no more fit the memory.")
    if not value.finished:
        words.append("The run was stopped before its end.")
    return to_html(" ".join(words))
