"""Every interval and test of the package: bootstrap, McNemar's exact test, sign-flip test.

Attempts at one question resemble each other, so the unit is the question (of a load measurement,
the request): it is drawn, or swapped between two arms, with all that belongs to it. All arms share
the draws, so what makes a question hard for every arm cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from negfail_nb.settings import EvaluateSettings

if TYPE_CHECKING:
    import pandas as pd

DRAWS_AT_ONCE = 4_000_000  # drawn values that are held in memory at once


def choose_questions(
    questions: Iterable[str], settings: EvaluateSettings = EvaluateSettings()
) -> set[str]:
    """Return the questions to use: all, or the same ``max_questions`` of them for every arm."""
    ordered = sorted(set(questions))
    order = np.random.default_rng(settings.seed).permutation(len(ordered))
    return {ordered[i] for i in order[: settings.max_questions or None]}


def choose_baseline(arms: Collection[str], baseline: str | None = None) -> str:
    """Return the arm that differences are taken to: the one named, or the first.

    Raises
    ------
    ValueError
        If there are no arms, or the one named is not among them; the text lists them.
    """
    if not arms:
        raise ValueError("no arms to compare: give at least one")
    baseline = baseline or next(iter(arms))
    if baseline not in arms:
        raise ValueError(f"baseline {baseline!r} is not among the arms: {', '.join(arms)}")
    return baseline


def interval(
    statistic: Callable[..., np.ndarray],
    columns: Iterable[np.ndarray],
    settings: EvaluateSettings = EvaluateSettings(),
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic (`scipy.stats.bootstrap`).

    Questions are resampled with replacement. Equal seeds and numbers of questions give equal draws.

    Parameters
    ----------
    statistic
        Takes the columns and ``axis``, as numpy's reductions do.
    columns
        One value per question, shapes ``(questions,)``.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    tuple of float
        Low and high end; NaN with fewer than two questions, or if a value is NaN.
    """
    from scipy.stats import bootstrap

    columns = tuple(np.asarray(column, dtype=float) for column in columns)
    if len(columns[0]) < 2 or any(np.isnan(column).any() for column in columns):
        return math.nan, math.nan
    found = bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=settings.resamples,
        confidence_level=settings.confidence,
        method="percentile",
        batch=max(1, DRAWS_AT_ONCE // len(columns[0])),
        rng=np.random.default_rng(settings.seed),
    ).confidence_interval
    # If all draws are equal, rounding may put the low end above the high one.
    low, high = sorted((float(found.low), float(found.high)))
    return low, high


def mean_interval(
    values: np.ndarray, settings: EvaluateSettings = EvaluateSettings()
) -> tuple[float, float]:
    """Return `interval` of the mean of ``values``, shape ``(questions,)``."""
    return interval(np.mean, (values,), settings)


def mean_columns(name: str, values: pd.Series, settings: EvaluateSettings) -> dict[str, float]:
    """Return the mean of values as ``name``, its interval as ``name_low`` and ``name_high``."""
    low, high = mean_interval(values.to_numpy(), settings)
    return {name: float(values.mean(skipna=False)), f"{name}_low": low, f"{name}_high": high}


def draw_weights(
    units: int,
    settings: EvaluateSettings,
    width: int | None = None,
    rng: np.random.Generator | None = None,
) -> Iterator[np.ndarray]:
    """Yield how often each unit is in each bootstrap draw, shape ``(draws, units)``.

    With weights, one product of matrices gives a statistic of all draws and all arms.

    Parameters
    ----------
    units
        How many questions (or requests) are resampled.
    settings
        Resamples and seed.
    width
        Values per draw that the caller holds in memory; default: one per unit.
    rng
        Draws; default: a new one with ``settings.seed``.
    """
    rng = rng or np.random.default_rng(settings.seed)
    step = max(1, DRAWS_AT_ONCE // (width or units))
    for done in range(0, settings.resamples, step):
        size = min(step, settings.resamples - done)
        yield rng.multinomial(units, np.full(units, 1 / units), size).astype(float)


def weighted_quantiles(
    values: np.ndarray, owners: np.ndarray, quantiles: Sequence[float], weights: np.ndarray
) -> np.ndarray:
    """Return quantiles of values whose owners count so many times each.

    A quantile is the least value that this share of values does not exceed: one that was measured,
    and infinite if too many are.

    Parameters
    ----------
    values
        Sorted, shape ``(values,)``.
    owners
        Which unit each value belongs to, shape ``(values,)``.
    quantiles
        From 0 to 1.
    weights
        How often each unit counts, shape ``(draws, units)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(draws, quantiles)``; NaN if nothing counts.
    """
    if not len(values):
        return np.full((len(weights), len(quantiles)), math.nan)
    so_far = np.cumsum(weights[:, owners], axis=1)
    total = so_far[:, -1]
    # 1e-9: 0.95 * 20 is a little more than 19.
    places = [(so_far < (q * total - 1e-9)[:, None]).sum(axis=1) for q in quantiles]
    found = values[np.stack(places, axis=1)]
    return np.where(total[:, None] > 0, found, math.nan)


def percentile_interval(
    drawn: np.ndarray, settings: EvaluateSettings, method: str = "linear"
) -> tuple[float, float]:
    """Return the interval of a statistic, given its value in each draw; NaN draws do not count.

    ``method`` is that of `numpy.quantile`; if draws may be infinite, take ``"inverted_cdf"``.
    """
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) < 2:
        return math.nan, math.nan
    tail = (1 - settings.confidence) / 2
    low, high = sorted(map(float, np.quantile(drawn, (tail, 1 - tail), method=method)))
    return low, high


def mcnemar(ours: Iterable[bool], theirs: Iterable[bool]) -> float:
    """Return the two-sided p-value of McNemar's exact test (`scipy.stats.binomtest`).

    It counts the questions that only one of two arms answers; without any, the p-value is 1.

    Parameters
    ----------
    ours, theirs
        Whether each arm answered each question, in the same order.

    Raises
    ------
    ValueError
        If the lengths differ.

    Examples
    --------
    >>> mcnemar([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])
    0.0625
    """
    from scipy.stats import binomtest

    pairs = [(bool(a), bool(b)) for a, b in zip(ours, theirs, strict=True)]
    won = sum(a and not b for a, b in pairs)
    lost = sum(b and not a for a, b in pairs)
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def sign_flip(
    differences: Iterable[float], settings: EvaluateSettings = EvaluateSettings()
) -> float:
    """Return the two-sided p-value of the paired permutation test (`scipy.stats.permutation_test`).

    If the arms are equal, the sign of each question's difference is arbitrary. All signs are tried
    if there are at most ``resamples`` ways, else that many are drawn. On differences of -1, 0 and 1
    it is McNemar's exact test.

    Parameters
    ----------
    differences
        One per question, such as the difference of its mean EM over seeds.
    settings
        Resamples, seed.
    """
    from scipy.stats import permutation_test

    # A difference of 0 has no sign to flip; without those, more cases can be computed exactly.
    left = np.asarray([d for d in differences if d], dtype=float)
    if len(left) < 2:  # nothing to flip, or one difference whose two signs are equally extreme
        return 1.0
    found = permutation_test(
        (left,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=settings.resamples,
        batch=max(1, DRAWS_AT_ONCE // len(left)),
        rng=np.random.default_rng(settings.seed),
    )
    return float(found.pvalue)
