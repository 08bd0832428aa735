"""02 quality: kinds of failure and the quality score."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quality_runs import finding, react, run

from negfail_nb.quality import KINDS
from negfail_nb.trajectory import TERMINATIONS

# --- kinds of failure


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("unlabelled", {"success": None}),
        ("crashed", {"termination": "crashed", "prediction": None, "error": "TimeoutError"}),
        ("empty", {"messages": (), "prediction": None}),
        ("empty", {"prediction": "  "}),
        ("refusal", {"termination": "refused", "prediction": None}),
        (
            "refusal",
            {"messages": react("I\u2019m sorry, but I can't help with that."), "prediction": None},
        ),
        ("refusal", {"prediction": "As an AI language model I have no opinion."}),
        ("wrong_form", {"prediction": "frank herbert."}),
        ("wrong_form", {"prediction": "It was Frank Herbert"}),
        ("wrong_form", {"answer": "Beyonc\u00e9", "prediction": "Beyonce"}),
        ("wrong_form", {"answer": "1981\u20132001", "prediction": "1981-2001"}),
        ("wrong_form", {"answer": "yes", "prediction": "Yes, both are"}),
        ("wrong_form", {"answer": "3,677", "prediction": "3,677 seated"}),
        ("wrong_form", {"answer": "3,677 seated", "prediction": "3,677"}),
        ("wrong_form", {"answer": "18", "prediction": "$18.00", "task": "math"}),
        ("gave_up", {"prediction": "unknown"}),
        ("gave_up", {"prediction": "I don\u2019t know."}),
        ("gave_up", {"prediction": "The author cannot be determined from the results."}),
        ("gave_up", {"prediction": "There is not enough information"}),
        ("gave_up", {"prediction": "Inconclusive", "task": "yes_no", "answer": "yes"}),
        ("out_of_steps", {"termination": "max_steps", "prediction": None}),
        ("partly_right", {"prediction": "Brian Herbert"}),
        ("wrong_answer", {"prediction": "Isaac Asimov"}),
        ("no_answer", {"prediction": None, "messages": react("Action: search[Dune]")}),
        ("parse_error", {"termination": "parse_error", "prediction": None}),
        ("tool_error", {"termination": "tool_error", "prediction": None}),
    ],
)
def test_primary_kind(kind, fields):
    found = finding(run(**fields))
    assert found.primary == kind
    assert kind == "wrong_answer" or "wrong_answer" not in found.kinds


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        (
            "parse_error",
            react("Action: search[Dune]", "Thought: I forgot to act", "Action: finish[Asimov]"),
        ),
        (
            "tool_error",
            react(
                "Action: calculate[1/0]", "Action: finish[2]", observation="Error: division by zero"
            ),
        ),
        (
            "repeated_action",
            react("Action: search[Dune]", "Action: search[ Dune ]", "Action: finish[Asimov]"),
        ),
        (
            "invented_observation",
            react("Action: search[Dune]\nObservation: by Asimov\nAction: finish[Asimov]"),
        ),
    ],
)
@pytest.mark.parametrize("success", [True, False])
def test_incidents_are_seen_in_failures_and_successes(kind, messages, success):
    found = finding(run(success=success, messages=messages))
    assert kind in found.kinds
    assert found.primary == ("" if success else "wrong_answer")


@pytest.mark.parametrize(
    "messages",
    [
        react("Action: Lookup[novel]", "Action: Lookup[novel]", "Action: Finish[Asimov]"),
        react("Action: search[Dune]", "Action: lookup[Dune]", "Action: finish[Asimov]"),
    ],
)
def test_lookups_and_other_tools_are_no_loop(messages):
    assert "repeated_action" not in finding(run(messages=messages)).kinds


@pytest.mark.parametrize(
    ("answer", "prediction"),
    [
        ("3 Idiots", "3"),
        ("May 1987", "1987"),
        ("Delhi", "Delhi or Mumbai"),
        ("director", "film director and producer"),
        ("yes", "no"),
        ("150 million", "150"),
        (
            "Herbert",
            "a very long sentence that happens to end in the name of somebody called Herbert",
        ),
        ("American", "not American"),
    ],
)
def test_other_answers_are_not_the_right_one_in_the_wrong_form(answer, prediction):
    assert "wrong_form" not in finding(run(answer=answer, prediction=prediction)).kinds


@pytest.mark.parametrize(
    "prediction", ["The Unknown Soldier", "Nonesuch", "Maybe Tomorrow", "The Notebook"]
)
def test_titles_that_sound_like_giving_up_are_answers(prediction):
    assert finding(run(prediction=prediction)).primary == "wrong_answer"


def test_apology_before_another_attempt_is_no_refusal():
    messages = react(
        "I'm sorry, I can't help it, let me retry.\nAction: search[Dune]", "Action: finish[Asimov]"
    )
    assert "refusal" not in finding(run(messages=messages, prediction="Asimov")).kinds


@given(
    success=st.sampled_from([True, False, None]),
    termination=st.sampled_from(TERMINATIONS),
    prediction=st.none() | st.text(max_size=30),
    answer=st.text(max_size=20),
    task=st.sampled_from(["qa", "math", "yes_no"]),
    turns=st.lists(st.text(max_size=40) | st.just("Action: search[x]"), max_size=3),
)
def test_every_failure_has_a_kind_and_every_score_is_a_share(
    success, termination, prediction, answer, task, turns
):
    found = finding(
        run(
            success=success,
            termination=termination,
            prediction=prediction,
            answer=answer,
            task=task,
            messages=react(*turns),
        )
    )
    assert bool(found.primary) == (success is not True)
    assert set(found.kinds) <= {kind.name for kind in KINDS}
    assert found.score is None if success is None else 0 <= found.score <= 1
    assert found.action_errors is None or 0 <= found.action_errors <= 1


def test_action_errors_and_calls_are_counted():
    found = finding(
        run(
            messages=react(
                "Action: search[a]", "no action here", "Action: lookup[b]", "Action: finish[c]"
            )
        )
    )
    assert (found.actions, found.errors, found.action_errors, found.calls, found.turns) == (
        4,
        1,
        0.25,
        2,
        4,
    )


# --- quality score


def test_score_grows_with_how_far_a_run_got():
    loop = run(messages=react("Action: search[x]"), prediction=None, termination="max_steps")
    saw = loop.replace(
        messages=react("Action: search[x]", observation="Dune is a novel by Frank Herbert.")
    )
    near = saw.replace(prediction="Brian Herbert", termination="finished")
    scores = [finding(t).score for t in (loop, saw, near, near.replace(success=True))]
    assert scores == sorted(scores) and len(set(scores)) == 4 and scores[-1] == 1.0


def test_score_is_the_documented_weighted_mean():
    half_seen = run(
        gold_titles=("Dune (novel)", "Arrakis"),
        prediction="Brian Herbert",
        messages=react("Action: search[x]", "?", observation="Page: Dune (novel)"),
    )
    assert finding(half_seen).score == pytest.approx(0.4 * 0.5 + 0.3 * 0.5 + 0.2 * 0.5 + 0.1)


def test_plain_turns_of_a_chat_are_no_actions():
    messages = (
        {"role": "assistant", "content": "Let me think."},
        {"role": "assistant", "content": "It is Asimov."},
    )
    found = finding(run(messages=messages))
    assert (found.actions, found.action_errors, found.turns) == (0, None, 2)


@pytest.mark.parametrize("task", ["yes_no", "qa"])
def test_yes_no_evidence_is_left_out_not_counted_as_zero(task):
    seen = run(
        answer="yes",
        prediction="no",
        task=task,
        messages=react("Action: finish[no]", observation="yes"),
    )
    assert finding(seen).score == pytest.approx((0.2 + 0.1) / 0.7)


def test_number_as_evidence_is_compared_by_value():
    messages = react("Action: calculate[9*2000]", observation="18,000.0")
    found = finding(
        run(
            answer="18000", task="math", prediction=None, termination="max_steps", messages=messages
        )
    )
    assert found.score == pytest.approx(0.3 + 0.2)
