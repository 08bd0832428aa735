"""01 collect: archives of inspect-ai."""

import importlib.util
import json
import zipfile
from pathlib import Path

import pytest
from collect_logs import FIXTURES

from negfail_nb.collect import load_trajectories
from negfail_nb.profiles import CollectSettings


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
    assert (called.usage.prompt_tokens, called.scores["includes"], called.source.model) == (80, 1.0, "mockllm/model")


def test_inspect_packed_with_zstd_is_read_or_says_what_to_install():
    logs = load_trajectories(FIXTURES / "towns_two_scores_zstd.eval", score="match")
    if hasattr(zipfile, "ZIP_ZSTANDARD") or importlib.util.find_spec("zipfile_zstd"):
        assert [t.success for t in logs] == [True, False, True]
    else:
        assert len(logs.problems) == 3 and "pip install zipfile-zstd" in logs.problems[0].reason


def archive(folder: Path, samples: dict[str, object], header: object = None) -> Path:
    path = folder / "x.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        if header is not None:
            packed.writestr("header.json", json.dumps(header))
        for name, sample in samples.items():
            packed.writestr(f"samples/{name}.json", sample if isinstance(sample, str) else json.dumps(sample))
    return path


SAMPLE = {
    "id": 1,
    "epoch": 2,
    "input": "Q?",
    "target": ["A", "a"],
    "attachments": {"1f": "long text"},
    "messages": [
        {"role": "user", "content": "attachment://1f"},
        {"role": "assistant", "content": [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "B"}]},
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
    only = load_trajectories(archive(tmp_path, {"1": {**SAMPLE, "scores": {"s": {"value": value}}}}))[0]
    assert only.success is success
    assert only.messages[0]["content"] == "long text"
    assert only.messages[1] == {"role": "assistant", "content": "B", "reasoning_content": "hm"}


@pytest.mark.parametrize("value", [7, -3.5])
def test_inspect_number_that_is_no_verdict_is_a_problem(tmp_path, value):
    logs = load_trajectories(archive(tmp_path, {"1": {**SAMPLE, "scores": {"s": {"value": value}}}}))
    assert not len(logs) and f"the score is a number ({value}); a verdict is" in logs.problems[0].reason


def test_inspect_several_scores_need_a_choice(tmp_path):
    path = archive(tmp_path, {"1": {**SAMPLE, "scores": {"a": {"value": "I"}, "b": {"value": {"x": 1, "y": 0}}}}})
    reason = load_trajectories(path).problems[0].reason
    assert reason == "there are several scores (a, b/x, b/y); say which one decides: score='a'"
    assert load_trajectories(path, score="b/x")[0].success is True
    assert "there is no score 'z'" in load_trajectories(path, score="z").problems[0].reason


def test_inspect_crashed_limited_and_unscored_samples(tmp_path):
    crashed = {**SAMPLE, "scores": {}, "error": {"message": "Boom"}, "target": ""}
    limited = {**SAMPLE, "scores": {"s": {"value": "I"}}, "limit": {"type": "message", "limit": 5}}
    logs = load_trajectories(archive(tmp_path, {"1": crashed, "2": limited, "3": {**SAMPLE, "target": ""}}))
    assert [(t.termination, t.success, t.error) for t in logs] == [
        ("crashed", False, "Boom"),
        ("max_steps", False, ""),
        ("finished", None, ""),
    ]


def test_inspect_bombs_and_damage_are_problems(tmp_path):
    big = archive(tmp_path, {"1": {**SAMPLE, "metadata": "x" * 20_000}, "2": SAMPLE})
    logs = load_trajectories(big, CollectSettings(max_record_mb=0.01))
    assert "the archive unpacks from" in logs.problems[0].reason or "raise max_record_mb" in logs.problems[0].reason
    bomb = archive(tmp_path, {str(n): "0" * 4_000_000 for n in range(4)})
    assert "more than 200 times; not read" in load_trajectories(bomb).problems[0].reason
    torn = archive(tmp_path, {"1": SAMPLE, "2": "{", "3": "[1]"})
    reasons = [p.reason for p in load_trajectories(torn).problems]
    assert "not valid JSON" in reasons[0] and reasons[1] == "the member is a list ([1]), not an object"
    torn.write_bytes(torn.read_bytes()[:100])
    assert "the archive cannot be opened" in load_trajectories(torn).problems[0].reason
