"""01 logs: archives of inspect-ai."""

import importlib.util
import json
import zipfile
from pathlib import Path

import pytest
from conftest import real_data
from log_samples import FIXTURES

from negfail_nb.logs import load_trajectories
from negfail_nb.settings import CollectSettings


def test_inspect_archive_with_tool_calls(tmp_path):
    logs = load_trajectories(FIXTURES / "towns.eval")
    assert [t.success for t in logs] == [True, False, True] and not logs.problems
    called = logs[0]
    assert called.id == "inspect:towns:mockllm/model:a:1" and called.answer == "Freedonia"
    assert called.messages[1]["tool_calls"][0]["function"] == {
        "name": "lookup",
        "arguments": '{"word": "Sylvania [old]"}',
    }
    assert called.messages[2]["tool_call_id"] == called.messages[1]["tool_calls"][0]["id"]
    assert (called.usage.prompt_tokens, called.scores["includes"], called.source.model) == (
        80,
        1.0,
        "mockllm/model",
    )


def test_inspect_packed_with_zstd_is_read_or_says_what_to_install():
    logs = load_trajectories(FIXTURES / "towns_two_scores_zstd.eval", score="match")
    if hasattr(zipfile, "ZIP_ZSTANDARD") or importlib.util.find_spec("zipfile_zstd"):
        assert [t.success for t in logs] == [True, False, True]
    else:
        assert len(logs.problems) == 3 and "negfail_nb[zstd]" in logs.problems[0].reason


def archive(folder: Path, samples: dict[str, object], header: object = None) -> Path:
    path = folder / "x.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        if header is not None:
            packed.writestr("header.json", json.dumps(header))
        for name, sample in samples.items():
            packed.writestr(
                f"samples/{name}.json", sample if isinstance(sample, str) else json.dumps(sample)
            )
    return path


SAMPLE = {
    "id": 1,
    "epoch": 2,
    "input": "Q?",
    "target": ["A", "a"],
    "attachments": {"1f": "long text"},
    "messages": [
        {"role": "user", "content": "attachment://1f"},
        {
            "role": "assistant",
            "content": [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "B"}],
        },
    ],
}


@pytest.mark.parametrize(
    ("value", "success"),
    [
        ("C", True),
        ("I", False),
        ("P", False),
        ("N", False),
        (1, True),
        (1.0, True),
        (0.99, False),
        (True, True),
        (False, False),
    ],
)
def test_inspect_score_values(tmp_path, value, success):
    only = load_trajectories(
        archive(tmp_path, {"1": {**SAMPLE, "scores": {"s": {"value": value}}}})
    )[0]
    assert only.success is success
    assert only.messages[0]["content"] == "long text"
    assert only.messages[1] == {"role": "assistant", "content": "B", "reasoning_content": "hm"}


@pytest.mark.parametrize("value", [7, -3.5])
def test_inspect_number_that_is_no_verdict_is_a_problem(tmp_path, value):
    logs = load_trajectories(
        archive(tmp_path, {"1": {**SAMPLE, "scores": {"s": {"value": value}}}})
    )
    assert (
        not len(logs)
        and f"the score is a number ({value}); a verdict is" in logs.problems[0].reason
    )


def test_inspect_several_scores_need_a_choice(tmp_path):
    path = archive(
        tmp_path,
        {"1": {**SAMPLE, "scores": {"a": {"value": "I"}, "b": {"value": {"x": 1, "y": 0}}}}},
    )
    reason = load_trajectories(path).problems[0].reason
    assert reason == "there are several scores (a, b/x, b/y); say which one decides: score='a'"
    assert load_trajectories(path, score="b/x")[0].success is True
    assert "there is no score 'z'" in load_trajectories(path, score="z").problems[0].reason


def test_inspect_crashed_limited_and_unscored_samples(tmp_path):
    crashed = {**SAMPLE, "scores": {}, "error": {"message": "Boom"}, "target": ""}
    limited = {**SAMPLE, "scores": {"s": {"value": "I"}}, "limit": {"type": "message", "limit": 5}}
    logs = load_trajectories(
        archive(tmp_path, {"1": crashed, "2": limited, "3": {**SAMPLE, "target": ""}})
    )
    assert [(t.termination, t.success, t.error) for t in logs] == [
        ("crashed", False, "Boom"),
        ("max_steps", False, ""),
        ("finished", None, ""),
    ]


def test_inspect_bombs_and_damage_are_problems(tmp_path):
    big = archive(tmp_path, {"1": {**SAMPLE, "metadata": "x" * 20_000}, "2": SAMPLE})
    logs = load_trajectories(big, CollectSettings(max_record_mb=0.01))
    assert (
        "the archive unpacks from" in logs.problems[0].reason
        or "raise max_record_mb" in logs.problems[0].reason
    )
    bomb = archive(tmp_path, {str(n): "0" * 4_000_000 for n in range(4)})
    assert "more than 200 times; not read" in load_trajectories(bomb).problems[0].reason
    torn = archive(tmp_path, {"1": SAMPLE, "2": "{", "3": "[1]"})
    reasons = [p.reason for p in load_trajectories(torn).problems]
    assert (
        "not valid JSON" in reasons[0] and reasons[1] == "the member is a list ([1]), not an object"
    )
    torn.write_bytes(torn.read_bytes()[:100])
    assert "the archive cannot be opened" in load_trajectories(torn).problems[0].reason


HEADER = {"task": "towns", "model": "m"}


def as_json(folder: Path, *samples: object, **more: object) -> Path:
    path = folder / "x.json"
    body = {
        "version": 2,
        "status": "success",
        "eval": HEADER,
        "results": {"stderr": float("nan")},
        **more,
    }
    path.write_text(
        json.dumps({**body, "samples": samples, "reductions": [{"scorer": "s", "samples": []}]})
    )
    return path


def test_a_log_as_json_reads_as_the_archive_does(tmp_path):
    samples = [
        {**SAMPLE, "id": n, "scores": {"s": {"value": value}}} for n, value in enumerate("CIP")
    ]
    packed = load_trajectories(
        archive(tmp_path, {str(n): s for n, s in enumerate(samples)}, {"eval": HEADER})
    )
    plain = load_trajectories(as_json(tmp_path, *samples), strict=True)
    assert [t.success for t in plain] == [True, False, False]
    assert [t.source.record for t in plain] == ["samples 1", "samples 2", "samples 3"]
    for ours, theirs in zip(plain, packed, strict=True):
        assert ours == theirs.replace(source=ours.source) and ours.source.model == "m"


def test_a_sample_that_nobody_scored_is_unlabelled(tmp_path):
    nothing = [
        {},
        {"s": {"value": float("nan")}},
        {"s": {"value": None}},
        {"s": {"value": {"a": None}}},
    ]
    samples = [
        {**SAMPLE, "id": n, "target": "", "scores": scores} for n, scores in enumerate(nothing)
    ]
    for path in (
        as_json(tmp_path, *samples),
        archive(tmp_path, {str(n): s for n, s in enumerate(samples)}),
    ):
        logs = load_trajectories(path, strict=True)
        assert [t.success for t in logs] == [None] * 4 and not any(t.scores for t in logs)


@pytest.mark.parametrize(
    ("said", "success"),
    [(r"Adding gives $\boxed{2}$.", True), ("It has 3 of them.", False), ("Hard to say.", None)],
)
def test_a_right_answer_in_words_is_no_failure(tmp_path, said, success):
    turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": said}]
    logs = load_trajectories(as_json(tmp_path, SAMPLE | {"target": "2", "messages": turns}))
    assert [t.success for t in logs] == [success]


def test_the_id_of_a_sample_tells_its_question(tmp_path):
    asked = [
        SAMPLE | {"epoch": 1},
        SAMPLE | {"epoch": 2, "input": "Q, shuffled?"},
        SAMPLE | {"id": 2},
    ]
    first, again, other = load_trajectories(as_json(tmp_path, *asked))
    assert first.question_id == again.question_id != other.question_id


def test_choices_tool_errors_and_epochs(tmp_path):
    failed = {
        "role": "tool",
        "content": "",
        "function": "f",
        "error": {"type": "timeout", "message": "took too long"},
    }
    turns = [
        SAMPLE["messages"][0],
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "function": "f", "arguments": {"a": 1}}],
        },
        failed,
        SAMPLE["messages"][1],
    ]
    first = {**SAMPLE, "choices": ["red", "blue"], "target": "B", "messages": turns}
    logs = load_trajectories(as_json(tmp_path, first, {**first, "epoch": 3}), strict=True)
    assert logs[0].question == "Q?\nA) red\nB) blue" and logs[0].question_id == logs[1].question_id
    assert [t.source.attempt for t in logs] == [2, 3] and len({t.id for t in logs}) == 2
    assert logs[0].messages[2]["content"] == "took too long"


def test_a_damaged_log_as_json_keeps_its_whole_samples(tmp_path):
    path = as_json(tmp_path, SAMPLE, {**SAMPLE, "messages": 5}, {**SAMPLE, "id": 3})
    logs = load_trajectories(path)
    assert (len(logs), logs.problems[0].record) == (2, "samples 2")
    path.write_bytes(path.read_bytes()[: path.read_bytes().rindex(b'"messages"')])
    cut = load_trajectories(path)
    assert len(cut) == 1 and "nothing after it was read" in cut.problems[-1].reason
    big = load_trajectories(
        as_json(tmp_path, {**SAMPLE, "note": "x" * 30_000}, SAMPLE),
        CollectSettings(max_record_mb=0.02),
    )
    assert (len(big), big.problems[0].record) == (
        1,
        "samples 1",
    ) and "raise max_record_mb" in big.problems[0].reason
    none = load_trajectories(as_json(tmp_path, status="error"))
    assert [str(p) for p in none.problems] == ["x.json: the file holds no records"]


def test_members_that_are_not_read_are_reported(tmp_path):
    path = archive(tmp_path, {"1": SAMPLE})
    with zipfile.ZipFile(path, "a") as packed, pytest.warns(UserWarning, match="Duplicate name"):
        packed.writestr("samples/1.json", json.dumps({**SAMPLE, "scores": {"s": {"value": "C"}}}))
        packed.writestr("samples/inner.eval", b"PK")
        packed.writestr("samples/notes.txt", b"hm")
    logs = load_trajectories(path)
    assert [t.success for t in logs] == [True]
    assert {p.record: p.reason for p in logs.problems} == {
        "samples/1.json": "the archive has 2 members of this name; the last is read",
        "samples/inner.eval": "an archive in the archive; unpack it first",
        "samples/notes.txt": "no sample: its name does not end with .json",
    }


def test_published_logs_agree_with_their_own_results():
    folder = real_data("more_logs/inspect")
    logs = load_trajectories(folder, strict=True)
    for path in folder.glob("*.json"):
        record = json.loads(path.read_bytes())
        ours = [t for t in logs if t.source.file == path.name]
        assert len(ours) == record["results"]["completed_samples"] > 0
        right = sum(s["scores"]["match"]["value"] == "C" for s in record["samples"])
        assert (
            sum(t.success for t in ours) == right
            and ours[0].source.model == record["eval"]["model"]
        )
