"""Figures that say more under the pointer: an SVG whose points have titles, shown by the browser
itself.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from negfail_nb.views.browse import Page
from negfail_nb.views.figures import paper_style

REACH = 14  # points: how near the pointer has to come
_GROUP = "hover-{}"


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a panel, in data coordinates, and what to say there."""

    axes: Axes
    x: float
    y: float
    text: str


def with_hover(figure: Figure, spots: Iterable[Spot]) -> Page:
    """Return a figure as an SVG page in which each spot shows its text under the pointer. Texts are
    escaped.

    What a screen reader or a keyboard cannot reach stands elsewhere, too: show the table beside the
    figure.
    """
    titles = []
    for number, spot in enumerate(spots):
        look = {"marker": "o", "markersize": REACH, "alpha": 0, "linestyle": ""}
        spot.axes.plot(
            [spot.x],
            [spot.y],
            gid=_GROUP.format(number),
            zorder=10,
            scalex=False,
            scaley=False,
            **look,
        )
        titles.append(spot.text)
    picture = io.StringIO()
    with paper_style():
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    svg = picture.getvalue()
    svg = svg[svg.index("<svg") :]
    return Page(
        re.sub(
            r'<g id="hover-(\d+)">',
            lambda m: f"{m[0]}<title>{escape(titles[int(m[1])])}</title>",
            svg,
        )
    )
