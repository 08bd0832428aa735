"""Queries a second, and memory of the build, of BM25 over a pool as large as Wikipedia's abstracts
(fullwiki HotpotQA).

The passages are generated, so it runs anywhere, but takes the better part of an hour and about 8 GB
of disk; a number given as argument makes a smaller pool, and the results then say so (``n``). Pool,
index and search are child processes, so that each peak is its own. A peak counts what is resident
of memory-mapped files, too. ``per_cpu_second`` is what a core does that has nothing else to do; the
others depend on what else the machine does (``load``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _rounds import peak_mb

from negfail_nb.benchmarking.index import build_index, open_index
from negfail_nb.benchmarking.pools import Pool
from negfail_nb.benchmarking.records import Passage
from negfail_nb.pocket import lazy_world, make_questions, stream_passages

COUNT, QUERIES, CORES, K = 5_233_329, 400, 2, 10
SEED, FORMS = (
    0,
    ("single", "bridge-2", "bridge-3", "comparison"),
)  # yes/no questions would need the whole world


def pool(folder: Path, count: int) -> dict:
    passages = (Passage(p.title, tuple(p.sentences)) for p in stream_passages(count, SEED))
    return {"passages": len(Pool.build(passages, folder / "pool"))}


def index(folder: Path, count: int) -> dict:
    passages = Pool.open(folder / "pool", verify=False)
    sample = range(0, count, max(1, count // 10_000))
    words = sum(len(f"{passages[n].title} {passages[n].text}".split()) for n in sample) / len(
        sample
    )
    build_index(passages, folder=folder / "index")
    size = sum(path.stat().st_size for path in (folder / "index").rglob("*") if path.is_file())
    return {"words_per_passage": round(words, 1), "index_mb": round(size / 2**20)}


def search(folder: Path, count: int) -> dict:
    found = open_index(folder / "index", Pool.open(folder / "pool", verify=False))
    records = make_questions(lazy_world(count, SEED), 2 * QUERIES, SEED, FORMS)
    asked = [record["question"] for record in records]
    warm, asked = asked[:QUERIES], asked[QUERIES:]
    found.search(warm, K)  # compiles, and reads the files
    computing = time.process_time()
    one = timed(lambda: found.search(asked, K))
    computing = time.process_time() - computing
    with ThreadPoolExecutor(CORES) as threads:
        parts = [asked[core::CORES] for core in range(CORES)]
        two = timed(lambda: list(threads.map(lambda part: found.search(part, K), parts)))
    speeds = {"one_call": one, "two_calls": two, "per_cpu_second": computing}
    return {name: round(len(asked) / seconds, 1) for name, seconds in speeds.items()}


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def child(step: str, folder: str, count: str) -> None:
    start = time.perf_counter()
    found = {"pool": pool, "index": index, "search": search}[step](Path(folder), int(count))
    print(
        json.dumps(
            {**found, "seconds": round(time.perf_counter() - start, 1), "peak_mb": round(peak_mb())}
        )
    )


def run(step: str, folder: str, count: int) -> dict:
    command = [sys.executable, __file__, "child", step, folder, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made, built, asked = (run(step, folder, count) for step in ("pool", "index", "search"))
    speed = max(asked["one_call"], asked["two_calls"])
    load = [round(value, 1) for value in os.getloadavg()]
    both = {"peer": None, "n": count, "words_per_passage": built["words_per_passage"], "load": load}
    results = {
        "bm25_qps_5m": {
            "value": speed,
            "unit": "queries/s",
            "low": asked["one_call"],
            "high": speed,
            **both,
            **asked,
        },
        "bm25_build_mb_5m": {
            "value": built["peak_mb"],
            "unit": "MB",
            "low": built["peak_mb"],
            "high": built["peak_mb"],
            **both,
            "seconds": built["seconds"],
            "index_mb": built["index_mb"],
            "pool_seconds": made["seconds"],
            "pool_mb": made["peak_mb"],
        },
    }
    print(json.dumps(results))


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["child"] else main(
        int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    )
