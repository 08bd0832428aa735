"""Scores of reading: the official ones, citations, denominators, and arms compared by question."""

import logging
from dataclasses import replace

import pytest
from benchmark_towns import FAST, QUESTIONS

from negfail_nb.benchmarking.question_run import Answered, Call
from negfail_nb.benchmarking.records import Question
from negfail_nb.benchmarking.scores import compare_arms, reading_scores


def answered(question="q0", arm="oracle", reply="Answer: 1900", **more):
    given = {
        "prediction": reply.rpartition("Answer: ")[2],
        "calls": (Call(reply=reply, prompt_tokens=10),),
        **more,
    }
    return Answered(question_id=question, arm=arm, **given)


def test_scores_are_the_official_ones_best_over_aliases():
    question = Question(
        id="q0",
        question="?",
        answer="no",
        aliases=("the Oslo", "Oslo city"),
        facts=(("A", 0), ("B", 1)),
    )
    rows = [
        answered(reply="Answer: Oslo"),
        answered(arm="retrieve_1", reply="Not known. Answer: city Oslo"),
    ]
    table = reading_scores(rows, [question]).table
    assert (
        table["em"].tolist() == [1, 0]
        and table["f1"].tolist() == [1, 1]
        and table["sub_em"].tolist() == [1, 1]
    )
    assert (
        table["sp_em"].isna().all()
        and table["joint_f1"].isna().all()
        and table["cited"].isna().all()
    )


def test_citations_are_scored_by_passage_and_a_missing_one_is_wrong():
    question = Question(id="q0", question="?", answer="x", facts=(("A", 0), ("A", 3), ("B", 1)))
    given = {"reply": "Answer: x", "cites": True}
    rows = [
        answered(arm="oracle", cited=("B", "A"), **given),
        answered(arm="retrieve_1", cited=("A", "[9]"), **given),
        answered(arm="retrieve_3", cited=None, **given),
    ]
    table = reading_scores(rows, [question]).table
    assert table["sp_em"].tolist() == [1, 0, 0] and table["sp_f1"].tolist() == [1, 0.5, 0]
    assert table["joint_em"].tolist() == [1, 0, 0] and table["cited"].tolist() == [1, 1, 0]


def test_failed_questions_stay_in_the_denominator():
    lost = [
        answered("q1", prediction=None, termination="crashed", reply="1901"),
        answered("q2", prediction=None, termination="too_long", calls=()),
        answered("q3", prediction=None, termination="no_answer", reply="It is 1903."),
    ]
    (row,) = reading_scores([answered(), *lost], QUESTIONS).by(settings=FAST).to_dict("records")
    assert (row["questions"], row["em"], row["f1"], row["parse_failure_rate"]) == (
        4,
        0.25,
        0.25,
        0.25,
    )
    assert row["sub_em"] == 0.5, (
        "what a reply holds counts as in HELMET, though it has not the form"
    )
    assert row["em_low"] <= row["em"] <= row["em_high"] and row["requests"] == 0.75


@pytest.mark.parametrize(
    ("reply", "held"),
    [
        ("Answer: Oslo\nSources: [3], [17]", 0),
        ("Answer: Oslo\n**Sources:**\n3, 17", 0),
        ("Ms A [3] is from Oslo.\nAnswer: Oslo", 0),
        ("Answer: 3 or 4\nSources: [1]", 1),
    ],
)
def test_the_number_of_a_passage_does_not_pass_for_an_answer(reply, held):
    question = replace(QUESTIONS[0], answer="3")
    for cites in (True, False):  # where no citation was asked for, there is none to take out
        table = reading_scores([answered(reply=reply, cites=cites)], [question]).table
        assert table["sub_em"].tolist() == [held if cites else 1]


def test_a_thought_holds_no_answer():
    question = replace(QUESTIONS[0], answer="Norway")
    replies = {
        "<think>Norway?</think>Answer: Sweden": 0,
        "Norway?</think>Answer: Sweden": 0,
        "<think>Norway": 0,
        "<think>x</think>It is Norway.": 1,
    }
    for reply, held in replies.items():
        assert reading_scores([answered(reply=reply)], [question]).table["sub_em"].tolist() == [
            held
        ]


def test_answers_that_were_read_without_the_asked_form_are_counted():
    rows = [answered(plain=True), answered("q1"), answered("q2", arm="closed_book", plain=True)]
    table = reading_scores(rows, QUESTIONS).by(settings=FAST)
    assert table[["arm", "plain_answers"]].values.tolist() == [["oracle", 1], ["closed_book", 1]]


def test_scores_by_type_length_and_depth():
    rows = [
        answered("q0", "long_context", target=t, gold_depths=d)
        for t, d in ((64, (0.1, 0.2)), (128, (0.9, 1.0)))
    ]
    table = reading_scores(rows, QUESTIONS).by("length", "depth_band", settings=FAST)
    assert table[["length", "depth_band"]].values.tolist() == [[64, "0-0.2"], [128, "0.8-1"]]
    with pytest.raises(ValueError, match="no column 'size'"):
        reading_scores(rows, QUESTIONS).by("size")


def test_arms_are_compared_question_by_question(caplog):
    rows = [answered(f"q{n}", "oracle", f"Answer: {1900 + n}") for n in range(7)]
    rows += [
        answered(f"q{n}", "closed_book", f"Answer: {1900 + n if n < 1 else 'x'}") for n in range(8)
    ]
    with caplog.at_level(logging.WARNING, "negfail_nb"):
        table = compare_arms(
            reading_scores(rows, QUESTIONS), "closed_book", settings=FAST
        ).set_index("arm")
    assert "1 questions were asked under one only" in caplog.text
    assert (
        table.loc["oracle", "em_difference"] == pytest.approx(6 / 7)
        and table.loc["oracle", "questions"] == 7
    )
    low, high = table.loc["oracle", ["em_difference_low", "em_difference_high"]]
    assert 0 < low <= 6 / 7 <= high <= 1 and table.loc["oracle", "p"] == pytest.approx(2 / 2**6)
    with pytest.raises(ValueError, match="'agent' is not among the arms"):
        compare_arms(reading_scores(rows, QUESTIONS), "agent")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no answers"),
        ([answered(), answered()], "'oracle/q0' is there twice"),
        ([answered("q99")], "'q99' is not among the questions"),
    ],
)
def test_what_cannot_be_scored(rows, message):
    with pytest.raises(ValueError, match=message):
        reading_scores(rows, QUESTIONS)
    with pytest.raises(ValueError, match="no reference answer"):
        reading_scores([answered()], [replace(QUESTIONS[0], answer="")])
