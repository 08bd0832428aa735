"""Seconds to encode the pool of a published replica, about 9,800 passages of HotpotQA, by MiniLM,
with nothing cached.

The pool is the first of the draws on which recall is measured. ``again`` is the same index once
more, over its vectors.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

from _data import COUNT, HOTPOTQA

from negfail_nb.benchmarking.dense import precision
from negfail_nb.benchmarking.index import build_index
from negfail_nb.benchmarking.pools import MemoryPool
from negfail_nb.benchmarking.questions import draw, load_questions
from negfail_nb.settings import RetrievalSettings


def main() -> None:
    if not HOTPOTQA.is_file():
        print(json.dumps({"encode_pool_seconds": {"skipped": "HotpotQA is not on this machine"}}))
        return
    pool = MemoryPool(draw(load_questions(HOTPOTQA), COUNT, 0).passages)
    with tempfile.TemporaryDirectory() as folder:
        seconds, busy = build(pool, folder)
        again, _ = build(pool, folder)
    entry = {
        "value": seconds,
        "unit": "s",
        "peer": None,
        "low": seconds,
        "high": seconds,
        "n": len(pool),
        "cpu_seconds": busy,
        "again": again,
        "precision": precision(),
        "load": [round(value, 1) for value in os.getloadavg()],
    }
    print(json.dumps({"encode_pool_seconds": entry}))


def build(pool: MemoryPool, folder: str) -> tuple[float, float]:
    """Return seconds by the clock and of the processor."""
    start, busy = time.perf_counter(), time.process_time()
    build_index(pool, RetrievalSettings(method="dense"), cache=Path(folder))
    return round(time.perf_counter() - start, 1), round(time.process_time() - busy, 1)


if __name__ == "__main__":
    main()
