"""For benchmarks of load: the load generators of others, each in an environment of its own, on
a server of choice.

Three variables name the environments' folders::

    python -m venv DIR1 && DIR1/bin/pip install guidellm==0.8.1    # NEGFAIL_NB_GUIDELLM=DIR1
    python -m venv DIR2 && DIR2/bin/pip install aiperf==0.13.0     # NEGFAIL_NB_AIPERF=DIR2
    an environment with vLLM, of any build                         # NEGFAIL_NB_VLLM=DIR3

Every function returns the means of TTFT and time a token (ms), and output tokens a second, by that
tool's own words.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

VARIABLES = {
    "guidellm": "NEGFAIL_NB_GUIDELLM",
    "aiperf": "NEGFAIL_NB_AIPERF",
    "vllm": "NEGFAIL_NB_VLLM",
}
PATIENCE = 900  # seconds that one run of a peer may take
# The same numbers of our own traces, in each tool's dialect (``_dialects.py``).
NAMES = {
    "guidellm": ("time_to_first_token_ms", "inter_token_latency_ms", "output_tokens_per_second"),
    "aiperf": ("time_to_first_token", "inter_token_latency", "output_token_throughput"),
    "vllm": ("ttft_ms", "tpot_ms", "output_throughput"),
}


@dataclass(frozen=True)
class Load:
    """What every tool is asked to do."""

    url: str  # with /v1
    model: str
    tokenizer: Path
    at_once: int
    requests: int
    words: int  # tokens of a prompt, about
    tokens: int  # of a reply


def why_missing(name):
    """Return why a peer cannot run; empty where it can."""
    folder = os.environ.get(VARIABLES[name], "")
    if not folder:
        return f"{VARIABLES[name]} names no environment"
    return (
        ""
        if (Path(folder) / "bin" / name).is_file()
        else f"{VARIABLES[name]} names a folder without bin/{name}"
    )


def guidellm(load, folder):
    result = folder / "guidellm.json"
    call(
        "guidellm",
        *("run", "--disable-console-interactive"),
        *(
            "--backend",
            f"kind=openai_http,target={load.url.removesuffix('/v1')},model={load.model}",
        ),
        *("--data", f"kind=synthetic_text,prompt_tokens={load.words},output_tokens={load.tokens}"),
        *("--profile", f"kind=concurrent,streams={load.at_once}"),
        *("--constraint", f"kind=max_requests,count={load.requests}"),
        *("--tokenizer", f"kind=huggingface_auto,model={load.tokenizer}"),
        *("--output", f"kind=json,path={result}"),
    )
    metrics = json.loads(result.read_text())["benchmarks"][0]["metrics"]
    must_have(metrics["request_totals"]["successful"], load.requests)
    return [metrics[name]["successful"]["mean"] for name in NAMES["guidellm"]]


def aiperf(load, folder):
    call(
        "aiperf",
        *(
            "profile",
            "-m",
            load.model,
            "--url",
            load.url.removesuffix("/v1"),
            "--endpoint-type",
            "chat",
            "--streaming",
        ),
        *("--concurrency", str(load.at_once), "--request-count", str(load.requests)),
        *("--warmup-request-count", "2", "--synthetic-input-tokens-mean", str(load.words)),
        *("--output-tokens-mean", str(load.tokens), "--extra-inputs", "ignore_eos:true"),
        *("--use-server-token-count", "--tokenizer", str(load.tokenizer), "--ui", "none"),
        *("--artifact-dir", str(folder)),
    )
    found = json.loads(next(folder.rglob("profile_export_aiperf.json")).read_text())
    must_have(found["request_count"]["avg"], load.requests)
    return [found[name]["avg"] for name in NAMES["aiperf"]]


def vllm(load, folder):
    call(
        "vllm",
        *(
            "bench",
            "serve",
            "--backend",
            "openai-chat",
            "--endpoint",
            "/v1/chat/completions",
            "--model",
            load.model,
        ),
        *("--tokenizer", str(load.tokenizer), "--base-url", load.url.removesuffix("/v1")),
        *(
            "--dataset-name",
            "random",
            "--random-input-len",
            str(load.words),
            "--random-output-len",
            str(load.tokens),
        ),
        *(
            "--num-prompts",
            str(load.requests),
            "--max-concurrency",
            str(load.at_once),
            "--num-warmups",
            "2",
        ),
        *("--ignore-eos", "--disable-tqdm", "--save-result", "--result-dir", str(folder)),
        *("--result-filename", "vllm.json"),
    )
    found = json.loads((folder / "vllm.json").read_text())
    must_have(found["completed"], load.requests)
    return [found["mean_ttft_ms"], found["mean_tpot_ms"], found["output_throughput"]]


PEERS = {"guidellm": guidellm, "aiperf": aiperf, "vllm": vllm}


def in_dialects(table, tools):
    """Return the three numbers of each tool's dialect from what `dialects` returns."""
    values = {(r.tool, r.name, r.statistic): r.value for r in table.itertuples(index=False)}
    ends = ("mean", "mean", "rate")
    return {
        t: [values[t, name, end] for name, end in zip(NAMES[t], ends, strict=True)] for t in tools
    }


def must_have(succeeded, requests):
    if succeeded != requests:
        raise RuntimeError(f"{succeeded} of {requests} requests succeeded")


def call(name, *words):
    program = Path(os.environ[VARIABLES[name]]) / "bin" / name
    # AIPerf, told to be offline, takes a folder for a name on the hub.
    quiet = os.environ | ({"HF_HUB_OFFLINE": "1"} if name != "aiperf" else {})
    done = subprocess.run(
        [program, *words], capture_output=True, text=True, timeout=PATIENCE, env=quiet
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed: {(done.stderr or done.stdout).strip()[-300:]}")
