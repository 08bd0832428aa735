"""Studies on a Ray cluster of two nodes with one core each: what comes out is what one process
makes, also where a worker is killed or a node goes. ``make test-scale`` runs these.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
from ray_runs import HOME, NODE, cluster, until  # noqa: F401
from study_runs import CONDITIONS, episodes, small_study

from negfail_nb.executors import ray_executor
from negfail_nb.studies import sweep
from negfail_nb.swept import Swept

SCALE = "NEGFAIL_NB_SCALE"
pytestmark = pytest.mark.skipif(
    not os.environ.get(SCALE), reason=f"takes minutes; set {SCALE}=1 (make test-scale)"
)
LONGER = {"steps": 60, "save_steps": 5}


@pytest.fixture
def two_nodes(cluster):  # noqa: F811
    """The cluster with a second node, which a test may take away."""
    node = cluster.add_node(**NODE)
    yield cluster, node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    made = small_study(tmp_path_factory.mktemp("model"))
    return made | {"train": made["train"] | {"steps": 3, "learning_rate": 1e-2}}


@pytest.fixture(scope="module")
def longer(changes):
    return changes | {"train": changes["train"] | LONGER}


@pytest.fixture(scope="module")
def alone(changes, longer, tmp_path_factory):
    """The short and the longer study in one process: their folders and tables."""
    homes = [tmp_path_factory.mktemp(name) for name in ("short", "longer")]
    return [
        (homes[0], sweep(CONDITIONS, (0, 1), "pocket", homes[0], changes)),
        (homes[1], sweep(CONDITIONS[:2], (0,), "pocket", homes[1], longer)),
    ]


@pytest.fixture(params=[True, False], ids=["shared", "apart"])
def shared(request):
    return request.param


def same(found, expected):
    left_out = ["folder", "train_seconds"]
    tables = (one.cells.drop(columns=left_out) for one in (found, expected))
    pd.testing.assert_frame_equal(*tables)


def test_a_cluster_gives_what_one_process_gives(two_nodes, shared, alone, changes, tmp_path):
    home, expected = alone[0]
    given = CONDITIONS, (0, 1), "pocket", tmp_path / "home", changes
    with ray_executor(shared=shared, scratch=tmp_path / "nodes") as executor:
        assert executor.places == 2
        found = sweep(*given, executor=executor)
        before = sorted(tmp_path.glob("home/runs/pocket/*/*"))
        again = sweep(*given, executor=executor)
    assert episodes(tmp_path / "home") == episodes(home) and len(episodes(home)) == 4
    same(found, expected)
    pd.testing.assert_frame_equal(again.cells, found.cells)
    assert sorted(tmp_path.glob("home/runs/pocket/*/*")) == before
    environments = [one.made[0]["environment"] for one in (found, expected)]
    assert environments[0] == environments[1], "what it was made with names no worker"
    assert not list(tmp_path.glob("nodes/*/[0-9a-f]*")), "nodes keep nothing"


@dataclass
class Training:
    """A training that is under way: who is at it, and its last whole checkpoint."""

    worker: psutil.Process
    folder: Path
    seconds: list

    def came_to(self, home):
        """Return the folder that it has in a project, if it is there."""
        name = f"{self.folder.parent.name}/{self.folder.name}"
        folder = home / "runs" / "pocket" / name
        return folder if folder.is_dir() else None

    def goes_on_in(self, home):
        """Whether a finished training has the steps of this one as they were."""
        if not (folder := self.came_to(home)):
            return False
        curve = pd.read_csv(folder / "curve.csv")
        return curve["seconds"].tolist()[: len(self.seconds)] == self.seconds


def training(root, raylet=None):
    """Return a training below a folder, of the workers of one node, once it has a checkpoint."""
    try:
        marks = list(root.glob("**/checkpoint-*/whole.json"))
    except OSError:  # a folder went while it was looked at
        return None
    for mark in marks:
        folder = mark.parents[2]
        plan = json.loads((folder / "plan.json").read_text())
        locks = next(p for p in folder.parents if p.name == "runs") / ".locks"
        try:
            owner = json.loads((locks / f".{plan['fingerprint'][:16]}.owner").read_text())
            worker = psutil.Process(owner["pid"])
            state = json.loads((mark.parent / "trainer_state.json").read_text())
        except (OSError, ValueError, psutil.NoSuchProcess):
            continue
        if raylet is None or raylet in [p.pid for p in worker.parents()]:
            seconds = [entry["seconds"] for entry in state["log_history"]]
            return Training(worker, folder, seconds)
    return None


def test_a_cell_whose_worker_is_killed_goes_on_from_its_checkpoint(
    two_nodes, shared, alone, longer, tmp_path
):
    home, expected = alone[1]
    executor = ray_executor(shared=shared, scratch=tmp_path / "nodes")
    given = CONDITIONS[:2], (0,), "pocket", tmp_path / "home", longer
    with ThreadPoolExecutor(1) as pool:
        swept = pool.submit(sweep, *given, executor=executor)
        found = until(lambda: training(tmp_path))
        found.worker.send_signal(signal.SIGKILL)
        same(swept.result(timeout=300), expected)
    assert episodes(tmp_path / "home") == episodes(home)
    assert len(list(tmp_path.glob("home/runs/pocket/train-*/*"))) == 2
    if shared or found.came_to(tmp_path / "home"):  # else the other node was free, and began anew
        assert found.goes_on_in(tmp_path / "home")


def test_cells_of_a_node_that_goes_are_made_on_the_other(
    two_nodes, shared, alone, longer, tmp_path
):
    cluster, node = two_nodes  # noqa: F811
    home, expected = alone[1]
    raylet = node.all_processes["raylet"][0].process.pid
    executor = ray_executor(shared=shared, scratch=tmp_path / "nodes")
    given = CONDITIONS[:2], (0,), "pocket", tmp_path / "home", longer
    with ThreadPoolExecutor(1) as pool:
        swept = pool.submit(sweep, *given, executor=executor)
        found = until(lambda: training(tmp_path, raylet))
        cluster.remove_node(node, allow_graceful=False)
        same(swept.result(timeout=300), expected)
    assert episodes(tmp_path / "home") == episodes(home)
    assert len(list(tmp_path.glob("home/runs/pocket/train-*/*"))) == 2
    assert found.goes_on_in(tmp_path / "home") == shared


def command(number, address, home, changes):
    """Return a command of the page on studies, with a small study in place of its large one."""
    text = (HOME / "docs" / "scale_studies.md").read_text(encoding="utf-8")
    found = re.findall(r"^negfail_nb (experiment .*--executor ray.*)$", text, re.MULTILINE)
    instead = {"llama-8b": "pocket", "auto": address, "--gpus 1": "--gpus 0", "--cpus 8": ""}
    for said, small in instead.items():
        assert said in found[number]
        found[number] = found[number].replace(said, small)
    few = changes["train"] | {"successes": 4, "failures": 4}
    sets = [
        f"{stage}.{name}={json.dumps(value)}"
        for stage, settings in {**changes, "train": few}.items()
        for name, value in settings.items()
    ]
    words = [*shlex.split(found[number]), "--home", str(home), "--studies", "arms", "--seeds", "0"]
    chosen = [word for one in sets for word in ("--set", one)]
    return [sys.executable, "-m", "negfail_nb", *words, *chosen]


def test_the_command_is_interrupted_and_goes_on(two_nodes, longer, tmp_path):
    cluster, _ = two_nodes  # noqa: F811
    slow = longer | {"train": longer["train"] | {"steps": 300, "save_steps": 20}}
    words = command(0, cluster.address, tmp_path, slow)
    assert "--shared" in words
    first = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=shown())
    found = until(lambda: training(tmp_path))
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=120)[1]
    assert first.returncode == 130 and "what is finished stays" in said
    assert "to do, for how long is unknown" in said
    assert until(lambda: not found.worker.is_running() or found.worker.status() == "zombie")
    assert not (tmp_path / "results").exists()
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL, timeout=400)
    assert len(Swept.load(tmp_path / "results").cells) == 3
    assert found.goes_on_in(tmp_path)


def shown():
    """Return the environment of a command that draws its bars."""
    return {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}


def test_the_command_starts_a_ray_of_its_own_also_below_a_long_folder(changes, tmp_path):
    long = tmp_path / ("long" * 12)
    long.mkdir()
    environment = {**shown(), "TMPDIR": str(long), "PYTHONPATH": str(HOME)}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    words = command(1, "auto", tmp_path / "home", changes)
    words = [word for word in words if word not in ("--address", "auto")]
    assert "--shared" not in words
    subprocess.run(words, check=True, env=environment, stderr=subprocess.DEVNULL, timeout=400)
    assert len(Swept.load(tmp_path / "home" / "results").cells) == 3
    assert len(episodes(tmp_path / "home")) == 3


def test_a_process_that_is_killed_says_so_and_the_same_call_goes_on(alone, longer, tmp_path):
    home, expected = alone[1]
    given = CONDITIONS[:2], (0,), "pocket", tmp_path, longer
    with ThreadPoolExecutor(1) as pool:
        swept = pool.submit(sweep, *given, workers=2)
        found = until(lambda: training(tmp_path))
        found.worker.send_signal(signal.SIGKILL)
        with pytest.raises(RuntimeError, match="a worker process was killed.*the same call goes"):
            swept.result(timeout=300)
    same(sweep(*given, workers=2), expected)
    assert episodes(tmp_path) == episodes(home) and found.goes_on_in(tmp_path)
