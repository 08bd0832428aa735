"""Every interval and test of the package: bootstrap, McNemar's exact test, sign-flip test, Holm's
correction, and which difference could be seen.

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


def bootstrap_p(drawn: np.ndarray) -> float:
    """Return the two-sided p-value of a difference, given its value in each bootstrap draw.

    Twice the share of the draws on the rarer side of 0, a draw at 0 on both sides and the sample
    itself among the draws (Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    4.2). It is below 5 % about where the 95 % percentile interval leaves 0 out. NaN draws do not
    count; NaN with fewer than two draws.
    """
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) < 2:
        return math.nan
    rarer = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(drawn) + 1)))


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Return p-values corrected for how many there are (Holm, Scandinavian Journal of Statistics 6,
    1979): if those up to 5 % are called differences, then one of them is none in at most 5 % of all
    studies, however the tests depend on each other. NaN stays NaN and does not count.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    found = np.asarray([*p_values], dtype=float)
    order = np.argsort(found)  # NaN last
    known = order[: np.count_nonzero(~np.isnan(found))]
    steps = np.arange(len(known), 0, -1)
    corrected = np.full(len(found), math.nan)
    corrected[known] = np.minimum(np.maximum.accumulate(found[known] * steps), 1.0)
    return corrected


def detectable(
    questions: int,
    seeds: int = 1,
    rate: float = 0.5,
    discordant: float | None = None,
    seed_sd: float = 0.0,
    repeated: float = 1.0,
    power: float = 0.8,
    level: float = 0.05,
) -> float:
    """Return the difference between two arms that a two-sided test sees with the given power.

    A share of the questions is answered by one arm only, and that is what a paired difference
    varies by (Connor, Biometrics 43, 1987); seeds average out what is not the same in all of them
    (Miller, arXiv 2411.00640, section 5), and two arms each have a spread over training runs::

        (z(1 - level / 2) + z(power)) * sqrt(d * (r + (1 - r) / seeds) / n + 2 * seed_sd**2 / seeds)

    with d the discordant share, r the repeated one, n questions. It is an approximation by the
    normal distribution; with few seeds it is a little too hopeful.

    Parameters
    ----------
    questions, seeds
        How many each arm has; both arms have the same.
    rate
        The share of the questions that the arms answer, about.
    discordant
        Share of the questions that only one of the arms answers, with one seed; ``None``: as if
        arms answered independently, ``2 * rate * (1 - rate)``, which is more than one sees.
    seed_sd
        Standard deviation of an arm's rate over training runs.
    repeated
        Share of the discordance that is the same with every seed: 1 (cautious: more seeds ask no
        more questions) to 0.
    power, level
        How often the difference is seen; how often one is seen where there is none.

    Returns
    -------
    float
        As a share of the questions: 0.05 is five points.

    Raises
    ------
    ValueError
        For no questions or seeds, or a discordant share that the rate does not allow.

    Examples
    --------
    >>> round(detectable(300, discordant=0.2), 3)
    0.072
    """
    from scipy.stats import norm

    if questions < 1 or seeds < 1:
        raise ValueError(f"{questions} questions and {seeds} seeds: give at least one of each")
    most = 2 * min(rate, 1 - rate)
    share = 2 * rate * (1 - rate) if discordant is None else discordant
    if not 0 <= share <= most:
        raise ValueError(
            f"discordant is {share:g}: two arms that answer {rate:g} differ at 0 to {most:g} of "
            "the questions"
        )
    variance = share * (repeated + (1 - repeated) / seeds) / questions + 2 * seed_sd**2 / seeds
    return float((norm.ppf(1 - level / 2) + norm.ppf(power)) * math.sqrt(variance))


def power_table(
    questions: Sequence[int],
    seeds: Sequence[int],
    settings: EvaluateSettings = EvaluateSettings(),
    **guess: float,
) -> pd.DataFrame:
    """Return which difference in EM a study could see, for so many questions and seeds.

    In points, with a power of 80 %: cautious, as if every seed of an arm answered the same
    questions, and hopeful, as if seeds shared none of what tells arms apart.

    Parameters
    ----------
    questions, seeds
        Numbers of them.
    settings
        Its confidence.
    **guess
        ``rate``, ``discordant`` and ``seed_sd``, as `detectable` takes them.
    """
    import pandas as pd

    level = {"level": 1 - settings.confidence}
    rows = [
        {"held-out questions": n, "seeds": k}
        | {
            f"{name}, points": round(100 * detectable(n, k, repeated=shared, **guess, **level), 1)
            for name, shared in (("cautious", 1.0), ("hopeful", 0.0))
        }
        for n in questions
        for k in seeds
    ]
    return pd.DataFrame(rows)


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
