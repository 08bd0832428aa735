"""Our times of a server of known times, beside those that guidellm and AIPerf measure; and what our client costs.

The mock server of the tests runs in a process of its own. Its first token comes 0.5 s after a request and others every
50 ms, so that it is known what each tool should say (``from_truth``). Peers run in environments of their own, whose
folders two variables name; one that is missing is left out, with its reason::

    python -m venv DIR1 && DIR1/bin/pip install guidellm==0.8.1    # NEGFAIL_NB_GUIDELLM=DIR1
    python -m venv DIR2 && DIR2/bin/pip install aiperf==0.13.0     # NEGFAIL_NB_AIPERF=DIR2

Each tool measures each number of requests at once in turn, ROUNDS times, each figure being the median of the rounds.
What a peer calls TTFT, TPOT and tokens/s is read by `negfail_nb.benchmark.measure.dialects`' definitions. Everything
here depends on how much of the processor is free: see ``load`` and ``cores``.
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

from negfail_nb.benchmark.measure import ServerFacts, dialects, measure_load
from negfail_nb.settings import EndpointSettings
from negfail_nb.settings.load import LoadSettings

HERE = Path(__file__).parents[1]
SERVER, TOKENIZER = HERE / "tests" / "stream_server.py", HERE / "negfail_nb" / "pocket" / "llama"
VARIABLES = {"guidellm": "NEGFAIL_NB_GUIDELLM", "aiperf": "NEGFAIL_NB_AIPERF"}
TTFT, ITL, TOKENS, WORDS = 0.5, 0.05, 24, 64
REQUESTS = {1: 8, 16: 96, 128: 640}  # by requests at once
ROUNDS = 3
PATIENCE = 600  # seconds that one run of a peer may take
STREAMS, RATE, LENGTH = 256, 100, 300  # streams, chunks a second of each, chunks of each
FACTS = ServerFacts(stream_options=True, fixed_length="ignore_eos")
METRICS = ("ttft", "tpot", "throughput")


@contextmanager
def served(**options):
    """Run the mock server, and return its address and process."""
    command = [sys.executable, str(SERVER), json.dumps({"kind": "llama.cpp", "model": "mock", **options})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.terminate()


def load(url, at_once, requests, tokens):
    """Measure with ours."""
    settings = LoadSettings(concurrency=(at_once,), caches=("cold",), requests=requests, warmup=2, output_tokens=tokens)
    prompts = [" ".join(f"word{n}" for n in range(WORDS))]
    found = measure_load(EndpointSettings(base_url=url, model="mock"), prompts, settings, facts=FACTS)
    must_have(sum(trace.ok for trace in found.measured), requests)
    return found.measured


def ours(url, at_once, folder):
    del folder
    table = dialects(load(url, at_once, REQUESTS[at_once], TOKENS))
    values = {(row.name, row.statistic): row.value for row in table[table["tool"] == "aiperf"].itertuples(index=False)}
    named = (("time_to_first_token", "mean"), ("inter_token_latency", "mean"), ("output_token_throughput", "rate"))
    return [values[name] for name in named]


def guidellm(url, at_once, folder):
    result = folder / "guidellm.json"
    call(
        "guidellm",
        *("run", "--disable-console-interactive"),
        *("--backend", f"kind=openai_http,target={url.removesuffix('/v1')},model=mock"),
        *("--data", f"kind=synthetic_text,prompt_tokens={WORDS},output_tokens={TOKENS}"),
        *("--profile", f"kind=concurrent,streams={at_once}"),
        *("--constraint", f"kind=max_requests,count={REQUESTS[at_once]}"),
        *("--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}"),
        *("--output", f"kind=json,path={result}"),
    )
    metrics = json.loads(result.read_text())["benchmarks"][0]["metrics"]
    must_have(metrics["request_totals"]["successful"], REQUESTS[at_once])
    named = ("time_to_first_token_ms", "inter_token_latency_ms", "output_tokens_per_second")
    return [metrics[name]["successful"]["mean"] for name in named]


def aiperf(url, at_once, folder):
    call(
        "aiperf",
        *("profile", "-m", "mock", "--url", url.removesuffix("/v1"), "--endpoint-type", "chat", "--streaming"),
        *("--concurrency", str(at_once), "--request-count", str(REQUESTS[at_once])),
        *("--warmup-request-count", "2", "--synthetic-input-tokens-mean", str(WORDS)),
        *("--output-tokens-mean", str(TOKENS), "--extra-inputs", "ignore_eos:true"),
        *("--use-server-token-count", "--tokenizer", str(TOKENIZER), "--ui", "none", "--artifact-dir", str(folder)),
    )
    found = json.loads(next(folder.rglob("profile_export_aiperf.json")).read_text())
    must_have(found["request_count"]["avg"], REQUESTS[at_once])
    named = ("time_to_first_token", "inter_token_latency", "output_token_throughput")
    return [found[name]["avg"] for name in named]


def must_have(succeeded, requests):
    if succeeded != requests:
        raise RuntimeError(f"{succeeded} of {requests} requests succeeded")


def call(name, *words):
    program = Path(os.environ[VARIABLES[name]]) / "bin" / name
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {(done.stderr or done.stdout).strip()[-300:]}")


TOOLS = {"ours": ours, "guidellm": guidellm, "aiperf": aiperf}


def why_missing(name):
    folder = os.environ.get(VARIABLES[name], "")
    if not folder:
        return f"{VARIABLES[name]} names no environment"
    return "" if (Path(folder) / "bin" / name).is_file() else f"{VARIABLES[name]} names a folder without bin/{name}"


def compare(tools):
    """Return the medians of TTFT (ms), TPOT (ms) and tokens/s of each tool at each number of requests at once."""
    figures = {}
    with served(ttft=TTFT, itl=ITL) as (url, _):
        for _ in range(ROUNDS):
            for at_once in REQUESTS:
                for name in tools:
                    with tempfile.TemporaryDirectory() as folder:
                        figures.setdefault((at_once, name), []).append(TOOLS[name](url, at_once, Path(folder)))
    return {key: [statistics.median(column) for column in zip(*rows, strict=True)] for key, rows in figures.items()}


def truth(at_once):
    """What the server's times come to where nothing else takes any."""
    return [1e3 * TTFT, 1e3 * ITL, at_once * TOKENS / (TTFT + (TOKENS - 1) * ITL)]


def apart(one, other):
    return round(abs(one / other - 1), 4)


def fidelity():
    """Return the entries of the three measures."""
    missing = {name: reason for name in VARIABLES if (reason := why_missing(name))}
    peers = [name for name in VARIABLES if name not in missing]
    if not peers:
        reason = "; ".join(missing.values())
        return {f"fidelity_{metric}": {"skipped": reason} for metric in METRICS}
    medians = compare(["ours", *peers])
    return {f"fidelity_{metric}": entry(place, medians, peers, missing) for place, metric in enumerate(METRICS)}


def entry(place, medians, peers, missing):
    differences = {
        f"{name}@{n}": apart(medians[n, "ours"][place], medians[n, name][place]) for n in REQUESTS for name in peers
    }
    between = [apart(medians[n, peers[0]][place], medians[n, peers[-1]][place]) for n in REQUESTS]
    return {
        "value": max(differences.values()),
        "unit": "largest relative difference",
        "peer": ", ".join(peers),
        "low": min(differences.values()),
        "high": max(differences.values()),
        "n": ROUNDS,
        "differences": differences,
        "between_peers": max(between) if len(peers) > 1 else None,
        "from_truth": {f"{name}@{n}": apart(row[place], truth(n)[place]) for (n, name), row in medians.items()},
        "medians": {f"{name}@{n}": round(row[place], 2) for (n, name), row in medians.items()},
        "skipped_peers": missing or None,
        **machine(),
    }


def machine():
    return {"load": [round(value, 1) for value in os.getloadavg()], "cores": len(os.sched_getaffinity(0))}


def client_cost():
    """Return CPU milliseconds a chunk of our client, and how far it keeps up with many fast streams."""
    with served(ttft=0.1, itl=1 / RATE) as (url, process):
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
    print(json.dumps({"client_cpu_per_chunk": client_cost(), **fidelity()}))


if __name__ == "__main__":
    main()
