"""A form for any settings: one knob per field, made from its type, bounds, choices and help."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import traitlets

from negfail_nb.kept import FILE, keep, merged
from negfail_nb.settings import Checked, stage_of
from negfail_nb.views.pages import ERROR_TEXT

if TYPE_CHECKING:
    from negfail_nb.project import Project

SLIDER_FLOAT, SLIDER_INT = 20.0, 100  # wider ranges than these are typed
STEP = 0.01
_NAME = {"description_width": "130px"}
_KNOB = {"width": "360px", "min_width": "360px"}
_BESIDE = {"flex": "1 1 250px", "margin": "0 0 0 8px"}  # a text with less room goes below its knob
_NOTE = "font:12px/1.3 sans-serif;color:var(--jp-ui-font-color1,#333333)"


class Form(widgets.VBox):
    """A form that shows settings and lets them be changed; its ``value`` is a new settings object.

    One knob per field, made from its type, bounds, choices and help text. A form starts nothing:
    the next cell reads its value. With a project, a knob that is turned is kept in its
    ``settings.json``, for every notebook. Below the knobs stands the line that does the same in the
    parameters cell or a script. Without widgets, as in an exported page, a table stands instead.

    Parameters
    ----------
    settings
        What the knobs show at first.
    project
        Where choices are kept, and what they are compared with; ``None``: they are not kept.
    names
        Fields that get a knob, in this order; empty: all. The others keep their values.
    changes
        What the line below the knobs keeps beside them; by default what the project was given.

    Raises
    ------
    ValueError
        For a name that is no field; the text lists those that are.
    """

    def __init__(
        self,
        settings: Checked,
        project: Project | None = None,
        names: Sequence[str] = (),
        changes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        known = {f.name: f for f in fields(settings)}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f"{type(settings).__name__} has no {', '.join(unknown)}; it has {', '.join(known)}"
            )
        self.settings = settings
        self.project = project
        self.stage = stage_of(settings)
        self.named = getattr(project.named, self.stage) if project else settings
        self.changes = changes or (merged(project.kept, project.changes) if project else {})
        self.fields = {name: known[name] for name in names or known if _has_knob(known[name])}
        self.knobs = {name: _knob(f, settings) for name, f in self.fields.items()}
        self.notes = {name: widgets.HTML(layout=_BESIDE) for name in self.fields}
        self.message = widgets.HTML()
        rows = [
            widgets.HBox([self.knobs[name], self.notes[name]], layout={"flex_flow": "row wrap"})
            for name in self.fields
        ]
        super().__init__([*rows, *([self._buttons()] if project else []), self.message])
        for knob in self.knobs.values():
            knob.observe(self._turned, names="value")
        self._say()

    def _buttons(self) -> widgets.HBox:
        below = widgets.Button(
            description="Run below",
            tooltip="run this cell and all below it, with these choices",
            button_style="primary",
        )
        back = widgets.Button(
            description="Reset", tooltip="take the values of the profile, and keep no others"
        )
        below.on_click(lambda _: _run_below())
        back.on_click(lambda _: self.reset())
        return widgets.HBox([below, back])

    def reset(self) -> None:
        """Turn every knob to the value of the profile, and keep none of them."""
        for name, knob in self.knobs.items():
            knob.value = _shown(getattr(self.named, name))
        self._turned()

    def _turned(self, _: Any = None) -> None:
        """Keep what the knobs say, and say so."""
        self._say()
        if self.project:
            try:
                value = self.value
                given = self._given()
                new = {
                    name: getattr(value, name)
                    for name in self.fields
                    if name not in given or self._differs(name, given[name])
                }
                keep(self.project.home, self.project.profile.name, {self.stage: new})
            except (ValueError, OSError) as error:
                self.message.value = f"<b style='color:{ERROR_TEXT}'>{escape(str(error))}</b>"

    @property
    def value(self) -> Any:
        """The settings as the knobs say.

        Raises
        ------
        ValueError
            If a knob holds what cannot be right; the text is the one that the form shows.
        """
        read = {name: _read(self.fields[name], knob.value) for name, knob in self.knobs.items()}
        kept = {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}
        return type(self.settings)(**kept | read)

    @property
    def code(self) -> str:
        """The line that does the same as the form: for the parameters cell, or a call if the
        settings are no stage's.
        """
        value = self.value
        new = {name: getattr(value, name) for name in self.fields}
        changed = {k: v for k, v in new.items() if v != getattr(self.named, k)}
        if not self.stage:
            given = ", ".join(f"{name}={_literal(v)}" for name, v in changed.items())
            return f"{type(value).__name__}({given})"
        before = dict(self.changes.get(self.stage, {}))
        if self.project:  # what was turned back to the profile's value is no change any more
            before = {k: v for k, v in before.items() if k not in new}
        every = {**self.changes, self.stage: before | changed}
        return f"changes = {_literal({k: v for k, v in every.items() if v})}"

    def _say(self) -> None:
        """Mark what differs from the profile; show the line, or what is wrong."""
        for name, field in self.fields.items():
            self.notes[
                name
            ].value = f"<div style='{_NOTE};padding-top:7px'>{self._mark(name)}{_note(field)}</div>"
        try:
            line = self.code
        except ValueError as error:
            self.message.value = f"<b style='color:{ERROR_TEXT}'>{escape(str(error))}</b>"
            return
        given = self._given()
        overruled = [n for n in given if n in self.fields and self._differs(n, given[n])]
        said = "the same as a line of the parameters cell:"
        if self.project and not any(map(self._mark, self.fields)):
            said = (
                f"as in the profile; what you change is kept in {FILE} for every notebook; {said}"
            )
        elif self.project:
            said = f"kept in {FILE} for every notebook; {said}"
        if overruled:
            said = (
                f"the parameters cell sets {', '.join(overruled)}, which counts in other notebooks "
                f"and when this cell runs again: take it out there; {said}"
            )
        self.message.value = (
            f"<div style='{_NOTE}'>{escape(said)} {_copy_button(line)}"
            f"<pre style='margin:4px 0;white-space:pre-wrap'>{escape(line)}</pre></div>"
        )

    def _given(self) -> Mapping[str, Any]:
        """What the parameters cell sets of this stage."""
        return self.project.changes.get(self.stage, {}) if self.project else {}

    def _differs(self, name: str, given: Any) -> bool:
        try:
            return _read(self.fields[name], self.knobs[name].value) != getattr(
                type(self.settings)(**{name: given}), name
            )
        except ValueError:
            return True

    def _mark(self, name: str) -> str:
        """The profile's value, where the knob has another."""
        usual = getattr(self.named, name)
        try:
            same = _read(self.fields[name], self.knobs[name].value) == usual
        except ValueError:
            same = False
        shown = escape(_literal(usual))
        where = "profile" if self.project else "before"
        return "" if same else f"<b>{where}: {shown}</b> &nbsp; "

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return {**(super()._repr_mimebundle_(**kwargs) or {}), "text/html": self.table()}

    def table(self) -> str:
        """Return the settings as an HTML table with their help texts."""
        value = self.value
        cell = "<td style='text-align:left'>"
        rows = "".join(
            f"<tr>{cell}<b>{name}</b></td>{cell}{escape(_literal(getattr(value, name)))}</td>"
            f"{cell}{_note(f)}</td></tr>"
            for name, f in self.fields.items()
        )
        return f"<table>{rows}</table><pre>{escape(self.code)}</pre>"


form = Form  # what notebooks call


def _run_below() -> None:
    """Let JupyterLab run the cell whose form was clicked, and all below it."""
    from ipylab import JupyterFrontEnd

    JupyterFrontEnd().commands.execute("notebook:run-all-below")


def _copy_button(line: str) -> str:
    """A button that copies a line; the text stands in an attribute, so it is never executed."""
    code = "navigator.clipboard.writeText(this.dataset.line)"
    return f"<button data-line='{escape(line)}' onclick='{code}'>copy</button>"


def _has_knob(field: Field) -> bool:
    """Lists of records, such as the intervals of a fit, are results and not for people to write."""
    return field.metadata.get("items", str) in (str, int, float)


class Ticks(widgets.HBox):
    """A list to tick. Its ``value``, as of a field for text, is a JSON list: what was there keeps
    its order, and what is ticked comes behind it.
    """

    value = traitlets.Unicode("[]")

    def __init__(self, names: Sequence[str], value: Sequence[str], description: str) -> None:
        names = [*dict.fromkeys([*names, *value])]
        look = {"indent": False, "layout": {"width": "auto", "margin": "0 8px 0 0"}}
        self.boxes = {name: widgets.Checkbox(description=name, **look) for name in names}
        title = widgets.Label(description, layout={"width": "134px", "justify_content": "flex-end"})
        rows = widgets.HBox(list(self.boxes.values()), layout={"flex_flow": "row wrap"})
        super().__init__([title, rows], layout={"width": "360px", "min_width": "360px"})
        for box in self.boxes.values():
            box.observe(self._ticked, names="value")
        self.observe(self._shown, names="value")
        self.value = json.dumps(list(value), ensure_ascii=False)

    def _ticked(self, _: Any) -> None:
        on = [name for name, box in self.boxes.items() if box.value]
        before = [name for name in json.loads(self.value) if name in on]
        self.value = json.dumps([*dict.fromkeys([*before, *on])], ensure_ascii=False)

    def _shown(self, _: Any) -> None:
        on = json.loads(self.value)
        for name, box in self.boxes.items():
            box.unobserve(self._ticked, names="value")
            box.value = name in on
            box.observe(self._ticked, names="value")


def _known(field: Field, settings: Checked) -> tuple[str, ...]:
    """What a form offers for a field, see `negfail_nb.settings.checked.option`."""
    known = field.metadata.get("known", ())
    if isinstance(known, str):
        module, _, name = known.partition(":")
        known = getattr(import_module(module), name)
    return tuple(known(settings) if callable(known) else known)


def _knob(field: Field, settings: Checked) -> widgets.Widget:
    """The widget for a field. A bad value is typed freely and then refused with a reason; nothing
    is cut silently.
    """
    given = field.metadata
    value = getattr(settings, field.name)
    known = _known(field, settings)
    if known and isinstance(value, tuple):
        return Ticks(known, value, field.name)
    kind = type(field.default)
    look = {"description": field.name, "style": _NAME, "layout": _KNOB}
    if kind is bool:
        return widgets.Checkbox(value=value, indent=True, **look)
    if given.get("choices") is not None or known:
        found = given.get("choices") or dict.fromkeys([*known, value])
        options = [(str(c) or "(empty)", c) for c in found]
        return widgets.Dropdown(options=options, value=value, **look)
    look["continuous_update"] = False
    if kind in (int, float):
        return _number(kind, value, given.get("low"), given.get("high"), look)
    return widgets.Text(value=_shown(value), **look)


def _shown(value: Any) -> Any:
    """A value as its knob has it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value


def _number(
    kind: type, value: float, low: float | None, high: float | None, look: dict[str, Any]
) -> widgets.Widget:
    span = float("inf") if low is None else high - low
    # No slider is exact enough for a learning rate.
    fine = low is not None and 0 < abs(low) < STEP
    if kind is float and span <= SLIDER_FLOAT and not fine:
        shown = ".2f" if round(value, 2) == value else ".4g"
        look |= {"min": low, "max": high, "step": STEP, "readout_format": shown}
        return widgets.FloatSlider(value=value, **look)
    if kind is int and span <= SLIDER_INT:
        return widgets.IntSlider(value=value, min=low, max=high, **look)
    return (widgets.IntText if kind is int else widgets.FloatText)(value=value, **look)


def _read(field: Field, value: Any) -> Any:
    """What a knob says, as the field's type: a list is JSON, or plain words and numbers between
    commas.
    """
    if type(field.default) is not tuple:
        return value
    text = value.strip()
    if not text.startswith("["):
        items = [item.strip() for item in text.split(",") if item.strip()]
        text = json.dumps(items) if field.metadata["items"] is str else f"[{', '.join(items)}]"
    try:
        return tuple(json.loads(text))
    except ValueError:
        example = 'a list such as ["one", "two"]'
        raise ValueError(
            f"{field.name} is {value!r}; give items between commas, or {example}"
        ) from None


def _note(field: Field) -> str:
    low = field.metadata.get("low")
    high = field.metadata.get("high")
    bounds = "" if low is None else f" <i>({low:,} to {high:,})</i>"
    return f"{escape(field.metadata['help'])}{bounds}"


def _literal(value: Any) -> str:
    """A value as people write it in Python, texts in double quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
