"""Passages a second, and peak memory, of writing the corpus of a world of one million entities.

A child process streams the passages into a file, so that the peak is its own; the file is removed
again.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from _rounds import peak_mb, rounds

from negfail_nb.pocket import write_passages

COUNT = 1_000_000


def child() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        path = write_passages(Path(folder) / "corpus.jsonl", COUNT, seed=0, split="train")
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        size = path.stat().st_size
    print(
        json.dumps(
            {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak_mb(), "file_mb": size / 2**20}
        )
    )


def main() -> None:
    results = rounds(__file__)
    middle = results[len(results) // 2]
    measure = {
        "value": round(COUNT / middle["seconds"]),
        "unit": "passages/s",
        "peer": None,
        "low": round(COUNT / results[-1]["seconds"]),
        "high": round(COUNT / results[0]["seconds"]),
        "n": COUNT,
        "cpu_seconds": round(middle["cpu_seconds"], 1),
        "peak_mb": round(max(result["peak_mb"] for result in results)),
        "file_mb": round(middle["file_mb"]),
    }
    print(json.dumps({"pocket_stream_passages_per_second": measure}))


if __name__ == "__main__":
    child() if sys.argv[1:] == ["child"] else main()
