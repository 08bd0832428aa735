"""05: a sweep: one study with all its seeds, as dots with intervals, or as lines along a number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from negfail_nb.conditions import paper_studies
from negfail_nb.intervals import bootstrap_p, draw_weights, holm, percentile_interval
from negfail_nb.settings import EvaluateSettings
from negfail_nb.swept import Swept
from negfail_nb.views.evaluate import draw_dots
from negfail_nb.views.figures import (
    LEARNING_TITLES,
    MORE_LOOKS,
    Look,
    arm_title,
    draw_note,
    looks,
    new_figure,
    number_axis,
    paper_style,
    reach,
)
from negfail_nb.views.layout import legend_outside
from negfail_nb.views.pages import Page, page, readable, spans, written
from negfail_nb.views.widgets import Explorer, choices, explore, tick

NOT_SWEPT = "The study {} was not swept yet: make experiment"
MEASURES = {"em": "EM", "action_error_rate": "Action errors"}
# Points of different arms at one number stand side by side, and so do the dots of equal seeds; as
# factors; see `_aside`.
ARM_STEP = 1.09
SEED_STEP = 1.015


# A measure as sums over sums, each of shape (seeds, questions), so that any draw of both can be
# computed. All values are in percent, NaN if there is nothing to take a share of.
Share = tuple[np.ndarray, np.ndarray]


def _percent(parts: Iterable[np.ndarray]) -> np.ndarray:
    counted, among = parts
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * counted / among


def _drawn(share: Share, draws: tuple[np.ndarray, ...]) -> np.ndarray:
    """The share in each draw, given how often each seed and each question is in it."""
    seeds, questions = draws
    return _percent(((seeds @ part) * questions).sum(axis=1) for part in share)


def study_table(
    swept: Swept, study: str, settings: EvaluateSettings = EvaluateSettings()
) -> pd.DataFrame:
    """Return what `draw_study` draws, in percent.

    Intervals are over questions and over seeds: both are drawn with replacement, independently and
    crossed, so every drawn seed meets every drawn question, ``resamples`` times (percentile
    method). All conditions share the draws; differences are paired by question and seed. So an
    interval covers which questions were asked and how training runs differ. With one seed it is
    over questions only, and with few seeds it is too narrow rather than too wide.

    Parameters
    ----------
    swept
        Of `negfail_nb.studies.sweep`.
    study
        Such as ``"arms"``.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    pandas.DataFrame
        One row per condition (``seed`` is empty), in the order swept, then one row per condition
        and seed: ``study``, ``condition``, ``arm``, ``x`` (the number in the names of conditions
        such as ``"nat 240"``, else NaN), ``seed``; ``em`` and ``action_error_rate`` (a share of the
        turns) and their ``_difference`` to the ``baseline`` (another condition, such as the
        first), each with ``_low`` and ``_high``; of the difference also ``_p``, from the same
        draws (`negfail_nb.intervals.bootstrap_p`), and ``_p_holm``, corrected for the comparisons
        of the study; ``questions``, ``seeds``, and ``model``: which was tuned.

    Raises
    ------
    ValueError
        For a study that neither was swept nor is the paper's, or a condition that lacks a seed or a
        question. One of the paper's that was not swept gives a table of one ``note``.
    """
    rows = swept.episodes[swept.episodes["study"] == study]
    if rows.empty:
        if study not in {condition.study for condition in paper_studies()}:
            known = ", ".join(dict.fromkeys(swept.episodes["study"]))
            raise ValueError(f"no study {study!r} in this sweep; there are {known}")
        return pd.DataFrame({"study": [study], "note": [NOT_SWEPT.format(study)]})
    about = rows.drop_duplicates("condition").set_index("condition")["arm"]
    shares = {
        name: _shares(part, name, rows) for name, part in rows.groupby("condition", sort=False)
    }
    against = swept.against(study)
    seeds = sorted(rows["seed"].unique())
    draws = _draws(len(seeds), rows["question_id"].nunique(), settings)
    table = [
        {"condition": name, "seed": ""}
        | _with_intervals(ours, shares[against[name]], draws, settings)
        for name, ours in shares.items()
    ]
    for name, ours in shares.items():
        found = {m: _percent(part.sum(axis=1) for part in share) for m, share in ours.items()}
        table += [
            {"condition": name, "seed": str(seed)} | {m: v[i] for m, v in found.items()}
            for i, seed in enumerate(seeds)
        ]
    table = pd.DataFrame(table)
    for name in MEASURES:
        compared = table["condition"].map(against) != table["condition"]
        p = table[f"{name}_difference_p"].where(compared & (table["seed"] == ""))
        table[f"{name}_difference_p"] = p
        table[f"{name}_difference_p_holm"] = holm(p)
    table.insert(0, "study", study)
    table.insert(2, "arm", table["condition"].map(about))
    table.insert(3, "x", table["condition"].map({c: _number(c, arm) for c, arm in about.items()}))
    questions = rows["question_id"].nunique()
    baseline = table["condition"].map(against)
    about = {"questions": questions, "seeds": len(seeds), "model": swept.model.split("/")[-1]}
    return table.assign(**about, baseline=baseline)


def _shares(part: pd.DataFrame, name: str, rows: pd.DataFrame) -> dict[str, Share]:
    """The measures of one condition, laid out over all seeds and questions of its study."""
    how = {"em": "mean", "turns": "sum", "action_errors": "sum"}
    cells = part.groupby(["seed", "question_id"]).agg(how)
    sides = [sorted(rows[column].unique()) for column in ("seed", "question_id")]
    grid = pd.MultiIndex.from_product(sides)
    lacking = grid.difference(cells.index)
    if len(lacking):
        seed, question = lacking[0]
        raise ValueError(
            f"condition {name!r} lacks {len(lacking)} of {len(grid)} episodes, first seed {seed}, "
            f"question {question}; sweep all its seeds on the same questions, or leave these seeds "
            "out"
        )
    em, turns, errors = (cells[c].reindex(grid).unstack().to_numpy(float) for c in how)
    return {"em": (em, np.ones_like(em)), "action_error_rate": (errors, turns)}


def _draws(seeds: int, questions: int, settings: EvaluateSettings) -> tuple[np.ndarray, ...]:
    """How often each seed and each question is in each draw."""
    rng = np.random.default_rng(settings.seed)
    return tuple(
        np.concatenate([*draw_weights(count, settings, rng=rng)]) for count in (seeds, questions)
    )


def _with_intervals(
    ours: Mapping[str, Share],
    theirs: Mapping[str, Share],
    draws: tuple[np.ndarray, ...],
    settings: EvaluateSettings,
) -> dict[str, float]:
    """The measures of a condition and their differences to another, with their intervals."""
    row, several = {}, draws[1].shape[1] > 1  # one question has no spread, and so no interval
    for name, share in ours.items():
        (value, drawn), (base, base_drawn) = (
            (_percent(part.sum() for part in one), _drawn(one, draws))
            for one in (share, theirs[name])
        )
        difference = value - base, drawn - base_drawn
        both = {name: (value, drawn), f"{name}_difference": difference}
        for column, (middle, sample) in both.items():
            low, high = percentile_interval(sample if several else sample[:0], settings)
            row |= {column: middle, f"{column}_low": low, f"{column}_high": high}
        row[f"{name}_difference_p"] = bootstrap_p(difference[1] if several else sample[:0])
    return row


def _number(condition: str, arm: str) -> float:
    """The number in a name made of the arm and a number, as `paper_studies` makes them."""
    match = re.fullmatch(rf"{re.escape(arm)} (\d+)", condition)
    return float(match[1]) if match else float("nan")


@paper_style
def draw_study(table: pd.DataFrame, value: str = "em") -> Figure:
    """Draw `study_table`.

    If the study varies a number: a line per arm along it (logarithmic, if it is never 0). Else: a
    row per condition, and beside it the paired difference to the first one. Bars are intervals;
    each open dot is one seed.

    Parameters
    ----------
    table
        Of `study_table`.
    value
        ``"em"`` or ``"action_error_rate"``.

    Raises
    ------
    ValueError
        For another value.
    """
    if value not in MEASURES:
        raise ValueError(f"value is {value!r}; use one of {', '.join(MEASURES)}")
    if "note" in table:
        return draw_note(table["note"].iloc[0])
    questions, seeds, model = table[["questions", "seeds", "model"]].fillna("").iloc[0]
    asked = f"{questions:,} held-out questions, {seeds} seed{'' if seeds == 1 else 's'}"
    asked = f"{model}\n{asked}" if model else asked
    if table["x"].notna().all() and table["x"].nunique() > 1:
        return _draw_lines(table, value, asked)
    named = table.rename(columns={"arm": "trained", "condition": "arm"})
    return draw_dots(named, value, MEASURES[value], asked, "Paired, by question and seed")


def show_study(table: pd.DataFrame, value: str = "em") -> Page:
    """Return `study_table` for reading: intervals in brackets, and p-values as they are and
    corrected (Holm) for the comparisons of the study.
    """
    if "note" in table:
        return page(table["note"].iloc[0])
    rows = table[table["seed"] == ""].reset_index(drop=True)
    compared = rows["condition"] != rows["baseline"]
    shown = pd.DataFrame({"condition": rows["condition"]})
    shown[f"{MEASURES[value]}, %"] = spans(rows, value)
    difference = pd.Series(spans(rows, f"{value}_difference", "{:+.1f}"))
    shown["difference, points"] = difference.where(compared, "")
    shown["to"] = rows["baseline"].where(compared, "")
    for title, end in (("p", "p"), ("p, Holm", "p_holm")):
        shown[title] = written(rows[f"{value}_difference_{end}"], "{:.2g}")
    return page(readable(shown))


def _draw_lines(table: pd.DataFrame, value: str, title: str) -> Figure:
    figure, axes = new_figure(height=2.8)
    arms = list(dict.fromkeys(table["arm"]))
    # An arm looks the same in every study.
    first = [arm for arm in LEARNING_TITLES if arm not in MORE_LOOKS]
    ranks = [*first, *(arm for arm in arms if arm not in LEARNING_TITLES)]
    known = dict(zip(ranks, looks(), strict=False)) | MORE_LOOKS
    numbers = sorted(table["x"].unique())
    if numbers[0] > 0:
        axes.set_xscale("log")
    for place, arm in enumerate(arms):
        part = table[table["arm"] == arm]
        part = part.assign(x=_aside(axes, part["x"], ARM_STEP ** (place - (len(arms) - 1) / 2)))
        _draw_line(axes, part.sort_values("x", kind="stable"), value, known[arm], arm_title(arm))
    number_axis(axes, numbers, [f"{number:,.0f}" for number in numbers])
    axes.set(xlabel=f"{table['study'].iloc[0]} in training", ylabel=f"{MEASURES[value]}, %")
    axes.set_title(title)
    legend_outside(figure, side="right")
    return figure


def _aside(axes: Axes, x: pd.Series, factor: pd.Series | float) -> pd.Series:
    """Move points aside: by a factor on a logarithmic axis, by a share of the largest on others."""
    return x * factor if axes.get_xscale() == "log" else x + x.max() * (factor - 1) / 3


def _draw_line(axes: Axes, part: pd.DataFrame, value: str, look: Look, label: str) -> None:
    """One arm: its line with intervals, and the dots of its seeds to the right of each point."""
    points = part[part["seed"] == ""]
    seeds = part[part["seed"] != ""]
    bars = reach(points, value)
    axes.errorbar(points["x"], points[value], bars, **look, capsize=3, label=label)
    place = seeds.groupby(["x", seeds[value].round(1)]).cumcount()
    beside = _aside(axes, seeds["x"], SEED_STEP ** (2 + place))
    dots = {"fillstyle": "none", "markersize": 2.5, "markeredgewidth": 0.6}
    axes.plot(beside, seeds[value], "o", color=look["color"], **dots)


def explore_studies(swept: Swept, settings: EvaluateSettings = EvaluateSettings()) -> Explorer:
    """Return a sweep to look through: choose the study, the measure, and which of its seeds count.

    If a study was not swept yet, the figure says how to make it.
    """
    paper = [condition.study for condition in paper_studies()]
    studies = dict.fromkeys([*paper, *swept.episodes["study"]])
    seeds = set(swept.episodes["seed"])
    ticks = {f"seed_{seed}": tick(f"seed {seed}") for seed in sorted(seeds)}

    def show(study: str, measure: str, **on: bool) -> Any:
        rows = swept.episodes
        kept = rows[rows["seed"].isin([seed for seed in seeds if on[f"seed_{seed}"]])]
        if len(rows) and kept.empty:
            return "No seed is on; tick at least one."
        return draw_study(study_table(replace(swept, episodes=kept), study, settings), measure)

    measures = {title: name for name, title in MEASURES.items()}
    return explore(
        show, study=choices("study", list(studies)), measure=choices("measure", measures), **ticks
    )
