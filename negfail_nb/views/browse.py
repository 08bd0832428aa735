"""Looking into results in a notebook: a trajectory as a page, and knobs whose effect is seen at
once.

All text of logs is escaped: a log that contains HTML or script shows as text. An error inside a
callback is shown in red in its place, and the first call happens in the cell itself, so a headless
run fails on it.
"""

from __future__ import annotations

import base64
import io
import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Trajectory
from negfail_nb.views.figures import FAILURE, SUCCESS, UNLABELLED, paper_style

ERROR = "#B00020"
_COLORS = {"success": SUCCESS, "failure": FAILURE, "unlabelled": UNLABELLED}
_TURN = "margin:2px 0;padding:4px 8px;border-left:4px solid {color};white-space:pre-wrap;font:12px/1.4 monospace"
_ROLES = {"assistant": "#0072B2", "tool": "#BBBBBB", "user": "#BBBBBB", "system": "#555555"}


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of HTML that shows itself in Jupyter."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def note(text: str) -> Page:
    """Return a sentence as a page, escaped."""
    return Page(f"<p>{escape(text)}</p>")


def show_trajectory(trajectory: Trajectory, limit: int = 1500) -> Page:
    """Return a trajectory as a page: what was asked, every turn, what came out.

    Parameters
    ----------
    trajectory
        What to show.
    limit
        Longer turns are cut after so many characters, and say so.
    """
    t = trajectory
    color = _COLORS[t.outcome]
    scores = ", ".join(f"{name} {value:.2f}" for name, value in t.scores.items())
    origin = (
        f"{t.source.model} · {t.source.file}:{t.source.record}" if t.source.file else t.source.model
    )
    answer = t.prediction if t.prediction is not None else "(none)"
    head = (
        f'<div style="border-left:8px solid {color};padding:2px 8px"><b>{t.outcome}</b> ({escape(t.termination)}) '
        f"&nbsp; {escape(origin)}<br><b>Question</b> {escape(t.question)}<br><b>Reference</b> {escape(t.answer)} "
        f"&nbsp; <b>Answer</b> {escape(answer)} &nbsp; {escape(scores)}</div>"
    )
    error = f'<div style="color:{FAILURE}">{escape(t.error[:limit])}</div>' if t.error else ""
    return Page(head + "".join(_turn(m, limit) for m in t.messages) + error)


class Explorer(widgets.VBox):
    """Controls above a result. Where no widgets can be shown, such as in an exported page, the
    result stands alone.
    """

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        controls, pane = self.children
        state = ", ".join(f"{c.description}: {c.value}" for c in controls.children)
        return {**bundle, "text/html": f"<p><i>{escape(state)}</i></p>{pane.value}"}


def side_by_side(*pages: Any) -> Page:
    """Return pages next to each other, such as a success and a failure of one question."""
    width = 100 / max(len(pages), 1)
    cells = "".join(
        f'<td style="vertical-align:top;text-align:left;width:{width}%">{to_html(p)}</td>'
        for p in pages
    )
    return Page(f'<table style="width:100%;table-layout:fixed"><tr>{cells}</tr></table>')


def explore(function: Callable[..., Any], **controls: widgets.Widget) -> Explorer:
    """Return controls above the result of ``function``, drawn anew whenever one changes.

    For functions that take under a second; what trains or spends belongs behind a button.

    Parameters
    ----------
    function
        Gets each control's value under its name; returns a figure, a table, a `Page`, or text.
    controls
        ipywidgets with a ``value``.

    Raises
    ------
    Exception
        Whatever the first call raises. Later errors are shown in red where the result was.
    """
    pane = widgets.HTML(value=to_html(function(**{name: c.value for name, c in controls.items()})))

    def update(_: Any) -> None:
        with errors_in(pane):
            pane.value = to_html(function(**{name: c.value for name, c in controls.items()}))

    for control in controls.values():
        control.observe(update, names="value")
    return Explorer([widgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"}), pane])


@contextmanager
def errors_in(pane: widgets.HTML) -> Iterator[None]:
    """Show an exception of the block in red in ``pane``, and raise it: a callback must not fail
    unseen.

    ipywidgets and Jupyter swallow or hide what a callback raises; a headless run finds it in the
    outputs (`negfail_nb.notebooks.find_errors`).
    """
    try:
        yield
    except Exception as error:
        where = escape(traceback.format_exc())
        pane.value = (
            f'<div style="color:{ERROR}"><b>{escape(type(error).__name__)}: {escape(str(error))}</b>'
            f"<details><summary>where</summary><pre>{where}</pre></details></div>"
        )
        raise


def to_html(value: Any) -> str:
    """Return anything as HTML: a figure as a picture, what shows itself as that, other things as
    escaped text.
    """
    if isinstance(value, Figure):
        picture = io.BytesIO()
        with paper_style():
            value.savefig(picture, format="png", dpi=110)
        return f'<img src="data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}" alt="figure">'
    if hasattr(value, "_repr_html_"):
        return value._repr_html_()
    return f"<pre>{escape(str(value))}</pre>"


def _turn(message: Message, limit: int) -> str:
    content = text(message)
    for call in message.get("tool_calls") or ():
        content += "\n" + json.dumps(call.get("function", call), ensure_ascii=False)
    more = f"\n[{len(content) - limit:,} more characters]" if len(content) > limit else ""
    style = _TURN.format(color=_ROLES.get(message["role"], "#BBBBBB"))
    return f'<div style="{style}"><b>{escape(message["role"])}</b>\n{escape(content[:limit] + more)}</div>'
