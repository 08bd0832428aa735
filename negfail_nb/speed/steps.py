"""What one step of an engine takes: a prefill, or one decoded token of every sequence.

A step takes the time to read weights, keys and values, joined with
the time to compute (`Efficiencies.overlap`), plus all-reduces and overheads:

    (((weights + kv) ** p + compute ** p) ** (1 / p)) + all-reduce + layers + step + sequences
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from negfail_nb.speed.architecture import Architecture
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import Hardware
from negfail_nb.speed.workload import BYTES, Workload

__all__ = ["Step", "decode_step", "prefill_step", "step_seconds"]


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one step or of several alike, on all GPUs together."""

    tokens: float
    sequences: float
    matrix_flops: float
    attention_flops: float
    kv_bytes: float
    steps: int = 1


def prefill_step(
    architecture: Architecture, workload: Workload, batch: int, tokens: int, cached: int
) -> Step:
    """Return the work of the prefill of so many prompts, of whose tokens some are in the prefix
    cache.
    """
    new, chunk = tokens - cached, workload.chunk_tokens or math.inf
    pieces = math.ceil(new / chunk) if new > chunk else 1
    # Every piece reads the keys and values of what came before it in its prompt.
    read = pieces * cached + (chunk * pieces * (pieces - 1) / 2 if pieces > 1 else 0)
    return Step(
        tokens=batch * new,
        sequences=0,
        matrix_flops=architecture.matrix_flops(batch * new, batch),
        attention_flops=batch * architecture.attention_flops(tokens, cached),
        kv_bytes=batch * read * architecture.kv_bytes(BYTES[workload.kv]),
        steps=max(1, math.ceil(batch * new / chunk)),
    )


def decode_step(architecture: Architecture, workload: Workload, batch: int, context: float) -> Step:
    """Return the work of one more token for each of so many sequences of some context."""
    return Step(
        tokens=batch,
        sequences=batch,
        matrix_flops=architecture.matrix_flops(batch, batch),
        attention_flops=batch * architecture.attention_flops(context, context - 1),
        kv_bytes=batch * context * architecture.kv_bytes(BYTES[workload.kv]),
    )


def step_seconds(
    step: Step,
    architecture: Architecture,
    hardware: Hardware,
    workload: Workload,
    efficiencies: Efficiencies,
) -> tuple[float, dict[str, float]]:
    """Return the seconds of a step, and of each of its terms; terms of memory and compute overlap
    in the sum.
    """
    gpus, each = workload.tensor_parallel, BYTES[workload.weights]
    bandwidth, peak = hardware.memory_gbs * 1e9 * gpus, hardware.flops(2) * gpus
    copies = max(1.0, gpus / architecture.kv_heads)
    # Attention computes in 16 bits whatever the weights have.
    compute = step.matrix_flops / (hardware.flops(each) * gpus) + step.attention_flops / peak
    reduces = 2 * architecture.layers if gpus > 1 else 0
    moved = reduces * 2 * (gpus - 1) / gpus * step.tokens * architecture.hidden * 2
    terms = {
        "compute": compute / efficiencies.compute,
        "weights": step.steps * architecture.read_bytes(each) / bandwidth / efficiencies.weights,
        "kv": step.kv_bytes * copies / bandwidth / efficiencies.kv,
        "link": moved / (hardware.link_gbs * 1e9 * efficiencies.link)
        + step.steps * reduces * efficiencies.allreduce_us * 1e-6,
        "layers": step.steps * architecture.layers * efficiencies.layer_us * 1e-6,
        "step": step.steps * efficiencies.step_ms * 1e-3,
        "sequences": step.sequences * efficiencies.sequence_us * 1e-6,
    }
    core = _overlapped(terms["weights"] + terms["kv"], terms["compute"], efficiencies.overlap)
    return core + sum(terms[name] for name in ("link", "layers", "step", "sequences")), terms


def _overlapped(memory: float, compute: float, power: float) -> float:
    longest = max(memory, compute)
    if math.isinf(power) or not longest:
        return longest
    return longest * ((memory / longest) ** power + (compute / longest) ** power) ** (1 / power)
