"""A study runs on whatever has the interface of an executor, and comes out as in one process."""

import json
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
import submitit
from study_runs import CONDITIONS, FEW, episodes, small_study

from negfail_nb import cells, studies
from negfail_nb.__main__ import main
from negfail_nb.cells import bring_home, noted_seconds, run_cell
from negfail_nb.conditions import Condition
from negfail_nb.parcels import pack, unpack
from negfail_nb.project import open_project
from negfail_nb.studies import foretell, sweep


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    return small_study(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(changes, tmp_path_factory):
    """The project folder, and the study in one process."""
    home = tmp_path_factory.mktemp("alone")
    return home, sweep(CONDITIONS, (0,), "pocket", home, changes)


class Elsewhere:
    """An executor whose workers see no file of this machine; a thread stands for a node."""

    shared = False
    places = 1

    def __init__(self, node):
        self.node = node
        self.sent = []
        self.submitted = 0
        self.pool = ThreadPoolExecutor(1)

    def submit(self, function, *args):
        self.submitted += 1
        return self.pool.submit(function, *args)

    def send(self, files):
        self.sent.append(sorted(files))
        return Box(pack(files), self.node)

    def clear(self, box):
        self.cleared = box


class Box:
    def __init__(self, content, node):
        self.content = content
        self.node = node

    def open(self):
        return self.node if self.node.exists() else unpack(self.content, self.node)


def test_submitit_runs_a_study_as_one_process_does(alone, changes, tmp_path):
    home, expected = alone
    executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="debug")
    found = sweep(CONDITIONS, (0,), "pocket", tmp_path / "home", changes, executor=executor)
    assert episodes(tmp_path / "home") == episodes(home)
    same = ["study", "condition", "arm", "seed", "against", "em", "f1", "questions", "steps"]
    pd.testing.assert_frame_equal(found.cells[same], expected.cells[same])
    assert not list((tmp_path / "home" / "runs").glob(".seen-*"))


def test_cells_come_home_from_machines_that_share_nothing(alone, changes, tmp_path):
    home, expected = alone
    executor = Elsewhere(tmp_path / "node")
    given = CONDITIONS, (0,), "pocket", tmp_path / "home", changes
    found = sweep(*given, executor=executor)
    assert episodes(tmp_path / "home") == episodes(home)
    assert found.cells["em"].tolist() == expected.cells["em"].tolist()
    assert executor.cleared.node == executor.node and executor.submitted == 2
    assert found.made[0]["environment"]["command"] == expected.made[0]["environment"]["command"]
    assert not list((tmp_path / "home" / "runs").glob(".arriving-*"))
    again = Elsewhere(tmp_path / "other")
    sweep(*given, executor=again)
    assert again.submitted == 0 and not again.sent, "what is done here does not travel"


def test_what_a_cell_was_trained_on_top_of_comes_home_too(changes, tmp_path):
    condition = Condition("arms", "dpo", "dpo", FEW)
    executor = Elsewhere(tmp_path / "node")
    sweep([condition], (0,), "pocket", tmp_path / "home", changes, executor=executor)
    runs = sorted(path.parent.name for path in tmp_path.glob("home/runs/pocket/*-*/*"))
    assert runs == ["agent-dpo", "train-dpo", "train-vanilla"]


def test_files_of_settings_and_played_logs_travel_once(changes, tmp_path, monkeypatch):
    monkeypatch.delenv("NEGFAIL_NB_DATA", raising=False)
    (tmp_path / "my_logs").mkdir()
    (tmp_path / "my_logs" / "a.jsonl").write_text("{}\n")
    (tmp_path / "data" / "svamp").mkdir(parents=True)
    (tmp_path / "data" / "svamp" / "SVAMP.json").write_text("[]")
    profile = open_project("pocket", tmp_path, changes).profile.change(
        collect={"logs": ("my_logs",)}, evaluate={"questions": ("svamp",)}
    )
    found = cells.inputs([(profile, "nat"), (profile, "vanilla")], tmp_path)
    data, logs = sorted(found)
    assert data == "data/svamp/SVAMP.json" and logs.startswith("inputs/")
    sent = cells.as_sent(profile, tmp_path)
    assert sent.collect.logs == (logs,) and sent.evaluate.questions == ("svamp",)
    node = unpack(pack(found), tmp_path / "node")
    assert (node / logs / "a.jsonl").read_text() == "{}\n"
    live = open_project("pocket", tmp_path, {"collect": {"player": "model"}})
    place = live.folder("collect")
    half = place.root / place.name / "20260101T000000000-abcdef01"
    half.mkdir(parents=True)
    assert cells.inputs([(live.profile, "nat")], tmp_path) == {}, "a half folder stays here"


def test_names_that_lead_out_of_a_parcel_are_refused(tmp_path):
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("../outside")
        member.size = 1
        archive.addfile(member, BytesIO(b"x"))
    with pytest.raises(tarfile.FilterError):
        unpack(stream.getvalue(), tmp_path / "in" / "here")
    assert list(tmp_path.rglob("*")) == [tmp_path / "in"]


def test_a_folder_that_did_not_arrive_whole_is_not_taken(alone, changes, tmp_path):
    home, _ = alone
    profile = studies._changed(open_project("pocket", home, changes).profile, CONDITIONS[1], 0)
    cell = run_cell(profile, "nat", home)
    parts = {part.relative_to(home).as_posix(): part for part in cell.parts}
    whole = unpack(pack(parts), tmp_path / "whole")
    (whole / list(parts)[-1] / "episodes.jsonl").unlink()
    damaged = pack({name: whole / name for name in parts})
    sent = replace(cell, parts=tuple(map(Path, parts)))
    with pytest.raises(OSError, match="did not arrive whole"):
        bring_home(sent, damaged, tmp_path / "home")
    assert not list((tmp_path / "home").glob("runs/pocket/agent-*/*"))
    assert not episodes(tmp_path / "home")
    assert bring_home(sent, pack(parts), home).parts == cell.parts, "what is there stays"


class Stopping:
    """An executor whose first cell is done, and whose second fails or is interrupted."""

    def __init__(self, second):
        self.futures = []
        self.second = second

    def submit(self, function, *args):
        future = Future()
        self.futures.append(future)
        if len(self.futures) == 1:
            future.set_result(function(*args))
        elif len(self.futures) == 2:
            future.set_exception(self.second)
        return future


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_is_done_stays_and_the_rest_is_cancelled(error, changes, tmp_path):
    executor = Stopping(error)
    with pytest.raises(type(error)):
        sweep(CONDITIONS[:2], (0, 1), "pocket", tmp_path, changes, executor=executor)
    assert [future.cancelled() for future in executor.futures] == [False, False, True, True]
    assert len(episodes(tmp_path)) == 1
    assert len(list((tmp_path / "runs" / "pocket" / "cells").iterdir())) == 1


def test_a_worker_that_sees_another_folder_refuses(changes, tmp_path):
    profile = open_project("pocket", tmp_path, changes).profile
    with pytest.raises(FileNotFoundError, match="does not see the project folder.*--shared"):
        run_cell(profile, "nat", tmp_path, seen="runs/.seen-1")
    away = cells.as_sent(profile.change(model={"name": "/no/such/model"}), tmp_path)
    with pytest.raises(FileNotFoundError, match="/no/such/model, which this node does not have"):
        cells.run_away(away, "nat", None, "")


def test_cells_that_are_done_say_how_long_the_others_take(alone, changes, tmp_path):
    home, _ = alone
    start = open_project("pocket", home, changes).profile
    keys = [(studies._changed(start, c, seed), c.arm) for seed in (0, 7) for c in CONDITIONS[:2]]
    took = [noted_seconds(key, home) for key in keys]
    assert took[0] > 0 and took[1] > 0 and took[2:] == [None, None]
    assert foretell(keys[:2], home, 1) == "all are done"
    for path in (home / "runs" / "pocket" / "cells").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 90.0}))
    assert foretell(keys, home, 1, here=False) == "2 to do, about 3 min"
    assert foretell(keys, home, 2, here=False) == "2 to do, about 2 min"
    assert foretell(keys, home, 0, here=False) == "2 to do, about 3 min of computing"
    assert foretell(keys, tmp_path, 4, here=False) == "4 to do, for how long is unknown"
    assert foretell(keys, tmp_path, 1).startswith("4 to do, about ")


def test_options_of_a_cluster_without_one_are_refused(tmp_path, capsys):
    assert main(["experiment", "--home", str(tmp_path), "--address", "auto"]) != 0
    assert "say --executor ray too" in capsys.readouterr().err
