"""Run the benchmarks and keep what they measured: ``make bench``, or ``make bench ONLY=name``.

Every other script here measures one thing and prints one JSON object ``{name: {"value": .., "unit":
.., ..}}`` as its last line. Results go to ``benchmarks/results.json`` under their names; those not
measured now stay as they were. What scripts share is in files whose names begin with an underscore.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
QUIET = os.environ | {"TQDM_DISABLE": "1"}
# What is measured, and what was wanted. The page docs/measures.md says both.
MEASURES = {
    "import_mint_seconds": ("reading the 4,876 MINT logs", "<= 3"),
    "formats_right": (
        "log files, public ones and a small one of every other format, read with all counts "
        "right; 48 files, 16 of them public",
        "1",
    ),
    "quality_100k": (
        "quality control of 100,000 runs, near-duplicates included",
        "<= 60 s, <= 2,000 MB",
    ),
    "stream_2m_mb": (
        "import, quality control and rendering of 2,000,000 runs of 1.2 KB in a folder, "
        "near-duplicates and leakage included: peak memory; `n` says how many were run",
        "<= 4,000",
    ),
    "stream_2m_seconds": ("the same, seconds of all three stages", "-"),
    "render_vs_tokenise": (
        "rendering with masks against plain tokenisation of the same text",
        "<= 1.5",
    ),
    "train_vs_trl_default": (
        "packed training against TRL with padded batches of 8, all else equal",
        ">= 2",
    ),
    "train_vs_pad_4096": (
        "packed training against every run padded to 4,096 tokens, as the original did",
        ">= 5",
    ),
    "train_two_processes_equal": (
        "largest difference of a step's loss, two processes against one: whole weights and an "
        "adapter, data parallel and FSDP2, float32 on the CPU",
        "<= 1e-5",
    ),
    "collect_vs_ideal_64": (
        "share of the rate that a server with fixed delays of 0.25 s allows, 64 episodes at "
        "once; 0.988 with delays of 1 s",
        ">= 0.97",
    ),
    "two_servers": (
        "episodes per second of two servers that work on 16 requests each, against one; every "
        "request after an episode's first finds its conversation in the cache (hits: 1)",
        ">= 1.9",
    ),
    "local_replies_equal": (
        "replies equal to `generate` of the same prompt alone, float32, all cases of sharing",
        "1",
    ),
    "local_vs_best_engine": (
        "episodes per second: what we ship against the best of transformers and vLLM on the CPU",
        ">= 1; an engine of our own: >= 2",
    ),
    "pocket_stream_passages_per_second": (
        "generated passages per second, and memory",
        ">= 15,000, < 200 MB",
    ),
    "bm25_r2": (
        "gold passages among the first 2, BM25; 1,000 real HotpotQA questions, 5 draws",
        ">= 57",
    ),
    "bm25_r5": ("the same among the first 5", ">= 74"),
    "hybrid_r2": ("BM25 and MiniLM fused, first 2", ">= 62"),
    "hybrid_r5": ("the same, first 5", ">= 78"),
    "three_step_r2": (
        "three steps over links, no language model, first 2 (published IRCoT with one: 67.9)",
        ">= 70",
    ),
    "three_step_r5": ("the same, first 5 (published: 82.0)", ">= 87"),
    "bm25_qps_5m": ("questions per second on 5.2M passages, two cores", ">= 40"),
    "bm25_build_mb_5m": ("peak memory while that index is built", "<= 3,000"),
    "encode_pool_seconds": (
        "encoding the replica's 9,797 passages with MiniLM, nothing cached",
        "<= 180",
    ),
    "context_ladder_speedup": (
        "tokenising every context anew against ours; 1,000 questions, 6 lengths to 128K",
        ">= 20",
    ),
    "load_vs_truth": (
        "largest relative error of our TTFT, time per token and tokens per second against a server "
        "of known times, at 1, 16, 128 and 256 requests at once; beside it the peers' own",
        "<= 0.01",
    ),
    "fidelity_ttft": (
        "largest relative difference to guidellm, AIPerf and vLLM's tool on one server at 1, "
        "16 and 128 requests at once, time to first token; the largest is vLLM's own, at 128;"
        " ours is within 0.006 of the truth throughout",
        "<= 0.02",
    ),
    "fidelity_tpot": ("the same, time per token", "<= 0.02"),
    "fidelity_throughput": (
        "the same, tokens per second; at 1 and 16 at once at most 0.0112",
        "<= 0.02",
    ),
    "fidelity_vllm": (
        "on a real vLLM, 8 at once: how far our median lies outside the range of the three "
        "(time per token and throughput, on the fast side; TTFT is within)",
        "0",
    ),
    "client_cpu_per_chunk": (
        "client CPU per chunk, one stream, the worst case; 256 streams at 100 chunks per "
        "second keep up (99.2 %)",
        "<= 1",
    ),
    "roofline_heldout_median": (
        "absolute relative error of predicted speeds on 48 rows of a 70B, fitted on an 8B; "
        "ideal roofline 0.49",
        "<= 0.10",
    ),
    "roofline_heldout_p90": ("the same, 90th percentile; ideal roofline 0.53", "<= 0.20"),
    "speed_unseen_throughput_median": (
        "absolute relative error of predicted throughput and batch times on sources that were not "
        "fitted, each held out in turn: 1,322 rows of 19 sources; without the 330 of vLLM of "
        "2024 on AMD's GPUs 0.11 and 0.31",
        "<= 0.12",
    ),
    "speed_unseen_throughput_p90": ("the same, 90th percentile", "<= 0.35"),
    "speed_unseen_tpot_median": ("the same, time per token of servers under load", "<= 0.12"),
    "speed_unseen_tpot_p90": ("the same, 90th percentile", "<= 0.30"),
    "speed_unseen_ttft_median": (
        "the same, time to first token, 232 of 254 rows under load",
        "<= 0.25",
    ),
    "speed_unseen_ttft_p90": ("the same, 90th percentile", "<= 0.60"),
    "speed_unseen_band": ("share of all these rows that lie in their 95 % band", ">= 0.90"),
    "claims_precision": (
        "share of the claims that the default checks accept which their source does say; 100 "
        "claims written before any check had seen them, 20 of them faithful (accepting all: 0.2)",
        "as high as what is installed allows",
    ),
    "ray_two_nodes": (
        "a study of 6 small cells on two Ray nodes of one core against one, nothing shared",
        ">= 1.8",
    ),
    "ray_overhead_seconds": ("what a cell takes longer on a Ray node than in a process", "<= 1"),
    "run_seconds": (
        "`make run`, all eight notebooks on generated logs, after installation",
        "<= 600",
    ),
    "test_seconds": ("`make test`, after installation", "<= 600"),
}
OTHERS = ("run.py", "house.py")  # no measures of speed or quality
HEAD = """# Measures

What `make bench` measured; `make bench ONLY=name` repeats one. This page is made from
[benchmarks/results.json](../benchmarks/results.json) by
`python benchmarks/run.py --markdown > docs/measures.md`; a test says when it is old. A range is
that of the repeats, or an interval over questions. What the numbers mean, and what was tried in
vain, is in [results.md](results.md). Machine: {machine}, unless a row says otherwise.

| measure | what | measured | unit | range | peer | wanted | when |
|---|---|---|---|---|---|---|---|
"""


def main(only: list[str]) -> int:
    if only == ["--markdown"]:
        print(measures_page(json.loads(RESULTS.read_text())), end="")
        return 0
    scripts = sorted(
        p for p in HERE.glob("*.py") if p.name not in OTHERS and not p.name.startswith("_")
    )
    chosen = [
        p
        for p in scripts
        if not only or any(name in p.stem or name in p.read_text() for name in only)
    ]
    if not chosen:
        print(f"no benchmark {' '.join(only)}; there are {', '.join(p.stem for p in scripts)}")
        return 1
    failed = []
    for script in chosen:
        print(f"== {script.stem}", flush=True)
        done = subprocess.run(
            [sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=HERE.parent, env=QUIET
        )
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            failed.append(script.stem)
            continue
        for name, entry in json.loads(lines[-1]).items():
            measured = entry.get("value", entry.get("skipped"))
            _, wanted = MEASURES.get(name, ("", "-"))
            print(f"   {name}: {measured} {entry.get('unit', '')} (wanted {wanted})", flush=True)
            if "skipped" not in entry:
                keep(name, {**entry, **conditions(script)})
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


def measures_page(results: dict) -> str:
    """Return docs/measures.md: a row per result, in the order of MEASURES."""
    unknown = sorted(set(results) - set(MEASURES))
    if unknown:
        raise ValueError(f"say in MEASURES what {', '.join(unknown)} measures")
    machine = Counter(entry["machine"] for entry in results.values()).most_common(1)[0][0]
    named = [(name, results[name]) for name in MEASURES if name in results]
    return HEAD.format(machine=machine) + "".join(_row(*one, machine) for one in named)


def _row(name: str, entry: dict, machine: str) -> str:
    what, wanted = MEASURES[name]
    low, high, count = entry.get("low"), entry.get("high"), entry.get("n")
    ranged = f"{low:,} to {high:,}" if low != high else ""
    ranged += f" (n = {count:,})" if count else ""
    when = entry["date"] + ("" if entry["machine"] == machine else f", {entry['machine']}")
    value, peer = f"{entry['value']:,}", entry.get("peer") or ""
    cells = (f"`{name}`", what, value, entry["unit"], ranged, peer, wanted, when)
    return f"| {' | '.join(cell.strip() for cell in cells)} |\n"


def keep(name: str, entry: dict) -> None:
    """Write one result at once: a stop later on loses none, nor do two runs lose each other's."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(dict(sorted({**results, name: entry}.items())), indent=1) + "\n")


def conditions(script: Path) -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB, CPU"
    )
    command = f"make bench ONLY={script.stem}"
    return {
        "command": command,
        "machine": machine,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
