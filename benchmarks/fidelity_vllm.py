"""Our times of a real vLLM on the CPU, serving pocket-llama, beside those of guidellm, AIPerf and
vLLM's own tool.

``NEGFAIL_NB_VLLM`` names an environment with vLLM; ``_peers.py`` says where the other peers are. On
a real server nobody knows the truth, and peers differ from each other and from round to round. So
the measure is how far our median lies outside of all that the peers saw, as a share of it: 0 where
it lies within. All tools ask the server for as many replies of the same length, after prompts of
about the same length, one tool after the other, ROUNDS times. The server keeps no prefixes: two of
the peers send the same prompts in each round, which would cost it nothing the second time.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from _dialects import dialects
from _peers import NAMES, PEERS, Load, in_dialects, must_have, why_missing

from negfail_nb.settings import EndpointSettings, LoadSettings
from negfail_nb.speed import measure_load

MODEL = Path(__file__).parents[1] / "negfail_nb" / "pocket" / "llama"
AT_ONCE, REQUESTS, WORDS, TOKENS, ROUNDS = 8, 64, 256, 64, 5
NONCE = 14  # tokens, about
START = 600  # seconds that the server may take to start


@contextmanager
def served(model=MODEL, dtype="float32", length="1024", more=("--no-enable-prefix-caching",)):
    """Run vLLM, and return its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(os.environ["NEGFAIL_NB_VLLM"]) / "bin" / "vllm"
    command = [
        program,
        "serve",
        model,
        "--served-model-name",
        "pocket",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--dtype", dtype, "--max-model-len", length, "--enforce-eager", *more]
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, env=quiet, stdout=log, stderr=log) as process,
    ):
        try:
            wait(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def wait(url, process):
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("vLLM did not start")


def ours(asked):
    """Return what each tool would say of our traces."""
    settings = LoadSettings(
        concurrency=(asked.at_once,),
        caches=("cold",),
        requests=asked.requests,
        output_tokens=asked.tokens,
    )
    found = measure_load(
        EndpointSettings(base_url=asked.url, model=asked.model, timeout=600.0),
        prompts(asked),
        settings,
    )
    must_have(sum(trace.ok for trace in found.measured), asked.requests)
    return in_dialects(dialects(found.traces), NAMES)


def prompts(asked):
    """Return texts of so many tokens, of which what we put before each of them takes some."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(asked.tokenizer)
    texts = (
        " ".join(f"w{n}" for n in range(start, start + asked.words)) for start in range(0, 640, 10)
    )
    return [tokenizer.decode(tokenizer(text).input_ids[: asked.words - NONCE]) for text in texts]


def outside(values, peers):
    """Return by how much our median is below or above all that the peers saw, relative to it; 0
    within.
    """
    middle = statistics.median(values)
    return round(max(0.0, min(peers) / middle - 1, middle / max(peers) - 1), 4)


def main():
    """Print one JSON object."""
    logging.disable(logging.WARNING)
    missing = {name: reason for name in PEERS if (reason := why_missing(name))}
    peers = [name for name in PEERS if name not in missing]
    if "vllm" in missing:
        print(json.dumps({"fidelity_vllm": {"skipped": missing["vllm"]}}))
        return
    found = {}
    with served() as url:
        asked = Load(url, "pocket", MODEL, AT_ONCE, REQUESTS, WORDS, TOKENS)
        for _ in range(ROUNDS):
            found.setdefault("ours", []).append(ours(asked)["aiperf"])
            for name in peers:
                with tempfile.TemporaryDirectory() as folder:
                    found.setdefault(name, []).append(PEERS[name](asked, Path(folder)))
    apart = {
        metric: outside(
            [row[place] for row in found["ours"]],
            [row[place] for name in peers for row in found[name]],
        )
        for place, metric in enumerate(("ttft", "tpot", "throughput"))
    }
    entry = {
        "value": max(apart.values()),
        "unit": "relative distance from the range of the peers",
        "peer": ", ".join(peers),
        "n": ROUNDS,
        "by_metric": apart,
        "ttft_tpot_throughput": {
            name: [[round(v, 2) for v in row] for row in rows] for name, rows in found.items()
        },
        "skipped_peers": missing or None,
        "load": [round(value, 1) for value in os.getloadavg()],
    }
    print(json.dumps({"fidelity_vllm": entry}))


if __name__ == "__main__":
    main()
