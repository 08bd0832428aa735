"""Peak memory and seconds of import, quality control and rendering of 2,000,000 runs, in a folder.

The runs are made first, about 1 KB each. A child process does the work, so that the peak is its
own. ``NEGFAIL_NB_RUNS`` says how many, and where ``NEGFAIL_NB_ROOM`` is a folder, the 20 GB go
there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _many_logs import write_logs
from _rounds import peak_mb

COUNT = int(os.environ.get("NEGFAIL_NB_RUNS", "2000000"))


def child(folder: Path) -> None:
    from itertools import islice

    from negfail_nb.logs import load_trajectories
    from negfail_nb.prefix import render
    from negfail_nb.quality import assess
    from negfail_nb.settings import QualitySettings
    from negfail_nb.steps import text
    from negfail_nb.training import make_tokenizer

    told = {}
    start = time.perf_counter()

    def done(stage: str) -> None:
        nonlocal start
        now = time.perf_counter()
        told[stage] = {"seconds": round(now - start, 1), "peak_mb": round(peak_mb())}
        start = now

    logs = load_trajectories(sorted(folder.glob("logs/*.jsonl")), folder=folder / "import")
    done("import")
    settings = QualitySettings(evaluation=(str(folder / "logs" / ".evaluation.jsonl"),))
    report = assess(logs, settings, folder=folder / "quality")
    done("quality")
    said = [text(message) for run in islice(logs, 2_000) for message in run.messages]
    tokenizer = make_tokenizer(said, 8_192)
    rendered = render(report.train, "target-aware", tokenizer, folder=folder / "render")
    done("render")
    counts = {"read": len(logs), "kept": len(report.kept), "rendered": len(rendered)}
    print(json.dumps({**told, **counts}))


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("NEGFAIL_NB_ROOM")) as name:
        folder = Path(name)
        write_logs(folder / "logs", COUNT)
        command = [sys.executable, __file__, str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        kept = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        shutil.rmtree(folder / "logs")
    stages = {name: found.pop(name) for name in ("import", "quality", "render")}
    about = {"n": COUNT, "peer": None, "stages": stages, **found, "disk_gb": round(kept / 1e9, 1)}
    peak = max(stage["peak_mb"] for stage in stages.values())
    seconds = round(sum(stage["seconds"] for stage in stages.values()))
    print(
        json.dumps(
            {
                "stream_2m_mb": {"value": peak, "unit": "MB", "low": peak, "high": peak, **about},
                "stream_2m_seconds": {
                    "value": seconds,
                    "unit": "s",
                    "low": seconds,
                    "high": seconds,
                    **about,
                },
            }
        )
    )


if __name__ == "__main__":
    child(Path(sys.argv[1])) if sys.argv[1:] else main()
