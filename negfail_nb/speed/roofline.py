"""The throughput formula: seconds, tokens per second and memory of a Llama on some GPUs.

A step is one prefill, or one decoded token of every sequence. With p = `Efficiencies.overlap`:

    step       = ((weights + kv)**p + compute**p)**(1/p) + link + layers + step + sequences
    call       = prefill step + (output tokens - 1) decode steps
    throughput = sequences x tokens of all calls / seconds of all calls

Each term is work (FLOPs, bytes or counts, of `Architecture`) over a peak rate (of `Hardware`) times
the share of it that an engine reaches (`Efficiencies`): `step_seconds`.

Covered: one node with tensor parallelism, prefix-cache hits, chunked prefill, dependent calls,
static or continuous batching. Not covered: pipeline and context parallelism, several nodes,
speculative decoding, preemption, queueing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from negfail_nb.settings import Checked, option
from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import Hardware, get_hardware

BYTES = {"bf16": 2.0, "fp16": 2.0, "fp32": 4.0, "fp8": 1.0, "int4": 0.5}
_MOST = 2**31 - 1


class DoesNotFit(ValueError):
    """The context exceeds the model's window, or weights, keys and values exceed the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(Checked):
    """One kind of request, and how the engine serves it.

    A pipeline of dependent calls (retrieve, read, retrieve again) is ``calls=3, added_tokens=..``:
    each call starts when the one before has ended, with a prompt longer by ``added_tokens``.
    """

    input_tokens: int = option(4096, "tokens of the prompt", low=1, high=_MOST)
    output_tokens: int = option(128, "tokens of the answer", low=1, high=_MOST)
    batch: int = option(1, "sequences at once; 0: as many as fit into memory", low=0, high=10**6)
    tensor_parallel: int = option(1, "GPUs that share each layer", low=1, high=1024)
    weights: str = option("bf16", "precision of the weights", choices=tuple(BYTES))
    kv: str = option("bf16", "precision of keys and values", choices=tuple(BYTES))
    chunk_tokens: int = option(0, "prompt tokens per step; 0: no chunks", low=0, high=_MOST)
    cached_tokens: int = option(0, "prompt tokens in the prefix cache", low=0, high=_MOST)
    calls: int = option(1, "calls, each waiting for the one before", low=1, high=10_000)
    added_tokens: int = option(0, "tokens that each further call adds", low=0, high=_MOST)
    reuse_prefix: bool = option(True, "further calls find the prompt before in the prefix cache")
    batching: str = option(
        "static",
        "static: all start together; continuous: one joins whenever one leaves",
        choices=("static", "continuous"),
    )
    max_batch: int = option(
        1024, "sequences at once that the engine allows, if batch is 0", low=1, high=10**6
    )

    def __post_init__(self) -> None:
        Checked.__post_init__(self)  # not `super()`: slots make the class anew
        if self.cached_tokens >= self.input_tokens:
            raise ValueError(
                f"Workload.cached_tokens is {self.cached_tokens} of {self.input_tokens} "
                "input_tokens; the last token of a prompt is always computed, so use fewer"
            )

    def prompts(self) -> list[tuple[int, int]]:
        """Return the prompt of each call as (tokens, of them cached)."""
        lengths = [self.input_tokens + call * self.added_tokens for call in range(self.calls)]
        before = [0, *(lengths[:-1] if self.reuse_prefix else [0] * (self.calls - 1))]
        return [
            (length, min(max(self.cached_tokens, cached), length - 1))
            for length, cached in zip(lengths, before, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a workload, in seconds."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    prefill_seconds: float
    decode_seconds: float  # of one step, at the mean context of the answer
    ttft_seconds: float
    tpot_seconds: float
    e2e_seconds: float
    prefill_terms: Mapping[str, float]  # of a step; they overlap in part
    decode_terms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What `predict` returns. Times are seconds from the first call's start."""

    architecture: Architecture
    hardware: Hardware
    workload: Workload
    batch: int  # sequences at once; at saturation, as many as fit
    capacity: int  # sequences of full length that fit into memory
    kv_bytes: float  # keys and values of one sequence at its full length, on all GPUs
    calls: tuple[Call, ...]
    prefill_seconds: float  # of all calls
    decode_seconds: float  # one step, in the last call
    ttft_seconds: float  # to the first token of the last call's answer
    tpot_seconds: float  # per token after the first, in the last call
    e2e_seconds: float  # to the last token
    output_tokens_per_second: float  # answer tokens of all sequences together
    input_tokens_per_second: float  # prompt tokens of all, those from the cache included
    requests_per_second: float  # whole questions, all their calls included


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
        If the context exceeds the model's window or the memory of the GPUs.
    ValueError
        For an unknown name, or a number of GPUs that does not divide the heads.
    """
    setting = _Setting(
        get_architecture(architecture), get_hardware(hardware), workload, efficiencies
    )
    capacity, kv_bytes = _capacity(setting)
    if workload.batch == 0:
        setting = setting._replace(workload=replace(workload, batching="continuous"))
    batch = workload.batch or min(capacity, workload.max_batch)
    calls = tuple(_call(setting, batch, *prompt) for prompt in workload.prompts())
    last = calls[-1]
    seconds = sum(call.e2e_seconds for call in calls)
    return Prediction(
        architecture=setting.architecture,
        hardware=setting.hardware,
        workload=setting.workload,
        batch=batch,
        capacity=capacity,
        kv_bytes=kv_bytes,
        calls=calls,
        prefill_seconds=sum(call.prefill_seconds for call in calls),
        decode_seconds=last.decode_seconds,
        ttft_seconds=sum(call.e2e_seconds for call in calls[:-1]) + last.ttft_seconds,
        tpot_seconds=last.tpot_seconds,
        e2e_seconds=seconds,
        output_tokens_per_second=batch * sum(call.output_tokens for call in calls) / seconds,
        input_tokens_per_second=batch * sum(call.input_tokens for call in calls) / seconds,
        requests_per_second=batch / seconds,
    )


class _Setting(NamedTuple):
    architecture: Architecture
    hardware: Hardware
    workload: Workload
    efficiencies: Efficiencies

    @property
    def kv_bytes(self) -> float:
        """Of one token on all GPUs. If these are more than the heads, each head lies on several."""
        copies = max(1.0, self.workload.tensor_parallel / self.architecture.kv_heads)
        return self.architecture.kv_bytes(BYTES[self.workload.kv]) * copies


def _capacity(setting: _Setting) -> tuple[int, float]:
    """Return how many sequences fit, and the bytes of one at its full length."""
    model, hardware, workload, _ = setting
    gpus = workload.tensor_parallel
    longest = workload.prompts()[-1][0] + workload.output_tokens
    if model.heads % gpus:
        raise ValueError(
            f"Workload.tensor_parallel is {gpus}, but {model.name} has {model.heads} heads; "
            "use a divisor"
        )
    if longest > model.window:
        raise DoesNotFit(
            f"{longest} tokens of context, but {model.name} reads {model.window}; shorten the "
            "workload, or take a model with a longer window (llama-3 reads 8192 tokens, "
            "llama-3.1 131072)"
        )
    weights = model.weight_bytes(BYTES[workload.weights])
    room = gpus * hardware.room_bytes
    kv_bytes = longest * setting.kv_bytes
    capacity = max(0, math.floor((room - weights) / kv_bytes))
    wanted = max(1, workload.batch)
    if capacity < wanted:
        raise DoesNotFit(
            f"{model.name} on {gpus} x {hardware.name}: weights take {weights / 2**30:.1f} GiB, "
            f"each sequence of {longest} tokens {kv_bytes / 2**30:.2f} GiB, and "
            f"{room / 2**30:.1f} GiB are usable, so {capacity} of {wanted} sequences fit; "
            "use more GPUs, fp8, shorter contexts, or ask as many at a time as fit (batch 0)"
        )
    return capacity, kv_bytes


def _call(setting: _Setting, batch: int, tokens: int, cached: int) -> Call:
    output = setting.workload.output_tokens
    continuous = setting.workload.batching == "continuous"
    prefill, prefill_terms = _prefill(setting, 1 if continuous else batch, tokens, cached)
    decode, decode_terms = _decode(setting, batch, tokens + output / 2)
    # Continuous: a new sequence waits for half a step, and while it runs each of the others is
    # prefilled once.
    ttft = prefill + (decode / 2 if continuous and batch > 1 else 0.0)
    between = (batch - 1) * prefill if continuous else 0.0
    return Call(
        input_tokens=tokens,
        cached_tokens=cached,
        output_tokens=output,
        prefill_seconds=prefill,
        decode_seconds=decode,
        ttft_seconds=ttft,
        tpot_seconds=decode + between / max(1, output - 1),
        e2e_seconds=ttft + (output - 1) * decode + between,
        prefill_terms=prefill_terms,
        decode_terms=decode_terms,
    )


def _prefill(
    setting: _Setting, batch: int, tokens: int, cached: int
) -> tuple[float, dict[str, float]]:
    """Prefill ``batch`` prompts, ``cached`` tokens of each from the prefix cache."""
    new = tokens - cached
    chunk = setting.workload.chunk_tokens or math.inf
    pieces = math.ceil(new / chunk) if new > chunk else 1
    # Every piece reads the keys and values of what came before it in its prompt.
    read = pieces * cached + (chunk * pieces * (pieces - 1) / 2 if pieces > 1 else 0)
    return step_seconds(
        setting,
        matrix_flops=setting.architecture.matrix_flops(batch * new, batch),
        attention_flops=batch * setting.architecture.attention_flops(tokens, cached),
        kv_read=batch * read,
        tokens=batch * new,
        steps=max(1, math.ceil(batch * new / chunk)),
    )


def _decode(setting: _Setting, batch: int, context: float) -> tuple[float, dict[str, float]]:
    """Decode one more token of each of ``batch`` sequences of some context."""
    return step_seconds(
        setting,
        matrix_flops=setting.architecture.matrix_flops(batch, batch),
        attention_flops=batch * setting.architecture.attention_flops(context, context - 1),
        kv_read=batch * context,
        tokens=batch,
        sequences=batch,
    )


def step_seconds(
    setting: _Setting,
    *,
    matrix_flops: float,
    attention_flops: float,
    kv_read: float,
    tokens: float,
    sequences: float = 0,
    steps: int = 1,
) -> tuple[float, dict[str, float]]:
    """Return the seconds of a step, or of ``steps`` alike, and of each term.

    ``kv_read`` are tokens whose keys and values are read, ``tokens`` those that go through the
    layers, ``sequences`` those that are decoded; everything is that of all GPUs together.
    """
    model, hardware, workload, reached = setting
    gpus = workload.tensor_parallel
    each = BYTES[workload.weights]
    bandwidth = hardware.memory_gbs * 1e9 * gpus
    # Attention computes in 16 bits, whatever the weights have.
    compute = matrix_flops / (hardware.flops(each) * gpus)
    compute += attention_flops / (hardware.flops(2) * gpus)
    reduces = 2 * model.layers if gpus > 1 else 0
    moved = reduces * 2 * (gpus - 1) / gpus * tokens * model.hidden * 2
    terms = {
        "compute": compute / reached.compute,
        "weights": steps * model.read_bytes(each) / bandwidth / reached.weights,
        "kv": kv_read * setting.kv_bytes / bandwidth / reached.kv,
        "link": moved / (hardware.link_gbs * 1e9 * reached.link)
        + steps * reduces * reached.allreduce_us * 1e-6,
        "layers": steps * model.layers * reached.layer_us * 1e-6,
        "step": steps * reached.step_ms * 1e-3,
        "sequences": sequences * reached.sequence_us * 1e-6,
    }
    core = _overlapped(terms["weights"] + terms["kv"], terms["compute"], reached.overlap)
    return core + sum(terms[name] for name in ("link", "layers", "step", "sequences")), terms


def _overlapped(memory: float, compute: float, power: float) -> float:
    longest = max(memory, compute)
    if math.isinf(power) or not longest:
        return longest
    return longest * ((memory / longest) ** power + (compute / longest) ** power) ** (1 / power)
