"""Which type of number this machine computes with fastest: measured, not assumed."""

from __future__ import annotations

import logging
import time
from functools import cache

from negfail_nb.training.model import device

log = logging.getLogger("negfail_nb")

AUTO = "auto"
# float16 is not among them: its small gradients vanish without scaling of the loss.
TYPES = ("float32", "bfloat16")
SHAPE = (512, 768, 2048)  # tokens, width in and out: about a layer of a small model
SECONDS = 0.15  # that each type is measured
FASTER = 1.2  # times that bfloat16 must be faster: it rounds to three digits


def resolve_dtype(name: str) -> str:
    """Return ``name``, or for ``"auto"`` bfloat16 if this machine is faster in it, else float32.

    It takes under a second, once in a process. A processor without arithmetic in bfloat16 emulates
    it, slower than float32.
    """
    return _fastest() if name == AUTO else name


def multiply_rates(types: tuple[str, ...] = TYPES) -> dict[str, float]:
    """Return how fast this machine multiplies matrices of each type, 10^9 operations a second."""
    return {name: _rate(name) for name in types}


@cache
def _fastest() -> str:
    rates = multiply_rates()
    faster = rates["bfloat16"] > FASTER * rates["float32"]
    chosen = "bfloat16" if faster else "float32"
    said = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    log.info("train.dtype is auto: %s, for this machine reaches (GFLOP/s) %s", chosen, said)
    return chosen


def _rate(name: str) -> float:
    import torch

    rows, inner, columns = SHAPE
    kind = {"dtype": getattr(torch, name), "device": device()}
    left = torch.ones(rows, inner, **kind)
    right = torch.ones(inner, columns, **kind)
    (left @ right).sum().item()  # the first call also prepares
    count = 0
    begin = time.perf_counter()
    while (seconds := time.perf_counter() - begin) < SECONDS:
        (left @ right).sum().item()  # waits for the device
        count += 1
    return 2e-9 * rows * inner * columns * count / seconds
