"""GPUs and their peak rates: ``hardware.toml``, each with its source."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from negfail_nb.settings import Checked, option

if TYPE_CHECKING:
    import pandas as pd


class Format(NamedTuple):
    """A precision: bytes of one weight with its scales, and bits in which its products compute."""

    bytes: float
    bits: int


# int8 and int4 are formats of weights only, as of AWQ, GPTQ and MLX: products compute in 16 bits.
FORMATS = {
    "bf16": Format(2.0, 16),
    "fp16": Format(2.0, 16),
    "fp32": Format(4.0, 16),
    "fp8": Format(1.0, 8),
    "int8": Format(1.0, 16),
    "fp4": Format(0.5625, 4),  # as NVIDIA has it: a scale of 8 bits for 16 weights
    "nvfp4": Format(0.5625, 4),
    "mxfp4": Format(0.53125, 4),  # a scale of 8 bits for 32
    "int4": Format(0.53125, 16),  # scale and zero of AWQ: 20 bits for 128, and some layers wider
}


class Unknown(ValueError):
    """A GPU, model or format that no table has."""


def closest(name: str, known: Iterable[str]) -> str:
    """Return words that offer the nearest of the known names, or none."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}? " if near else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware(Checked):
    """One GPU."""

    name: str = option("gpu", "name, as tables and figures show it")
    bf16_tflops: float = option(989.0, "dense 16-bit TFLOP/s", low=1e-6, high=1e6)
    fp8_tflops: float = option(
        0.0, "dense 8-bit TFLOP/s; 0: no such units, 8-bit weights compute in 16", low=0, high=1e6
    )
    fp4_tflops: float = option(
        0.0, "dense 4-bit TFLOP/s; 0: no such units, 4-bit weights compute in 16", low=0, high=1e6
    )
    memory_gbs: float = option(3350.0, "memory bandwidth, GB/s", low=1e-6, high=1e6)
    memory_gib: float = option(80.0, "memory, GiB", low=0.001, high=1e5)
    link_gbs: float = option(
        450.0, "bandwidth to other GPUs, GB/s in one direction", low=1e-6, high=1e6
    )
    usable: float = option(
        0.9, "share of the memory that an engine takes (vLLM's own default)", low=0.01, high=1.0
    )
    reserve_gib: float = option(
        1.5, "of it, GiB for activations, the CUDA context and communication", low=0.0, high=1000.0
    )
    reach: float = option(
        1.0, "share of the peak that tuned products reach, over that of an H100", low=0.01, high=2.0
    )
    vendor: str = option("nvidia", "who makes it: engines differ more between vendors")
    source: str = option("", "where the rates are from")

    @property
    def room_bytes(self) -> float:
        """Bytes for weights, keys and values on one GPU."""
        return (self.memory_gib * self.usable - self.reserve_gib) * 2**30

    def flops(self, weight_bytes: float) -> float:
        """Peak FLOP/s of matrix products, by the bytes per weight."""
        return self.matrix_rate("fp8" if weight_bytes == 1 else "bf16")[0]

    def matrix_rate(self, weights: str) -> tuple[float, int]:
        """Return the peak FLOP/s of products with weights of a format, and how often their 16 bits
        are halved.
        """
        units = {8: (self.fp8_tflops, 1), 4: (self.fp4_tflops, 2)}
        rate, halvings = units.get(FORMATS[weights].bits, (0.0, 0))
        return (1e12 * rate, halvings) if rate else (1e12 * self.bf16_tflops, 0)


@cache
def _read() -> tuple[dict[str, Hardware], dict[str, str]]:
    """Return all GPUs by name, and their names by plain alias."""
    text = files("negfail_nb.speed").joinpath("hardware.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)
    names = {
        _plain(alias): name for name, row in rows.items() for alias in [name, *row.pop("aliases")]
    }
    return {name: Hardware(name=name, **row) for name, row in rows.items()}, names


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("nvidia").removeprefix("amd"))


def get_hardware(name: str | Hardware) -> Hardware:
    """Return a GPU by name: ``h100``, or as data sheets and ``nvidia-smi`` write it. A `Hardware`
    is returned as it is.

    Raises
    ------
    ValueError
        For a GPU that is not in the table; the text lists those that are.
    """
    if isinstance(name, Hardware):
        return name
    known, names = _read()
    plain = _plain(name)
    if plain not in names:
        raise Unknown(
            f"no GPU {name!r} in the table; {closest(plain, names)}it has {', '.join(known)}; for "
            "another one give "
            "Hardware(name=.., bf16_tflops=.., memory_gbs=.., memory_gib=.., link_gbs=..)"
        )
    return known[names[plain]]


def hardware_table() -> pd.DataFrame:
    """Return all GPUs, one row each, with the source of their rates."""
    import pandas as pd

    return pd.DataFrame([asdict(gpu) for gpu in _read()[0].values()]).set_index("name")
