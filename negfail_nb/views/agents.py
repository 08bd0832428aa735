"""Pictures and tables of agents (05): EM of each arm with its interval, a dot a seed, and the paired differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from negfail_nb.views.figures import COLORS, MARKERS, new_figure, paper_style
from negfail_nb.views.training import TITLES

PLOTTED = ("em", "em_low", "em_high", "em_difference", "em_difference_low", "em_difference_high")
# Distance between the dots of the seeds and the arm's own line, and the height that they spread over.
SEED_ROW, SEED_SPREAD = -0.27, 0.12
# Behind a number, so that no line runs through it.
PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}


def agent_table(comparison: pd.DataFrame, seeds: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the numbers that `draw_agents` plots, in percent.

    Parameters
    ----------
    comparison
        Of `negfail_nb.evaluate.compare_agents`.
    seeds
        Of `negfail_nb.evaluate.seed_table`; ``None``: no dots.

    Returns
    -------
    pandas.DataFrame
        One row an arm (``seed`` is empty), in the order given, then one row an arm and seed: ``arm``, ``seed``,
        ``em``, ``em_low``, ``em_high``, ``em_difference`` and its ends, ``questions``, and ``baseline``: the arm that
        the others were compared with.
    """
    arms = comparison[["arm", *PLOTTED, "questions"]].assign(seed="")
    parts = [arms] if seeds is None else [arms, seeds[["arm", "seed", "em"]].assign(seed=seeds["seed"].astype(str))]
    table = pd.concat(parts, ignore_index=True)
    table[list(PLOTTED)] *= 100
    return table.assign(baseline=_baseline(comparison))


@paper_style()
def draw_agents(table: pd.DataFrame) -> Figure:
    """Draw `agent_table`.

    Left: EM of each arm with its interval over questions, and below it an open dot a seed. Right: the paired difference
    to the arm compared with; right of 0 is better.
    """
    arms, seeds = table[table["seed"] == ""], table[table["seed"] != ""]
    figure, (left, right) = new_figure(width=6.75, height=0.9 + 0.45 * len(arms), columns=2, sharey=True)
    rows = dict(zip(arms["arm"], reversed(range(len(arms))), strict=True))
    _draw_values(left, arms, rows, "em", "{:.1f}")
    _draw_values(right, arms, rows, "em_difference", "{:+.1f}")
    _draw_seeds(left, seeds, rows)
    left.set_yticks(list(rows.values()), [TITLES.get(arm, arm) for arm in rows])
    left.set(
        ylim=(-0.6, len(rows) - 0.3), xlabel="EM, %", title=f"{int(arms['questions'].iloc[0]):,} held-out questions"
    )
    baseline = arms["baseline"].iloc[0]
    right.axvline(0, color="#888888", linewidth=0.8, zorder=0)
    right.set(xlabel=f"EM minus {TITLES.get(baseline, baseline)}, points", title="Paired, by question")
    return figure


def _draw_values(panel: Axes, arms: pd.DataFrame, rows: dict[str, int], value: str, form: str) -> None:
    for (_, arm), color, marker in zip(
        arms.iterrows(), _cycle(COLORS, len(arms)), _cycle(MARKERS, len(arms)), strict=True
    ):
        ends = [max(arm[value] - arm[f"{value}_low"], 0), max(arm[f"{value}_high"] - arm[value], 0)]
        row = rows[arm["arm"]]
        panel.errorbar(arm[value], row, xerr=np.array(ends)[:, None], fmt=marker, color=color, capsize=3)
        text = form.format(arm[value])
        panel.annotate(text, (arm[value], row), (0, 5), textcoords="offset points", ha="center", fontsize=7, bbox=PLATE)
    panel.grid(visible=False, axis="y")


def _draw_seeds(panel: Axes, seeds: pd.DataFrame, rows: dict[str, int]) -> None:
    """Seeds lie side by side where their EM is equal, so that none hides another."""
    for arm, part in seeds.groupby("arm", sort=False):
        place = part.groupby(part["em"].round(1)).cumcount()
        height = rows[arm] + SEED_ROW - SEED_SPREAD * place / max(place.max(), 1)
        panel.plot(part["em"], height, "o", color="#333333", fillstyle="none", markersize=3, markeredgewidth=0.7)


def _baseline(comparison: pd.DataFrame) -> str:
    """The arm that the others were compared with: the one without a test."""
    return comparison.loc[comparison["p"].isna(), "arm"].iloc[0]


def _cycle(looks: tuple[str, ...], count: int) -> list[str]:
    return [looks[i % len(looks)] for i in range(count)]


def agents_table(comparison: pd.DataFrame) -> Styler:
    """Return `negfail_nb.evaluate.compare_agents` for reading: percent with intervals in brackets, tests, and costs."""
    baseline = _baseline(comparison)
    rows = pd.DataFrame({"arm": [TITLES.get(arm, arm) for arm in comparison["arm"]]})
    for title, name, form in (
        ("EM, %", "em", "{:.1f}"),
        ("F1, %", "f1", "{:.1f}"),
        (f"EM minus {baseline}, points", "em_difference", "{:+.1f}"),
    ):
        spans = zip(*(100 * comparison[column] for column in (name, f"{name}_low", f"{name}_high")), strict=True)
        rows[title] = [f"{form.format(v)} [{form.format(low)}, {form.format(high)}]" for v, low, high in spans]
    rows["p"] = ["" if pd.isna(p) else f"{p:.3g}" for p in comparison["p"]]
    rows["test"] = comparison["test"].fillna("").to_numpy()
    if (comparison["seeds"] > 1).any():
        rows["SD over seeds"] = [
            f"{100 * sd:.1f} of {n}" for sd, n in zip(comparison["em_sd"], comparison["seeds"], strict=True)
        ]
    tokens = comparison["prompt_tokens"] + comparison["completion_tokens"]
    for title, column, form in (
        ("action errors", comparison["action_error_rate"], "{:.1%}"),
        ("calls", comparison["calls"], "{:.1f}"),
        ("tokens", tokens, "{:,.0f}"),
        ("seconds", comparison["seconds"], "{:.1f}"),
    ):
        rows[title] = ["" if pd.isna(value) else form.format(value) for value in column]
    rows = rows.join(comparison[["questions", "episodes"]])
    if comparison["note"].fillna("").any():
        rows["note"] = comparison["note"].fillna("").to_numpy()
    style = rows.style.hide(axis="index").set_properties(**{"text-align": "left", "white-space": "pre-wrap"})
    return style.format(escape="html")
