"""The style of every figure, and what figures share: looks, names, axes and interval bars.

A function that draws is decorated with `paper_style` and takes its table first. The figure it
returns remembers the call, so `negfail_nb.views.redraw` draws it again from its csv; its
``caption``, if it has one, says in words what it shows.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from itertools import cycle, islice
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from negfail_nb.benchmarking.arms import ARMS
from negfail_nb.content import plain
from negfail_nb.earlier import UNTUNED
from negfail_nb.trajectory import printable
from negfail_nb.views.layout import BESIDE, legend_outside, make_panels, settle

# Okabe and Ito, without the yellow that disappears on white, then two of Tol's. Success and failure
# keep theirs in every figure.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555"),
    *("#882255", "#999933"),
)
SUCCESS = COLORS[0]
FAILURE = COLORS[1]
UNLABELLED = "#BBBBBB"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p")
LINES = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1)),
    (0, (3, 1, 1, 1)),
    (0, (1, 1)),
    (0, (7, 2)),
    (0, (2, 3)),
)

STYLE: Mapping[str, Any] = {
    "axes.prop_cycle": mpl.cycler(color=COLORS),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "font.size": 9,
    # A name may hold dollars: nothing that is drawn here is a formula.
    "text.parse_math": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    # Type 3 fonts are refused by several publishers; 42 embeds TrueType.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "negfail_nb",
}
FULL_WIDTH, TEXT_WIDTH = 6.75, 5.5  # inches
LONGEST = 60  # characters of a name in a figure
TICK_CHARACTERS = 28  # that the numbers of one axis may take, so that none touches the next

LONG = "long_context"
LEARNING_TITLES = {
    "vanilla": "vanilla (successes)",
    "nut": "NUT (no label)",
    "nat": "NAT (label)",
    "nat-k": "NAT-k (classes)",
    "dpo": "DPO (pairs)",
    "kto": "KTO (runs)",
    "nat-steps": "NAT by steps",
    "weighted": "weighted by quality",
}
# Of arms that came after all colours were taken; two of Paul Tol's.
MORE_LOOKS: Mapping[str, dict[str, Any]] = {
    "nat-steps": {"color": "#882255", "marker": "<", "linestyle": (0, (3, 1, 1, 1, 1, 1))},
    "weighted": {"color": "#999933", "marker": ">", "linestyle": (0, (5, 3))},
}
DRAWN: dict[str, Callable[..., Figure]] = {}  # the functions that `redraw` may call, by name
Look = dict[str, Any]


def paper_style(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function that draws a table: it draws in the project's style, and its figure
    remembers the call.

    Nothing global changes but the list of functions that `redraw` can call.
    """

    @wraps(draw)
    def styled(table: pd.DataFrame, *given: Any, **named: Any) -> Figure:
        call = inspect.signature(draw).bind(table, *given, **named)
        call.apply_defaults()
        with mpl.rc_context(STYLE):
            figure = settle(draw(_with_short_names(table), *given, **named))
        arguments = dict(list(call.arguments.items())[1:])
        figure.drawn = {"function": draw.__name__, "arguments": plain(arguments)}
        figure.table = table
        return figure

    DRAWN[draw.__name__] = styled
    return styled


def _with_short_names(table: pd.DataFrame) -> pd.DataFrame:
    """Make names fit into a figure: one line, not endless, and as different as they were."""
    table = table.copy(deep=False)
    for place, (_, column) in enumerate(table.items()):
        long = dict.fromkeys(c for c in column if isinstance(c, str) and _short(c) != c)
        if not long:
            continue
        names: dict[Any, str] = {}
        taken = set(column) - set(long)
        for cell in long:
            numbered = (f"{_short(cell)} ({number})" for number in range(2, len(long) + 2))
            names[cell] = next(n for n in (_short(cell), *numbered) if n not in taken)
            taken.add(names[cell])
        table.isetitem(place, [names.get(cell, cell) for cell in column])
    return table


def _short(text: str) -> str:
    line = " ".join(printable(text).split()) if not text.isprintable() else text
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def new_figure(
    width: float = TEXT_WIDTH, height: float = 2.6, columns: int = 1, rows: int = 1, **kwargs: Any
) -> tuple:
    """Return figure and axes in the project's style, unmanaged by pyplot's global list.

    Parameters
    ----------
    width, height
        Size in inches; 5.5 is the text width of NeurIPS and ICLR. Drawn for another width, panels
        may go below each other, and the figure gets higher.
    columns, rows
        Number of panels.
    kwargs
        For `matplotlib.pyplot.subplots`.
    """
    with mpl.rc_context(STYLE):
        figure, axes = make_panels(width, height, columns, rows, **kwargs)
    plt.close(figure)  # shown only if a cell returns it
    return figure, axes


def draw_note(note: str) -> Figure:
    """Return a figure of one line of text, if there is nothing else to draw."""
    figure, axes = new_figure(FULL_WIDTH, 0.5)
    axes.axis("off")
    axes.text(0, 0.5, note, va="center", transform=axes.transAxes)
    return figure


def arm_title(arm: str) -> str:
    """Return what an arm is called in figures: ``"long context, 4K"`` for ``long_context@4096``."""
    name, _, length = arm.partition("@")
    if name in ARMS:
        title = ARMS[name].title
        return f"{title}, {tokens_title(int(length))}" if length.isdecimal() else title
    return LEARNING_TITLES.get(arm, arm)


def tokens_title(tokens: int) -> str:
    """Return a number of tokens as it is said: ``"4K"`` for 4096, ``"5,000"`` for 5000."""
    return f"{tokens // 1024}K" if tokens and tokens % 1024 == 0 else f"{tokens:,}"


def arm_name(label: str) -> str:
    """Return the arm of a label, without its length: ``"dos_rag"`` of ``dos_rag@4096``."""
    return label.partition("@")[0]


def lines_of(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield, for each arm that has lengths, its name and its rows along them."""
    long = rows[rows["length"] > 0].sort_values("length")
    names = long["arm"].map(arm_name)
    for name in sorted(set(names), key=look_order):
        yield name, long[names == name]


def looks() -> Iterator[Look]:
    """Yield colour, marker and dashes, one set after the other, without end."""
    for color, marker, line in zip(cycle(COLORS), cycle(MARKERS), cycle(LINES), strict=False):
        yield {"color": color, "marker": marker, "linestyle": line}


def look_of(arm: str) -> Look:
    """Return how an arm of the benchmark looks in every figure; all its lengths look alike."""
    return next(islice(looks(), look_order(arm), None))


def look_order(arm: str) -> int:
    """Return the place of an arm among all of them: long contexts first, unknown ones last."""
    known = [LONG, *(name for name in ARMS if name != LONG)]
    name = arm_name(arm)
    return known.index(name) if name in known else len(known)


def look_of_model(arm: str) -> Look:
    """Return how the model of an arm looks in every figure; grey before training."""
    if arm in MORE_LOOKS:
        return dict(MORE_LOOKS[arm])
    known = [*(name for name in LEARNING_TITLES if name not in MORE_LOOKS), UNTUNED]
    if arm not in known:
        return {"color": "black", "marker": "*", "linestyle": (0, (2, 1))}
    return next(islice(looks(), known.index(arm), None))


def reach(rows: pd.DataFrame, value: str, low: str = "", high: str = "") -> np.ndarray:
    """Return how far intervals reach to both sides, shape ``(2, rows)``; NaN if there is none."""
    low = low or f"{value}_low"
    high = high or f"{value}_high"
    spans = np.array([rows[value] - rows[low], rows[high] - rows[value]], dtype=float)
    return np.clip(spans, 0, None)


def rows_of(arms: Iterable[str]) -> dict[str, int]:
    """Return the height of each arm in a panel of rows, the first one on top."""
    names = list(dict.fromkeys(arms))
    return dict(zip(names, reversed(range(len(names))), strict=True))


def name_rows(panel: Axes, places: Iterable[float], names: Iterable[str]) -> None:
    """Give each row of a panel its name."""
    panel.set_yticks(list(places), list(names))
    panel.grid(visible=False, axis="y")


def draw_row(
    panel: Axes, row: pd.Series, value: str, height: float, look: Look, capsize: int = 3
) -> None:
    """Draw a value of a table's row as a dot with its interval."""
    ends = reach(row.to_frame().T, value)
    marker = {"fmt": look["marker"], "color": look["color"]}
    panel.errorbar(row[value], height, xerr=ends, capsize=capsize, **marker)


def write_at(panel: Axes, text: str, at: tuple, offset: tuple = (0, 5), **look: Any) -> None:
    """Write small beside a point; the offset is in points."""
    panel.annotate(text, at, offset, textcoords="offset points", **{"fontsize": 7} | look)


def legend_above(axes: Axes) -> None:
    """Put the legend beside the title, clear of all bars; below in a narrow figure."""
    if axes.figure.get_figwidth() < BESIDE:
        legend_outside(axes.figure)
    else:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1)


def number_axis(panel: Axes, numbers: Iterable[float], names: Iterable[str]) -> None:
    """Put a named tick at each number of the x axis, and no others."""
    panel.set_xticks(list(numbers), list(names))
    panel.set_xticks([], minor=True)


def length_axis(panel: Axes, lengths: Iterable[int]) -> None:
    """Put context lengths, in tokens, on a logarithmic axis with a tick at each."""
    lengths = list(lengths)
    panel.set_xscale("log")
    number_axis(panel, lengths, [tokens_title(int(n)) for n in lengths])
    panel.set(xlabel="context length, tokens", xlim=(min(lengths) / 1.2, max(lengths) * 1.2))


def plain_ticks(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis as people do, and no more than fit."""
    axis.set_major_locator(FixedLocator(log_ticks(*axis.get_view_interval())))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """Return ticks between two ends: 1, 2, 5, 10 if these fit, else 1, 3, 10, else whole decades.

    If fewer than two of these lie between the ends, evenly spaced ones.
    """
    decades = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 2 and sum(len(f"{tick:,.6g}") + 2 for tick in ticks) <= TICK_CHARACTERS:
            return ticks
    few = MaxNLocator(3, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in few if low <= tick <= high]
