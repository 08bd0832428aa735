"""Fit the efficiencies of an engine on a GPU to measured rows, by least squares.

Two stages, so that a long decode cannot bend the prefill: ``compute`` and ``link`` on TTFT rows,
then the others on the rest, with those two held. Residuals are logarithms of predicted over
measured. The prior of each number (`negfail_nb.speed.efficiencies.PRIORS`) counts as one more
residual: what the rows do not tell stays there instead of running to a bound.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from negfail_nb.speed.efficiencies import PRIORS, SHARES, Efficiencies, Estimate
from negfail_nb.speed.measurements import Measurement, predicted
from negfail_nb.speed.roofline import DoesNotFit

log = logging.getLogger("negfail_nb")

SIGMA = 0.05  # how far one row may be off, of its logarithm: published rows repeat to a few percent
PREFILL = ("compute", "link")
SMALLEST = 1e-3


def calibrate(
    measurements: Sequence[Measurement], start: Efficiencies = Efficiencies()
) -> Efficiencies:
    """Fit efficiencies to measured rows: of one engine on one GPU, or of several, pooled.

    Parameters
    ----------
    measurements
        Of `read_measurements`: published ones, the user's own, or both.
    start
        Centre of the priors, and what is kept if no row tells otherwise.

    Returns
    -------
    Efficiencies
        With ``estimates``: 95 % intervals (rows are taken as independent, which rows of one sweep
        are not: read them as lower limits) and how much of each number came from the rows;
        ``left_out`` names rows that cannot be fitted.

    Raises
    ------
    ValueError
        If no row is left.
    """
    usable = []
    left_out = []
    for measurement in measurements:
        try:
            predicted(measurement, start)
            usable.append(measurement)
        except DoesNotFit as error:
            left_out.append(f"{measurement.engine}: {error}")
    if not usable:
        reasons = f" ({left_out[0]})" if left_out else ""
        raise ValueError(
            f"none of {len(measurements)} rows can be fitted{reasons}; "
            "give measured rows that fit memory"
        )
    if left_out:
        about = len(left_out), len(measurements), left_out[0]
        log.warning("%d of %d rows are left out of the fit, such as: %s", *about)
    prefill = [m for m in usable if m.metric == "ttft_seconds"]
    rest = [m for m in usable if m.metric != "ttft_seconds"]
    fitted = replace(start, estimates=())
    estimates = ()
    if prefill:
        fitted, estimates = _fit(prefill, fitted, PREFILL)
    if rest:
        free = tuple(name for name in PRIORS if not (prefill and name in PREFILL))
        fitted, more = _fit(rest, fitted, free)
        estimates += more
    return replace(fitted, estimates=estimates, rows=len(usable), left_out=tuple(left_out))


def _fit(
    rows: Sequence[Measurement], start: Efficiencies, names: Sequence[str]
) -> tuple[Efficiencies, tuple[Estimate, ...]]:
    """Fit some numbers, in logarithms."""
    from scipy.optimize import least_squares

    centre = np.log([max(getattr(start, name), SMALLEST) for name in names])
    spread = np.array([PRIORS[name].spread for name in names])
    upper = np.array([0.0 if name in SHARES else math.log(1e5) for name in names])
    lower = np.full(len(names), math.log(SMALLEST))
    measured = np.log([row.value for row in rows])

    def values(logs: np.ndarray) -> dict[str, float]:
        found = {name: float(np.exp(log)) for name, log in zip(names, logs, strict=True)}
        # The exponential of a logarithm at its bound may be above 1 by a rounding.
        return found | {name: min(found[name], 1.0) for name in names if name in SHARES}

    def residuals(logs: np.ndarray) -> np.ndarray:
        trial = replace(start, **values(logs))
        off = np.log([predicted(row, trial) for row in rows]) - measured
        return np.concatenate([off / SIGMA, (logs - centre) / spread])

    # A start on a bound is not allowed.
    inside = np.clip(centre, lower + 1e-6, upper - 1e-6)
    found = least_squares(residuals, inside, bounds=(lower, upper))
    deviations = _deviations(found.jac, found.fun, len(rows))
    from_rows = np.clip(1 - (deviations / spread) ** 2, 0, 1)
    estimates = tuple(
        _estimate(name, *numbers, len(rows))
        for name, *numbers in zip(names, found.x, deviations, from_rows, upper, strict=True)
    )
    return replace(start, **values(found.x)), estimates


def _deviations(jacobian: np.ndarray, residuals: np.ndarray, rows: int) -> np.ndarray:
    """Standard deviations of the logarithms; rows that the model misses count for less."""
    parameters = jacobian.shape[1]
    scale = max(1.0, float(np.sum(residuals[:rows] ** 2)) / max(1, rows - parameters))
    information = jacobian[:rows].T @ jacobian[:rows] / scale + jacobian[rows:].T @ jacobian[rows:]
    return np.sqrt(np.diag(np.linalg.inv(information)))


def _estimate(
    name: str, log_value: float, deviation: float, from_rows: float, upper: float, rows: int
) -> Estimate:
    prior = PRIORS[name]
    mostly = prior.told_by if from_rows >= 0.5 else f"mostly the prior ({prior.source})"
    if log_value > upper - 1e-3:
        mostly += "; at its upper bound"
    low = math.exp(log_value - 1.96 * deviation)
    high = math.exp(min(upper, log_value + 1.96 * deviation))
    return Estimate(name, math.exp(log_value), low, high, float(from_rows), rows, mostly)
