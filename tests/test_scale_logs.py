"""More logs than memory: what is read, kept and rendered in a folder is what it is in memory; a
call that was stopped goes on; large logs stay on disk.
"""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace

import pytest
from chat_tokenizers import tokenizer
from conftest import real_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_formats import small_cases
from log_frameworks import framework_cases
from quality_runs import run, runs, text_of

from negfail_nb import earlier, open_project, stored
from negfail_nb.content import file_hash
from negfail_nb.logs import load_trajectories
from negfail_nb.logs import streaming as import_
from negfail_nb.prefix import check_mask, in_all, render
from negfail_nb.prefix import streaming as rendering
from negfail_nb.quality import FILTERS, Report, assess, quality_filter
from negfail_nb.quality import streaming as quality
from negfail_nb.settings import PrefixSettings, QualitySettings, TrainSettings
from negfail_nb.stored import TRAJECTORIES, Parts, Stored
from negfail_nb.training import make_arms, plan, select
from negfail_nb.trajectory import UnreadableLog

SCALE = "NEGFAIL_NB_SCALE"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """A few records of these small logs are many: several files, pieces, shards, units."""
    monkeypatch.setattr(import_, "PIECE", 2_000)
    monkeypatch.setattr(import_, "SAMPLE", 500)
    monkeypatch.setattr(stored, "ROWS", 7)
    monkeypatch.setattr(quality, "SHARD", 4_000)
    monkeypatch.setattr(rendering, "UNIT", 16)


def same_logs(path, folder, **given):
    """Read logs both ways, compare them, and return those of the folder."""
    expected = load_trajectories(path, **given)
    found = load_trajectories(path, folder=folder, **given)
    assert isinstance(found.trajectories, Stored)
    assert tuple(found) == expected.trajectories
    for name in ("problems", "notes", "passed", "content"):
        assert getattr(found, name) == getattr(expected, name)
    assert repr(found) == repr(expected) and found.table().equals(expected.table())
    return found


def same_report(records, settings, folder):
    expected = assess(records, settings)
    found = assess(records, settings, folder=folder)
    for name in ("kept", "train", "heldout", "removed", "findings"):
        assert tuple(getattr(found, name)) == tuple(getattr(expected, name)), name
    assert (found.stages, found.notes) == (expected.stages, expected.notes)
    assert repr(found) == repr(expected)
    return found


def same_rendered(records, folder, template="target-aware", **given):
    made = tokenizer("byte-level", "chatml")
    expected = render(list(records), template, made, **given)
    found = render(records, template, made, folder=folder, **given)
    assert isinstance(found.examples, Stored)
    assert list(map(plain, found.examples)) == list(map(plain, expected.examples))
    assert tuple(found.skipped) == expected.skipped and repr(found) == repr(expected)
    assert found.content == expected.content and found.table().equals(expected.table())
    return found, expected


def plain(example):
    ids, trained = example.input_ids.tolist(), example.trained.tolist()
    return replace(example, input_ids=None, trained=None), ids, trained


def write_lines(path, records):
    lines = (r if isinstance(r, str) else json.dumps(r) for r in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def mixed_runs(seed=0, number=60):
    """Runs with duplicates, near-duplicates, other wordings, other ids, unknown outcomes."""
    draw = random.Random(seed)
    made = []
    for one in runs(number, questions=8, seed=seed):
        made.append(one.replace(success=draw.choice([True, False, False, None])))
        if draw.random() < 0.3:
            made.append(made[-1].replace(id=f"{one.id} again"))
        if draw.random() < 0.3:
            other = one.question.replace("Which book", "Which good book")
            made.append(one.replace(id=f"{one.id} reworded", question=other, question_id="other"))
        if draw.random() < 0.1:
            made.append(run(f"{one.id} {text_of(draw, 2)}", question="", question_id=one.id))
    return made


# --- import
# -------------------------------------------------------------------------------------------


def test_every_format_is_read_into_a_folder_as_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(import_, "PIECE", 150)  # a record or two: formats of several lines too
    for number, case in enumerate([*small_cases(), *framework_cases()]):
        case.write(tmp_path / "logs" / str(number))
    found = same_logs(tmp_path / "logs", tmp_path / "run")
    assert len(found) > 80 and len(found.trajectories.files) > 20


CHATS = st.builds(
    lambda question, said, reply, beside: {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": reply},
            {"role": "user", "content": said},
            {"role": "assistant", "content": f"Thought: so.\nAction: finish[{said}]"},
        ],
        **beside,
    },
    st.sampled_from(
        ["Rules: " + "act, then stop. " * 9, "Where is Ys?", "Who is Ino?\nAnswer me."]
    ),
    st.sampled_from(["Ys", "Who leads it?", "nobody", "\ud83d\ude00"]),
    st.sampled_from(["OK", "I am ready.", "Thought: look.\nAction: search[Ys]"]),
    st.sampled_from(
        [{}, {"reward": 1}, {"id": "a"}, {"id": "a~2"}, {"id": "b", "question": "Who?"}]
        + [{"question": "Where is Ys?", "answer": "here", "id": "a"}]
    ),
)
BROKEN = st.sampled_from(["{", "", "[1", '{"messages": 3}', '{"id": NaN}', "\ufeff{}"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    logs=st.lists(st.lists(CHATS | BROKEN, max_size=9), min_size=1, max_size=3),
    piece=st.integers(1, 3_000),
)
def test_any_chats_are_read_into_a_folder_as_into_memory(tmp_path_factory, logs, piece):
    import_.PIECE = piece
    folder = tmp_path_factory.mktemp("any")
    (folder / "logs").mkdir()
    for number, records in enumerate(logs):
        write_lines(folder / "logs" / f"{number}.jsonl", records)
    same_logs(folder / "logs", folder / "run")


def test_a_log_named_twice_gets_other_ids_also_in_a_folder(tmp_path):
    chat = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]}
    path = write_lines(tmp_path / "a.jsonl", [{**chat, "id": n} for n in range(40)])
    ids = [t.id for t in same_logs([path, path], tmp_path / "run")]
    assert len(set(ids)) == 80 and ids[40] == ids[0] + "~2"


def test_strict_reading_into_a_folder_stops_at_the_same_record(tmp_path):
    broken = ['{"messages": [{"role": "user"}]}', "{", "{}"]
    for name, lines in {"broken": broken, "no records": ['{"messages": []}', "[]"]}.items():
        path = write_lines(tmp_path / f"{name}.jsonl", lines)
        texts = []
        for where in ({}, {"folder": tmp_path / name}):
            with pytest.raises(UnreadableLog) as raised:
                load_trajectories(path, strict=True, **where)
            texts.append(str(raised.value))
        assert texts[0] == texts[1]


def test_stored_records_are_indexed_sliced_and_taken_as_a_tuple_is(tmp_path):
    records = tuple(mixed_runs())
    parts = Parts(tmp_path / "records", TRAJECTORIES)
    parts.write("a", records[:30])
    parts.write("b", records[30:])
    found = parts.stored()
    assert (found[0], found[-1], len(found)) == (records[0], records[-1], len(records))
    assert tuple(found[5:40:3]) == records[5:40:3] and tuple(found[::-1]) == records[::-1]
    order = random.Random(0).sample(range(len(records)), 50)
    assert list(found.take(order).take([4, 2, 30])) == [records[order[n]] for n in (4, 2, 30)]
    with pytest.raises(IndexError):
        found[len(records)]


# --- quality control
# ----------------------------------------------------------------------------------


SETTINGS = {
    "defaults": {},
    "caps per question": {"cap_question": 1, "heldout": 0.5},
    "filters across questions": {"solved_overlap": 0.3, "cap_source": 9, "min_score": 0.1},
    "nothing off": {"cap_question": 2, "cap_source": 20, "failure_temperatures": (0.0, 2.0)},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_runs_are_kept_in_a_folder_as_in_memory(tmp_path, name):
    questions = ["Which book describes desert foxes number 4", "Who wrote Emma?"]
    evaluation = write_lines(tmp_path / "e.jsonl", [{"question": q} for q in questions])
    given = QualitySettings(evaluation=(str(evaluation),), **SETTINGS[name])
    records = mixed_runs()
    if "failure_temperatures" in SETTINGS[name]:
        warm = {"source": replace(records[0].source, temperature=0.5)}
        records = [t.replace(**warm) if n % 3 else t for n, t in enumerate(records)]
    report = same_report(records, given, tmp_path / "run")
    assert len(list((tmp_path / "run" / "shards").glob("*.arrow"))) > 4
    filters = {removal.filter for removal in report.removed}
    assert {"unlabelled", "leakage", "exact_duplicate"} <= filters
    saved = Report.load(report.save(tmp_path / "saved"))
    assert saved.kept == tuple(report.kept) and saved.table().equals(report.table())


def test_a_filter_of_ones_own_sees_all_runs_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("negfail_nb.quality.filters.FILTERS", FILTERS)
    known = len(FILTERS)

    @quality_filter()
    def every_second(cases, context):
        """Every second run of all that are left."""
        return {i: f"{len(context.solved)} solved" for i in range(0, len(cases), 2)}

    try:
        report = same_report(mixed_runs(), QualitySettings(), tmp_path / "run")
        gone = sum(removal.filter == "every_second" for removal in report.removed)
        assert gone - len(report.kept) in (0, 1)
    finally:
        del FILTERS[known:]


def test_wrong_records_are_refused_in_a_folder_too(tmp_path):
    for number, (records, error) in enumerate(
        [
            ([*runs(60), run("r003", question="Who wrote Emma?")], ValueError),
            ([], ValueError),
            ("logs/", TypeError),
            ([run("a", success=None)], ValueError),
        ]
    ):
        texts = []
        for where in ({}, {"folder": tmp_path / str(number)}):
            with pytest.raises(error) as raised:
                assess(records, **where)
            texts.append(str(raised.value))
        assert texts[0] == texts[1]


# --- rendering, and training on it
# --------------------------------------------------------------------


def test_the_same_tokens_and_labels_are_rendered_in_a_folder_as_in_memory(tmp_path):
    report = assess(mixed_runs(), QualitySettings(), folder=tmp_path / "quality")
    found, expected = same_rendered(report.train, tmp_path / "nat")
    columns = ["input_ids", "labels", "id", "question_id"]
    assert found.dataset().to_dict() == expected.dataset().to_dict()
    assert found.dataset().column_names == columns
    assert not check_mask(found, 3) and repr(found.show(3)) == repr(expected.show(3))
    short = PrefixSettings(max_tokens=120, thoughts="history")
    cut, _ = same_rendered(report.train, tmp_path / "cut", "none", settings=short)
    assert len(cut.skipped) and len(cut)
    common = in_all({"nat": found, "cut": cut})
    assert isinstance(common["nat"].examples, Stored)
    assert [e.id for e in common["nat"].examples] == [e.id for e in common["cut"].examples]
    assert common["nat"].dataset()["id"][:] == [e.id for e in common["nat"].examples]


def test_an_arm_chosen_from_files_is_that_chosen_in_memory(tmp_path):
    given = QualitySettings(heldout=0.3)
    in_memory = assess(mixed_runs(), given)
    on_disk = assess(mixed_runs(), given, folder=tmp_path / "quality")
    settings = TrainSettings(successes=5, failures=9)
    for arm in make_arms(("vanilla", "nat")):
        chosen = select(on_disk.train, arm, settings)
        assert not isinstance(chosen, tuple)
        assert tuple(chosen) == select(in_memory.train, arm, settings)
        ids = {trajectory.id for trajectory in chosen}
        assert [t.id for t in chosen] == [t.id for t in in_memory.train if t.id in ids]
        assert tuple(select(on_disk.kept, arm)) == select(in_memory.kept, arm)


def test_packing_leaves_the_files_as_they_are(tmp_path):
    found, expected = same_rendered(mixed_runs(), tmp_path / "run")
    assert plan(found) == plan(expected)
    again = render(mixed_runs(), "target-aware", found.tokenizer, folder=tmp_path / "run")
    assert again.content == found.content, "it is still taken as done"


# --- stopped, and called again
# ------------------------------------------------------------------------


def stages(folder, records, made=None):
    """All three stages in folders below one; the files of each, by name."""
    path = folder / "log.jsonl"
    if not path.is_file():
        write_lines(path, records)
    logs = load_trajectories(path, folder=folder / "import")
    report = assess(logs, folder=folder / "quality")
    made = made or tokenizer("byte-level", "chatml")
    render(report.train, "target-aware", made, folder=folder / "render")
    return hashes(folder)


def hashes(folder):
    found = [p for p in folder.rglob("*") if p.is_file() and p.name not in ("manifest.json",)]
    return {str(p.relative_to(folder)): file_hash(p) for p in found}


def asked(number):
    """Chats without a named question, behind an instruction, some with an id that is there."""
    turns = ["Rules: " + "act, then stop. " * 9, "OK", f"Who leads town {number % 9}?", "No."]
    turns[3] = f"Thought: {number}.\nAction: finish[{number % 4}]"
    roles = ("user", "assistant") * 2
    said = [{"role": role, "content": t} for role, t in zip(roles, turns, strict=True)]
    return {"messages": said, "reward": number % 2, "id": f"run {number % 35}"}


def test_what_was_stopped_anywhere_goes_on_and_ends_with_equal_files(tmp_path, monkeypatch):
    records = [asked(number) for number in range(40)]
    (tmp_path / "whole_").mkdir()
    (folder := tmp_path / "stopped").mkdir()
    expected = stages(tmp_path / "whole_", records)
    save = stored.save_batch
    draw = random.Random(0)

    def interrupted(path, batch):
        if draw.random() < 0.4:  # the file is cut short
            path.with_name(path.name + ".part").write_bytes(b"half")
            raise KeyboardInterrupt
        save(path, batch)

    for module in (stored, quality):
        monkeypatch.setattr(module, "save_batch", interrupted)
    stops = 0
    while stops < 1_000:
        try:
            found = stages(folder, records)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops > 5
    assert {n: h for n, h in found.items() if not n.endswith(".part")} == expected


def test_a_whole_unit_is_not_done_again_and_a_half_one_is(tmp_path):
    parts = Parts(tmp_path, TRAJECTORIES)
    parts.write("a", runs(20))
    for path in tmp_path.glob("a-*2.arrow"):  # of a longer unit that was cut short
        path.with_name("b-00002.arrow").write_bytes(path.read_bytes())
    assert parts.note("a") == {"records": 20} and parts.note("b") is None
    parts.write("b", runs(3))
    assert tuple(parts.stored()) == (*runs(20), *runs(3))


KILLED = """
import sys, pathlib
sys.path.insert(0, sys.argv[2])
from negfail_nb import stored
from negfail_nb.logs import streaming as import_
from negfail_nb.prefix import streaming as rendering
from negfail_nb.quality import streaming as quality
stored.ROWS, import_.PIECE, quality.SHARD, rendering.UNIT = 7, 2_000, 4_000, 16
from test_scale_logs import asked, stages
stages(pathlib.Path(sys.argv[1]), [asked(number) for number in range(1_500)])
"""


@pytest.mark.skipif(not os.environ.get(SCALE), reason=f"takes a minute; set {SCALE}=1")
def test_a_killed_process_goes_on_in_each_stage(tmp_path):
    def command(name):
        (tmp_path / name).mkdir(exist_ok=True)
        here = os.path.dirname(__file__)
        return [sys.executable, "-c", KILLED, str(tmp_path / name), here]

    for stage in ("import/trajectories", "quality/shards", "render/examples"):
        process = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if len(list((tmp_path / "killed" / stage).glob("*.arrow"))) > 5:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL, f"killed in {stage}"
    for name in ("killed", "whole_"):
        subprocess.run(command(name), check=True, stderr=subprocess.DEVNULL)
    # A half-written file of the killed process may be left; it counts nowhere.
    killed, whole = (
        {n: h for n, h in hashes(tmp_path / name).items() if not n.endswith((".part", ".lock"))}
        for name in ("killed", "whole_")
    )
    assert killed == whole


def test_a_full_disk_is_told_of_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    path = write_lines(tmp_path / "log.jsonl", [asked(number) for number in range(40)])
    logs = load_trajectories(path, folder=tmp_path / "import")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 100, 100))
    made = tokenizer("byte-level", "chatml")
    for name, call in {
        "reading": lambda folder: load_trajectories(path, folder=folder),
        "quality control": lambda folder: assess(logs, folder=folder),
        "rendering": lambda folder: render(logs, "none", made, folder=folder),
    }.items():
        with pytest.raises(OSError, match=r"needs about 0\.\d+ GB .* 0\.00 GB are free") as raised:
            call(tmp_path / name)
        assert name in str(raised.value) and not list((tmp_path / name).rglob("*.arrow"))


# --- large logs of a project
# ---------------------------------------------------------------------------


def test_large_logs_of_a_project_stay_on_disk_and_give_the_same(tmp_path, monkeypatch, caplog):
    write_lines(tmp_path / "log.jsonl", [asked(number) for number in range(40)])
    changes = {"collect": {"logs": ["log.jsonl"]}, "train": {"arms": ["vanilla", "nat"]}}
    project = open_project("pocket", tmp_path, changes)
    in_memory = earlier.data(project)
    monkeypatch.setattr(earlier, "LARGE", 100)
    monkeypatch.setattr("negfail_nb.logs.loading.LARGE", 100)
    on_disk = earlier.data(project)
    for part in ("train", "heldout"):
        for name, rendered in getattr(in_memory, part).items():
            found = getattr(on_disk, part)[name]
            assert isinstance(found.examples, Stored) and found.content == rendered.content
    assert tuple(on_disk.report.kept) == in_memory.report.kept
    with caplog.at_level(logging.WARNING):
        load_trajectories(tmp_path / "log.jsonl")
    assert "with folder=" in caplog.text


def test_real_logs_are_the_same_on_disk_and_in_memory(tmp_path, monkeypatch):
    whole = bool(os.environ.get(SCALE))
    monkeypatch.setattr(import_, "PIECE", 200_000)
    monkeypatch.setattr(quality, "SHARD", 400_000)
    monkeypatch.setattr(stored, "ROWS", 300)
    path = real_data("trajectories") if whole else real_data("trajectories/fireact")
    logs = same_logs(path, tmp_path / "import")
    report = same_report(logs, QualitySettings(cap_question=2), tmp_path / "quality")
    if whole:
        same_rendered(report.train, tmp_path / "render")
