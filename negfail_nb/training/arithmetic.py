"""Which type of number this machine computes with fastest: measured once, not assumed."""

from __future__ import annotations

import json
import logging
import platform
import time
from functools import cache
from pathlib import Path

from negfail_nb.content import fingerprint, write_json
from negfail_nb.models import cache_folder
from negfail_nb.training.model import device

log = logging.getLogger("negfail_nb")

AUTO = "auto"
# float16 is not among them: its small gradients vanish without scaling of the loss.
TYPES = ("float32", "bfloat16")
SHAPE = (512, 768, 2048)  # tokens, width in and out: about a layer of a small model
ROUNDS = 5  # in turns; the best counts, as other programs only make it slower
SECONDS = 0.05  # of each type in each round
FASTER = 1.2  # times that bfloat16 must be faster: it rounds to three digits


def resolve_dtype(name: str) -> str:
    """Return ``name``, or for ``"auto"`` bfloat16 if this machine is faster in it, else float32.

    It is measured in under a second, once for a machine and a version of torch, and kept in the
    user's cache: a busy moment must not make a machine choose otherwise, for what was trained in
    one type is not found in the other. A processor without arithmetic in bfloat16 emulates it,
    slower than float32.
    """
    return _chosen() if name == AUTO else name


def multiply_rates(types: tuple[str, ...] = TYPES) -> dict[str, float]:
    """Return how fast this machine multiplies matrices of each type, 10^9 operations a second."""
    rounds = [{name: _rate(name) for name in types} for _ in range(ROUNDS)]
    return {name: max(one[name] for one in rounds) for name in types}


@cache
def _chosen() -> str:
    path = cache_folder() / f"arithmetic-{_machine()}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        kept = ""
    return kept if kept in TYPES else _measure(path)


def _measure(path: Path) -> str:
    rates = multiply_rates()
    faster = rates["bfloat16"] > FASTER * rates["float32"]
    chosen = "bfloat16" if faster else "float32"
    said = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    log.info("train.dtype is auto: %s, for this machine reaches (GFLOP/s) %s", chosen, said)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"dtype": chosen, "gflops": rates})
    except OSError as error:
        log.warning("%s cannot be written (%s): the type is measured again each time", path, error)
    return chosen


def _machine() -> str:
    """What the choice depends on: processor or accelerator, and the version of torch."""
    import torch

    where = device()
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else _processor()
    return fingerprint([where.type, name, torch.__version__])[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}"


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
