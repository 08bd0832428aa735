"""01 logs: folders as they are: links, pipes, files of our own, odd names; no file ends an
import.
"""

import json
import math
import os
import socket
from types import SimpleNamespace

import pytest

from negfail_nb import content, runs
from negfail_nb.journal import Journal
from negfail_nb.logs import LogFile, importer, load_trajectories, registry
from negfail_nb.trajectory import (
    Trajectory,
    UnreadableLog,
    read_trajectories,
    write_lines,
    write_trajectories,
)

TURNS = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]
LINE = json.dumps({"messages": TURNS, "reward": 1}) + "\n"
OWN = Trajectory(id="1", question_id="q", question="Q?", messages=tuple(TURNS), success=True)


def reasons(logs):
    return {problem.file: problem.reason for problem in logs.problems}


def test_links_pipes_and_sockets_of_a_folder_are_told(tmp_path, monkeypatch):
    folder, beside = tmp_path / "logs", tmp_path / "beside"
    folder.mkdir()
    beside.mkdir()
    (beside / "b.jsonl").write_text(LINE)
    (folder / "a.jsonl").write_text(LINE)
    (folder / "latest.jsonl").symlink_to("a.jsonl")
    (folder / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (folder / "self").symlink_to("self")
    (folder / "linked").symlink_to(beside)
    (folder / "linked again").symlink_to(beside)
    (beside / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)  # a socket's name has to be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("sock")
    logs = load_trajectories(folder)
    assert [t.source.file for t in logs] == ["a.jsonl", "linked/b.jsonl"]
    told = reasons(logs)
    assert set(told) == {"gone.jsonl", "self", "linked again", "linked/loop", "pipe", "sock"}
    assert (
        told["gone.jsonl"].startswith("the link is broken")
        and told["pipe"] == "this is no ordinary file"
    )
    assert "is read already" in told["linked/loop"] and "is read already" in told["linked again"]
    assert [(p.file, p.reason) for p in logs.passed] == [
        ("latest.jsonl", "a link to a file that is read already")
    ]
    with pytest.raises(UnreadableLog, match="gone.jsonl: the link is broken"):
        load_trajectories(folder, strict=True)
    assert "the link is broken" in str(load_trajectories(folder / "gone.jsonl").problems[0])


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_told(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINE)
    (tmp_path / "shut.jsonl").write_text(LINE)
    (tmp_path / "shut.jsonl").chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    logs = load_trajectories(tmp_path)
    assert len(logs) == 1 and set(reasons(logs)) == {"shut.jsonl", "closed"}


def test_what_may_not_be_read_is_told_whoever_reads(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text(LINE)
    (tmp_path / "shut.jsonl").write_text(LINE)
    opened = LogFile.open

    def refuse(log):
        if log.path.name.startswith("shut"):
            raise PermissionError(13, "Permission denied", str(log.path))
        return opened(log)

    monkeypatch.setattr(LogFile, "open", refuse)
    logs = load_trajectories(tmp_path)
    assert len(logs) == 1 and reasons(logs) == {
        "shut.jsonl": "it cannot be read: Permission denied"
    }


def test_hidden_and_half_written_files_are_passed_with_a_note(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.jsonl").write_text(LINE)
    (tmp_path / ".a.jsonl").write_text(LINE)
    (tmp_path / "a.jsonl.part").write_text(LINE[:9])
    (tmp_path / "a.jsonl").write_text(LINE)
    logs = load_trajectories(tmp_path, strict=True)
    assert len(logs) == 1 and {p.file for p in logs.passed} == {".git", ".a.jsonl", "a.jsonl.part"}
    assert (
        "hidden" in logs._repr_html_()
        and len(load_trajectories(tmp_path / ".a.jsonl", strict=True)) == 1
    )


def test_a_folder_of_our_own_live_collections_has_no_problems(tmp_path):
    with Journal(tmp_path / "live.jsonl", {"model": "m"}) as journal:
        journal.add(OWN)
    logs = load_trajectories(tmp_path, strict=True)
    assert [t.id for t in logs] == ["1"]
    assert [p.file for p in logs.passed if not p.file.startswith(".")] == [
        "live.jsonl.settings.json"
    ]


@pytest.mark.parametrize("planned", [True, False])
def test_a_run_folder_of_ours_gives_its_runs_once(tmp_path, planned):
    run = runs.start(runs.Place(tmp_path, "collect"), {"seed": 0})
    write_trajectories(run.path("trajectories.jsonl"), [OWN])
    if planned:
        write_trajectories(run.path("episodes.jsonl"), [OWN])
    content.write_json(run.path("problems.json"), [["a", "line 1", "bad"]])
    run.finish()
    if not planned:
        run.path("plan.json").unlink()
    logs = load_trajectories(tmp_path, strict=True)
    assert [t.id for t in logs] == ["1"]
    assert {"manifest.json", "problems.json"} <= {p.file.rpartition("/")[2] for p in logs.passed}


def test_a_figure_beside_logs_is_no_log(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINE)
    content.write_json(
        tmp_path / "f.json", {"figure": "f", "provenance": {}, "drawn_with": {}, "rows": 1}
    )
    (tmp_path / "f.csv").write_text("x,y\n1,2\n")
    (tmp_path / "f.png").write_bytes(b"\x89PNG\0")
    logs = load_trajectories(tmp_path, strict=True)
    assert len(logs) == 1 and [p.file for p in logs.passed] == ["f.csv", "f.json", "f.png"]
    (tmp_path / "manifest.json").write_text('{"cat": 1}')
    assert set(reasons(load_trajectories(tmp_path))) == {"manifest.json"}  # not ours


def test_names_that_are_not_utf8_can_be_written(tmp_path):
    for raw in (b"\xff.jsonl", b"\xfe.jsonl", b"d\xfc"):
        path = os.path.join(os.fsencode(tmp_path), raw)
        if raw == b"d\xfc":
            os.mkdir(path)
            path = os.path.join(path, b"c.jsonl")
        with open(path, "wb") as stream:
            stream.write(LINE.encode() + b"{\n")
    logs = load_trajectories(tmp_path)
    names = ["\\xfe.jsonl", "\\xff.jsonl", "d\\xfc/c.jsonl"]
    assert sorted({t.source.file for t in logs}) == names == sorted(reasons(logs))
    assert list(read_trajectories(write_trajectories(tmp_path / "t" / "t.jsonl", logs))) == list(
        logs
    )
    content.write_json(
        tmp_path / "problems.json", [[p.file, p.record, p.reason] for p in logs.problems]
    )
    assert logs.table().to_csv().encode() and logs._repr_html_().encode()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("odd"),
        EOFError(),
        NotImplementedError(),
        AssertionError(),
        OSError(5, "I/O"),
    ],
)
def test_whatever_an_importer_raises_ends_no_import(tmp_path, error):
    @importer("rude", looks_like=lambda log: log.has("rude"))
    def rude(log):
        def read(record, where):
            raise error

        yield from log.convert(read)
        raise error

    try:
        (tmp_path / "a.jsonl").write_text('{"rude": 1}\n')
        (tmp_path / "b.jsonl").write_text(LINE)
        logs = load_trajectories(tmp_path)
        assert len(logs) == 1 and [p.record for p in logs.problems] == ["1", ""]
        assert all(p.reason for p in logs.problems)
    finally:
        registry._IMPORTERS.pop("rude")


def test_a_test_that_stumbles_does_not_hide_the_other_importers(tmp_path):
    importer("lame", looks_like=lambda log: log.samples[0]["nothing"])(lambda log: ())
    try:
        (tmp_path / "a.jsonl").write_text(LINE)
        assert len(load_trajectories(tmp_path, strict=True)) == 1
    finally:
        registry._IMPORTERS.pop("lame")


@pytest.mark.parametrize("content", ["[]", "{}", '{"runs": []}', "[[], []]", "\n[ ]\n"])
def test_a_file_that_holds_nothing_is_told(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    logs = load_trajectories(tmp_path)
    assert not len(logs) and list(reasons(logs)) == ["a.json"]


@pytest.mark.parametrize("number", ["1e999", "-1e400", "NaN", "Infinity"])
def test_endless_numbers_are_refused_when_read_and_never_written(tmp_path, number):
    (tmp_path / "a.jsonl").write_text(
        LINE + LINE.replace("1}", f'1, "scores": {{"em": {number}}}}}') + LINE
    )
    logs = load_trajectories(tmp_path / "a.jsonl")
    assert len(logs) == 2 and "in the field 'scores.em'" in logs.problems[0].reason
    own = json.dumps(OWN.to_dict()).replace('"scores": {}', f'"scores": {{"em": {number}}}')
    (tmp_path / "t.jsonl").write_text(own + "\n")
    assert "in the field 'scores.em'" in load_trajectories(tmp_path / "t.jsonl").problems[0].reason


@pytest.mark.parametrize(
    ("field", "value"), [("scores", {"em": 10**400}), ("usage", {"seconds": 10**400})]
)
def test_a_number_too_large_for_a_score_costs_only_its_record(tmp_path, field, value):
    lines = [
        json.dumps({**OWN.to_dict(), field: found, "id": str(n)})
        for n, found in enumerate([{}, value, {}])
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    logs = load_trajectories(tmp_path / "t.jsonl")
    assert (len(logs), [p.record for p in logs.problems]) == (2, ["line 2"])


def test_our_writers_name_the_record_and_the_field(tmp_path):
    bad = OWN.replace(scores={"em": 1.0, "f1": math.nan})
    message = "the record '1' cannot be written: its field 'scores.f1' is NaN or infinite"
    with pytest.raises(ValueError, match=message):
        write_trajectories(tmp_path / "t.jsonl", [OWN, bad])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"its field 'a\[1\]\.b' is NaN"):
        write_lines(tmp_path / "t.jsonl", [{"a": [0, {"b": math.inf}]}])
    odd = SimpleNamespace(id="1", to_dict=bad.to_dict)
    with pytest.raises(ValueError, match=message), Journal(tmp_path / "j.jsonl", {}) as journal:
        journal.add(odd)
    assert (tmp_path / "j.jsonl").read_bytes() == b""
