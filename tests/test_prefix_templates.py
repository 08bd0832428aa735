"""Label templates: the paper's strings, classes, a user's own file, NAT-k."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.prefix.templates import (
    Template,
    find_template,
    instruction_turns,
    load_templates,
    nat_k,
)
from negfail_nb.trajectory import Trajectory

Q = "Who wrote {it}?"


def run(success=None, task="qa", **scores):
    return Trajectory(
        id="run 7", question_id="q", question=Q, task=task, success=success, scores=scores
    )


# What stands here is copied from the description of the original repository, not from the package's
# file.
BINARY = {
    "prefix-correct": ("[Correct] Question: {q}.", "[Incorrect] Question: {q}."),
    "prefix-good": ("[Good] Question: {q}.", "[Bad] Question: {q}."),
    "good": ("Question: {q}. [Good]", "Question: {q}. [Bad]"),
    "prefix-AB": ("[A] Question: {q}.", "[B] Question: {q}."),
    "prefix-meaningless": ("[1] Question: {q}.", "[2] Question: {q}."),
    "prefix-laptop": ("[Laptop] Question: {q}.", "[Screen] Question: {q}."),
    "prefix-correct-inverse": ("[Incorrect] Question: {q}.", "[Correct] Question: {q}."),
    "random-sentence": (
        "Question: {q}. 15th-century Italy saw the formation of the two main variants that are "
        "known today.",
        "Question: {q}. An apple is a round, edible fruit produced by an apple tree.",
    ),
    "cot-target-aware": (
        "Question: {q}. Please solve the problem correctly.",
        "Question: {q}. Generate steps that incorrectly solve the problem.",
    ),
}
RIGHT = "Question: {q}. Generate a sequence of Thought and Action steps to solve the "
WRONG = "Question: {q}. Generate a sequence of Thought and Action steps. But "
QA = (RIGHT + "question **correctly**.", WRONG + "**incorrectly** solve the question.")
MATH = (RIGHT + "problem correctly.", WRONG + "incorrectly solve the problem.")


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("task", ["qa", "math", "yes_no"])
def test_labels_of_two_classes_are_the_repositorys_strings(name, task):
    template = find_template(name)
    for success, text in zip((True, False), BINARY[name], strict=True):
        label = template.classify(run(success, task))
        assert template.text(Q, task, label) == text.replace("{q}", Q)


def test_target_aware_words_follow_the_task():
    template = find_template("target-aware")
    for task, (right, wrong) in {"qa": QA, "yes_no": QA, "math": MATH}.items():
        assert template.text(Q, task, 0) == template.inference(Q, task) == right.replace("{q}", Q)
        assert template.text(Q, task, 1) == wrong.replace("{q}", Q)


def test_second_target_aware_swaps_the_asterisks():
    template = find_template("target-aware-2")
    assert [template.text(Q, "math", i) for i in (0, 1)] == [
        (RIGHT + "problem **correctly**.").replace("{q}", Q),
        (WRONG + "**incorrectly** solve the problem.").replace("{q}", Q),
    ]
    assert [template.text(Q, "qa", i) for i in (0, 1)] == [
        (RIGHT + "question correctly.").replace("{q}", Q),
        (WRONG + "incorrectly solve the question.").replace("{q}", Q),
    ]


def test_inverse_gives_successes_and_inference_the_word_incorrect():
    template = find_template("inverse")
    assert template.text(Q, "qa", template.classify(run(True))) == QA[1].replace("{q}", Q)
    assert template.text(Q, "qa", template.classify(run(False))) == QA[0].replace("{q}", Q)
    assert template.inference(Q, "qa") == QA[1].replace("{q}", Q)
    assert (
        find_template("prefix-correct-inverse").inference(Q, "qa") == f"[Incorrect] Question: {Q}."
    )


def test_no_label_means_no_full_stop_and_one_class():
    template = find_template("none")
    assert template.text(Q, "qa", template.classify(run(None))) == f"Question: {Q}"
    assert template.classify(run(False)) == template.classify(run(True)) == 0


@pytest.mark.parametrize(
    ("name", "f1", "text"),
    [
        ("soft", 0.21, QA[0]),
        ("soft", 0.2, QA[1]),
        ("three-class", 1.0, "[Correct] Question: {q}."),
        ("three-class", 0.99, "[Partially Correct] Question: {q}."),
        ("three-class", 0.0, "[Incorrect] Question: {q}."),
        ("four-class", 1.0, "[Correct] Question: {q}."),
        ("four-class", 0.4, "[Mostly Correct] Question: {q}."),
        ("four-class", 0.39, "[Mostly Incorrect] Question: {q}."),
        ("four-class", 0.0, "[Totally Incorrect] Question: {q}."),
    ],
)
def test_classes_by_f1_have_the_repositorys_borders(name, f1, text):
    template = find_template(name)
    assert template.text(Q, "qa", template.classify(run(False, f1=f1))) == text.replace("{q}", Q)


def test_a_solved_problem_without_f1_counts_as_one():
    template = find_template("four-class")
    assert template.classify(run(True, "math")) == 0
    assert template.classify(run(True, f1=0.5)) == 1, "where there is an f1, it decides"


def test_missing_score_is_named():
    with pytest.raises(
        ValueError,
        match=r"'run 7'.*'three-class' needs the score 'f1'; it has em and success False",
    ):
        find_template("three-class").classify(run(False, em=0.0))
    with pytest.raises(ValueError, match="needs the score 'quality'; it has none and success True"):
        nat_k([0.5], "quality").classify(run(True))
    with pytest.raises(ValueError, match="needs the score 'success'"):
        find_template("target-aware").classify(run(None))


def test_instruction_turns_are_the_papers():
    user, assistant = instruction_turns(find_template("none"), "math")
    assert assistant == {
        "role": "assistant",
        "content": "I've understood your instruction, start please.",
    }
    assert user["content"] == (
        "Solve a math problem with interleaving Thought, Action, Observation steps. Thought can "
        "reason about the current situation, and Action can be two types:\n"
        "(1) calculate[expression], which calculates the expression and returns the answer."
        "\n(2) finish[answer], which returns the answer and finishes the task."
    )
    assert instruction_turns(find_template("none"), "yes_no")[0]["content"].endswith(
        "answer Yes or No."
    )
    labelled, plain = (
        instruction_turns(find_template(n), "qa")[0]["content"] for n in ("target-aware", "none")
    )
    assert labelled.startswith(plain) and labelled.endswith(
        "You need to follow the instruction strictly."
    )


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6, unique=True), st.floats(0, 1))
def test_nat_k_puts_a_score_between_its_edges(edges, value):
    edges = sorted(edges)
    template = nat_k(edges, "quality")
    assert len(template.classes) == len(edges) + 1
    label = template.classify(run(False, quality=value))
    assert len(edges) - label == sum(value >= edge for edge in edges)
    assert (
        template.text(Q, "qa", label) == f"[Class {label + 1} of {len(edges) + 1}] Question: {Q}."
    )


@pytest.mark.parametrize("edges", [(), (0.5, 0.5), (0.7, 0.3), (0.0,), (0.5, 1.1), (float("nan"),)])
def test_nat_k_refuses_edges_that_are_no_edges(edges):
    with pytest.raises(ValueError, match=re.escape("use ascending numbers above 0 and at most 1")):
        nat_k(edges)


OWN = """
[templates.graded]
classes = [
  { name = "good", score = "quality", at_least = 0.5, \
text = { default = "G: {question}", math = "Sum: {question}" } },
  { name = "bad", text = { default = "Bad one: {question}" } },
]
"""


def test_own_file_stands_beside_the_packages(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    templates = load_templates(file)
    assert {"graded", "target-aware"} <= set(templates)
    graded = templates["graded"]
    assert isinstance(graded, Template) and graded.scores == ("quality",)
    assert graded.text(Q, "math", 0) == f"Sum: {Q}" and graded.text(Q, "qa", 0) == f"G: {Q}"
    assert find_template("graded", file) == graded
    assert "graded" not in load_templates(), "a file of one call is not there in the next"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not toml", "not a TOML file"),
        ("x = 1", r"has no \[templates.NAME\] table"),
        (OWN.replace("graded", "good"), "template 'good' is one of the package's"),
        (
            OWN.replace("at_least", "atleast"),
            r"template 'graded': classes\[0\]: unknown field 'atleast'",
        ),
        (
            OWN.replace("at_least = 0.5", "at_least = '1'"),
            r"classes\[0\]: at_least is '1'; use a number",
        ),
        (
            OWN.replace("at_least = 0.5, ", ""),
            r"classes\[0\]: score: a condition names a score and one of",
        ),
        (
            OWN.replace('name = "bad"', 'name = "bad", score = "f1"'),
            r"classes\[1\]: the last class takes the rest",
        ),
        (
            OWN.replace("Bad one: {question}", "Bad one"),
            r"classes\[1\]: text.default has no {question}",
        ),
        (
            OWN.replace('default = "Bad one: {question}"', 'qa = "{question}"'),
            r"classes\[1\]: text has no default",
        ),
        (OWN.replace("math =", "maths ="), r"classes\[0\]: text: unknown field 'maths'"),
        (OWN.replace('name = "bad"', "name = 3"), r"classes\[1\]: name is 3"),
        ("[templates.graded]\nclasses = []", "classes is \\[\\]; use a list of classes"),
    ],
)
def test_errors_name_file_template_and_field(tmp_path, text, message):
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_templates(file)
    assert str(file) in str(caught.value)


def test_absent_file_and_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="absent.toml: cannot be read"):
        load_templates(tmp_path / "absent.toml")
    with pytest.raises(
        ValueError, match="no label template 'nope'; there are none, cot, target-aware"
    ):
        find_template("nope")
