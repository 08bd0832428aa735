"""Fit the efficiencies of engines on GPUs to measured rows, by least squares, partially pooled.

Two stages, so that a long decode cannot bend the prefill: ``compute``, ``narrow`` and ``link`` on
TTFT rows of prompts alone, then the others on the rest, with those held. Residuals are logarithms
of predicted over measured. The prior of each number (`negfail_nb.speed.efficiencies.PRIORS`) counts
as one more residual: what the rows do not tell stays there instead of running to a bound.

**Several sources.** Rows of one source (an engine's version) are off together: a thousand of them
say what it does, and little of the next. So all of a source and kind count as `WORTH` rows, all
numbers are fitted at once, and rows that are off by far count for less. Sources are held out in
turn; the share of the step from the defaults to the fit that predicts those best, and no kind of
speed worse, is taken; it may be none. What is left then are the errors on unseen sources: the bands
(`negfail_nb.speed.bands`). Each engine has numbers of its own, too, whose priors stand at the
pooled ones.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from negfail_nb.speed.bands import kind_of, spreads
from negfail_nb.speed.efficiencies import PRIORS, SHARES, Efficiencies, Estimate
from negfail_nb.speed.roofline import Prepared, prepare
from negfail_nb.speed.rows import Measurement
from negfail_nb.speed.workload import DoesNotFit, capacity

log = logging.getLogger("negfail_nb")

SIGMA = 0.05  # how far one row may be off, of its logarithm: published rows repeat to a few percent
# Of several sources: how far one row may be off, as no number holds for all engines, and how far
# all rows of a source together.
ROW, BETWEEN = 0.15, 0.2
WORTH = 1.5  # independent rows that a source of many counts as
PREFILL = ("compute", "narrow", "link")
SMALLEST = 1e-3
FOLDS = 5  # held-out parts, if there are more sources
MOST = 30  # rows of one source among several: more say nothing of the next
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)  # from the defaults to the fit


def calibrate(
    measurements: Sequence[Measurement], start: Efficiencies = Efficiencies(), each: bool = True
) -> Efficiencies:
    """Fit efficiencies to measured rows: of one engine on one GPU, or of several, pooled.

    Parameters
    ----------
    measurements
        Of `read_measurements`: published ones, the user's own, or both.
    start
        Centre of the priors, and what is kept if no row tells otherwise.
    each
        Whether each of several engines gets numbers of its own, too; unseen ones do not need them.

    Returns
    -------
    Efficiencies
        With ``estimates``: 95 % intervals (rows are taken as independent, which rows of one sweep
        are not: read them as lower limits) and how much of each number came from the rows;
        ``spreads``: how far off predictions of unseen rows are; ``left_out`` names rows that cannot
        be fitted.

    Raises
    ------
    ValueError
        If no row is left.
    """
    usable, left_out = _usable(measurements)
    sources = np.array([source_of(m) for m in usable])
    if len(set(sources)) > 1:
        fitted = _pooled(usable, sources, start, _fitted(usable, start))
        fitted = _with_engines(usable, sources, fitted) if each else fitted
    else:
        fitted = _alone(usable, start)
    return replace(fitted, rows=len(usable), left_out=tuple(left_out))


def source_of(measurement: Measurement) -> str:
    """Return what rows are off together: an engine's version."""
    return measurement.engine


def errors(measurements: Sequence[Measurement], efficiencies: Efficiencies) -> np.ndarray:
    """Return the logarithms of predicted over measured, of rows that fit into memory."""
    return _Rows(measurements).errors(efficiencies)


def _usable(measurements: Sequence[Measurement]) -> tuple[list[Measurement], list[str]]:
    usable, left_out = [], []
    for m in measurements:
        try:
            capacity(m.architecture, m.hardware, m.workload)
            usable.append(m)
        except DoesNotFit as error:
            left_out.append(f"{m.engine}: {error}")
    if not usable:
        reasons = f" ({left_out[0]})" if left_out else ""
        raise ValueError(
            f"none of {len(measurements)} rows can be fitted{reasons}; "
            "give measured rows that fit memory"
        )
    if left_out:
        about = len(left_out), len(measurements), left_out[0]
        log.warning("%d of %d rows are left out of the fit, such as: %s", *about)
    return usable, left_out


class _Rows:
    """Measured rows, prepared to be predicted many times."""

    def __init__(self, rows: Sequence[Measurement]) -> None:
        self.prepared: Prepared = prepare([(m.architecture, m.hardware, m.workload) for m in rows])
        self.measured = np.log([row.value for row in rows])
        self.metrics = np.array([row.metric for row in rows])
        self.groups = np.unique(
            [f"{source_of(row)} {kind_of(row.metric)}" for row in rows], return_inverse=True
        )[1]

    def errors(self, reached: Efficiencies) -> np.ndarray:
        found = self.prepared.metrics(self.prepared.timed(reached))
        values = np.empty(len(self.measured))
        for name in set(self.metrics):
            values[self.metrics == name] = found[name][self.metrics == name]
        return np.log(values) - self.measured

    def residuals(self, reached: Efficiencies, pooled: bool) -> np.ndarray:
        """Return errors in units of their deviation; ``pooled``: a source counts as few rows."""
        if not pooled:
            return self.errors(reached) / SIGMA
        count = np.bincount(self.groups)
        weight = np.minimum(1.0, WORTH / count)[self.groups]
        return self.errors(reached) * np.sqrt(weight) / math.hypot(ROW, BETWEEN)


def _pooled(
    rows: Sequence[Measurement], sources: np.ndarray, start: Efficiencies, fitted: Efficiencies
) -> Efficiencies:
    """Return the step towards a fit that predicts held-out sources best, with their errors."""
    names = sorted(set(sources))
    folds = [names[n::FOLDS] for n in range(min(FOLDS, len(names)))]
    found = np.zeros((len(STEPS), len(rows)))
    for fold in folds:
        held = np.isin(sources, fold)
        part = _fitted([m for m, h in zip(rows, held, strict=True) if not h], start)
        unseen = _Rows([m for m, h in zip(rows, held, strict=True) if h])
        for step, share in enumerate(STEPS):
            found[step, held] = unseen.errors(_between(start, part, share))
    weights = _equal(sources)
    best = _best(rows, np.minimum(np.abs(found), 1.0) * weights)
    share = STEPS[best]
    if share < 1:
        log.info("%.0f %% of the way from the defaults to the fit predict best", 100 * share)
    estimates = tuple(_shrunk(e, start, share) for e in fitted.estimates)
    spread = spreads(rows, found[best], sources)
    return replace(_between(start, fitted, share), estimates=estimates, spreads=spread)


def _with_engines(
    rows: Sequence[Measurement], sources: np.ndarray, pooled: Efficiencies
) -> Efficiencies:
    names = sorted(set(sources))
    own = [(name, [m for m in rows if source_of(m) == name]) for name in names]
    return replace(pooled, engines=tuple((name, _alone(some, pooled)) for name, some in own))


def _alone(rows: Sequence[Measurement], start: Efficiencies) -> Efficiencies:
    """Return the fit of one source."""
    fitted = _fitted(rows, start)
    sources = np.array([source_of(m) for m in rows])
    found = spreads(rows, errors(rows, fitted), sources)
    return replace(fitted, spreads=found, rows=len(rows), engines=())


def _best(rows: Sequence[Measurement], cost: np.ndarray) -> int:
    """Return the step of least cost of those that make no kind of speed worse than the defaults."""
    kinds = np.array([kind_of(row.metric) for row in rows])
    each = np.array([cost[:, kinds == kind].sum(axis=1) for kind in set(kinds)])
    fine = (each <= each[:, :1]).all(axis=0)
    return int(np.argmin(np.where(fine, cost.sum(axis=1), np.inf)))


def _equal(sources: np.ndarray) -> np.ndarray:
    """Return weights with which each source counts alike."""
    _, which, count = np.unique(sources, return_inverse=True, return_counts=True)
    return 1 / count[which] / len(count)


def _between(start: Efficiencies, fitted: Efficiencies, share: float) -> Efficiencies:
    """Return the numbers that are some share of the way from the defaults, in logarithms."""
    values = {name: _way(getattr(start, name), getattr(fitted, name), share) for name in PRIORS}
    return replace(start, **values, estimates=())


def _way(start: float, end: float, share: float) -> float:
    return max(start, SMALLEST) ** (1 - share) * max(end, SMALLEST) ** share


def _shrunk(estimate: Estimate, start: Efficiencies, share: float) -> Estimate:
    first = getattr(start, estimate.name)
    ends = {end: _way(first, getattr(estimate, end), share) for end in ("value", "low", "high")}
    return estimate._replace(**ends, from_rows=estimate.from_rows * share)


def _fitted(rows: Sequence[Measurement], start: Efficiencies) -> Efficiencies:
    """Fit both stages."""
    several = len({source_of(m) for m in rows}) > 1
    if several:
        rows = _thinned(rows)
    prefill = [m for m in rows if m.metric == "ttft_seconds" and not m.workload.queued]
    rest = [m for m in rows if m.metric != "ttft_seconds" or m.workload.queued]
    fitted, estimates = replace(start, estimates=()), ()
    if several:
        fitted, estimates = _fit(rows, fitted, tuple(PRIORS), several)
        return replace(fitted, estimates=estimates)
    if prefill:
        fitted, estimates = _fit(prefill, fitted, PREFILL, several)
    if rest:
        free = tuple(name for name in PRIORS if not (prefill and name in PREFILL))
        fitted, more = _fit(rest, fitted, free, several)
        estimates += more
    return replace(fitted, estimates=estimates)


def _thinned(rows: Sequence[Measurement]) -> list[Measurement]:
    """Return at most `MOST` rows of each source and kind, evenly from its rows."""
    groups: dict[tuple[str, str, bool], list[Measurement]] = {}
    for row in rows:
        key = source_of(row), kind_of(row.metric), row.workload.queued
        groups.setdefault(key, []).append(row)
    return [m for g in groups.values() for m in g[:: math.ceil(len(g) / MOST)]]


def _fit(
    rows: Sequence[Measurement], start: Efficiencies, names: Sequence[str], pooled: bool
) -> tuple[Efficiencies, tuple[Estimate, ...]]:
    """Fit some numbers, in logarithms."""
    from scipy.optimize import least_squares

    centre = np.log([max(getattr(start, name), SMALLEST) for name in names])
    spread = np.array([PRIORS[name].spread for name in names])
    upper = np.array([0.0 if name in SHARES else math.log(1e5) for name in names])
    lower = np.full(len(names), math.log(SMALLEST))
    measured = _Rows(rows)

    def values(logs: np.ndarray) -> Mapping[str, Any]:
        found = {name: float(np.exp(log)) for name, log in zip(names, logs, strict=True)}
        # The exponential of a logarithm at its bound may be above 1 by a rounding.
        return found | {name: min(found[name], 1.0) for name in names if name in SHARES}

    def residuals(logs: np.ndarray) -> np.ndarray:
        off = measured.residuals(replace(start, **values(logs)), pooled)
        return np.concatenate([off, (logs - centre) / spread])

    # A start on a bound is not allowed. Of several sources some rows are off by far: they count for
    # less.
    inside = np.clip(centre, lower + 1e-6, upper - 1e-6)
    robust = {"loss": "soft_l1", "f_scale": 2.0, "max_nfev": 15} if pooled else {"max_nfev": 40}
    found = least_squares(residuals, inside, bounds=(lower, upper), **robust)
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
