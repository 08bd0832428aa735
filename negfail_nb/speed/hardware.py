"""GPUs and their peak rates: ``hardware.toml``, each with its source."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from negfail_nb.settings import Checked, option

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware(Checked):
    """One GPU."""

    name: str = option("gpu", "name, as tables and figures show it")
    bf16_tflops: float = option(989.0, "dense 16-bit TFLOP/s", low=1e-6, high=1e6)
    fp8_tflops: float = option(
        0.0, "dense 8-bit TFLOP/s; 0: no such units, 8-bit weights compute in 16", low=0, high=1e6
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
    source: str = option("", "where the rates are from")

    @property
    def room_bytes(self) -> float:
        """Bytes for weights, keys and values on one GPU."""
        return (self.memory_gib * self.usable - self.reserve_gib) * 2**30

    def flops(self, weight_bytes: float) -> float:
        """Peak FLOP/s of matrix products, by the bytes per weight."""
        eight_bits = weight_bytes == 1 and self.fp8_tflops
        return 1e12 * (self.fp8_tflops if eight_bits else self.bf16_tflops)


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
    if _plain(name) not in names:
        raise ValueError(
            f"no GPU {name!r} in the table; it has {', '.join(known)}; for another one give "
            "Hardware(name=.., bf16_tflops=.., memory_gbs=.., memory_gib=.., link_gbs=..)"
        )
    return known[names[_plain(name)]]


def hardware_table() -> pd.DataFrame:
    """Return all GPUs, one row each, with the source of their rates."""
    import pandas as pd

    return pd.DataFrame([asdict(gpu) for gpu in _read()[0].values()]).set_index("name")
