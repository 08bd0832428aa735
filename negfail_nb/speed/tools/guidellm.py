"""guidellm's JSON report, schema 2 (0.8).

Of each request it keeps the times of the first and the last token and of the answer's first, not of
those between, so that there is no ITL. Its ``time_per_output_token_ms`` includes the time to the
first token and is not taken; ours is its ``inter_token_latency_ms``, which it weighs by tokens in
its summaries. Written after guidellm 0.8.1 (schemas/base/request_stats.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from negfail_nb.speed.tools.told import (
    STATISTICS,
    Run,
    Tool,
    UnknownVersion,
    chunks_at,
    closed,
    counts,
    in_seconds,
    most_at_once,
)
from negfail_nb.speed.traces import Trace

NAME = "guidellm"
SCHEMA = 2
NOTE = "only the first and last token of a request are kept, so gaps between chunks are not known"
LATENCIES = {
    "ttft": ("time_to_first_token_ms", 1e-3),
    "ttfa": ("time_to_first_output_token_ms", 1e-3),
    "tpot": ("inter_token_latency_ms", 1e-3),
    "e2e": ("request_latency", 1.0),
}


def looks_like(record: Any) -> bool:
    """Whether it is a report."""
    about = record.get("metadata") if isinstance(record, Mapping) else None
    return isinstance(about, Mapping) and "guidellm_version" in about or _is_old(record)


def _is_old(record: Any) -> bool:
    first = record.get("benchmarks") if isinstance(record, Mapping) else None
    if not isinstance(first, list) or not first or not isinstance(first[0], Mapping):
        return False
    return "metrics" in first[0]


def read(records: Sequence[Mapping[str, Any]], path: Path) -> list[Run]:
    """Return a run for each benchmark of the report."""
    report = records[0]
    about = report.get("metadata") or {}
    if about.get("version") != SCHEMA:
        raise UnknownVersion(
            f"guidellm {about.get('guidellm_version', 'of an unknown version')} wrote schema "
            f"{about.get('version')!r}; known is {SCHEMA} (guidellm 0.8)"
        )
    return [_run(benchmark) for benchmark in report["benchmarks"]]


def _run(benchmark: Mapping[str, Any]) -> Run:
    strategy, kept = benchmark["config"]["strategy"], benchmark["requests"]
    totals = benchmark["metrics"]["request_totals"]
    done = [*(kept["successful"] or []), *(kept["errored"] or [])]
    notes = [NOTE]
    if cut := totals["incomplete"]:
        notes.append(f"{cut} requests were cut off by the end of the run, and are left out")
    due = strategy["type_"] in ("constant", "poisson")
    traces = _traces(done, due)
    load = _load(strategy, [(trace.sent, trace.ended) for trace in traces])
    if len(done) < totals["successful"] + totals["errored"]:  # a sample of them (sample_requests)
        notes.append(
            f"{len(done)} of {totals['total']} requests are in the file: numbers as stated"
        )
        return _stated(load, benchmark, tuple(notes))
    return Run(load=load, traces=traces, notes=tuple(notes))


def _load(strategy: Mapping[str, Any], spans: Sequence[tuple[float, float]]) -> str:
    kind = strategy["type_"]
    if kind in ("constant", "poisson"):
        return f"{kind}@{strategy['rate']:g}"
    if kind == "synchronous":
        return closed(1)
    return closed(strategy.get("streams") or strategy.get("max_concurrency") or most_at_once(spans))


def _traces(requests: Sequence[Mapping[str, Any]], due: bool) -> list[Trace]:
    requests = sorted(requests, key=_sent)
    start = min((_due(request) if due else _sent(request) for request in requests), default=0.0)
    return [_trace(number, one, start, due) for number, one in enumerate(requests)]


def _sent(request: Mapping[str, Any]) -> float:
    return request["request_start_time"]


def _due(request: Mapping[str, Any]) -> float:
    return min(request["info"]["timings"]["targeted_start"] or _sent(request), _sent(request))


def _trace(number: int, request: Mapping[str, Any], start: float, due: bool) -> Trace:
    times, error = request["info"]["timings"], str(request["info"].get("error") or "")
    if not error and times["first_token_iteration"] is None:
        raise ValueError("a request has no first_token_iteration: was it streamed?")
    answer = times.get("first_output_token_iteration")
    known = {times["first_token_iteration"], answer, times["last_token_iteration"]} - {None}
    chunks = (
        () if error else chunks_at([time - start for time in sorted(known)], _less(answer, start))
    )
    tokens = request["prompt_tokens"], request["output_tokens"], request.get("cached_tokens")
    more = {"chunks": int(times["token_iterations"]), **(request.get("response_metrics") or {})}
    return Trace(
        cell="",
        number=number,
        scheduled=(_due(request) if due else _sent(request)) - start,
        sent=_sent(request) - start,
        ended=max([request["request_end_time"] - start, *(chunk.time for chunk in chunks)]),
        chunks=chunks,
        status=0 if error else 200,
        usage={} if error else counts(*tokens, **more),
        error=error,
        by=NAME,
        ends=True,
    )


def _less(time: float | None, start: float) -> float | None:
    return None if time is None else time - start


def _stated(load: str, benchmark: Mapping[str, Any], notes: tuple[str, ...]) -> Run:
    metrics = benchmark["metrics"]
    totals = metrics["request_totals"]
    rates = {
        "requests_per_s": "requests_per_second",
        "tokens_out_per_s": "output_tokens_per_second",
    }
    numbers = {ours: metrics[theirs]["successful"]["mean"] for ours, theirs in rates.items()}
    numbers |= {"requests": totals["successful"] + totals["errored"], "failures": totals["errored"]}
    times = {}
    for ours, (theirs, scale) in LATENCIES.items():
        found = metrics[theirs]["successful"]
        flat = {"mean": found["mean"], **found["percentiles"]}
        times[ours] = in_seconds(flat, {name: name for name in STATISTICS}, scale)
    numbers |= {"seconds": benchmark["duration"]}
    return Run(load=load, numbers=numbers, times=times, notes=notes)


TOOL = Tool(NAME, "guidellm's JSON report (0.8)", looks_like, read)
