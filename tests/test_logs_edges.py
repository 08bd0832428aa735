"""01 logs: nothing is lost silently, and a label is a label: wrappings, verdicts, ReAct text,
our own records.
"""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest
from conftest import real_data

from negfail_nb.logs import importer, load_trajectories, registry
from negfail_nb.logs.__main__ import main
from negfail_nb.trajectory import Trajectory, UnreadableLog, read_trajectories, write_trajectories

TURNS = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]
CHAT = {"messages": TURNS, "reward": 1}
OWN = Trajectory(
    id="1", question_id="q", question="Q?", messages=tuple(TURNS), success=True
).to_dict()


def load(folder, content, name="log.json", **given):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return load_trajectories(path, **given)


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"success": [CHAT], "failure": [CHAT, CHAT]}, ["success 1", "failure 1", "failure 2"]),
        ({"n": 2, "q1": [CHAT], "meta": {"a": 1}, "q2": [CHAT, CHAT]}, ["q1 1", "q2 1", "q2 2"]),
        ({"seeds": [], "q1": [CHAT], "last": CHAT}, ["q1 1", "last"]),
    ],
)
def test_every_list_of_records_under_a_key_is_read(tmp_path, content, places):
    logs = load(tmp_path, content, strict=True)
    assert [t.source.record for t in logs] == places


def test_a_list_beside_the_records_hides_nothing_and_is_reported(tmp_path):
    logs = load(tmp_path, {"tasks": [{"n": n} for n in range(20)], "results": [CHAT, CHAT]})
    assert [t.source.record for t in logs] == ["results 1", "results 2"]
    assert len(logs.problems) == 20 and logs.problems[0].record == "tasks 1"


@pytest.mark.parametrize("format", [None, "dialogs"])
def test_one_record_with_a_list_of_its_own_is_one_record(tmp_path, format):
    @importer("dialogs", looks_like=lambda log: log.has("asked", "dialog"))
    def dialogs(log):
        def read(record, where):
            turns = [{"role": "assistant", "content": turn["t"]} for turn in record["dialog"]]
            return log.trajectory(
                where, question=record["asked"], messages=turns, success=record["solved"]
            )

        return log.convert(read)

    record = {
        "asked": "Q?",
        "dialog": [{"t": "a"}, {"t": "b"}],
        "solved": True,
        "tries": [{"n": 1}],
    }
    try:
        single = load(tmp_path, record, strict=True, format=format)
        wrapped = load(tmp_path, {"all": [record, record]}, strict=True, format=format)
        assert (len(single), len(single[0].messages), len(wrapped)) == (1, 2, 2)
        assert single[0].source.format == "dialogs"
    finally:
        registry._IMPORTERS.pop("dialogs")


def test_an_endless_number_costs_only_its_record(tmp_path):
    endless = json.dumps(CHAT).replace("1}", "1" + "0" * 400 + "}")
    nested = json.dumps({**CHAT, "scores": {"acc": 1}}).replace(
        '{"acc": 1', '{"acc": 1' + "0" * 400
    )
    logs = load(
        tmp_path, "\n".join([json.dumps(CHAT), endless, nested, json.dumps(CHAT)]), "log.jsonl"
    )
    assert [t.source.record for t in logs] == ["line 1", "line 4"]
    assert [p.record for p in logs.problems] == ["line 2", "line 3"]


def test_a_calculation_that_fails_in_an_importer_costs_only_its_record(tmp_path):
    @importer("shares", looks_like=lambda log: log.has("part", "whole"))
    def shares(log):
        def read(record, where):
            return log.trajectory(
                where,
                question="Q?",
                messages=(),
                scores={"share": record["part"] / record["whole"]},
            )

        return log.convert(read)

    try:
        records = [{"part": 1, "whole": 2}, {"part": 1, "whole": 0}, {"part": 10**400, "whole": 3}]
        logs = load(tmp_path, records)
        assert (len(logs), [p.record for p in logs.problems]) == (1, ["item 2", "item 3"])
    finally:
        registry._IMPORTERS.pop("shares")


def test_a_prediction_out_of_arguments_can_be_written(tmp_path):
    call = {
        "type": "function",
        "function": {"name": "submit", "arguments": '{"answer": "hi \\ud83d"}'},
    }
    turns = [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [call]}]
    logs = load(tmp_path, {"messages": turns})
    assert logs[0].prediction == "hi \ufffd"
    assert list(read_trajectories(write_trajectories(tmp_path / "t.jsonl", logs))) == list(logs)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prediction": 18}, r"the field 'prediction' is a number \(18\), not text or null"),
        ({"answer": 18}, r"the field 'answer' is a number \(18\), not text"),
        ({"success": "yes"}, r"the field 'success' is text \(yes\), not true or false or null"),
        ({"scores": {"f1": "high"}}, r"the field 'f1' is text \(high\), not a number"),
        ({"scores": [1]}, r"the field 'scores' is a list"),
        ({"source": {"model": 3}}, r"the field 'model' is a number \(3\), not text"),
        ({"source": {"attempt": "x"}}, r"the field 'attempt' is text \(x\), not a number"),
        ({"usage": {"calls": "x"}}, r"the field 'calls' is text \(x\), not a number or null"),
        ({"gold_titles": "Rome"}, r"the field 'gold_titles' is text \(Rome\), not a list"),
        ({"gold_titles": [1]}, r"gold_titles\[0\] is a number \(1\), not text"),
        ({"tools": ["x"]}, r"tools\[0\] is text \(x\), not an object"),
        (
            {"messages": [{"role": "human", "content": "Q?"}]},
            r"messages\[0\] has the role 'human'; in our own",
        ),
        (
            {"messages": [{"role": "user", "content": 5}]},
            r"messages\[0\].content is a number \(5\), not text",
        ),
    ],
)
def test_our_own_records_are_checked_field_by_field(tmp_path, changes, reason):
    good, bad = json.dumps(OWN), json.dumps({**OWN, **changes})
    logs = load(tmp_path, f"{good}\n{bad}\n", "t.jsonl")
    assert len(logs) == 1 and logs[0].to_dict() | {"messages": TURNS} == json.loads(good) | {
        "messages": TURNS,
        "gold_titles": (),
        "tools": (),
    }
    assert [p.record for p in logs.problems] == ["line 2"]
    with pytest.raises(UnreadableLog, match=reason):
        load(tmp_path, f"{good}\n{bad}\n", "t.jsonl", strict=True)


@pytest.mark.parametrize(
    "line", ["[1]", '"id"', "7", "null", "[" * 100_000, '{"id": "1", "source": 3}']
)
def test_a_line_of_ours_that_is_no_record_is_named(tmp_path, line):
    (tmp_path / "t.jsonl").write_text(json.dumps(OWN) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UnreadableLog, match="t.jsonl:line 2: "):
        list(read_trajectories(tmp_path / "t.jsonl"))


def test_react_text_as_langchain_writes_it(tmp_path):
    text = (
        "Question: Capital?\nThought: I look.\nAction: search\nAction Input: the capital [old]\n"
        "Observation: Rome\n"
        "Thought: I now know the final answer\nFinal Answer: Rome\nCorrect answer: Rome\n"
    )
    only = load(tmp_path, text, "plain.txt", strict=True)[0]
    assert (only.prediction, only.success, only.termination) == ("Rome", True, "finished")
    assert [m["role"] for m in only.messages] == ["user", "assistant", "user", "assistant"]
    bare = load(tmp_path, text.replace("Thought: I now know the final answer\n", ""), "plain.txt")[
        0
    ]
    assert (bare.prediction, bare.messages[2]["content"]) == ("Rome", "Observation: Rome")


def test_a_final_answer_quoted_in_numbered_text_is_no_part(tmp_path):
    text = (
        "Question: Q?\nThought 1: t\nAction 1: Search[x]\nObservation 1: a page\nFinal Answer: 7\n"
        "Thought 2: u\nAction 2: Finish[A]\n"
    )
    only = load(tmp_path, text, "plain.txt")[0]
    assert (
        only.messages[2]["content"] == "Observation 1: a page\nFinal Answer: 7"
        and only.prediction == "A"
    )


def test_a_question_quoted_by_an_observation_begins_no_attempt(tmp_path, caplog):
    text = (
        "Question: First?\nThought: t\nAction: search[x]\nObservation: a forum\nQuestion: how do I "
        "cook?\n"
        "Thought: u\nAction: Finish[A]\nObservation: Answer is CORRECT\n"
        "Question: Second?\nThought: t\nAction: Finish[B]\nQuestion: Third?\nThought: t\nAction: "
        "search[c]\n\n"
        "Question: Fourth?\nThought: t\nAction: search[d]\nFinal Answer: D\nQuestion: Fifth?\n"
        "Thought: t\n"
    )
    logs = load(tmp_path, text, "plain.txt", strict=True)
    assert [t.question for t in logs] == ["First?", "Second?", "Third?", "Fourth?", "Fifth?"]
    assert [t.success for t in logs] == [True, None, None, None, None]
    assert "Question: how do I cook?" in logs[0].messages[2]["content"]
    assert "plain.txt:line 5: taken for a quoted question" in caplog.text


def test_turns_before_the_first_question_are_a_problem(tmp_path):
    text = "Loading\nThought: t\nAction: search[x]\n\nQuestion: Q?\nThought: t\nAction: Finish[A]\n"
    logs = load(tmp_path, text, "plain.txt")
    assert len(logs) == 1
    assert (
        str(logs.problems[0])
        == "plain.txt:line 2: 2 turns stand before the first question; they are left out"
    )


@pytest.mark.parametrize(
    ("beside", "success"),
    [
        ({"label": "hotpot", "reward": 1.0}, True),
        ({"label": "hotpot", "reward": 0.5}, False),
        ({"success": "great", "score": 0}, False),
        ({"score": 45, "acc": 1}, True),
        ({"reward": -1}, False),
    ],
)
def test_the_first_field_that_is_a_verdict_is_the_label(tmp_path, beside, success):
    assert load(tmp_path, {"messages": TURNS, **beside}, strict=True)[0].success is success


@pytest.mark.parametrize("value", [45, 1.5, -3, "45"])
def test_a_number_outside_0_to_1_is_no_verdict(tmp_path, value):
    logs = load(tmp_path, {"messages": TURNS, "score": value})
    assert not len(logs)
    assert (
        "the field 'score' is" in logs.problems[0].reason
        and "between 0 and 1" in logs.problems[0].reason
    )


def test_files_of_a_list_are_named_from_their_common_parent(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "run.jsonl").write_text(
            f"{json.dumps(CHAT)}\n[{folder}\n", encoding="utf-8"
        )
    names = ["a/run.jsonl", "b/run.jsonl"]
    for paths in (
        [tmp_path / name for name in names],
        [tmp_path / "a", tmp_path / "b" / "run.jsonl"],
    ):
        logs = load_trajectories(paths)
        assert [p.file for p in logs.problems] == names == list(logs.table()["file"])
    assert load_trajectories([tmp_path / names[0]])[0].source.file == "run.jsonl"
    assert load_trajectories(tmp_path / names[0])[0].source.file == "run.jsonl"
    assert len(load_trajectories([])) == 0


def test_the_command_says_how_it_is_used_and_what_is_missing(tmp_path, capsys):
    assert main([]) == 2
    assert capsys.readouterr().err == "usage: python -m negfail_nb.logs PATH ..\n"
    assert main([str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "there is no such file or folder" in error


def test_blank_lines_without_end_are_read(tmp_path):
    # Patterns that go back at every blank would not return from this in the time of a test run.
    text = f"Question: Q?\ny{' ' * 200_000}x\nThought: t\nAction: Finish[A]\n"
    assert load(tmp_path, text, "plain.txt", format="react")[0].prediction == "A"
    record = {"reward": True, "gt": "A", "traj": "### Instruction:\n" + "\n" * 200_000}
    assert (
        "no '### Instruction:' and"
        in load(tmp_path, {"0": record}, format="fireact").problems[0].reason
    )


def test_the_command_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "negfail_nb.logs"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2 and run.stderr.startswith("usage:") and not run.stdout


TRIALS = """
########################################
BEGIN TRIAL 2
Trial summary: Correct: 1, Incorrect: 1
#######################################
------------- BEGIN CORRECT AGENTS -------------

Context: Oslo lies in Norway.

Norway is a kingdom.
Question: Where is Oslo?
Thought: Norway.
Action: Finish[Norway]
Observation: Answer is CORRECT
Reflections:
Correct answer: Norway

------------- BEGIN INCORRECT AGENTS -----------

Context:
Question: Who leads Freedonia?
Thought: Now I say Trentino.
Action: Finish[Trentino]
Observation: Answer is INCORRECT
Reflections:
Thought: I said Chico.
Action: Finish[Chico]
Observation: Answer is INCORRECT
Correct answer: Firefly

Solve a task. You have attempted to answer the following question before and failed. \
Below is the last trial you attempted to answer the question.
Question: Who leads Sylvania?
Thought 1: I said Groucho.
Action 1: Finish[Groucho]
Observation 1: Answer is INCORRECT
(END PREVIOUS TRIAL)

Question: Who leads Sylvania?
Thought 1: I say Zeppo.
Action 1: Finish[Zeppo]
Observation 1: Answer is INCORRECT
Correct answer: Trentino

"""


@pytest.mark.parametrize("referenced", [True, False])
def test_an_old_trial_that_is_shown_again_is_no_turn_of_the_agent(tmp_path, referenced):
    text = TRIALS if referenced else re.sub("Correct answer: .*\n", "", TRIALS)
    logs = load(tmp_path, text, "trials.txt", strict=True)
    assert [(t.question, t.prediction, t.success) for t in logs] == [
        ("Where is Oslo?", "Norway", True),
        ("Who leads Freedonia?", "Trentino", False),
        ("Who leads Sylvania?", "Zeppo", False),
    ]
    assert [t.answer for t in logs] == (
        ["Norway", "Firefly", "Trentino"] if referenced else [""] * 3
    )
    for t in logs:
        assert [m["role"] for m in t.messages] == ["user", "assistant", "user"]
        assert not re.search("Chico|Groucho|Reflections", str(t.messages[1:]))
    # what the agent was shown stays in its prompt
    assert logs[0].messages[0]["content"] == (
        "Context: Oslo lies in Norway.\n\nNorway is a kingdom.\nWhere is Oslo?"
    )
    assert (
        "I said Chico." in logs[1].messages[0]["content"]
        and "I said Groucho." in logs[2].messages[0]["content"]
    )


def test_a_last_attempt_without_verdict_and_answer_was_cut_off_unless_none_has_an_answer(tmp_path):
    heading = "------------- BEGIN HALTED AGENTS -----------"
    halted = f"{heading}\n\nQuestion: Q?\nThought 1: t\nAction 1: Search[x]\n"
    cut = load(tmp_path, TRIALS + halted, "t.txt")
    assert len(cut) == 3 and "was the log cut off?" in cut.problems[0].reason
    whole = load(
        tmp_path, re.sub("Correct answer: .*\n", "", TRIALS) + halted, "t.txt", strict=True
    )
    assert (whole[3].success, whole[3].termination) == (False, "max_steps")
    inner = TRIALS.replace("BEGIN CORRECT", "BEGIN HALTED").replace("Correct answer: Norway\n", "")
    assert [t.success for t in load(tmp_path, inner, "t.txt", strict=True)] == [False, False, False]


def test_logs_of_last_trials_agree_with_their_own_summaries():
    path = next(real_data("more_logs/reflexion-last").glob("cot_last_trial*.txt"))
    logs = load_trajectories(path, strict=True)
    text = path.read_text(encoding="utf-8")
    summary = re.findall(
        r"BEGIN TRIAL (\d+)\nTrial summary: Correct: (\d+), Incorrect: (\d+)", text
    )
    found = Counter((t.source.attempt, t.success) for t in logs)
    assert found == {
        (int(n), ok): int(c)
        for n, right, wrong in summary
        for ok, c in ((True, right), (False, wrong))
    }
    assert len(logs) == 600 and {len(t.messages) for t in logs} == {3}
    assert not any("Reflections" in m["content"] for t in logs for m in t.messages[1:])
