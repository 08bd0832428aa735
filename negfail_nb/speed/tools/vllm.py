"""``vllm bench serve --save-result``, with or without ``--save-detailed``, and ``--append-result``.

Its TTFT ends with the first chunk that has choices, also one that only names the role; whether
there was one is not in the file. Its TPOT is ours, its ITL the gaps between chunks. Read from
vllm/benchmarks/serve.py, main of November 2026; the file names no version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from negfail_nb.speed.tools.told import (
    STATISTICS,
    Run,
    Tool,
    chunks_at,
    closed,
    counts,
    in_seconds,
    most_at_once,
)
from negfail_nb.speed.traces import Trace

NAME = "vllm bench"
NOTE = "the first token is the first chunk with choices, which may only name the role"
DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "errors")


def looks_like(record: Any) -> bool:
    """Whether it is a result: what is in all of them."""
    needed = {"request_throughput", "completed", "duration", "num_prompts"}
    return isinstance(record, Mapping) and needed <= set(record)


def read(records: Sequence[Mapping[str, Any]], path: Path) -> list[Run]:
    """Return a run for each result that was written, or appended, to the file."""
    return [_run(record) for record in records]


def _run(record: Mapping[str, Any]) -> Run:
    if "output_throughput" not in record:
        raise ValueError("the run is one of embeddings, which generate no tokens")
    if all(name in record for name in DETAILS):
        traces = _traces(record)
        return Run(load=_load(record, traces), traces=traces, notes=(NOTE,))
    return _stated(record)


def _load(record: Mapping[str, Any], traces: Sequence[Trace] = ()) -> str:
    rate = record.get("request_rate", "inf")
    if rate not in ("inf", None):
        poisson = float(record.get("burstiness", 1.0)) == 1.0
        return f"{'poisson' if poisson else 'rate'}@{float(rate):g}"
    spans = [(trace.sent, trace.ended) for trace in traces]
    return closed(record.get("max_concurrency") or most_at_once(spans) or record["num_prompts"])


def _traces(record: Mapping[str, Any]) -> list[Trace]:
    start = min(record["start_times"], default=0.0)
    columns = [record[name] for name in DETAILS]
    # Of newer versions; the end of a request that failed is not in the others.
    columns.append(record.get("latencies") or [0.0] * len(columns[0]))
    rows = zip(*columns, strict=True)
    return [_trace(number, *row, start) for number, row in enumerate(rows)]


def _trace(
    number: int,
    prompt: int,
    output: int,
    ttft: float,
    gaps: Sequence[float],
    sent: float,
    error: str,
    seconds: float,
    start: float,
) -> Trace:
    sent -= start
    times = [] if error else list(accumulate(gaps, initial=sent + ttft))
    return Trace(
        cell="",
        number=number,
        scheduled=sent,
        sent=sent,
        ended=max([sent + seconds, *times]),
        chunks=chunks_at(times),
        status=0 if error else 200,
        usage={} if error else counts(prompt, output),
        error=error.strip().splitlines()[-1] if error else "",
        by=NAME,
    )


def _stated(record: Mapping[str, Any]) -> Run:
    failed = record.get("failed", record["num_prompts"] - record["completed"])
    numbers = {
        "requests": record["completed"] + failed,
        "failures": failed,
        "seconds": record["duration"],
        "requests_per_s": record["request_throughput"],
        "tokens_out_per_s": record["output_throughput"],
        "tokens_in_per_s": record["total_input_tokens"] / record["duration"],
        "tokens_per_step": record.get("spec_decode_acceptance_length"),
        "peak": record.get("max_concurrent_requests"),
    }
    if (rate := record.get("spec_decode_acceptance_rate")) is not None:
        numbers["drafts_accepted"] = rate / 100
    times = {}
    for ours, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e", "e2el")):
        names = {name: f"{name}_{theirs}_ms" for name in STATISTICS}
        names |= {"mean": f"mean_{theirs}_ms", "p50": f"median_{theirs}_ms"}
        times[ours] = in_seconds(record, names, 1e-3)
    why = "its requests are not in the file (--save-detailed, of a version that keeps start_times)"
    return Run(load=_load(record), numbers=numbers, times=times, notes=(NOTE, why))


TOOL = Tool(NAME, "the JSON of vllm bench serve --save-result or --append-result", looks_like, read)
