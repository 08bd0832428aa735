"""Share of the ideal rate that live collection reaches: 64 episodes at once against a server of
fixed delays.

The mock server of the tests runs in a process of its own and answers each call after 0.25 s. 640
episodes of four calls and three searches cannot take less than 640 x 4 x 0.25 / 64 = 10 s; what
collection takes longer is its own cost: the client, the tools, parsing, grading, and a synced line
an episode. Imports are not counted. `at_one_second` is the share where each call takes a second, as
that of a large model may. Both depend on what else the machine does: see `load`.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from negfail_nb.agents.endpoint import EndpointModel
from negfail_nb.agents.live import collect
from negfail_nb.agents.protocol import Task
from negfail_nb.agents.tools import SearchTool
from negfail_nb.settings import EndpointSettings, LiveSettings

AT_ONCE, EPISODES, CALLS, DELAY, ROUNDS = 64, 640, 4, 0.25, 3
IDEAL = EPISODES * CALLS * DELAY / AT_ONCE
SLOW_EPISODES, SLOW_DELAY = 320, 1.0
SERVER = Path(__file__).parents[1] / "tests" / "mock_server.py"
PASSAGES = [
    (f"Number {n}", f"What {n} is: the number {n}, which follows {n - 1}. " * 5)
    for n in range(1, 2000)
]


def measure(url: str, folder: Path, count: int) -> tuple[float, float]:
    """Return seconds, and our own CPU seconds, of so many episodes."""
    tasks = [Task(id=f"q{n}", question=f"What is {n}?", answer=str(n)) for n in range(1, count + 1)]
    search = SearchTool(PASSAGES)
    model = EndpointModel(EndpointSettings(base_url=url, model="mock"))
    settings = LiveSettings(attempts=1, concurrency=AT_ONCE)
    start, cpu = time.perf_counter(), time.process_time()
    logs = collect(model, tasks, [search], settings, file=folder / f"{count}.jsonl")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    if [t.success for t in logs] != [True] * count or {t.usage.calls for t in logs} != {CALLS}:
        raise RuntimeError(f"{logs}: the episodes did not run as the server scripts them")
    return seconds, cpu


def rounds(delay: float, episodes: int, count: int) -> list[tuple[float, float]]:
    server = [sys.executable, str(SERVER), json.dumps({"delay": delay, "calls": CALLS})]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            found = []
            for _ in range(count):
                with tempfile.TemporaryDirectory() as folder:
                    measure(url, Path(folder), AT_ONCE)  # imports, and whatever else happens once
                    found.append(measure(url, Path(folder), episodes))
            return found
        finally:
            process.terminate()


def main() -> None:
    found = rounds(DELAY, EPISODES, ROUNDS)
    ((slow, _),) = rounds(SLOW_DELAY, SLOW_EPISODES, 1)
    shares = sorted(IDEAL / seconds for seconds, _ in found)
    entry = {
        "value": round(statistics.median(shares), 4),
        "unit": f"of the ideal rate ({EPISODES / IDEAL:g} episodes/s)",
        "peer": f"the server's delays alone, {IDEAL:g} s",
        "low": round(shares[0], 4),
        "high": round(shares[-1], 4),
        "n": ROUNDS,
        "at_one_second": round(SLOW_EPISODES * CALLS * SLOW_DELAY / AT_ONCE / slow, 4),
        "load": [round(value, 1) for value in os.getloadavg()],
        "cpu_ms_a_call": round(
            1e3 * statistics.median(cpu for _, cpu in found) / (EPISODES * CALLS), 3
        ),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps({"collect_vs_ideal_64": entry}))


if __name__ == "__main__":
    main()
