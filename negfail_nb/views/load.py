"""A server under load (07): its speeds as a table and a figure, with a cold and a warm cache,
failures in red.
"""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from negfail_nb.speed import LoadSummary
from negfail_nb.views.axes import plain_ticks
from negfail_nb.views.benchmark_figures import FULL_WIDTH
from negfail_nb.views.benchmark_pages import _left, _spans
from negfail_nb.views.browse import ERROR, Page
from negfail_nb.views.figures import COLORS, new_figure, paper_style

TIMES = {"ttft": "time to first token, s", "tpot": "seconds a token after it"}
RATE = "output tokens a second"
CACHES = {
    "cold": {"color": COLORS[0], "marker": "o", "linestyle": "-"},
    "warm": {"color": COLORS[1], "marker": "s", "linestyle": "--"},
}
_COLUMNS = {
    "requests": "requests",
    "success_rate": "succeeded",
    "requests_per_s": "requests a second",
    "steady_tokens_out_per_s": RATE,
    "goodput": "good requests a second",
    "cached_share": "share of the prompt cached",
    "error": "most frequent failure",
}


def load_table(summary: LoadSummary) -> pd.DataFrame:
    """Return the numbers of `draw_load`.

    Returns
    -------
    pandas.DataFrame
        One row a cell: ``cell``, ``loop`` (closed or poisson), ``load`` (requests at once, or a
        second), ``cache``, ``requests``, ``failures``, ``output_tokens_per_s``, and of ``ttft`` and
        ``tpot`` ``_p50`` and ``_p95``, with the interval of the first, ``_low`` and ``_high``.
        Failed requests count as infinite.
    """
    rows = []
    for cell in summary.table.itertuples(index=False):
        load, _, cache = cell.cell.partition("/")
        loop, _, number = load.partition("@")
        about = {"cell": cell.cell, "loop": loop, "load": float(number), "cache": cache}
        about |= {"requests": cell.requests, "failures": cell.failures}
        about["output_tokens_per_s"] = cell.steady_tokens_out_per_s
        rows.append(about | _quantiles(summary, cell.cell))
    return pd.DataFrame(rows)


def _quantiles(summary: LoadSummary, cell: str) -> dict[str, float]:
    found = summary.latencies[summary.latencies["cell"] == cell].set_index(["metric", "statistic"])
    values: dict[str, float] = {}
    for name in TIMES:
        middle, late = found.loc[(name, "p50")], found.loc[(name, "p95")]
        values |= {
            f"{name}_p50": middle["value"],
            f"{name}_p50_low": middle["low"],
            f"{name}_p50_high": middle["high"],
        }
        values[f"{name}_p95"] = late["value"]
    return values


@paper_style()
def draw_load(table: pd.DataFrame) -> Figure:
    """Draw `load_table`: both times and the rate against the load, cold beside warm; a cell with
    failures is red.

    Closed loops only: an open loop's rate is no number of requests at once.
    """
    closed = table[table["loop"] == "closed"] if (table["loop"] == "closed").any() else table
    figure, panels = new_figure(FULL_WIDTH, 2.6, 3)
    names = [
        ("ttft_p50", TIMES["ttft"]),
        ("tpot_p50", TIMES["tpot"]),
        ("output_tokens_per_s", RATE),
    ]
    for panel, (name, label) in zip(panels, names, strict=True):
        for cache, look in CACHES.items():
            rows = closed[(closed["cache"] == cache) & np.isfinite(closed[name])].sort_values(
                "load"
            )
            if rows.empty:
                continue
            panel.plot(rows["load"], rows[name], label=f"{cache} cache", **look)
            if f"{name}_low" in rows:
                panel.fill_between(
                    rows["load"],
                    rows[f"{name}_low"],
                    rows[f"{name}_high"],
                    color=look["color"],
                    alpha=0.15,
                    linewidth=0,
                )
            failed = rows[rows["failures"] > 0]
            panel.plot(
                failed["load"],
                failed[name],
                linestyle="",
                marker="x",
                color=ERROR,
                markersize=9,
                zorder=5,
            )
        loads = sorted(set(closed["load"]))
        panel.set(xscale="log", yscale="log", xlabel="requests at once", ylabel=label)
        panel.set_xticks(loads, [f"{load:g}" for load in loads])
        panel.set_xticks([], minor=True)
        plain_ticks(panel.yaxis)
    handles, labels = panels[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, handlelength=2.8)
    return figure


def show_load(summary: LoadSummary) -> Styler:
    """Return a summary for reading, a cell a row; where requests failed the row is red, and the
    reason stands in it.
    """
    table = summary.table
    rows = pd.DataFrame({"load and cache": table["cell"]})
    for name, title in _COLUMNS.items():
        form = "{:.0%}".format if name in ("success_rate", "cached_share") else "{:.4g}".format
        rows[title] = [_cell(value, form) for value in table[name]]
    for name, title in TIMES.items():
        for statistic in ("p50", "p95"):
            found = summary.latencies
            part = found[(found["metric"] == name) & (found["statistic"] == statistic)].set_index(
                "cell"
            )
            part = part.loc[table["cell"]]
            rows[f"{title}, {statistic}"] = _spans(
                part["value"], part["low"], part["high"], form="{:.3g}"
            )
    red = [f"color:{ERROR};font-weight:bold" if failures else "" for failures in table["failures"]]
    return _left(rows).apply(lambda column: red, axis=0)


def _cell(value: object, form) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else form(value)


def say_load(summary: LoadSummary) -> Page:
    """Return what the figure shows in words; what failed stands first and in red."""
    asked, cells = int(summary.table["requests"].sum()), len(summary.table)
    red = (
        f'<p style="color:{ERROR};font-weight:bold">{escape(summary.warning)}</p>'
        if summary.failed
        else ""
    )
    words = f"{asked:,} requests in {cells} cells; medians with 95 % intervals over requests, rates without begin and end."
    return Page(
        f"{red}<p>{escape(words)} A failed request counts as infinitely slow. Red crosses: requests failed.</p>"
    )
