"""AIPerf: ``profile_export.jsonl``, a request a line, and ``profile_export_aiperf.json``.

The lines hold the gaps between chunks, so that a request is known chunk by chunk; the load is in
the JSON beside them. Token counts are those of AIPerf's own tokenizer unless it was told to take
the server's (``--use-server-token-count``). Written after AIPerf 0.13 (schema 1.4).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
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

NAME = "AIPerf"
SUMMARY = "profile_export_aiperf.json"
SCHEMA = "1."  # any of these: fields are only added
OWN_COUNTS = "tokens are counted by AIPerf's tokenizer, not by the server"
LATENCIES = {
    "ttft": "time_to_first_token",
    "ttfa": "time_to_first_output_token",
    "tpot": "inter_token_latency",
    "itl": "inter_chunk_latency",
    "e2e": "request_latency",
}
UNITS = {"ms": 1e-3, "sec": 1.0, "s": 1.0, "us": 1e-6, "ns": 1e-9}


def is_line(record: Any) -> bool:
    """Whether it is a line of ``profile_export.jsonl``."""
    about = record.get("metadata") if isinstance(record, Mapping) else None
    return isinstance(about, Mapping) and "request_start_ns" in about and "metrics" in record


def looks_like(record: Any) -> bool:
    """Whether it is a line, or a summary."""
    return is_line(record) or (isinstance(record, Mapping) and "aiperf_version" in record)


def read(records: Sequence[Mapping[str, Any]], path: Path) -> list[Run]:
    """Return the profiled part of a run: from its requests, or as its summary states it."""
    if not is_line(records[0]):
        return [_stated(_known(records[0]))]
    beside = path.with_name(SUMMARY)
    summary = _known(json.loads(beside.read_text(encoding="utf-8"))) if beside.is_file() else {}
    parts: dict[Any, list[Mapping[str, Any]]] = {}
    for record in records:  # warm-ups go with the phase that they warm up for
        about = record["metadata"]
        warm = about["benchmark_phase"] == "warmup"
        parts.setdefault(0 if warm else about.get("profiling_index") or 0, []).append(record)
    phases = _phases(summary)
    return [_run(part, summary, phases[n] if n < len(phases) else {}) for n, part in parts.items()]


def _known(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    schema = str(summary.get("schema_version"))
    if not schema.startswith(SCHEMA):
        raise UnknownVersion(
            f"AIPerf {summary.get('aiperf_version')} wrote schema {schema}; known is "
            f"{SCHEMA}x (AIPerf 0.13 wrote 1.4)"
        )
    return summary


def _run(
    records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], phase: Mapping[str, Any]
) -> Run:
    about = [record["metadata"] for record in records]
    cut = [a.get("was_cancelled") or a.get("context_overflow_skip") for a in about]
    kept = [record for record, gone in zip(records, cut, strict=True) if not gone]
    load, notes = _load(phase), [] if _told(summary) else [OWN_COUNTS]
    if any(cut):
        notes.append(f"{sum(map(bool, cut))} cancelled requests are left out")
    due = not load.startswith("closed@") and bool(load)
    start = min(_at(record, "credit_issued_ns" if due else "request_start_ns") for record in kept)
    traces = [_trace(number, one, start, due) for number, one in enumerate(kept)]
    if not load:
        spans = [(t.sent, t.ended) for t in traces if t.phase == "measured"]
        load = closed(most_at_once(spans))
        notes.append(f"{SUMMARY} is not beside it: the load is the most requests at once")
    return Run(load=load, traces=traces, notes=tuple(notes))


def _phases(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    phases = (summary.get("input_config") or {}).get("phases") or []
    return [one for one in phases if one.get("kind") != "warmup"]


def _load(phase: Mapping[str, Any]) -> str:
    if phase.get("type") == "concurrency" and phase.get("concurrency"):
        return closed(phase["concurrency"])
    if phase.get("rate"):
        kind = phase["type"] if phase["type"] in ("poisson", "constant") else "rate"
        return f"{kind}@{float(phase['rate']):g}"
    return ""


def _told(summary: Mapping[str, Any]) -> bool:
    endpoint = (summary.get("input_config") or {}).get("endpoint") or {}
    return bool(endpoint.get("use_server_token_count"))


def _at(record: Mapping[str, Any], name: str) -> float:
    about = record["metadata"]
    return (about.get(name) or about["request_start_ns"]) / 1e9


def _trace(number: int, record: Mapping[str, Any], start: float, due: bool) -> Trace:
    found = {name: _value(told) for name, told in record["metrics"].items()}
    failure = record.get("error") or {}
    sent, ended = (_at(record, f"request_{name}_ns") - start for name in ("start", "end"))
    times, ends = ([], False) if failure else _times(found, sent)
    answer = found.get("time_to_first_output_token")
    prompt = found.get("usage_prompt_tokens", found.get("input_sequence_length"))
    tokens = (
        prompt,
        found.get("output_sequence_length"),
        found.get("usage_prompt_cache_read_tokens"),
    )
    return Trace(
        cell="",
        number=number,
        phase="warmup" if record["metadata"]["benchmark_phase"] == "warmup" else "measured",
        scheduled=_at(record, "credit_issued_ns") - start if due else sent,
        sent=sent,
        ended=max([ended, *times]),
        chunks=chunks_at(times, None if answer is None else sent + answer - 1e-9),
        status=failure.get("code") or (0 if failure else 200),
        usage={} if failure else counts(*tokens, **_drafts(record)),
        error=str(failure.get("message") or failure.get("type") or "failed") if failure else "",
        by=NAME,
        ends=ends,
    )


def _times(found: Mapping[str, Any], sent: float) -> tuple[list[float], bool]:
    """Return the times of the chunks, and whether only the first and the last are known."""
    first = found.get("time_to_first_token")
    if first is None:
        raise ValueError("a request has no time_to_first_token: was it streamed (--streaming)?")
    gaps = found.get("inter_chunk_latency")
    if isinstance(gaps, list):
        return list(accumulate(gaps, initial=sent + first)), False
    known = {first, found.get("time_to_first_output_token"), found["request_latency"]} - {None}
    return [sent + time for time in sorted(known)], True


def _value(told: Mapping[str, Any]) -> Any:
    """Return a metric's value, times in seconds."""
    scale, value = UNITS.get(told.get("unit", ""), 1), told["value"]
    return [scale * one for one in value] if isinstance(value, list) else scale * value


def _drafts(record: Mapping[str, Any]) -> dict[str, Any]:
    told = record.get("spec_decode_acceptance")
    return {"speculative_decoding": told} if told else {}


def _stated(summary: Mapping[str, Any]) -> Run:
    def one(name: str) -> Any:
        return (summary.get(name) or {}).get("avg")

    failed = one("error_request_count") or 0
    numbers = {
        "requests": one("request_count") + failed,
        "failures": failed,
        "seconds": one("benchmark_duration"),
        "requests_per_s": one("request_throughput"),
        "tokens_out_per_s": one("output_token_throughput"),
    }
    names = {"mean": "avg"} | {name: name for name in STATISTICS[1:]}
    times = {
        ours: in_seconds(told, names, UNITS[told["unit"]])
        for ours, theirs in LATENCIES.items()
        if (told := summary.get(theirs))
    }
    notes = () if _told(summary) else (OWN_COUNTS,)
    why = "its requests are in profile_export.jsonl, which is not the file that was given"
    phases = _phases(summary)
    load = _load(phases[0]) if len(phases) == 1 else ""
    if not load:
        raise ValueError("input_config.phases does not tell one concurrency, or one rate")
    return Run(load=load, numbers=numbers, times=times, notes=(*notes, why))


TOOL = Tool(NAME, f"AIPerf's profile_export.jsonl or {SUMMARY}", looks_like, read)
