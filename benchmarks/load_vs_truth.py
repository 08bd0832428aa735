"""How far our times are from the truth of a server of known times, and those of guidellm, AIPerf
and vLLM's own tool beside them; and our cost.

The mock server of the tests runs in a process of its own. Its first token comes 0.5 s after a
request and others every 50 ms, whatever happened before, so that the truth is known.
``_peers.py`` says where the peers are; one that is missing, or fails, is left out, with its reason.

Each tool measures each number of requests at once in turn, ROUNDS times, each figure being the
median of the rounds: mean TTFT, mean time per token, tokens per second. ``load_vs_truth`` is the
largest of our relative errors, ``fidelity_*`` the largest differences to the same numbers of our
traces in a peer's dialect. What the server itself is late counts as ours. Everything here depends
on how much of the processor is free: see ``load`` and ``cores``. ``NEGFAIL_NB_FIDELITY=quick``
tries it out: one round, few requests; its numbers are no results.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
from _dialects import dialects
from _peers import PEERS, Load, in_dialects, must_have, why_missing

from negfail_nb.settings import EndpointSettings, LoadSettings
from negfail_nb.speed import ServerFacts, measure_load

HERE = Path(__file__).parents[1]
SERVER, TOKENIZER = HERE / "tests" / "stream_server.py", HERE / "negfail_nb" / "pocket" / "llama"
TTFT, ITL, TOKENS, WORDS = 0.5, 0.05, 24, 64
QUICK = os.environ.get("NEGFAIL_NB_FIDELITY") == "quick"
# By requests at once.
REQUESTS = {1: 2, 16: 32, 256: 256} if QUICK else {1: 8, 16: 96, 128: 640, 256: 1280}
ROUNDS = 1 if QUICK else int(os.environ.get("NEGFAIL_NB_FIDELITY_ROUNDS", 3))
STREAMS, RATE, LENGTH = 256, 100, 300  # streams, chunks a second of each, chunks of each
FACTS = ServerFacts(stream_options=True, fixed_length="ignore_eos")
METRICS = ("ttft", "tpot", "throughput")
OURS = "negfail_nb"


@contextmanager
def served(**options):
    """Run the mock server, and return its address and process."""
    command = [
        sys.executable,
        str(SERVER),
        json.dumps({"model": "mock", "tokens": TOKENS, **options}),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.terminate()


def load(url, at_once, requests, tokens):
    """Measure with ours."""
    settings = LoadSettings(
        concurrency=(at_once,), caches=("cold",), requests=requests, warmup=2, output_tokens=tokens
    )
    prompts = [" ".join(f"word{n}" for n in range(WORDS))]
    found = measure_load(
        EndpointSettings(base_url=url, model="mock"), prompts, settings, facts=FACTS
    )
    must_have(sum(trace.ok for trace in found.measured), requests)
    return found.measured


def compare(peers, missing):
    """Return the medians of TTFT (ms), TPOT (ms) and tokens/s, by requests at once, tool, and whose
    word it is: the tool's, or ours in its dialect. Ours in its own name is there without peers;
    a peer that fails moves to ``missing``.
    """
    figures = {}
    with served(ttft=TTFT, itl=ITL) as (url, _):
        for _ in range(ROUNDS):
            for at_once, requests in REQUESTS.items():
                asked = Load(url, "mock", TOKENIZER, at_once, requests, WORDS, TOKENS)
                table = dialects(load(url, at_once, requests, TOKENS))
                ours = in_dialects(table, PEERS)
                # The server names no role, so that all dialects but guidellm's weights agree.
                figures.setdefault((at_once, OURS, "ours"), []).append(ours["aiperf"])
                for name in tuple(peers):
                    try:
                        with tempfile.TemporaryDirectory() as folder:
                            theirs = PEERS[name](asked, Path(folder))
                    except (RuntimeError, subprocess.TimeoutExpired, LookupError) as error:
                        missing[name] = f"at {at_once} at once: {error}"[:300]
                        peers.remove(name)
                        continue
                    figures.setdefault((at_once, name, "ours"), []).append(ours[name])
                    figures.setdefault((at_once, name, "theirs"), []).append(theirs)
    return {
        key: [statistics.median(column) for column in zip(*rows, strict=True)]
        for key, rows in figures.items()
    }


def truth(at_once):
    """What the server's times come to where nothing else takes any."""
    return [1e3 * TTFT, 1e3 * ITL, at_once * TOKENS / (TTFT + (TOKENS - 1) * ITL)]


def apart(one, other):
    return round(abs(one / other - 1), 4)


def measures():
    """Return the entries of all measures of times."""
    missing = {name: reason for name in PEERS if (reason := why_missing(name))}
    peers = [name for name in PEERS if name not in missing]
    medians = compare(peers, missing)
    found = {"load_vs_truth": against_truth(medians, peers, missing)}
    for place, metric in enumerate(METRICS):
        reason = {"skipped": "; ".join(missing.values())}
        found[f"fidelity_{metric}"] = entry(place, medians, peers, missing) if peers else reason
    return found


def errors(medians, tool, whose):
    """Return the relative errors of a tool, by metric and requests at once."""
    return {
        f"{metric}@{n}": apart(medians[n, tool, whose][place], truth(n)[place])
        for n in REQUESTS
        for place, metric in enumerate(METRICS)
    }


def against_truth(medians, peers, missing):
    ours = errors(medians, OURS, "ours")
    theirs = {name: errors(medians, name, "theirs") for name in peers}
    largest = {name: max(found.values()) for name, found in theirs.items()}
    return {
        "value": max(ours.values()),
        "unit": "largest relative error",
        "peer": ", ".join(f"{name} {value}" for name, value in largest.items()) or None,
        "low": min(ours.values()),
        "high": max(ours.values()),
        "n": ROUNDS,
        "errors": ours,
        "errors_of_peers": theirs,
        "skipped_peers": missing or None,
        "quick": QUICK,
        **machine(),
    }


def entry(place, medians, peers, missing):
    keys = [(n, name) for n in REQUESTS for name in peers]
    ours, theirs = (
        {key: medians[(*key, whose)][place] for key in keys} for whose in ("ours", "theirs")
    )
    differences = {f"{name}@{n}": apart(ours[n, name], theirs[n, name]) for n, name in keys}
    between = [
        apart(max(row), min(row)) for n in REQUESTS if (row := [theirs[n, name] for name in peers])
    ]
    return {
        "value": max(differences.values()),
        "unit": "largest relative difference",
        "peer": ", ".join(peers),
        "low": min(differences.values()),
        "high": max(differences.values()),
        "n": ROUNDS,
        "differences": differences,
        "between_peers": max(between) if len(peers) > 1 else None,
        "from_truth": {
            f"{whose} ({name})@{n}": apart(row[place], truth(n)[place])
            for (n, name, whose), row in medians.items()
            if name != OURS
        },
        "ours": {f"{name}@{n}": round(value, 2) for (n, name), value in ours.items()},
        "theirs": {f"{name}@{n}": round(value, 2) for (n, name), value in theirs.items()},
        "skipped_peers": missing or None,
        **machine(),
    }


def machine():
    return {
        "load": [round(value, 1) for value in os.getloadavg()],
        "cores": len(os.sched_getaffinity(0)),
    }


def client_cost():
    """Return CPU milliseconds a chunk of our client, and how far it keeps up with many fast
    streams.
    """
    with served(ttft=0.1, itl=1 / RATE, tokens=LENGTH) as (url, process):
        load(url, 1, 2, 8)  # imports, and whatever else happens once
        costs = {at_once: cost(url, process, at_once) for at_once in (1, 16, STREAMS)}
    ideal = STREAMS * LENGTH / (0.1 + (LENGTH - 1) / RATE)
    values = [found["cpu_ms"] for found in costs.values()]
    return {
        "value": max(values),
        "unit": "ms",
        "peer": None,
        "low": min(values),
        "high": max(values),
        "n": len(values),
        "by_streams": costs,
        "streams_256_of_ideal": round(costs[STREAMS]["tokens_per_s"] / ideal, 3),
        **machine(),
    }


def cost(url, process, at_once):
    start, cpu, served_by = time.perf_counter(), time.process_time(), sum(process.cpu_times()[:2])
    traces = load(url, at_once, at_once, LENGTH)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    served_by = sum(process.cpu_times()[:2]) - served_by
    chunks = sum(len(trace.chunks) for trace in traces)
    late = [c.time - (t.sent + 0.1 + n / RATE) for t in traces for n, c in enumerate(t.spoken)]
    span = max(trace.ended for trace in traces) - min(trace.sent for trace in traces)
    return {
        "cpu_ms": round(1e3 * cpu / chunks, 4),
        "cpu_share": round(cpu / seconds, 3),
        "server_cpu_share": round(served_by / seconds, 3),
        "tokens_per_s": round(at_once * LENGTH / span, 1),
        "late_ms_p50": round(1e3 * statistics.median(late), 2),
        "late_ms_p99": round(1e3 * statistics.quantiles(late, n=100)[-1], 2),
    }


def main():
    """Print one JSON object."""
    logging.disable(logging.WARNING)
    print(json.dumps({"client_cpu_per_chunk": client_cost(), **measures()}))


if __name__ == "__main__":
    main()
