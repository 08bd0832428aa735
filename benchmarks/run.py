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
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
QUIET = os.environ | {"TQDM_DISABLE": "1"}
WANTED = {
    "import_mint_seconds": "<= 3",
    "formats_right": "1",
    "quality_100k": "<= 60 s, <= 2,000 MB",
    "render_vs_tokenise": "<= 1.5",
    "train_vs_trl_default": ">= 2",
    "train_vs_pad_4096": ">= 5",
    "collect_vs_ideal_64": ">= 0.97",
    "local_replies_equal": "1",
    "local_vs_best_engine": ">= 1; an engine of our own: >= 2",
    "pocket_stream_passages_per_second": ">= 15,000, < 200 MB",
    "bm25_r2": ">= 57",
    "bm25_r5": ">= 74",
    "hybrid_r2": ">= 62",
    "hybrid_r5": ">= 78",
    "three_step_r2": ">= 70",
    "three_step_r5": ">= 87",
    "bm25_qps_5m": ">= 40",
    "bm25_build_mb_5m": "<= 3,000",
    "encode_pool_seconds": "<= 180",
    "context_ladder_speedup": ">= 20",
    "fidelity_ttft": "<= 0.02",
    "fidelity_tpot": "<= 0.02",
    "fidelity_throughput": "<= 0.02",
    "fidelity_vllm": "0",
    "client_cpu_per_chunk": "<= 1",
    "roofline_heldout_median": "<= 0.10",
    "roofline_heldout_p90": "<= 0.20",
    "run_seconds": "<= 600",
    "test_seconds": "<= 600",
}


def main(only: list[str]) -> int:
    scripts = sorted(
        p for p in HERE.glob("*.py") if p.name != Path(__file__).name and not p.name.startswith("_")
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
            measured, wanted = entry.get("value", entry.get("skipped")), WANTED.get(name, "-")
            print(f"   {name}: {measured} {entry.get('unit', '')} (wanted {wanted})", flush=True)
            if "skipped" not in entry:
                keep(name, {**entry, **conditions(script)})
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


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
