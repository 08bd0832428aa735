"""Figures for papers: one style, one way to save. Every figure goes out as pdf, png, csv and json.

A function that draws is decorated with `paper_style`: it takes a table first, and the figure that
it returns remembers who drew it. So `negfail_nb.views.redraw` makes any saved figure again from its
csv.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ContextDecorator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from negfail_nb.csvs import csv_text
from negfail_nb.environment import environment
from negfail_nb.locks import naming
from negfail_nb.runs import fingerprint, plain, write_json
from negfail_nb.trajectory import printable

# Okabe and Ito, without the yellow that disappears on white. Success and failure keep theirs in
# every figure.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
SUCCESS, FAILURE, UNLABELLED = COLORS[0], COLORS[1], "#BBBBBB"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))

STYLE: Mapping[str, Any] = {
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


# Width in inches of a column and of the whole text, by the venues' style files; equal where there
# is one column.
SIZES: Mapping[str, tuple[float, float]] = {
    "neurips": (5.5, 5.5),
    "icml": (3.25, 6.75),
    "iclr": (5.5, 5.5),
    "acl": (3.03, 6.30),
    "aaai": (3.3, 6.975),
    "jmlr": (6.0, 6.0),
}
PARTS = ("column", "text")
LONGEST = 60  # letters of a name in a figure


@dataclass(frozen=True, slots=True)
class Drawn:
    """Who drew a figure, and with what beside the table."""

    function: str
    arguments: Mapping[str, Any]


class paper_style(ContextDecorator):
    """The project's style inside a ``with`` block, or around a function that draws; nothing global
    changes.
    """

    def __enter__(self) -> paper_style:
        self._context = mpl.rc_context({**STYLE, "axes.prop_cycle": mpl.cycler(color=COLORS)})
        self._context.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._context.__exit__(*raised)

    def __call__(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``draw`` in this style; the figure that it returns remembers the call."""

        @wraps(draw)
        def styled(*given: Any, **named: Any) -> Any:
            shown = [
                _drawable(value) if isinstance(value, pd.DataFrame) else value for value in given
            ]
            with paper_style():
                figure = draw(*shown, **named)
            if isinstance(figure, Figure):
                figure.drawn = _drawn(draw, given, named)
            return figure

        return styled


def _drawable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose names fit into a figure: on one line, not endless, and as different as
    they were.
    """
    texts = {
        place: {cell: None for cell in column if isinstance(cell, str) and _short(cell) != cell}
        for place, (_, column) in enumerate(table.items())
    }
    table = table.copy(deep=False) if any(texts.values()) else table
    for place in filter(texts.get, texts):
        column = table.iloc[:, place]
        names: dict[Any, str] = {}
        taken = set(column) - set(texts[place])
        for cell in texts[place]:
            copies = (
                _short(cell),
                *(f"{_short(cell)} ({number})" for number in range(2, len(texts[place]) + 2)),
            )
            names[cell] = next(name for name in copies if name not in taken)
            taken.add(names[cell])
        table.isetitem(place, [names.get(cell, cell) for cell in column])
    return table


def _short(text: str) -> str:
    line = " ".join(printable(text).split()) if not text.isprintable() else text
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _drawn(draw: Callable[..., Any], given: tuple, named: Mapping[str, Any]) -> Drawn:
    call = inspect.signature(draw).bind(*given, **named)
    call.apply_defaults()
    return Drawn(draw.__name__, dict(list(call.arguments.items())[1:]))


def figure_width(venue: str, part: str = "text") -> float:
    """Return the width of a venue's column or text, in inches.

    Parameters
    ----------
    venue
        One of ``SIZES``, in any case.
    part
        ``"column"`` or ``"text"``.

    Raises
    ------
    ValueError
        For a venue or part that is not known; the text lists those that are.
    """
    if venue.lower() not in SIZES:
        raise ValueError(f"no sizes for the venue {venue!r}; there are {', '.join(SIZES)}")
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; use one of {', '.join(PARTS)}")
    return SIZES[venue.lower()][PARTS.index(part)]


def fit_figure(figure: Figure, venue: str, part: str = "text") -> Figure:
    """Make a figure as wide as a venue's column or text; its height and the size of its letters
    stay.

    Include it without scaling, and letters are as large as the style says. A column suits figures
    of one panel.
    """
    figure.set_size_inches(figure_width(venue, part), figure.get_figheight())
    return figure


def new_figure(
    width: float = 5.5, height: float = 2.6, columns: int = 1, rows: int = 1, **kwargs: Any
) -> tuple:
    """Return figure and axes in the project's style, unmanaged by pyplot's global list.

    Parameters
    ----------
    width, height
        Size in inches; 5.5 is the text width of NeurIPS and ICLR.
    columns, rows
        Number of panels.
    """
    with paper_style():
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), **kwargs)
    plt.close(figure)  # shown where a cell returns it, and only there
    return figure, axes


def save_figure(
    figure: Figure,
    table: pd.DataFrame,
    name: str,
    folder: str | Path,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``name.pdf``, ``.png`` (300 dpi), ``.csv`` (every plotted number) and ``.json`` (what
    it came from).

    The same figure, table and provenance give byte-identical pdf, png and csv. The csv holds
    numbers to the last digit, so that `negfail_nb.views.redraw` gives the same figure again; texts
    that are formulas to a spreadsheet are guarded, see `negfail_nb.csvs`.

    Parameters
    ----------
    figure, table
        The drawing, and the numbers that it shows.
    name, folder
        File name without ending, and where to.
    provenance
        Settings, fingerprints of runs, counts: whatever a reader needs to make the figure again.
        Its ``environment`` is that of the run, and so the figure's; what drew it is kept apart, as
        ``drawn_with``.

    Returns
    -------
    pathlib.Path
        The png.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / name
    text = csv_text(table)
    with paper_style(), naming(base):
        base.with_suffix(".csv").write_text(text, encoding="utf-8", newline="\n")
        figure.savefig(
            base.with_suffix(".pdf"),
            metadata={"CreationDate": None, "Creator": None, "Producer": None},
        )
        figure.savefig(base.with_suffix(".png"), metadata={"Software": None})
    record = {
        "figure": name,
        "title": " · ".join(
            t for t in (axes.get_title(loc="left") or axes.get_title() for axes in figure.axes) if t
        ),
        "drawn": _call(getattr(figure, "drawn", None)),
        "rows": len(table),
        "columns": {column: column_kind(table[column]) for column in table},
        "table": fingerprint(text),
        "provenance": plain(provenance or {}),
        "environment": _computed_with(provenance or {}),
        "drawn_with": environment(),
    }
    write_json(base.with_suffix(".json"), record)
    return base.with_suffix(".png")


def _computed_with(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the environment of the run that a figure shows: by name where runs differ, ours where
    none is named.
    """
    parts = {name: part for name, part in provenance.items() if isinstance(part, Mapping)}
    found = {name: part["environment"] for name, part in parts.items() if "environment" in part}
    if "environment" in provenance:
        return plain(provenance["environment"])
    alike = len({fingerprint(one) for one in found.values()}) == 1
    return plain(next(iter(found.values())) if alike else found) or environment()


def column_kind(column: pd.Series) -> str:
    """Return what a csv does not say of a column: ``text``, ``text or nothing``, or ``values``."""
    known = column.dropna()
    if known.empty or not all(isinstance(value, str) for value in known):
        return "values"
    return "text or nothing" if len(known) < len(column) and not (known == "").any() else "text"


def _call(drawn: Drawn | None) -> dict[str, Any] | None:
    """A call as plain values: tables as rows, records as their fields."""
    if drawn is None:
        return None
    rows = {
        k: v.to_dict("records") if isinstance(v, pd.DataFrame) else v
        for k, v in drawn.arguments.items()
    }
    return {"function": drawn.function, "arguments": plain(rows)}
