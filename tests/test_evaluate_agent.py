"""Room 05: agents scored on their episodes, compared over questions, and tested."""

from dataclasses import replace
from math import comb, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.agents.protocol import Task
from negfail_nb.agents.scripted import ScriptedModel
from negfail_nb.evaluation import agent_scores, compare_agents, evaluate, join_seeds, seed_table
from negfail_nb.intervals import choose_questions, mcnemar, mean_interval, sign_flip
from negfail_nb.pocket import generate_logs
from negfail_nb.prefix import find_template
from negfail_nb.runs import NotWhole, Place
from negfail_nb.settings import BudgetSettings, EvaluateSettings, LiveSettings
from negfail_nb.trajectory import Source, Trajectory, Usage, read_trajectories

FEW = EvaluateSettings(resamples=500)


def says(content, role="assistant"):
    return {"role": role, "content": content}


def episode(question="q0", right=True, attempt=0, messages=(), **changes):
    values = {
        "id": f"{question}/{attempt}",
        "question_id": question,
        "question": "who?",
        "answer": "Ada Lovelace",
        "prediction": "Ada Lovelace" if right else "nobody",
        "success": right,
        "messages": messages or (says("who?", "user"), says("Action: finish[x]")),
        "source": Source(attempt=attempt),
    }
    return Trajectory(**values | changes)


def scores(rights, attempts=1, seed=0):
    """One question an item; several attempts cut the list into as many."""
    return agent_scores(
        [episode(f"q{i // attempts:03}", right, i % attempts) for i, right in enumerate(rights)],
        seed=seed,
    )


# Scores
# --------------------------------------------------------------------------------------------------


def test_marks_come_from_the_log_else_from_our_grade_else_from_its_success():
    found = agent_scores(
        [
            episode("a", prediction="Ada"),
            episode("b", scores={"em": 0.0, "f1": 0.25}),
            episode("c", answer="", success=True),
            episode("d", prediction=None, termination="crashed", error="lost", success=False),
        ]
    )
    table = found.table.set_index("question_id")
    assert table.em.tolist() == [0, 0, 1, 0]
    assert table.f1.tolist()[:2] == [pytest.approx(2 / 3), 0.25] and isnan(table.f1["c"])
    assert (found.em, isnan(found.f1), found.success) == (0.25, True, 0.75)


def test_a_question_weighs_the_same_however_often_it_was_tried():
    tried = [episode("a", True, 0), *(episode("b", False, i) for i in range(3))]
    assert agent_scores(tried).em == 0.5


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="no episodes to score"):
        agent_scores([])
    with pytest.raises(ValueError, match=r"1 of 2 episodes cannot be scored \(b/0\)"):
        agent_scores([episode("a"), episode("b", answer="", success=None)])


SEARCH, FOUND = says("Action: search[x]"), says("Observation: #1: x", "user")
UNKNOWN = says(
    "Observation: Invalid action: look. Valid actions are search[query] and finish[answer].", "user"
)
BROKEN, PROSE = says("Observation: Error: division by zero", "user"), says("I think it is Ada.")
FINISH = says("Action: finish[x]")


@pytest.mark.parametrize(
    ("messages", "termination", "expected"),
    [
        ((SEARCH, FOUND, FINISH), "finished", (2, 0)),
        ((SEARCH, UNKNOWN, SEARCH, BROKEN, FINISH), "finished", (3, 2)),
        ((SEARCH, FOUND, PROSE), "parse_error", (2, 1)),
        ((PROSE,), "parse_error", (1, 1)),  # nothing in it says that actions were asked for
        ((SEARCH, FOUND), "parse_error", (2, 1)),  # the log left out the turn that did not parse
        ((says("who?", "user"),), "parse_error", (1, 1)),
        ((SEARCH, FOUND, SEARCH, BROKEN), "tool_error", (2, 1)),
        ((SEARCH, says("Observation: it broke", "user")), "tool_error", (1, 1)),
        ((SEARCH, FOUND, SEARCH), "max_steps", (2, 0)),
    ],
)
def test_action_errors_are_a_share_of_the_turns(messages, termination, expected):
    found = agent_scores([episode(messages=messages, termination=termination)])
    assert tuple(found.table.loc[0, ["turns", "action_errors"]]) == expected
    assert found.action_error_rate == expected[1] / expected[0]


def test_the_rate_is_over_all_turns_and_not_a_mean_of_episodes():
    clean, all_wrong = (
        episode("a", messages=(SEARCH, FOUND) * 8 + (FINISH,)),
        episode("b", messages=(SEARCH, BROKEN)),
    )
    assert agent_scores([clean, all_wrong]).action_error_rate == 1 / 10


def test_costs_and_endings():
    used = Usage(prompt_tokens=100, completion_tokens=10, calls=4, seconds=2.0)
    found = agent_scores([episode("a", usage=used), episode("b", termination="max_steps")])
    assert found.costs.to_dict() == {
        "calls": 2.5,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "seconds": 2,
    }
    assert found.terminations.to_dict() == {"finished": 0.5, "max_steps": 0.5}
    assert "em=1.000" in repr(found) and "questions=2" in repr(found)


def test_logs_that_were_read_are_scored_as_they_say():
    logs = generate_logs(20, 3, seed=1)
    found = agent_scores(logs)
    assert len(found.table) == 60 and found.table.attempt.tolist()[:3] == [0, 1, 2]
    assert found.em == pytest.approx(np.mean([t.scores["em"] for t in logs]))
    parse_errors = [t.id for t in logs if t.termination == "parse_error"]
    assert parse_errors and (found.table.set_index("id").action_errors[parse_errors] > 0).all()


# Statistics
# --------------------------------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_mcnemar_is_the_closed_form(won, lost, both, neither):
    ours = [1] * won + [0] * lost + [1] * both + [0] * neither
    theirs = [0] * won + [1] * lost + [1] * both + [0] * neither
    n = won + lost
    tail = sum(comb(n, k) for k in range(min(won, lost) + 1)) / 2**n
    assert mcnemar(ours, theirs) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(theirs, ours) == mcnemar(ours, theirs)


@given(st.lists(st.sampled_from([-1, 0, 0, 1]), max_size=11))
@settings(max_examples=40, deadline=None)
def test_the_sign_flip_test_is_mcnemars_where_each_question_has_one_episode(differences):
    ours, theirs = [d > 0 for d in differences], [d < 0 for d in differences]
    exact = EvaluateSettings(resamples=4096)
    assert sign_flip(differences, exact) == pytest.approx(mcnemar(ours, theirs))


def test_the_sign_flip_test_keeps_its_level():
    draw = np.random.default_rng(0)
    seen = [
        sign_flip(draw.normal(0, 1, 25), EvaluateSettings(resamples=200, seed=i)) < 0.1
        for i in range(200)
    ]
    assert 0.04 < np.mean(seen) < 0.17
    assert sign_flip(draw.normal(1, 1, 25), FEW) < 0.01


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
@settings(max_examples=30, deadline=None)
def test_the_interval_holds_the_mean_and_stays_in_range(values):
    low, high = mean_interval(np.array(values), EvaluateSettings(resamples=400, confidence=0.999))
    assert min(values) - 1e-9 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= max(values) + 1e-9


def test_an_unknown_value_gives_no_interval():
    assert all(map(isnan, mean_interval(np.array([0.5, np.nan, 0.1]), FEW)))


@given(st.sets(st.text(max_size=3), max_size=20), st.integers(1, 25), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_chosen_questions_do_not_depend_on_their_order(questions, most, seed):
    chosen = EvaluateSettings(max_questions=most, seed=seed)
    found = choose_questions(sorted(questions), chosen)
    assert found == choose_questions(sorted(questions, reverse=True), chosen)
    assert len(found) == min(most, len(questions)) and found <= questions
    assert choose_questions(questions) == questions


# Comparison
# --------------------------------------------------------------------------------------------------


def test_one_row_an_arm_with_differences_to_the_first():
    base, better = [1, 0, 0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 1, 0, 1, 0]
    table = compare_agents({"vanilla": scores(base), "nat": scores(better)}, FEW).set_index("arm")
    row = table.loc["nat"]
    assert (row.em, row.em_difference, row.questions, row.seeds, row.note) == (
        5 / 8,
        3 / 8,
        8,
        1,
        "",
    )
    assert 0 < row.em_low < row.em < row.em_high < 1
    assert (row.test, row.p) == ("McNemar, exact", mcnemar(better, base))
    zero = table.loc["vanilla"]
    assert (zero.em_difference_low, zero.em_difference_high, isnan(zero.p)) == (0, 0, True)
    other = compare_agents(
        {"vanilla": scores(base), "nat": scores(better)}, FEW, baseline="nat"
    ).set_index("arm")
    assert other.em_difference["vanilla"] == -row.em_difference


def test_pairing_sharpens_the_difference():
    """Arms that agree on 190 of 200 questions: their difference is known better than either."""
    base = [i % 2 for i in range(200)]
    better = [1 if i < 20 else right for i, right in enumerate(base)]
    row = compare_agents({"a": scores(base), "b": scores(better)}, FEW).iloc[1]
    paired, alone = row.em_difference_high - row.em_difference_low, row.em_high - row.em_low
    assert row.em_difference_low > 0 and paired < alone / 2
    mixed = [
        better[(i + 100) % 200] for i in range(200)
    ]  # as many right answers, to other questions
    unpaired = compare_agents({"a": scores(base), "b": scores(mixed)}, FEW).iloc[1]
    assert unpaired.em == row.em and unpaired.em_difference == pytest.approx(row.em_difference)
    assert unpaired.p >= row.p


def test_seeds_are_joined_and_their_spread_is_told():
    first, second = scores([1, 0, 0, 0], seed=1), scores([1, 1, 1, 0], seed=2)
    arm = join_seeds([first, second])
    assert arm.em == 0.5
    assert seed_table({"nat": arm}).to_dict("list") == {
        "arm": ["nat"] * 2, "seed": [1, 2], "em": [0.25, 0.75], "f1": [0.25, 0.75]
    }  # fmt: skip
    base = join_seeds([scores([0, 0, 0, 0], seed=1), scores([1, 0, 0, 0], seed=2)])
    row = compare_agents({"vanilla": base, "nat": arm}, FEW).iloc[1]
    assert (row.seeds, row.em_least, row.em_most) == (2, 0.25, 0.75)
    assert row.em_sd == pytest.approx(np.std([0.25, 0.75], ddof=1))
    assert row.test == "sign flip, over questions"
    assert (
        row.p == 0.25
    )  # differences 1/2, 1/2, 1/2, 0: two of the eight ways to sign them are as extreme


def test_the_interval_is_over_questions_and_not_over_episodes():
    """Eight attempts that all agree tell no more about the next question than one."""
    rights = [i % 3 == 0 for i in range(30)]
    once, often = scores(rights), scores(np.repeat(rights, 8), attempts=8)
    table = compare_agents({"once": once, "often": often}, FEW)
    assert table.em_low[0] == table.em_low[1] and table.em_high[0] == table.em_high[1]


def test_different_questions_are_refused():
    with pytest.raises(
        ValueError,
        match="arms a and b were measured on different questions; 1 are not in both: q002",
    ):
        compare_agents({"a": scores([1, 0, 1]), "b": scores([1, 0])})
    with pytest.raises(ValueError, match="seed 2 lacks 1: q001"):
        join_seeds([scores([1, 0], seed=1), scores([1], seed=2)])
    with pytest.raises(
        ValueError, match="2 episodes are there twice, first seed 0, question q000, attempt 0"
    ):
        join_seeds([scores([1, 0]), scores([1, 0])])


def test_no_arms_and_unknown_baseline():
    with pytest.raises(ValueError, match="no arms to compare"):
        compare_agents({})
    with pytest.raises(ValueError, match="baseline 'nut' is not among the arms: a"):
        compare_agents({"a": scores([1, 0])}, FEW, baseline="nut")


@pytest.mark.parametrize(
    ("rights", "note"), [([1], "one question only"), ([0] * 9, "every question has the same EM")]
)
def test_an_interval_that_says_too_little_has_a_note(rights, note, caplog):
    row = compare_agents({"a": scores(rights)}, FEW).iloc[0]
    assert row.note.startswith(note) and note in caplog.text


# Live
# --------------------------------------------------------------------------------------------------


TASKS = [Task(id=f"q{i:03}", question=f"who is {i}?", answer="Ada Lovelace") for i in range(9)]


class Lookup:
    name, argument, description = "search", "query", "searches a register"

    def __call__(self, query):
        return "Ada Lovelace"


def by_question(messages, sampling):
    """Even questions are looked up and answered; odd ones get an unknown tool, then err."""
    number = int(messages[0]["content"].split()[-1].strip("?"))
    first = len(messages) == 1
    if number % 2:
        return "Action: look[x]" if first else "Action: finish[nobody]"
    return "Action: search[x]" if first else "Action: finish[Ada Lovelace]"


def test_an_agent_is_played_live_and_scored(tmp_path):
    live, file = LiveSettings(attempts=2, instruction=False), tmp_path / "e.jsonl"
    found = evaluate(
        ScriptedModel(by_question), TASKS, [Lookup()], EvaluateSettings(), live, file=file, seed=3
    )
    assert len(found.table) == 18 and set(found.table.seed) == {3}
    assert found.em == pytest.approx(5 / 9) and found.f1 == pytest.approx(5 / 9)
    assert found.action_error_rate == pytest.approx(4 / 18)
    assert found.costs["calls"] == 2 and found.costs["completion_tokens"] > 0
    never = ScriptedModel(lambda *a: pytest.fail("was played again"))
    assert evaluate(
        never, TASKS, [Lookup()], EvaluateSettings(), live, file=file, seed=3
    ).table.equals(found.table)
    again = compare_agents({"a": found, "b": agent_scores(read_trajectories(file), seed=3)}, FEW)
    assert again.em_difference[1] == 0 and again.p[1] == 1


def test_every_arm_is_asked_the_same_questions_and_what_is_missing_is_told(tmp_path, caplog):
    chosen, live = EvaluateSettings(max_questions=4), LiveSettings(attempts=1, instruction=False)
    found = evaluate(
        ScriptedModel(by_question), TASKS, [Lookup()], chosen, live, file=tmp_path / "a.jsonl"
    )
    assert set(found.table.question_id) == choose_questions({t.id for t in TASKS}, chosen)
    short = BudgetSettings(episodes=3)
    some = evaluate(
        ScriptedModel(by_question),
        TASKS,
        [Lookup()],
        chosen,
        live,
        file=tmp_path / "b.jsonl",
        budget=short,
    )
    assert len(some.table) == 3 and "3 of 4 episodes were played" in caplog.text
    with pytest.raises(ValueError, match="measured on different questions; 1 are not in both"):
        compare_agents({"a": found, "b": some})


def test_tasks_that_cannot_be_graded_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 1 tasks have no answer \(q\)"):
        evaluate(ScriptedModel([]), [Task(id="q", question="who?")], file=tmp_path / "e.jsonl")
    with pytest.raises(ValueError, match="0 tasks were given"):
        evaluate(ScriptedModel([]), [], file=tmp_path / "e.jsonl")


def test_a_run_folder_is_finished_once_and_read_from_then_on(tmp_path):
    live = LiveSettings(attempts=1, instruction=False, concurrency=2)
    place = Place(tmp_path, "agent-nat")
    given = TASKS, [Lookup()], EvaluateSettings(), live

    with pytest.raises(NotWhole, match="5 episodes were not played.*raise budget.episodes"):
        evaluate(
            ScriptedModel(by_question), *given, folder=place, budget=BudgetSettings(episodes=4)
        )
    found = evaluate(ScriptedModel(by_question), *given, folder=place)
    assert found.run.done and found.run.manifest["results"] == {"episodes": 9, "successes": 5}
    never = ScriptedModel(lambda *a: pytest.fail("was played again"))
    faster = replace(live, concurrency=9)
    again = evaluate(never, TASKS, [Lookup()], EvaluateSettings(seed=1), faster, folder=place)
    assert again.run == found.run and again.table.equals(found.table)
    other = evaluate(ScriptedModel(by_question), *given, folder=place, thoughts="history")
    assert other.run.folder != found.run.folder
    with pytest.raises(ValueError, match="both a folder .* and a file"):
        evaluate(never, *given, folder=place, file=tmp_path / "e.jsonl")


def test_with_a_template_each_question_is_asked_once_under_its_prompt(tmp_path):
    asked = []

    def note(messages, sampling):
        asked.append(messages[-1]["content"])
        return "Action: finish[Ada Lovelace]"

    template = find_template("target-aware")
    asked_at = EvaluateSettings(temperature=0.3)
    file = tmp_path / "e.jsonl"
    found = evaluate(ScriptedModel(note), TASKS[:2], (), asked_at, template=template, file=file)
    assert found.em == 1.0 and found.run is None
    assert [t.source.temperature for t in read_trajectories(file)] == [0.3, 0.3]
    assert sorted(asked) == [template.inference(task.question, "qa") for task in TASKS[:2]]
