"""The time of one step of an engine: work over rates, for one setting or for arrays of many.

A step prefills some tokens, decodes one more token of some sequences, or does both. With p =
`Efficiencies.overlap`:

    step = ((weights + kv)**p + compute**p)**(1/p) + link + layers + step + sequences

Each term is work (FLOPs, bytes or counts, of `Architecture`) over a peak rate (of `Hardware`) times
the share of it that an engine reaches (`Efficiencies`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from negfail_nb.speed.architecture import Architecture
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import FORMATS, Hardware

SWITCHED = 100.0  # GB/s of a link, from which on GPUs reach each other directly, not over a bus
Numbers = Any  # a float, or an array of them: one per setting


class Served(NamedTuple):
    """What the time of a step depends on; all GPUs that share a layer together."""

    layers: Numbers
    token_flops: Numbers  # of the layers' matrices, one token
    logit_flops: Numbers  # of the LM head, one token
    attention_flops: Numbers  # per squared token of context
    weight_bytes: Numbers  # that one step reads
    kv_bytes: Numbers  # of one token
    matrix_rate: Numbers  # FLOP/s of the weights' format
    attention_rate: Numbers  # FLOP/s in 16 bits
    reach: Numbers  # of what the same engine reaches of the peak on an H100
    halvings: Numbers  # of the width of a matrix product: 0 in 16 bits, 1 in 8, 2 in 4
    bandwidth: Numbers
    reduces: Numbers  # all-reduces of a step
    turns: Numbers  # of one: 1 through a switch, else as many as there are other GPUs, in a ring
    reduced_bytes: Numbers  # that each GPU moves per token in all of them
    link_rate: Numbers
    hops: Numbers  # from one stage of a pipeline to the next, of a step
    hop_bytes: Numbers  # per token and hop


class Work(NamedTuple):
    """What a step does; ``attended`` are squared tokens of context, ``read`` tokens whose keys and
    values are read, ``sequences`` those that get one more token.
    """

    tokens: Numbers = 0.0
    logits: Numbers = 0.0
    attended: Numbers = 0.0
    read: Numbers = 0.0
    sequences: Numbers = 0.0
    steps: Numbers = 1.0

    def __add__(self, other: Any) -> Work:  # a step that does both, once
        summed = [a + b for a, b in zip(self, other, strict=True)]
        return Work(*summed[:-1], np.maximum(self.steps, other.steps))


def served(
    model: Architecture, gpu: Hardware, weights: str, kv: str, tensor: int, stages: int
) -> Served:
    """Return the rates and sizes of a model on GPUs: ``tensor`` share each layer, and ``stages``
    of them follow one another.
    """
    form = FORMATS[weights]
    flops, halvings = gpu.matrix_rate(weights)
    # More GPUs than heads of keys and values hold copies of these.
    copies = max(1.0, tensor / model.kv_heads)
    reduces = 2 * model.layers if tensor > 1 else 0
    return Served(
        layers=float(model.layers),
        token_flops=2.0 * model.layers * model.layer_parameters,
        logit_flops=2.0 * model.head_parameters,
        attention_flops=2.0 * model.layers * model.heads * model.head_dim,
        weight_bytes=float(model.read_bytes(form.bytes)),
        kv_bytes=model.kv_bytes(FORMATS[kv].bytes) * copies,
        matrix_rate=flops * tensor,
        attention_rate=gpu.matrix_rate("bf16")[0] * tensor,
        reach=gpu.reach,
        halvings=float(halvings),
        bandwidth=gpu.memory_gbs * 1e9 * tensor,
        reduces=float(reduces),
        turns=1.0 if gpu.link_gbs >= SWITCHED else tensor - 1.0,
        reduced_bytes=reduces * 2.0 * (tensor - 1) / tensor * model.hidden * 2,
        link_rate=gpu.link_gbs * 1e9,
        hops=stages - 1.0,
        hop_bytes=model.hidden * 2.0,
    )


def stacked(many: Sequence[Any]) -> Any:
    """Return named tuples of numbers as one of arrays."""
    return type(many[0])(*(np.array(column, dtype=float) for column in zip(*many, strict=True)))


def step_terms(on: Served, work: Work, reached: Efficiencies) -> dict[str, Numbers]:
    """Return the seconds of each term of ``work``; memory and compute overlap in part."""
    compute = (on.token_flops * work.tokens + on.logit_flops * work.logits) / on.matrix_rate
    compute = compute / reached.narrow**on.halvings
    compute = compute + on.attention_flops * work.attended / on.attention_rate
    moved = on.reduced_bytes * work.tokens + on.hops * on.hop_bytes * work.tokens
    latencies = work.steps * (on.reduces * on.turns + on.hops) * reached.allreduce_us * 1e-6
    return {
        "compute": compute / (reached.compute * on.reach),
        "weights": work.steps * on.weight_bytes / on.bandwidth / reached.weights,
        "kv": work.read * on.kv_bytes / on.bandwidth / reached.kv,
        "link": moved / (on.link_rate * reached.link) + latencies,
        "layers": work.steps * on.layers * reached.layer_us * 1e-6,
        "step": work.steps * (1 + on.hops) * reached.step_ms * 1e-3,  # in every stage
        "sequences": work.sequences * reached.sequence_us * 1e-6,
    }


def step_seconds(on: Served, work: Work, reached: Efficiencies) -> Numbers:
    """Return the seconds of ``work``."""
    terms = step_terms(on, work, reached)
    core = overlapped(terms["weights"] + terms["kv"], terms["compute"], reached.overlap)
    return core + terms["link"] + terms["layers"] + terms["step"] + terms["sequences"]


def overlapped(one: Numbers, other: Numbers, power: float) -> Numbers:
    """Return the time of two kinds of work that overlap: ``power`` 1 not at all, infinite fully."""
    longest = np.maximum(one, other)
    shortest = np.minimum(one, other)
    if np.isinf(power):
        return longest
    ratio = shortest / np.where(longest > 0, longest, 1.0)
    return longest * (1 + ratio**power) ** (1 / power)
