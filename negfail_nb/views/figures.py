"""Figures for papers: one style, one way to save. Every figure goes out as pdf, png, csv and json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from negfail_nb.environment import environment
from negfail_nb.runs import fingerprint, plain, write_json

# Okabe and Ito, without the yellow that disappears on white. Success and failure keep theirs in every figure.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
SUCCESS, FAILURE, UNLABELLED = COLORS[0], COLORS[1], "#BBBBBB"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))

STYLE: Mapping[str, Any] = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "font.size": 9,
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


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw in the project's style inside a ``with`` block; nothing global changes."""
    with mpl.rc_context({**STYLE, "axes.prop_cycle": mpl.cycler(color=COLORS)}):
        yield


def new_figure(width: float = 5.5, height: float = 2.6, columns: int = 1, rows: int = 1, **kwargs: Any) -> tuple:
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
    figure: Figure, table: pd.DataFrame, name: str, folder: str | Path, provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write ``name.pdf``, ``.png`` (300 dpi), ``.csv`` (every plotted number) and ``.json`` (what it came from).

    The same figure, table and provenance give byte-identical pdf, png and csv.

    Parameters
    ----------
    figure, table
        The drawing, and the numbers that it shows.
    name, folder
        File name without ending, and where to.
    provenance
        Settings, fingerprints of runs, counts: whatever a reader needs to make the figure again.

    Returns
    -------
    pathlib.Path
        The png.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / name
    table.to_csv(base.with_suffix(".csv"), index=False, float_format="%.6g", lineterminator="\n")
    with paper_style():
        figure.savefig(base.with_suffix(".pdf"), metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(base.with_suffix(".png"), metadata={"Software": None})
    record = {
        "figure": name,
        "rows": len(table),
        "table": fingerprint(table.to_csv(index=False, float_format="%.6g")),
        "provenance": plain(provenance or {}),
        "environment": environment(),
    }
    write_json(base.with_suffix(".json"), record)
    return base.with_suffix(".png")
