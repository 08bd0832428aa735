"""Run folders: done means a manifest that matches, and nothing is computed twice or with other
settings unseen.
"""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from negfail_nb import content, runs
from negfail_nb.settings import CollectSettings, QualitySettings, option


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n')
    return path


def place(tmp_path):
    return runs.Place(tmp_path / "runs", "quality")


def finished(tmp_path, log, settings=QualitySettings()):
    run = runs.start(place(tmp_path), settings, {"logs": log})
    run.path("table.csv").write_text("n\n1\n")
    return run.finish({"kept": 1})


def test_same_settings_and_inputs_are_not_computed_twice(tmp_path, log):
    first = finished(tmp_path, log)
    again = runs.start(place(tmp_path), QualitySettings(), {"logs": log})
    assert again.folder == first.folder and again.done
    assert again.manifest["results"] == {"kept": 1}


def test_a_changed_setting_or_input_gets_a_folder_of_its_own(tmp_path, log):
    first = finished(tmp_path, log)
    other = runs.start(place(tmp_path), QualitySettings(seed=1), {"logs": log})
    assert other.folder != first.folder and not other.done
    log.write_text('{"a": 2}\n')
    assert not runs.start(place(tmp_path), QualitySettings(), {"logs": log}).done


def test_an_unfinished_folder_is_gone_on_with(tmp_path, log):
    first = runs.start(place(tmp_path), QualitySettings(), {"logs": log})
    first.path("half.csv").write_text("n\n")
    again = runs.start(place(tmp_path), QualitySettings(), {"logs": log})
    assert again.folder == first.folder and not again.done


def test_a_file_that_changed_later_makes_the_run_not_done(tmp_path, log, caplog):
    first = finished(tmp_path, log)
    first.path("table.csv").write_text("n\n2\n")
    assert not first.done
    assert "table.csv changed" in caplog.text
    assert runs.start(place(tmp_path), QualitySettings(), {"logs": log}).folder != first.folder


def test_force_begins_anew(tmp_path, log):
    first = finished(tmp_path, log)
    assert (
        runs.start(place(tmp_path), QualitySettings(), {"logs": log}, force=True).folder
        != first.folder
    )


def test_resume_names_the_setting_that_differs(tmp_path, log):
    run = runs.start(place(tmp_path), QualitySettings(), {"logs": log})
    assert runs.start(run.folder, QualitySettings(), {"logs": log}).folder == run.folder
    with pytest.raises(runs.SettingsChanged, match=r"settings\.heldout: 0\.2 -> 0\.5"):
        runs.start(run.folder, replace(QualitySettings(), heldout=0.5), {"logs": log})
    log.write_text("other\n")
    with pytest.raises(runs.SettingsChanged, match=r"inputs\.logs"):
        runs.start(run.folder, QualitySettings(), {"logs": log})


def test_latest_skips_what_is_not_finished(tmp_path, log):
    with pytest.raises(FileNotFoundError, match="run that stage first"):
        place(tmp_path).newest()
    first = finished(tmp_path, log)
    runs.start(place(tmp_path), QualitySettings(seed=7), {"logs": log})
    assert place(tmp_path).newest().folder == first.folder


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no-such-file\.jsonl does not exist"):
        runs.start(place(tmp_path), QualitySettings(), {"logs": tmp_path / "no-such-file.jsonl"})


CANARY = "sk-canary0123456789abcdefgh"
TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyz012345"


def test_keys_appear_in_no_file(tmp_path, log):
    settings = CollectSettings(questions=f"https://me:{CANARY}@host/x?api_key={CANARY}")
    run = runs.start(place(tmp_path), settings, {"logs": log})
    run.finish(
        {"note": f"Authorization: Bearer {CANARY}", "hub": TOKEN, "quoted": f'api_key="{CANARY}"'}
    )
    written = "".join(p.read_text() for p in run.folder.rglob("*") if p.is_file())
    assert CANARY not in written and TOKEN not in written
    assert runs.start(run.folder, settings, {"logs": log}).folder == run.folder


def test_what_only_looks_a_little_like_a_key_is_kept(tmp_path):
    names = {
        "model": "hf-internal-testing/tiny",
        "folder": "hf_agent_logs",
        "pad_token": "<|finetune_right_pad|>",
    }
    content.write_json(tmp_path / "x.json", {**names, "text": 'password=hunter22" and'})
    read = json.loads((tmp_path / "x.json").read_text())
    assert {k: read[k] for k in names} == names and "hunter22" not in read["text"]


def test_hidden_files_are_no_content(tmp_path, log):
    before = content.file_hash(tmp_path)
    (tmp_path / ".DS_Store").write_text("x")
    assert content.file_hash(tmp_path) == before
    log.write_text("other")
    assert content.file_hash(tmp_path) != before


def test_the_manifest_says_what_a_result_came_from(tmp_path, log):
    manifest = finished(tmp_path, log).manifest
    assert manifest["settings"]["heldout"] == 0.2
    assert set(manifest["files"]) == {"plan.json", "table.csv"}
    assert manifest["environment"]["packages"]["torch"]
    assert json.dumps(manifest)  # plain JSON values only


DAMAGES = {
    "empty": lambda text: b"",
    "cut short": lambda text: text[: len(text) // 2],
    "null": lambda text: b"null",
    "a list": lambda text: b"[1, 2]",
    "a text": lambda text: b'"done"',
    "a number": lambda text: b"1e999",
    "no fields": lambda text: b"{}",
    "not UTF-8": lambda text: b"\xff" + text,
    "of zeros": lambda text: b"\0" * len(text),
    "too deep": lambda text: b"[" * 100_000,
    "one bit": lambda text: text[:40] + bytes([text[40] ^ 1]) + text[41:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
def test_a_damaged_manifest_or_plan_is_not_done_and_is_named(tmp_path, log, caplog, name, damage):
    first = finished(tmp_path, log)
    first.path(name).write_bytes(damage(first.path(name).read_bytes()))
    assert not first.done
    again = runs.start(place(tmp_path), QualitySettings(), {"logs": log})
    assert again.folder != first.folder and not again.done
    assert name in caplog.text and first.folder.name in caplog.text
    with pytest.raises(FileNotFoundError):
        place(tmp_path).newest()


EDITS = {
    "results": lambda m: m | {"results": {"kept": 2}},
    "no files": lambda m: m | {"files": {}},
    "files of another kind": lambda m: m | {"files": ["table.csv"]},
    "one file less": lambda m: (
        m | {"files": {k: v for k, v in m["files"].items() if k != "table.csv"}}
    ),
    "the commit": lambda m: (
        m | {"environment": m["environment"] | {"git": {"commit": "other", "dirty": False}}}
    ),
    "settings": lambda m: m | {"settings": m["settings"] | {"heldout": 0.9}},
    "no hash": lambda m: {k: v for k, v in m.items() if k != "sha256"},
    "a hash of another kind": lambda m: m | {"sha256": None},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_manifest_is_not_done(tmp_path, log, edit, caplog):
    first = finished(tmp_path, log)
    path = first.path("manifest.json")
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    assert not first.done and "manifest.json is damaged" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"damaged manifest\.json"):
        _ = first.manifest


def in_place(path, kind):
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "broken link":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "link to another content":
        path.with_name(".other").write_bytes(content + b"x")
        path.symlink_to(path.with_name(".other"))
    elif kind == "pipe":
        os.mkfifo(path)


@pytest.mark.parametrize(
    "kind", ["nothing", "folder", "broken link", "link to another content", "pipe"]
)
@pytest.mark.parametrize("name", ["table.csv", "manifest.json"])
def test_something_else_in_place_of_a_file_is_not_done(tmp_path, log, name, kind):
    first = finished(tmp_path, log)
    in_place(first.path(name), kind)
    assert not first.done
    again = runs.start(place(tmp_path), QualitySettings(), {"logs": log})
    assert not again.done and (
        again.folder != first.folder or (name, kind) == ("manifest.json", "nothing")
    )


def test_a_file_that_came_later_is_named(tmp_path, log, caplog):
    first = finished(tmp_path, log)
    first.path(".DS_Store").write_text("hidden files do not count")
    assert first.done
    first.path("model.safetensors").write_text("x")
    assert not first.done and "model.safetensors was added" in caplog.text


@pytest.mark.parametrize("settled", [0, 10**12])
def test_a_flipped_byte_of_the_same_size_and_time_is_found(tmp_path, log, settled, monkeypatch):
    """Also by the process that read the file before, and also where somebody sets the time back."""
    monkeypatch.setattr(content, "SETTLED", settled)
    first = finished(tmp_path, log)
    assert first.done
    path = first.path("table.csv")
    before = path.stat()
    time.sleep(0.02)  # a tick of the file system's clock
    path.write_text("m\n1\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not first.done


def computed(
    tmp_path, log, compute=lambda run: run.path("a.txt").write_text("a") and {"n": 1}, **given
):
    return runs.make(place(tmp_path), QualitySettings(), compute, {"logs": log}, **given)


def test_another_source_is_computed_anew_and_the_old_one_found_again(tmp_path, log):
    one, two = (computed(tmp_path, log, source=source) for source in ("one", "two"))
    assert one.folder != two.folder and computed(tmp_path, log, source="one").folder == one.folder


def test_of_a_run_among_the_inputs_its_results_count(tmp_path, log):
    one, two = (computed(tmp_path, log, source=source) for source in ("one", "two"))
    three = computed(
        tmp_path, log, lambda run: run.path("a.txt").write_text("b") and {}, source="three"
    )
    plans = [runs.make_plan("next", {}, {"quality": run}) for run in (one, two, three)]
    assert plans[0] == plans[1] != plans[2]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_path_and_leaves_the_stage_open(tmp_path, log, monkeypatch):
    with pytest.raises(OSError, match=r"No space left.*runs/quality/\d+") as raised:
        computed(tmp_path, log, full)
    folder = raised.value.filename
    assert computed(tmp_path, log).folder.as_posix() == folder, "and it goes on there"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*x\.json"):
        content.write_json(tmp_path / "x.json", {})
    assert not list(tmp_path.glob("x.json*"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_project_folder_that_cannot_be_written_to_is_named(tmp_path, log, monkeypatch, code):
    done = finished(tmp_path, log)

    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(os, "open", refuse)
    assert runs.start(place(tmp_path), QualitySettings(), {"logs": log}).folder == done.folder
    with pytest.raises(OSError, match=r"runs.*cannot be written to.*home"):
        computed(tmp_path, log, source="new")


WORK = """
import signal, sys, time
from pathlib import Path
from negfail_nb import content, runs

# A shell that started the tests in the background has Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def compute(run):
    run.path("began").write_text("")
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    return {}

print(runs.make(runs.Place(Path(sys.argv[1]), "stage"), {}, compute).folder, flush=True)
"""


class Other:
    """Another process that computes a stage until it is told to end."""

    def __init__(self, folder):
        self.root, self.end = folder / "runs", folder / "end"
        command = [sys.executable, "-c", WORK, str(self.root), str(self.end)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_until(self, holds):
        deadline = time.monotonic() + 120
        while not holds() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert holds()
        return self

    def begun(self):
        return self.wait_until(lambda: list(self.root.glob("stage/*/began")))


@pytest.fixture
def other(tmp_path):
    started = []

    def start():
        started.append(Other(tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_of_two_processes_one_computes_and_the_other_says_for_whom_it_waits(
    tmp_path, other, caplog
):
    first = other().begun()
    told = f"process {first.process.pid} on {platform.node()}"
    thread = threading.Thread(target=lambda: runs.make(runs.Place(first.root, "stage"), {}, dict))
    thread.start()
    first.wait_until(lambda: told in caplog.text)
    first.end.write_text("")
    thread.join()
    assert first.process.wait() == 0
    (folder,) = (first.root / "stage").iterdir()
    assert (folder / "manifest.json").exists() and first.process.stdout.read().strip() == str(
        folder
    )


def test_a_killed_process_holds_no_lock_and_what_it_began_is_gone_on_with(tmp_path, other, caplog):
    first = other().begun()
    first.process.kill()
    first.process.wait()
    run = runs.make(runs.Place(first.root, "stage"), {}, lambda run: {})
    assert run.path("began").exists() and run.done and "waiting" not in caplog.text


def test_waiting_can_be_interrupted(tmp_path, other):
    first = other().begun()
    second = other().wait_until(lambda: True)
    assert "waiting for process" in second.process.stderr.readline()
    second.process.send_signal(signal.SIGINT)
    assert (
        second.process.wait(timeout=60) != 0 and "KeyboardInterrupt" in second.process.stderr.read()
    )
    first.end.write_text("")
    assert first.process.wait() == 0


def test_stages_that_differ_do_not_wait_for_each_other(tmp_path, other):
    first = other().begun()
    assert runs.make(runs.Place(first.root, "stage"), {"other": 1}, lambda run: {}).done
    assert first.process.poll() is None


def test_a_folder_of_ones_own_holds_one_plan(tmp_path, log):
    folder, made = tmp_path / "mine", []

    def compute(run):
        made.append(run.path("a.txt").write_text("a"))
        return {"n": 1}

    for _ in range(2):
        run = runs.make(folder, QualitySettings(), compute, {"logs": log}, source="any")
    assert run.folder == folder and run.done and len(made) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "mine"]
    with pytest.raises(runs.SettingsChanged, match=r"mine was begun.*settings\.seed: 0 -> 1"):
        runs.make(folder, QualitySettings(seed=1), compute, {"logs": log})


@dataclass(frozen=True)
class Read:
    file: str = option("", "what is read", path=True)
    files: tuple[str, ...] = option((), "what else is read", path=True)
    workers: int = option(1, "how fast", counts=False)


def test_of_settings_content_counts_and_speed_does_not(tmp_path, log):
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(log.read_bytes())
    one, same = Read(str(log), (str(log),)), Read(str(moved), (str(moved),), workers=8)
    assert runs.make_plan("s", one) == runs.make_plan("s", {**content.counted(same)})
    moved.write_text("other")
    assert runs.make_plan("s", one) != runs.make_plan("s", same)
