"""07: accuracy against cost, and where the time of a question goes.

Measures are in percent, times in seconds. Every number of a figure is in its table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from negfail_nb.benchmarking.arms import ARMS
from negfail_nb.curves import Curve
from negfail_nb.curves.curve import COSTS
from negfail_nb.views.benchmark import MEASURE_TITLES
from negfail_nb.views.figures import (
    COLORS,
    FULL_WIDTH,
    LONG,
    arm_name,
    arm_title,
    draw_note,
    lines_of,
    look_of,
    name_rows,
    new_figure,
    paper_style,
    plain_ticks,
    reach,
    tokens_title,
    write_at,
)
from negfail_nb.views.layout import label_points, legend_outside, write_small
from negfail_nb.views.pages import (
    Page,
    Spot,
    folded,
    number,
    page,
    readable,
    spans,
    to_html,
    turned,
    with_hover,
)
from negfail_nb.views.widgets import Explorer, choices, explore, tick

# The model's time: in its two parts, or as a whole if these are not known.
STAGES = {
    "prefill_seconds": ("waiting, reading the prompt", COLORS[4]),
    "decode_seconds": ("writing", COLORS[0]),
    "model_seconds": ("model, not split", COLORS[6]),
}
RETRIEVALS = ("retrieve_1", "retrieve_3", "retrieve_3_no_model", "dos_rag")
# Of a cost: its unit, and how one that is less, or more, is called.
UNITS = {
    "alone_p50": ("s", "faster", "slower"),
    "seconds_p50": ("s", "faster", "slower"),
    "tokens": ("tokens", "cheaper in tokens", "dearer in tokens"),
}
TOLD_APART = 200  # questions: of fewer, intervals are so wide that most arms look alike
NO_ARM = "No arm is on; tick at least one that is no control."
FAINT = 0.35
_POINT = ("arm", "length", "control", "questions", "on_frontier", "dominated_by", "share")
_ENDS = ("", "_low", "_high")


@to_html.register(Curve)
def _(value: Curve) -> str:
    """Measures in percent and costs, each with its interval; empty columns are left out."""
    table = value.table
    rows = {
        f"{MEASURE_TITLES[measure]}, %": spans(table, measure, scale=100)
        for measure in ("em", "f1", "joint_em", "joint_f1")
    }
    rows["no reply"] = table["questions"] - table["timed"]
    currency = value.prices.currency if value.prices else "money"
    for name, title, form in (
        ("alone_p50", f"seconds alone, p50 (of {table['alone'].max()} questions)", number),
        ("seconds_p50", "seconds, p50", number),
        ("seconds_p95", "seconds, p95", number),
        ("prompt_tokens", "prompt tokens", "{:,.0f}"),
        ("cached_tokens", "of them cached", "{:,.0f}"),
        ("completion_tokens", "completion tokens", "{:,.1f}"),
        ("money", f"{currency} per 1,000 questions", number),
    ):
        rows[title] = spans(table, name, form, scale=1000 if name == "money" else 1)
    about = table[["arm", "questions"]].assign(arm=table["arm"].map(arm_title))
    shown = {title: cells for title, cells in rows.items() if any(c != "" for c in cells)}
    every = about.assign(**shown)
    first = [n for n in every if n in ("arm", "questions", "EM, %", "prompt tokens")]
    seconds = [n for n in every if n.startswith("seconds")][:1]
    money = [n for n in every if n.endswith("per 1,000 questions")]
    rest = folded("every number", turned(every, ["arm"]))
    return page(readable(every[[*first[:3], *seconds, *first[3:], *money]]), rest).html


def tradeoff_table(
    curve: Curve, measure: str = "em", costs: Sequence[str] = ("seconds_p50", "tokens")
) -> pd.DataFrame:
    """Return the numbers of `draw_tradeoff`: every arm, and the frontier as a line with its band.

    Parameters
    ----------
    curve
        Of `negfail_nb.curves.tradeoff`.
    measure, costs
        What is drawn against what, a panel per cost. A cost that no arm has, such as tokens of a
        server that does not count them, is left out as long as another one is there.

    Returns
    -------
    pandas.DataFrame
        ``against`` (the cost), ``what`` (``"arm"`` or ``"frontier"``), the columns of
        `Curve.frontier` with ``value`` (percent) and ``cost`` and their ends ``_low`` and
        ``_high``, ``measure``, ``confidence``.

    Raises
    ------
    ValueError
        For an unknown measure or cost, and if no arm has the measure or any of the costs.
    """
    known = [c for c in costs if c not in curve.table or curve.table[c].notna().any()]
    parts = []
    for cost in known or costs:
        names = {f"{measure}{end}": f"value{end}" for end in _ENDS}
        names |= {f"{cost}{end}": f"cost{end}" for end in _ENDS}
        points = curve.frontier(measure, cost).rename(columns=names)[[*_POINT, *names.values()]]
        parts.append(points.assign(against=cost, what="arm"))
        if not curve.table["control"].all():
            line = curve.band(measure, cost)
            line = line.rename(columns={"low": "value_low", "high": "value_high"})
            parts.append(line.assign(against=cost, what="frontier"))
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    table[["value", "value_low", "value_high"]] *= 100
    return table.assign(measure=measure, confidence=curve.settings.confidence)


@paper_style
def draw_tradeoff(table: pd.DataFrame) -> Figure:
    """Draw `tradeoff_table`: accuracy against cost, a panel per cost, up and left is better.

    The black line is the best that can be had for at most this cost, with its band. Arms that
    another one beats are faint, controls are hollow, and those of one arm at several lengths are
    joined from length to length.
    """
    costs = list(dict.fromkeys(table["against"]))
    figure, panels = new_figure(FULL_WIDTH, 3.0, len(costs), sharey=True, squeeze=False)
    for panel, cost in zip(panels[0], costs, strict=True):
        part = table[table["against"] == cost]
        arms = part[part["what"] == "arm"]
        if (arms["cost"] > 0).all():
            panel.set_xscale("log")
        _draw_frontier(panel, part[part["what"] == "frontier"])
        _draw_arms(panel, arms)
        if panel.get_xscale() == "log":
            least = arms[["cost", "cost_low"]].min(axis=None)
            panel.set_xlim(least / 1.3, arms[["cost", "cost_high"]].max(axis=None) * 1.4)
            plain_ticks(panel.xaxis)
        panel.set(xlabel=COSTS[cost].title)
    top = max(table["value_high"].max(), 1)
    arms = table[table["what"] == "arm"]
    panels[0][0].set(ylim=(-0.04 * top, 1.06 * top))
    panels[0][0].set(ylabel=f"{MEASURE_TITLES[table['measure'].iloc[0]]}, %")
    asked = int(arms["questions"].max())
    level = table["confidence"].iloc[0]
    panels[0][0].set_title(f"{asked:,} questions, {level:.0%} intervals", fontweight="normal")
    if said := message(arms[arms["against"] == costs[0]], costs[0]):
        figure.suptitle(said, fontsize=9, fontweight="bold", x=0.01, ha="left")
    legend_outside(figure, _handles(arms), side="right", handlelength=2.2)
    for panel, cost in zip(panels[0], costs, strict=True):
        _name_lengths(panel, arms[arms["against"] == cost])
    figure.caption = _tradeoff_caption(table)
    return figure


def message(arms: pd.DataFrame, cost: str) -> str:
    """Return what the numbers say of the best retrieval and the longest context, in one sentence;
    empty if one of them is not there.

    Of fewer questions than `TOLD_APART` it gives their numbers alone.
    """
    kinds = arms["arm"].map(arm_name)
    long = arms[kinds == LONG]
    found = arms[kinds.isin(RETRIEVALS)]
    if long.empty or found.empty or cost not in UNITS:
        return ""
    all_in = long.loc[long["length"].idxmax()]
    best = found.sort_values(["value", "cost"], ascending=[False, True]).iloc[0]
    names = arm_title(best["arm"]), arm_title(all_in["arm"])
    if arms["questions"].max() < TOLD_APART:
        parts = zip(names, (best, all_in), strict=True)
        unit = UNITS[cost][0]
        return "; ".join(
            f"{n}: {r['value']:.0f} % for {number(r['cost'])} {unit}" for n, r in parts
        )
    times = all_in["cost"] / best["cost"]
    word = UNITS[cost][1] if times >= 1 else UNITS[cost][2]
    often = max(times, 1 / times)
    much = f"{often:.0f} times {word}" if often >= 10 else f"{often:.1f} times {word}"
    first = names[0][:1].upper() + names[0][1:]
    more = best["value"] - all_in["value"]
    if abs(more) <= np.hypot(_half(best), _half(all_in)):
        return f"{first} or {names[1]}: no difference is seen, and it is {much}"
    return f"{first} answers {'better' if more > 0 else 'worse'} than {names[1]}, and is {much}"


def _half(row: pd.Series) -> float:
    """Half of an interval. Those of two arms add up as the sides of a right angle; as arms answer
    the same questions, their difference is known better than that.
    """
    return (row["value_high"] - row["value_low"]) / 2


def _handles(arms: pd.DataFrame) -> list[Line2D]:
    """Every arm in full colour, in the order of other figures; the frontier before them."""
    order = list(ARMS)
    names = list(dict.fromkeys(map(arm_name, arms["arm"])))
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    controls = set(arms.loc[arms["control"].astype(bool), "arm"])
    handles = [Line2D([], [], color="black", linewidth=1, label="frontier")]
    for name in names:
        look = look_of(name) | {"linestyle": "", "label": arm_title(name), "markersize": 6}
        look["markerfacecolor"] = "white" if name in controls else None
        handles.append(Line2D([], [], **look))
    return handles


def _draw_frontier(panel: Axes, line: pd.DataFrame) -> None:
    if len(line):
        step = {"step": "post", "color": "#888888", "alpha": 0.2, "linewidth": 0, "zorder": 0}
        panel.fill_between(line["cost"], line["value_low"], line["value_high"], **step)
        panel.step(line["cost"], line["value"], where="post", color="black", linewidth=1, zorder=1)


def _draw_arms(panel: Axes, arms: pd.DataFrame) -> None:
    for name, line in lines_of(arms):
        look = {"color": look_of(name)["color"], "linestyle": ":", "linewidth": 1, "alpha": 0.7}
        panel.plot(line["cost"], line["value"], zorder=1, **look)
    for _, arm in arms.iterrows():
        _draw_arm(panel, arm.to_frame().T)


def _name_lengths(panel: Axes, arms: pd.DataFrame) -> None:
    """Write its length beside each arm that has one, in its colour, last, so that no point is
    hidden.
    """
    long = arms[arms["length"] > 0].sort_values("length")
    colors = {(arm.cost, arm.value): look_of(arm.arm)["color"] for arm in long.itertuples()}
    names = [(tokens_title(int(arm.length)), arm.cost, arm.value) for arm in long.itertuples()]
    points = arms[["cost", "value"]].itertuples(index=False)
    label_points(panel, names, points, write_small(panel, colors))


def _draw_arm(panel: Axes, row: pd.DataFrame) -> None:
    arm = row.iloc[0]
    look = look_of(arm["arm"]) | {"linestyle": ""}
    bold = bool(arm["on_frontier"]) or bool(arm["control"])
    bars = {"capsize": 0, "elinewidth": 0.8, "alpha": 0.8 if bold else FAINT, "zorder": 2}
    bars |= {"fmt": "none", "ecolor": look["color"]}
    panel.errorbar(row["cost"], row["value"], reach(row, "value"), reach(row, "cost"), **bars)
    look |= {"markerfacecolor": "white" if arm["control"] else look["color"], "markersize": 6}
    panel.plot(row["cost"], row["value"], **look, alpha=1 if bold else FAINT, zorder=3)


def _tradeoff_caption(table: pd.DataFrame) -> str:
    """From how many questions, and which arms are on the frontier."""
    arms = table[table["what"] == "arm"]
    said = []
    for cost, part in arms.groupby("against", sort=False):
        best = part[part["on_frontier"].astype(bool)].itertuples()
        named = "; ".join(f"{arm_title(r.arm)} ({r.share:.0%} of the draws)" for r in best)
        said.append(f"Against {COSTS[str(cost)].title}, no arm beats: {named or 'none'}.")
    title = MEASURE_TITLES[table["measure"].iloc[0]]
    level = table["confidence"].iloc[0]
    asked = f"{title} of {int(arms['questions'].max()):,} questions, the same ones for every arm"
    control = arms["control"].astype(bool).any()
    hollow = " Hollow: controls, which nobody can have." if control else ""
    said = " ".join(said)
    return f"{asked}, {level:.0%} intervals. {said} Faint: beaten by another arm.{hollow}"


def only_arms(curve: Curve, arms: Collection[str]) -> Curve:
    """Return a curve of some arms; intervals stay, as each arm keeps its draws of questions."""
    known = curve.table["arm"]
    if unknown := sorted(set(arms) - set(known)):
        raise ValueError(f"the curve has no arm {', '.join(unknown)}; it has {', '.join(known)}")
    return replace(curve, table=curve.table[known.isin(arms)])


def frontier_page(
    curve: Curve, arms: Collection[str], measure: str = "em", cost: str = "seconds_p50"
) -> Page:
    """Return figure and caption of some arms, with the numbers of each arm under the pointer."""
    chosen = only_arms(curve, arms)
    if chosen.table["control"].all():
        return page(NO_ARM)
    table = tradeoff_table(chosen, measure, (cost,))
    figure = draw_tradeoff(table)
    points = table[table["what"] == "arm"].to_dict("records")
    spots = [
        Spot(figure.axes[0], row["cost"], row["value"], _pointed_at(row, measure, cost))
        for row in points
    ]
    return with_hover(figure, spots)


def _pointed_at(row: Mapping, measure: str, cost: str) -> str:
    lines = [
        arm_title(row["arm"]),
        f"{MEASURE_TITLES[measure]} {row['value']:.1f} % "
        f"[{row['value_low']:.1f}, {row['value_high']:.1f}]",
        f"{COSTS[cost].title} {row['cost']:,.4g} [{row['cost_low']:,.4g}, {row['cost_high']:,.4g}]",
    ]
    if not pd.isna(row["share"]):
        lines.append(f"on the frontier in {row['share']:.0%} of the draws")
    if row["dominated_by"]:
        lines.append(f"beaten by {arm_title(row['dominated_by'])}")
    return "\n".join(lines)


def explore_tradeoff(curve: Curve) -> Explorer:
    """Return the trade-off with a tick for each arm, and a choice of measure and cost."""
    known = {name for name in curve.table if curve.table[name].notna().any()}
    measures = {title: name for name, title in MEASURE_TITLES.items() if name in known}
    costs = {cost.title: name for name, cost in COSTS.items() if cost.title and name in known}
    if not costs:
        raise ValueError("no arm has a cost: no question got a reply; look at bench.answers")
    return explore(
        lambda measure, cost, **on: frontier_page(
            curve, [arm for arm in on if on[arm]], measure, cost
        ),
        measure=choices("measure", measures, value="em"),
        cost=choices("cost", costs),
        **{arm: tick(arm_title(arm)) for arm in curve.table["arm"]},
    )


def split_table(curve: Curve) -> pd.DataFrame:
    """Return where the time of a question goes, one arm per row: means of the seconds of each
    stage.

    ``retrieval_seconds``; ``model_seconds`` and, if the model says when its first token came, its
    parts ``prefill_seconds`` (waiting and reading) and ``decode_seconds`` (writing); each with its
    interval.
    """
    stages = ("retrieval_seconds", "model_seconds", "prefill_seconds", "decode_seconds")
    names = [f"{name}{end}" for name in stages for end in _ENDS]
    return curve.table[["arm", "length", "questions", "timed", *names]]


@paper_style
def draw_split(table: pd.DataFrame) -> Figure:
    """Draw `split_table`: mean seconds of a question, those of retrieval hatched, one arm per row.

    If the model says when its first tokens came, its time is split there.
    """
    timed = table[table["model_seconds"].notna()]
    if timed.empty:
        return draw_note("No question got a reply, so there is no time to split.")
    figure, axes = new_figure(FULL_WIDTH, 1.2 + 0.24 * len(timed))
    rows = np.arange(len(timed))[::-1]
    found = timed["retrieval_seconds"]
    look = {"color": COLORS[1], "hatch": "////", "edgecolor": "white", "linewidth": 0}
    axes.barh(rows, found, 0.6, label="retrieval", **look)
    left = found
    known = timed["prefill_seconds"].notna()
    for name, (label, color) in STAGES.items():
        part = timed[name].where(known if name != "model_seconds" else ~known)
        if part.notna().any():
            axes.barh(rows, part, 0.6, left, color=color, label=label)
            left = left + part.fillna(0)
    ends = np.nan_to_num(reach(timed, "model_seconds"))
    error = {"ecolor": "#333333", "elinewidth": 0.8, "capsize": 2}
    axes.barh(rows, timed["model_seconds"], 0.6, found, xerr=ends, color="none", error_kw=error)
    tips = (found + timed["model_seconds"]).to_numpy() + ends[1]
    for row, at, seconds in zip(rows, tips, found, strict=True):
        note = f"retrieval {1000 * seconds:.1f} ms" if seconds else ""
        write_at(axes, note, (at, row), (5, 0), va="center")
    name_rows(axes, rows, map(arm_title, timed["arm"]))
    axes.set(xlabel="mean seconds a question", xlim=(0, 1.2 * tips.max()))
    axes.set_title(f"{int(timed['questions'].max()):,} questions")
    legend_outside(figure)
    figure.caption = _split_caption(table)
    return figure


def _split_caption(table: pd.DataFrame) -> str:
    """How much of the time retrieval takes, and what passes before the model's first tokens."""
    asked = int(table["questions"].max())
    seconds = table["retrieval_seconds"]
    share = seconds / (seconds + table["model_seconds"])
    text = f"Mean seconds of {asked:,} questions"
    if share.max() > 0:
        most = table.loc[share.idxmax()]
        text += (
            f". Retrieval takes at most {share.max():.2%} of the time ({arm_title(most['arm'])}, "
            f"{1000 * most['retrieval_seconds']:.1f} ms); the rest is the model's."
        )
    else:
        text += "; no arm retrieves."
    read = table["prefill_seconds"] / table["model_seconds"]
    if not read.notna().any():
        return f"{text} When first tokens came is not known."
    low, high = (arm_title(table.loc[place, "arm"]) for place in (read.idxmin(), read.idxmax()))
    return (
        f"{text} Of it, waiting and reading the prompt take {read.min():.0%} ({low}) "
        f"to {read.max():.0%} ({high})."
    )
