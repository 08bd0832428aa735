"""What is asked of a model on GPUs, and how many sequences of it fit into their memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from negfail_nb.settings import Checked, option
from negfail_nb.speed.architecture import Architecture
from negfail_nb.speed.hardware import FORMATS, Hardware, Unknown, closest
from negfail_nb.speed.serving import Asked

_MOST = 2**31 - 1
UNCUT = 1e15  # tokens of a chunk that no prompt fills


class DoesNotFit(ValueError):
    """The context exceeds the model's window, or not one sequence fits into the memory."""


class Overloaded(DoesNotFit):
    """More requests arrive than the server can ever answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(Checked):
    """One kind of request, and how the engine serves it.

    A pipeline of dependent calls (retrieve, read, retrieve again) is ``calls=3, added_tokens=..``:
    each call starts when the one before has ended, with a prompt longer by ``added_tokens``.
    """

    input_tokens: int = option(4096, "tokens of the prompt", low=1, high=_MOST)
    output_tokens: int = option(128, "tokens of the answer", low=1, high=_MOST)
    batch: int = option(1, "sequences at once; 0: as many as fit into memory", low=0, high=10**6)
    rate: float = option(0.0, "requests per second of an open loop; 0: none", low=0.0, high=1e6)
    requests: int = option(
        0, "of the whole run, from an empty engine; 0: it never begins or ends", low=0, high=_MOST
    )
    queued: bool = option(False, "through a server's intake and streaming, not the engine alone")
    tensor_parallel: int = option(1, "GPUs that share each layer", low=1, high=1024)
    pipeline_parallel: int = option(1, "stages of layers, one after another", low=1, high=1024)
    weights: str = option("bf16", "precision of the weights", choices=tuple(FORMATS))
    kv: str = option("bf16", "precision of keys and values", choices=tuple(FORMATS))
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
        1024, "sequences at once that the engine allows; others wait", low=1, high=10**6
    )

    def __post_init__(self) -> None:
        for name, value in (("weights", self.weights), ("kv", self.kv)):
            if value not in FORMATS:
                near = closest(str(value), FORMATS)
                known = ", ".join(FORMATS)
                raise Unknown(f"Workload.{name} is {value!r}; {near}use one of {known}")
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


def capacity(model: Architecture, gpu: Hardware, workload: Workload) -> tuple[int, float]:
    """Return how many sequences fit, and the bytes of keys and values of one at its full length.

    Raises
    ------
    DoesNotFit
        If the context exceeds the model's window, or not one sequence fits.
    ValueError
        For a number of GPUs that does not divide the heads, or more stages than layers.
    """
    tensor, stages = workload.tensor_parallel, workload.pipeline_parallel
    longest = workload.prompts()[-1][0] + workload.output_tokens
    if model.heads % tensor:
        raise ValueError(
            f"Workload.tensor_parallel is {tensor}, but {model.name} has {model.heads} heads; "
            "use a divisor"
        )
    if stages > model.layers:
        raise ValueError(
            f"Workload.pipeline_parallel is {stages}, but {model.name} has {model.layers} layers; "
            "use fewer stages"
        )
    if longest > model.window:
        raise DoesNotFit(
            f"{longest} tokens of context, but {model.name} reads {model.window}; shorten the "
            "workload, or take a model with a longer window (llama-3 reads 8192 tokens, "
            "llama-3.1 131072)"
        )
    weights = model.weight_bytes(FORMATS[workload.weights].bytes)
    room = tensor * stages * gpu.room_bytes
    # More GPUs than heads of keys and values hold copies of these.
    copies = max(1.0, tensor / model.kv_heads)
    kv_bytes = longest * model.kv_bytes(FORMATS[workload.kv].bytes) * copies
    fit = max(0, math.floor((room - weights) / kv_bytes))
    if not fit:
        raise DoesNotFit(
            f"{model.name} on {tensor * stages} x {gpu.name}: weights take "
            f"{weights / 2**30:.1f} GiB, each sequence of {longest} tokens "
            f"{kv_bytes / 2**30:.2f} GiB, and {room / 2**30:.1f} GiB are usable, so not one "
            "sequence fits; use more GPUs, fp8 or 4 bits, or shorter contexts"
        )
    return fit, kv_bytes


def asked_of(workload: Workload, fit: int) -> list[Asked]:
    """Return each call of a workload as the engine sees it; ``fit`` sequences have room."""
    slots = min(fit, workload.max_batch)
    if workload.batch == 0:
        slots = min(slots, workload.requests or slots)
    chunk = workload.chunk_tokens or UNCUT
    return [
        Asked(
            tokens=tokens,
            cached=cached,
            output=workload.output_tokens,
            pieces=max(1, math.ceil((tokens - cached) / chunk)),
            chunk=chunk,
            clients=workload.batch or slots,
            slots=slots,
            stages=workload.pipeline_parallel,
            rounds=max(1.0, (workload.requests or math.inf) / (workload.batch or slots)),
            offline=float(workload.batch == 0),
            queued=float(workload.queued),
        )
        for tokens, cached in workload.prompts()
    ]
