"""Private thoughts and turns without loss: what is shown, what is trained, and what a template
leaves out.
"""

import json
import re
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from chat_tokenizers import TEMPLATES, tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefix_runs import BARE, CALL, QUESTION, RESULT, TOOL, contents, decoded, run, trained

from negfail_nb.agents.local import LocalModel
from negfail_nb.prefix import check_mask, export, render
from negfail_nb.prefix.chat import open_chat
from negfail_nb.settings import PrefixSettings

PLACE = ("llama-3", "chatml", "react-plain", "magistral")  # these show the thought of every turn
NO_PLACE = ("llama3_1", "qwen2_5", "gemma", "phi3", "llama-2", "mistral", "qwen3_8")
EMPTY = "<think>\n\n</think>\n\n"


def assistant(content, thought="", **fields):
    return {
        "role": "assistant",
        "content": content,
        **({"reasoning_content": thought} if thought else {}),
        **fields,
    }


def made(name, family="byte-level"):
    """A tokenizer with a template, TRL's, the package's, or of the tests, that knows its control
    tokens.
    """
    from chat_tokenizers import TEMPLATES, chat_template

    made = tokenizer(family, name if name in TEMPLATES else "")
    made.chat_template = chat_template(name)
    if name == "qwen3_8":
        made.eos_token = "<|im_end|>"
    return made


def thinking(*, id="run"):
    first, last = (
        assistant("Action: search[x]", "I must search."),
        assistant("Action: finish[4]", "Now I know."),
    )
    return run(QUESTION, first, "Observation: 4", last, id=id)


def setting(thoughts, **fields):
    return PrefixSettings(thoughts=thoughts, **fields)


def said(rendered, index=0):
    return [text.removesuffix(rendered.end_token).strip() for text in trained(rendered, index)]


# Where a thought goes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TEMPLATES, "qwen3_8", "magistral"])
def test_by_default_thoughts_are_nowhere_and_counted(name):
    rendered = render([thinking(), run(id="plain")], "none", made(name))
    assert said(rendered) == ["Action: search[x]", "Action: finish[4]"] and not check_mask(
        rendered, 0
    )
    assert "must search" not in decoded(rendered) and "I know" not in decoded(rendered)
    assert (rendered[0].unshown, rendered[1].unshown) == (2, 0)
    assert "2 turns of 1 examples had a thought, which is left out" in repr(rendered)


@pytest.mark.parametrize("name", PLACE)
def test_history_shows_thoughts_and_loss_trains_them(name):
    shown = render([thinking()], "none", made(name), setting("history"))
    learnt = render([thinking()], "none", made(name), setting("loss"))
    assert decoded(shown) == decoded(learnt) and "I must search." in decoded(shown)
    assert said(shown) == ["Action: search[x]", "Action: finish[4]"]
    assert [
        re.sub(r"\s*[<\[]/?(?i:think)[>\]]\s*", "|", text).strip("|") for text in said(learnt)
    ] == ["I must search.|Action: search[x]", "Now I know.|Action: finish[4]"]
    assert not check_mask(shown, 0) and not check_mask(learnt, 0)
    assert learnt[0].thoughts == ("I must search.", "Now I know.") and not learnt[0].unshown


@pytest.mark.parametrize("thoughts", ["history", "loss"])
@pytest.mark.parametrize("name", NO_PLACE)
def test_a_template_without_a_place_for_thoughts_skips_the_run_and_says_what_to_do(name, thoughts):
    own = made(name)
    rendered = render([thinking(), run(id="plain")], "none", own, setting(thoughts))
    assert [e.id for e in rendered.examples] == ["plain"]
    (reason,) = rendered.skip_reasons()
    assert "leaves out its thought" in reason and reason.endswith('or prefix.thoughts="neither"')
    advised = reason.split('"')[1]
    helped = render([thinking()], "none", own, setting(thoughts, chat_template=advised))
    assert len(helped) == 1 and "I must search." in decoded(helped)


def test_qwen_3_shows_thoughts_behind_the_last_user_turn_only():
    own = made("qwen3")
    rendered = render([thinking(), run(id="plain")], "none", own, setting("loss"))
    assert rendered.skip_reasons() == {
        "message (assistant): the chat template of 'TokenizersBackend' leaves out its thought; set "
        'prefix.chat_template="chatml", or prefix.thoughts="neither"': 1
    }
    called = run(
        QUESTION,
        {**CALL, "reasoning_content": "Look."},
        RESULT,
        assistant("1924", "Read."),
        tools=(TOOL,),
    )
    learnt = render([called], "none", own, setting("loss"))
    first, last = said(learnt)
    assert (
        first.startswith("<think>\nLook.\n</think>") and last == "<think>\nRead.\n</think>\n\n1924"
    )
    assert not check_mask(learnt, 0)
    shown = render([called], "none", own, setting("history"))
    assert (
        said(shown)[1] == "1924"
        and said(shown)[0].startswith("<tool_call>")
        and not check_mask(shown, 0)
    )


def test_a_thought_within_the_content_is_a_thought():
    inline = run(
        QUESTION,
        "<think>Hm.</think>\nAction: look",
        "4",
        "Hm.\n</think>\n\nfinish",
        "5",
        "<thinking>cut off",
    )
    for name in ("llama3_1", "qwen3", "chatml"):
        rendered = render([inline], "none", made(name))
        assert said(rendered) == ["Action: look", "finish"], (
            "a turn that says nothing carries no loss"
        )
        assert rendered[0].unshown == 3 and "Hm." not in decoded(rendered)
    learnt = render([inline], "none", made("chatml"), setting("loss"))
    assert said(learnt)[0] == "<think>\nHm.\n</think>\n\nAction: look"
    assert len(said(learnt)) == 2 and "cut off" in decoded(learnt)


def test_a_thought_that_a_content_repeats_does_not_pass_for_shown():
    repeated = run(QUESTION, assistant("search, then search", "search"))
    rendered = render([repeated], "none", made("llama3_1"), setting("loss"))
    assert not len(rendered) and "leaves out its thought" in rendered.skipped[0].reason


def test_a_thought_that_is_no_text_is_named():
    odd = run(QUESTION, {"role": "assistant", "content": "4", "reasoning_content": {"steps": 1}})
    assert (
        "message 1: its content is not text"
        in render([odd], "none", made("chatml"), setting("loss")).skipped[0].reason
    )


# The template's own text
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thoughts", ["neither", "history", "loss"])
def test_an_empty_reasoning_block_carries_no_loss(thoughts):
    for turns in (
        [QUESTION, "look", "4", "finish"],
        [QUESTION, CALL, RESULT, assistant("1924")],
        [QUESTION, CALL],
    ):
        rendered = render([run(*turns)], "none", made("qwen3"), setting(thoughts))
        assert "<think>" not in "".join(trained(rendered)) and not check_mask(rendered, 0)
        assert "<think>" not in decoded(rendered), "the prompt of inference has none"


def test_what_stands_before_every_answer_belongs_to_the_prompt():
    for name, filling in (("harmony", "final:"), ("qwen3_8", "\n</think>\n\n")):
        own = made(name)
        rendered = render([run(QUESTION, "look", "4", "finish")], "none", own, BARE)
        assert said(rendered) == ["look", "finish"] and decoded(rendered).count(filling) == 2
        prompt = asker(own).prompt_ids([{"role": "user", "content": QUESTION}])
        assert own.decode(prompt).endswith(filling)


def test_text_behind_an_answer_carries_no_loss():
    own = made("chatml")
    own.chat_template = own.chat_template.replace(
        '{{- message.content or "" }}', '{{- message.content + " (so)" }}'
    )
    rendered = render([run(QUESTION, "look (so", "4", "finish")], "none", own, BARE)
    assert trained(rendered) == ["look (so", "<|im_end|>", "finish", "<|im_end|>"]


def test_text_before_some_answers_is_refused():
    own = made("chatml")
    changed = '{{- ("Well, " if message.content == "look" else "") + message.content }}'
    own.chat_template = own.chat_template.replace('{{- message.content or "" }}', changed)
    rendered = render([run(QUESTION, "look", "4", "finish"), run(id="plain")], "none", own, BARE)
    assert [e.id for e in rendered.examples] == ["plain"]
    assert (
        "message 1 (assistant)" in rendered.skipped[0].reason
        and "'Well,'" in rendered.skipped[0].reason
    )


def test_templates_that_cannot_train_say_why():
    with pytest.raises(
        ValueError, match="does not go on from its own generation prompt at message 1"
    ):
        open_chat(made("deepseek-r1"))
    own = made("harmony")
    own.chat_template = own.chat_template.replace("returns", "true")
    with pytest.raises(
        ValueError, match=r"ends the last assistant turn with '<\|eot_id\|>' and those before with"
    ):
        open_chat(own)


def test_check_mask_finds_text_of_the_template_and_text_that_is_missing():
    rendered = render([thinking()], "none", made("chatml"), setting("loss"))
    example = rendered[0]
    before = example.trained.copy()
    starts = np.flatnonzero(np.diff(before.astype(int)) == 1) + 1
    for position in range(len(before)):
        example.trained[:] = before
        example.trained[position] ^= True
        text = rendered.tokenizer.decode(example.input_ids[position])
        if text.strip() and not re.fullmatch(r"[\s</>think]+", text):
            assert check_mask(rendered, 0), f"{text!r} at {position}"
    example.trained[:] = before
    example.trained[starts[1] - 3 : starts[1]] = True
    assert check_mask(rendered, 0), "the header before an answer"
    example.trained[:] = before
    assert not check_mask(rendered, 0)


def test_check_mask_finds_a_trained_empty_block():
    own = made("qwen2_5")
    rendered = render([run(QUESTION, f"{EMPTY}look")], "none", own, BARE)
    assert said(rendered) == ["look"], "an empty thought is none"
    example = rendered[0]
    first, block = (
        int(np.flatnonzero(example.trained)[0]),
        own.encode(EMPTY, add_special_tokens=False),
    )
    for name, new in (("input_ids", block), ("trained", [True] * len(block))):
        old = getattr(example, name)
        object.__setattr__(
            example, name, np.concatenate([old[:first], np.array(new, old.dtype), old[first:]])
        )
    assert "<think>" in check_mask(rendered, 0)[0]


# Prompts are those of inference
# --------------------------------------------------------------------------------------------------


def asker(tokenizer, chat_template=""):
    """Return a local player that only makes prompts."""
    from transformers import LlamaConfig

    model = SimpleNamespace(name_or_path="m", config=LlamaConfig(), generation_config=None)
    return LocalModel(model, tokenizer, "m", chat_template)


texts = contents.map(lambda text: text.strip() or "x")


@cache
def once(name):
    return asker(made(name))


@pytest.mark.parametrize(
    "name", ["llama3_1", "qwen3", "gemma", "phi3", "llama-2", *PLACE, "qwen3_8", "harmony"]
)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), thoughts=st.sampled_from(["neither", "history", "loss"]))
def test_each_answer_is_trained_behind_the_prompt_that_inference_gives(name, thoughts, data):
    local = once(name)
    own = local.tokenizer
    shown = name in PLACE and thoughts != "neither"
    think = st.one_of(st.just(""), texts) if shown or thoughts == "neither" else st.just("")
    turns = [QUESTION]
    for _ in range(data.draw(st.integers(1, 3))):
        turns += [assistant(data.draw(texts), data.draw(think)), data.draw(texts)]
    given_run = run(*turns)
    rendered = render([given_run], "none", own, setting(thoughts))
    assert not rendered.skipped and not check_mask(rendered, 0)
    ids, mask = rendered[0].input_ids.tolist(), rendered[0].trained
    messages = [dict(m) for m in given_run.messages]
    messages[0]["content"] = f"Question: {QUESTION}"
    if thoughts == "neither":
        [m.pop("reasoning_content", None) for m in messages]
    for turn in range(1, len(messages), 2):
        prompt = local.prompt_ids(messages[:turn])
        assert ids[: len(prompt)] == prompt
        rest = own.decode(ids[len(prompt) :])
        hidden = thoughts == "history" and messages[turn].get("reasoning_content")
        assert hidden or mask[len(prompt)] and not mask[len(prompt) - 1], rest


# Turns without loss
# --------------------------------------------------------------------------------------------------

WEIGHED = run(
    QUESTION,
    assistant("one", weight=0),
    "4",
    assistant("two", weight=1),
    "5",
    assistant("three", weight=0),
)


@pytest.mark.parametrize("name", ["llama3_1", "qwen3", "mistral", "react-plain"])
def test_turns_of_weight_0_carry_no_loss(name):
    rendered = render([WEIGHED], "none", made(name), BARE)
    assert said(rendered) == ["two"] and not check_mask(rendered, 0)
    assert "one" in decoded(rendered) and "weight" not in decoded(rendered)
    assert (
        render([WEIGHED], "none", made(name), setting("loss"))[0].input_ids.tolist()
        == rendered[0].input_ids.tolist()
    )


def test_a_run_of_weight_0_is_skipped_and_an_odd_weight_is_named():
    silent = run(QUESTION, assistant("one", weight=0))
    odd = [run(QUESTION, assistant("one", weight=w)) for w in (0.5, "0", -1)]
    rendered = render(
        [silent, *odd, run(QUESTION, assistant("1", weight=None))], "none", made("chatml"), BARE
    )
    reasons = [problem.reason for problem in rendered.skipped]
    assert len(rendered) == 1 and "no trainable tokens" in reasons[0]
    assert reasons[1:] == [
        f"message 1: its weight is {w!r}; a turn carries loss (1) or none (0)"
        for w in (0.5, "0", -1)
    ]


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_exports_say_which_turns_carry_loss(tmp_path):
    own = made("llama3_1")
    tokens = export([WEIGHED], "tokens", tmp_path / "t", "none", BARE, tokenizer=own)
    assert own.decode([i for i in rows(tokens.path)[0]["labels"] if i != -100]) == "two<|eot_id|>"
    (line,) = rows(export([WEIGHED], "openai", tmp_path / "o", "none", BARE).path)
    assert [m["weight"] for m in line["messages"] if m["role"] == "assistant"] == [0, 1, 0]
    (line,) = rows(export([WEIGHED], "sharegpt", tmp_path / "s", "none", BARE).path)
    assert [t.get("weight") for t in line["conversations"]] == [None, 0, None, None, None, 0]
    done = export(
        [WEIGHED, run(*WEIGHED.messages[:1], *WEIGHED.messages[3:], id="b")],
        "sft",
        tmp_path / "f",
        "none",
    )
    (line,) = rows(done.path)
    assert [m["content"] for m in line["messages"][1:]] == ["two"], (
        "what follows the last turn with loss is cut off"
    )
    assert [(p.record, p.reason) for p in done.skipped] == [
        (
            "run",
            "message 1 carries no loss, which sft rows cannot say; export tokens, openai or "
            "sharegpt instead",
        )
    ]
    assert "weight" not in json.dumps(
        rows(export([WEIGHED], "kto", tmp_path / "k", "none", BARE).path)
    )


def test_an_openai_export_read_again_gives_the_same_mask(tmp_path):
    own = made("llama3_1")
    (line,) = rows(export([WEIGHED], "openai", tmp_path / "o", "none", BARE).path)
    again = run(*line["messages"], question=QUESTION)
    before, after = (render([t], "none", own, BARE)[0] for t in (WEIGHED, again))
    assert (
        before.trained.tolist() == after.trained.tolist()
        and before.input_ids.tolist() == after.input_ids.tolist()
    )


@pytest.mark.parametrize("kind", ["sft", "openai", "sharegpt"])
def test_exports_with_thoughts(tmp_path, kind):
    plain = export([thinking()], kind, tmp_path / "a", "none", BARE)
    assert "must search" not in plain.path.read_text()
    shown = export([thinking(), run(id="b")], kind, tmp_path / "b", "none", setting("history"))
    assert (
        shown.written == 1
        and "message 1: its thought is shown without loss" in shown.skipped[0].reason
    )
    assert (
        "I must search."
        in export([thinking()], kind, tmp_path / "c", "none", setting("loss")).path.read_text()
    )


# What is printed
# --------------------------------------------------------------------------------------------------


def test_a_summary_is_at_most_five_lines(tmp_path):
    runs = [thinking(id=str(i)) for i in range(300)] + [
        run(QUESTION, id=f"silent {i}") for i in range(40)
    ]
    runs += [run(*(QUESTION, "4 " * (3000 + i)), id=f"long {i}") for i in range(4)]
    rendered = render(runs, "target-aware", made("llama3_1"))
    shown = repr(rendered)
    assert (
        shown.count("\n") < 5
        and len(shown) < 1000
        and "300 examples" in shown
        and "44 skipped; 40 times" in shown
    )
    assert len(repr(rendered[0])) < 200 and "input_ids" not in repr(rendered[0])
    for kind in ("sft", "dpo", "kto", "sharegpt", "openai"):
        assert len(repr(export(runs, kind, tmp_path / kind, "none"))) < 300
