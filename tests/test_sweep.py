"""A sweep: cells are cached walks, equal ones are one, and what is saved is what is compared."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest

from negfail_nb.__main__ import main
from negfail_nb.environment import environment
from negfail_nb.settings import ModelSettings, get_profile
from negfail_nb.studies import Condition, Swept, paper_studies, sweep
from negfail_nb.training import load_model, make_tokenizer

CONDITIONS = [
    Condition("arms", "vanilla", "vanilla", {"train": {"successes": 4, "failures": 4}}),
    Condition("arms", "nat", "nat", {"train": {"successes": 4, "failures": 4}}),
    Condition("wordings", "target-aware", "nat", {"train": {"successes": 4, "failures": 4}}),
]


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(
        ["Question: Thought: Action: search[who] finish[it] Observation:"] * 3, 400
    )
    shape = ModelSettings(layers=1, width=32, heads=2, vocabulary=400, positions=4096)
    load_model(shape, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "collect": {"generate": 24, "attempts": 3},
        "live": {"results": 1, "max_tokens": 8, "max_calls": 1},
        "model": {"name": str(folder)},
        "train": {"budget": "steps", "steps": 1, "batch_tokens": 1024},
        "evaluate": {"agent_questions": 4, "resamples": 100},
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def swept(changes, home):
    return sweep(CONDITIONS, (0, 1), "pocket", home, changes)


def test_every_condition_has_every_seed_on_the_same_questions(swept):
    assert len(swept.cells) == 6 and set(swept.cells["seed"]) == {0, 1}
    asked = swept.episodes.groupby(["study", "condition", "seed"])["question_id"].agg(
        lambda ids: tuple(sorted(ids))
    )
    assert asked.nunique() == 1 and len(asked.iloc[0]) == 4


def test_equal_cells_are_trained_once_and_a_second_sweep_trains_nothing(swept, changes, home):
    folders = swept.cells.set_index(["condition", "seed"])["folder"]
    assert folders["nat", 0] == folders["target-aware", 0] != folders["vanilla", 0]
    before = sorted(p.name for p in (home / "runs" / "pocket").glob("*/*"))
    again = sweep(CONDITIONS, (0, 1), "pocket", home, changes)
    assert sorted(p.name for p in (home / "runs" / "pocket").glob("*/*")) == before
    pd.testing.assert_frame_equal(again.cells, swept.cells)


def test_what_was_saved_compares_alike(swept, tmp_path):
    loaded = Swept.load(swept.save(tmp_path))
    pd.testing.assert_frame_equal(loaded.compare("arms"), swept.compare("arms"))
    assert swept.compare("arms")["arm"].tolist() == ["vanilla", "nat"]


def test_processes_give_what_one_gives(swept, changes, home):
    two = sweep(CONDITIONS[:2], (0, 2), "pocket", home, changes, workers=2)
    alone = swept.cells[(swept.cells["study"] == "arms") & (swept.cells["seed"] == 0)]
    pd.testing.assert_frame_equal(
        two.cells[two.cells["seed"] == 0].reset_index(drop=True), alone.reset_index(drop=True)
    )


@pytest.mark.parametrize(
    ("conditions", "seeds", "extra", "said"),
    [
        (CONDITIONS, (0,), {"evaluate": {"agent_questions": 0}}, "agent_questions is 0"),
        ([], (0,), {}, "0 conditions and 1 seeds"),
        (CONDITIONS, (), {}, "3 conditions and 0 seeds"),
    ],
)
def test_a_sweep_of_nothing_is_refused(conditions, seeds, extra, said, changes, tmp_path):
    with pytest.raises(ValueError, match=said):
        sweep(conditions, seeds, "pocket", tmp_path, {**changes, **extra})


def test_missing_studies_and_tables_are_named(swept, tmp_path):
    with pytest.raises(ValueError, match="no study 'size'.*arms, wordings"):
        swept.compare("size")
    with pytest.raises(FileNotFoundError, match=r"episodes\.csv.*make experiment"):
        Swept.load(tmp_path)


def test_the_papers_studies_can_be_walked_and_name_each_condition_once():
    conditions = paper_studies()
    assert {c.study for c in conditions} == {
        "arms",
        "epochs",
        "failures",
        "successes",
        "wordings",
        "quality",
    }
    assert len({(c.study, c.name) for c in conditions}) == len(conditions)
    for condition in conditions:
        get_profile("pocket").change(**condition.changes)


def test_the_numbers_that_one_sets_are_those_of_the_studies(monkeypatch, tmp_path, capsys):
    asked = []

    def only_noted(conditions, *_):
        asked.extend(conditions)
        raise ValueError("noted")

    monkeypatch.setattr(
        sys.modules["negfail_nb.studies"], "sweep", only_noted
    )  # the package has a name like it
    sets = ["--set", "train.successes=200", "--set", "train.failures=800"]
    assert main(["experiment", "--profile", "pocket", "--home", str(tmp_path), *sets]) != 0
    assert {c.changes["train"]["successes"] for c in asked if c.study == "arms"} == {200}
    assert [c.name for c in asked if c.study == "failures"][-1] == "nat 1600"
    assert "vanilla 800" in {c.name for c in asked if c.study == "successes"}


def test_the_tables_say_which_commit_their_cells_come_from(swept, tmp_path, home):
    assert swept.provenance["environment"]["git"] == environment()["git"]
    loaded = Swept.load(swept.save(tmp_path))
    assert loaded.provenance == swept.provenance
    (tmp_path / "made.json").unlink()
    assert Swept.load(tmp_path).provenance["environment"] == {}, (
        "nobody noted it, and today's commit is not theirs"
    )


def test_cells_of_two_commits_name_both(swept):
    two = replace(swept, made=({"git": {"commit": "a"}}, {"git": {"commit": "b"}}))
    assert [e["git"]["commit"] for e in two.provenance["environment"].values()] == ["a", "b"]


PARENT = """
import sys, time
from multiprocessing import get_context
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from negfail_nb.studies import _prepare
from tests_worker import work

if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=_prepare, initargs=(1,)) as pool:
        list(pool.map(work, [sys.argv[1]] * 2))
"""
WORKER = """
import os, time
from pathlib import Path

def work(folder):
    Path(folder, str(os.getpid())).write_text("")
    time.sleep(600)
"""


def test_workers_end_with_their_parent_also_where_it_is_killed(tmp_path):
    (tmp_path / "tests_worker.py").write_text(WORKER)
    (tmp_path / "parent.py").write_text(PARENT)
    (began := tmp_path / "began").mkdir()
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])
    command = [sys.executable, str(tmp_path / "parent.py"), str(began)]
    parent = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: len(list(began.iterdir())) == 2 or parent.poll() is not None)
        workers = [psutil.Process(int(path.name)) for path in began.iterdir()]
        assert len(workers) == 2
    finally:
        parent.kill()
        parent.wait()
    _, left = psutil.wait_procs(workers, timeout=60)
    for process in left:
        process.kill()
    assert not left


def until(holds):
    deadline = time.monotonic() + 120
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
