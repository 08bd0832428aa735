"""01 logs: the registry, folders, ids, settings, how labels agree with our grade."""

import doctest

import pytest
from log_samples import MINT, lines, write

from negfail_nb.logs import (
    LogFile,
    Logs,
    formats,
    importer,
    label_agreement,
    load_trajectories,
    registry,
)
from negfail_nb.logs.__main__ import main
from negfail_nb.settings import CollectSettings
from negfail_nb.trajectory import Problem, UnreadableLog, write_trajectories


def test_own_trajectories_come_back_equal(tmp_path):
    logs = load_trajectories(write(tmp_path, "a.jsonl", lines(MINT, {**MINT, "task_id": 4})))
    again = load_trajectories(write_trajectories(tmp_path / "trajectories.jsonl", logs))
    assert again.trajectories == logs.trajectories


def test_the_content_of_logs_is_that_of_their_records(tmp_path):
    path = write(tmp_path, "a.jsonl", lines(MINT, {**MINT, "task_id": 4}))
    logs, again = load_trajectories(path), load_trajectories(path)
    assert logs.content == again.content == load_trajectories([path, path][:1]).content
    changed = Logs((logs[0], logs[1].replace(success=None)))
    others = [Logs(logs[:1]), Logs(logs[::-1]), changed, Logs(logs[:], (Problem("a", "", "bad"),))]
    assert len({logs.content, *(other.content for other in others)}) == 5


def test_the_docstring_example_of_an_importer_works(tmp_path):
    before = dict(registry._IMPORTERS)
    try:
        assert doctest.testmod(registry).failed == 0 and "diary" in formats()
        path = write(
            tmp_path,
            "d.jsonl",
            lines({"asked": "Q?", "turns": ["A"], "solved": True}, {"asked": "Q?"}),
        )
        logs = load_trajectories(path)
        assert (logs[0].success, logs[0].source.format, logs[0].question) == (True, "diary", "Q?")
        assert str(logs.problems[0]) == "d.jsonl:line 2: the field 'turns' is missing"
    finally:
        registry._IMPORTERS.clear()
        registry._IMPORTERS.update(before)


def test_an_importer_may_yield_problems_and_override_the_guess(tmp_path):
    before = dict(registry._IMPORTERS)
    try:

        @importer("grumpy", looks_like=lambda log: False)
        def grumpy(log: LogFile):
            yield Problem(log.name, "line 1", "I do not like it")

        path = write(tmp_path, "a.jsonl", lines(MINT))
        assert load_trajectories(path).problems == ()
        assert load_trajectories(path, format="grumpy").problems == (
            Problem("a.jsonl", "line 1", "I do not like it"),
        )
        with pytest.raises(UnreadableLog, match="a.jsonl:line 1: I do not like it"):
            load_trajectories(path, format="grumpy", strict=True)
    finally:
        registry._IMPORTERS.clear()
        registry._IMPORTERS.update(before)


def test_formats_are_listed_and_an_unknown_one_names_them(tmp_path):
    known = {
        "fireact",
        "inspect",
        "mint",
        "nat",
        "negfail",
        "openai",
        "react",
        "reflexion",
        "sharegpt",
    }
    assert known <= set(formats())
    with pytest.raises(
        ValueError, match="no importer is called 'mnit'; there are .*mint, nat, .*negfail"
    ):
        load_trajectories(write(tmp_path, "a.jsonl", lines(MINT)), format="mnit")


def test_a_folder_is_read_with_relative_names_and_unique_ids(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, "a.jsonl", lines(MINT, MINT))
    write(tmp_path / "sub", "b.jsonl", lines(MINT))
    write(tmp_path, ".hidden.jsonl", lines(MINT))
    write(tmp_path, "LICENSE", "MIT License")
    logs = load_trajectories(tmp_path)
    assert [t.id for t in logs] == [
        "mint:gsm8k:m-7b:3",
        "mint:gsm8k:m-7b:3~2",
        "mint:gsm8k:m-7b:3~3",
    ]
    assert [t.source.file for t in logs] == ["a.jsonl", "a.jsonl", "sub/b.jsonl"]
    assert [p.file for p in logs.problems] == ["LICENSE"]
    assert not any(str(tmp_path) in str(item) for item in (*logs, *logs.problems))


def test_table_counts_files_and_formats_and_html_is_escaped(tmp_path):
    write(tmp_path, "a.jsonl", lines(MINT, {**MINT, "success": False}) + "{\n")
    write(tmp_path, "b.txt", "<script>alert(1)</script>")
    logs = load_trajectories(tmp_path)
    assert logs.table().values.tolist() == [
        ["a.jsonl", "mint", 2, 1, 1, 0, 1],
        ["b.txt", "", 0, 0, 0, 0, 1],
    ]
    shown = logs._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert repr(logs) == "Logs(2 trajectories, 2 problems)" and logs[:1] == logs.trajectories[:1]


def test_the_settings_are_used_and_arguments_override_them(tmp_path):
    path = write(tmp_path, "a.jsonl", lines(MINT) + "{\n")
    strict = CollectSettings(logs=(str(path),), strict=True, task="qa")
    with pytest.raises(UnreadableLog, match=r"a.jsonl:line 2: not valid JSON.*Without strict=True"):
        load_trajectories(path, strict)
    logs = load_trajectories([path], strict, strict=False)
    assert len(logs) == 1 and logs[0].task == "qa"


def test_label_agreement_lists_only_disagreements(tmp_path):
    wrong = {
        **MINT,
        "task_id": 5,
        "reference": "5",
        "messages": [
            *MINT["messages"][:3],
            {"role": "assistant", "content": "<solution>5.2</solution>"},
        ],
    }
    logs = load_trajectories(write(tmp_path, "a.jsonl", lines(MINT, wrong)))
    table = label_agreement(logs)
    assert table.values.tolist() == [
        ["mint:gsm8k:m-7b:5", "mint", "math", "close number", True, 0.0, "5.2", "5"]
    ]
    assert table.attrs["compared"] == 2
    assert len(label_agreement(Logs(()))) == 0


def test_the_command_writes_the_disagreements(tmp_path, capsys):
    path = write(tmp_path, "a.jsonl", lines(MINT, {**MINT, "task_id": 5, "success": False}))
    assert (main([str(path)]), main([])) == (0, 2)
    shown = capsys.readouterr().out
    assert "1 of 2 disagree" in shown and "other writing" in shown and "mint:gsm8k:m-7b:5" in shown
