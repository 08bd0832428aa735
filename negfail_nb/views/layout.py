"""Figures that fit their width: panels go below each other before they get too narrow, legends go
below them, texts are wrapped, and ticks that would touch are left out.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

PANEL = 2.3  # inches: panels that are drawn narrower than they were meant get no narrower than this
BESIDE = 5.0  # inches: a narrower figure has its legend below
STACKED = 0.9  # of the height that panels have beside each other
SHORTEST = 8  # characters of a line
GAP = 4  # pixels between texts
ROUNDS = 4

_width: ContextVar[float | None] = ContextVar("width", default=None)


@contextmanager
def at_width(width: float | None) -> Iterator[None]:
    """Draw figures so wide, in inches, whatever they ask for; ``None``: as they ask."""
    token = _width.set(width)
    try:
        yield
    finally:
        _width.reset(token)


def make_panels(
    width: float, height: float, columns: int, rows: int, **kwargs: Any
) -> tuple[Figure, Any]:
    """Return what `matplotlib.pyplot.subplots` returns, in the same shape, for the width that
    figures are drawn at.

    Panels beside each other that would get too narrow make a grid of fewer columns.
    """
    wanted = _width.get() or width
    fitting = max(1, int(wanted / PANEL))
    if wanted >= width or columns <= fitting:
        return plt.subplots(rows, columns, figsize=(wanted, height), **kwargs)
    # As even as can be: four panels in two columns, not in three.
    lines = math.ceil(columns / fitting)
    across = math.ceil(columns / lines)
    given = {k: v for k, v in kwargs.items() if k not in ("width_ratios", "squeeze")}
    size = (wanted, STACKED * height * lines)
    figure, grid = plt.subplots(rows * lines, across, figsize=size, squeeze=False, **given)
    groups = grid.reshape(rows, lines * across)
    for spare in groups[:, columns:].flat:
        figure.delaxes(spare)
    found = groups[:, :columns]
    return figure, found if kwargs.get("squeeze") is False else np.squeeze(found)


def legend_outside(
    figure: Figure,
    handles: Sequence[Any] = (),
    labels: Sequence[str] = (),
    side: str = "below",
    ncols: int = 3,
    **look: Any,
) -> None:
    """Put a legend beside or below all panels; below, in as many columns as fit.

    Parameters
    ----------
    figure
        Without handles, whatever its panels have labels for.
    handles, labels
        Of the legend; without labels, those of the handles.
    side
        ``"below"``, or ``"right"`` where the figure is wide enough.
    ncols
        Below: at most so many columns.
    look
        For `matplotlib.figure.Figure.legend`.
    """
    if not handles:
        for panel in figure.axes:
            more, names = panel.get_legend_handles_labels()
            handles = [*handles, *more]
            labels = [*labels, *names]
    labels = labels or [handle.get_label() for handle in handles]
    if side == "right" and figure.get_figwidth() >= BESIDE:
        figure.legend(handles, labels, loc="outside right center", **look)
        return
    for columns in range(min(ncols, len(labels)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, **look)
        if _box(legend).width <= figure.bbox.width or columns == 1:
            return
        legend.remove()


def settle(figure: Figure) -> Figure:
    """Wrap titles and labels that are wider than their room, and leave out ticks that touch."""
    for _ in range(ROUNDS):
        figure.draw_without_rendering()
        texts = [(text, figure.bbox.width) for text in figure.texts]
        for panel in figure.axes:
            texts += _titles(panel)
        changed = [_wrap(*one) for one in texts]
        changed += [_thin(axis) for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
        if not any(changed):
            break
    return figure


def _titles(panel: Axes) -> Iterator[tuple[Text, float]]:
    """Each text around a panel with the pixels that it may take along its line."""
    box = panel.get_window_extent()
    right = panel.figure.bbox.x1
    for other in panel.figure.axes:
        its = other.get_window_extent()
        if its.x0 >= box.x1 and its.y0 < box.y1 and box.y0 < its.y1:
            right = min(right, its.x0)
    names = {panel.get_title(where) for where in ("left", "center", "right")} - {""}
    for child in panel.get_children():
        if isinstance(child, Text) and child.get_text() in names:
            yield child, right - box.x0 - GAP
    middle = (box.x0 + box.x1) / 2
    aside = right < panel.figure.bbox.x1 or box.x0 > panel.figure.bbox.width / 2
    around = 2 * min(middle, panel.figure.bbox.x1 - middle) - GAP
    around = min(around, box.width * 1.1) if aside else around
    yield panel.xaxis.label, around
    yield panel.yaxis.label, max(box.height, 0)


def _wrap(text: Text, room: float) -> bool:
    """Break a text that is longer than its room; say whether it was changed."""
    said = text.get_text()
    if not text.get_visible() or not said.strip() or room <= 0:
        return False
    box = _box(text)
    length = box.height if text.get_rotation() == 90 else box.width
    if length <= room:
        return False
    line = max(len(part) for part in said.split("\n"))
    width = max(SHORTEST, int(line * room / length))
    parts = [textwrap.fill(part, width, break_long_words=False) for part in said.split("\n")]
    text.set_text("\n".join(parts))
    if text.get_text() == said and text.axes:  # one long word: let it begin further left
        x, _ = text.get_position()
        text.set_x(x - (length - room) / text.axes.get_window_extent().width)
        return False
    return text.get_text() != said


def _thin(axis: Axis) -> bool:
    """Hide the labels of ticks that touch the one before; say whether any was hidden."""
    across = axis.axis_name == "x"
    shown = [
        (tick, _box(tick.label1))
        for tick in axis.get_major_ticks()
        if tick.label1.get_visible() and tick.label1.get_text().strip()
    ]
    shown.sort(key=lambda one: one[1].x0 if across else one[1].y0)
    end = -math.inf
    hidden = False
    for tick, box in shown:
        low, high = (box.x0, box.x1) if across else (box.y0, box.y1)
        if low < end + (GAP if across else 0):
            tick.label1.set_visible(False)
            hidden = True
        else:
            end = high
    return hidden


def _box(artist: Text | Legend) -> Bbox:
    return artist.get_window_extent()


def label_points(
    panel: Axes,
    labels: Iterable[tuple[str, float, float]],
    points: Iterable[tuple[float, float]],
    write: Callable[[str, tuple[float, float], tuple[float, float]], Text],
) -> None:
    """Write a name beside each point, where it hides no point and no other name.

    Parameters
    ----------
    panel
        With its final limits.
    labels
        Names with their points, in data coordinates.
    points
        All points that should stay free.
    write
        Writes a name at a point with an offset in points of print, and returns the text.
    """
    panel.figure.draw_without_rendering()
    scale = panel.figure.dpi / 72
    marks = [panel.transData.transform(point) for point in points]
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in marks]
    inside = panel.get_window_extent()
    for name, x, y in labels:
        best: tuple[float, tuple[float, float]] | None = None
        text = write(name, (x, y), (0, 0))
        box = _box(text)
        text.remove()
        for offset in _offsets(box.width / scale, box.height / scale):
            moved = box.translated(offset[0] * scale, offset[1] * scale)
            hidden = sum(_shared(moved, other) for other in taken)
            hidden += moved.width * moved.height - _shared(moved, inside)
            if best is None or hidden < best[0] - 1e-6:
                best = hidden, offset
        text = write(name, (x, y), best[1])
        taken.append(_box(text))


def write_small(
    panel: Axes, colors: Mapping[tuple[float, float], str] | None = None
) -> Callable[[str, tuple[float, float], tuple[float, float]], Text]:
    """Return what writes names for `label_points`: small, readable over lines and bands, in the
    colour of their point.
    """
    halo = [withStroke(linewidth=2, foreground="white")]

    def write(text: str, at: tuple[float, float], offset: tuple[float, float]) -> Text:
        look = {"fontsize": 7, "path_effects": halo, "zorder": 5}
        look |= {"color": colors[at]} if colors else {}
        return panel.annotate(text, at, offset, textcoords="offset points", **look)

    return write


def _offsets(width: float, height: float) -> list[tuple[float, float]]:
    """Places around a point, the best first, in points of print; names begin at the point."""
    near, far = 5.0, 12.0
    middle = -height / 2
    found = []
    for gap in (near, far):
        found += [
            (gap, gap - 2),
            (-width / 2, gap),
            (-width - gap, gap - 2),
            (gap, middle),
            (-width - gap, middle),
            (gap, -gap - height + 2),
            (-width / 2, -gap - height),
            (-width - gap, -gap - height + 2),
        ]
    return found


def _shared(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0) * max(height, 0)
