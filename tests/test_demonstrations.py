"""Worked solutions of data sets as successful episodes, in the form in which live ones are kept."""

import asyncio
import json
import re
from collections import Counter
from fractions import Fraction

import pytest
from conftest import real_data
from hypothesis import given
from hypothesis import strategies as st
from test_data_sets import hotpot, svamp, written

from negfail_nb.agents import CalculatorTool, SearchTool, demonstrate, load_tasks
from negfail_nb.agents.calculator import calculate
from negfail_nb.agents.rollout import play
from negfail_nb.agents.scripted import ScriptedModel
from negfail_nb.agents.worked import CALCULATE, plain_equation, read_steps
from negfail_nb.numeric import parse_number
from negfail_nb.settings import LiveSettings
from negfail_nb.steps import read_steps as steps_of

BARE = LiveSettings(instruction=False)
CLIPS = {
    "question": "Natalia sold clips to 48 friends in April, half as many in May. How many?",
    "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory without data; the data that a variable names are those of one test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(trajectory):
    return [m["content"] for m in trajectory.messages]


def shown(here, *records, settings=BARE, **given):
    return demonstrate(written(here / "q.jsonl", *records), settings=settings, **given)


def reasons(logs):
    return [(p.record.removeprefix("line "), p.reason) for p in logs.problems]


# --- what is shown


def test_steps_of_gsm8k_are_calls_and_their_lines_are_thoughts(here):
    (run,) = shown(here, CLIPS)
    assert said(run) == [
        CLIPS["question"],
        "Thought: Natalia sold 48/2\nAction: calculate[48/2]",
        "Observation: 24",
        "Thought: Natalia sold 48+24\nAction: calculate[48+24]",
        "Observation: 72",
        "Thought: Natalia sold 48+24 = 72 clips altogether.\nAction: finish[72]",
    ]
    assert run.success and run.termination == "finished" and run.prediction == run.answer == "72"
    assert run.task == "math" and run.scores == {"em": 1.0, "f1": 1.0} and run.usage.calls == 3
    assert run.usage.seconds is None and run.source.temperature is None
    assert (run.source.format, run.source.file, run.source.record) == ("worked", "q.jsonl", "1")
    assert [step.action for step in steps_of(run)] == ["calculate", "calculate", "finish"]


def test_an_equation_of_svamp_is_one_call(here):
    (run,) = shown(here, svamp(20))
    assert said(run)[1:] == [
        f"Thought: {CALCULATE}\nAction: calculate[27 - 5]",
        "Observation: 22",
        "Thought: That is the answer.\nAction: finish[22]",
    ]


def test_supporting_facts_of_hotpotqa_are_searches_those_that_the_question_names_first(here):
    record = hotpot(1) | {
        "question": "In which town was the author of Ember (novel) born?",
        "supporting_facts": [["Ben 1", 0], ["Ember (novel)", 1]],
    }
    record["context"].append(["Ember (novel)", ["Ember is a novel.", " Ben 1 wrote it."]])
    (run,) = shown(here, record, hotpot(2)).trajectories[:1]
    assert said(run)[1::2] == [
        "Thought: I will search for Ember (novel).\nAction: search[Ember (novel)]",
        "Thought: Ben 1 wrote it. I will search for Ben 1.\nAction: search[Ben 1]",
        "Thought: Ben 1 was born in Dobal. So the answer is Dobal.\nAction: finish[Dobal]",
    ]
    assert said(run)[2].startswith("Observation: Ember (novel) [1]: Ember is a novel. Ben 1 wrote")
    assert said(run)[4].startswith("Observation: Ben 1 [1]: Ben 1 was born in Dobal.")
    assert run.gold_titles == ("Ben 1", "Ember (novel)")


def test_the_hubs_layout_of_hotpotqa_is_shown_alike(here):
    native = hotpot(1)
    hub = native | {
        "supporting_facts": {"title": ["Ben 1"], "sent_id": [0]},
        "context": {
            "title": [title for title, _ in native["context"]],
            "sentences": [text for _, text in native["context"]],
        },
    }
    assert said(shown(here, hub)[0]) == said(shown(here, native)[0])


@pytest.mark.parametrize("facts", [["It is a town", "Towns count."], "It is a town. Towns count."])
def test_facts_of_strategyqa_are_the_thought(here, facts):
    (run,) = shown(here, {"question": "Is Oslo a town?", "answer": True, "facts": facts})
    assert said(run)[1:] == [
        "Thought: It is a town. Towns count. So the answer is yes.\nAction: finish[yes]"
    ]
    assert run.task == "yes_no" and run.success


@pytest.mark.parametrize("style", ["react", "tools"])
@pytest.mark.parametrize("instruction", [True, False])
def test_a_demonstration_is_what_a_live_episode_with_these_replies_would_be(
    here, style, instruction
):
    settings = LiveSettings(style=style, instruction=instruction, attempts=1, temperatures=(0.0,))
    path = written(here / "q.jsonl", CLIPS)
    (run,) = demonstrate(path, settings=settings)
    replies = [message for message in run.messages if message["role"] == "assistant"]
    tools = [CalculatorTool()]
    live = asyncio.run(play(ScriptedModel(replies), load_tasks(path)[0], tools, settings))
    for name in ("messages", "tools", "prediction", "termination", "success", "scores", "question"):
        assert getattr(run, name) == getattr(live, name), name
    assert (run.messages[0]["role"] == "system") == instruction
    assert ("tool_calls" in run.messages[-1]) == (style == "tools")


def test_the_tools_given_are_those_that_the_agent_is_told_of(here):
    path = written(here / "q.jsonl", CLIPS)
    tools = [SearchTool([("Oslo", "A town.")]), CalculatorTool()]
    (run,) = demonstrate(path, tools=tools)
    assert "(1) search[query]" in said(run)[0] and "(2) calculate[expression]" in said(run)[0]
    with pytest.raises(ValueError, match="the demonstrations call calculate; give these tools too"):
        demonstrate(path, tools=tools[:1])


def test_only_the_questions_that_are_wanted_are_shown(here):
    records = [svamp(number) for number in range(8)]
    wanted = {"chal-2", "chal-5"}
    assert [run.question_id for run in shown(here, *records, only=wanted)] == ["chal-2", "chal-5"]


def test_named_sets_have_ids_of_their_name(here):
    written(here / "data/gsm8k/train.jsonl", CLIPS)
    (run,) = demonstrate("gsm8k", data="data")
    assert run.id == f"{run.question_id}/worked" and run.id.startswith("gsm8k-q")
    assert run.question_id == load_tasks("gsm8k/train", data="data")[0].id


def test_it_works_inside_a_running_loop_as_in_notebooks(here):
    async def inside():
        return shown(here, CLIPS)

    assert len(asyncio.run(inside())) == 1


# --- thoughts


def test_a_thought_does_not_tell_the_result_before_it_was_calculated():
    moves, thought = read_steps("It costs $20, as 10*2=$<<10*2=20>>20.", "It costs 2, ten times.")
    assert moves[0].thought == CALCULATE and thought == "It costs $20, as 10*2=$20."
    moves, _ = read_steps("Of the 20, 10*2=<<10*2=20>>20.", "There are 20.")
    assert moves[0].thought == "Of the 20, 10*2"


def test_lines_that_calculate_nothing_are_thought_with_the_next_step():
    lines = ["A week has 7 days.", "So 7*2=<<7*2=14>>14 days, 14+1=<<14+1=15>>15 days.", "Done."]
    moves, thought = read_steps("\n".join(lines) + "\n#### 15")
    assert [move.thought for move in moves] == ["A week has 7 days. So 7*2", "So 7*2=14 days, 14+1"]
    assert thought == "So 7*2=14 days, 14+1=15 days. Done."


NUMBERS = st.integers(0, 999) | st.decimals(0, 99, places=2, allow_nan=False)
PROSE = st.text("abc ,.'", max_size=12)


@st.composite
def solutions(draw):
    """Lines with steps, what each must call and give, and the lines without annotations."""
    lines, calls = [], []
    for _ in range(draw(st.integers(1, 4))):
        line = draw(PROSE)
        for _ in range(draw(st.integers(0, 2))):
            parts = [str(draw(NUMBERS))]
            for _ in range(draw(st.integers(0, 3))):
                parts += [draw(st.sampled_from("+-*")), str(draw(NUMBERS))]
            expression = "".join(parts)
            result = calculate(expression)
            calls.append((expression, result))
            line += f"{expression}=<<{expression}={result}>>{result}{draw(PROSE)}"
        lines.append(line)
    return lines, calls


@given(solutions())
def test_every_step_is_read_and_no_annotation_is_left_in_a_thought(drawn):
    lines, calls = drawn
    moves, thought = read_steps("\n".join(lines) + "\n#### 1")
    assert [(move.argument, move.wanted[0]) for move in moves] == calls
    for said in (thought, *(move.thought for move in moves)):
        assert "<<" not in said and ">>" not in said and "\n" not in said
    assert all(move.thought for move in moves)
    if moves:
        last = max(number for number, line in enumerate(lines) if "<<" in line)
        plain = [re.sub("<<.*?>>", "", line).strip() for line in lines[last:]]
        assert thought == " ".join(filter(None, plain))


@given(st.text("<>=0123456789+-*/ \na#", max_size=40))
def test_any_text_is_steps_or_an_error_that_names_the_step(text):
    try:
        moves, _ = read_steps(text)
    except ValueError as error:
        assert re.fullmatch(r"(?s)the step <<.*>> is not of the form <<48/2=24>>", str(error))
    else:
        assert all(move.argument and parse_number(move.wanted[0]) is not None for move in moves)


@given(
    st.recursive(
        st.integers(0, 99).map(lambda n: f"{n}.0"),
        lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
            "( {0[0]} {0[1]} {0[2]} )".format
        ),
        max_leaves=6,
    )
)
def test_a_plain_equation_has_the_same_value(equation):
    plain = plain_equation(equation)
    assert Fraction(calculate(plain)) == Fraction(calculate(equation))
    assert ".0" not in plain and "( " not in plain and " )" not in plain


# --- contradictions and bad input


def test_a_solution_that_contradicts_itself_or_its_answer_is_a_problem_and_not_shown(here):
    wrong_step = CLIPS | {"answer": "It is 48/2=<<48/2=25>>25.\n#### 25"}
    wrong_end = CLIPS | {"answer": "It is 48/2=<<48/2=24>>24.\n#### 72"}
    no_steps = CLIPS | {"answer": "It is a lot.\n#### 72"}
    no_result = CLIPS | {"answer": "It is <<48/2>>24.\n#### 24"}
    no_sum = CLIPS | {"answer": "It is <<48/0=24>>24.\n#### 24"}
    long = CLIPS | {"answer": "<<1+1=2>>2 " * 7 + "\n#### 2"}
    logs = shown(here, CLIPS, wrong_step, wrong_end, no_steps, no_result, no_sum, long)
    assert [run.source.record for run in logs] == ["line 1"]
    assert sorted(reasons(logs)) == [
        ("2", "calculate[48/2] gives 24, not 25"),
        ("3", "its last calculation gives 24, but its answer is 72"),
        ("4", "its 'answer' has no calculation as <<48/2=24>>"),
        ("5", "the step <<48/2>> is not of the form <<48/2=24>>"),
        ("6", "calculate[48/0] gives Error: division by zero, not 24"),
        ("7", "it takes 8 calls, more than live.max_calls (7)"),
    ]
    assert len(shown(here, CLIPS, long, settings=LiveSettings(max_calls=8))) == 2


def test_an_equation_that_contradicts_the_answer_is_a_problem(here):
    logs = shown(here, svamp(1), svamp(2) | {"Answer": 9.0})
    assert len(logs) == 1
    assert reasons(logs) == [("2", "calculate[9 - 5] gives 4, not 9")]


def test_evidence_that_is_not_there_or_not_found_is_a_problem(here):
    elsewhere = hotpot(2) | {"supporting_facts": [["Nowhere", 0]]}
    beyond = hotpot(3) | {"supporting_facts": [["Dora 3", 4]]}
    # Another passage of the same title comes first, so that one result is the wrong one.
    hidden = hotpot(4) | {"context": [["Emil 4", ["Emil 4 was born in Dobal."]]]}
    other = hotpot(5) | {"context": [*hotpot(5)["context"], ["Emil 4", ["Emil 4 is a song."]]]}
    odd = hotpot(6) | {"answer": "Dobal]\nAction: finish[Bel"}
    logs = shown(
        here,
        other,
        elsewhere,
        beyond,
        hidden,
        odd,
        settings=LiveSettings(instruction=False, results=1),
    )
    assert [run.source.record for run in logs] == ["line 1"]
    found = dict(reasons(logs))
    assert found["2"] == "the supporting passage 'Nowhere' is not in its context"
    assert found["3"] == "the passage 'Dora 3' has no supporting sentence 4"
    assert found["4"] == (
        "search[Emil 4] does not find the supporting sentence 'Emil 4 was born in Dobal.'"
    )
    assert found["5"].startswith("it ends after 2 of 2 calls with the answer 'Dobal', not 'Dobal]")


def test_records_without_a_worked_solution_are_counted(here):
    logs = shown(here, CLIPS, {"question": "Is it?", "answer": True}, {"question": "Is it?"})
    assert len(logs) == 1
    assert dict(reasons(logs)) == {
        "2": "it has no worked solution",
        "3": "the field 'answer' is missing or empty; add it, or load with require_answers=False",
    }


def test_a_file_without_any_solution_says_which_fields_would_be_one(here):
    with pytest.raises(ValueError) as error:
        shown(
            here, {"input": "How many are 2 and 3?", "target": 5}, {"question": "A?", "answer": "b"}
        )
    for part in (
        "q.jsonl",
        "2 records: it has no worked solution",
        "'Equation' (SVAMP)",
        "'supporting_facts' and 'context' (HotpotQA)",
        "'facts' (StrategyQA)",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"1 records: the field 'answer' is missing or empty"):
        shown(here, {"question": "How many?"})


def test_broken_lines_are_problems(here):
    path = written(here / "q.jsonl", CLIPS)
    path.write_text(path.read_text() + '{"question": "What\n' + json.dumps(CLIPS) + "\n")
    logs = demonstrate(path, settings=BARE)
    assert len(logs) == 2 and "not valid JSON" in logs.problems[0].reason
    assert logs[1].question_id == logs[0].question_id + "~2"


# --- real files


@pytest.mark.parametrize(
    ("name", "part", "count", "kinds"),
    [
        ("svamp", "train", 597, {}),
        ("svamp", "test", 402, {"calculate": 1}),
        ("gsm8k", "train", 6838, {"its last": 377, "it takes": 163, "its 'answer'": 95}),
        ("hotpotqa", "train", 627, {}),
        ("strategyqa", "test", 229, {}),
    ],
)
def test_real_solutions_become_demonstrations(name, part, count, kinds):
    data = real_data("svamp").parent
    logs = demonstrate(name, part=part, settings=BARE, data=data)
    assert len(logs) == count and all(run.success for run in logs)
    found = Counter(re.split(r"\[", p.reason)[0] for p in logs.problems)
    short = Counter()
    for reason, number in found.items():
        short[reason if reason == "calculate" else " ".join(reason.split()[:2])] += number
    assert short == kinds
    assert len({run.id for run in logs}) == count
