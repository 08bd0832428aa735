"""inference-perf: ``per_request_lifecycle_metrics.json``, ``stage_N_lifecycle_metrics.json`` and
``summary_lifecycle_metrics.json``.

Its TTFT and TPOT are ours; its ITL is not taken, since it counts every token of a chunk as one,
with no time between them. Requests name no stage: they are told apart by the counts of the stage
files beside them. Written after inference_perf/reportgen/base.py, main of November 2026; the files
name no version. Chunks, where they were kept, are read as streams of ours are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from negfail_nb.speed.client import Answer, Events
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
from negfail_nb.speed.traces import Chunk, Trace

NAME = "inference-perf"
REQUESTS = "per_request_lifecycle_metrics.json"
ITL = "its gaps between tokens count those of one chunk as 0, and are not taken"
OWN_COUNTS = "tokens are counted by inference-perf's tokenizer where the server told none"
LATENCIES = {
    "ttft": "time_to_first_token",
    "tpot": "time_per_output_token",
    "e2e": "request_latency",
}


def looks_like(record: Any) -> bool:
    """Whether it is the list of requests, or a stage."""
    if isinstance(record, list):
        needed = {"start_time", "end_time", "info"}
        return bool(record) and isinstance(record[0], Mapping) and needed <= set(record[0])
    return isinstance(record, Mapping) and {"load_summary", "successes", "failures"} <= set(record)


def read(records: Sequence[Any], path: Path) -> list[Run]:
    """Return a run for each stage."""
    if isinstance(records[0], Mapping):
        return [_stated(records[0], path)]
    requests = sorted(records[0], key=lambda request: request["start_time"])
    stages = _stages(path.parent)
    sizes = [stage["load_summary"]["count"] for stage in stages]
    if sum(sizes) != len(requests):
        note = f"its stages are not told apart: the stage files count {sum(sizes)} requests"
        return [_run(requests, {}, (note,) if stages else ())]
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    parts = [requests[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return [_run(part, stage, ()) for part, stage in zip(parts, stages, strict=True)]


def _stages(folder: Path) -> list[dict[str, Any]]:
    """Return the stage files of a folder, in order."""
    found = {}
    for file in folder.glob("stage_*_lifecycle_metrics.json"):
        if match := re.fullmatch(r"stage_(\d+)_lifecycle_metrics", file.stem):
            found[int(match[1])] = json.loads(file.read_text(encoding="utf-8"))
    return [found[number] for number in sorted(found)]


def _load(stage: Mapping[str, Any], spans: Sequence[tuple[float, float]] = ()) -> str:
    told = stage.get("load_summary") or {}
    if told.get("concurrency"):
        return closed(told["concurrency"])
    if told.get("requested_rate"):  # whether Poisson or constant is in the config only
        return f"rate@{told['requested_rate']:g}"
    return closed(most_at_once(spans))


def _run(
    requests: Sequence[Mapping[str, Any]], stage: Mapping[str, Any], notes: tuple[str, ...]
) -> Run:
    start = min(request["start_time"] for request in requests)
    traces = [_trace(number, one, start) for number, one in enumerate(requests)]
    spans = [(trace.sent, trace.ended) for trace in traces]
    return Run(load=_load(stage, spans), traces=traces, notes=(*notes, OWN_COUNTS))


def _trace(number: int, request: Mapping[str, Any], start: float) -> Trace:
    info, failure = request["info"] or {}, request.get("error") or {}
    sent, ended = request["start_time"] - start, request["end_time"] - start
    response = info.get("response_metrics") or info  # older files hold it without a level
    chunks, usage = ((), {}) if failure else _reply(response, info, start)
    return Trace(
        cell="",
        number=number,
        scheduled=sent,
        sent=sent,
        ended=max([ended, *(chunk.time for chunk in chunks)]),
        chunks=chunks,
        status=0 if failure else 200,
        usage=usage,
        error=f"{failure.get('error_type')}: {failure.get('error_msg')}" if failure else "",
        by=NAME,
    )


def _reply(
    response: Mapping[str, Any], info: Mapping[str, Any], start: float
) -> tuple[tuple[Chunk, ...], dict[str, Any]]:
    usage = counts(info.get("input_tokens"), response.get("output_tokens"))
    usage |= response.get("server_usage") or {}
    if pieces := response.get("response_chunks"):
        answer = Answer(status=200)
        events = Events(answer)
        for piece, time in zip(pieces, response["chunk_times"], strict=True):
            events.feed(b"data: " + piece.encode() + b"\n\n", time - start)
        if any(chunk.spoken for chunk in answer.chunks):
            return tuple(answer.chunks), usage | answer.usage
    times = sorted(set(response.get("output_token_times") or []))
    if not times:
        raise ValueError("a request has no output_token_times: was it streamed (api.streaming)?")
    return chunks_at([time - start for time in times]), usage


def _stated(record: Mapping[str, Any], path: Path) -> Run:
    good, failed = record["successes"], record["failures"]["count"]
    rates, latency = good["throughput"], good["latency"]
    requests = good["count"] + failed
    numbers = {
        "requests": requests,
        "failures": failed,
        "seconds": record.get("benchmark_time_seconds", good["count"] / rates["requests_per_sec"]),
        "requests_per_s": rates["requests_per_sec"],
        "tokens_out_per_s": rates["output_tokens_per_sec"],
        "tokens_in_per_s": rates["input_tokens_per_sec"],
    }
    names = {name: name for name in STATISTICS} | {"p50": "median"}
    times = {
        ours: in_seconds(latency[theirs], names, 1.0)
        for ours, theirs in LATENCIES.items()
        if latency.get(theirs)
    }
    told = record["load_summary"]
    if not (told.get("concurrency") or told.get("requested_rate")):
        raise ValueError("it sums up several stages; give the stage_N files, or their folder")
    return Run(load=_load(record), numbers=numbers, times=times, notes=(ITL, OWN_COUNTS))


TOOL = Tool(
    NAME, f"inference-perf's {REQUESTS}, or stage_N_lifecycle_metrics.json", looks_like, read
)
