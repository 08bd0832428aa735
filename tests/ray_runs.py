"""One Ray cluster for all tests of a process, and what its workers are asked to do."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
# Neither memory nor disk takes more than a store has: so it can be full.
FULL = {"local_fs_capacity_threshold": 0.0001}


@pytest.fixture(scope="session")
def cluster():
    """A cluster of one node with one core; tests add a second and take it away."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install negfail_nb[ray]")
    if sys.platform == "win32":
        pytest.skip("ray.cluster_utils does not run on Windows")
    patch = pytest.MonkeyPatch()
    paths = f"{HOME}{os.pathsep}{HOME / 'tests'}"
    patch.setenv("PYTHONPATH", f"{paths}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("TMPDIR", "/tmp")  # short: the names of sockets may have 107 bytes
    patch.setenv("OMP_NUM_THREADS", "1")
    import ray
    from ray.cluster_utils import Cluster

    head = NODE | {"include_dashboard": False, "_system_config": FULL}
    made = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()
    patch.undo()


def die_once(folder):
    """The worker is killed the first time, and says so the second."""
    killed = Path(folder) / "killed"
    if killed.exists():
        return "again"
    killed.write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)


def wait(folder):
    """Note that it runs, and go on for minutes."""
    (Path(folder) / "runs").write_text(str(os.getpid()))
    time.sleep(300)


def threads():
    """Return how many threads OpenMP may take."""
    return os.environ["OMP_NUM_THREADS"]


def much(megabytes):
    """Return more than fits."""
    return os.urandom(megabytes * 2**20)


def fail():
    """Fail as a function does that is given what it cannot take."""
    raise ValueError("train.steps is -1")


def read(path):
    """Return the text of a file; nothing where there is none yet."""
    return Path(path).read_text() if Path(path).is_file() else ""


def until(holds):
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + 180
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
