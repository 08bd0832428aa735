"""07: a server under load: its speeds with a cold and a warm cache, failures in red."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from negfail_nb.speed import LoadSummary
from negfail_nb.speed.metrics import LATENCIES, METRICS
from negfail_nb.views.figures import (
    COLORS,
    FULL_WIDTH,
    new_figure,
    number_axis,
    paper_style,
    plain_ticks,
)
from negfail_nb.views.layout import legend_outside
from negfail_nb.views.pages import (
    ERROR,
    ERROR_TEXT,
    Page,
    folded,
    number,
    page,
    readable,
    spans,
    to_html,
    turned,
    written,
)

TIMES = {name: f"{time.title}, {time.unit}" for name, time in LATENCIES.items() if time.title}
DRAWN = ("ttft", "tpot")
THOUGHT = "ttfa"  # drawn and listed where a model thinks before it answers
RATE = METRICS["steady_tokens_out_per_s"].title
CACHES = {
    "cold": {"color": COLORS[0], "marker": "o", "linestyle": "-"},
    "warm": {"color": COLORS[1], "marker": "s", "linestyle": "--"},
}
MARKERS = "^Dv<>P"  # of what other tools measured, whose cache nobody knows
_FORMS = {"share": "{:.0%}", "text": "{}"}  # by unit; others: 4 digits


def load_table(summary: LoadSummary) -> pd.DataFrame:
    """Return the numbers of `draw_load`.

    Returns
    -------
    pandas.DataFrame
        One row per cell: ``cell``, ``loop`` (closed or poisson), ``load`` (requests at once, or per
        second), ``cache`` (or the tool), ``requests``, ``failures``, ``output_tokens_per_s``, and
        of ``ttft``, ``ttfa`` and ``tpot`` ``_p50`` and ``_p95``, with the interval of the first,
        ``_low`` and ``_high``.
        Failed requests count as infinite.
    """
    rows = []
    latencies = summary.latencies.set_index(["cell", "metric", "statistic"])
    for cell in summary.table.itertuples(index=False):
        load, _, cache = cell.cell.partition("/")
        loop, _, number = load.partition("@")
        row = {"cell": cell.cell, "loop": loop, "load": float(number), "cache": cache}
        row |= {"requests": cell.requests, "failures": cell.failures}
        row["output_tokens_per_s"] = cell.steady_tokens_out_per_s
        for name in TIMES:
            middle = latencies.loc[(cell.cell, name, "p50")]
            row |= {f"{name}_p50": middle["value"], f"{name}_p50_low": middle["low"]}
            row[f"{name}_p50_high"] = middle["high"]
            row[f"{name}_p95"] = latencies.loc[(cell.cell, name, "p95"), "value"]
        rows.append(row)
    return pd.DataFrame(rows)


@paper_style
def draw_load(table: pd.DataFrame) -> Figure:
    """Draw `load_table`: both times and the rate against the load, cold beside warm, and beside
    what other tools measured; a cell with failures has a red cross. Dotted: to the first token of
    the answer, where a model thinks before it.

    Closed loops only: an open loop's rate is no number of requests at once.
    """
    closed = table[table["loop"] == "closed"] if (table["loop"] == "closed").any() else table
    figure, panels = new_figure(FULL_WIDTH, 2.6, 3)
    shown = {f"{name}_p50": TIMES[name] for name in DRAWN} | {"output_tokens_per_s": RATE}
    loads = sorted(set(closed["load"]))
    for panel, (name, label) in zip(panels, shown.items(), strict=True):
        for cache, look in _looks(closed["cache"]).items():
            label = f"{cache} cache" if cache in CACHES else cache
            rows = closed[(closed["cache"] == cache) & np.isfinite(closed[name])]
            if len(rows):
                _draw_cache(panel, rows.sort_values("load"), name, label, look)
        panel.set(xscale="log", yscale="log", xlabel="requests at once", ylabel=label)
        number_axis(panel, loads, [f"{load:g}" for load in loads])
        plain_ticks(panel.yaxis)
    if _thinks(closed.get(f"{THOUGHT}_p50", closed["ttft_p50"]), closed["ttft_p50"]):
        for cache, look in _looks(closed["cache"]).items():
            rows = closed[(closed["cache"] == cache) & np.isfinite(closed[f"{THOUGHT}_p50"])]
            rows = rows.sort_values("load")
            dotted = look | {"linestyle": ":"}
            panels[0].plot(rows["load"], rows[f"{THOUGHT}_p50"], **dotted)
    handles, labels = panels[2].get_legend_handles_labels()
    legend_outside(figure, handles, labels, ncols=2, handlelength=2.8)
    return figure


def _looks(caches: pd.Series) -> dict[str, dict[str, str]]:
    """Return the look of each state of the cache, and of each tool, that there is."""
    tools = sorted(set(caches) - set(CACHES))
    looks = {cache: look for cache, look in CACHES.items() if cache in set(caches)}
    for n, tool in enumerate(tools):
        color = COLORS[(len(CACHES) + n) % len(COLORS)]
        looks[tool] = {"color": color, "marker": MARKERS[n % len(MARKERS)], "linestyle": "-."}
    return looks


def _thinks(answer: pd.Series, first: pd.Series) -> bool:
    return bool((answer > first).any())


def _draw_cache(panel: Axes, rows: pd.DataFrame, name: str, label: str, look: Mapping) -> None:
    panel.plot(rows["load"], rows[name], label=label, **look)
    if f"{name}_low" in rows:
        shade = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
        panel.fill_between(rows["load"], rows[f"{name}_low"], rows[f"{name}_high"], **shade)
    failed = rows[rows["failures"] > 0]
    cross = {"linestyle": "", "marker": "x", "color": ERROR}
    panel.plot(failed["load"], failed[name], markersize=9, zorder=5, **cross)


@to_html.register(LoadSummary)
def _(value: LoadSummary) -> str:
    """What failed, first and in red; what was measured; a row per cell, red if requests failed."""
    table = value.table
    latencies = value.latencies
    rows = pd.DataFrame({"load and cache": table["cell"]})
    for name, metric in METRICS.items():
        if metric.title:
            rows[metric.title] = written(table[name], _FORMS.get(metric.unit, "{:.4g}"))
    middle = latencies[latencies["statistic"] == "p50"].set_index(["metric", "cell"])["value"]
    thinks = _thinks(middle[THOUGHT], middle["ttft"])
    for name, title in TIMES.items():
        if name == THOUGHT and not thinks:
            continue
        for statistic in ("p50", "p95"):
            found = latencies[(latencies["metric"] == name) & (latencies["statistic"] == statistic)]
            found = found.set_index("cell").loc[table["cell"]]
            rows[f"{title}, {statistic}"] = spans(found, "value", number, ends=("low", "high"))
    bold = f"color:{ERROR_TEXT};font-weight:bold"
    red = [bold if failures else "" for failures in table["failures"]]
    warning = Page(to_html(value.warning).replace("<p>", f'<p style="{bold}">', 1))
    said = (
        f"{int(table['requests'].sum()):,} requests in {len(table)} cells; medians with 95 % "
        "intervals over requests, rates without ramp-up and end. A failed request counts as "
        "infinitely slow. Red crosses: requests failed."
    )
    first = [name for name in rows if not name.endswith("p95")][:7]
    notes = [f"Not measured here. {note}." for note in value.notes]
    shown = readable(rows[first]).apply(lambda column: red, axis=0)
    rest = folded("every number", turned(rows, ["load and cache"]))
    return page(*([warning] if value.warning else []), said, shown, *notes, rest).html
