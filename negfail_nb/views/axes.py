"""Logarithmic axes with numbers as people write them, for the figures of lengths, seconds and rates
(06, 07).
"""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from negfail_nb.views.benchmark import tokens_title

ROOM = 28  # letters that the numbers of one axis may take, so that none touches the next


def length_axis(panel: Axes, lengths: list[int]) -> None:
    """Context lengths, in tokens, on a logarithmic axis with a tick at each."""
    panel.set_xscale("log")
    panel.set_xticks(lengths, [tokens_title(int(n)) for n in lengths])
    panel.set_xticks([], minor=True)
    panel.set(xlabel="context length, tokens", xlim=(min(lengths) / 1.2, max(lengths) * 1.2))


def plain_ticks(axis: Axis, room: int = ROOM) -> None:
    """Numbers as people write them on a logarithmic axis, and no more than have ``room``, in
    letters.
    """
    ticks = log_ticks(*axis.get_view_interval(), room)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float, room: int = ROOM) -> list[float]:
    """Return ticks between two ends: 1, 2, 5, 10 where that has room, else 1, 3, 10, else whole
    decades.

    Where fewer than two of these lie between the ends, evenly spaced ones.
    """
    decades = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            step * decade for decade in decades for step in steps if low <= step * decade <= high
        ]
        if len(ticks) >= 2 and sum(len(f"{tick:,.6g}") + 2 for tick in ticks) <= room:
            return ticks
    few = MaxNLocator(3, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in few if low <= tick <= high]
