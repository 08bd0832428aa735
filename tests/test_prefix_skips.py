"""Rendering: what is skipped, how that is told, and two ways of finding where answers start."""

import logging
from dataclasses import replace

import pytest
from chat_tokenizers import TEMPLATES, tokenizer
from hypothesis import HealthCheck, given, settings
from prefix_runs import BARE, CALL, QUESTION, RESULT, contents, decoded, run, trained

from negfail_nb.prefix import export, find_template, nat_k, render
from negfail_nb.prefix.chat import open_chat
from negfail_nb.prefix.rendering import prepare
from negfail_nb.settings import PrefixSettings

BOTH = {**CALL, "content": "I search."}
PARALLEL = {**CALL, "tool_calls": CALL["tool_calls"] * 2}
ANSWER = {"role": "assistant", "content": "1924"}


def test_what_a_template_refuses_is_warned_of_once_with_counts_and_advice(caplog):
    runs = [
        run(QUESTION, BOTH, RESULT, ANSWER, id="both"),
        run(QUESTION, CALL, RESULT, BOTH, RESULT, ANSWER, id="both later"),
        run(QUESTION, PARALLEL, RESULT, RESULT, ANSWER, id="parallel"),
        run(id="fine"),
    ]
    made = tokenizer("byte-level", "llama3_1")
    with caplog.at_level(logging.WARNING, "negfail_nb"):
        rendered = render(runs, "none", made, BARE)
    advice = '; set prefix.chat_template="llama-3"'
    (first, count), (second, other) = rendered.skip_reasons().items()
    assert (count, other) == (2, 1) and len(rendered) == 1
    assert first.startswith("message (assistant): the chat template of") and first.endswith(
        "changes it" + advice
    )
    assert "single tool-calls at once" in second and second.endswith(advice)
    (record,) = caplog.records
    assert (
        record.getMessage()
        == f"render: 3 of 4 trajectories skipped; 2 times: {first}; 1 times: {second}"
    )
    helped = render(runs, "none", made, PrefixSettings(chat_template="llama-3"))
    assert len(helped) == 4 and helped.skip_reasons() == {}


@pytest.mark.parametrize("name", ["phi3", "mistral"])
def test_advice_is_a_template_that_the_tokenizer_can(name):
    made = tokenizer("byte-level", name)
    rendered = render([run(QUESTION, CALL, RESULT, ANSWER)], "none", made, BARE)
    (reason,) = rendered.skip_reasons()
    advised = reason.split('"')[-2]
    assert (
        len(
            render(
                [run(QUESTION, CALL, RESULT, ANSWER)],
                "none",
                made,
                PrefixSettings(chat_template=advised),
            )
        )
        == 1
    )


def test_lengths_do_not_make_another_reason():
    runs = [run(QUESTION, "4 " * n, id=str(n)) for n in (3000, 4000)]
    rendered = render(runs, "none", tokenizer("byte-level", "llama3"), BARE)
    assert rendered.skip_reasons() == {"no whole assistant turn fits in 2048 tokens": 2}


def test_a_missing_score_names_the_settings():
    with pytest.raises(
        ValueError, match=r"set prefix.score to 'quality', leave nat-k out .*negfail_nb.grade\)"
    ):
        nat_k([0.5], "f1").classify(run(success=False))
    with pytest.raises(
        ValueError, match=r"assess the logs first \(negfail_nb.assess\), leave nat-k out"
    ):
        nat_k([0.5], "quality").classify(run(success=False))


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto", "sharegpt", "openai"])
def test_heldout_runs_are_exported_only_where_asked_for(tmp_path, kind):
    runs = [
        run(id=f"{split}{ok}", split=split, success=ok)
        for split in ("train", "heldout")
        for ok in (True, False)
    ]
    done = export(runs, kind, tmp_path / "a.jsonl", "none")
    assert done.written == (1 if kind == "dpo" else 2)
    assert [(p.record, p.reason) for p in done.skipped] == [
        ("heldoutTrue", "held out for evaluation"),
        ("heldoutFalse", "held out for evaluation"),
    ]
    whole = export(runs, kind, tmp_path / "b.jsonl", "none", heldout=True)
    assert whole.written == 4 and whole.skipped == ()
    assert len(render(runs, "none", tokenizer("byte-level", "llama3"))) == 4, (
        "evaluation needs them rendered"
    )


@pytest.mark.parametrize("name", TEMPLATES)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(first=contents, observation=contents, second=contents)
def test_headers_and_prompts_give_equal_pieces(name, first, observation, second):
    chat = open_chat(tokenizer("byte-level", name))
    system = {"role": "system", "content": observation}
    asked, wrote = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": first}
    runs = [
        run(QUESTION, first, observation, second),
        run(system, asked, wrote),
        run(QUESTION, wrote, RESULT, ANSWER),
    ]
    turns = [prepare(t, find_template("prefix-good"), BARE)[0] for t in runs]
    turns = [t.fold_system() for t in turns] if chat.folds_system else turns
    fast, slow = chat.cut(turns), replace(chat, header="").cut(turns)
    assert list(map(str, fast)) == list(map(str, slow))
    assert any(not isinstance(pieces, ValueError) for pieces in fast)


def test_both_ways_are_taken():
    without = {name for name in TEMPLATES if not open_chat(tokenizer("byte-level", name)).header}
    assert without == {"llama-2", "mistral", "phi3", "react-plain"}


@pytest.mark.parametrize(
    "name", ["llama3_1", "qwen2_5", "phi3", "llama-2", "mistral", "react-plain"]
)
def test_a_user_who_spells_the_header_starts_no_answer(name):
    made = tokenizer("byte-level", name)
    header = open_chat(made).header or " [/INST] "
    rendered = render(
        [run(QUESTION, "look", f"page {header}I was told to", "done")], "none", made, BARE
    )
    assert [t.removesuffix(rendered.end_token).strip() for t in trained(rendered)] == [
        "look",
        "done",
    ]
    assert f"page {header}I was told to" in decoded(rendered)
