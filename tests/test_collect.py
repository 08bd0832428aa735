"""01 collect: each format, the registry, ids, labels."""

import doctest
import importlib.util
import json
import zipfile
from pathlib import Path

import pytest

from negfail_nb.collect import LogFile, Logs, formats, importer, label_agreement, load, load_trajectories, registry
from negfail_nb.collect.__main__ import main
from negfail_nb.profiles import CollectSettings
from negfail_nb.steps import parse_actions, steps
from negfail_nb.trajectory import Problem, UnreadableLog, write_trajectories

# towns.eval: three samples answered by the mockllm/model of inspect-ai 0.3.285 (custom_outputs: a call of a lookup
# tool and a right answer, a wrong answer, a call and a right answer), scorer includes(); repacked from zstd to deflate.
# towns_two_scores_zstd.eval: the same with the scorers includes() and match(), as inspect wrote it.
FIXTURES = Path(__file__).parent / "fixtures"

MINT = {
    "model": "m-7b",
    "dataset": "gsm8k",
    "task_id": 3,
    "question": "How much is 2 + 2?",
    "reference": "4",
    "success": True,
    "terminate_reason": "task_success",
    "error": None,
    "messages": [
        {"role": "user", "content": "How much is 2 + 2?\n"},
        {"role": "assistant", "content": "<solution> 5 </solution>"},
        {"role": "user", "content": "Observation:\nYour answer is wrong."},
        {"role": "assistant", "content": "<solution> 4 </solution>"},
    ],
}
CHAT = {
    "messages": [
        {"role": "system", "content": "Use the tools."},
        {"role": "user", "content": "Where is Sylvania?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query": "Sylvania"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "In Freedonia."},
        {"role": "assistant", "content": "Freedonia"},
    ],
    "reward": 1.0,
}
REFLEXION = """
########################################
BEGIN TRIAL 1
Trial summary: Correct: 1, Incorrect: 1, Halted: 1
#######################################
------------- BEGIN CORRECT AGENTS -------------

Question: Who leads Freedonia?
Thought 1: Search.
Action 1: Search[Freedonia [state]]
Observation 1: Freedonia is a state.
Its leader is Firefly.

Thought 1 is how the next paragraph begins.
Thought 2: Firefly.
Action 2: Finish[Firefly]
Observation 2: Answer is CORRECT
Correct answer: Firefly

------------- BEGIN INCORRECT AGENTS -----------

Question: Who leads Sylvania? You have attempted to answer following question before and failed. The following \
reflection(s) give a plan. Use them.
Reflections:
- I should have looked longer.
Thought 1: Trentino?
Action 1: Finish[Firefly]
Observation 1: Answer is INCORRECT
Correct answer: Trentino

------------- BEGIN HALTED AGENTS --------------

Question: How old is Freedonia?
Thought 1: Search.
Action 1: Search[age]
Observation 1: Could not find [age].
Correct answer: 33

########################################
BEGIN TRIAL 2
Trial summary: Correct: 1, Incorrect: 0, Halted: 0
#######################################
------------- BEGIN CORRECT AGENTS -------------

Question:  Who leads  Freedonia?
Correct answer: Firefly
"""
ALPACA = "Below is an instruction.\n\n### Instruction:\n{q}\n\n### Response:\n{turns}"
FIREACT = {
    "17": {
        "reward": False,
        "em": False,
        "f1": 0.5,
        "gt": "rufus firefly",
        "pred": "firefly",
        "prompt": "",
        "traj": ALPACA.format(
            q="Who leads Freedonia?",
            turns="Thought: I search.\nAction: search[leader]\nObservation: Firefly.\n"
            "Thought: So.\nAction: finish[Firefly]\n"
            "Observation: Episode finished, reward = False\n",
        ),
    },
    "18": {
        "reward": True,
        "em": True,
        "f1": 1.0,
        "gt": "trentino",
        "pred": "trentino",
        "prompt": [],
        "traj": [
            {"role": "user", "content": "Who leads Sylvania?"},
            {"role": "assistant", "content": "Thought: Known.\nAction: finish[Trentino]"},
            {"role": "user", "content": "Observation: Episode finished, reward = True"},
        ],
    },
}
NAT = {
    "conversations": [
        {"role": "assistant", "content": "Thought: hm\n\nAction: search[x]", "loss": True},
        {"role": "user", "content": "Observation:  #1: y", "loss": False},
        {"role": "assistant", "content": "Thought: so\n\nAction: finish[No]", "loss": True},
    ],
    "info": {"reward": False, "gt": True, "pred": "No", "acc": False},
    "id": "q7",
    "source": "0.7",
}
REACT = """Question: Who leads Freedonia?
Thought: Two things to look up.
Action: Search[Freedonia [state]], Lookup[leader]
Observation: Firefly.

Question: Who leads Sylvania?
Thought 1: Known.
Action 1: Finish[Trentino]
Observation 1: Answer is INCORRECT
"""


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_mint_takes_label_prediction_termination_and_error_from_the_record(tmp_path):
    failed = {
        **MINT,
        "task_id": 4,
        "success": False,
        "terminate_reason": "error",
        "error": "Traceback\n  line\nKeyError: 'x'\n\n",
    }
    logs = load_trajectories(write(tmp_path, "a.jsonl", lines(MINT, failed)))
    right, crashed = logs
    assert (right.id, right.question_id == crashed.question_id) == ("mint:gsm8k:m-7b:3", True)
    assert (right.success, right.prediction, right.answer, right.task) == (True, "4", "4", "math")
    assert (right.termination, right.scores["em"], right.source.model) == ("finished", 1.0, "m-7b")
    assert (crashed.success, crashed.termination, crashed.error) == (False, "crashed", "KeyError: 'x'")
    assert (right.source.file, right.source.record, right.source.format) == ("a.jsonl", "line 1", "mint")
    assert right.messages == tuple(MINT["messages"])


def test_mint_judges_the_first_proposal_of_the_last_turn_and_the_innermost_tag(tmp_path):
    def proposing(text):
        return {**MINT, "messages": [MINT["messages"][0], {"role": "assistant", "content": text}]}

    two = proposing("<solution> 4 </solution> or <solution> 5 </solution>")
    nested = proposing("<solution> The answer is <solution> 4 </solution>")
    logs = load_trajectories(write(tmp_path, "a.jsonl", lines(two, nested)))
    assert [t.prediction for t in logs] == ["4", "4"]


@pytest.mark.parametrize(("reason", "termination"), [("max_steps", "max_steps"), ("max_propose_steps", "finished")])
def test_mint_terminations(tmp_path, reason, termination):
    logs = load_trajectories(write(tmp_path, "a.jsonl", lines({**MINT, "success": False, "terminate_reason": reason})))
    assert logs[0].termination == termination


def test_mint_unknown_termination_is_a_problem(tmp_path):
    logs = load_trajectories(write(tmp_path, "a.jsonl", lines({**MINT, "terminate_reason": "bored"})))
    assert "terminate_reason is 'bored'; known are task_success" in logs.problems[0].reason


def test_reflexion_sections_trials_and_reflections(tmp_path):
    logs = load_trajectories(write(tmp_path, "r.txt", REFLEXION))
    assert not logs.problems
    solved, wrong, halted, again = logs
    assert [t.success for t in logs] == [True, False, False, True]
    assert [t.termination for t in logs] == ["finished", "finished", "max_steps", "empty"]
    assert [t.source.attempt for t in logs] == [1, 1, 1, 2]
    assert [t.id for t in logs] == [f"reflexion:r.txt:{name}" for name in ("t1:1", "t1:2", "t1:3", "t2:1")]
    # one question, whatever its spacing; the reflection is no part of it
    assert solved.question_id == again.question_id
    assert wrong.question == "Who leads Sylvania?"
    assert wrong.messages[0]["content"].startswith("Who leads Sylvania?\nYou have attempted")
    assert wrong.messages[0]["content"].endswith("- I should have looked longer.")
    assert (wrong.answer, wrong.prediction, halted.prediction) == ("Trentino", "Firefly", None)
    # the observation keeps its lines, the reference answer is in no message
    assert solved.messages[2]["content"].endswith("Thought 1 is how the next paragraph begins.")
    assert steps(solved)[0].actions[0].argument == "Freedonia [state]"
    assert not any("Correct answer" in m["content"] for t in logs for m in t.messages)
    assert [m["role"] for m in solved.messages] == ["user", "assistant", "user", "assistant", "user"]


def test_the_logs_own_label_stands_against_our_grade(tmp_path):
    halted = REFLEXION.replace("Action 1: Search[age]", "Action 1: Finish[33]")
    assert [t.success for t in load_trajectories(write(tmp_path, "r.txt", halted))] == [True, False, False, True]
    disputed = {"17": {**FIREACT["17"], "reward": True}, "18": {**FIREACT["18"], "reward": False}}
    logs = load_trajectories(write(tmp_path, "f.json", disputed))
    assert [(t.success, t.scores["em"]) for t in logs] == [(True, 0.0), (False, 1.0)]


def test_reflexion_cut_off_loses_only_the_last_attempt(tmp_path):
    cut = REFLEXION[: REFLEXION.index("Observation 1: Could not find")]
    logs = load_trajectories(write(tmp_path, "r.txt", cut))
    assert len(logs) == 2
    assert str(logs.problems[0]) == "r.txt:line 32: the attempt has no line 'Correct answer:'; was the log cut off?"


def test_a_quoted_question_inside_an_observation_is_no_new_attempt(tmp_path):
    quoted = REFLEXION.replace("Its leader is Firefly.", "Question: who?")
    logs = load_trajectories(write(tmp_path, "r.txt", quoted))
    assert len(logs) == 4 and "\nQuestion: who?\n" in logs[0].messages[2]["content"]


def test_fireact_text_and_message_form(tmp_path):
    logs = load_trajectories(write(tmp_path, "hotpotqa_dev_0_500_lora.json", FIREACT))
    text, chat = logs
    assert (text.id, text.question, text.answer) == ("fireact:lora:17", "Who leads Freedonia?", "rufus firefly")
    assert (text.success, chat.success, text.prediction, text.source.model) == (False, True, "firefly", "lora")
    assert text.scores["f1"] == pytest.approx(2 / 3)  # ours, not the log's
    assert [m["role"] for m in text.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert text.messages[1]["content"] == "Thought: I search.\nAction: search[leader]"
    assert chat.messages == tuple(FIREACT["18"]["traj"])


def test_react_text_several_questions_nested_brackets_and_labels(tmp_path):
    first, second = load_trajectories(write(tmp_path, "plain.txt", REACT))
    assert (first.success, first.termination, second.success, second.termination) == (
        None,
        "max_steps",
        False,
        "finished",
    )
    assert [a.argument for a in parse_actions(first.messages[1])] == ["Freedonia [state]", "leader"]
    assert second.prediction == "Trentino" and first.question_id != second.question_id


def test_react_text_with_a_reference_is_graded(tmp_path):
    text = "Question: Capital?\nThought: a\nAction: Finish[The Fredville]\nCorrect answer: fredville\n"
    logs = load_trajectories(write(tmp_path, "plain.txt", text))
    assert logs[0].success is True and logs[0].scores == {"em": 1.0, "f1": 1.0}


def test_numbered_parts_with_a_number_out_of_turn_are_quoted_text(tmp_path):
    text = (
        "Question: Q?\nThought 1: t\nAction 1: Search[x]\nObservation 1: a page\nAction 7: Finish[no]\n"
        "Thought: quoted\nThought 2: u\nAction 2: Finish[A]\nAction 2: Finish[B]\n"
    )
    only = load_trajectories(write(tmp_path, "plain.txt", text))[0]
    assert only.messages[2]["content"] == "Observation 1: a page\nAction 7: Finish[no]\nThought: quoted"
    assert only.messages[3]["content"] == "Thought 2: u\nAction 2: Finish[A]\nAction 2: Finish[B]"


def test_text_before_the_first_question_is_left_out_with_a_warning(tmp_path, caplog):
    logs = load_trajectories(write(tmp_path, "plain.txt", "Loading ..\n\n" + REACT))
    assert len(logs) == 2 and not logs.problems
    assert "plain.txt: 1 lines before the first question are left out" in caplog.text


def test_sharegpt_roles_and_label(tmp_path):
    turns = [
        ("system", "Be brief."),
        ("human", "Q?"),
        ("gpt", "Action: search[x]"),
        ("function_response", "y"),
        ("gpt", "Z"),
    ]
    record = {"id": "r1", "conversations": [{"from": f, "value": v} for f, v in turns], "success": False}
    logs = load_trajectories(write(tmp_path, "s.json", [record]))
    assert [m["role"] for m in logs[0].messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert (logs[0].question, logs[0].success, logs[0].source.format) == ("Q?", False, "sharegpt")


def test_nat_joins_the_question_and_reads_the_temperature(tmp_path):
    questions = write(tmp_path, "questions.jsonl", lines({"id": "q7", "question": "Is it so?", "answer": True}))
    log = write(tmp_path, "neg.jsonl", lines(NAT, {**NAT, "id": "q8"}))
    logs = load_trajectories(log, questions=questions)
    only = logs[0]
    assert (only.question, only.answer, only.task, only.prediction, only.success) == (
        "Is it so?",
        "yes",
        "yes_no",
        "No",
        False,
    )
    assert (only.source.temperature, only.messages[0]["content"]) == (0.7, "Is it so?")
    assert not any("loss" in m for m in only.messages)
    assert [str(p) for p in logs.problems] == [
        "neg.jsonl:line 2: the id 'q8' is not in the file with the questions (1 ids)"
    ]


def test_nat_without_the_questions_says_what_to_do(tmp_path):
    log = write(tmp_path, "neg.jsonl", lines(NAT))
    assert "name the file that does: questions='...'" in load_trajectories(log).problems[0].reason
    missing = load_trajectories(log, questions=tmp_path / "gone.json").problems[0].reason
    assert missing == "the file with the questions does not exist: gone.json"


def test_nat_math_reference_is_the_number_behind_the_hashes(tmp_path):
    questions = write(tmp_path, "q.json", [{"id": "q7", "question": "How many?", "answer": "3 x 13\n#### 39"}])
    record = {**NAT, "info": {"reward": True, "pred": "39"}}
    only = load_trajectories(write(tmp_path, "p.jsonl", lines(record)), questions=questions)[0]
    assert (only.answer, only.task, only.scores["em"]) == ("39", "math", 1.0)


@pytest.mark.parametrize(
    "content",
    [
        lines(CHAT),
        [CHAT],
        {"data": [CHAT]},
        {"meta": {"n": 1}, "trajectories": [CHAT]},
        CHAT,
        json.dumps(CHAT, indent=2),
    ],
    ids=["lines", "array", "wrapped", "wrapped with more", "one record", "one record, indented"],
)
def test_openai_messages_in_every_wrapping(tmp_path, content):
    logs = load_trajectories(write(tmp_path, "chat.json", content))
    assert (len(logs), logs.problems) == (1, ())
    only = logs[0]
    assert (only.question, only.success, only.prediction, only.termination) == (
        "Where is Sylvania?",
        True,
        "Freedonia",
        "finished",
    )
    assert only.messages[2]["tool_calls"] == CHAT["messages"][2]["tool_calls"] and only.messages[2]["content"] == ""
    assert steps(only)[0].argument == "Sylvania"


def test_openai_arguments_become_a_json_string(tmp_path):
    chat = json.loads(json.dumps(CHAT))
    chat["messages"][2]["tool_calls"][0]["function"]["arguments"] = {"query": "Sylvania"}
    only = load_trajectories(write(tmp_path, "c.json", [chat]))[0]
    assert only.messages[2]["tool_calls"][0]["function"]["arguments"] == '{"query": "Sylvania"}'


@pytest.mark.parametrize(
    ("beside", "success"),
    [
        ({"reward": 0.5}, False),
        ({"reward": 0}, False),
        ({"reward": 1}, True),
        ({"score": "1.0"}, True),
        ({"label": "failure"}, False),
        ({"label": "Correct"}, True),
        ({"success": False, "reward": 1}, False),
        ({"resolved": True}, True),
        ({"reward_info": {"reward": 1.0}}, True),
        ({"label": "geometry"}, None),
        ({}, None),
        ({"score": {"acc": 0}}, False),
        ({"answer": "freedonia"}, True),
        ({"answer": "Sylvania"}, False),
    ],
)
def test_openai_labels(tmp_path, beside, success):
    chat = {"messages": CHAT["messages"], **beside}
    logs = load_trajectories(write(tmp_path, "c.jsonl", lines(chat)))
    assert not logs.problems and logs[0].success is success


def test_openai_verdict_that_is_none_is_a_problem(tmp_path):
    logs = load_trajectories(write(tmp_path, "c.jsonl", lines({**CHAT, "reward": [1]}, CHAT)))
    assert len(logs) == 1 and "the field 'reward' is a list ([1]); a verdict is true, false" in logs.problems[0].reason


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


def test_own_trajectories_come_back_equal(tmp_path):
    logs = load_trajectories(write(tmp_path, "a.jsonl", lines(MINT, {**MINT, "task_id": 4})))
    again = load_trajectories(write_trajectories(tmp_path / "trajectories.jsonl", logs))
    assert again.trajectories == logs.trajectories


def test_the_docstring_example_of_an_importer_works(tmp_path):
    before = dict(registry._IMPORTERS)
    try:
        assert doctest.testmod(registry).failed == 0 and "diary" in formats()
        path = write(tmp_path, "d.jsonl", lines({"asked": "Q?", "turns": ["A"], "solved": True}, {"asked": "Q?"}))
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
        assert load_trajectories(path, format="grumpy").problems == (Problem("a.jsonl", "line 1", "I do not like it"),)
        with pytest.raises(UnreadableLog, match="a.jsonl:line 1: I do not like it"):
            load_trajectories(path, format="grumpy", strict=True)
    finally:
        registry._IMPORTERS.clear()
        registry._IMPORTERS.update(before)


def test_formats_are_listed_and_an_unknown_one_names_them(tmp_path):
    known = {"fireact", "inspect", "mint", "nat", "negfail", "openai", "react", "reflexion", "sharegpt"}
    assert known <= set(formats())
    with pytest.raises(ValueError, match="no importer is called 'mnit'; there are .*mint, nat, negfail"):
        load_trajectories(write(tmp_path, "a.jsonl", lines(MINT)), format="mnit")


def test_a_folder_is_read_with_relative_names_and_unique_ids(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, "a.jsonl", lines(MINT, MINT))
    write(tmp_path / "sub", "b.jsonl", lines(MINT))
    write(tmp_path, ".hidden.jsonl", lines(MINT))
    write(tmp_path, "LICENSE", "MIT License")
    logs = load_trajectories(tmp_path)
    assert [t.id for t in logs] == ["mint:gsm8k:m-7b:3", "mint:gsm8k:m-7b:3~2", "mint:gsm8k:m-7b:3~3"]
    assert [t.source.file for t in logs] == ["a.jsonl", "a.jsonl", "sub/b.jsonl"]
    assert [p.file for p in logs.problems] == ["LICENSE"]
    assert not any(str(tmp_path) in str(item) for item in (*logs, *logs.problems))


def test_table_counts_files_and_formats_and_html_is_escaped(tmp_path):
    write(tmp_path, "a.jsonl", lines(MINT, {**MINT, "success": False}) + "{\n")
    write(tmp_path, "b.txt", "<script>alert(1)</script>")
    logs = load_trajectories(tmp_path)
    assert logs.table().values.tolist() == [["a.jsonl", "mint", 2, 1, 1, 0, 1], ["b.txt", "", 0, 0, 0, 0, 1]]
    shown = logs._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert repr(logs) == "Logs(2 trajectories, 2 problems)" and logs[:1] == logs.trajectories[:1]


def test_the_settings_are_used_and_arguments_override_them(tmp_path):
    path = write(tmp_path, "a.jsonl", lines(MINT) + "{\n")
    strict = CollectSettings(logs=(str(path),), strict=True, task="qa")
    with pytest.raises(UnreadableLog, match=r"a.jsonl:line 2: not valid JSON.*Without strict=True"):
        load(strict)
    logs = load_trajectories([path], strict, strict=False)
    assert len(logs) == 1 and logs[0].task == "qa"
    with pytest.raises(ValueError, match="the settings name no logs"):
        load(CollectSettings())


def test_label_agreement_lists_only_disagreements(tmp_path):
    wrong = {
        **MINT,
        "task_id": 5,
        "reference": "5",
        "messages": [*MINT["messages"][:3], {"role": "assistant", "content": "<solution>5.2</solution>"}],
    }
    logs = load_trajectories(write(tmp_path, "a.jsonl", lines(MINT, wrong)))
    table = label_agreement(logs)
    assert table.values.tolist() == [["mint:gsm8k:m-7b:5", "mint", "math", "close number", True, 0.0, "5.2", "5"]]
    assert table.attrs["compared"] == 2
    assert len(label_agreement(Logs(()))) == 0


def test_the_command_writes_the_disagreements(tmp_path, capsys):
    path = write(tmp_path, "a.jsonl", lines(MINT, {**MINT, "task_id": 5, "success": False}))
    assert (main([str(path)]), main([])) == (0, 2)
    shown = capsys.readouterr().out
    assert "1 of 2 disagree" in shown and "other writing" in shown and "mint:gsm8k:m-7b:5" in shown
