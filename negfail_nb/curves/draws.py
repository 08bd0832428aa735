"""Questions drawn with replacement, the same draws for every arm: weighted means and quantiles, and
their intervals.

A draw is a row of weights, how often it holds each question; so all means of all draws are one
product of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from negfail_nb.intervals import DRAWS_AT_ONCE
from negfail_nb.settings import EvaluateSettings

__all__ = ["QUANTILES", "drawn_weights", "ends", "weighted_numbers", "weighted_quantiles"]

QUANTILES = {"seconds_p50": 0.5, "seconds_p95": 0.95}


def drawn_weights(questions: int, settings: EvaluateSettings) -> Iterator[np.ndarray]:
    """Yield how often each question is drawn, shape ``(draws, questions)``, in parts that fit into
    memory.
    """
    rng, left = np.random.default_rng(settings.seed), settings.resamples
    while left > 0:
        count = min(left, max(1, DRAWS_AT_ONCE // questions))
        yield rng.multinomial(questions, np.full(questions, 1 / questions), size=count).astype(
            float
        )
        left -= count


def weighted_numbers(
    means: Mapping[str, np.ndarray], seconds: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return every number of the table, shape ``(draws, arms)``, questions weighted as they were
    drawn.
    """
    found = {}
    with np.errstate(invalid="ignore"):  # 0 / 0: no question of the draw has it
        for name, values in means.items():
            known = ~np.isnan(values)
            found[name] = (weights @ np.where(known, values, 0)) / (weights @ known)
    return found | {
        name: weighted_quantiles(seconds, weights, share) for name, share in QUANTILES.items()
    }


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """Return the smallest value that at least this share of the drawn ones does not exceed, shape
    ``(draws, arms)``.
    """
    found = np.full((len(weights), values.shape[1]), math.nan)
    for arm, column in enumerate(values.T):
        order = np.argsort(column)[: (~np.isnan(column)).sum()]
        if len(order):
            reached = weights[:, order].cumsum(axis=1)
            enough = reached >= share * reached[:, -1:] - 1e-9
            found[:, arm] = np.where(
                reached[:, -1] > 0, column[order][enough.argmax(axis=1)], math.nan
            )
    return found


def ends(drawn: np.ndarray, settings: EvaluateSettings, questions: int = 2) -> tuple[float, float]:
    """Return the percentile interval; NaN where it cannot be known."""
    drawn = drawn[~np.isnan(drawn)]
    if questions < 2 or not len(drawn):
        return math.nan, math.nan
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(low), float(high)
