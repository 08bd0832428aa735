"""Rate of two servers against one: 64 episodes at once, each server works on 16 requests at a time.

The mock server of the tests runs in processes of their own and answers each call 0.25 s after it
begins with it; what comes while 16 are worked on waits. 480 episodes of four calls take one server
480 x 4 x 0.25 / 16 = 30 s at least, and two of them 15 s. The value is how many times as many
episodes per second two servers give, in pairs of runs one after the other. `hits` is which share of
the requests after an episode's first found their conversation at the server that they went to.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from negfail_nb.agents.endpoint import EndpointModel
from negfail_nb.agents.live import collect
from negfail_nb.agents.protocol import Task
from negfail_nb.agents.tools import SearchTool
from negfail_nb.settings import EndpointSettings, LiveSettings

AT_ONCE, SLOTS, EPISODES, CALLS, DELAY, ROUNDS = 64, 16, 480, 4, 0.25, 3
SERVER = Path(__file__).parents[1] / "tests" / "mock_server.py"
PASSAGES = [(f"Number {n}", f"What {n} is: the number {n}. " * 5) for n in range(1, 500)]


def start(stack: ExitStack) -> str:
    """Start a server that is stopped with the stack, and return its address."""
    given = json.dumps({"delay": DELAY, "calls": CALLS, "slots": SLOTS, "caching": True})
    command = [sys.executable, str(SERVER), given]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.terminate)
    return process.stdout.readline().strip()


class Counting(EndpointModel):
    """Counts the requests whose conversation their server had before."""

    hits = 0

    async def reply(self, messages, sampling, tools=()):
        reply = await super().reply(messages, sampling, tools)
        self.hits += bool(reply.cached_tokens)
        return reply


def measure(urls: list[str], count: int = EPISODES) -> tuple[float, float]:
    """Return episodes per second, and the share of later requests that went where they were."""
    tasks = [Task(id=f"q{n}", question=f"What is {n}?", answer=str(n)) for n in range(1, count + 1)]
    model = Counting(EndpointSettings(base_url=urls, model="mock"))
    settings = LiveSettings(attempts=1, concurrency=AT_ONCE)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        logs = collect(model, tasks, [SearchTool(PASSAGES)], settings, file=f"{folder}/live.jsonl")
        seconds = time.perf_counter() - begun
    if [t.success for t in logs] != [True] * count or {t.usage.calls for t in logs} != {CALLS}:
        raise RuntimeError(f"{logs}: the episodes did not run as the servers script them")
    return count / seconds, model.hits / (count * (CALLS - 1))


def main() -> None:
    ratios, one_hits, two_hits = [], [], []
    for number in range(ROUNDS + 1):
        with ExitStack() as stack:
            urls = [start(stack) for _ in range(3)]
            if not number:  # imports, and whatever else happens once
                measure(urls[:1], AT_ONCE)
                continue
            one, hit = measure(urls[:1])
            one_hits.append(hit)
            two, hit = measure(urls[1:])
            two_hits.append(hit)
            ratios.append(two / one)
    entry = {
        "value": _rounded(statistics.median(ratios)),
        "unit": "times the episodes per second of one",
        "peer": f"one server, {SLOTS / (CALLS * DELAY):g} episodes/s at most",
        "low": _rounded(min(ratios)),
        "high": _rounded(max(ratios)),
        "n": ROUNDS,
        "hits": _rounded(min(two_hits)),
        "hits_of_one": _rounded(min(one_hits)),
        "load": [round(value, 1) for value in os.getloadavg()],
    }
    print(json.dumps({"two_servers": entry}))


def _rounded(value: float) -> float:
    return round(value, 4)


if __name__ == "__main__":
    main()
