"""What a model said, apart from what it thought."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.said import as_said, split_thought

SAID = "Action: search[Ida Holm]"
THOUGHT = "e.g.\nAction: finish[Sweden]"


@pytest.mark.parametrize(
    "reply",
    [
        f"<think>{THOUGHT}\n</think>\n{SAID}",
        f"\n<THINK>\n{THOUGHT}</Think>{SAID}",
        f"{THOUGHT}\n</think>\n\n{SAID}",
        f"<thinking>{THOUGHT}</thinking>\n{SAID}",
        f"<thought>\n{THOUGHT}\n</thought>\n{SAID}",
        f"<reasoning>{THOUGHT}</reasoning>{SAID}",
        f"<scratchpad>{THOUGHT}</scratchpad>\n{SAID}",
        f"<think type='x'>{THOUGHT}</think>\n{SAID}",
        f"<seed:think>{THOUGHT}</seed:think>{SAID}",
        f"<think:opensource>{THOUGHT}</think:opensource>{SAID}",
        f"{THOUGHT}</seed:think>{SAID}",
        f"[THINK]{THOUGHT}[/THINK]{SAID}",
        f"{THOUGHT}[/THINK]\n{SAID}",
        f"◁think▷{THOUGHT}◁/think▷{SAID}",
        f"<|begin_of_thought|>\n\n{THOUGHT}\n\n<|end_of_thought|>\n\n{SAID}",
        f"<|START_THINKING|>{THOUGHT}<|END_THINKING|>{SAID}",
        f"<|channel>thought\n{THOUGHT}\n<channel|>{SAID}",
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{SAID}<|return|>",
        f"<|channel|>analysis<|message|>{THOUGHT}<|channel|>final<|message|>{SAID}",
        f"{SAID}\n<think>{THOUGHT}</think>",
        f"<think></think>\n<think>{THOUGHT}</think>{SAID}",
        f"<think>{THOUGHT}</think>\n{SAID}\n</think>",
        f"<think>\n\n</think>\n\n{THOUGHT}\n</think>\n{SAID}",
    ],
)
def test_a_thought_is_taken_apart(reply):
    assert split_thought(reply) == (THOUGHT, SAID, True)


def test_several_thoughts_and_words_around_them():
    reply = "Well. <think>one or\ntwo</think> I look.\n<think>or three</think>\nAction: search[x]"
    assert split_thought(reply) == (
        "one or\ntwo\nor three",
        "Well.\nI look.\nAction: search[x]",
        True,
    )
    assert split_thought("I use <think> tags.\n<think>real\n</think>\nyes") == (
        "real",
        "I use <think> tags.\nyes",
        True,
    )


@pytest.mark.parametrize(
    ("reply", "thought", "said"),
    [
        ("<think>Answer: Norway", "Answer: Norway", ""),
        (" <Thinking>\nAnswer: Norway\n", "Answer: Norway", ""),
        ("[THINK]so", "so", ""),
        ("◁think▷so", "so", ""),
        ("<|channel|>analysis<|message|>so", "so", ""),
        ("<think>a</think>Hm.\n<think>b", "a\nb", "Hm."),
        (
            '<think>The tag `</think>` ends it, and "</think>" too',
            'The tag `</think>` ends it, and "</think>" too',
            "",
        ),
        ("<think>", "", ""),
    ],
)
def test_an_unclosed_thought_says_nothing(reply, thought, said):
    assert split_thought(reply) == (thought, said, False)


@pytest.mark.parametrize(
    "reply",
    [
        "Action: search[Ida Holm]  \n",
        "It writes `<think>` first and `</think>` last.",
        "It writes `<think>Action: finish[x]</think>` first.",
        "The tags <think> and </think> stand around it.",
        "Use <think>...</think> for that.",
        'It ends with "</think>".',
        "Its prompt ends in <think> and a line break.",
        "```\n<think>\nhm\n</think>\n```\nThat is the form.",
        "I think, for one reason: analysis.",
        "I <b>think</b> [THINKING] so <i>reason</i>.",
        "<thought>I compute</thought>\n<execute>print(1)</execute>",
        "<thought>I have it\n<solution>4</solution>",
        "",
    ],
)
def test_what_only_mentions_a_thought_is_said_whole(reply):
    assert split_thought(reply) == ("", reply, True)


pieces = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<thinking>",
            "</thinking>",
            "[THINK]",
            "[/THINK]",
            "`",
            "```",
            "\n",
            " ",
            "a",
            "b c d e",
        ]
        + [
            "<reasoning>",
            "</reasoning>",
            "<execute>",
            "<|channel|>analysis<|message|>",
            "<|end|>",
            "<thi",
            "nk>",
            '"',
        ]
    ),
    max_size=14,
).map("".join)


@given(pieces)
def test_nothing_but_tags_is_lost_and_what_was_said_has_no_thought(reply):
    thought, said, _ = split_thought(reply)
    assert split_thought(said)[:2] == ("", said)
    for letter in "abcde":
        inner = [part.count(letter) for part in (thought, said)]
        names = sum(tag.count(letter) for tag in _dropped(reply, thought + said))
        assert sum(inner) + names == reply.count(letter)


def _dropped(reply, kept):
    tags = ["<|channel|>analysis<|message|>", "<|end|>", "[THINK]", "[/THINK]"]
    tags += [
        f"<{close}{word}>" for word in ("think", "thinking", "reasoning") for close in ("", "/")
    ]
    return [tag for tag in tags for _ in range(reply.count(tag) - kept.count(tag))]


@pytest.mark.parametrize(
    "reply", ["<think>" * 50_000, "</think>" * 50_000, "a <think> b" * 30_000, "`<think>`" * 30_000]
)
def test_degenerate_replies_come_back(reply):
    thought, said, _ = split_thought(reply)
    assert len(thought) + len(said) <= len(reply)


def test_a_message_keeps_its_thought_apart():
    moved = as_said({"role": "assistant", "content": f"<think>{THOUGHT}</think>{SAID}"})
    assert moved == {"role": "assistant", "content": SAID, "reasoning_content": THOUGHT}
    assert as_said(moved) is moved
    both = as_said(
        {"role": "assistant", "content": "<think>b</think>c", "reasoning_content": "a", "weight": 0}
    )
    assert both == {"role": "assistant", "content": "c", "reasoning_content": "a\nb", "weight": 0}


def test_a_thought_in_the_form_of_a_prompt_stays_in_logs_and_is_still_no_action():
    message = {"role": "assistant", "content": f"<thought>{THOUGHT}</thought>\n{SAID}"}
    assert as_said(message) is message
    assert as_said(message, aloud=True) == {
        "role": "assistant",
        "content": SAID,
        "reasoning_content": THOUGHT,
    }


@pytest.mark.parametrize("name", ["reasoning", "thinking"])
def test_a_thought_under_the_names_of_servers(name):
    moved = as_said({"role": "assistant", "content": "c", name: "a"})
    assert moved == {"role": "assistant", "content": "c", "reasoning_content": "a"}


def test_content_in_parts_and_messages_of_others():
    parts = [{"type": "text", "text": "<think>a</think>b"}, {"type": "image"}]
    moved = as_said({"role": "assistant", "content": parts})
    assert (
        moved["content"] == [{"type": "text", "text": "b"}, {"type": "image"}]
        and moved["reasoning_content"] == "a"
    )
    assert parts[0]["text"] == "<think>a</think>b"
    for message in (
        {"role": "user", "content": "<think>a</think>b"},
        {"role": "assistant", "content": None},
    ):
        assert as_said(message) is message
