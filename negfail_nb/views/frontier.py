"""The trade-off to play with: arms on and off, the frontier computed anew, and every number under
the pointer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import ipywidgets as widgets
import pandas as pd

from negfail_nb.curves import Curve
from negfail_nb.views.benchmark import MEASURE_TITLES, arm_title
from negfail_nb.views.browse import Explorer, Page, explore
from negfail_nb.views.hover import Spot, with_hover
from negfail_nb.views.tradeoff import COST_TITLES, say_tradeoff, tradeoff_table
from negfail_nb.views.tradeoff_figures import draw_tradeoff

NO_ARM = "No arm is on; tick at least one that is no control."


def only_arms(curve: Curve, arms: Collection[str]) -> Curve:
    """Return a curve of some of its arms; each keeps its draws of questions, so intervals stay as
    they were.

    Raises
    ------
    ValueError
        For an arm that the curve does not have.
    """
    unknown = sorted(set(arms) - set(curve.table["arm"]))
    if unknown:
        raise ValueError(
            f"the curve has no arm {', '.join(unknown)}; it has {', '.join(curve.table['arm'])}"
        )
    return replace(curve, table=curve.table[curve.table["arm"].isin(arms)])


def frontier_page(
    curve: Curve, arms: Collection[str], measure: str = "em", cost: str = "seconds_p50"
) -> Page:
    """Return figure and sentence of some arms, with the numbers of each arm under the pointer."""
    chosen = only_arms(curve, arms)
    if chosen.table["control"].all():
        return Page(f"<p>{NO_ARM}</p>")
    table = tradeoff_table(chosen, measure, (cost,))
    figure = draw_tradeoff(table)
    points = table[table["what"] == "arm"]
    spots = [
        Spot(figure.axes[0], row["cost"], row["value"], _said(row, measure, cost))
        for _, row in points.iterrows()
    ]
    return Page(with_hover(figure, spots).html + say_tradeoff(table).html)


def explore_tradeoff(curve: Curve) -> Explorer:
    """Return the trade-off with a tick for each arm, and a choice of measure and cost."""
    measures = {
        title: name for name, title in MEASURE_TITLES.items() if curve.table[name].notna().any()
    }
    costs = {title: name for name, title in COST_TITLES.items() if curve.table[name].notna().any()}
    if not costs:
        raise ValueError("no arm has a cost: no question got a reply; look at bench.answers")
    ticks = {
        arm: widgets.Checkbox(
            value=True, description=arm_title(arm), indent=False, layout={"width": "auto"}
        )
        for arm in curve.table["arm"]
    }
    return explore(
        lambda measure, cost, **on: frontier_page(
            curve, [arm for arm in on if on[arm]], measure, cost
        ),
        measure=widgets.Dropdown(options=measures, value="em", description="measure"),
        cost=widgets.Dropdown(options=costs, description="cost"),
        **ticks,
    )


def _said(row: pd.Series, measure: str, cost: str) -> str:
    share = "" if pd.isna(row["share"]) else f"\non the frontier in {row['share']:.0%} of the draws"
    beaten = f"\nbeaten by {arm_title(row['dominated_by'])}" if row["dominated_by"] else ""
    return (
        f"{arm_title(row['arm'])}\n{MEASURE_TITLES[measure]} {row['value']:.1f} % "
        f"[{row['value_low']:.1f}, {row['value_high']:.1f}]\n{COST_TITLES[cost]} {row['cost']:,.4g} "
        f"[{row['cost_low']:,.4g}, {row['cost_high']:,.4g}]{share}{beaten}"
    )
