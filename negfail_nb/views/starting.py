"""A button for what trains, spends, or takes more than a second: the first press shows the
estimate, the second starts.

Whatever runs shows its progress bars below the button. An error is shown in red, and raised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets as widgets

from negfail_nb.views.browse import errors_in, to_html
from negfail_nb.views.forms import Form

ASK = "estimate first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What something will take. ``None``: not known; 0: nothing.

    Attributes
    ----------
    minutes
        Of wall time.
    tokens
        Read and written by a model.
    money
        In ``currency``.
    note
        What the numbers rest on.
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


def start_button(
    run: Callable[[Any], Any],
    estimate: Callable[[Any], Cost],
    knobs: Form | None = None,
    label: str = "Start",
) -> Starter:
    """Return a button that starts ``run`` at its second press, after the first one has shown what
    it will take.

    Parameters
    ----------
    run, estimate
        Get the settings of ``knobs`` (``None`` where there are none). What ``run`` returns is
        shown, and is the ``result`` of the returned button.
    knobs
        A form. A knob that is turned takes the estimate back, and nothing more.
    label
        What the button does, in a word or two.
    """
    return Starter(run, estimate, knobs, label)


class Starter(widgets.VBox):
    """A form, a button, the estimate, and below them progress and result."""

    def __init__(
        self,
        run: Callable[[Any], Any],
        estimate: Callable[[Any], Cost],
        knobs: Form | None,
        label: str,
    ) -> None:
        self.run, self.estimate, self.knobs, self.label = run, estimate, knobs, label
        self.agreed: Any = None
        self.ready, self.result = False, None
        self.button = widgets.Button(layout={"width": "auto", "min_width": "220px"})
        self.cost, self.progress, self.pane = widgets.HTML(), widgets.Output(), widgets.HTML()
        self.shown = widgets.VBox()
        above = [knobs] if knobs is not None else []
        super().__init__(
            [*above, widgets.HBox([self.button, self.cost]), self.progress, self.pane, self.shown]
        )
        self.button.on_click(self._pressed)
        for knob in knobs.knobs.values() if knobs is not None else ():
            knob.observe(self._reset, names="value")
        self._reset()

    def _reset(self, _: Any = None) -> None:
        self.ready, self.cost.value = False, ""
        self.button.description, self.button.button_style = f"{self.label}: {ASK}", ""

    def _pressed(self, _: widgets.Button) -> None:
        with errors_in(self.pane):
            self._start() if self.ready else self._ask()

    def _ask(self) -> None:
        self.agreed = self.knobs.value if self.knobs is not None else None
        self.cost.value = f"&nbsp; {escape(str(self.estimate(self.agreed)))}"
        self.pane.value, self.shown.children = "", ()
        self.ready = True
        self.button.description, self.button.button_style = f"{self.label} now", "warning"

    def _start(self) -> None:
        """Run what was agreed to; a second press meanwhile finds the button off."""
        self.button.disabled = True
        self.progress.clear_output()
        try:
            self.result = _within(self.progress, self.run, self.agreed)
            if isinstance(self.result, widgets.Widget):
                self.shown.children = (self.result,)
            else:
                self.pane.value = to_html(self.result)
        finally:
            self.button.disabled = False
            self._reset()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        table = self.knobs.table() if self.knobs is not None else ""
        return {
            **bundle,
            "text/html": f"{table}<p><i>[{escape(self.button.description)}]</i></p>{self.pane.value}",
        }


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


def _time(minutes: float) -> str:
    if minutes < 1:
        return f"{max(minutes * 60, 1):.0f} seconds"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
