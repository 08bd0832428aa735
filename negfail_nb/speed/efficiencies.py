"""What an engine reaches of a GPU's peak rates: eleven numbers, and what is known of them before
any fit.

A prior says where a number's default comes from, and how far it may be off (standard deviation of
its logarithm). It stays where measured rows say nothing: rows at one tensor-parallel degree, for
example, cannot tell an all-reduce from a step. Those called a guess were moved within their ranges
with published rows of servers in view, a 70B among them: none was fitted to these rows, but what
the defaults say of them is no blind prediction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from negfail_nb.settings import Checked, option

if TYPE_CHECKING:
    import pandas as pd


SHARES = ("compute", "narrow", "weights", "kv", "link")  # at most 1


class Prior(NamedTuple):
    """How far a number may be off, which rows can tell it, and where its default is from."""

    spread: float
    told_by: str
    source: str


_VIDUR = "profiled layers of Llama-3-8B, A100 (Vidur)"
_LARGE = "profiled all-reduce of 64 MB, A100 and H100 (Vidur)"
_SMALL = "profiled small all-reduces, 7 to 60 us (Vidur)"
_RATES = "published prefill rates lie between 0.5 and 0.7 of the peak"
_NARROW = "8-bit products of NVIDIA's libraries reach 0.45 to 0.55 of the peak, 16-bit ones 0.6"
_HALF = "between the weights' share and a half"
_LONG = "decode rows of long contexts at large batches"
_SHORT = "decode rows of short contexts at several batch sizes"
PRIORS = {
    "compute": Prior(0.3, "TTFT rows", _RATES),
    "narrow": Prior(0.2, "TTFT rows of 8 and 4 bits", _NARROW),
    "weights": Prior(0.1, "decode rows at batch 1 and several GPU counts", _VIDUR),
    "kv": Prior(0.4, _LONG, _HALF),
    "link": Prior(0.2, "TTFT rows at several GPU counts", _LARGE),
    "allreduce_us": Prior(0.5, "decode rows at several GPU counts", _SMALL),
    "layer_us": Prior(0.2, "decode rows of models of several depths", _VIDUR),
    "step_ms": Prior(1.0, "decode rows at batch 1", "a guess: schedulers take 0.2 to 3 ms"),
    "sequence_us": Prior(1.0, _SHORT, "a guess: 7 to 55 us"),
    "request_ms": Prior(1.0, "TTFT of closed loops of short prompts", "a guess: 7 to 55 ms"),
    "stream_us": Prior(1.0, "closed loops of over 100", "servers stream 10,000 to 40,000 tokens/s"),
}


class Spread(NamedTuple):
    """How far off predictions of a kind of speed are: half the 95 % band, of the logarithm."""

    kind: str  # ttft, tpot or throughput
    half: float
    sources: int
    rows: int
    vendors: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.kind}: x / {math.exp(self.half):.2f} on unseen rows, from {self.rows} rows of "
            f"{self.sources} source{'s' if self.sources > 1 else ''} ({', '.join(self.vendors)})"
        )


class Many(NamedTuple):
    """The numbers of many `Efficiencies`, as arrays: what the formulas take in their place."""

    compute: Any
    narrow: Any
    weights: Any
    kv: Any
    link: Any
    allreduce_us: Any
    layer_us: Any
    step_ms: Any
    sequence_us: Any
    request_ms: Any
    stream_us: Any
    overlap: float

    def at(self, which: Any) -> Many:
        """Return those of some places."""
        return Many(*(column[which] for column in self[:-1]), self.overlap)


class Estimate(NamedTuple):
    """A fitted number with its 95 % interval; ``from_rows`` is how much of it came from the rows
    instead of the prior (0 to 1).
    """

    name: str
    value: float
    low: float
    high: float
    from_rows: float
    rows: int
    identified: str


def _share(default: float, help: str) -> float:
    return option(default, help, low=0.001, high=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiencies(Checked):
    """Shares of a GPU's peak rates, and times that no rate explains; defaults are the priors."""

    compute: float = _share(0.6, "share of peak FLOP/s in matrix products and attention")
    narrow: float = _share(0.85, "of that share, for each halving of the 16 bits of a product")
    weights: float = _share(0.82, "share of memory bandwidth while weights are read")
    kv: float = _share(0.75, "share of memory bandwidth while keys and values are read")
    link: float = _share(0.65, "share of link bandwidth in an all-reduce")
    allreduce_us: float = option(20.0, "per all-reduce, apart from its bytes", low=0.0, high=1e5)
    layer_us: float = option(36.0, "per layer and step: launches, norms", low=0.0, high=1e5)
    step_ms: float = option(0.5, "per step: scheduler, sampler", low=0.0, high=1e5)
    sequence_us: float = option(10.0, "per sequence and decode step", low=0.0, high=1e6)
    request_ms: float = option(
        20.0, "of a server under load, per request: intake, one after another", low=0.0, high=1e5
    )
    stream_us: float = option(
        50.0, "of a server under load, per token sent, one after another", low=0.0, high=1e6
    )
    overlap: float = option(
        2.0,
        "overlap of memory and compute: 1 none, inf full; 2 fits profiled layers",
        low=1.0,
        high=math.inf,
    )
    estimates: tuple[Estimate, ...] = option((), "what was fitted, with intervals", items=tuple)
    spreads: tuple[Spread, ...] = option((), "how far unseen rows are off, by kind", items=tuple)
    engines: tuple[tuple[str, Any], ...] = option(
        (), "of several engines that were fitted together: each one's own numbers", items=tuple
    )
    rows: int = option(0, "measured rows that were fitted", low=0, high=2**31)
    left_out: tuple[str, ...] = option((), "rows that could not be fitted, and why", items=str)

    @classmethod
    def ideal(cls) -> Efficiencies:
        """Return the ideal roofline: peak rates, full overlap, no overhead."""
        none = {name: 0.0 for name in PRIORS if name not in SHARES}
        return cls(**dict.fromkeys(SHARES, 1.0), **none, overlap=math.inf)

    def drawn(self, count: int, seed: int = 0) -> Many:
        """Return these numbers and ``count`` draws of them: log-normal, within their intervals or,
        if not fitted, their priors.
        """
        import numpy as np

        spreads = {name: prior.spread for name, prior in PRIORS.items()}
        for e in self.estimates:
            if 0 < e.low < e.value:
                spreads[e.name] = math.log(e.value / e.low) / 1.96
        draws = np.random.default_rng(seed).standard_normal((count, len(PRIORS)))
        draws = np.vstack([np.zeros(len(PRIORS)), draws])
        values = {
            name: getattr(self, name) * np.exp(spreads[name] * column)
            for (name, column) in zip(PRIORS, draws.T, strict=True)
        }
        values |= {name: np.minimum(values[name], 1.0) for name in SHARES}
        return Many(**values, overlap=self.overlap)

    def of(self, engine: str) -> Efficiencies:
        """Return the numbers of an engine that was among those fitted; of another, these."""
        return dict(self.engines).get(engine, self)

    def table(self) -> pd.DataFrame:
        """Return all numbers, one row each, with intervals and what they come from."""
        import pandas as pd

        rows = {
            name: Estimate(
                name,
                getattr(self, name),
                math.nan,
                math.nan,
                0.0,
                0,
                f"not fitted; prior: {prior.source}",
            )
            for name, prior in PRIORS.items()
        }
        rows |= {estimate.name: estimate for estimate in self.estimates}
        return pd.DataFrame(rows.values()).set_index("name")
