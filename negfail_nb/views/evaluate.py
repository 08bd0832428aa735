"""05: arms and agents compared: figures of values beside paired differences, tables for reading,
episodes side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from negfail_nb.agents.live import EPISODES
from negfail_nb.data_sets import data_sets
from negfail_nb.evaluation import COMPARED, AgentScores
from negfail_nb.intervals import mean_columns
from negfail_nb.settings import EvaluateSettings
from negfail_nb.trajectory import read_trajectories
from negfail_nb.views.figures import (
    FULL_WIDTH,
    arm_title,
    draw_note,
    draw_row,
    look_of_model,
    name_rows,
    new_figure,
    paper_style,
    rows_of,
    write_at,
)
from negfail_nb.views.pages import (
    Page,
    folded,
    page,
    readable,
    show_trajectory,
    side_by_side,
    spans,
    turned,
    written,
)
from negfail_nb.views.widgets import Explorer, choices, explore

PLOTTED = ("em", "em_low", "em_high", "em_difference", "em_difference_low", "em_difference_high")
# Distance between the dots of the seeds and the arm's own line, and the height they spread over.
SEED_ROW = -0.27
SEED_SPREAD = 0.12
NOT_ASKED = (
    'No agent was asked. Set how many questions: changes = {"evaluate": {"agent_questions": 40}}'
)
LISTED = 200  # questions that a list offers
LABEL_WIDTH = 40  # characters that fit below a panel
# Behind a number, so that no line runs through it.
PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}


@paper_style
def draw_arms(table: pd.DataFrame) -> Figure:
    """Draw the comparison of arms on held-out successes, with intervals.

    Left: perplexity per assistant token. Right: the paired difference in loss to the first arm;
    left of 0 is better.
    """
    height = 0.9 + 0.4 * len(table)
    figure, (left, right) = new_figure(FULL_WIDTH, height, columns=2, sharey=True)
    rows = rows_of(table["arm"])
    for panel, value in ((left, "perplexity"), (right, "difference")):
        for (_, arm), height in zip(table.iterrows(), rows.values(), strict=True):
            draw_row(panel, arm, value, height, look_of_model(arm["arm"]))
            write_at(panel, f"{arm[value]:.3f}", (arm[value], height), (0, 6), ha="center")
        name_rows(panel, rows.values(), map(arm_title, rows))
    left.set(xlabel="perplexity (lower is better)", title="Held-out successes")
    left.set_ylim(-0.6, len(table) - 0.2)
    right.axvline(0, color="#888888", linewidth=0.8)
    right.set(xlabel=f"difference in loss to {table['arm'].iloc[0]}", title="Paired, by question")
    return figure


def show_arms(table: pd.DataFrame) -> Page:
    """Return the comparison of arms for reading: intervals in brackets, and below it which arm
    models held-out successes best.
    """
    rows = pd.DataFrame({"arm": table["arm"].map(arm_title)})
    for name, form in (("perplexity", "{:.2f}"), ("loss", "{:.4f}"), ("difference", "{:+.4f}")):
        rows[name] = spans(table, name, form)
    rows = rows.join(table[["questions", "examples", "tokens"]])
    return page(readable(rows), verdict(table))


def verdict(table: pd.DataFrame) -> str:
    """Say which arm models held-out successes best, and whether the difference to the first arm is
    more than noise.
    """
    best = table.loc[table["perplexity"].idxmin()]
    base = table.iloc[0]
    text = (
        f"On {best['examples']} held-out successes of {best['questions']} questions, "
        f"{arm_title(best['arm'])} has the lowest perplexity: {best['perplexity']:.3f} "
        f"[{best['perplexity_low']:.3f}, {best['perplexity_high']:.3f}]."
    )
    if best["arm"] == base["arm"]:
        return text
    clear = best["difference_low"] > 0 or best["difference_high"] < 0
    return text + (
        f" Its loss differs from {arm_title(base['arm'])} by {best['difference']:+.4f} "
        f"[{best['difference_low']:+.4f}, {best['difference_high']:+.4f}]; "
        f"the interval {'does not include' if clear else 'includes'} 0."
    )


def agent_table(comparison: pd.DataFrame | None, seeds: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the numbers that `draw_agents` plots, in percent.

    Parameters
    ----------
    comparison
        Of `negfail_nb.evaluation.compare_agents`; ``None``: no agent was asked.
    seeds
        Of `negfail_nb.evaluation.seed_table`; ``None``: no dots.

    Returns
    -------
    pandas.DataFrame
        One row per arm (``seed`` is empty), in the order given, then one row per arm and seed:
        ``arm``, ``seed``, ``em``, ``em_low``, ``em_high``, ``em_difference`` and its ends,
        ``questions``, and ``baseline``: the arm that the others were compared with. Empty if no
        agent was asked.
    """
    if comparison is None:
        comparison = pd.DataFrame(columns=list(COMPARED))
    if comparison.empty:
        return comparison[["arm", *PLOTTED, "questions"]].assign(seed="", baseline="")
    parts = [comparison[["arm", *PLOTTED, "questions"]].assign(seed="")]
    if seeds is not None:
        parts.append(seeds[["arm", "seed", "em"]].assign(seed=seeds["seed"].astype(str)))
    table = pd.concat(parts, ignore_index=True)
    table[list(PLOTTED)] *= 100
    return table.assign(baseline=_baseline(comparison))


def _baseline(comparison: pd.DataFrame) -> str:
    """The arm that the others were compared with: the one without a test."""
    return comparison.loc[comparison["p"].isna(), "arm"].iloc[0]


@paper_style
def draw_agents(table: pd.DataFrame) -> Figure:
    """Draw `agent_table`; if no agent was asked, a line says what to set.

    Left: EM of each arm with its interval over questions, and below it an open dot per seed. Right:
    the paired difference to the arm compared with; right of 0 is better.
    """
    if table.empty:
        return draw_note(NOT_ASKED)
    asked = f"{int(table['questions'].iloc[0]):,} held-out questions"
    return draw_dots(table, "em", "EM", asked, "Paired, by question")


def draw_dots(table: pd.DataFrame, value: str, measure: str, asked: str, paired: str) -> Figure:
    """Draw a value of each row with its interval and, beside it, its paired difference to the
    baseline's, from a table like that of `agent_table`.
    """
    arms = table[table["seed"] == ""]
    seeds = table[table["seed"] != ""]
    height = 0.9 + 0.45 * len(arms)
    figure, (left, right) = new_figure(FULL_WIDTH, height, columns=2, sharey=True)
    rows = rows_of(arms["arm"])
    for panel, name, form in ((left, value, "{:.1f}"), (right, f"{value}_difference", "{:+.1f}")):
        for (_, arm), height in zip(arms.iterrows(), rows.values(), strict=True):
            draw_row(panel, arm, name, height, look_of_model(arm.get("trained", arm["arm"])))
            text = form.format(arm[name])
            at = (arm[name], height)
            write_at(panel, text, at, ha="center", bbox=PLATE)
        name_rows(panel, rows.values(), map(arm_title, rows))
    _draw_seeds(left, seeds, rows, value)
    left.set(ylim=(-0.6, len(rows) - 0.3), xlabel=f"{measure}, %", title=asked)
    right.axvline(0, color="#888888", linewidth=0.8, zorder=0)
    label = f"{measure} minus {arm_title(arms['baseline'].iloc[0])}, points"
    right.set(xlabel=fill(label, LABEL_WIDTH), title=paired)
    return figure


def _draw_seeds(panel: Axes, seeds: pd.DataFrame, rows: Mapping[str, int], value: str) -> None:
    """Seeds lie side by side if their values are equal, so that none hides another."""
    look = {"color": "#333333", "fillstyle": "none", "markersize": 3, "markeredgewidth": 0.7}
    for arm, part in seeds.groupby("arm", sort=False):
        place = part.groupby(part[value].round(1)).cumcount()
        height = rows[arm] + SEED_ROW - SEED_SPREAD * place / max(place.max(), 1)
        panel.plot(part[value], height, "o", **look)


def show_agents(comparison: pd.DataFrame | None, scores: Mapping[str, AgentScores]) -> Page:
    """Return agents for reading: scores in percent with intervals in brackets, tests and costs; and
    below it EM on each data set if there are several, how well each one acts, and how its episodes
    ended.

    Parameters
    ----------
    comparison
        Of `negfail_nb.evaluation.compare_agents`; ``None`` or empty: the page says what to set.
    scores
        Of each agent. Action errors are a share of the turns, endings one of the episodes.
    """
    if comparison is None or comparison.empty or not scores:
        return page(NOT_ASKED)
    shares = _by_data_set(scores)
    more = [] if shares.empty else [readable(shares)]
    compared = _compared(comparison)
    first = [n for n in compared if n.partition(" ")[0] in ("arm", "EM,", "EM", "p", "note")]
    rest = folded("every number", turned(compared, ["arm"]))
    return page(readable(compared[first]), rest, *more, readable(_acted(scores)))


def _compared(comparison: pd.DataFrame) -> pd.DataFrame:
    percent = comparison.assign(
        **{c: 100 * comparison[c] for c in comparison if c[:3] in ("em_", "f1_")}
    )
    percent = percent.assign(em=100 * comparison["em"], f1=100 * comparison["f1"])
    rows = pd.DataFrame({"arm": comparison["arm"].map(arm_title)})
    rows["EM, %"] = spans(percent, "em")
    rows["F1, %"] = spans(percent, "f1")
    title = f"EM minus {_baseline(comparison)}, points"
    rows[title] = spans(percent, "em_difference", "{:+.1f}")
    rows["p"] = written(comparison["p"], "{:.3g}")
    rows["test"] = comparison["test"].fillna("").to_numpy()
    if (comparison["seeds"] > 1).any():
        both = zip(percent["em_sd"], comparison["seeds"], strict=True)
        rows["SD over seeds"] = [f"{sd:.1f} of {n}" for sd, n in both]
    rows["action errors"] = written(comparison["action_error_rate"], "{:.1%}")
    rows["calls"] = written(comparison["calls"], "{:.1f}")
    tokens = comparison["prompt_tokens"] + comparison["completion_tokens"]
    rows["tokens"] = written(tokens, "{:,.0f}")
    rows["seconds"] = written(comparison["seconds"], "{:.1f}")
    rows = rows.join(comparison[["questions", "episodes"]])
    notes = comparison["note"].fillna("").to_numpy()
    return rows.assign(note=notes) if notes.any() else rows


def _by_data_set(scores: Mapping[str, AgentScores]) -> pd.DataFrame:
    """EM in percent on each data set that the questions come from; empty if it is one."""
    rows = []
    for name, one in scores.items():
        found = {key: one.questions.loc[ids, "em"] for key, ids in _sources(one).items()}
        spoken = {
            f"EM, %, {data_sets()[key].title} ({len(em)})": _em_span(em)
            for key, em in found.items()
        }
        rows.append({"arm": arm_title(name), **spoken})
    table = pd.DataFrame(rows)
    return table if len(table.columns) > 2 else pd.DataFrame()


def _sources(scores: AgentScores) -> dict[str, list[str]]:
    """The ids of the questions of each data set; ids begin with its name."""
    known = {name: f"{name}-" for name in data_sets()}
    ids = scores.questions.index
    found = {name: [i for i in ids if i.startswith(start)] for name, start in known.items()}
    return {name: own for name, own in found.items() if own}


def _em_span(em: pd.Series) -> str:
    columns = pd.DataFrame([mean_columns("em", 100 * em, EvaluateSettings())])
    return spans(columns, "em")[0]


def _acted(scores: Mapping[str, AgentScores]) -> pd.DataFrame:
    rows = pd.DataFrame({"arm": map(arm_title, scores)})
    rows["turns"] = [one.table["turns"].sum() for one in scores.values()]
    rows["action errors"] = written((one.action_error_rate for one in scores.values()), "{:.1%}")
    endings = pd.DataFrame([one.terminations for one in scores.values()]).fillna(0.0)
    endings = endings.reset_index(drop=True).add_prefix("ended: ")
    return rows.join(endings.map("{:.0%}".format))


def compare_episodes(scores: Mapping[str, AgentScores]) -> Explorer | Page:
    """Return two agents at one question, side by side, from the run folders that ``evaluate`` left;
    if no agent was asked, what to set.
    """
    episodes = {
        name: {run.question: run for run in read_trajectories(one.run.path(EPISODES))}
        for name, one in scores.items()
    }
    if not episodes:
        return page(NOT_ASKED)
    names = list(episodes)
    return explore(
        lambda left, right, question: side_by_side(
            *(show_trajectory(episodes[agent][question]) for agent in (left, right))
        ),
        left=choices("left", names),
        right=choices("right", names, value=names[-1]),
        question=choices("question", list(episodes[names[0]])[:LISTED], wide=True),
    )
