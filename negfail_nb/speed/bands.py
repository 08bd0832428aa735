"""How far predictions may be off: bands that hold on sources that were never fitted.

A band is the quantile of the errors on held-out sources, each of which counts alike. What was not
among the rows widens it: a kind of speed without rows, few sources, another vendor's GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from negfail_nb.speed.efficiencies import Efficiencies, Spread
from negfail_nb.speed.hardware import Hardware
from negfail_nb.speed.rows import Measurement

LEVEL = 0.95
KINDS = {"ttft_seconds": "ttft", "tpot_seconds": "tpot"}
# Half widths of the logarithm without a fit: of published rows of NVIDIA's GPUs, rounded up.
UNFITTED = {"ttft": 1.0, "tpot": 0.6, "throughput": 0.55}
VENDOR = 1.2  # what another vendor's GPUs add, in squares: old engines reached a third there
MANY = 5  # sources of a vendor from which on its GPUs are no surprise
FEWEST = 3  # sources, below which their errors say too little of the next
# What is added for too few sources, in squares: of one, what its engine does at other lengths and
# loads; of two, what the next may do. Both of published rows, rounded up.
SAME, ANOTHER = 0.15, 0.35


def kind_of(metric: str) -> str:
    """Return the kind of a speed: a time to first token, per token, or throughput and the like."""
    return KINDS.get(metric, "throughput")


def spreads(
    rows: Sequence[Measurement], errors: np.ndarray, sources: np.ndarray
) -> tuple[Spread, ...]:
    """Return the spread of each kind from errors of the logarithm on held-out rows."""
    kinds = np.array([kind_of(row.metric) for row in rows])
    found = []
    for kind in dict.fromkeys(kinds):
        of = kinds == kind
        names, which, count = np.unique(sources[of], return_inverse=True, return_counts=True)
        half = _quantile(np.abs(errors[of]), 1 / count[which], LEVEL)
        if len(names) < FEWEST:
            half = math.hypot(half, SAME if len(names) == 1 else ANOTHER)
        vendors = _known([rows[n].hardware.vendor for n in np.flatnonzero(of)], sources[of])
        found.append(Spread(str(kind), half, len(names), int(of.sum()), vendors))
    return tuple(found)


def _known(vendors: Sequence[str], sources: np.ndarray) -> tuple[str, ...]:
    """Return vendors of enough sources; of one source all that it has."""
    pairs = set(zip(vendors, sources, strict=True))
    least = MANY if len(set(sources)) > 1 else 1
    count = {vendor: sum(v == vendor for v, _ in pairs) for vendor in vendors}
    most = max(count.values())
    return tuple(sorted(v for v, n in count.items() if n >= min(least, most)))


def _quantile(values: np.ndarray, weights: np.ndarray, level: float) -> float:
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(np.searchsorted(share, level), len(values) - 1)])


def half_width(metric: str, hardware: Hardware, efficiencies: Efficiencies) -> float:
    """Return half the 95 % band of a prediction, of its logarithm."""
    kind = kind_of(metric)
    known = {spread.kind: spread for spread in efficiencies.spreads}
    if kind not in known:
        half, vendors = UNFITTED[kind], ("nvidia",)
    else:
        half, vendors = known[kind].half, known[kind].vendors
    return half if hardware.vendor in vendors else math.hypot(half, VENDOR)


def band(
    value: float, metric: str, hardware: Hardware, efficiencies: Efficiencies
) -> tuple[float, float]:
    """Return the 95 % band around a predicted ``value`` of a speed, such as ``ttft_seconds``."""
    factor = math.exp(half_width(metric, hardware, efficiencies))
    return value / factor, value * factor
