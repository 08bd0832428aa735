"""The command line says what it did, and what is wrong in one line."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from negfail_nb.__main__ import main
from negfail_nb.notebooks import find_notebooks
from negfail_nb.project import open_project
from negfail_nb.settings import Profile, get_profile, profiles
from negfail_nb.start import start_project


def test_doctor_says_what_is_here_and_never_shows_a_key(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary0123456789")
    assert main(["doctor", "--home", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "OPENAI_API_KEY set" in said and "canary" not in said
    assert "missing: no notebooks/ here" in said


def test_settings_prints_every_field_with_its_help(capsys):
    assert main(["settings", "--profile", "pocket", "--set", "train.epochs=7"]) == 0
    said = capsys.readouterr().out
    assert "train.epochs = 7.0\n    passes over an arm's data" in said
    assert max(map(len, said.splitlines())) <= 100, "it fits a terminal"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("train.epoch=7", r"train has no setting epoch; it has arms"),
        ("tra.epochs=7", r"a profile has no stage 'tra'; it has collect"),
        ("train.epochs=many", r"TrainSettings\.epochs is 'many'; give a float"),
        ("train.epochs=0", r"TrainSettings\.epochs is 0\.0; use 0\.01 to 1000"),
        ("train.budget=hours", r"TrainSettings\.budget is 'hours'; use one of 'epochs', 'steps'"),
        (
            "train.arms=nat",
            r"TrainSettings\.arms is 'nat'; give a list, such as \[\"one\", \"two\"\]",
        ),
        ("collect.logs=[1]", r"CollectSettings\.logs is \(1,\); each item must be a str"),
        ("epochs=7", r"write it as STAGE\.SETTING=VALUE"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(capsys, given, text):
    import re

    assert main(["collect", "--set", given]) == 1
    said = capsys.readouterr().err
    assert re.search(text, said) and said.count("\n") == 1


def test_a_data_folder_without_logs_is_named_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("NEGFAIL_NB_DATA", raising=False)
    start_project(tmp_path)
    assert main(["collect", "--profile", "logs", "--home", str(tmp_path)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "holds a run that can be read" in said and "collect.logs" in said
    (tmp_path / "file").touch()
    assert main(["start", str(tmp_path / "file")]) == 1
    assert "is a file; give a folder" in capsys.readouterr().err


def test_an_unknown_profile_lists_those_there_are(capsys):
    assert main(["collect", "--profile", "gpt"]) == 1
    said = capsys.readouterr().err
    assert "no profile 'gpt'; there are pocket, smollm, logs, llama-8b, llama-70b" in said


def test_logs_are_read_from_the_data_folder_or_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.delenv("NEGFAIL_NB_DATA", raising=False)
    assert get_profile("logs", tmp_path).collect.logs == ("data",)
    (tmp_path / "data" / "trajectories").mkdir(parents=True)
    assert get_profile("logs", tmp_path).collect.logs == ("data/trajectories",)
    monkeypatch.setenv("NEGFAIL_NB_DATA", str(tmp_path / "elsewhere"))
    assert get_profile("logs", tmp_path).collect.logs == (str(tmp_path / "elsewhere"),)


def test_every_setting_has_a_help_text_and_a_default_within_its_bounds():
    for profile in profiles().values():
        for stage in [f.name for f in dataclasses.fields(profile)][1:]:
            settings = getattr(profile, stage)
            assert len(settings.__dataclass_fields__) <= 14
            for field in settings.__dataclass_fields__.values():
                value, bounds = getattr(settings, field.name), field.metadata
                assert bounds["help"]
                assert bounds.get("low", value) <= value <= bounds.get("high", value)
                assert value in bounds.get("choices", (value,))


def test_a_whole_number_for_a_fraction_is_the_same_setting():
    whole = Profile(name="x").change(train={"epochs": 2}, prefix={"edges": [0.5, 1]})
    assert whole == Profile(name="x").change(train={"epochs": 2.0}, prefix={"edges": (0.5, 1.0)})


def test_a_profile_is_changed_by_stage_and_never_in_place():
    before = Profile(name="x")
    after = before.change(train={"epochs": 5.0}, collect={"generate": 2})
    assert (after.train.epochs, after.collect.generate, before.train.epochs) == (5.0, 2, 2.0)


def test_a_verb_executes_its_own_notebook_and_says_where_it_is(tmp_path, capsys):
    start_project(tmp_path)
    few = ["--set", "collect.generate=8", "--set", "live.attempts=2"]
    assert main(["collect", "--home", str(tmp_path), *few]) == 0
    said = capsys.readouterr().out
    assert "notebooks: 1 executed, 0 reused" in said and "set here: collect.generate=8" in said
    made = tmp_path / "runs" / "pocket-own" / "notebooks"
    assert [path.name for path in sorted(made.iterdir())] == ["01_collect.html", "01_collect.ipynb"]
    assert str(made) in said and (made.parent / "figures" / "01_outcomes.png").is_file()


def test_a_project_finds_its_data_from_the_folder_of_its_notebooks(tmp_path, monkeypatch):
    monkeypatch.delenv("NEGFAIL_NB_DATA", raising=False)
    (tmp_path / "data" / "trajectories").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    (found,) = open_project("logs", "..").logs
    assert found.resolve() == tmp_path / "data" / "trajectories"


def test_the_lab_opens_a_page_that_leads_to_the_notebooks(tmp_path, monkeypatch):
    start_project(tmp_path)
    started = []
    ended = subprocess.CompletedProcess([], 0)

    def run(command, env):
        started.append((command, env["JUPYTER_CONFIG_PATH"]))
        return ended

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("os.getuid", lambda: 0)
    assert main(["lab", str(tmp_path)]) == 0
    ((command, configured),) = started
    page = "/lab/tree/notebooks/start.md"
    assert f"--LabApp.default_url={page}" in command and "--allow-root" in command
    defaults = Path(configured.split(os.pathsep)[-1], "labconfig/default_setting_overrides.json")
    assert "Markdown Preview" in defaults.read_text()
    links = re.findall(r"\((\w+\.ipynb)\)", (tmp_path / "notebooks" / "start.md").read_text())
    assert links == [path.name for path in find_notebooks(tmp_path / "notebooks")]


def test_a_python_without_the_dependencies_is_told_where_one_is():
    home = str(Path(__file__).parents[1])
    said = subprocess.run(  # -S: without installed packages
        [sys.executable, "-S", "-m", "negfail_nb"], cwd=home, capture_output=True, text=True
    )
    assert said.returncode == 1 and ".venv/bin/python" in said.stderr.splitlines()[-1]
