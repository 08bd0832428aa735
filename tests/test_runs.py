"""Run folders: done means a manifest that matches, and nothing is computed twice or with other settings unseen."""

import json
from dataclasses import replace

import pytest

from negfail_nb import runs
from negfail_nb.profiles import CollectSettings, QualitySettings


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n')
    return path


def finished(tmp_path, log, settings=QualitySettings()):
    run = runs.start("quality", settings, {"logs": log}, tmp_path / "runs")
    run.path("table.csv").write_text("n\n1\n")
    return run.finish({"kept": 1})


def test_same_settings_and_inputs_are_not_computed_twice(tmp_path, log):
    first = finished(tmp_path, log)
    again = runs.start("quality", QualitySettings(), {"logs": log}, tmp_path / "runs")
    assert again.folder == first.folder and again.done
    assert again.manifest["results"] == {"kept": 1}


def test_a_changed_setting_or_input_gets_a_folder_of_its_own(tmp_path, log):
    first = finished(tmp_path, log)
    other = runs.start("quality", QualitySettings(seed=1), {"logs": log}, tmp_path / "runs")
    assert other.folder != first.folder and not other.done
    log.write_text('{"a": 2}\n')
    assert not runs.start("quality", QualitySettings(), {"logs": log}, tmp_path / "runs").done


def test_an_unfinished_folder_is_gone_on_with(tmp_path, log):
    first = runs.start("quality", QualitySettings(), {"logs": log}, tmp_path / "runs")
    first.path("half.csv").write_text("n\n")
    again = runs.start("quality", QualitySettings(), {"logs": log}, tmp_path / "runs")
    assert again.folder == first.folder and not again.done


def test_a_file_that_changed_later_makes_the_run_not_done(tmp_path, log, caplog):
    first = finished(tmp_path, log)
    first.path("table.csv").write_text("n\n2\n")
    assert not first.done
    assert "table.csv changed" in caplog.text
    assert runs.start("quality", QualitySettings(), {"logs": log}, tmp_path / "runs").folder != first.folder


def test_force_begins_anew(tmp_path, log):
    first = finished(tmp_path, log)
    assert runs.start("quality", QualitySettings(), {"logs": log}, tmp_path / "runs", force=True).folder != first.folder


def test_resume_names_the_setting_that_differs(tmp_path, log):
    run = runs.start("quality", QualitySettings(), {"logs": log}, tmp_path / "runs")
    assert runs.resume(run.folder, QualitySettings(), {"logs": log}).folder == run.folder
    with pytest.raises(runs.SettingsChanged, match=r"settings\.heldout: 0\.2 -> 0\.5"):
        runs.resume(run.folder, replace(QualitySettings(), heldout=0.5), {"logs": log})
    log.write_text("other\n")
    with pytest.raises(runs.SettingsChanged, match=r"inputs\.logs"):
        runs.resume(run.folder, QualitySettings(), {"logs": log})
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        runs.resume(tmp_path, QualitySettings())


def test_latest_skips_what_is_not_finished(tmp_path, log):
    with pytest.raises(FileNotFoundError, match="run that stage first"):
        runs.latest("quality", tmp_path / "runs")
    first = finished(tmp_path, log)
    runs.start("quality", QualitySettings(seed=7), {"logs": log}, tmp_path / "runs")
    assert runs.latest("quality", tmp_path / "runs").folder == first.folder


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no-such-file\.jsonl does not exist"):
        runs.start("quality", QualitySettings(), {"logs": tmp_path / "no-such-file.jsonl"}, tmp_path / "runs")


CANARY = "sk-canary0123456789abcdefgh"
TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyz012345"


def test_keys_appear_in_no_file(tmp_path, log):
    settings = CollectSettings(questions=f"https://me:{CANARY}@host/x?api_key={CANARY}")
    run = runs.start("collect", settings, {"logs": log}, tmp_path / "runs")
    run.finish({"note": f"Authorization: Bearer {CANARY}", "hub": TOKEN, "quoted": f'api_key="{CANARY}"'})
    written = "".join(p.read_text() for p in run.folder.rglob("*") if p.is_file())
    assert CANARY not in written and TOKEN not in written
    assert runs.resume(run.folder, settings, {"logs": log}).folder == run.folder


def test_what_only_looks_a_little_like_a_key_is_kept(tmp_path):
    names = {"model": "hf-internal-testing/tiny", "folder": "hf_agent_logs", "pad_token": "<|finetune_right_pad|>"}
    runs.write_json(tmp_path / "x.json", {**names, "text": 'password=hunter22" and'})
    read = json.loads((tmp_path / "x.json").read_text())
    assert {k: read[k] for k in names} == names and "hunter22" not in read["text"]


def test_hidden_files_are_no_content(tmp_path, log):
    before = runs.file_hash(tmp_path)
    (tmp_path / ".DS_Store").write_text("x")
    assert runs.file_hash(tmp_path) == before
    log.write_text("other")
    assert runs.file_hash(tmp_path) != before


def test_the_manifest_says_what_a_result_came_from(tmp_path, log):
    manifest = finished(tmp_path, log).manifest
    assert manifest["settings"]["heldout"] == 0.2
    assert set(manifest["files"]) == {"plan.json", "table.csv"}
    assert manifest["environment"]["packages"]["torch"]
    assert json.dumps(manifest)  # plain JSON values only
