"""What is predicted: seconds, tokens per second and memory of a Llama on some GPUs.

The time of a step is in `negfail_nb.speed.steps`, that of requests that share an engine, and wait
for it, in `negfail_nb.speed.serving`; what is asked, and fits, in `negfail_nb.speed.workload`.

Covered: tensor and pipeline parallelism, prefix-cache hits, chunked prefill, dependent calls,
static or continuous batching, closed loops, open loops by rate, queueing. Not covered: context
parallelism, several nodes, speculative decoding, preemption, prompts and answers of differing
lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.efficiencies import Efficiencies, Many
from negfail_nb.speed.hardware import FORMATS, Hardware, get_hardware
from negfail_nb.speed.serving import (
    Asked,
    Timed,
    closed,
    decode_work,
    highest_rate,
    opened,
    prefill_work,
    static,
)
from negfail_nb.speed.steps import Numbers, Served, served, stacked, step_terms
from negfail_nb.speed.workload import DoesNotFit, Overloaded, Workload, asked_of, capacity

__all__ = ["BYTES", "Call", "DoesNotFit", "Overloaded", "Prediction", "Prepared", "Workload"]
__all__ += ["highest_rate_of", "predict", "prepare"]

BYTES = {name: form.bytes for name, form in FORMATS.items()}
Setting = tuple[Architecture, Hardware, Workload]


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
    batch: float  # sequences asked for at once; at saturation, as many as fit; by rate, the mean
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
    tokens_per_second: float  # both
    requests_per_second: float  # whole questions, all their calls included


def predict(
    architecture: Architecture | str,
    hardware: Hardware | str,
    workload: Workload,
    efficiencies: Efficiencies = Efficiencies(),
) -> Prediction:
    """Predict time, throughput and memory of a workload; times are means over requests.

    Parameters
    ----------
    architecture, hardware
        By name (``"llama-3.1-70b"``, ``"h100"``) or as records.
    workload
        What is asked; ``batch=0`` is saturation: continuous batching with as many sequences as fit.
        What does not fit waits.
    efficiencies
        What the engine reaches of the peak rates; fit them with
        `negfail_nb.speed.calibration.calibrate`.

    Raises
    ------
    DoesNotFit
        If the context exceeds the model's window, or not one sequence fits into memory.
    Overloaded
        If ``workload.rate`` is more than the server holds; the text names the highest rate.
    ValueError
        For an unknown name, or a number of GPUs that does not divide the heads.
    """
    model, gpu = get_architecture(architecture), get_hardware(hardware)
    if workload.rate or workload.batch == 0:
        workload = replace(workload, batching="continuous")
    prepared = prepare([(model, gpu, workload)])
    fit, kv_bytes = capacity(model, gpu, workload)
    _hold(prepared, workload, efficiencies)
    timed = prepared.timed(efficiencies)
    calls = tuple(_call(prepared, timed, efficiencies, n) for n in range(workload.calls))
    found = {name: float(values[0]) for name, values in prepared.metrics(timed).items()}
    at_once = workload.batch or min(fit, workload.max_batch)
    by_rate = found["requests_per_second"] * found["e2e_seconds"]
    return Prediction(
        architecture=model,
        hardware=gpu,
        workload=workload,
        batch=by_rate if workload.rate else at_once,
        capacity=fit,
        kv_bytes=kv_bytes,
        calls=calls,
        prefill_seconds=sum(call.prefill_seconds for call in calls),
        decode_seconds=calls[-1].decode_seconds,
        **found,
    )


def highest_rate_of(
    architecture: Architecture | str,
    hardware: Hardware | str,
    workload: Workload,
    efficiencies: Efficiencies = Efficiencies(),
) -> float:
    """Return the most questions per second that a server holds; raises as `predict` does."""
    prepared = prepare([(get_architecture(architecture), get_hardware(hardware), workload)])
    return _most(prepared, efficiencies)


def _most(prepared: Prepared, efficiencies: Efficiencies) -> float:
    # Calls of one question share the engine: each takes its part of the time.
    return float(1 / np.sum(1 / highest_rate(prepared.on, prepared.asked, efficiencies)))


def _hold(prepared: Prepared, workload: Workload, efficiencies: Efficiencies) -> None:
    if workload.rate and workload.rate >= (most := _most(prepared, efficiencies)):
        raise Overloaded(
            f"{workload.rate:g} requests per second are more than the server holds: {most:.3g}; "
            "the queue would grow without end. Ask less often, shorten prompts or answers, or use "
            "more GPUs"
        )


def _call(prepared: Prepared, timed: Timed, efficiencies: Efficiencies, n: int) -> Call:
    asked, workload = Asked(*(column[n] for column in prepared.asked)), prepared.workloads[0]
    on = Served(*(column[n] for column in prepared.on))
    held = min(asked.clients, asked.slots) / asked.stages
    prompts = max(1.0, held) if workload.batching == "static" else 1.0
    works = prefill_work(asked, prompts), decode_work(asked, max(1.0, held))
    prefill, decode = (
        {name: float(value) for name, value in step_terms(on, work, efficiencies).items()}
        for work in works
    )
    times = (timed.prefill, timed.decode, timed.ttft, timed.tpot, timed.e2e)
    lengths = int(asked.tokens), int(asked.cached), int(asked.output)
    return Call(*lengths, *(float(column[n]) for column in times), prefill, decode)


class Prepared(NamedTuple):
    """Settings as arrays, one entry per call, so that many are predicted at once."""

    on: Served
    asked: Asked
    workloads: tuple[Workload, ...]
    owner: np.ndarray  # which setting a call belongs to
    ways: tuple[tuple[str, np.ndarray], ...]  # how it is served -> its calls

    def timed(self, reached: Efficiencies | Many) -> Timed:
        """Return the times of each call; of many efficiencies each setting has its own."""
        columns = np.empty((len(Timed._fields), len(self.owner)))
        for way, calls in self.ways:
            on, asked = (type(t)(*(c[calls] for c in t)) for t in (self.on, self.asked))
            own = reached.at(self.owner[calls]) if isinstance(reached, Many) else reached
            columns[:, calls] = self._served(way, on, asked, own, calls)
        return Timed(*columns)

    def repeated(self, count: int) -> Prepared:
        """Return the calls of one setting for ``count`` settings alike."""
        on, asked = (type(t)(*(np.tile(c, count) for c in t)) for t in (self.on, self.asked))
        calls = len(self.owner)
        ways = ((self.ways[0][0], np.arange(calls * count)),)
        owner = np.repeat(np.arange(count), calls)
        return Prepared(on, asked, self.workloads * count, owner, ways)

    def _served(
        self, way: str, on: Served, asked: Asked, reached: Efficiencies | Many, calls: np.ndarray
    ) -> Timed:
        if way == "rate":  # all calls of a question load the engine
            asks = [self.workloads[n] for n in self.owner[calls]]
            return opened(on, asked, np.array([a.rate * a.calls for a in asks]), reached)
        return (closed if way == "continuous" else static)(on, asked, reached)

    def metrics(self, timed: Timed) -> dict[str, Numbers]:
        """Return what a `Prediction` says of whole questions, one entry per setting."""
        count = len(self.workloads)
        last = np.append(self.owner[1:] != self.owner[:-1], True)

        def total(values: np.ndarray) -> np.ndarray:
            return np.bincount(self.owner, values, count)

        e2e = total(timed.e2e)
        clients = np.array(self.asked.clients)[last]
        by_rate = np.array([w.rate for w in self.workloads])
        rate = np.where(by_rate > 0, by_rate, clients / e2e)
        output, tokens = (total(np.array(c)) for c in (self.asked.output, self.asked.tokens))
        return {
            "ttft_seconds": e2e - timed.e2e[last] + timed.ttft[last],
            "tpot_seconds": timed.tpot[last],
            "e2e_seconds": e2e,
            "output_tokens_per_second": rate * output,
            "input_tokens_per_second": rate * tokens,
            "tokens_per_second": rate * (tokens + output),
            "requests_per_second": rate,
        }


def prepare(settings: Sequence[Setting]) -> Prepared:
    """Return settings as arrays; raises `DoesNotFit` for the first that does not."""
    on, asked, owner, ways = [], [], [], []
    for number, (model, gpu, work) in enumerate(settings):
        fit, _ = capacity(model, gpu, work)
        calls = asked_of(work, fit)
        parallel = work.tensor_parallel, work.pipeline_parallel
        on += [served(model, gpu, work.weights, work.kv, *parallel)] * len(calls)
        asked += calls
        owner += [number] * len(calls)
        way = "continuous" if work.batch == 0 else work.batching
        ways += ["rate" if work.rate else way] * len(calls)
    found = {way: np.flatnonzero([w == way for w in ways]) for way in dict.fromkeys(ways)}
    workloads = tuple(work for _, _, work in settings)
    return Prepared(stacked(on), stacked(asked), workloads, np.array(owner), tuple(found.items()))
