"""01 logs: bad input gets a clear reason, and costs nothing but itself."""

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from negfail_nb.logs import load_trajectories
from negfail_nb.settings import CollectSettings
from negfail_nb.trajectory import UnreadableLog

GOOD = {
    "messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}],
    "reward": 1,
}
LINE = json.dumps(GOOD).encode()
TURNS = {"user": "Q?", "assistant": "A"}


def load_bytes(folder: Path, raw: bytes, name: str = "log.jsonl", **given):
    path = folder / name
    path.write_bytes(raw)
    return load_trajectories(path, **given)


def with_message(**changes) -> bytes:
    return json.dumps(
        {**GOOD, "messages": [GOOD["messages"][0], {**GOOD["messages"][1], **changes}]}
    ).encode()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (
            LINE[:-9],
            "line 2: not valid JSON: .* at character \\d+ \\(is the record truncated\\?\\)",
        ),
        (LINE.replace(b"A", b"\xff"), "line 2: not UTF-8: byte 0xff at byte \\d+ of the line"),
        (LINE.replace(b"1}", b"NaN}"), "line 2: holds NaN, which is not JSON"),
        (LINE.replace(b"1}", b"-Infinity}"), "line 2: holds -Infinity, which is not JSON"),
        (
            LINE.replace(b"A", b"A" * 30_000),
            "line 2: the record is 0.03.. MB; raise max_record_mb \\(now 0.02\\) to read it",
        ),
        (b"[" * 5_000, "line 2: nested too deeply to be a log"),
        (b"5" * 5_000, "line 2: .*digits"),
        (b"[1, 2]", "line 2: the record is list \\('\\[1, 2\\]'\\), not an object"),
        (b"{}", "line 2: the field 'messages' is missing; the record has no fields"),
        (b'{"messages": "hi"}', "line 2: the field 'messages' is text \\(hi\\), not a list"),
        (b'{"messages": [7]}', "line 2: messages\\[0\\] is a number \\(7\\), not a message"),
        (b'{"messages": []}', "line 2: the question is empty"),
        (with_message(content=5), "line 2: messages\\[1\\].content is a number \\(5\\), not text"),
        (
            with_message(content=[{"text": 5}]),
            "line 2: messages\\[1\\].content has parts that are no objects with text",
        ),
        (
            with_message(role="wizard"),
            "line 2: messages\\[1\\] has the role text \\(wizard\\); known are system, ",
        ),
        (with_message(role=None), "line 2: messages\\[1\\] has the role null"),
        (
            with_message(tool_calls=5),
            "line 2: messages\\[1\\].tool_calls is a number \\(5\\), not a list of calls",
        ),
        (
            with_message(tool_calls=[{"x": 1}]),
            "line 2: messages\\[1\\].tool_calls\\[0\\] has no function with a name",
        ),
        (
            json.dumps({**GOOD, "answer": {"a": 1}}).encode(),
            "line 2: the reference answer is an object",
        ),
        (
            json.dumps({**GOOD, "question": 3}).encode(),
            "line 2: the field 'question' is a number \\(3\\), not text",
        ),
        (b"\x00\x01\x02", "line 2: not valid JSON"),
    ],
)
def test_one_bad_line_costs_only_itself_and_says_why(tmp_path, bad, reason):
    # the limit is a round number well above the good line
    limits = CollectSettings(max_record_mb=0.02)
    logs = load_bytes(tmp_path, LINE + b"\n" + bad + b"\n" + LINE + b"\n", settings=limits)
    assert (len(logs), len(logs.problems)) == (2, 1)
    assert re.match(f"log.jsonl:{reason}", str(logs.problems[0])), str(logs.problems[0])
    with pytest.raises(UnreadableLog, match=f"log.jsonl:{reason}"):
        load_bytes(tmp_path, LINE + b"\n" + bad + b"\n" + LINE, settings=limits, strict=True)


def test_a_bad_first_line_does_not_hide_the_format(tmp_path):
    for bad in (LINE[:-5], b"\xff\xfe", b"A" * 30_000, b"[1]", b"[" + LINE[1:], b"{" * 9 + b"}"):
        logs = load_bytes(
            tmp_path,
            bad + b"\n" + LINE + b"\n" + LINE + b"\n",
            settings=CollectSettings(max_record_mb=0.02),
        )
        assert (len(logs), len(logs.problems)) == (2, 1), (bad[:20], logs.problems)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbf" + LINE + b"\n" + LINE,
        LINE + b"\r\n" + LINE + b"\r\n",
        LINE + b"\n\n  \n" + LINE,
        LINE + b"\n" + LINE,
    ],
    ids=["BOM", "CRLF", "blank lines", "no newline at the end"],
)
def test_harmless_oddities_are_read(tmp_path, raw):
    logs = load_bytes(tmp_path, raw)
    assert (len(logs), logs.problems) == (2, ())
    assert logs[0].messages == tuple(GOOD["messages"])


def test_crlf_and_bom_in_text_logs(tmp_path):
    lines = [
        "Question: Q?",
        "Thought 1: t",
        "Action 1: Finish[A]",
        "Observation 1: Answer is CORRECT",
    ]
    text = b"\xef\xbb\xbf" + "".join(f"{line}\r\n" for line in lines).encode()
    only = load_bytes(tmp_path, text, "r.txt")[0]
    assert (only.question, only.prediction, only.success) == ("Q?", "A", True)
    assert only.messages[1]["content"] == "Thought 1: t\nAction 1: Finish[A]"


def test_a_text_log_loses_only_the_attempt_with_bytes_that_are_no_text(tmp_path):
    attempt = b"Question: Q?\nThought: t\nAction: Finish[A]\n"
    logs = load_bytes(tmp_path, attempt + attempt.replace(b"t\n", b"\xff\n") + attempt, "r.txt")
    assert len(logs) == 2
    assert (
        str(logs.problems[0]) == "r.txt:line 4: line 5: not UTF-8: byte 0xff at byte 10 of the line"
    )
    long = load_bytes(
        tmp_path,
        attempt + attempt.replace(b"t\n", b"t" * 30_000 + b"\n"),
        "r.txt",
        settings=CollectSettings(max_record_mb=0.02),
    )
    assert len(long) == 1 and "the record is 0.03 MB" in long.problems[0].reason


def test_lone_surrogates_are_replaced_and_pairs_are_kept(tmp_path):
    raw = LINE.replace(b'"A"', b'"\\ud800 and \\ud83d\\ude00"')
    only = load_bytes(tmp_path, raw + b"\n" + LINE)[0]
    assert only.messages[1]["content"] == "\ufffd and \U0001f600"
    assert json.dumps(only.to_dict(), ensure_ascii=False).encode()


def test_empty_file(tmp_path):
    logs = load_bytes(tmp_path, b" \n")
    assert [str(p) for p in logs.problems] == ["log.jsonl: the file is empty"]
    with pytest.raises(UnreadableLog, match="log.jsonl: the file is empty"):
        load_bytes(tmp_path, b"", strict=True)


def test_file_without_records(tmp_path):
    assert "no known format" in load_bytes(tmp_path, b"[]").problems[0].reason
    assert (
        load_bytes(tmp_path, b"[]", format="openai").problems[0].reason
        == "the file holds no records"
    )


def test_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.jsonl: there is no such file or folder"):
        load_trajectories(tmp_path / "gone.jsonl")


def test_folder_without_a_readable_file(tmp_path):
    (tmp_path / "logs").mkdir()
    assert [str(p) for p in load_trajectories(tmp_path / "logs").problems] == [
        "logs: the folder holds no file"
    ]
    (tmp_path / "logs" / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    logs = load_trajectories(tmp_path / "logs")
    assert len(logs) == 0
    assert "photo.png: no known format: binary, it starts with b'\\x89PNG" in str(logs.problems[0])
    with pytest.raises(UnreadableLog, match="photo.png: no known format"):
        load_trajectories(tmp_path / "logs", strict=True)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert str(load_trajectories(tmp_path / "pipe").problems[0]) == "pipe: this is no ordinary file"


def test_unknown_content_says_what_was_seen_and_lists_the_formats(tmp_path):
    reason = load_bytes(tmp_path, b'{"cat": 1, "dog": 2}\n{"cat": 3}').problems[0].reason
    assert (
        reason.startswith("no known format: its records have the keys cat, dog. Formats: ")
        and "sharegpt" in reason
    )
    reason = load_bytes(tmp_path, b"dear diary", "d.txt").problems[0].reason
    assert reason.startswith("no known format: it starts with 'dear diary'.")


def test_truncated_array_keeps_what_is_before_the_cut(tmp_path):
    raw = json.dumps([GOOD, GOOD, GOOD], indent=1).encode()
    logs = load_bytes(tmp_path, raw[:-30], "a.json")
    assert len(logs) == 2 and len(logs.problems) == 1
    assert re.match(
        r"a.json:line \d+: not valid JSON: .*; nothing after it was read", str(logs.problems[0])
    )


def test_a_bad_item_of_an_array_costs_only_itself(tmp_path):
    raw = (
        b"["
        + b",\n".join(
            [
                LINE,
                LINE.replace(b"1}", b"NaN}"),
                LINE.replace(b"A", b"\xfe"),
                b"7",
                LINE.replace(b"A", b"A" * 30_000),
                LINE,
            ]
        )
        + b"]"
    )
    logs = load_bytes(tmp_path, raw, "a.json", settings=CollectSettings(max_record_mb=0.02))
    assert len(logs) == 2
    assert [p.record for p in logs.problems] == ["item 2", "item 3", "item 4", "item 5"]
    for problem, reason in zip(
        logs.problems,
        ("holds NaN", "not UTF-8: byte 0xfe", "the record is int", "MB; raise"),
        strict=True,
    ):
        assert reason in problem.reason


def test_the_default_limit_holds_for_a_ten_megabyte_line(tmp_path):
    raw = LINE + b"\n" + LINE.replace(b"A", b"A" * 10_000_000) + b"\n" + LINE
    logs = load_bytes(tmp_path, raw)
    assert (
        len(logs) == 2
        and str(logs.problems[0])
        == "log.jsonl:line 2: the record is 10 MB; raise max_record_mb (now 8) to read it"
    )
    alone = load_bytes(tmp_path, LINE.replace(b"A", b"A" * 10_000_000))
    assert len(alone) == 0 and "MB; raise max_record_mb" in str(alone.problems[0])


def test_importing_executes_nothing(tmp_path):
    trap = tmp_path / "trap"
    code = f"__import__('pathlib').Path({str(trap)!r}).write_text('x')"
    chat = {
        "messages": [
            {"role": "user", "content": "Q?"},
            {
                "role": "assistant",
                "content": f"<execute>{code}</execute>\nAction: calculate[{code}]",
            },
        ],
        "answer": code,
    }
    logs = load_bytes(tmp_path, json.dumps(chat).encode() + b"\n")
    assert len(logs) == 1 and not trap.exists()
    source = "".join(
        p.read_text() for p in (Path(__file__).parents[1] / "negfail_nb" / "collect").rglob("*.py")
    )
    assert not re.search(
        r"(?<!model\.)\b(?:eval|exec|pickle|subprocess|os\.system)\(|\bimport pickle", source
    )


FORMATS = st.sampled_from(
    [
        None,
        "openai",
        "mint",
        "fireact",
        "sharegpt",
        "nat",
        "negfail",
        "react",
        "reflexion",
        "inspect",
    ]
)
fuzz = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzz
@given(raw=st.binary(max_size=300), format=FORMATS)
def test_random_bytes_raise_nothing_and_are_reported(tmp_path, raw, format):
    logs = load_bytes(tmp_path, raw, format=format)
    assert len(logs) + len(logs.problems) >= 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "role",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "reward",
                    "info",
                    "gt",
                    "answer",
                    "conversations",
                    "from",
                    "value",
                    "traj",
                    "id",
                    "question",
                    "question_id",
                    "scores",
                    "terminate_reason",
                    "success",
                    "source",
                    "termination",
                    "model",
                    "dataset",
                    "task_id",
                    "reference",
                    "tools",
                    "pred",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@fuzz
@given(
    records=st.lists(JSON.filter(lambda v: isinstance(v, dict)), min_size=2, max_size=4),
    format=FORMATS.filter(lambda f: f not in ("react", "reflexion", "inspect")),
)
def test_every_json_line_becomes_a_trajectory_or_a_problem(tmp_path, records, format):
    raw = "".join(json.dumps(record) + "\n" for record in records).encode()
    logs = load_bytes(tmp_path, raw, format=format)
    assert len(logs) + len(logs.problems) == (
        len(records) if format or len(logs) or len(logs.problems) > 1 else 1
    )


@fuzz
@given(
    at=st.integers(0, 10_000),
    byte=st.integers(0, 255).filter(lambda b: b != 10),
    line=st.integers(0, 3),
)
def test_a_flipped_byte_costs_at_most_its_line(tmp_path, at, byte, line):
    rows = [bytearray(LINE) for _ in range(4)]
    rows[line][at % len(LINE)] = byte
    logs = load_bytes(tmp_path, b"\n".join(map(bytes, rows)) + b"\n")
    assert len(logs) + len(logs.problems) == 4 and len(logs) >= 3
    assert all(problem.record == f"line {line + 1}" for problem in logs.problems)


@fuzz
@given(cut=st.integers(1, 400), kind=st.sampled_from(["lines", "array", "wrapped"]))
def test_a_cut_file_keeps_every_whole_record(tmp_path, cut, kind):
    raw = {
        "lines": b"".join(LINE + b"\n" for _ in range(4)),
        "array": json.dumps([GOOD] * 4).encode(),
        "wrapped": json.dumps({"data": [GOOD] * 4}).encode(),
    }[kind]
    kept = raw[: max(len(raw) - cut, 200)]
    logs = load_bytes(tmp_path, kept)
    start = 10 if kind == "wrapped" else 1 if kind == "array" else 0
    whole = (len(kept) - start + 2) // (len(LINE) + (1 if kind == "lines" else 2))
    assert len(logs) in (whole, whole - 1, whole + 1) and len(logs) >= 1
    assert len(logs.problems) <= 1


@fuzz
@given(text=st.text(alphabet="QATO:uesition hghcobrv[]1\n\r", max_size=200))
def test_react_like_noise_raises_nothing(tmp_path, text):
    logs = load_bytes(tmp_path, f"Question: Q?\nThought: t\n{text}".encode(), "r.txt")
    assert len(logs) + len(logs.problems) >= 1


def test_a_list_of_runs_that_begins_with_something_else_is_a_problem(tmp_path):
    run = {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "success": True,
    }
    logs = load_bytes(
        tmp_path, json.dumps({"runs": [run], "other": [1, run], "names": ["x"]}).encode()
    )
    assert len(logs) == 1 and ["first item" in p.reason for p in logs.problems] == [True]
