"""A sweep: cells are cached walks, equal ones are one, and what is saved is what is compared."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
from study_runs import CONDITIONS, small_study

from negfail_nb.__main__ import main
from negfail_nb.conditions import ARMS, CLEAN, Condition, paper_studies
from negfail_nb.environment import environment
from negfail_nb.settings import get_profile
from negfail_nb.studies import sweep
from negfail_nb.swept import Swept


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    return small_study(tmp_path_factory.mktemp("model"))


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
    assert (swept.cells["steps"] == 1).all() and (swept.cells["train_seconds"] >= 0).all()
    assert swept.cells["against"].tolist()[:3] == ["vanilla", "vanilla", "target-aware"]


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


def table(*conditions, seeds=(0, 1), right=lambda name, seed, q: q % 2):
    """A sweep of conditions ``(name, against)`` that nobody trained, with one study ``s``."""
    keys = [
        {"study": "s", "condition": n, "arm": "nat", "seed": s}
        for n, _ in conditions
        for s in seeds
    ]
    rows = [
        key
        | {
            "question_id": f"q{q}",
            "attempt": 0,
            "em": float(right(key["condition"], key["seed"], q)),
        }
        for key in keys
        for q in range(20)
    ]
    costs = dict.fromkeys(("calls", "prompt_tokens", "completion_tokens", "seconds"), 1.0)
    about = {"success": True, "termination": "finished", "turns": 1, "action_errors": 0}
    episodes = pd.DataFrame(rows).assign(**about, **costs)
    against = dict(conditions)
    cells = pd.DataFrame([key | {"against": against[key["condition"]]} for key in keys])
    return Swept(episodes.assign(f1=episodes["em"]), cells)


def test_a_condition_is_compared_with_the_one_that_it_names():
    names = [
        ("vanilla 1", "vanilla 1"),
        ("nat 1", "vanilla 1"),
        ("vanilla 2", "vanilla 2"),
        ("nat 2", "vanilla 2"),
    ]
    rates = {"vanilla 1": 2, "nat 1": 4, "vanilla 2": 8, "nat 2": 13}
    compared = table(*names, right=lambda name, seed, q: q < rates[name]).compare("s")
    assert compared["arm"].tolist() == [name for name, _ in names]
    assert compared["baseline"].tolist() == [against for _, against in names]
    assert compared["em_difference"].tolist() == pytest.approx([0.0, 0.1, 0.0, 0.25])
    p, corrected = compared["p"], compared["p_holm"]
    assert corrected.isna().tolist() == p.isna().tolist() == [True, False, True, False]
    assert corrected[3] == pytest.approx(2 * p[3]) and corrected[1] == p[1]


def test_sweeps_of_several_sessions_are_one_and_the_newer_cell_counts():
    names = [("vanilla", ""), ("nut", "vanilla"), ("nat", "vanilla")]
    first = table(*names, seeds=(0, 1))
    second = table(names[2], names[0], seeds=(1, 2), right=lambda name, seed, q: True)
    joined = Swept.join([first, second])
    cells = joined.cells[["condition", "seed"]].apply(tuple, axis=1).tolist()
    assert cells == [
        *(("vanilla", seed) for seed in (0, 1, 2)),
        *(("nut", seed) for seed in (0, 1)),
        *(("nat", seed) for seed in (0, 1, 2)),
    ]
    em = joined.episodes.groupby(["condition", "seed"])["em"].agg(["mean", "size"])
    assert em["size"].eq(20).all(), "no episode is lost, and none is there twice"
    assert em["mean"]["nat"].tolist() == [0.5, 1.0, 1.0] and em["mean"]["nut"].tolist() == [0.5] * 2
    assert list(joined.episodes.columns) == list(first.episodes.columns)
    pd.testing.assert_frame_equal(Swept.join([joined, joined]).episodes, joined.episodes)


def test_a_sweep_says_in_a_line_what_it_is_and_whose():
    made = ({"profile": "smollm", "model": "HuggingFaceTB/SmolLM2-135M-Instruct"},)
    found = table(("vanilla", ""), ("nat", ""))
    found = replace(found, cells=found.cells.assign(questions=20), made=made)
    assert found.about == (
        "Tuned: HuggingFaceTB/SmolLM2-135M-Instruct (profile smollm). 2 conditions in 1 studies, "
        "each with 2 seeds and 20 held-out questions."
    )
    assert found.made_by("smollm") and not found.made_by("pocket")
    assert "nobody noted" in replace(found, made=()).about
    assert not replace(found, made=()).made_by("smollm")


def test_sweeps_that_do_not_belong_together_are_not_joined():
    first = table(("nat", ""))
    other = replace(first, episodes=first.episodes[first.episodes["question_id"] != "q3"])
    later = replace(
        other,
        **{
            name: getattr(other, name).assign(seed=getattr(other, name)["seed"] + 7)
            for name in ("cells", "episodes")
        },
    )
    with pytest.raises(ValueError, match="study s: nat, seed 0 and nat, seed 7 answered different"):
        Swept.join([first, later])
    big, small = (replace(first, made=({"model": name},)) for name in ("big", "small"))
    with pytest.raises(ValueError, match="different models: big, small"):
        Swept.join([big, small])
    assert Swept.join([big, replace(big, made=({"model": "big", "profile": "b"},))]).model == "big"


def test_a_command_adds_its_cells_to_the_tables_that_lie_there(monkeypatch, tmp_path, capsys):
    found = iter([table(("nat", ""), seeds=(0,)), table(("nat", ""), seeds=(1,))])
    asked = []
    monkeypatch.setattr(
        sys.modules["negfail_nb.studies"],
        "sweep",
        lambda *given: asked.append(given) or next(found),
    )
    command = [
        "experiment",
        "--home",
        str(tmp_path),
        "--studies",
        "arms,epochs",
        "--label",
        "search",
    ]
    for seed in "01":
        assert main([*command, "--seeds", seed]) == 0
    assert re.search(r"^  nat +EM 50\.0.* %$", capsys.readouterr().out, re.MULTILINE)
    assert Swept.load(tmp_path / "results").cells["seed"].tolist() == [0, 1]
    assert {c.study for c in asked[0][0]} == {"arms-search", "epochs-search"}
    assert main(["experiment", "--home", str(tmp_path), "--studies", "arms,size"]) != 0
    assert "--studies size: no such study; there are arms, epochs" in capsys.readouterr().err


def test_the_papers_studies_can_be_walked_and_name_each_condition_once():
    conditions = paper_studies()
    counts = Counter(c.study for c in conditions)
    assert counts == {
        "arms": 3,
        "epochs": 3,
        "failures": 5,
        "successes": 12,
        "wordings": 5,
        "quality": 3,
        "steps": 4,
    }
    assert len({(c.study, c.name) for c in conditions}) == len(conditions)
    names = {(c.study, c.name) for c in conditions}
    for condition in conditions:
        get_profile("pocket").change(**condition.changes)
        assert not condition.against or (condition.study, condition.against) in names


@pytest.mark.parametrize(("budget", "shares"), [("steps", "arms"), ("epochs", "epochs")])
def test_the_papers_studies_share_cells_with_the_first_two(budget, shares):
    """Whatever the profile's budget is, the shared condition of all studies is trained once."""
    start = get_profile("pocket").change(train={"budget": budget, "epochs": 2.0})
    cells = {(c.study, c.name): (start.change(**c.changes), c.arm) for c in paper_studies()}
    assert len(set(cells.values())) == 25
    for arm in ARMS:
        assert cells[shares, arm] == cells["successes", f"{arm} 120"]
        assert arm == "vanilla" or cells[shares, arm] == cells["failures", f"{arm} 480"]
    assert cells[shares, "vanilla"] == cells["failures", "vanilla 0"]
    assert cells[shares, "nat"] == cells["wordings", "target-aware"]
    assert cells["quality", "usual failures"] == cells["failures", "nat 240"]


def test_hotter_failures_are_those_of_the_hottest_attempts(monkeypatch, tmp_path):
    asked = noted(monkeypatch)
    sets = ["--set", "live.temperatures=[0.5, 0.9, 0.7]"]
    assert main(["experiment", "--profile", "pocket", "--home", str(tmp_path), *sets]) != 0
    kept = [c.changes.get("quality", {}) for c in asked if c.study == "quality"]
    assert kept == [
        {},
        {"failure_temperatures": (0.9, 0.9)},
        {"failure_temperatures": (0.9, 0.9), "min_score": CLEAN},
    ]


def noted(monkeypatch):
    """What `sweep` is asked for; it trains nothing."""
    asked = []

    def only_noted(conditions, *_):
        asked.extend(conditions)
        raise ValueError("noted")

    # The package has a name like it.
    monkeypatch.setattr(sys.modules["negfail_nb.studies"], "sweep", only_noted)
    return asked


def test_the_numbers_that_one_sets_are_those_of_the_studies(monkeypatch, tmp_path):
    asked = noted(monkeypatch)
    sets = ["--set", "train.successes=200", "--set", "train.failures=600"]
    assert main(["experiment", "--profile", "pocket", "--home", str(tmp_path), *sets]) != 0
    assert {c.changes["train"]["successes"] for c in asked if c.study == "arms"} == {200}
    assert [c.name for c in asked if c.study == "failures"][-3:] == [
        "nat 600",
        "nut 800",
        "nat 800",
    ]
    names = {c.name for c in asked if c.study == "successes"}
    assert {"vanilla 60", "vanilla 200", "vanilla 500"} <= names


def test_conditions_that_ask_for_more_runs_than_there_are_are_left_out(changes, tmp_path, caplog):
    def asks(**numbers):
        return Condition("s", str(numbers), "nat", {"train": {"successes": 2, **numbers}})

    few, many = asks(failures=2), asks(failures=5000)
    alone = Condition("s", "alone", "vanilla", {"train": {"successes": 2, "failures": 5000}})
    found = sweep([few, many, alone], (0,), "pocket", tmp_path, changes)
    assert found.cells["condition"].tolist() == [few.name, alone.name]
    assert re.search(
        r"5000.* is left out: it asks for 5,000 failures and .* leaves \d+", caplog.text
    )
    with pytest.raises(ValueError, match="no condition has as many runs.*5,000 failures"):
        sweep([many], (0,), "pocket", tmp_path, changes)


def test_the_tables_say_which_commit_their_cells_come_from(swept, tmp_path, home):
    assert swept.provenance["environment"]["git"] == environment()["git"]
    assert swept.model and "/" not in swept.model, "a folder's own name, not where it lies"
    assert swept.made[0]["train"]["steps"] == 1 and swept.made[0]["profile"] == "pocket"
    loaded = Swept.load(swept.save(tmp_path))
    assert loaded.provenance == swept.provenance
    (tmp_path / "made.json").unlink()
    assert Swept.load(tmp_path).provenance["environment"] == {}, (
        "nobody noted it, and today's commit is not theirs"
    )


def test_cells_of_two_commits_name_both(swept):
    made = [{"environment": {"git": {"commit": commit}}} for commit in "ab"]
    two = replace(swept, made=tuple(made))
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
