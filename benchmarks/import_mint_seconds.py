"""Seconds to import the 4,876 MINT logs: median of three runs in one process, file cache warm."""

import json
import statistics
import time

from _data import MINT

from negfail_nb.logs import load_trajectories

ROUNDS = 3


def measure() -> dict:
    files = sorted(MINT.glob("*.jsonl"))
    if not files:
        return {"skipped": f"the MINT logs are not at {MINT}"}
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        logs = load_trajectories(files)
        seconds.append(time.perf_counter() - start)
        assert len(logs) == 4876 and not logs.problems, logs
    value, low, high = (round(f(seconds), 3) for f in (statistics.median, min, max))
    return {"value": value, "low": low, "high": high, "unit": "s", "peer": None, "n": ROUNDS}


if __name__ == "__main__":
    print(json.dumps({"import_mint_seconds": measure()}))
