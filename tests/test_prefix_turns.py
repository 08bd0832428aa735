"""From a trajectory to turns: instruction, label, what is cut, what carries no loss, what gives no
example.
"""

import pytest
from chat_tokenizers import tokenizer
from prefix_runs import BARE, INSTRUCTED, QUESTION, decoded, run, trained

from negfail_nb.prefix import check_mask, nat_k, render
from negfail_nb.settings import PrefixSettings


def test_instruction_turns_come_first_and_carry_no_loss():
    made = tokenizer("byte-level", "llama3")
    text = decoded(render([run(task="math")], "target-aware", made, INSTRUCTED))
    assert (
        text.index("Solve a math problem")
        < text.index("start please.<|eot_id|>")
        < text.index("Question: What")
    )
    assert "start please" not in "".join(trained(render([run()], "target-aware", made, INSTRUCTED)))
    assert "start please" not in decoded(render([run()], "target-aware", made, BARE))


@pytest.mark.parametrize(
    "before",
    [
        ({"role": "system", "content": "Use tools."},),
        (
            {"role": "user", "content": "Use tools."},
            {"role": "assistant", "content": "Understood."},
        ),
    ],
)
def test_a_record_with_its_own_instruction_keeps_it(before):
    turns = (*before, {"role": "user", "content": QUESTION}, {"role": "assistant", "content": "4"})
    rendered = render(
        [run(*turns)], "prefix-correct", tokenizer("byte-level", "llama3"), INSTRUCTED
    )
    assert "start please" not in decoded(rendered) and "Use tools." in decoded(rendered)
    assert f"[Correct] Question: {QUESTION}.<|eot_id|>" in decoded(rendered)
    assert trained(rendered) == ["4<|eot_id|>"], "an answer before the question is no answer to it"


@pytest.mark.parametrize(
    ("turn", "rendered_turn"),
    [
        (f"  {QUESTION}\n", f"[Good] Question: {QUESTION}."),
        (f"Question: {QUESTION}", f"[Good] Question: {QUESTION}."),
        (
            f"Examples: {QUESTION} 4\n\nQuestion: {QUESTION}\n",
            f"Examples: {QUESTION} 4\n[Good] Question: {QUESTION}.",
        ),
        (" Add two and two. \n", "[Good] Question: Add two and two.."),
    ],
)
def test_label_goes_around_the_question_in_its_turn(turn, rendered_turn):
    rendered = render([run(turn, "4")], "prefix-good", tokenizer("byte-level", "llama3"), BARE)
    assert f"user<|end_header_id|>\n\n{rendered_turn}<|eot_id|>" in decoded(rendered)


def test_turns_behind_the_last_answer_are_dropped():
    made = tokenizer("byte-level", "llama3")
    longer = render([run(QUESTION, "finish[4]", "Observation: Episode finished")], "none", made)
    assert (
        longer[0].input_ids.tolist()
        == render([run(QUESTION, "finish[4]")], "none", made)[0].input_ids.tolist()
    )


def test_failures_get_their_label_and_inference_gets_the_best_one():
    made = tokenizer("byte-level", "llama3")
    runs = [run(id="a"), run(id="b", success=False)]
    labels = [e.label for e in render(runs, "prefix-good", made).examples]
    assert labels == [f"[Good] Question: {QUESTION}.", f"[Bad] Question: {QUESTION}."]
    at_inference = render(runs, "prefix-good", made, inference=True)
    assert {e.label for e in at_inference.examples} == {
        f"[Good] Question: {QUESTION}."
    } and at_inference.inference
    swapped = render(runs, "prefix-correct-inverse", made, inference=True)
    assert {e.label for e in swapped.examples} == {f"[Incorrect] Question: {QUESTION}."}
    graded = render([run(scores={"quality": 0.5})], nat_k([0.4, 0.8], "quality"), made)
    assert graded.table()["class"].tolist() == ["2 of 3"]


@pytest.mark.parametrize("success", [True, False])
def test_one_question_no_success_or_no_failure(success):
    rendered = render([run(success=success)], "target-aware", tokenizer("byte-level", "llama3"))
    assert rendered.table()["class"].tolist() == ["correct" if success else "incorrect"]
    assert len(rendered.dataset()) == 1


def test_nothing_to_render_is_an_empty_table():
    rendered = render([], "target-aware", tokenizer("byte-level", "llama3"))
    assert len(rendered) == 0 and rendered.dataset().column_names == [
        "input_ids",
        "labels",
        "id",
        "question_id",
    ]
    assert rendered.table().empty


def test_what_gives_no_example_is_counted_with_its_reason():
    made = tokenizer("byte-level", "llama3")
    image = {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}
    runs = [
        run(QUESTION, id="silent"),
        run(id="unknown", success=None),
        run({"role": "assistant", "content": "4"}, id="unasked"),
        run(image, "4", id="seen"),
        run(QUESTION, "4 " * 3000, id="long"),
        run(id="fine"),
    ]
    rendered = render(runs, "target-aware", made)
    assert [e.id for e in rendered.examples] == ["fine"]
    reasons = {problem.record: problem.reason for problem in rendered.skipped}
    assert reasons.pop("silent") == "no assistant message"
    assert "is unknown" in reasons.pop("unknown") and "no user turn" in reasons.pop("unasked")
    assert "message 0: its content is not text" in reasons.pop("seen")
    assert "no whole assistant turn fits in 2048 tokens; it has" in reasons.pop("long")
    assert not reasons
    assert len(render(runs[1:2], "none", made)) == 1, "without a label nobody needs to know"


def test_truncation_is_at_a_turn_border_and_recorded():
    made = tokenizer("byte-level", "llama3")
    turns = [QUESTION, *[f"step {i}: " + "word " * 20 for i in range(12)]]
    whole = render([run(*turns)], "none", made, BARE)
    cut = render(
        [run(*turns)], "none", made, PrefixSettings(max_tokens=len(whole[0].input_ids) // 2)
    )
    ids = cut[0].input_ids.tolist()
    assert ids == whole[0].input_ids.tolist()[: len(ids)] and ids[-1] == made.convert_tokens_to_ids(
        "<|eot_id|>"
    )
    assert cut[0].trained[-1] and not check_mask(cut, 0)
    assert cut[0].truncated_turns == len(trained(whole)) - len(trained(cut)) > 0
    assert whole[0].truncated_turns == 0
    exact = PrefixSettings(max_tokens=len(ids))
    assert len(render([run(*turns)], "none", made, exact)[0].input_ids) == len(ids)


def test_erroneous_turns_stay_in_the_context_without_loss():
    made = tokenizer("byte-level", "llama3")
    turns = (
        QUESTION,
        "Thought: hm\nAction: calculate[2 +]",
        "Observation: Error: invalid syntax",
        "Action: finish[4]",
    )
    rendered = render([run(*turns)], "none", made, PrefixSettings(train_on_errors=False))
    assert trained(rendered) == ["Action: finish[4]<|eot_id|>"] and "calculate[2 +]" in decoded(
        rendered
    )
    assert len(trained(render([run(*turns)], "none", made))) == 2
    only = render([run(*turns[:3])], "none", made, PrefixSettings(train_on_errors=False))
    assert "no trainable tokens" in only.skipped[0].reason
