"""01 logs: what is read of each format of text or JSON."""

import json

import pytest
from log_samples import CHAT, FIREACT, MINT, NAT, REACT, REFLEXION, lines, write

from negfail_nb.logs import load_trajectories
from negfail_nb.steps import parse_actions, read_steps


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
    assert (crashed.success, crashed.termination, crashed.error) == (
        False,
        "crashed",
        "KeyError: 'x'",
    )
    assert (right.source.file, right.source.record, right.source.format) == (
        "a.jsonl",
        "line 1",
        "mint",
    )
    assert right.messages == tuple(MINT["messages"])


def test_mint_judges_the_first_proposal_of_the_last_turn_and_the_innermost_tag(tmp_path):
    def proposing(text):
        return {**MINT, "messages": [MINT["messages"][0], {"role": "assistant", "content": text}]}

    two = proposing("<solution> 4 </solution> or <solution> 5 </solution>")
    nested = proposing("<solution> The answer is <solution> 4 </solution>")
    logs = load_trajectories(write(tmp_path, "a.jsonl", lines(two, nested)))
    assert [t.prediction for t in logs] == ["4", "4"]


@pytest.mark.parametrize(
    ("reason", "termination"), [("max_steps", "max_steps"), ("max_propose_steps", "finished")]
)
def test_mint_terminations(tmp_path, reason, termination):
    logs = load_trajectories(
        write(tmp_path, "a.jsonl", lines({**MINT, "success": False, "terminate_reason": reason}))
    )
    assert logs[0].termination == termination


def test_mint_unknown_termination_is_a_problem(tmp_path):
    logs = load_trajectories(
        write(tmp_path, "a.jsonl", lines({**MINT, "terminate_reason": "bored"}))
    )
    assert "terminate_reason is 'bored'; known are task_success" in logs.problems[0].reason


def test_reflexion_sections_trials_and_reflections(tmp_path):
    logs = load_trajectories(write(tmp_path, "r.txt", REFLEXION))
    assert not logs.problems
    solved, wrong, halted, again = logs
    assert [t.success for t in logs] == [True, False, False, True]
    assert [t.termination for t in logs] == ["finished", "finished", "max_steps", "empty"]
    assert [t.source.attempt for t in logs] == [1, 1, 1, 2]
    assert [t.id for t in logs] == [
        f"reflexion:r.txt:{name}" for name in ("t1:1", "t1:2", "t1:3", "t2:1")
    ]
    # one question, whatever its spacing; the reflection is no part of it
    assert solved.question_id == again.question_id
    assert wrong.question == "Who leads Sylvania?"
    assert wrong.messages[0]["content"].startswith("Who leads Sylvania?\nYou have attempted")
    assert wrong.messages[0]["content"].endswith("- I should have looked longer.")
    assert (wrong.answer, wrong.prediction, halted.prediction) == ("Trentino", "Firefly", None)
    # the observation keeps its lines, the reference answer is in no message
    assert solved.messages[2]["content"].endswith("Thought 1 is how the next paragraph begins.")
    assert read_steps(solved)[0].actions[0].argument == "Freedonia [state]"
    assert not any("Correct answer" in m["content"] for t in logs for m in t.messages)
    assert [m["role"] for m in solved.messages] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]


def test_the_logs_own_label_stands_against_our_grade(tmp_path):
    halted = REFLEXION.replace("Action 1: Search[age]", "Action 1: Finish[33]")
    assert [t.success for t in load_trajectories(write(tmp_path, "r.txt", halted))] == [
        True,
        False,
        False,
        True,
    ]
    disputed = {"17": {**FIREACT["17"], "reward": True}, "18": {**FIREACT["18"], "reward": False}}
    logs = load_trajectories(write(tmp_path, "f.json", disputed))
    assert [(t.success, t.scores["em"]) for t in logs] == [(True, 0.0), (False, 1.0)]


def test_reflexion_cut_off_loses_only_the_last_attempt(tmp_path):
    cut = REFLEXION[: REFLEXION.index("Observation 1: Could not find")]
    logs = load_trajectories(write(tmp_path, "r.txt", cut))
    assert len(logs) == 2
    assert (
        str(logs.problems[0])
        == "r.txt:line 32: the attempt has no line 'Correct answer:'; was the log cut off?"
    )


def test_a_quoted_question_inside_an_observation_is_no_new_attempt(tmp_path):
    quoted = REFLEXION.replace("Its leader is Firefly.", "Question: who?")
    logs = load_trajectories(write(tmp_path, "r.txt", quoted))
    assert len(logs) == 4 and "\nQuestion: who?\n" in logs[0].messages[2]["content"]


def test_fireact_text_and_message_form(tmp_path):
    logs = load_trajectories(write(tmp_path, "hotpotqa_dev_0_500_lora.json", FIREACT))
    text, chat = logs
    assert (text.id, text.question, text.answer) == (
        "fireact:lora:17",
        "Who leads Freedonia?",
        "rufus firefly",
    )
    assert (text.success, chat.success, text.prediction, text.source.model) == (
        False,
        True,
        "firefly",
        "lora",
    )
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
    text = (
        "Question: Capital?\nThought: a\nAction: Finish[The Fredville]\nCorrect answer: fredville\n"
    )
    logs = load_trajectories(write(tmp_path, "plain.txt", text))
    assert logs[0].success is True and logs[0].scores == {"em": 1.0, "f1": 1.0}


def test_numbered_parts_with_a_number_out_of_turn_are_quoted_text(tmp_path):
    text = (
        "Question: Q?\nThought 1: t\nAction 1: Search[x]\nObservation 1: a page\nAction 7: "
        "Finish[no]\n"
        "Thought: quoted\nThought 2: u\nAction 2: Finish[A]\nAction 2: Finish[B]\n"
    )
    only = load_trajectories(write(tmp_path, "plain.txt", text))[0]
    assert (
        only.messages[2]["content"]
        == "Observation 1: a page\nAction 7: Finish[no]\nThought: quoted"
    )
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
    record = {
        "id": "r1",
        "conversations": [{"from": f, "value": v} for f, v in turns],
        "success": False,
    }
    logs = load_trajectories(write(tmp_path, "s.json", [record]))
    assert [m["role"] for m in logs[0].messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert (logs[0].question, logs[0].success, logs[0].source.format) == ("Q?", False, "sharegpt")


def test_nat_joins_the_question_and_reads_the_temperature(tmp_path):
    questions = write(
        tmp_path, "questions.jsonl", lines({"id": "q7", "question": "Is it so?", "answer": True})
    )
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
    questions = write(
        tmp_path, "q.json", [{"id": "q7", "question": "How many?", "answer": "3 x 13\n#### 39"}]
    )
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
    assert (
        only.messages[2]["tool_calls"] == CHAT["messages"][2]["tool_calls"]
        and only.messages[2]["content"] == ""
    )
    assert read_steps(only)[0].argument == "Sylvania"


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
        (
            {"answer": "Sylvania"},
            None,
        ),  # said in free text: not in the form of an answer, so unknown
    ],
)
def test_openai_labels(tmp_path, beside, success):
    chat = {"messages": CHAT["messages"], **beside}
    logs = load_trajectories(write(tmp_path, "c.jsonl", lines(chat)))
    assert not logs.problems and logs[0].success is success


def test_openai_verdict_that_is_none_is_a_problem(tmp_path):
    logs = load_trajectories(write(tmp_path, "c.jsonl", lines({**CHAT, "reward": [1]}, CHAT)))
    assert (
        len(logs) == 1
        and "the field 'reward' is a list ([1]); a verdict is true, false"
        in logs.problems[0].reason
    )
