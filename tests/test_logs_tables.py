"""01 logs: tables and packed files; what is said of a shape that nobody knows; the page of
formats.
"""

import bz2
import csv
import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from negfail_nb import importer  # noqa: F401 - the printed importer names it
from negfail_nb.__main__ import main
from negfail_nb.logs import formats, load_trajectories, registry
from negfail_nb.settings import CollectSettings

TURNS = [
    {"role": "user", "content": 'Who says "hi, all"?'},
    {"role": "assistant", "content": "Ann;\nand Bob"},
]
REACT = "Thought: look\nAction: search[x]\nObservation: Rome\nThought: so\nAction: finish[Rome]"


def write_csv(path: Path, *rows, delimiter=",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)
    return path


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.CSV", "|")]
)
def test_a_table_is_read_with_a_mapping_of_its_columns(tmp_path, name, delimiter):
    rows = [
        ["q", "chat", "ok"],
        ["Q1?", json.dumps(TURNS), "true"],
        ["Q2?", json.dumps(TURNS), "0"],
        ["Q3?", "[]", ""],
    ]
    path = write_csv(tmp_path / name, *rows, delimiter=delimiter)
    logs = load_trajectories(
        path, columns={"question": "q", "messages": "chat", "success": "ok"}, strict=True
    )
    assert [(t.question, t.success) for t in logs] == [("Q1?", True), ("Q2?", False), ("Q3?", None)]
    assert logs[0].messages == tuple(TURNS) and logs[0].source.record == "row 1"


def test_obvious_names_need_no_mapping(tmp_path):
    asked = write_csv(
        tmp_path / "a.csv",
        ["prompt", "response", "correct"],
        ["Q?", REACT, "1"],
        ["R?", "Oslo", "no"],
    )
    logs = load_trajectories(asked, strict=True)
    assert [m["role"] for m in logs[0].messages] == ["user", "assistant", "user", "assistant"]
    assert [(t.question, t.prediction, t.success) for t in logs] == [
        ("Q?", "Rome", True),
        ("R?", "Oslo", False),
    ]
    chats = load_trajectories(
        write_csv(tmp_path / "b.csv", ["messages", "reward"], [json.dumps(TURNS), "1.0"])
    )
    assert (chats[0].source.format, chats[0].success, chats[0].question) == (
        "openai",
        True,
        TURNS[0]["content"],
    )


def test_a_table_of_other_names_says_what_to_write(tmp_path):
    path = write_csv(tmp_path / "a.csv", ["q", "chat", "ok"], ["Q?", "A", "1"])
    reason = load_trajectories(path).problems[0].reason
    assert "a table with the columns q, chat, ok" in reason
    assert "columns={'question': 'q', 'messages': 'chat', 'success': 'ok'}" in reason
    wrong = load_trajectories(path, columns={"question": "asked"}).problems[0].reason
    assert wrong == "there is no column 'asked'; the table has q, chat, ok"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([["question", "response"], ["Q?", "A", "B"]], "the row has 3 cells, the header 2"),
        ([["question", "response"], ["Q?"]], "the row has 1 cells, the header 2"),
        ([["question", "question"], ["Q?", "A"]], "two columns are called 'question'; rename one"),
        (
            [["question", "messages"], ["Q?", str(TURNS)]],
            "it looks like Python, write the column with json.dumps",
        ),
        (
            [["question", "response", "score"], ["Q?", "A", "45"]],
            "the column 'score' is text (45); a verdict is",
        ),
        ([["question", "response"], ["Q?", "A" * 30_000]], "raise max_record_mb (now 0.02)"),
        ([["question", "messages"], ["Q?", '[{"role": NaN}]']], "holds NaN, which is not JSON"),
    ],
)
def test_a_bad_row_is_a_problem_and_costs_no_other(tmp_path, rows, reason):
    path = write_csv(
        tmp_path / "a.csv",
        *rows,
        *([["Q?"] + ["A"] * (len(rows[0]) - 1)] if "score" not in rows[0] else []),
    )
    logs = load_trajectories(path, CollectSettings(max_record_mb=0.02))
    assert reason in logs.problems[0].reason and len(logs.problems) == 1
    assert len(logs) == (
        "twice" not in reason and "score" not in rows[0] and "called" not in reason
    )


def test_a_quotation_that_never_ends_is_bounded(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('question,response\nQ?,A\nR?,"' + "x\n" * 200_000, encoding="utf-8")
    logs = load_trajectories(path, CollectSettings(max_record_mb=0.1))
    assert logs[0].question == "Q?" and "not valid CSV" in logs.problems[0].reason


def test_parquet_is_read_as_it_was_written(tmp_path):
    calls = [{"function": {"name": "search", "arguments": "{}"}, "id": "1", "type": "function"}]
    turns = [TURNS[0], {"role": "assistant", "content": "", "tool_calls": calls}, TURNS[1]]
    frame = pd.DataFrame(
        {"messages": [turns, TURNS], "reward": [1.0, None], "question": ["Q?", "R?"]}
    )
    frame.to_parquet(tmp_path / "a.parquet")
    logs = load_trajectories(tmp_path / "a.parquet", strict=True)
    assert [t.success for t in logs] == [True, None] and logs[1].messages == tuple(TURNS)
    assert (
        logs[0].messages[1]["tool_calls"][0]["function"]["name"] == "search"
        and "tool_calls" not in logs[0].messages[0]
    )
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:100])
    assert len(load_trajectories(tmp_path / "b.parquet").problems) == 1


def test_packed_files_are_read_and_bombs_are_not(tmp_path):
    line = json.dumps({"messages": TURNS, "reward": 1}).encode()
    array = b"[" + line + b"," + line + b"]"
    table = f"question,response,success\nQ?,{'A'},1\n".encode()
    for name, raw, count in (
        ("a.jsonl.gz", line + b"\n" + line, 2),
        ("a.json.gz", array, 2),
        ("a.csv.gz", table, 1),
    ):
        (tmp_path / name).write_bytes(gzip.compress(raw))
        logs = load_trajectories(tmp_path / name, strict=True)
        assert (len(logs), logs[0].success, logs[0].source.file) == (count, True, name)
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress((line + b"\n") * 10_000))
    small = CollectSettings(max_record_mb=0.01)
    assert (
        "200 times its size"
        in load_trajectories(tmp_path / "bomb.jsonl.gz", small).problems[0].reason
    )
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(line + b"\n" + line)[:-12])
    assert load_trajectories(tmp_path / "cut.jsonl.gz").problems
    (tmp_path / "x.bz2").write_bytes(bz2.compress(line))
    assert "bzip2): unpack it first" in load_trajectories(tmp_path / "x.bz2").problems[0].reason


def test_an_unknown_shape_leads_to_an_importer_that_works(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(
        json.dumps({"asked": "Q?", "exchange": TURNS, "fine": True}) + "\n", encoding="utf-8"
    )
    reason = load_trajectories(path).problems[0].reason
    assert "its records have the keys asked, exchange, fine" in reason
    code = reason.partition("importer:\n")[2]
    assert 8 <= code.count("\n") + 1 <= 12
    before = dict(registry._IMPORTERS)
    try:
        exec(compile(code, "printed", "exec"), {})
        only = load_trajectories(path, strict=True)[0]
        assert (only.question, only.success, only.messages, only.source.format) == (
            "Q?",
            True,
            tuple(TURNS),
            "mine",
        )
    finally:
        registry._IMPORTERS.clear()
        registry._IMPORTERS.update(before)


def test_the_page_of_formats_is_current_and_complete(capsys):
    written = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    assert written == registry.formats_table(), (
        "python -m negfail_nb formats --markdown > docs/formats.md"
    )
    assert main(["formats", "--markdown"]) == 0
    assert capsys.readouterr().out == written
    rows = [line for line in written.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(formats())
    assert all(row.count("|") - row.count("\\|") == 4 for row in rows)
