"""What each arm costs and how well it answers: one table, and the arms that no other one beats.

All arms are resampled together: one draw of questions serves every arm, every measure and every
cost, so whatever makes a question hard or long for all of them cancels out. A new cost is an entry
of `COSTS`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from negfail_nb.benchmarking.grid import open_benchmark
from negfail_nb.benchmarking.scores import MEASURES, Benchmark
from negfail_nb.intervals import draw_weights, percentile_interval, weighted_quantiles
from negfail_nb.settings import Checked, EvaluateSettings, option

if TYPE_CHECKING:
    import pandas as pd


CONTROLS = ("oracle",)  # what no system can do: they are shown, and never on the frontier
# Endings without a reply: they score 0, and have no time and no tokens to speak of.
LOST = ("crashed", "too_long")
BAND_POINTS = 80

log = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices(Checked):
    """Money per million tokens, in any currency."""

    prompt: float = option(0.0, "a million prompt tokens", low=0.0, high=1e9)
    completion: float = option(0.0, "a million completion tokens", low=0.0, high=1e9)
    cached: float = option(
        -1.0, "a million prompt tokens from the prefix cache; -1: as other ones", low=-1.0, high=1e9
    )
    currency: str = option("USD", "as figures name it")

    def money(self, table: pd.DataFrame) -> pd.Series:
        """Return what each row of ``prompt_tokens``, ``completion_tokens`` .. costs."""
        hit = table["cached_tokens"].fillna(0) if self.cached >= 0 else 0 * table["prompt_tokens"]
        prompts = (table["prompt_tokens"] - hit) * self.prompt + hit * max(self.cached, 0)
        return (prompts + table["completion_tokens"] * self.completion) / 1e6


class Cost(NamedTuple):
    """A number of each answer, and what is taken of it over questions."""

    # Takes the table of answers (`ReadingScores.table`, and ``money``); one number per answer.
    of: Callable[[pd.DataFrame], pd.Series]
    title: str = ""  # empty: a part of other costs, which no frontier is drawn against
    quantile: float | None = None  # None: the mean
    hint: str = ""  # what to do if no arm has it


def _seconds(answers: pd.DataFrame) -> pd.Series:
    return answers["seconds"] + answers["retrieval_seconds"]  # of an answer: those of its calls


def _tokens(answers: pd.DataFrame) -> pd.Series:
    return answers["prompt_tokens"] + answers["completion_tokens"]


_LOST = "no question got a reply"
_CROWDED = "ask some questions one at a time: tradeoff(.., alone=nf.earlier.alone(project, 20))"
_MUTE = "the model does not say how many tokens it reads and writes"
_FREE = "give tradeoff(.., prices=Prices(prompt=.., completion=..))"
COSTS = {
    "seconds_p50": Cost(_seconds, "seconds per question, p50", 0.5, _LOST),
    "seconds_p95": Cost(_seconds, "seconds per question, p95", 0.95, _LOST),
    "alone_p50": Cost(itemgetter("alone_seconds"), "seconds alone, p50", 0.5, _CROWDED),
    "tokens": Cost(_tokens, "tokens per question", None, _MUTE),
    "prompt_tokens": Cost(itemgetter("prompt_tokens"), "prompt tokens per question", None, _MUTE),
    "completion_tokens": Cost(
        itemgetter("completion_tokens"), "completion tokens per question", None, _MUTE
    ),
    "money": Cost(itemgetter("money"), "money per question", None, _FREE),
    "cached_tokens": Cost(itemgetter("cached_tokens")),
    "retrieval_seconds": Cost(itemgetter("retrieval_seconds")),
    "model_seconds": Cost(itemgetter("seconds")),
    "prefill_seconds": Cost(itemgetter("first_seconds")),  # to the first token, waiting included
    "decode_seconds": Cost(lambda answers: answers["seconds"] - answers["first_seconds"]),
}


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What `tradeoff` returns."""

    # One row per arm: ``arm`` (``long_context@4096``); ``length`` (tokens; 0: the arm has none);
    # ``control``; ``questions``; ``timed`` (questions with a reply: the others have no cost, and
    # score 0); ``alone`` (questions that were asked alone, too); each of `MEASURES` (0 to 1) and of
    # `COSTS`, per question, with its interval over questions, ``_low`` and ``_high``. NaN: the arm
    # does not say.
    table: pd.DataFrame
    settings: EvaluateSettings  # of the intervals
    prices: Prices | None
    draws: Mapping[str, np.ndarray]  # of each number its draws, shape ``(resamples, arms)``

    def __repr__(self) -> str:
        asked = int(self.table["questions"].max())
        draws = f"{self.settings.resamples:,} draws of them"
        return f"Curve({len(self.table)} arms, {asked:,} questions, {draws})"

    def frontier(self, measure: str = "em", cost: str = "seconds_p50") -> pd.DataFrame:
        """Return which arms no other beats: none is at least as good in both, and better in one.

        Controls are neither on the frontier nor beat anything: nobody can retrieve with the answers
        at hand.

        Returns
        -------
        pandas.DataFrame
            One row per arm that has both numbers, the cheapest first: ``arm``, ``length``,
            ``control``, ``questions``; the measure and the cost with their intervals;
            ``on_frontier``; ``dominated_by``, the best of the arms that beat it (empty if none
            does); ``share`` of the draws in which it is on the frontier.

        Raises
        ------
        ValueError
            For an unknown measure or cost, or one that no arm has.
        """
        rows = self._known(measure, cost)
        values, costs = (rows[name].to_numpy()[None] for name in (measure, cost))
        beats = _beats(values, costs, rows["control"].to_numpy())[0]
        drawn = _beats(*self._drawn(rows, measure, cost), rows["control"].to_numpy())
        free = ~rows["control"].to_numpy()
        columns = ["arm", "length", "control", "questions"]
        columns += [f"{name}{end}" for name in (measure, cost) for end in ("", "_low", "_high")]
        table = rows[columns].assign(
            on_frontier=free & ~beats.any(axis=0),
            dominated_by=[_best(rows["arm"], values[0], column) for column in beats.T],
            share=np.where(free, (~drawn.any(axis=1)).mean(axis=0), math.nan),
        )
        return table.sort_values(
            [cost, measure], ascending=[True, False], kind="stable", ignore_index=True
        )

    def band(self, measure: str = "em", cost: str = "seconds_p50") -> pd.DataFrame:
        """Return the frontier as a line: the best for at most each cost, with its interval.

        The best of several noisy numbers is too high on average, the more so with few questions.

        Returns
        -------
        pandas.DataFrame
            ``cost``, ``value``, ``low``, ``high``; costs lie evenly on a logarithmic axis.
        """
        import pandas as pd

        rows = self._known(measure, cost)
        rows = rows[~rows["control"]]
        if rows.empty:
            raise ValueError("only controls were asked, and they have no frontier; ask another arm")
        points = rows[cost].to_numpy()
        spaced = np.geomspace if points.min() > 0 else np.linspace
        grid = np.unique(np.concatenate([points, spaced(points.min(), points.max(), BAND_POINTS)]))
        values, costs = self._drawn(rows, measure, cost)
        spans = [percentile_interval(_reached(values, costs, at), self.settings) for at in grid]
        best = [_reached(rows[measure].to_numpy()[None], points[None], at)[0] for at in grid]
        low, high = zip(*spans, strict=True)
        return pd.DataFrame({"cost": grid, "value": best, "low": low, "high": high})

    def _known(self, measure: str, cost: str) -> pd.DataFrame:
        """Return the arms that have both."""
        titled = [name for name, known in COSTS.items() if known.title]
        for kind, name, known in (("measure", measure, MEASURES), ("cost", cost, titled)):
            if name not in known:
                raise ValueError(f"unknown {kind} {name!r}; use one of {', '.join(known)}")
        hints = {measure: "replies are asked to cite only if passages are shown"}
        hints[cost] = COSTS[cost].hint
        for name, hint in hints.items():
            if self.table[name].isna().all():
                raise ValueError(f"no arm has {name}: {hint}")
        return self.table[self.table[[measure, cost]].notna().all(axis=1)]

    def _drawn(self, rows: pd.DataFrame, measure: str, cost: str) -> tuple[np.ndarray, np.ndarray]:
        return self.draws[measure][:, rows.index], self.draws[cost][:, rows.index]


def tradeoff(
    bench: Benchmark | str | Path,
    settings: EvaluateSettings = EvaluateSettings(),
    prices: Prices | None = None,
    alone: Benchmark | None = None,
) -> Curve:
    """Return what each arm costs and how well it answers.

    Every question counts for accuracy. Times and tokens are those of questions that got a reply:
    one that crashed at once would otherwise look fast. Seconds are as they were measured: if many
    questions were under way at once, waiting for the others is in them.

    Parameters
    ----------
    bench
        Of `negfail_nb.benchmarking`, or the run folder of a finished one.
    settings
        Resamples, confidence, seed.
    prices
        Money per million tokens; ``None``: money is not counted.
    alone
        Some of the same questions asked one at a time: their seconds are those of a question alone.

    Raises
    ------
    ValueError
        If there are no answers, no question was asked under all arms, or a folder is not that of a
        finished benchmark of this version.
    """
    if isinstance(bench, str | Path):
        bench = open_benchmark(bench)
    if not bench.answers:
        raise ValueError(f"{bench!r} has no answers; ask first, with nf.benchmark(..)")
    answered = {answer.label for answer in bench.answers}
    if silent := [label for label in bench.labels if label not in answered]:
        log.warning("no question was asked under %s, so the curve lacks it", ", ".join(silent))
    answers = bench.scores.table
    apart = None if alone is None else alone.scores.table
    table = _costed(answers.assign(alone_seconds=_alone(answers, apart)), prices)
    return _curve(_shared(table), settings, prices)


def _alone(answers: pd.DataFrame, apart: pd.DataFrame | None) -> Any:
    """Return the seconds of each answer when it was asked alone; NaN where it was not."""
    if apart is None:
        return math.nan
    names = ["question_id", "arm"]
    seconds = _seconds(apart).mask(_lost(apart)).to_numpy()
    known = dict(zip(apart[names].itertuples(index=False, name=None), seconds, strict=True))
    return [known.get(name, math.nan) for name in answers[names].itertuples(index=False, name=None)]


def _lost(answers: pd.DataFrame) -> pd.Series:
    return answers["termination"].isin(LOST) | (answers["requests"] == 0)


def _costed(answers: pd.DataFrame, prices: Prices | None) -> pd.DataFrame:
    """Return measures and costs of every answer; no costs if there was no reply."""
    import pandas as pd

    answers = answers.assign(
        money=prices.money(answers) if prices else math.nan,
        first_seconds=answers["first_seconds"].astype(float),
    )
    lost = _lost(answers)
    # Parts of some questions are none of the arm: they would not add up.
    unknown = answers["arm"].isin(answers.loc[~lost & answers["first_seconds"].isna(), "arm"])
    answers.loc[unknown, "first_seconds"] = math.nan
    costs = pd.DataFrame({name: cost.of(answers) for name, cost in COSTS.items()}, dtype=float)
    costs[lost] = math.nan
    return answers[["question_id", "arm", *MEASURES]].join(costs)


def _shared(table: pd.DataFrame) -> pd.DataFrame:
    """The questions that every arm was asked."""
    arms = table["arm"].nunique()
    asked = table.groupby("question_id")["arm"].transform("nunique")
    shared = table[asked == arms]
    if shared.empty:
        what = f"no question was asked under all {arms} arms"
        raise ValueError(f"{what}; ask the same ones, or give fewer arms")
    if lacking := table["question_id"].nunique() - shared["question_id"].nunique():
        log.warning("%d questions were not asked under all arms and are left out", lacking)
    return shared


def _curve(table: pd.DataFrame, settings: EvaluateSettings, prices: Prices | None) -> Curve:
    import pandas as pd

    arms = list(dict.fromkeys(table["arm"]))
    # Of each number its values, shape ``(questions, arms)``.
    wide = {
        name: table.pivot(index="question_id", columns="arm", values=name)[arms].to_numpy(float)
        for name in (*MEASURES, *COSTS)
    }
    for name in MEASURES:  # a measure of some questions is not one of the arm
        wide[name] = np.where(np.isnan(wide[name]).any(axis=0), math.nan, wide[name])
    replied = ~np.isnan(wide["seconds_p50"])
    count = len(replied)
    rows = {
        "arm": arms,
        "length": [int(arm.partition("@")[2] or 0) for arm in arms],
        "control": [arm.partition("@")[0] in CONTROLS for arm in arms],
        "questions": count,
        "timed": replied.sum(axis=0),
        "alone": (~np.isnan(wide["alone_p50"])).sum(axis=0),
    }
    parts = [_numbers(wide, weights) for weights in draw_weights(count, settings)]
    draws = {name: np.concatenate([part[name] for part in parts]) for name in wide}
    for name, values in _numbers(wide, np.ones((1, count))).items():
        # One question has no spread, and so no interval.
        drawn = draws[name] if count > 1 else np.full((1, len(arms)), math.nan)
        low, high = np.transpose([percentile_interval(column, settings) for column in drawn.T])
        rows |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
    return Curve(pd.DataFrame(rows), settings, prices, draws)


def _numbers(wide: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return the mean or quantile of each number in each draw, shape ``(draws, arms)``."""
    found = {}
    for name, values in wide.items():
        quantile = COSTS[name].quantile if name in COSTS else None
        known = ~np.isnan(values)
        if quantile is None:
            with np.errstate(invalid="ignore"):  # 0 / 0: no question of the draw has it
                found[name] = (weights @ np.where(known, values, 0)) / (weights @ known)
            continue
        orders = [np.argsort(column)[: known[:, n].sum()] for n, column in enumerate(values.T)]
        columns = [
            weighted_quantiles(column[order], order, [quantile], weights)
            for column, order in zip(values.T, orders, strict=True)
        ]
        found[name] = np.hstack(columns)
    return found


def _beats(values: np.ndarray, costs: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Whether one arm beats another, shape ``(draws, one, other)``."""
    better = values[:, :, None] - values[:, None]
    cheaper = costs[:, None] - costs[:, :, None]
    no_worse = (better >= 0) & (cheaper >= 0)
    return no_worse & ((better > 0) | (cheaper > 0)) & ~controls[None, :, None]


def _best(arms: pd.Series, values: np.ndarray, beaten_by: np.ndarray) -> str:
    if not beaten_by.any():
        return ""
    return str(arms.iloc[int(np.where(beaten_by, values, -np.inf).argmax())])


def _reached(values: np.ndarray, costs: np.ndarray, at: float) -> np.ndarray:
    """The best value of each draw for at most a cost; NaN if nothing is that cheap."""
    best = np.where(costs <= at, values, -np.inf).max(axis=1)
    return np.where(np.isinf(best), math.nan, best)
