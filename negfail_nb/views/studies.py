"""Pictures of a sweep (05): one study with all its seeds, as dots with intervals or, along a
number, as lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from negfail_nb.intervals import draw_weights, percentile_interval
from negfail_nb.settings import EvaluateSettings
from negfail_nb.studies import Swept, paper_studies
from negfail_nb.views.agents import draw_dots, draw_note
from negfail_nb.views.browse import Explorer, explore
from negfail_nb.views.figures import COLORS, LINES, MARKERS, new_figure, paper_style
from negfail_nb.views.training import TITLES

NOT_SWEPT = "The study {} was not swept yet: make experiment"
MEASURES = {"em": "EM", "action_error_rate": "Action errors"}
# Points of different arms at one number stand side by side, and so do the dots of equal seeds; as
# factors.
ARM_STEP, SEED_STEP = 1.09, 1.015


@dataclass(frozen=True, slots=True)
class _Share:
    """A measure as sums over sums, shapes ``(seeds, questions)``; so that any draw of both can be
    computed.
    """

    counted: np.ndarray
    among: np.ndarray

    def value(self) -> float:
        """In percent; NaN where there is nothing to take a share of."""
        return _percent(self.counted.sum(), self.among.sum())

    def of_seeds(self) -> np.ndarray:
        """In percent, one a seed."""
        return _percent(self.counted.sum(axis=1), self.among.sum(axis=1))

    def drawn(self, seeds: np.ndarray, questions: np.ndarray) -> np.ndarray:
        """In percent, one a draw; how often each was drawn has shapes ``(draws, seeds)`` and
        ``(draws, questions)``.
        """
        counted, among = (
            ((seeds @ part) * questions).sum(axis=1) for part in (self.counted, self.among)
        )
        return _percent(counted, among)


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
        Of `negfail_nb.studies`.
    study
        Such as ``"arms"``.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    pandas.DataFrame
        One row a condition (``seed`` is empty), in the order swept, then one row a condition and
        seed: ``study``, ``condition``, ``arm``, ``x`` (the number in the names of conditions such
        as ``"nat 240"``, else NaN), ``seed``; ``em`` and ``action_error_rate`` (a share of the
        turns) and their ``_difference`` to the first condition, each with ``_low`` and ``_high``;
        ``questions``, ``seeds``, and ``baseline``: the first condition.

    Raises
    ------
    ValueError
        For a study that neither was swept nor is the paper's, or a condition that lacks a seed or a
        question. One of the paper's that was not swept gives a table of one ``note``.
    """
    rows = _rows_of(swept, study)
    if rows.empty:
        return pd.DataFrame({"study": [study], "note": [NOT_SWEPT.format(study)]})
    shares = {
        name: _shares(part, name, rows) for name, part in rows.groupby("condition", sort=False)
    }
    names, about = list(shares), rows.drop_duplicates("condition").set_index("condition")["arm"]
    seeds, questions = sorted(rows["seed"].unique()), rows["question_id"].nunique()
    draws = _draws(len(seeds), questions, settings)
    conditions = [
        {"condition": name, "seed": ""}
        | _with_intervals(shares[name], shares[names[0]], draws, settings)
        for name in names
    ]
    dots = [
        {"condition": name, "seed": str(seed)}
        | {m: share.of_seeds()[i] for m, share in shares[name].items()}
        for name in names
        for i, seed in enumerate(seeds)
    ]
    table = pd.DataFrame([*conditions, *dots])
    numbers = _numbers(about.items())
    table.insert(0, "study", study)
    table.insert(2, "arm", table["condition"].map(about))
    table.insert(3, "x", table["condition"].map(numbers).astype(float))
    return table.assign(questions=questions, seeds=len(seeds), baseline=names[0])


@paper_style()
def draw_study(table: pd.DataFrame, value: str = "em") -> Figure:
    """Draw `study_table`.

    Where the study varies a number: a line an arm along it, on a logarithmic axis. Else: a row a
    condition, and beside it the paired difference to the first one. Bars are intervals; each open
    dot is one seed.

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
    asked = f"{table['questions'].iloc[0]:,} held-out questions, {_many(table['seeds'].iloc[0], 'seed')}"
    if table["x"].notna().all() and table["x"].nunique() > 1:
        return _draw_lines(table, value, asked)
    named = table.drop(columns="arm").rename(columns={"condition": "arm"})
    return draw_dots(named, value, MEASURES[value], asked, "Paired, by question and seed")


def explore_studies(swept: Swept, settings: EvaluateSettings = EvaluateSettings()) -> Explorer:
    """Return a sweep to look through: choose the study, the measure, and which of its seeds count.

    Where a study was not swept yet, the figure says how to make it.
    """
    studies = list(dict.fromkeys(condition.study for condition in paper_studies()))
    studies += [name for name in dict.fromkeys(swept.episodes["study"]) if name not in studies]
    seeds = sorted(set(swept.episodes["seed"]))
    ticks = {
        f"seed_{seed}": widgets.Checkbox(value=True, description=f"seed {seed}", indent=False)
        for seed in seeds
    }

    def show(study: str, measure: str, **on: bool) -> Any:
        rows = swept.episodes
        kept = rows[rows["seed"].isin([seed for seed in seeds if on[f"seed_{seed}"]])]
        if len(rows) and kept.empty:
            return "No seed is on; tick at least one."
        return draw_study(study_table(Swept(kept, swept.cells), study, settings), measure)

    return explore(
        show,
        study=widgets.Dropdown(options=studies, description="study"),
        measure=widgets.Dropdown(
            options={title: name for name, title in MEASURES.items()}, description="measure"
        ),
        **ticks,
    )


@paper_style()
def _draw_lines(table: pd.DataFrame, value: str, title: str) -> Figure:
    figure, axes = new_figure(width=5.5, height=2.8)
    arms = list(dict.fromkeys(table["arm"]))
    ranks = [
        *TITLES,
        *(arm for arm in arms if arm not in TITLES),
    ]  # an arm looks the same in every study
    looks = dict(
        zip(ranks, zip(cycle(COLORS), cycle(MARKERS), cycle(LINES), strict=False), strict=False)
    )
    for place, arm in enumerate(arms):
        part = table[table["arm"] == arm]
        shifted = part.assign(x=part["x"] * ARM_STEP ** (place - (len(arms) - 1) / 2))
        _draw_line(
            axes, shifted.sort_values("x", kind="stable"), value, TITLES.get(arm, arm), *looks[arm]
        )
    numbers = sorted(table["x"].unique())
    if numbers[0] > 0:
        axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{number:,.0f}" for number in numbers])
    axes.set_xticks([], minor=True)
    axes.set(
        xlabel=f"{table['study'].iloc[0]} in training", ylabel=f"{MEASURES[value]}, %", title=title
    )
    figure.legend(loc="outside right center")
    return figure


def _draw_line(
    axes: Axes, part: pd.DataFrame, value: str, label: str, color: str, marker: str, line: str
) -> None:
    """One arm: its line with intervals, and the dots of its seeds to the right of each point."""
    points, seeds = part[part["seed"] == ""], part[part["seed"] != ""]
    ends = [points[value] - points[f"{value}_low"], points[f"{value}_high"] - points[value]]
    bars = np.clip(np.array(ends), 0, None)
    axes.errorbar(
        points["x"],
        points[value],
        bars,
        color=color,
        marker=marker,
        linestyle=line,
        capsize=3,
        label=label,
    )
    place = seeds.groupby(["x", seeds[value].round(1)]).cumcount()
    beside = seeds["x"] * SEED_STEP ** (2 + place)
    axes.plot(
        beside,
        seeds[value],
        "o",
        color=color,
        fillstyle="none",
        markersize=2.5,
        markeredgewidth=0.6,
    )


def _rows_of(swept: Swept, study: str) -> pd.DataFrame:
    rows = swept.episodes[swept.episodes["study"] == study]
    if rows.empty and study not in {condition.study for condition in paper_studies()}:
        known = ", ".join(dict.fromkeys(swept.episodes["study"]))
        raise ValueError(f"no study {study!r} in this sweep; there are {known}")
    return rows


def _shares(part: pd.DataFrame, name: str, rows: pd.DataFrame) -> dict[str, _Share]:
    """The measures of one condition, laid out over all seeds and questions of its study."""
    cells = part.groupby(["seed", "question_id"]).agg(
        {"em": "mean", "turns": "sum", "action_errors": "sum"}
    )
    grid = pd.MultiIndex.from_product(
        [sorted(rows["seed"].unique()), sorted(rows["question_id"].unique())]
    )
    lacking = grid.difference(cells.index)
    if len(lacking):
        seed, question = lacking[0]
        raise ValueError(
            f"condition {name!r} lacks {len(lacking)} of {len(grid)} episodes, first seed {seed}, question {question}; "
            "sweep all its seeds on the same questions, or leave these seeds out"
        )
    em, turns, errors = (
        cells[column].reindex(grid).unstack().to_numpy(float)
        for column in ("em", "turns", "action_errors")
    )
    return {"em": _Share(em, np.ones_like(em)), "action_error_rate": _Share(errors, turns)}


def _draws(seeds: int, questions: int, settings: EvaluateSettings) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed and each question is in each draw."""
    rng = np.random.default_rng(settings.seed)
    return tuple(
        np.concatenate([*draw_weights(count, settings, rng=rng)]) for count in (seeds, questions)
    )


def _with_intervals(
    ours: Mapping[str, _Share],
    theirs: Mapping[str, _Share],
    draws: tuple[np.ndarray, np.ndarray],
    settings: EvaluateSettings,
) -> dict[str, float]:
    """The measures of a condition and their differences to the first one's, each with the ends of
    its interval.
    """
    row = {}
    for name, share in ours.items():
        drawn = share.drawn(*draws)
        for column, value, sample in (
            (name, share.value(), drawn),
            (
                f"{name}_difference",
                share.value() - theirs[name].value(),
                drawn - theirs[name].drawn(*draws),
            ),
        ):
            # One question has no spread, and so no interval.
            known = sample if draws[1].shape[1] > 1 else sample[:0]
            low, high = percentile_interval(known, settings)
            row |= {column: value, f"{column}_low": low, f"{column}_high": high}
    return row


def _percent(counted: np.ndarray, among: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * counted / among


def _numbers(conditions: Iterable[tuple[str, str]]) -> dict[str, float]:
    """The numbers in names made of the arm and a number, as
    `negfail_nb.studies.paper_studies` makes them.
    """
    found = {name: re.fullmatch(rf"{re.escape(arm)} (\d+)", name) for name, arm in conditions}
    return {name: float(match[1]) if match else float("nan") for name, match in found.items()}


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
