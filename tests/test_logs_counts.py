"""01 logs: every format gives as many runs, successes and failures as its own labels say."""

import json
from pathlib import Path

import pytest
from conftest import real_data
from log_formats import RUNS, chat, real_cases, small_cases

from negfail_nb.logs import formats, importers, load_trajectories
from negfail_nb.logs.registry import named
from negfail_nb.steps import read_steps

COUNTS = ["records", "successes", "failures", "unlabelled", "problems"]
SMALL = small_cases()


def table(logs):
    return [
        (row["format"], *(int(row[name]) for name in COUNTS)) for _, row in logs.table().iterrows()
    ]


@pytest.mark.parametrize("case", SMALL, ids=[f"{case.format}-{case.file}" for case in SMALL])
def test_a_small_log_of_every_shape_is_counted_by_its_own_labels(tmp_path, case):
    logs = load_trajectories(case.write(tmp_path))
    assert (table(logs), logs.problems) == ([(case.format, *case.counts)], ())
    for run in logs:
        assert run.question and run.messages and run.termination == "finished"
        assert run.messages[-1]["role"] == "assistant" and read_steps(run)


def test_real_files_are_counted_by_their_own_labels():
    for path, format, counts in real_cases(real_data("trajectories").parent):
        assert table(load_trajectories(path)) == [(format, *counts)], path.name


def test_every_file_of_importers_is_registered():
    folder = Path(importers.__file__).parent
    assert all(hasattr(importers, path.stem) for path in folder.glob("[a-z]*.py"))


def test_every_format_says_the_least_that_it_needs():
    assert {case.format for case in SMALL} <= set(formats())
    assert all(named(case.format).fields for case in SMALL)


@pytest.mark.parametrize(
    "case", [c for c in SMALL if c.format in ("anthropic", "responses", "spans", "atif")]
)
def test_dialects_say_the_same_as_openai(tmp_path, case):
    first = load_trajectories(case.write(tmp_path))[0]
    said = [
        (m["role"], m["content"], json.dumps(m.get("tool_calls")))
        for m in first.messages
        if m["role"] != "system"
    ]
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "search", "arguments": '{"query": "leader"}'},
    }
    if case.format == "anthropic":
        call["id"] = "t1"
    wanted = [
        (m["role"], m["content"], json.dumps([call] if "tool_calls" in m else None))
        for m in chat(*RUNS[0][:2])
    ]
    assert said == wanted
    assert (first.question, first.prediction) == (RUNS[0][0], "It is Firefly.")
