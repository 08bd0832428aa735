"""What each arm costs and how well it answers: one table, and the arms that no other one beats.

All arms are drawn together: one draw of questions serves every arm, every measure and every cost,
so whatever makes a question hard or long for all of them cancels out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from negfail_nb.benchmarking.grid import open_benchmark
from negfail_nb.benchmarking.scores import MEASURES, Benchmark
from negfail_nb.intervals import draw_weights, percentile_interval, weighted_quantiles
from negfail_nb.settings import Checked, EvaluateSettings, option

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONTROLS", "COSTS", "Curve", "Prices", "tradeoff"]

COSTS = ("seconds_p50", "seconds_p95", "tokens", "prompt_tokens", "completion_tokens", "money")
CONTROLS = ("oracle",)  # what no system can do: they are shown, and never on the frontier
LOST = (
    "crashed",
    "too_long",
)  # endings without a reply: they score 0, and have no time and no tokens to speak of
_SECONDS = ("retrieval_seconds", "model_seconds", "prefill_seconds", "decode_seconds")
_MEANS = (*_SECONDS, "tokens", "prompt_tokens", "cached_tokens", "completion_tokens")
BAND_POINTS = 80
QUANTILES = {"seconds_p50": 0.5, "seconds_p95": 0.95}

log = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices(Checked):
    """Money for a million tokens, in any currency."""

    prompt: float = option(0.0, "a million prompt tokens", low=0.0, high=1e9)
    completion: float = option(0.0, "a million completion tokens", low=0.0, high=1e9)
    cached: float = option(
        -1.0, "a million prompt tokens from the prefix cache; -1: as other ones", low=-1.0, high=1e9
    )
    currency: str = option("USD", "as figures name it")

    def money(self, table: pd.DataFrame) -> pd.Series:
        """Return what each row costs, from ``prompt_tokens``, ``cached_tokens`` and
        ``completion_tokens``.

        Where the number of cached tokens is not known, none is taken as cached.
        """
        hit = table["cached_tokens"].fillna(0) if self.cached >= 0 else 0 * table["prompt_tokens"]
        prompts = (table["prompt_tokens"] - hit) * self.prompt + hit * max(self.cached, 0)
        return (prompts + table["completion_tokens"] * self.completion) / 1e6


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What `tradeoff` returns.

    Attributes
    ----------
    table
        One row an arm: ``arm`` (``long_context@4096``); ``length`` (tokens; 0: the arm has none);
        ``control``; ``questions``; ``timed`` (questions with a reply: the others have no cost, and
        score 0); each measure of `negfail_nb.benchmarking.scores.MEASURES` (0 to 1); of one
        question the seconds, ``seconds_p50`` and ``seconds_p95``, and the means of
        ``retrieval_seconds``, ``model_seconds`` and its parts ``prefill_seconds`` (to the first
        token, waiting included) and ``decode_seconds`` (after it), ``tokens`` (prompt and
        completion), ``prompt_tokens``, ``cached_tokens``, ``completion_tokens`` and ``money`` (NaN
        without prices). Beside each its interval over questions, ``_low`` and ``_high``. NaN: the
        arm does not say.
    settings
        Resamples, confidence and seed of the intervals.
    prices
        What money was counted with.
    draws
        Of each number in the table, its value in each draw of questions, shape ``(resamples,
        arms)``.
    """

    table: pd.DataFrame
    settings: EvaluateSettings
    prices: Prices | None
    draws: Mapping[str, np.ndarray]

    def __repr__(self) -> str:
        asked = int(self.table["questions"].max())
        return f"Curve({len(self.table)} arms, {asked:,} questions, {self.settings.resamples:,} draws of them)"

    def frontier(self, measure: str = "em", cost: str = "seconds_p50") -> pd.DataFrame:
        """Return which arms no other beats: none answers at least as well for at most the cost, and
        one of both better.

        Controls are neither on the frontier nor beat anything: nobody can retrieve with the answers
        at hand.

        Returns
        -------
        pandas.DataFrame
            One row an arm that has both numbers, the cheapest first: ``arm``, ``length``,
            ``control``, ``questions``; the measure and the cost with their intervals;
            ``on_frontier``; ``dominated_by``, the best of the arms that beat it (empty where none
            does); ``share`` of the draws in which it is on the frontier.

        Raises
        ------
        ValueError
            For an unknown measure or cost, and where no arm has it.
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
        """Return the best that can be had for at most each cost, with its interval: the frontier as
        a line.

        The best of several noisy numbers is too high on average, the more so the fewer the
        questions.

        Returns
        -------
        pandas.DataFrame
            ``cost``, ``value``, ``low``, ``high``; costs lie evenly on a logarithmic axis.

        Raises
        ------
        ValueError
            As `frontier` does, and where there are only controls.
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
        if measure not in MEASURES:
            raise ValueError(f"unknown measure {measure!r}; use one of {', '.join(MEASURES)}")
        if cost not in COSTS:
            raise ValueError(f"unknown cost {cost!r}; use one of {', '.join(COSTS)}")
        for name in (measure, cost):
            if self.table[name].isna().all():
                hint = _HINTS.get(name, "replies are asked to cite only where passages are shown")
                raise ValueError(f"no arm has {name}: {hint}")
        return self.table[self.table[[measure, cost]].notna().all(axis=1)]

    def _drawn(self, rows: pd.DataFrame, measure: str, cost: str) -> tuple[np.ndarray, np.ndarray]:
        return self.draws[measure][:, rows.index], self.draws[cost][:, rows.index]


_HINTS = {"money": "give tradeoff(.., prices=Prices(prompt=.., completion=..))"} | dict.fromkeys(
    ("tokens", "prompt_tokens", "completion_tokens"),
    "the model does not say how many tokens it reads and writes",
)
_HINTS |= dict.fromkeys(QUANTILES, "no question got a reply")


def tradeoff(
    bench: Benchmark | str | Path,
    settings: EvaluateSettings = EvaluateSettings(),
    prices: Prices | None = None,
    home: str | Path = ".",
) -> Curve:
    """Return what each arm costs and how well it answers.

    Every question counts for accuracy. Times and tokens are those of questions that got a reply:
    one that crashed at once would otherwise look fast. Seconds are as they were measured: where
    many questions were under way at once, waiting for the others is in them.

    Parameters
    ----------
    bench
        Of `negfail_nb.benchmarking`, or the run folder of a finished one.
    settings
        Resamples, confidence, seed.
    prices
        Money for a million tokens; ``None``: money is not counted.
    home
        Where the paths in a run folder's settings start; not used otherwise.

    Raises
    ------
    ValueError
        Where there are no answers, no question was asked under all arms, or a folder is not that of
        a finished benchmark of this version.
    """
    if isinstance(bench, str | Path):
        bench = open_benchmark(bench)
    if not bench.answers:
        raise ValueError(
            f"{bench!r} has no answers; ask first, with walk.benchmark() or nf.benchmark(..)"
        )
    answered = {answer.label for answer in bench.answers}
    if silent := [label for label in bench.labels if label not in answered]:
        log.warning("no question was asked under %s, so the curve lacks it", ", ".join(silent))
    return _curve(_shared(_priced(bench.scores.table, prices)), settings, prices)


def _priced(table: pd.DataFrame, prices: Prices | None) -> pd.DataFrame:
    """Costs of every answer; none where there was no reply."""
    table = table.assign(tokens=table["prompt_tokens"] + table["completion_tokens"])
    table["money"] = prices.money(table) if prices else math.nan
    # An answer's seconds are its calls'; retrieval comes on top.
    table["model_seconds"] = table["seconds"]
    table["seconds"] = table["model_seconds"] + table["retrieval_seconds"]
    table["prefill_seconds"] = table["first_seconds"].astype(float)
    table["decode_seconds"] = table["model_seconds"] - table["prefill_seconds"]
    lost = table["termination"].isin(LOST) | (table["requests"] == 0)
    # Parts of some questions are none of the arm: they would not add up.
    unknown = table["arm"].isin(table.loc[~lost & table["prefill_seconds"].isna(), "arm"])
    table.loc[unknown, ["prefill_seconds", "decode_seconds"]] = math.nan
    table.loc[lost, ["seconds", "money", *_MEANS]] = math.nan
    return table


def _shared(table: pd.DataFrame) -> pd.DataFrame:
    """The questions that every arm was asked."""
    arms = table["arm"].nunique()
    asked = table.groupby("question_id")["arm"].transform("nunique")
    shared = table[asked == arms]
    if shared.empty:
        raise ValueError(
            f"no question was asked under all {arms} arms; ask the same ones, or give fewer arms"
        )
    if lacking := table["question_id"].nunique() - shared["question_id"].nunique():
        log.warning(
            "%d questions were not asked under all arms and are left out of the curve", lacking
        )
    return shared


def _curve(table: pd.DataFrame, settings: EvaluateSettings, prices: Prices | None) -> Curve:
    import pandas as pd

    arms = list(dict.fromkeys(table["arm"]))
    means = {name: _wide(table, name, arms) for name in (*MEASURES, *_MEANS, "money")}
    for name in MEASURES:  # a measure of some questions is not one of the arm
        means[name] = np.where(np.isnan(means[name]).any(axis=0), math.nan, means[name])
    seconds = _wide(table, "seconds", arms)
    once = _numbers(means, seconds, np.ones((1, len(seconds))))
    drawn = [_numbers(means, seconds, weights) for weights in draw_weights(len(seconds), settings)]
    draws = {name: np.concatenate([part[name] for part in drawn]) for name in once}
    rows = {
        "arm": arms,
        "length": [int(arm.partition("@")[2] or 0) for arm in arms],
        "control": [arm.partition("@")[0] in CONTROLS for arm in arms],
        "questions": len(seconds),
        "timed": (~np.isnan(seconds)).sum(axis=0),
    }
    for name, values in once.items():
        # One question has no spread, and so no interval.
        drawn = draws[name] if len(seconds) > 1 else np.full((1, len(arms)), math.nan)
        spans = [percentile_interval(column, settings) for column in drawn.T]
        low, high = zip(*spans, strict=True)
        rows |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
    return Curve(pd.DataFrame(rows), settings, prices, draws)


def _numbers(
    means: Mapping[str, np.ndarray], seconds: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return each number of the table in each draw, shape ``(draws, arms)``."""
    found = {}
    with np.errstate(invalid="ignore"):  # 0 / 0: no question of the draw has it
        for name, values in means.items():
            known = ~np.isnan(values)
            found[name] = (weights @ np.where(known, values, 0)) / (weights @ known)
    columns = []
    for column in seconds.T:
        order = np.argsort(column)[: (~np.isnan(column)).sum()]
        columns.append(weighted_quantiles(column[order], order, [*QUANTILES.values()], weights))
    return found | dict(zip(QUANTILES, np.stack(columns, axis=1).transpose(2, 0, 1), strict=True))


def _wide(table: pd.DataFrame, name: str, arms: list[str]) -> np.ndarray:
    """Values of a column, shape ``(questions, arms)``."""
    return table.pivot(index="question_id", columns="arm", values=name)[arms].to_numpy(float)


def _beats(values: np.ndarray, costs: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Whether one arm beats another, shape ``(draws, one, other)``."""
    better, cheaper = values[:, :, None] - values[:, None], costs[:, None] - costs[:, :, None]
    return (
        (better >= 0) & (cheaper >= 0) & ((better > 0) | (cheaper > 0)) & ~controls[None, :, None]
    )


def _best(arms: pd.Series, values: np.ndarray, beaten_by: np.ndarray) -> str:
    return (
        str(arms.iloc[int(np.where(beaten_by, values, -np.inf).argmax())])
        if beaten_by.any()
        else ""
    )


def _reached(values: np.ndarray, costs: np.ndarray, at: float) -> np.ndarray:
    """The best value of each draw for at most a cost; NaN where nothing is that cheap."""
    best = np.where(costs <= at, values, -np.inf).max(axis=1)
    return np.where(np.isinf(best), math.nan, best)
