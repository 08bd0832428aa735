"""01 logs: runs that are one text, replies beside their turns, and turns of agent frameworks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_frameworks import framework_cases

from negfail_nb.duplicates import question_words
from negfail_nb.grading import plain_answer
from negfail_nb.logs import load_trajectories
from negfail_nb.logs.written import rendered_turns, said_turns
from negfail_nb.prefix.turns import conversation
from negfail_nb.steps import parse_actions, read_steps
from negfail_nb.trajectory import Trajectory

CASES = framework_cases()
WORDS = st.text("ab 1.:\n\u00e9<>[]", min_size=1, max_size=30).map(str.strip).filter(bool)
TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), WORDS), min_size=1, max_size=5)
FORMS = {
    "chatml": ("", "<|im_start|>{}\n", "<|im_end|>\n"),
    "llama-3": ("<|begin_of_text|>", "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"),
    "gemma": ("<bos>", "<start_of_turn>{}\n", "<end_of_turn>\n"),
    "zephyr": ("", "<|{}|>\n", "</s>\n"),
}


def one(tmp_path, record):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n", encoding="utf-8")
    logs = load_trajectories(path)
    assert not logs.problems
    return logs[0]


def roles(run):
    return [turn["role"] for turn in run.messages]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.format}-{case.file}" for case in CASES])
def test_every_shape_is_read_with_what_was_asked_done_and_answered(tmp_path, case):
    logs = load_trajectories(case.write(tmp_path))
    first = logs[0]
    (row,) = logs.table().to_dict("records")
    assert row["format"] == case.format
    counted = [row[name] for name in ("records", "successes", "failures", "unlabelled", "problems")]
    assert tuple(counted) == case.counts
    assert first.question == "Who leads Freedonia?"
    assert "Firefly" in first.prediction
    steps = read_steps(first)
    if case.format not in ("lm-eval", "attempts"):
        assert [len(steps), bool(steps[0].observation)] == [2, True], steps
        assert "Firefly" not in steps[0].observation


@pytest.mark.parametrize("form", FORMS)
@given(turns=TURNS)
def test_a_rendered_chat_gives_its_turns_back(form, turns):
    begin, opening, end = FORMS[form]
    text = begin + "".join(opening.format(role) + said + end for role, said in turns)
    read = [(turn["role"], turn["content"]) for turn in rendered_turns(text)]
    assert read == turns


@given(WORDS)
def test_a_text_that_was_not_rendered_is_one_turn_word_for_word(text):
    assert rendered_turns(text) == []
    assert said_turns(text) == [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    "text",
    ["Human: is what I call you.", "user\nis the first word", "See <|im_start|>user in the docs"],
)
def test_a_mark_that_is_only_mentioned_renders_nothing(text):
    assert rendered_turns(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "a" + " " * 400_000 + "b",
        "<|im_start|>user\n" + " " * 400_000 + "b",
        "<|start|>" + "a" * 400_000,
        "<|start|>a<|message|>" * 20_000,
        "<search>a</search><result>" * 20_000,
        "<|end_search_query|><|begin_search_result|>" * 10_000,
        "<|begin_search_query|>" * 20_000 + "<|end_search_query|>",
        "<answer>" * 50_000,
        "</s> " * 50_000,
        "[INST] <<SYS>> " * 20_000,
        "{" + "}" * 200_000 + "x",
        "```tool_code\nf(" + "a" * 200_000 + ")\n```",
        "It is" + "\n" * 200_000 + "Question: who?",
    ],
)
def test_hostile_texts_are_read_in_no_time(text):
    """Quadratic patterns would take minutes here."""
    assert isinstance(rendered_turns(text), list) and said_turns(text)
    assert parse_actions({"role": "assistant", "content": text}) is not None
    plain_answer(text)
    question_words(text)
    turns = ({"role": "user", "content": text}, {"role": "assistant", "content": "Bob"})
    conversation(Trajectory(id="a", question_id="q", question="who?", messages=turns), str)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho? [/INST]", ["system", "user", "assistant"]),
        ("[INST] Who? [/INST]", ["user", "assistant"]),
        (
            "<\uff5cbegin\u2581of\u2581sentence\uff5c>Be brief.<\uff5cUser\uff5c>Who?"
            "<\uff5cAssistant\uff5c>",
            ["system", "user", "assistant"],
        ),
        ("\n\nHuman: Who?\n\nAssistant:", ["user", "assistant"]),
        (
            "<|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>Who?<|end|>"
            "<|start|>assistant<|channel|>analysis<|message|>Ann?<|end|>"
            "<|start|>functions.search to=assistant<|channel|>commentary<|message|>Nobody<|end|>"
            "<|start|>assistant<|channel|>analysis<|message|>So.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>",
            ["system", "user", "assistant", "tool", "assistant"],
        ),
    ],
)
def test_a_prompt_that_ends_within_a_turn_is_joined_with_the_reply(tmp_path, prompt, wanted):
    run = one(tmp_path, {"prompt": prompt, "completion": " Bob</s>", "reward": 0.0})
    assert (roles(run), run.question, run.prediction) == (wanted, "Who?", "Bob")
    assert run.success is False


@pytest.mark.parametrize(
    "reply",
    [
        "Bob",
        {"choices": [{"message": {"role": "assistant", "content": "Bob"}}]},
        json.dumps({"choices": [{"message": {"role": "assistant", "content": "Bob"}}]}),
        {"choices": [{"text": "Bob"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Bob"}]},
        {
            "status_code": 200,
            "body": {"choices": [{"message": {"role": "assistant", "content": "Bob"}}]},
        },
        {"model": "m", "message": {"role": "assistant", "content": "Bob"}, "done": True},
    ],
)
def test_a_reply_beside_its_turns_ends_the_run(tmp_path, reply):
    asked = [{"role": "user", "content": "Who?"}]
    run = one(tmp_path, {"messages": asked, "response": reply})
    assert (roles(run), run.prediction) == (["user", "assistant"], "Bob")
    failed = {"messages": [*asked, {"role": "assistant", "content": "Hm."}, asked[0]]}
    assert roles(one(tmp_path, {**failed, "message": "timed out"}))[-1] == "user"
    whole = [*asked, {"role": "assistant", "content": "Ann"}]
    run = one(tmp_path, {"messages": whole, "response": reply})
    assert (roles(run), run.prediction) == (["user", "assistant"], "Ann")


def test_a_reply_that_is_json_of_no_api_is_kept_as_text(tmp_path):
    asked = [{"role": "user", "content": "Who?"}]
    run = one(tmp_path, {"messages": asked, "response": '{"answer": "Bob"}'})
    assert run.messages[-1]["content"] == '{"answer": "Bob"}'


def test_what_tools_answered_between_tags_is_no_turn_of_the_agent():
    text = "<search>a</search>\n<information>Answer: X</information>\n<answer>b</answer>"
    assert [turn["role"] for turn in said_turns(text)] == ["assistant", "user", "assistant"]
    quoted = "It writes <information>x</information> by itself."
    assert said_turns(quoted) == [{"role": "assistant", "content": quoted}]


def test_beside_a_reference_of_another_name_the_answer_is_none(tmp_path):
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann"}]
    about = {"question": "Who?", "answer": "Ann", "messages": turns}
    assert one(tmp_path, {**about, "ground_truth": "Bob"}).answer == "Bob"
    assert one(tmp_path, {**about, "gold_answer": "Bob"}).success is not True
    assert one(tmp_path, about).answer == "Ann"


def test_a_thought_is_no_part_of_the_last_words(tmp_path):
    said = "<think>Not Ann?</think>\nBob"
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": said}]
    run = one(tmp_path, {"messages": turns, "answer": "Bob"})
    assert (run.prediction, run.success) == ("Bob", True)


def test_each_attempt_of_a_record_is_a_run_with_its_own_label(tmp_path):
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is 4."}]
    record = {"messages": turns, "answer": "4", "generations": ["It is 4.", "It is 5."]}
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(record) + "\n")
    first, second = load_trajectories(path)
    assert [len(first.messages), len(second.messages)] == [2, 2]
    assert [first.success, second.success] == [True, False]
    assert first.question_id == second.question_id and first.id != second.id
    sampled = {"messages": turns[:1], "choices": [{"message": turns[1]}, {"text": "It is 5."}]}
    path.write_text(json.dumps(sampled) + "\n")
    assert [run.messages[-1]["content"] for run in load_trajectories(path)] == [
        "It is 4.",
        "It is 5.",
    ]


def test_options_of_a_question_are_no_attempts(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"question": "2+2?", "choices": ["3", "4"], "answer": 1}) + "\n")
    logs = load_trajectories(path)
    assert len(logs) == 0 and "no known format" in str(logs.problems[0])


def test_an_observation_that_is_named_before_its_action_came_before_it(tmp_path):
    step = {"observation": "A page.", "action": "click [1]"}
    run = one(tmp_path, {"intent": "Buy it", "trajectory": [step], "score": 1.0})
    assert roles(run) == ["user", "user", "assistant"]


def test_choices_ranked_by_likelihood_are_problems_not_runs(tmp_path):
    (case,) = (case for case in CASES if case.format == "lm-eval")
    ranked = {**case.content[0], "resps": [[[-1.0, False]]]}
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(case.content[0]) + "\n" + json.dumps(ranked) + "\n")
    logs = load_trajectories(path)
    assert (len(logs), "likelihood" in str(logs.problems[0])) == (1, True)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"intermediate_steps": ["x"], "input": "q", "output": "a"}, "intermediate_steps[0]"),
        ({"answer_generation": {"query": "q", "train_messages": []}}, "nor trys holds a run"),
        ({"answer_generation": {"query": "q"}}, "train_messages"),
        ({"trajectory": "x", "target": True, "exit_status": "submitted"}, "'trajectory'"),
    ],
)
def test_a_record_that_lacks_its_turns_is_a_problem_with_the_reason(tmp_path, record, told):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(record) + "\n")
    logs = load_trajectories(path)
    assert len(logs) == 0 and told in str(logs.problems[0])
