"""Controls above a result, and a button that shows its estimate first.

A callback's error is shown in red where the result was, and raised, so a headless run fails on it.
"""

from __future__ import annotations

import ctypes
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from negfail_nb.views.forms import Form
from negfail_nb.views.pages import ERROR_TEXT, to_html
from negfail_nb.views.papers import draw_again, save_figure

ASK = "estimate first"
WIDE = {"width": "95%"}
# JupyterLab runs a button's work in the kernel's main thread, which an interruption reaches, or in
# a subshell, which it does not: there `stop` does, called from the main thread. So the page does
# both; the kernel itself would hear of a second button only after the work.
CANCEL = """<button data-code="from negfail_nb.views.widgets import stop; stop('{}')" onclick="
  const app = window.jupyterapp;
  if (!app) {{ this.textContent = 'menu Kernel, Interrupt Kernel'; return; }}
  app.commands.execute('notebook:interrupt-kernel');
  app.shell.currentWidget.sessionContext.session.kernel.requestExecute(
    {{code: this.dataset.code, silent: true, store_history: false}});
">cancel</button>"""
_AT_WORK: dict[str, int] = {}  # threads of buttons that were started, by a name of their own


def stop(name: str) -> None:
    """Interrupt the work of a button, in whichever thread it runs, as Ctrl-C would."""
    thread = _AT_WORK.get(name)
    if thread is not None and thread != threading.get_ident():
        raised = ctypes.py_object(KeyboardInterrupt)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


@contextmanager
def errors_in(pane: widgets.HTML) -> Iterator[None]:
    """Show an exception of the block in red in ``pane``, and raise it.

    ipywidgets and Jupyter swallow or hide what a callback raises; a headless run finds it in the
    outputs (`negfail_nb.notebooks.find_errors`).
    """
    try:
        yield
    except Exception as error:
        said = escape(f"{type(error).__name__}: {error}")
        where = f"<details><summary>where</summary><pre>{escape(traceback.format_exc())}</pre>"
        pane.value = f'<div style="color:{ERROR_TEXT}"><b>{said}</b>{where}</details></div>'
        raise


class Explorer(widgets.VBox):
    """Controls above a result. Without widgets, as in an exported page, the result stands alone.

    Attributes
    ----------
    shown
        The result: whatever the function returned last.
    """

    shown: Any = None

    def saving(self, path: str | Path, origin: Any = None) -> Explorer:
        """Add a button that saves the figure as it is shown: pdf, png, csv and json.

        Parameters
        ----------
        path
            Folder and name, without ending; the name can be changed beside the button.
        origin
            As `negfail_nb.views.save_figure` takes it.
        """
        path = Path(path)
        look = {"description": "name", "style": {"description_width": "50px"}}
        name = widgets.Text(value=path.name, layout={"width": "260px"}, **look)
        button = widgets.Button(description="Save this figure", layout={"width": "auto"})
        said = widgets.HTML()
        controls, pane = self.children[:2]

        def save(_: Any) -> None:
            with errors_in(said):
                said.value = escape(self._save(path.parent, name.value, origin))

        button.on_click(save)
        self.children = (controls, widgets.HBox([name, button, said]), pane)
        return self

    def _save(self, folder: Path, name: str, origin: Any) -> str:
        """Save the figure that is shown, drawn anew: what a page adds to it is left out."""
        figure = self.shown if isinstance(self.shown, Figure) else self.shown.figure
        if not name or Path(name).name != name:
            raise ValueError(f"{name!r} is no name of a file; write one without folders")
        state = {c.description: c.value for c in self.children[0].children}
        again = draw_again(figure.table, figure.drawn)
        saved = save_figure(again, figure.table, name, folder, {"shown": state, "of": origin})
        return f"saved: {saved.with_suffix('.pdf')}, .png, .csv, .json"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        controls, *_, pane = self.children
        state = ", ".join(f"{c.description}: {c.value}" for c in controls.children)
        return {**bundle, "text/html": f"<p><i>{escape(state)}</i></p>{pane.value}"}


def explore(function: Callable[..., Any], **controls: Any) -> Explorer:
    """Return controls above the result of ``function``, drawn anew whenever one changes.

    For functions that take under a second; what trains or spends belongs behind a button.

    Parameters
    ----------
    function
        Gets each control's value under its name; returns whatever `negfail_nb.views.page` shows.
    controls
        ipywidgets with a ``value``, or what `ipywidgets.interact` takes: a list or mapping of
        options, ``(low, high)`` or ``(low, high, step)``, a bool, a text.

    Raises
    ------
    Exception
        Whatever the first call raises. Later errors are shown in red where the result was.
    """
    knobs = {name: _control(name, given) for name, given in controls.items()}

    def update(_: Any = None) -> None:
        explorer.shown = function(**{name: knob.value for name, knob in knobs.items()})
        pane.value = to_html(explorer.shown)

    def react(_: Any) -> None:
        with errors_in(pane):
            update()

    pane = widgets.HTML()
    above = widgets.HBox(list(knobs.values()), layout={"flex_flow": "row wrap"})
    explorer = Explorer([above, pane])
    update()
    for knob in knobs.values():
        knob.observe(react, names="value")
    return explorer


def _control(name: str, given: Any) -> widgets.Widget:
    if isinstance(given, widgets.Widget):
        return given
    made = widgets.interactive.widget_from_abbrev(given)
    made.description = name
    if made.has_trait("continuous_update"):
        made.continuous_update = False
    return made


def choices(name: str, options: Any, wide: bool = False, **more: Any) -> widgets.Dropdown:
    """Return a list to choose from."""
    return widgets.Dropdown(
        options=options, description=name, **({"layout": WIDE} if wide else {}), **more
    )


def slider(name: str, value: int, low: int, high: int, **more: Any) -> widgets.IntSlider:
    """Return a whole number to choose, which counts once it is let go."""
    look = {"description": name, "continuous_update": False, **more}
    return widgets.IntSlider(value=value, min=low, max=high, **look)


def tick(description: str) -> widgets.Checkbox:
    """Return a checkbox that is on."""
    look = {"indent": False, "layout": {"width": "auto"}}
    return widgets.Checkbox(value=True, description=description, **look)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What something will take: minutes of wall time, tokens read and written by a model, money,
    and what these numbers rest on. ``None``: not known; 0: nothing.
    """

    minutes: float | None = None
    tokens: int | None = None
    money: float | None = None
    currency: str = "USD"
    note: str = ""

    def __str__(self) -> str:
        parts = (
            "minutes not known" if self.minutes is None else f"about {_time(self.minutes)}",
            "tokens not known" if self.tokens is None else f"{self.tokens:,} tokens",
            "money not known" if self.money is None else f"{self.money:,.2f} {self.currency}",
        )
        return ", ".join(parts) + (f" ({self.note})" if self.note else "")


def _time(minutes: float) -> str:
    if minutes < 1:
        return f"{max(minutes * 60, 2):.0f} seconds"
    if minutes < 1.5:
        return "1 minute"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


class StartButton(widgets.VBox):
    """A form, a button that starts at its second press, the estimate that the first press shows,
    and below them progress and result.

    Parameters
    ----------
    run, estimate
        Get the settings of ``knobs`` (``None`` without any). What ``run`` returns is shown, and
        kept as ``result``.
    knobs
        A form. A knob that is turned takes the estimate back, and nothing more.
    label
        What the button does, in a word or two.
    """

    def __init__(
        self,
        run: Callable[[Any], Any],
        estimate: Callable[[Any], Cost],
        knobs: Form | None = None,
        label: str = "Start",
    ) -> None:
        self.run = run
        self.estimate = estimate
        self.knobs = knobs
        self.label = label
        self.ready = False
        self.agreed = None
        self.result = None
        self.button = widgets.Button(layout={"width": "auto", "min_width": "220px"})
        self.cancel = widgets.HTML()
        self.cost, self.progress, self.pane = widgets.HTML(), widgets.Output(), widgets.HTML()
        self.shown = widgets.VBox()
        above = [] if knobs is None else [knobs]
        row = widgets.HBox([self.button, self.cancel, self.cost])
        super().__init__([*above, row, self.progress, self.pane, self.shown])
        self.button.on_click(self._pressed)
        for knob in () if knobs is None else knobs.knobs.values():
            knob.observe(self._reset, names="value")
        self._reset()

    def _reset(self, _: Any = None) -> None:
        self.ready = False
        self.cost.value = ""
        self.button.description = f"{self.label}: {ASK}"
        self.button.button_style = ""

    def _pressed(self, _: widgets.Button) -> None:
        with errors_in(self.pane):
            self._start() if self.ready else self._ask()

    def _ask(self) -> None:
        self.agreed = None if self.knobs is None else self.knobs.value
        self.cost.value = f"&nbsp; {escape(str(self.estimate(self.agreed)))}"
        self.pane.value = ""
        self.shown.children = ()
        self.ready = True
        self.button.description = f"{self.label} now"
        self.button.button_style = "warning"

    def _start(self) -> None:
        """Run what was agreed to; a second press meanwhile finds the button off, and a button to
        cancel beside it. An interruption is no error: the pane says what it leaves.
        """
        self.button.disabled = True
        name = uuid.uuid4().hex
        self.progress.clear_output()
        _AT_WORK[name] = threading.get_ident()
        self.cancel.value = CANCEL.format(name)
        try:
            self.result = _within(self.progress, self.run, self.agreed)
            self.progress.clear_output()
            if isinstance(self.result, widgets.Widget):
                self.shown.children = (self.result,)
            else:
                self.pane.value = to_html(self.result)
        except KeyboardInterrupt as stop:
            self.pane.value = to_html(str(stop) or "stopped")
        finally:
            del _AT_WORK[name]
            self.cancel.value = ""
            self.button.disabled = False
            self._reset()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        table = "" if self.knobs is None else self.knobs.table()
        button = f"<p><i>[{escape(self.button.description)}]</i></p>"
        return {**bundle, "text/html": f"{table}{button}{self.pane.value}"}


def _within(output: widgets.Output, run: Callable[[Any], Any], settings: Any) -> Any:
    """Show what ``run`` prints and draws in ``output``; an error gets out, which the widget alone
    would swallow.
    """
    caught: list[BaseException] = []
    result = None
    with output:
        try:
            result = run(settings)
        except BaseException as error:
            caught.append(error)
    if caught:
        raise caught[0]
    return result
