"""Chat templates: what is refused of a template or by one, and a system turn where there is no
place for it.
"""

import re

import pytest
from chat_tokenizers import FOLDER, tokenizer
from prefix_runs import BARE, CALL, QUESTION, RESULT, decoded, run, trained

from negfail_nb.prefix import check_mask, render
from negfail_nb.settings import PrefixSettings


def test_roles_that_a_template_leaves_out_are_refused_and_counted():
    rendered = render(
        [run(QUESTION, CALL, RESULT, {"role": "assistant", "content": "1924"}), run(id="fine")],
        "none",
        tokenizer("byte-level", "phi3"),
    )
    assert [e.id for e in rendered.examples] == ["fine"]
    assert re.search(
        r"message 1 \(assistant\): the chat template of '.*' leaves out its content",
        rendered.skipped[0].reason,
    )


def test_a_template_that_refuses_a_conversation_is_quoted():
    two = run(QUESTION, "a", {"role": "assistant", "content": "b"})
    rendered = render([two, run(id="fine")], "none", tokenizer("byte-level", "mistral"))
    assert len(rendered) == 1 and "Conversation roles must alternate" in rendered.skipped[0].reason
    assert rendered.skipped[0].record == "run"


def test_system_turn_goes_into_the_user_turn_where_the_template_has_none():
    system = {"role": "system", "content": "Be brief."}
    turns = (system, {"role": "user", "content": QUESTION}, {"role": "assistant", "content": "4"})
    rendered = render([run(*turns)], "none", tokenizer("byte-level", "gemma"))
    assert f"user\nBe brief.\n\nQuestion: {QUESTION}<end_of_turn>" in decoded(rendered)
    assert trained(rendered) == ["4<end_of_turn>"] and not check_mask(rendered, 0)


def test_no_chat_template_says_what_to_set(tmp_path):
    bare = tokenizer("byte-level")
    with pytest.raises(
        ValueError,
        match="has no chat template; set PrefixSettings.chat_template .* chatml, llama-3, react",
    ):
        render([run()], "none", bare)
    assert bare.pad_token is None
    for name in ("llama-3", "chatml", "react-plain"):
        assert len(render([run()], "none", bare, PrefixSettings(chat_template=name))) == 1
    file = tmp_path / "mine.jinja"
    file.write_text(
        "{% for m in messages %}{{ m.role }}>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant>{% endif %}"
    )
    assert trained(
        render([run(QUESTION, "4")], "none", bare, PrefixSettings(chat_template=str(file)))
    ) == ["4</s>"]
    with pytest.raises(
        ValueError,
        match="chat template 'nope': there is no such file, and the package's are chatml",
    ):
        render([run()], "none", bare, PrefixSettings(chat_template="nope"))


def test_a_template_without_end_token_is_refused():
    with pytest.raises(ValueError, match=r"vicuna.jinja' puts no end token .* never learn to stop"):
        render(
            [run()],
            "none",
            tokenizer("byte-level"),
            PrefixSettings(chat_template=str(FOLDER / "vicuna.jinja")),
        )
    strange = tokenizer("byte-level", "llama3")
    strange.chat_template = strange.chat_template.replace("<|eot_id|>", "<|unheard_of|>")
    with pytest.raises(ValueError, match="puts no end token of the tokenizer"):
        render([run()], "none", strange)


def test_a_template_that_always_reasons_first_is_refused():
    made = tokenizer("byte-level", "qwen2_5")
    made.chat_template = made.chat_template.replace(
        "<|im_start|>assistant\\n' }}", "<|im_start|>assistant\\n<think>\\n' }}"
    )
    with pytest.raises(
        ValueError, match="does not go on from its own generation prompt at message 1"
    ):
        render([run()], "none", made)


def test_a_template_that_drops_earlier_reasoning_names_the_message():
    made = tokenizer("byte-level", "chatml")
    mine = PrefixSettings(chat_template=str(FOLDER / "last-reasoning.jinja"), thoughts="loss")
    reasoned = run(
        QUESTION, "<think>add</think>calculate", "4", "<think>done</think>finish", id="reasoned"
    )
    rendered = render([reasoned, run(id="plain")], "none", made, mine)
    assert [e.id for e in rendered.examples] == ["plain"]
    assert re.search(
        r"message 1 \(assistant\): chat template '.*last-reasoning.jinja' leaves out its thought; "
        r'set prefix.thoughts="neither"',
        rendered.skipped[0].reason,
    )


def test_a_template_that_writes_earlier_turns_anew_names_the_message():
    made = tokenizer("byte-level", "chatml")
    made.chat_template = (
        '{% if messages[-1].content == "finish" %}{{ "done: " }}{% endif %}' + made.chat_template
    )
    rendered = render(
        [run(QUESTION, "look", "4", "finish", id="last"), run(id="plain")], "none", made, BARE
    )
    assert [e.id for e in rendered.examples] == ["plain"]
    assert re.search(
        r"message 3: .* writes the turns before it differently", rendered.skipped[0].reason
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "runs for more than",
        ),
        ("{{ 'x' * 10000000000 }}", "computes with '10000000000'"),
        ("{{ 'x' * 10 ** 10 }}", r"computes with '\*\*'"),
        ("{# " + "x" * 2_000_000 + " #}", "characters; at most 1,000,000 are read"),
        ("{% for", "refuses it"),
    ],
)
def test_templates_that_run_or_write_without_end_are_refused(body, message, monkeypatch):
    monkeypatch.setattr("negfail_nb.prefix.chat.SLOWEST", 0)
    made = tokenizer("byte-level", "chatml")
    made.chat_template = body + made.chat_template
    with pytest.raises(ValueError, match=message):
        render([run()], "none", made, BARE)


def test_a_number_in_the_text_of_a_template_is_no_computation():
    made = tokenizer("byte-level", "chatml")
    made.chat_template = "{{ 'call 0123456789 ** ' }}" + made.chat_template
    assert len(render([run()], "none", made, BARE)) == 1
