"""A study on Ray: two nodes of one core against one, and one node against a process of this
machine.

The same small cells each time, each in a project folder of its own that the nodes do not see, so
that inputs are sent and run folders come back. In turns; workers have imported what they need
before. What is timed is from the first cell that is submitted to the last that is done.
``ray_two_nodes`` is the speed-up of two nodes, beside that of two processes of this machine;
``ray_overhead_seconds`` what a cell takes longer on a node than in a process. ``value`` is the median of the rounds, ``low`` and ``high`` their
extremes.
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from negfail_nb.conditions import Condition
from negfail_nb.executors import ray_executor
from negfail_nb.studies import _prepare, sweep

ROUNDS, CELLS = 2, 6
# Ray would give its workers the lowest priority, which no process of the peer has.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
    "TMPDIR": "/tmp",
}
NODE = {"num_cpus": 1, "include_dashboard": False}
STUDY = [Condition("arms", "nat", "nat", {"train": {"successes": 20, "failures": 20}})]
CHANGES = {
    "collect": {"generate": 40},
    "live": {"attempts": 3, "max_tokens": 16, "max_calls": 1},
    "model": {"name": "", "layers": 1, "width": 64, "heads": 2, "vocabulary": 1000},
    "train": {"budget": "steps", "steps": 60, "batch_tokens": 512, "dtype": "float32"},
    "evaluate": {"agent_questions": 10, "resamples": 100},
}


class Timed:
    """An executor that notes when its first cell was submitted, and its last done."""

    def __init__(self, executor):
        self.executor = executor
        self.began = self.ended = 0.0

    def __getattr__(self, name):
        return getattr(self.executor, name)

    def submit(self, *given):
        self.began = self.began or time.perf_counter()
        future = self.executor.submit(*given)
        future.add_done_callback(self._note)
        return future

    def _note(self, _):
        self.ended = time.perf_counter()


def seconds(executor, folder: Path, cells: int = CELLS) -> float:
    """Return how long some cells take, after one more for each place that warms up."""
    warm = range(1000, 1000 + getattr(executor, "places", 1))
    sweep(STUDY, warm, "pocket", folder / "warm", CHANGES, executor=executor)
    timed = Timed(executor)
    sweep(STUDY, range(cells), "pocket", folder / "home", CHANGES, executor=timed)
    return timed.ended - timed.began


def round_of(cluster, folder: Path) -> tuple[float, float, float, float]:
    """Return the seconds of one process, of two, of one node and of two."""
    pools = [in_processes(places, folder / f"processes-{places}") for places in (1, 2)]
    one = seconds(ray_executor(scratch=folder / "nodes"), folder / "one")
    node = cluster.add_node(**NODE)
    two = seconds(ray_executor(scratch=folder / "nodes"), folder / "two")
    cluster.remove_node(node)
    return *pools, one, two


def in_processes(places: int, folder: Path) -> float:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(places, context, _prepare, (1,)) as pool:
        pool.places = places
        return seconds(pool, folder)


def main() -> dict:
    try:
        import ray
        from ray.cluster_utils import Cluster
    except ImportError as error:
        return {name: {"skipped": str(error)} for name in ("ray_two_nodes", "ray_overhead_seconds")}
    os.environ.update(QUIET)
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0})
    cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        measured = [round_of(cluster, Path(folder) / str(number)) for number in range(ROUNDS)]
    ray.shutdown()
    cluster.shutdown()
    return results(measured)


def results(measured: list[tuple[float, float, float, float]]) -> dict:
    faster = [one / two for _, _, one, two in measured]
    processes = statistics.median(one / two for one, two, _, _ in measured)
    longer = [(node - process) / CELLS for process, _, node, _ in measured]
    cell = statistics.median(process for process, *_ in measured) / CELLS
    return {
        "ray_two_nodes": entry(faster, "x", f"two processes against one: {processes:.2f}"),
        "ray_overhead_seconds": entry(longer, "s", f"a cell in a process: {cell:.1f} s"),
    }


def entry(values: list[float], unit: str, peer: str) -> dict:
    rounded = {
        "value": round(statistics.median(values), 2),
        "low": round(min(values), 2),
        "high": round(max(values), 2),
    }
    return {**rounded, "unit": unit, "peer": peer, "n": len(values)}


if __name__ == "__main__":
    print(json.dumps(main()))
