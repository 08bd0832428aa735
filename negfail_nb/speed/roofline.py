"""The analytic model: seconds, tokens a second and memory of a Llama on some GPUs, from its shapes.

What one step takes is in `negfail_nb.speed.steps`; here are calls, batches and memory.

Covered: one node with tensor parallelism, prefix-cache hits, chunked prefill, dependent calls,
static or continuous batching. Not covered: pipeline and context parallelism, several nodes,
speculative decoding, preemption, queueing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import Hardware, get_hardware
from negfail_nb.speed.steps import decode_step, prefill_step, step_seconds
from negfail_nb.speed.workload import BYTES, Workload

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Call", "DoesNotFit", "Prediction", "predict"]


class DoesNotFit(ValueError):
    """The context is longer than the model's window, or weights, keys and values do not fit into
    memory.
    """


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a workload, in seconds. ``decode_seconds`` is of one step, at the mean context of
    the answer.
    """

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    prefill_seconds: float
    decode_seconds: float
    ttft_seconds: float
    tpot_seconds: float
    e2e_seconds: float
    prefill_terms: Mapping[str, float]
    decode_terms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What `predict` says of a workload. Times are seconds; with several calls they run from the
    first call's start.

    Attributes
    ----------
    batch
        Sequences at a time; at saturation, as many as fit.
    capacity
        Sequences of full length that memory has room for.
    kv_bytes
        Keys and values of one sequence at its full length, on all GPUs.
    weight_bytes
        All weights, on all GPUs.
    """

    architecture: Architecture
    hardware: Hardware
    workload: Workload
    batch: int
    capacity: int
    kv_bytes: float
    weight_bytes: float
    calls: tuple[Call, ...]

    @property
    def prefill_seconds(self) -> float:
        """Prefill of all calls."""
        return sum(call.prefill_seconds for call in self.calls)

    @property
    def decode_seconds(self) -> float:
        """One decode step, in the last call."""
        return self.calls[-1].decode_seconds

    @property
    def ttft_seconds(self) -> float:
        """From the first call's start to the first token of the last call's answer."""
        return sum(call.e2e_seconds for call in self.calls[:-1]) + self.calls[-1].ttft_seconds

    @property
    def tpot_seconds(self) -> float:
        """Seconds a token after the first, in the last call."""
        return self.calls[-1].tpot_seconds

    @property
    def e2e_seconds(self) -> float:
        """From the first call's start to the last token."""
        return sum(call.e2e_seconds for call in self.calls)

    @property
    def output_tokens_per_second(self) -> float:
        """Tokens that all sequences together get in a second."""
        return self.batch * sum(call.output_tokens for call in self.calls) / self.e2e_seconds

    @property
    def input_tokens_per_second(self) -> float:
        """Prompt tokens in a second, those from the cache included."""
        return self.batch * sum(call.input_tokens for call in self.calls) / self.e2e_seconds

    @property
    def bound(self) -> dict[str, str]:
        """What takes longest in prefill and in decode: compute, weights, kv, link, layers, step or
        sequences.
        """
        last = self.calls[-1]
        return {
            "prefill": max(last.prefill_terms, key=last.prefill_terms.__getitem__),
            "decode": max(last.decode_terms, key=last.decode_terms.__getitem__),
        }

    def table(self) -> pd.DataFrame:
        """Return the seconds of each term, one row a call: the prefill, and one decode step. They
        overlap in part.
        """
        import pandas as pd

        rows = {
            (number, phase): {**terms, "total": total}
            for number, call in enumerate(self.calls, start=1)
            for phase, terms, total in (
                ("prefill", call.prefill_terms, call.prefill_seconds),
                ("decode", call.decode_terms, call.decode_seconds),
            )
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["call", "phase"])


def predict(
    architecture: Architecture | str,
    hardware: Hardware | str,
    workload: Workload,
    efficiencies: Efficiencies = Efficiencies(),
) -> Prediction:
    """Predict time, throughput and memory of a workload.

    Parameters
    ----------
    architecture, hardware
        By name (``"llama-3.1-70b"``, ``"h100"``) or as records.
    workload
        What is asked; ``batch=0`` is saturation: continuous batching with as many sequences as fit.
    efficiencies
        What the engine reaches of the peak rates; fit them with
        `negfail_nb.speed.calibration.calibrate`.

    Raises
    ------
    DoesNotFit
        Where the context exceeds the model's window, or the memory of the GPUs.
    ValueError
        For an unknown name, or a number of GPUs that does not divide the heads.
    """
    architecture = get_architecture(architecture) if isinstance(architecture, str) else architecture
    hardware = get_hardware(hardware) if isinstance(hardware, str) else hardware
    capacity, kv_bytes = _capacity(architecture, hardware, workload)
    if workload.batch == 0:
        workload = replace(workload, batching="continuous")
    batch = workload.batch or min(capacity, workload.max_batch)
    calls = tuple(
        _call(architecture, hardware, workload, efficiencies, batch, *prompt)
        for prompt in workload.prompts()
    )
    weights = architecture.weight_bytes(BYTES[workload.weights])
    return Prediction(architecture, hardware, workload, batch, capacity, kv_bytes, weights, calls)


def _capacity(
    architecture: Architecture, hardware: Hardware, workload: Workload
) -> tuple[int, float]:
    """Return how many sequences fit, and the bytes of one at its full length."""
    gpus, longest = workload.tensor_parallel, workload.prompts()[-1][0] + workload.output_tokens
    if architecture.heads % gpus:
        raise ValueError(
            f"Workload.tensor_parallel is {gpus}, but {architecture.name} has {architecture.heads} heads; use a divisor"
        )
    if longest > architecture.window:
        raise DoesNotFit(
            f"{longest} tokens of context, but {architecture.name} reads {architecture.window}; shorten the workload, "
            "or take a model with a longer window (llama-3 reads 8192 tokens, llama-3.1 131072)"
        )
    weights, room = architecture.weight_bytes(BYTES[workload.weights]), gpus * hardware.room_bytes
    # More GPUs than heads of keys and values: each head lies on several.
    copies = max(1.0, gpus / architecture.kv_heads)
    kv_bytes = longest * architecture.kv_bytes(BYTES[workload.kv]) * copies
    capacity = max(0, math.floor((room - weights) / kv_bytes))
    if capacity < max(1, workload.batch):
        raise DoesNotFit(
            f"{architecture.name} on {gpus} x {hardware.name}: weights take {weights / 2**30:.1f} GiB, each sequence "
            f"of {longest} tokens {kv_bytes / 2**30:.2f} GiB, and {room / 2**30:.1f} GiB are usable, so {capacity} of "
            f"{max(1, workload.batch)} sequences fit; use more GPUs, fp8, shorter contexts, or batch=0 for what fits"
        )
    return capacity, kv_bytes


def _call(
    architecture: Architecture,
    hardware: Hardware,
    workload: Workload,
    efficiencies: Efficiencies,
    batch: int,
    tokens: int,
    cached: int,
) -> Call:
    setting = (architecture, hardware, workload, efficiencies)
    output, continuous = workload.output_tokens, workload.batching == "continuous"
    together = 1 if continuous else batch
    prefill, prefill_terms = step_seconds(
        prefill_step(architecture, workload, together, tokens, cached), *setting
    )
    decode, decode_terms = step_seconds(
        decode_step(architecture, workload, batch, tokens + output / 2), *setting
    )
    # While a sequence is here, each of the others is prefilled once; one that arrives waits for
    # half a step.
    ttft = prefill + (decode / 2 if continuous and batch > 1 else 0.0)
    between = (batch - 1) * prefill if continuous else 0.0
    tpot = decode + between / max(1, output - 1)
    e2e = ttft + (output - 1) * decode + between
    return Call(
        tokens, cached, output, prefill, decode, ttft, tpot, e2e, prefill_terms, decode_terms
    )
