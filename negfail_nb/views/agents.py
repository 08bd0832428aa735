"""Pictures and tables of agents (05): EM of each arm with its interval, a dot a seed, and the
paired differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from negfail_nb.evaluation import AgentScores
from negfail_nb.views.figures import COLORS, MARKERS, new_figure, paper_style
from negfail_nb.views.training import TITLES

PLOTTED = ("em", "em_low", "em_high", "em_difference", "em_difference_low", "em_difference_high")
# Distance between the dots of the seeds and the arm's own line, and the height that they spread
# over.
SEED_ROW, SEED_SPREAD = -0.27, 0.12
NOT_ASKED = (
    'No agent was asked. Set how many questions: changes = {"evaluate": {"agent_questions": 40}}'
)
# Characters that fit below a panel.
LABEL_WIDTH = 40
# Behind a number, so that no line runs through it.
PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}


def agent_table(comparison: pd.DataFrame, seeds: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the numbers that `draw_agents` plots, in percent.

    Parameters
    ----------
    comparison
        Of `negfail_nb.evaluation.compare_agents`.
    seeds
        Of `negfail_nb.evaluation.seed_table`; ``None``: no dots.

    Returns
    -------
    pandas.DataFrame
        One row an arm (``seed`` is empty), in the order given, then one row an arm and seed:
        ``arm``, ``seed``, ``em``, ``em_low``, ``em_high``, ``em_difference`` and its ends,
        ``questions``, and ``baseline``: the arm that the others were compared with. Empty where no
        agent was asked.
    """
    if comparison.empty:
        return comparison[["arm", *PLOTTED, "questions"]].assign(seed="", baseline="")
    arms = comparison[["arm", *PLOTTED, "questions"]].assign(seed="")
    parts = (
        [arms]
        if seeds is None
        else [arms, seeds[["arm", "seed", "em"]].assign(seed=seeds["seed"].astype(str))]
    )
    table = pd.concat(parts, ignore_index=True)
    table[list(PLOTTED)] *= 100
    return table.assign(baseline=_baseline(comparison))


@paper_style()
def draw_agents(table: pd.DataFrame) -> Figure:
    """Draw `agent_table`; where no agent was asked, a line says what to set.

    Left: EM of each arm with its interval over questions, and below it an open dot a seed. Right:
    the paired difference to the arm compared with; right of 0 is better.
    """
    if table.empty:
        return draw_note(NOT_ASKED)
    return draw_dots(
        table,
        "em",
        "EM",
        f"{int(table['questions'].iloc[0]):,} held-out questions",
        "Paired, by question",
    )


@paper_style()
def draw_dots(table: pd.DataFrame, value: str, measure: str, asked: str, paired: str) -> Figure:
    """Draw a value of each row with its interval and, beside it, its paired difference to the
    baseline's.

    Parameters
    ----------
    table
        As `agent_table` returns it, for any ``value``.
    value, measure
        The column, and what it is called.
    asked, paired
        Titles of the left and of the right panel.
    """
    arms, seeds = table[table["seed"] == ""], table[table["seed"] != ""]
    figure, (left, right) = new_figure(
        width=6.75, height=0.9 + 0.45 * len(arms), columns=2, sharey=True
    )
    rows = dict(zip(arms["arm"], reversed(range(len(arms))), strict=True))
    _draw_values(left, arms, rows, value, "{:.1f}")
    _draw_values(right, arms, rows, f"{value}_difference", "{:+.1f}")
    _draw_seeds(left, seeds, rows, value)
    left.set_yticks(list(rows.values()), [TITLES.get(arm, arm) for arm in rows])
    left.set(ylim=(-0.6, len(rows) - 0.3), xlabel=f"{measure}, %", title=asked)
    baseline = arms["baseline"].iloc[0]
    right.axvline(0, color="#888888", linewidth=0.8, zorder=0)
    right.set(
        xlabel=fill(f"{measure} minus {TITLES.get(baseline, baseline)}, points", LABEL_WIDTH),
        title=paired,
    )
    return figure


@paper_style()
def draw_note(note: str) -> Figure:
    """Draw one line of text, where there is nothing else to draw."""
    figure, axes = new_figure(width=6.75, height=0.5)
    axes.axis("off")
    axes.text(0, 0.5, note, va="center", transform=axes.transAxes)
    return figure


def _draw_values(
    panel: Axes, arms: pd.DataFrame, rows: dict[str, int], value: str, form: str
) -> None:
    for (_, arm), color, marker in zip(
        arms.iterrows(), _cycle(COLORS, len(arms)), _cycle(MARKERS, len(arms)), strict=True
    ):
        ends = [max(arm[value] - arm[f"{value}_low"], 0), max(arm[f"{value}_high"] - arm[value], 0)]
        row = rows[arm["arm"]]
        panel.errorbar(
            arm[value], row, xerr=np.array(ends)[:, None], fmt=marker, color=color, capsize=3
        )
        text = form.format(arm[value])
        panel.annotate(
            text,
            (arm[value], row),
            (0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            bbox=PLATE,
        )
    panel.grid(visible=False, axis="y")


def _draw_seeds(panel: Axes, seeds: pd.DataFrame, rows: dict[str, int], value: str) -> None:
    """Seeds lie side by side where their values are equal, so that none hides another."""
    for arm, part in seeds.groupby("arm", sort=False):
        place = part.groupby(part[value].round(1)).cumcount()
        height = rows[arm] + SEED_ROW - SEED_SPREAD * place / max(place.max(), 1)
        panel.plot(
            part[value],
            height,
            "o",
            color="#333333",
            fillstyle="none",
            markersize=3,
            markeredgewidth=0.7,
        )


def _baseline(comparison: pd.DataFrame) -> str:
    """The arm that the others were compared with: the one without a test."""
    return comparison.loc[comparison["p"].isna(), "arm"].iloc[0]


def _cycle(looks: tuple[str, ...], count: int) -> list[str]:
    return [looks[i % len(looks)] for i in range(count)]


def agents_table(comparison: pd.DataFrame) -> Styler:
    """Return `negfail_nb.evaluation.compare_agents` for reading: percent with intervals in
    brackets, tests, and costs.

    Where no agent was asked, it says what to set.
    """
    if comparison.empty:
        return _readable(pd.DataFrame({"agents": [NOT_ASKED]}))
    baseline = _baseline(comparison)
    rows = pd.DataFrame({"arm": [TITLES.get(arm, arm) for arm in comparison["arm"]]})
    for title, name, form in (
        ("EM, %", "em", "{:.1f}"),
        ("F1, %", "f1", "{:.1f}"),
        (f"EM minus {baseline}, points", "em_difference", "{:+.1f}"),
    ):
        spans = zip(
            *(100 * comparison[column] for column in (name, f"{name}_low", f"{name}_high")),
            strict=True,
        )
        rows[title] = [
            f"{form.format(v)} [{form.format(low)}, {form.format(high)}]" for v, low, high in spans
        ]
    rows["p"] = ["" if pd.isna(p) else f"{p:.3g}" for p in comparison["p"]]
    rows["test"] = comparison["test"].fillna("").to_numpy()
    if (comparison["seeds"] > 1).any():
        rows["SD over seeds"] = [
            f"{100 * sd:.1f} of {n}"
            for sd, n in zip(comparison["em_sd"], comparison["seeds"], strict=True)
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
    return _readable(rows)


def actions_table(scores: Mapping[str, AgentScores]) -> Styler:
    """Return how well each agent acts, and how its episodes ended; where no agent was asked, what
    to set.

    Parameters
    ----------
    scores
        Of `negfail_nb.walk.Walk.agents`. Action errors are a share of the turns, endings one of the
        episodes.
    """
    if not scores:
        return _readable(pd.DataFrame({"agents": [NOT_ASKED]}))
    acts = pd.DataFrame(
        {
            "arm": TITLES.get(arm, arm),
            "turns": s.table["turns"].sum(),
            "action errors": s.action_error_rate,
        }
        for arm, s in scores.items()
    )
    endings = (
        pd.DataFrame([s.terminations for s in scores.values()]).fillna(0.0).reset_index(drop=True)
    )
    shown = endings.add_prefix("ended: ").map("{:.0%}".format)
    errors = ["" if pd.isna(rate) else f"{rate:.1%}" for rate in acts["action errors"]]
    return _readable(acts.assign(**{"action errors": errors}).join(shown))


def _readable(rows: pd.DataFrame) -> Styler:
    style = rows.style.hide(axis="index").set_properties(
        **{"text-align": "left", "white-space": "pre-wrap"}
    )
    return style.format(escape="html")
