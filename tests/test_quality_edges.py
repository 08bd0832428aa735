"""02 quality: what makes two questions or two tasks one, labels that answers contradict, kinds at
the edges.
"""

import json
from dataclasses import replace

import pytest
from conftest import real_data
from quality_runs import SETTINGS, finding, react, removed_by, run, runs

from negfail_nb.duplicates import question_key
from negfail_nb.quality import assess
from negfail_nb.quality.filters import read_questions
from negfail_nb.trajectory import Trajectory

# --- questions that differ in a symbol only, and tasks that differ in their answer only


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("What is 2 + 2?", "What is 2 * 2?"),
        ("What is 7 - 2?", "What is 2 - 7?"),
        ("What is (2 + 3) * 4?", "What is 2 + (3 * 4)?"),
        ("Solve x^2 = 4 for x.", "Solve x*2 = 4 for x."),
        ("What is speed * time?", "What is speed + time?"),
        ("What is the absolute value of -5?", "What is the absolute value of 5?"),
        ("What is 50% of 30?", "What is 50 of 30?"),
        ("What is 3.5 of 2?", "What is 2.5 of 3?"),
        ("Who invented C++?", "Who invented C#?"),
        ("Who invented C++?", "Who invented C?"),
    ],
)
def test_a_symbol_makes_another_question(tmp_path, ours, theirs):
    assert question_key(ours) != question_key(theirs)
    logs = [run("ours", question=ours), run("theirs", question=theirs)]
    assert removed_by(assess(logs), "exact_duplicate") == []
    (tmp_path / "e.jsonl").write_text(json.dumps({"question": ours}))
    report = assess([*logs, *runs()], replace(SETTINGS, evaluation=(str(tmp_path / "e.jsonl"),)))
    assert removed_by(report, "leakage") == ["ours"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("What is 2+2?", "what is 2 + 2 = ?"),
        ("What is 7 \u2212 2?", "What is 7-2?"),
        ("Who led it in 1981\u20132001?", "Who led it in 1981-2001"),
        ("Who wrote *Dune* (see 3 + 4)?", "Who wrote Dune see 3 + 4!"),
        (
            "Is a well-known dish - pho - from Hanoi and/or Hue?",
            "Is a well known dish, pho, from Hanoi and or Hue?",
        ),
        ("Who sang with Jay-Z in COVID-19 times?", "Who sang with Jay Z in COVID 19 times?"),
    ],
)
def test_punctuation_makes_no_other_question(ours, theirs):
    assert question_key(ours) == question_key(theirs)


@pytest.mark.parametrize(
    "text", ["1" * 50_000, "(" * 50_000, "1 + " * 20_000, "x(" * 20_000, "1=" + "=" * 50_000]
)
def test_odd_questions_keep_their_characters_and_end(text):
    """These took minutes under a pattern that backtracks; the suite would hang, and no time is
    asserted.
    """
    assert set(question_key(text)) <= {*text, " "}


def task(id: str, answer: str, question_id: str = "q", **fields) -> Trajectory:
    messages = react("Action: edit[x]", "Action: finish[done]")
    return run(
        id,
        question="Fix the failing test.",
        question_id=question_id,
        answer=answer,
        messages=messages,
        prediction="done",
        **fields,
    )


def test_one_prompt_with_two_reference_answers_is_two_tasks():
    logs = [
        task("a", "patch of repo-a", "repo-a"),
        task("b", "patch of repo-b", "repo-b"),
        task("none", ""),
    ]
    assert len(assess(logs, replace(SETTINGS, cap_question=1)).kept) == 3
    near = [replace_words(t) for t in logs]
    assert removed_by(
        assess([*logs, *near], replace(SETTINGS, near_duplicate=0.3)), "near_duplicate"
    ) == ["a2", "b2", "none2"]
    assert {t.split for t in assess([*logs, *runs()]).kept if "Fix" in t.question} in (
        {"train"},
        {"heldout"},
    )


def replace_words(t: Trajectory) -> Trajectory:
    return t.replace(id=f"{t.id}2", messages=react("Action: edit[x]", "Action: finish[done] it"))


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (("The Saturdays", "saturdays"), "qa"),
        (("1,000", "$1000.0"), "math"),
        (("Yes.", "true"), "yes_no"),
    ],
)
def test_answers_that_agree_up_to_normalisation_are_one_task(answers, kind):
    logs = [
        task("a", answers[0], task=kind),
        task("b", answers[1], "other log", task=kind),
        task("c", "", task=kind),
    ]
    assert removed_by(assess(logs), "exact_duplicate") == ["b", "c"]


# --- labels


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("0.5", "50%"),
        ("$1.5 million", "1,500,000"),
        ("70 thousand", "70000"),
        ("18.67", "56/3"),
        ("1940s", "1945"),
        ("Edward VII in 1901", "Edward 7"),
        ("56/3", "18.67"),
        ("18.6667", "18.67"),
        ("120 minutes", "2"),
        ("19", "56/3"),
        ("3 = 3", "4"),
        ("38", "$40"),
    ],
)
def test_a_success_whose_number_may_differ_by_form_is_kept(prediction, answer):
    logs = [run("a", True, prediction=prediction, answer=answer, scores={"em": 0.0}), *runs()]
    assert removed_by(assess(logs), "mislabelled") == []


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("1e999", "5"),
        ("18.66", "56/3"),
        ("85.2", "85"),
        ("$38.", "40"),
        ("1,080", "1110"),
        ("\u22123", "3"),
        ("2 1/2", "2"),
    ],
)
def test_a_success_with_another_number_is_dropped(prediction, answer):
    logs = [run("a", True, prediction=prediction, answer=answer, scores={"em": 0.0}), *runs()]
    assert removed_by(assess(logs), "mislabelled") == ["a"]


def test_mints_close_numbers_are_dropped():
    from negfail_nb.logs import load_trajectories
    from negfail_nb.quality.answers import contradiction

    solved = [
        t for t in load_trajectories(real_data("trajectories/mint")).trajectories if t.success
    ]
    assert sum(bool(contradiction(t)) for t in solved) == 75


# --- evaluation files, kinds, and what to train on


@pytest.mark.parametrize("character", ["\u2028", "\u0085"])
def test_a_line_of_json_ends_at_a_line_feed_only(tmp_path, character):
    path = tmp_path / "e.jsonl"
    text = json.dumps({"question": f"one{character}two"}, ensure_ascii=False)
    path.write_text(f"{text}\r\n{text}\n", encoding="utf-8", newline="")
    assert len(read_questions([str(path)])) == 2


@pytest.mark.parametrize("f1", [0.0, 1.0, 1.5, float("nan")])
def test_a_failure_without_a_reference_has_a_kind(f1):
    assert finding(run(answer="", scores={"f1": f1})).kinds == ("wrong_answer",)


@pytest.mark.parametrize(
    ("prediction", "answer", "kind"),
    [
        ("They are the same, so yes", "yes", "wrong_form"),
        ("Both are French; the answer is no.", "no", "wrong_form"),
        ("They are the same, so yes", "no", "wrong_answer"),
        ("It could be yes or no", "no", "wrong_answer"),
        ("The answer is not yes", "yes", "wrong_answer"),
        ("Yes, they are; why no", "no", "wrong_answer"),
    ],
)
def test_a_verdict_may_come_last(prediction, answer, kind):
    assert finding(run(prediction=prediction, answer=answer, task="yes_no")).primary == kind


def test_a_crash_before_the_first_turn_is_a_crash_only():
    messages = ({"role": "user", "content": "Question"},)
    crashed = run(messages=messages, prediction=None, termination="crashed", error="TimeoutError")
    assert finding(crashed).kinds == ("crashed",)


def test_train_is_what_is_kept_and_not_held_out_and_heldout_its_successes():
    report = assess(runs(40, questions=8))
    held = tuple(t for t in report.kept if t.split == "heldout")
    assert report.train == tuple(t for t in report.kept if t not in held)
    assert report.heldout == tuple(t for t in held if t.success) and 0 < len(report.heldout)
    assert {t.split for t in report.train} == {"train"}
    unsplit = replace(report, kept=tuple(t.replace(split="") for t in report.kept))
    assert unsplit.train == unsplit.kept and unsplit.heldout == ()
