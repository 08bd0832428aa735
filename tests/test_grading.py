"""Grading: the official HotpotQA rules to the last digit, numbers, yes and no."""

import json
import re
import string
from collections import Counter
from fractions import Fraction

import pytest
from conftest import real_data
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.grading import (
    after_lead_in,
    answer_overlap,
    exact_match,
    grade,
    hotpot_scores,
    judge_free_text,
    normalize_answer,
    parse_yes_no,
    plain_answer,
)
from negfail_nb.numeric import boxed, parse_number

DEV = "hotpotqa/dev_answers_and_supporting_facts_7405.json"


def evaluate_hotpot(gold, answers, facts):
    """The mean of each metric over all questions, as of a file of predictions."""
    totals = Counter()
    for r in gold:
        key = r["_id"]
        totals.update(
            hotpot_scores(answers.get(key), r["answer"], facts.get(key), r["supporting_facts"])
        )
    return {name: total / len(gold) for name, total in totals.items()}


class Official:
    """hotpot_evaluate_v1.py written down again, from its description, in the order of its sums and
    products.
    """

    @staticmethod
    def normalize(s):
        s = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())

    @classmethod
    def f1(cls, prediction, truth):
        prediction, truth, zero = cls.normalize(prediction), cls.normalize(truth), (0, 0, 0)
        if prediction in ("yes", "no", "noanswer") and prediction != truth:
            return zero
        if truth in ("yes", "no", "noanswer") and prediction != truth:
            return zero
        ours, theirs = prediction.split(), truth.split()
        same = sum((Counter(ours) & Counter(theirs)).values())
        if same == 0:
            return zero
        precision, recall = 1.0 * same / len(ours), 1.0 * same / len(theirs)
        return (2 * precision * recall) / (precision + recall), precision, recall

    @staticmethod
    def facts(prediction, gold):
        ours, theirs = set(map(tuple, prediction)), set(map(tuple, gold))
        tp, fp, fn = len(ours & theirs), len(ours - theirs), len(theirs - ours)
        precision = 1.0 * tp / (tp + fp) if tp + fp > 0 else 0.0
        recall = 1.0 * tp / (tp + fn) if tp + fn > 0 else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
        return 1.0 if fp + fn == 0 else 0.0, precision, recall, f1

    @classmethod
    def evaluate(cls, answers, sp, gold):
        kinds, measures = ("", "sp_", "joint_"), ("em", "f1", "prec", "recall")
        names = [f"{kind}{measure}" for kind in kinds for measure in measures]
        metrics = dict.fromkeys(names, 0)
        for record in gold:
            joint = True
            if record["_id"] not in answers:
                joint = False
            else:
                f1, prec, recall = cls.f1(answers[record["_id"]], record["answer"])
                em = cls.normalize(answers[record["_id"]]) == cls.normalize(record["answer"])
                for name, value in (
                    ("em", float(em)),
                    ("f1", f1),
                    ("prec", prec),
                    ("recall", recall),
                ):
                    metrics[name] += value
            if record["_id"] not in sp:
                joint = False
            else:
                sp_em, sp_prec, sp_recall, sp_f1 = cls.facts(
                    sp[record["_id"]], record["supporting_facts"]
                )
                for name, value in (
                    ("sp_em", sp_em),
                    ("sp_f1", sp_f1),
                    ("sp_prec", sp_prec),
                    ("sp_recall", sp_recall),
                ):
                    metrics[name] += value
            if joint:
                p, r = prec * sp_prec, recall * sp_recall
                metrics["joint_f1"] += 2 * p * r / (p + r) if p + r > 0 else 0.0
                metrics["joint_em"] += em * sp_em
                metrics["joint_prec"] += p
                metrics["joint_recall"] += r
        return {name: value / len(gold) for name, value in metrics.items()}


answers = st.lists(
    st.sampled_from(
        [
            "yes",
            "no",
            "noanswer",
            "the",
            "a",
            "an",
            "The",
            "Yes,",
            "-",
            "!!!",
            "well-known",
            "well",
            "known",
            "é",
            "Beyoncé",
            "3,677",
            "seated",
            "\u2013",
            "U.S.",
            "us",
            "I\u0307",
            "\u00df",
            "'s",
            "THE-THE",
        ]
    )
    | st.text(max_size=4),
    max_size=5,
).map(" ".join)
facts = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 2)).map(list), max_size=4)


@pytest.mark.parametrize(
    ("prediction", "reference", "em", "f1"),
    [
        ("Yes, both are American", "yes", 0, 0),
        ("yes", "no", 0, 0),
        ("Yes.", "yes", 1, 1),
        ("no answer", "noanswer", 0, 0),
        ("The The", "!!!", 1, 0),
        ("", "The The", 1, 0),
        ("well-known", "well known", 0, 0),
        ("1990\u20131995", "1990-1995", 0, 0),
        ("Beyonce", "Beyoncé", 0, 0),
        ("3,677 seated", "3,677", 0, 2 / 3),
        ("the late 12th century", "late 12th century", 1, 1),
        ("U.S.", "us", 1, 1),
        ("a b b", "b b c", 0, 0.8),
        ("Atheist", "A theist", 0, 0),
    ],
)
def test_adversarial_pairs(prediction, reference, em, f1):
    scores = hotpot_scores(prediction, reference)
    assert (scores["em"], scores["f1"]) == (em, pytest.approx(f1, abs=0))
    overlap = answer_overlap(prediction, reference)
    assert (exact_match(prediction, reference), overlap.f1) == (bool(em), scores["f1"])


@given(answers, answers)
def test_answers_equal_the_official_script_to_the_last_digit(prediction, reference):
    overlap = answer_overlap(prediction, reference)
    assert (overlap.f1, overlap.precision, overlap.recall) == Official.f1(prediction, reference)
    assert normalize_answer(prediction) == Official.normalize(prediction)


@given(
    st.lists(
        st.tuples(answers, facts, st.none() | answers, st.none() | facts), min_size=1, max_size=4
    )
)
def test_a_prediction_file_equals_the_official_script_to_the_last_digit(rows):
    gold = [
        {"_id": str(i), "answer": row[0], "supporting_facts": row[1]} for i, row in enumerate(rows)
    ]
    ours = {str(i): row[2] for i, row in enumerate(rows) if row[2] is not None}
    sp = {str(i): row[3] for i, row in enumerate(rows) if row[3] is not None}
    assert evaluate_hotpot(gold, ours, sp) == Official.evaluate(ours, sp, gold)


def test_supporting_facts_are_sets_of_exact_pairs():
    def sp(predicted, gold=(("T", 0), ("U", 1))):
        scores = hotpot_scores("x", "x", predicted, gold)
        return scores["sp_em"], scores["sp_f1"], scores["joint_f1"]

    assert sp([["T", 0], ["U", 1], ["U", 1]]) == (1.0, 1.0, 1.0)  # a repeated pair is harmless
    assert sp([["T", "0"], ["U", "1"]]) == (0.0, 0.0, 0.0)  # text is no number
    assert sp([["T", 0.0], ["U", 1]]) == (1.0, 1.0, 1.0)
    assert sp([["t", 0], ["U ", 1]]) == (0.0, 0.0, 0.0)  # titles match byte for byte
    assert sp([]) == (0.0, 0.0, 0.0)
    assert sp(None) == (0.0, 0.0, 0.0)
    assert sp([["T", 0]])[1] == pytest.approx(2 / 3)
    missing = hotpot_scores(None, "x", [("T", 0)], [("T", 0)])
    assert (missing["em"], missing["sp_em"], missing["joint_em"], missing["joint_f1"]) == (
        0.0,
        1.0,
        0.0,
        0.0,
    )
    assert set(hotpot_scores("x", "x")) == {"em", "f1", "prec", "recall"}


def test_missing_predictions_count_as_nothing():
    gold = [{"_id": n, "answer": "x", "supporting_facts": [["T", 0]]} for n in "ab"]
    assert evaluate_hotpot(gold, {"a": "x"}, {"a": [["T", 0]]})["joint_em"] == 0.5
    assert evaluate_hotpot(gold, {"a": "x"}, {})["joint_em"] == 0.0


def test_perfect_answers_on_the_dev_set_miss_two_by_f1():
    rows = json.loads(real_data(DEV).read_text(encoding="utf-8"))
    pairs = [
        list(zip(r["supporting_facts"]["title"], r["supporting_facts"]["sent_id"], strict=True))
        for r in rows
    ]
    gold = [
        {"_id": r["id"], "answer": r["answer"], "supporting_facts": p}
        for r, p in zip(rows, pairs, strict=True)
    ]
    perfect = {r["_id"]: r["answer"] for r in gold}
    scores = evaluate_hotpot(gold, perfect, {r["_id"]: r["supporting_facts"] for r in gold})
    assert (scores["em"], scores["f1"], scores["sp_em"]) == (1.0, 7403 / 7405, 1.0)
    # joint: "The The" and "!!!" have F1 0 with themselves
    assert (scores["joint_em"], scores["joint_f1"]) == (1.0, 7403 / 7405)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("18.0", 18),
        ("$18", 18),
        ("1,000", 1000),
        ("3/4", Fraction(3, 4)),
        ("70,000 dollars", 70_000),
        ("#### 39", 39),
        ("5 + 3 = 8\n#### 1,039", 1039),
        ("1 1/2", Fraction(3, 2)),
        ("50%", 50),
        ("-2", -2),
        ("\u22122", -2),
        ("$-2.50", Fraction(-5, 2)),
        ("-$18", -18),
        ("\u2212\u20ac 1,000.50", Fraction(-2001, 2)),
        ("-$3/4", Fraction(-3, 4)),
        ("3/4 m\u00b2", Fraction(3, 4)),
        ("18 m\u00b2", 18),
        ("\u00b2", None),
        ("2e3", 2000),
        (".5", Fraction(1, 2)),
        ("-1/2", Fraction(-1, 2)),
        ("3/0", None),
        ("2 or 3", None),
        ("none", None),
        ("", None),
        ("1,00", None),
        ("The answer is 42.", 42),
        ("9" * 100, None),
        ("1e4000", None),
        ("18 apples", 18),
        ("007", 7),
        ("E0", 0),
        (r"\boxed{2}", 2),
        (r"so $\boxed{\frac{1}{2}}$, not 3", Fraction(1, 2)),
        (r"\boxed{1{,}000}", 1000),
        (r"\boxed{\text{2 apples}}", 2),
        (r"\boxed{\$18}", 18),
        (r"\boxed{x = 3}", 3),
        (r"\boxed{3} or \boxed{4}", 4),
        (r"\boxed{18 \text{ cm}^2}", 18),
        (r"\boxed{90^\circ}", 90),
        (r"\boxed 7", 7),
        (r"\boxed{}", None),
        (r"\dfrac{3}{4}", Fraction(3, 4)),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        (r"-\frac12", Fraction(-1, 2)),
        (r"2.5 \times 10^{3}", 2500),
        (r"50\%", 50),
        ("**2**", 2),
        (r"\(2\)", 2),
        ("3x^2", None),
    ],
)
def test_numbers(answer, number):
    assert parse_number(answer) == number


@pytest.mark.parametrize(
    "text", ["1" * 200_000, "1 " * 100_000, "1" + " " * 200_000, "1/" * 100_000, "1," * 100_000]
)
def test_degenerate_numbers_of_any_length_are_none_or_one(text):
    # The first took minutes where the pattern tried again at every digit.
    assert parse_number(text) == (1 if text.split() == ["1"] else None)


def test_a_negative_amount_is_not_the_amount():
    assert grade("-$18", "18", "math")["em"] == 0 and grade("-$18", "-18", "math")["em"] == 1


@given(st.integers(-(10**9), 10**9), st.integers(0, 99))
def test_written_numbers_come_back(whole, cents):
    written = f"{whole:,}.{cents:02d}"
    value = Fraction(whole) + (-1 if whole < 0 else 1) * Fraction(cents, 100)
    assert parse_number(f"so ${written} in all") == value == parse_number(written.replace(",", ""))


@given(st.text(max_size=30))
def test_no_text_breaks_the_graders(text):
    for task in ("qa", "math", "yes_no"):
        for strict in (False, True):
            scores = grade(text, text, task, strict)
            assert set(scores) == {"em", "f1"} and all(0 <= v <= 1 for v in scores.values())


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("Yes", True),
        ("no.", False),
        ("True", True),
        ("FALSE", False),
        ("Yes, because", True),
        ("Uncertain", None),
        ("", None),
        ("Nobody", None),
        ("The yes", True),
    ],
)
def test_yes_no(answer, truth):
    assert parse_yes_no(answer) is truth


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "lenient", "strict"),
    [
        ("math", "18", "18", 1, 1),
        ("math", "18.0", "18", 1, 0),
        ("math", "$18", "18", 1, 0),
        ("math", "1000", "1,000", 1, 1),
        ("math", "1,000", "1000", 1, 0),
        ("math", "39", "work\n#### 39", 1, 1),
        ("math", "19", "18", 0, 0),
        ("math", "2 or 18", "18", 0, 0),
        ("yes_no", "yes", "yes", 1, 1),
        ("yes_no", "Yes", "True", 1, 1),
        ("yes_no", "Yes, it is", "yes", 1, 0),
        ("yes_no", "Maybe", "no", 0, 0),
        ("yes_no", "no", "yes", 0, 0),
        ("math", "x", "X", 1, 0),
        ("qa", "The x", "x", 1, 1),
    ],
)
def test_the_strict_switch_is_the_rule_of_the_paper(task, prediction, reference, lenient, strict):
    assert grade(prediction, reference, task) == {"em": lenient, "f1": lenient}
    assert grade(prediction, reference, task, strict=True) == {"em": strict, "f1": strict}


def test_no_answer_scores_nothing_and_an_unknown_task_is_named():
    for task in ("qa", "math", "yes_no"):
        assert grade(None, "5", task) == {"em": 0.0, "f1": 0.0}
    with pytest.raises(ValueError, match="task is 'poem'; use 'qa', 'math' or 'yes_no'"):
        grade("x", "x", "poem")


@pytest.mark.parametrize(
    ("answer", "number"), [("11 - 9 = 2", 2), ("x = 3, so 2x = 6", 6), ("a = 1 or 2", None)]
)
def test_what_stands_before_the_last_equals_sign_is_working(answer, number):
    assert parse_number(answer) == number


@pytest.mark.parametrize(
    ("said", "reference", "task", "prediction", "success"),
    [
        (r"Adding gives $\boxed{2}$.", "2", "qa", "2", True),
        (r"Adding gives $\boxed{3}$, not 2.", "2", "qa", "3", False),
        (r"It is \boxed{\text{Lyon}}.", "Paris", "qa", "Lyon", False),
        (r"\boxed{\frac{1}{2}}", "0.5", "math", "1/2", True),
        ("The capital of France is Paris.", "Paris", "qa", "The capital of France is Paris.", None),
        ("The capital of France is Lyon.", "Paris", "qa", "The capital of France is Lyon.", None),
        ("The answer is Paris. It is in France.", "Paris", "qa", "Paris", True),
        ("The answer is Paris, France.", "Paris", "qa", "Paris, France", None),
        ("Paris.", "Paris", "qa", "Paris.", True),
        ("I have 2 apples", "2 apples", "qa", "2", True),
        ("So it is $1,000.", "1000", "qa", "1,000", True),
        ("work\n#### 39", "39", "math", "39", True),
        ("The answer is **3**.", "2", "qa", "3", False),
        ("She has 3 boxes of 6, so 18 in all.", "18", "math", "18", True),
        ("She has 3 boxes of 6, so 19 in all.", "18", "math", "19", False),
        ("That is 18, which is 3 times 6.", "18", "math", "That is 18, which is 3 times 6.", None),
        (
            "There are two. I looked at 3 pages.",
            "2",
            "qa",
            "There are two. I looked at 3 pages.",
            None,
        ),
        ("He was born on May 3, 1987.", "1987", "qa", "1987", True),
        ("I do not know.", "18", "math", "I do not know.", None),
        ("Yes, they are.", "yes", "yes_no", "Yes, they are.", True),
        ("It is so. The answer is no.", "yes", "yes_no", "no", False),
        ("I cannot say.", "yes", "yes_no", "I cannot say.", None),
        ("<think>the answer is 2", "2", "qa", None, None),
        ("<think>The answer is 3.</think>The answer is 2.", "2", "qa", "2", True),
        ("", "2", "qa", None, None),
    ],
)
def test_free_text_is_right_wrong_or_unknown(said, reference, task, prediction, success):
    judged = judge_free_text(said, reference, task)
    assert (judged.prediction, judged.success) == (prediction, success)
    assert dict(judged.scores) == (
        {} if success is None else {"em": float(success), "f1": float(success)}
    )


@given(
    st.text(max_size=60),
    st.sampled_from(["Paris", "2", "1/2", "yes", r"\frac{1}{2}"]),
    st.sampled_from(["qa", "math", "yes_no"]),
)
def test_any_free_text_is_judged_and_words_are_never_a_failure(said, reference, task):
    judged = judge_free_text(said, reference, task)
    assert bool(judged.scores) == (judged.success is not None)
    if task == "qa" and not any(c.isdecimal() for c in reference) and "boxed" not in said:
        assert judged.success is not False


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("x-1", "x+1", 0),
        ("(1,2]", "[1,2]", 0),
        ("x + 1", "x+1", 1),
        (r"\boxed{x+1}", "$x + 1$", 1),
        (r"\left( 1, 2 \right)", "(1,2)", 1),
        ("x^2", "x", 0),
        ("north", "North", 1),
    ],
)
def test_each_sign_of_a_formula_counts(ours, theirs, same):
    assert grade(ours, theirs, "math")["em"] == same


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Name Surname [3]", "Name Surname"),
        ("Yes, the answer is yes.", "yes"),
        ("The answer to the question is: Oslo", "Oslo"),
        ('The answer to the question "Who is he?" is John Smith [3], [4].', "John Smith"),
        ("The answer is:\n\n**Oslo**\n", "Oslo"),
        ("The answer is Rome. No, the final answer is Oslo", "Oslo"),
        ("Based on [1] and [2], the answer is Oslo (passage [3]).", "Oslo"),
        ("My answer would be J. R. R. Tolkien. He wrote it.", "J. R. R. Tolkien"),
        ("Final answer: U.S. Army", "U.S. Army"),
        ("\n\n**Oslo**\nIt is a city.", "Oslo"),
        ("Oslo lies in Norway.\nIt is old.", "Oslo lies in Norway"),
        ("No, it was built later.", "No"),
        ("No Country for Old Men", "No Country for Old Men"),
        ("I can answer that he is old.", "I can answer that he is old"),
        ("The answer is", None),
        ("Answer:\n\n", None),
        (" \n[3]\n", None),
        ("", None),
        ("The answer to the question is: [3]", None),  # a passage, and no answer
        ("<answer>Oslo</answer>", "Oslo"),
        ("So it is Oslo.\n<answer> Oslo [3] </answer>", "Oslo"),
        (r"So it is $\boxed{\text{Oslo}}$.", "Oslo"),
        (r"<answer>\boxed{Oslo}</answer>", "Oslo"),
        ('```json\n{"answer": "Oslo", "sources": [1]}\n```', "Oslo"),
        ('{"Answer": 3}', "3"),
        ("Oslo</s>", "Oslo"),
        ("Oslo<|eot_id|>", "Oslo"),
        ("It writes {x} for Oslo", "It writes {x} for Oslo"),
        ('{"city": "Oslo"}', '{"city": "Oslo"}'),
    ],
)
def test_a_plain_answer_is_read_as_a_reader_would(reply, answer):
    assert plain_answer(reply) == answer


@pytest.mark.parametrize(
    ("said", "reference", "task", "success"),
    [
        ("<answer>Oslo</answer>", "Oslo", "qa", True),
        ("<answer>The answer is Oslo.</answer>", "Oslo", "qa", True),
        ("Oslo is near.\n<answer>Bergen</answer>", "Oslo", "qa", None),
        ('{"answer": "Oslo"}', "Oslo", "qa", True),
        (r"<answer>\boxed{4}</answer>", "4", "math", True),
        (r"4 or 5? $\boxed{5}$", "4", "math", False),
        ("<answer>4</answer> not 5", "4", "math", True),
        ("<answer>no</answer>", "yes", "yes_no", False),
        ("Oslo<|im_end|>", "Oslo", "qa", True),
    ],
)
def test_an_answer_that_is_set_apart_is_judged_alone(said, reference, task, success):
    assert judge_free_text(said, reference, task).success is success


@given(st.text(max_size=80))
def test_a_plain_answer_stands_in_the_reply(reply):
    answer = plain_answer(reply)
    lead = after_lead_in(reply)
    assert answer is None or "".join(answer.split()) in "".join(reply.split())
    assert lead is None or "answer" in reply.lower() or "response" in reply.lower()


@pytest.mark.parametrize(
    "text",
    [
        "answer to the question " * 4_000,
        "the answer is " * 30_000,
        "[1]" * 100_000,
        "a. B" * 50_000,
    ],
)
def test_degenerate_free_text_comes_back(text):
    assert judge_free_text(text, "Paris").success is None
    assert boxed(r"\boxed{" * 20_000) is None
