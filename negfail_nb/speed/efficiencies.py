"""What an engine reaches of a GPU's peak rates: eight named numbers, and what is known of them
before any fit.

The prior of each says how it was found and how far it may be off, as a standard deviation of its
logarithm. It holds where measured rows say nothing: rows at one tensor-parallel degree, for
example, cannot tell an all-reduce from a step. No prior was found on a row of a 70B model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from negfail_nb.settings import Checked, option

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PRIORS", "Efficiencies", "Estimate", "Prior"]


class Prior(NamedTuple):
    """How far a number may be off before it is fitted, the rows that can tell it, and where its
    value is from.
    """

    spread: float
    told_by: str
    source: str


PRIORS = {
    "compute": Prior(
        0.3, "TTFT rows", "published prefill rates lie between 0.5 and 0.7 of the peak"
    ),
    "weights": Prior(
        0.1,
        "decode rows at batch 1 and several GPU counts",
        "profiled layers of Llama-3-8B, A100 (Vidur)",
    ),
    "kv": Prior(
        0.4,
        "decode rows of long contexts at large batches",
        "between the weights' share and a half",
    ),
    "link": Prior(
        0.2,
        "TTFT rows at several GPU counts",
        "profiled all-reduce of 64 MB, A100 and H100 (Vidur)",
    ),
    "allreduce_us": Prior(
        0.5, "decode rows at several GPU counts", "profiled small all-reduces, 7 to 60 us (Vidur)"
    ),
    "layer_us": Prior(
        0.2,
        "decode rows of models of several depths",
        "profiled layers of Llama-3-8B, A100 (Vidur)",
    ),
    "step_ms": Prior(1.0, "decode rows at batch 1", "a guess: schedulers take 0.3 to 3 ms"),
    "sequence_us": Prior(
        1.0, "decode rows of short contexts at several batch sizes", "a guess: 7 to 55 us"
    ),
}


class Estimate(NamedTuple):
    """A fitted number, its 95 % interval, and how much of it came from the rows rather than from
    the prior (0 to 1).
    """

    name: str
    value: float
    low: float
    high: float
    from_rows: float
    rows: int
    identified: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiencies(Checked):
    """Shares of a GPU's peak rates, and times that no rate explains. The defaults are the priors."""

    compute: float = option(
        0.6, "share of peak FLOP/s in matrix products and attention", low=0.001, high=1.0
    )
    weights: float = option(
        0.8, "share of memory bandwidth while weights are read", low=0.001, high=1.0
    )
    kv: float = option(
        0.75, "share of memory bandwidth while keys and values are read", low=0.001, high=1.0
    )
    link: float = option(0.65, "share of link bandwidth in an all-reduce", low=0.001, high=1.0)
    allreduce_us: float = option(
        25.0, "microseconds of one all-reduce, apart from its bytes", low=0.0, high=1e5
    )
    layer_us: float = option(
        34.0, "microseconds of each layer in each step: launches, norms", low=0.0, high=1e5
    )
    step_ms: float = option(1.0, "milliseconds of each step: scheduler, sampler", low=0.0, high=1e5)
    sequence_us: float = option(
        20.0, "microseconds of each sequence in each decode step", low=0.0, high=1e6
    )
    overlap: float = option(
        2.0,
        "how memory and compute overlap: 1 one after the other, inf the longer hides the other; 2 fits profiled layers",
        low=1.0,
        high=math.inf,
    )
    estimates: tuple[Estimate, ...] = option((), "what was fitted, with intervals", items=tuple)
    rows: int = option(0, "measured rows that were fitted", low=0, high=2**31)
    left_out: tuple[str, ...] = option((), "rows that could not be fitted, and why", items=str)

    @classmethod
    def ideal(cls) -> Efficiencies:
        """Return the ideal roofline: peak rates, full overlap, no overhead."""
        none = {"allreduce_us": 0.0, "layer_us": 0.0, "step_ms": 0.0, "sequence_us": 0.0}
        return cls(compute=1.0, weights=1.0, kv=1.0, link=1.0, overlap=math.inf, **none)

    def table(self) -> pd.DataFrame:
        """Return all eight, one row each: value, interval, how much came from the rows, and which
        rows can tell it.
        """
        import pandas as pd

        fitted = {estimate.name: estimate for estimate in self.estimates}
        unfitted = "not fitted; prior: {}"
        rows = [
            fitted.get(name)
            or Estimate(
                name, getattr(self, name), math.nan, math.nan, 0.0, 0, unfitted.format(prior.source)
            )
            for name, prior in PRIORS.items()
        ]
        return pd.DataFrame(rows).set_index("name")
