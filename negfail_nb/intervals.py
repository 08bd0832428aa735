"""Intervals and tests over questions: the bootstrap, McNemar's exact test, the sign-flip test.

Attempts at one question resemble each other, so the question is the unit: it is drawn, or swapped
between two arms, with all that belongs to it. What makes a question hard for both arms cancels out,
as the same draws serve both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from negfail_nb.settings import EvaluateSettings

if TYPE_CHECKING:
    import numpy as np

# Draws of a bootstrap that are held in memory at once, over all questions.
DRAWS_AT_ONCE = 4_000_000


def choose_questions(
    questions: Iterable[str], settings: EvaluateSettings = EvaluateSettings()
) -> set[str]:
    """Return the questions that are used: all, or ``max_questions`` of them, the same for every
    arm.
    """
    import numpy as np

    ordered = sorted(set(questions))
    order = np.random.default_rng(settings.seed).permutation(len(ordered))
    return {ordered[i] for i in order[: settings.max_questions or None]}


def choose_baseline(arms: Collection[str], baseline: str | None = None) -> str:
    """Return the arm that differences are taken to: the one named, or the first.

    Raises
    ------
    ValueError
        Where there are no arms, or the one named is not among them; the text lists those that are.
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
    """Return the percentile interval of a statistic over questions drawn with replacement.

    As many questions as there are are drawn, ``resamples`` times; the interval holds the middle
    ``confidence`` of the statistics (`scipy.stats.bootstrap`). Equal seeds and numbers of questions
    give equal draws.

    Parameters
    ----------
    statistic
        Takes the columns and ``axis``, as numpy's reductions do.
    columns
        Values of each question, shapes ``(questions,)``.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    tuple of float
        Low and high end; NaN with fewer than two questions, or with a value that is NaN.
    """
    import numpy as np
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
    return float(found.low), float(found.high)


def mean_interval(
    values: np.ndarray, settings: EvaluateSettings = EvaluateSettings()
) -> tuple[float, float]:
    """Return the percentile interval of the mean of ``values``, one a question, shape
    ``(questions,)``.
    """
    import numpy as np

    return interval(np.mean, (values,), settings)


def mcnemar(ours: Iterable[bool], theirs: Iterable[bool]) -> float:
    """Return the two-sided p-value of McNemar's exact test: questions that only one of two arms
    answers.

    Under equal arms, each of these questions falls to either with probability 1/2
    (`scipy.stats.binomtest`). Where there is none, p is 1.

    Parameters
    ----------
    ours, theirs
        Whether each arm answered each question, in the same order.

    Raises
    ------
    ValueError
        Where the lengths differ.

    Examples
    --------
    >>> mcnemar([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])
    0.0625
    """
    from scipy.stats import binomtest

    pairs = [(bool(a), bool(b)) for a, b in zip(ours, theirs, strict=True)]
    won, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def sign_flip(
    differences: Iterable[float], settings: EvaluateSettings = EvaluateSettings()
) -> float:
    """Return the two-sided p-value of the paired permutation test on the mean difference of two
    arms.

    Under equal arms, the sign of each question's difference is arbitrary
    (`scipy.stats.permutation_test`). All signs are tried where there are at most ``resamples``
    ways, else that many are drawn by ``seed``. On differences of -1, 0 and 1 it is McNemar's exact
    test.

    Parameters
    ----------
    differences
        One a question, such as the difference of its mean EM over seeds.
    settings
        Resamples, seed.
    """
    import numpy as np
    from scipy.stats import permutation_test

    # Questions without a difference have no sign to flip; without them more cases can be computed
    # exactly.
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
