"""What is shown as HTML: pages of anything, tables for reading, trajectories, figures with texts
under the pointer.

All text of logs, models and sources is escaped: HTML in it shows as text and never runs.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from html import escape
from itertools import zip_longest
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Trajectory
from negfail_nb.views.figures import FAILURE, STYLE, SUCCESS, UNLABELLED

ERROR = "#B00020"
# As text: mixed with the theme's own colour, so that it can be read in light and dark.
ERROR_TEXT = f"color-mix(in srgb,{ERROR} 55%,var(--jp-ui-font-color0,black))"
LINE = "margin:2px 0;padding:2px 8px;border-left:4px solid {};white-space:pre-wrap"
MONO = ";font:12px/1.4 monospace"
CELL = (
    "text-align:left;vertical-align:top;padding:4px 8px;border-top:1px solid "
    "var(--jp-border-color2,#DDDDDD);white-space:pre-wrap"
)
REACH = 14  # points: how near the pointer has to come
_OUTCOMES = {"success": SUCCESS, "failure": FAILURE, "unlabelled": UNLABELLED}
_SPAN = re.compile(r"([+-]?[\d.,]+|[+-]?inf) \[([+-]?[\d.,]+|-?inf), ([+-]?[\d.,]+|inf)\]")
_ROLES = {"assistant": "#0072B2", "system": "#555555"}


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of HTML that shows itself in Jupyter, and the last figure in it."""

    html: str
    figure: Figure | None = None

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a panel, in data coordinates, and what to say there."""

    axes: Axes
    x: float
    y: float
    text: str


def page(*parts: Any) -> Page:
    """Return a page that shows its parts below each other.

    Parameters
    ----------
    parts
        Text, which becomes a paragraph; figures, which become pictures with their captions; tables;
        results of the package, such as a curve, a review or a report; or whatever shows itself.
    """
    figures = [p if isinstance(p, Figure) else getattr(p, "figure", None) for p in parts]
    last = next((f for f in reversed(figures) if isinstance(f, Figure)), None)
    return Page("".join(map(to_html, parts)), last)


@singledispatch
def to_html(value: Any) -> str:
    """Return anything as HTML: what shows itself as that, everything else as escaped text."""
    shown = getattr(value, "_repr_html_", None)
    return shown() if shown else f"<pre>{escape(str(value))}</pre>"


@to_html.register(str)
def _(value: str) -> str:
    return f"<p>{escape(value)}</p>"


@to_html.register(Figure)
def _(value: Figure) -> str:
    picture = io.BytesIO()
    with mpl.rc_context(STYLE):
        value.savefig(picture, format="png", dpi=110)
    return picture_html(picture.getvalue(), "figure") + caption_html(value)


def picture_html(png: bytes, name: str, style: str = "") -> str:
    """Return a picture that needs no file beside the page."""
    data = base64.b64encode(png).decode()
    look = f' style="{style}"' if style else ""
    return f'<img src="data:image/png;base64,{data}" alt="{escape(name)}"{look}>'


def caption_html(figure: Figure) -> str:
    """Return what a figure shows in words, a paragraph per line."""
    return "".join(to_html(line) for line in getattr(figure, "caption", "").splitlines())


def with_hover(figure: Figure, spots: Iterable[Spot]) -> Page:
    """Return a figure as an SVG page in which each spot shows its text under the pointer.

    Nobody reaches these texts by keyboard or screen reader: show the table beside the figure.
    """
    titles = []
    for number, spot in enumerate(spots):
        look = {"marker": "o", "markersize": REACH, "alpha": 0, "linestyle": "", "zorder": 10}
        look |= {"gid": f"hover-{number}", "scalex": False, "scaley": False}
        spot.axes.plot([spot.x], [spot.y], **look)
        titles.append(escape(spot.text))
    picture = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    svg = picture.getvalue()
    found = r'<g id="hover-(\d+)">'
    svg = re.sub(found, lambda m: f"{m[0]}<title>{titles[int(m[1])]}</title>", svg)
    return Page(svg[svg.index("<svg") :] + caption_html(figure), figure)


def readable(table: pd.DataFrame) -> Styler:
    """Return a table for reading: escaped, left-aligned, without its index; intervals are small."""
    style = table.style.hide(axis="index")
    style = style.set_properties(**{"text-align": "left", "white-space": "pre-wrap"})
    heads = [{"selector": "th", "props": [("text-align", "left"), ("vertical-align", "top")]}]
    return style.set_table_styles(heads).format(_cell).format_index(_head, axis="columns")


def _head(name: Any) -> str:
    return escape(str(name))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else number(value)
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if not found:
        return escape(str(value))
    interval = f"<small style='opacity:0.75;white-space:nowrap'>{found[2]} to {found[3]}</small>"
    return f"<span style='white-space:nowrap'>{found[1]}</span> {interval}"


def number(value: float) -> str:
    """Return a number as people write it, to three digits: 1,770, 17.7, 0.0177."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(digits, 0), 6)}f}"


def folded(title: str, *parts: Any) -> Page:
    """Return parts behind a click on a title."""
    inside = page(*parts).html
    look = "cursor:pointer;margin:6px 0"
    return Page(f"<details><summary style='{look}'>{escape(title)}</summary>{inside}</details>")


def turned(table: pd.DataFrame, names: Sequence[str]) -> Styler:
    """Return a table for reading with a column per row, headed by what ``names`` hold: for tables
    of more columns than a page takes.
    """
    heads = [", ".join(filter(None, map(str, row))) for row in table[list(names)].to_numpy()]
    rest = table.drop(columns=list(names))
    columns = {head: rest.iloc[place].to_numpy() for place, head in enumerate(heads)}
    return readable(pd.DataFrame({"": rest.columns, **columns}))


def spans(
    table: pd.DataFrame,
    value: str,
    form: str | Callable[[float], str] = "{:.1f}",
    scale: float = 1,
    ends: tuple = (),
) -> list[str]:
    """Return the numbers of a column with their intervals in brackets; empty if there is none.

    ``form`` writes a number, such as `number`. ``ends`` are the columns of the interval, by
    default ``value`` with ``_low`` and ``_high``.
    """
    shown = []
    say = form.format if isinstance(form, str) else form
    names = [value, *(ends or (f"{value}_low", f"{value}_high"))]
    for middle, low, high in (scale * table[names]).itertuples(index=False):
        interval = "" if pd.isna(low) else f" [{say(low)}, {say(high)}]"
        shown.append("" if pd.isna(middle) else f"{say(middle)}{interval}")
    return shown


def written(values: Iterable[Any], form: str) -> list[str]:
    """Return numbers as text; what is missing is empty, and text stays as it is."""
    return [
        value if isinstance(value, str) else "" if pd.isna(value) else form.format(value)
        for value in values
    ]


def cut(content: str, limit: int) -> str:
    """Return a text that says how much of it was left out."""
    more = f" [{len(content) - limit:,} more characters]"
    return content if len(content) <= limit else content[:limit] + more


def html_table(
    heads: Iterable[str],
    rows: Iterable[Iterable[str]],
    widths: Iterable[str] = (),
    colors: Iterable[str] = (),
) -> str:
    """Return a table of cells that are HTML already; a row's colour is that of its left border."""
    widths, layout = list(widths), ";table-layout:fixed" if widths else ""
    found = zip_longest(heads, widths, fillvalue="auto")
    lines = ["".join(f'<th style="{CELL};width:{wide}">{name}</th>' for name, wide in found)]
    for row, color in zip_longest(rows, colors):
        first, *rest = row
        mark = f";border-left:6px solid {color}" if color else ""
        cells = (f'<td style="{CELL}">{cell}</td>' for cell in rest)
        lines.append(f'<td style="{CELL}{mark}">{first}</td>{"".join(cells)}')
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="width:100%{layout}">{body}</table>'


def show_trajectory(trajectory: Trajectory, limit: int = 1500) -> Page:
    """Return a trajectory as a page: what was asked, every turn (long ones cut), what came out."""
    t = trajectory
    scores = ", ".join(f"{name} {value:.2f}" for name, value in t.scores.items())
    place = f" · {t.source.file}:{t.source.record}" if t.source.file else ""
    answer = t.prediction if t.prediction is not None else "(none)"
    head = (
        f'<div style="border-left:8px solid {_OUTCOMES[t.outcome]};padding:2px 8px">'
        f"<b>{t.outcome}</b> ({escape(t.termination)}) &nbsp; {escape(t.source.model + place)}<br>"
        f"<b>Question</b> {escape(t.question)}<br><b>Reference</b> {escape(t.answer)} "
        f"&nbsp; <b>Answer</b> {escape(answer)} &nbsp; {escape(scores)}</div>"
    )
    error = f'<div style="color:{ERROR_TEXT}">{escape(t.error[:limit])}</div>' if t.error else ""
    return Page(head + show_messages(t.messages, limit).html + error)


def show_messages(messages: Iterable[Message], limit: int = 1500) -> Page:
    """Return the turns of a conversation as a page, long ones cut."""
    return Page("".join(_turn(message, limit) for message in messages))


def _turn(message: Message, limit: int) -> str:
    calls = [
        json.dumps(c.get("function", c), ensure_ascii=False)
        for c in message.get("tool_calls") or ()
    ]
    content = escape(cut("\n".join([text(message), *calls]), limit))
    style = LINE.format(_ROLES.get(message["role"], UNLABELLED)) + MONO
    return f'<div style="{style}"><b>{escape(message["role"])}</b>\n{content}</div>'


def side_by_side(*pages: Any) -> Page:
    """Return pages next to each other, such as a success and a failure of one question."""
    style = f"vertical-align:top;text-align:left;width:{100 / max(len(pages), 1)}%"
    cells = "".join(f'<td style="{style}">{to_html(p)}</td>' for p in pages)
    return Page(f'<table style="width:100%;table-layout:fixed"><tr>{cells}</tr></table>')
