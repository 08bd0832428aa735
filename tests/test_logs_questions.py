"""01 logs: which turn is the question, which runs are of one question, how chats end and are
judged.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_formats import RUNS, anthropic, chat, parts, responses
from log_samples import write

from negfail_nb.agents import load_tasks
from negfail_nb.benchmarking.layouts import read_question
from negfail_nb.logs import load_trajectories
from negfail_nb.logs.importers.atif import to_atif
from negfail_nb.logs.messages import as_messages
from negfail_nb.prefix import find_template
from negfail_nb.prefix.exports import export
from negfail_nb.prefix.turns import conversation
from negfail_nb.quality import assess
from negfail_nb.settings import PrefixSettings
from negfail_nb.trajectory import write_lines

RULES = (
    "You are in a town. Find the one who leads it. Write Thought and Action in each turn, then "
    "stop. " * 3
)


def load(folder, *records, name="log.jsonl", **given):
    return load_trajectories(
        write(folder, name, "".join(json.dumps(r) + "\n" for r in records)), **given
    )


def said(*turns, **beside):
    roles = ("user", "assistant")
    return {
        "messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)],
        **beside,
    }


def noted(task, reply="OK", answer="A", **beside):
    return said(RULES, reply, task, f"Thought: so.\nAction: finish[{answer}]", **beside)


# --- which turn is the question
# -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply", ["OK", "I've understood your instruction, start please.", "The rules are clear to me."]
)
def test_of_an_instruction_first_the_question_is_the_turn_in_which_the_runs_differ(tmp_path, reply):
    logs = load(
        tmp_path,
        *(noted(f"Who leads {t}?", reply, reward=n) for n, t in ((1, "Ys"), (0, "Ys"), (1, "Is"))),
    )
    assert [t.question for t in logs] == ["Who leads Ys?", "Who leads Ys?", "Who leads Is?"]
    assert len({t.question_id for t in logs}) == 2
    assert [m.get("weight") for m in logs[0].messages] == [None, 0, None, None]
    assert "guessed for 3 of 3 runs: 2 questions, at most 2 runs share one" in repr(logs)
    assert "guessed for 3 of 3 runs" in logs._repr_html_()


def test_the_label_goes_into_the_question_and_the_acknowledgement_is_not_trained(tmp_path):
    run = load(tmp_path, noted("Who leads Ys?"), noted("Who leads Is?"))[0]
    turns = conversation(run, lambda question: f"GOOD {question}")
    assert [m["content"] for m in turns.messages[:3]] == [RULES, "OK", "GOOD Who leads Ys?"]
    assert sorted(turns.trained) == [3]


def test_a_file_of_one_run_and_one_of_several_instructions_are_read_by_the_reply(tmp_path):
    assert load(tmp_path, noted("Who leads Ys?"))[0].question == "Who leads Ys?"
    other = [
        said("Another task. " * 20, "Understood.", f"Sum {n}", "Action: finish[1]")
        for n in range(3)
    ]
    logs = load(tmp_path, *(noted(f"Who leads {t}?") for t in "abc"), *other)
    assert [t.question for t in logs] == [
        *(f"Who leads {t}?" for t in "abc"),
        *(f"Sum {n}" for n in range(3)),
    ]


def test_nearly_all_is_enough_and_the_odd_one_keeps_its_first_turn(tmp_path):
    logs = load(
        tmp_path,
        *(noted(f"Town {n}", "Fine with me.") for n in range(19)),
        said("Who?", "Action: finish[me]"),
    )
    assert [t.question for t in logs] == [*(f"Town {n}" for n in range(19)), "Who?"]


@pytest.mark.parametrize(
    "turns",
    [
        ("Thought: I look.\nAction: search[x]", "Observation: {n}", "Action: finish[A]"),
        ("Which town do you mean?", "The {n}th.", "Action: finish[A]"),
        ("Thought {n}.\nAction: search[{n}]", "Observation: {n}", "Action: finish[A]"),
    ],
    ids=["same action", "asked back", "other actions"],
)
def test_attempts_at_one_question_are_no_instruction_first(tmp_path, turns):
    logs = load(
        tmp_path, *(said("Who leads Ys?", *(t.format(n=n) for t in turns)) for n in range(5))
    )
    assert {t.question for t in logs} == {"Who leads Ys?"} and len(
        {t.question_id for t in logs}
    ) == 1
    assert not any("weight" in m for t in logs for m in t.messages)


def test_examples_as_turns_are_context_and_the_task_behind_them_the_question(tmp_path):
    shown = ("Who leads Ur?", "Thought: I know.\nAction: finish[Nanna]")
    logs = load(tmp_path, *(said(*shown, f"Who leads {t}?", "Action: finish[A]") for t in "abc"))
    assert [t.question for t in logs] == [f"Who leads {t}?" for t in "abc"]
    assert logs[0].messages[1]["weight"] == 0 and logs[0].prediction == "A"


@pytest.mark.parametrize(
    "frame", [RULES + "\nTask: {}", RULES + "\n{}", "{}\n" + RULES, "Question: {}"]
)
def test_instruction_and_task_in_one_turn_the_question_is_what_is_not_shared(tmp_path, frame):
    logs = load(
        tmp_path,
        *(said(frame.format(f"Who leads {t}?"), "Action: finish[A]", reward=1) for t in "abcd"),
    )
    assert [t.question for t in logs] == [f"Who leads {t}?" for t in "abcd"]
    assert all(t.question in t.messages[0]["content"] for t in logs)


def test_a_question_that_the_record_names_is_not_guessed(tmp_path):
    logs = load(
        tmp_path,
        noted("Who leads Ys?", question="Whose town is Ys?"),
        noted("Who?", question="Who?"),
    )
    assert [t.question for t in logs] == ["Whose town is Ys?", "Who?"] and logs.notes == ()


# --- which runs are of one question
# ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["task_id", "question_id", "problem_id", "instance_id", "item_id", "question_idx"]
)
def test_ids_group_runs_before_any_text_does(tmp_path, name):
    logs = load(
        tmp_path,
        *(
            said(f"Hi, I am {u}.", "Done.", reward=1, trial=n, **{name: 7})
            for n, u in enumerate("ab")
        ),
    )
    assert len({t.question_id for t in logs}) == 1
    assert [t.source.attempt for t in logs] == [0, 1]


def test_a_number_counts_within_its_data_set_or_its_file_and_a_long_id_everywhere(tmp_path):
    records = [said("A?", "a", task_id=7, dataset="x"), said("B?", "b", task_id=7, dataset="y")]
    assert len({t.question_id for t in load(tmp_path, *records)}) == 2
    for name in ("one.jsonl", "two.jsonl"):
        write(tmp_path, name, json.dumps(said(f"{name}?", "a", task_id=7)) + "\n")
        write(
            tmp_path,
            f"long_{name}",
            json.dumps(said(f"{name}!", "a", instance_id="django__django-11099")) + "\n",
        )
    short = load_trajectories([tmp_path / "one.jsonl", tmp_path / "two.jsonl"])
    long = load_trajectories([tmp_path / "long_one.jsonl", tmp_path / "long_two.jsonl"])
    assert (len({t.question_id for t in short}), len({t.question_id for t in long})) == (2, 1)


@pytest.mark.parametrize("name", ["trial", "attempt", "rollout", "epoch", "sample_id"])
@pytest.mark.parametrize(("value", "number"), [(3, 3), ("3", 3), ("x-3", 0), (True, 0)])
def test_the_number_of_an_attempt(tmp_path, name, value, number):
    assert load(tmp_path, said("Q?", "A", **{name: value}))[0].source.attempt == number


# --- how chats end, and are judged
# ----------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", ["###STOP###", "Thanks, bye!", ""])
def test_a_conversation_that_the_user_closes_is_finished_and_kept(tmp_path, closing):
    turns = ("Cancel my order.", "Cancelled.", *([closing] if closing else []))
    logs = load(tmp_path, *(said(*turns, reward=n, task_id=n) for n in (0, 1)))
    assert [(t.termination, t.prediction, t.success) for t in logs] == [
        ("finished", "Cancelled.", False),
        ("finished", "Cancelled.", True),
    ]
    assert len(assess(logs).kept) == 2


def test_after_tool_calls_a_plain_turn_ends_a_chat_but_not_a_react_run(tmp_path):
    closed = {"messages": [*chat("Who?", "I"), {"role": "user", "content": "Thanks."}]}
    broken = said(
        "Who?",
        "Thought: x\nAction: search[y]",
        "Observation: z",
        "Thought: hm",
        "Observation: no action",
    )
    assert [t.termination for t in load(tmp_path, closed, broken)] == ["finished", "parse_error"]


@pytest.mark.parametrize(
    ("reference", "answer", "success"),
    [
        ("2", r"Adding gives $\boxed{2}$.", True),
        (2, "So there are 2 apples.", True),
        ("2", r"Adding gives $\boxed{3}$.", False),
        ("Paris", "Paris.", True),
        ("Paris", "The capital of France is Paris.", None),
        ("Paris", "It may be Lyon.", None),
        (["Lutetia", "Paris"], "The answer is Paris.", True),
        ("Paris", "Thought: so.\nAction: finish[Lyon]", False),
        ("Paris", "Thought: so.\nAction: finish[Paris]", True),
    ],
)
def test_an_unlabelled_answer_is_judged_and_what_cannot_be_is_unknown(
    tmp_path, reference, answer, success
):
    logs = load(tmp_path, said("Question?", answer, answer=reference))
    assert logs[0].success is success
    assert list(logs.table()[["successes", "failures", "unlabelled"]].iloc[0]) == [
        success is True, success is False, success is None]  # fmt: skip


# --- weights and dialects
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weight", "loss", "train", "trainable"])
@pytest.mark.parametrize(
    ("value", "weight"), [(False, 0), (0, 0), (True, None), (1, None), (None, None)]
)
def test_a_turn_without_loss_keeps_weight_0(name, value, weight):
    assistant = as_messages([{"role": "assistant", "content": "OK", name: value}])[0]
    user = as_messages([{"role": "user", "content": "OK", name: value}])[0]
    assert (
        assistant.get("weight") == weight
        and "weight" not in user
        and set(assistant) <= {"role", "content", "weight"}
    )


def test_weights_of_sharegpt_turns_are_kept(tmp_path):
    turns = [
        {"from": "human", "value": "Q?"},
        {"from": "gpt", "value": "A", "weight": 0},
        {"from": "gpt", "value": "B"},
    ]
    assert [m.get("weight") for m in load(tmp_path, {"conversations": turns})[0].messages] == [
        None,
        0,
        None,
    ]


def test_thoughts_of_every_dialect_are_reasoning_content(tmp_path):
    think = {
        "messages": [
            {"role": "user", "content": "Q?"},
            {"role": "assistant", "content": "<think>Hm.</think>A"},
        ]
    }
    assert load(tmp_path, think)[0].messages[1] | {} == {
        "role": "assistant",
        "content": "A",
        "reasoning_content": "Hm.",
    }
    for made in (anthropic, responses):
        read = as_messages(made(*RUNS[0][:2]))
        assert [m.get("reasoning_content") for m in read] == [None, "I should search.", None, None]


@given(
    st.lists(
        st.sampled_from(
            anthropic("q", "a") + responses("q", "a") + parts("q", "a")[0] + chat("q", "a")
        )
    )
)
@settings(max_examples=60)
def test_turns_of_mixed_dialects_lose_no_text_call_or_result(turns):
    read = as_messages(turns)
    raw, got = json.dumps(turns), json.dumps(read)
    for text in ("I look it up.", "Nothing is known.", "It is a.", "I should search."):
        assert raw.count(text) == got.count(text)
    assert raw.count('"search"') == got.count('"search"')
    assert all(m["role"] in ("user", "assistant", "tool") for m in read)
    assert as_messages(list(read)) == read


KEYS = (
    "role content type parts text tool_calls function name from value input output summary message"
    " thinking arguments".split()
)
KINDS = "user assistant text tool_use function_call reasoning tool_result".split()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=3), inner | st.sampled_from(KINDS), max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4))
@settings(max_examples=60)
def test_odd_turns_are_read_or_refused_with_a_reason(turns):
    try:
        read = as_messages(turns)
    except ValueError as error:
        assert "messages[" in str(error)
    else:
        assert all(isinstance(m["content"], str | list) for m in read)


# --- ATIF both ways, FlashRAG's questions
# ---------------------------------------------------------------------------


def test_atif_comes_back_as_it_went(tmp_path):
    records = [
        {"messages": chat(q, a), "success": s, "task_id": f"town of {q}", "trial": 2}
        for q, a, s in RUNS
    ]
    runs = load(tmp_path, *records, noted("Who leads Ys?", answer="Dahut", reward=1))
    again = load_trajectories(
        write_lines(tmp_path / "runs.atif.jsonl", map(to_atif, runs)), strict=True
    )
    same = (
        "question_id",
        "question",
        "answer",
        "task",
        "messages",
        "prediction",
        "success",
        "termination",
    )
    assert [[getattr(t, n) for n in same] for t in again] == [
        [getattr(t, n) for n in same] for t in runs
    ]
    assert [t.source.attempt for t in again] == [t.source.attempt for t in runs]
    made = export(
        runs,
        "atif",
        tmp_path / "export.jsonl",
        template=find_template("none"),
        settings=PrefixSettings(),
    )
    assert made.path.read_text() == (tmp_path / "runs.atif.jsonl").read_text() and made.written == 4


def test_atif_has_what_its_schema_requires(tmp_path):
    runs = load(tmp_path, {"messages": chat(*RUNS[0][:2]), "success": True, "model": "m-7b"})
    made = json.loads(write_lines(tmp_path / "a.jsonl", map(to_atif, runs)).read_text())
    assert (made["schema_version"], made["agent"]["name"], made["agent"]["model_name"]) == (
        "ATIF-v1.6",
        "negfail_nb",
        "m-7b",
    )
    assert [step["step_id"] for step in made["steps"]] == [1, 2, 3]
    assert [step["source"] for step in made["steps"]] == ["user", "agent", "agent"]
    assert made["steps"][1]["tool_calls"] == [
        {"tool_call_id": "c1", "function_name": "search", "arguments": {"query": "leader"}}
    ]
    assert made["steps"][1]["observation"]["results"] == [
        {"source_call_id": "c1", "content": "Nothing is known."}
    ]


def test_flashrags_questions_have_all_their_answers(tmp_path):
    facts = {"type": "bridge", "supporting_facts": {"title": ["Ys"], "sent_id": [0]}}
    record = {
        "id": "dev_0",
        "question": "Who leads Ys?",
        "golden_answers": ["Dahut", "Ahes"],
        "metadata": facts,
    }
    question, _ = read_question(record)
    assert (question.answer, question.aliases, question.type, question.gold) == (
        "Dahut",
        ("Ahes",),
        "bridge",
        ("Ys",),
    )
    only = load_tasks(write(tmp_path, "q.jsonl", json.dumps(record)))[0]
    assert (only.id, only.answer) == ("dev_0", "Dahut")


@pytest.mark.parametrize(
    ("report", "success"),
    [
        ({"resolved": ["a__a-1"]}, True),
        ({"resolved_ids": [], "unresolved_ids": ["a__a-1"]}, False),
        ({"a__a-1": {"resolved": False}}, False),
        ({"resolved": ["b__b-2"]}, None),
        ([], None),
    ],
)
def test_a_report_beside_a_traj_says_whether_it_was_resolved(tmp_path, report, success):
    from log_formats import small_cases

    case = next(case for case in small_cases() if case.format == "swe-agent")
    path = case.write(tmp_path)
    write(tmp_path, "results.json", report)
    run = load_trajectories(path)[0]
    assert (run.success, run.question, run.question_id) == (success, RUNS[0][0], "a__a-1")
