"""Replies of a model in this process, asked for together in any way, are those of `generate` with
each prompt alone.
"""

import asyncio
import functools
from pathlib import Path

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import negfail_nb as nf
from negfail_nb.agents import local as local_module
from negfail_nb.agents.local import LocalModel
from negfail_nb.agents.protocol import Sampling
from negfail_nb.pocket import make_tasks
from negfail_nb.settings import LiveSettings

POCKET = Path(nf.__file__).parent / "pocket" / "llama"
WORDS, WINDOW, HEADS = 90, 1024, 4
PROMPTS = [
    [(7 * i + n * n) % (WORDS - 2) + 2 for i in range(60)] for n in range(2)
]  # and their beginnings


class Numbers:
    """A tokenizer whose texts are numbers, so that tokens can be read off a reply."""

    chat_template, eos_token_id, all_special_ids = None, 0, ()

    def decode(self, tokens, **unused):
        return " ".join(map(str, tokens))


class Asked(LocalModel):
    """A conversation is its tokens."""

    chat = None

    def prompt_ids(self, messages, tools=()):
        return list(messages)

    _end_ids = frozenset({0, 17, 23})


@functools.cache
def model(key_heads, dtype):
    torch.manual_seed(key_heads)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
    }
    config = LlamaConfig(
        **shape,
        vocab_size=WORDS,
        num_key_value_heads=key_heads,
        max_position_embeddings=WINDOW,
        eos_token_id=0,
    )
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # as drawn, all logits are so alike that rounding decides
        for weight in made.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4)
    made.generation_config.repetition_penalty = (
        1.3  # not asked for; over a padded row it would count the padding
    )
    return made.to(getattr(torch, dtype))


@functools.cache
def alone(key_heads, prompt, limit):
    """Return the tokens of `generate`, to an end token and without it, how many they are, and why
    they end.
    """
    ids, ends = torch.tensor([prompt]), sorted(Asked._end_ids)
    whole = model(key_heads, "float32").generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=0,
        repetition_penalty=1.0,
    )
    tokens = whole[0, len(prompt) :].tolist()
    ended = tokens[-1] in ends
    return tokens[:-1] if ended else tokens, len(tokens), "stop" if ended else "length"


def told(reply):
    return (
        [int(word) for word in reply.message["content"].split()],
        reply.completion_tokens,
        reply.finish_reason,
    )


asked = st.fixed_dictionaries(
    {
        "base": st.sampled_from(range(len(PROMPTS))),
        "length": st.sampled_from([1, 2, 20, 32, 33, 59, 60]),
        "limit": st.sampled_from([1, 2, 9, 30]),
        "drawn": st.booleans(),
        "seed": st.sampled_from([1, 2]),
        "round": st.sampled_from(
            [0, 0, 1]
        ),  # the later one has the same prompts again, while others go on
        "withdrawn": st.sampled_from([False, False, False, True]),
    }
)


def sampled(one):
    return Sampling(
        temperature=0.8 if one["drawn"] else 0.0, max_tokens=one["limit"], seed=one["seed"], stop=()
    )


def prompt_of(one):
    return tuple(PROMPTS[one["base"]][: one["length"]])


async def reply_to(local, one):
    await asyncio.sleep(0.02 * one["round"])
    waiting = asyncio.create_task(local.reply(prompt_of(one), sampled(one)))
    if one["withdrawn"]:
        await asyncio.sleep(0.012)
        waiting.cancel()
    return (await asyncio.gather(waiting, return_exceptions=True))[0]


def together(key_heads, dtype, requests, concurrency=4, memory=None):
    async def play():
        async with local:
            if memory is not None:
                local._memory = memory
            return await asyncio.gather(*(reply_to(local, one) for one in requests))

    local = Asked(model(key_heads, dtype), Numbers(), "tiny", concurrency=concurrency)
    return asyncio.run(play())


@functools.cache
def drawn_alone(key_heads, prompt, limit, seed):
    one = ONE | {"limit": limit, "drawn": True, "seed": seed}
    local = Asked(model(key_heads, "float32"), Numbers(), "tiny")

    async def play():
        async with local:
            return await local.reply(prompt, sampled(one))

    return told(asyncio.run(play()))


ONE = {
    "base": 0,
    "length": 20,
    "limit": 30,
    "drawn": False,
    "seed": 1,
    "round": 0,
    "withdrawn": False,
}
OTHERS = [ONE | {"base": base, "length": length} for base in (0, 1) for length in (2, 20, 33, 60)]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(asked, min_size=1, max_size=12),
    st.sampled_from([1, 2, HEADS]),
    st.integers(1, 9),
    st.booleans(),
)
@example(
    [ONE] * 4 + OTHERS, HEADS, 4, False
)  # equal ones end together, and others take their places
def test_however_requests_come_together_each_reply_is_that_of_its_prompt_alone(
    requests, key_heads, concurrency, no_room
):
    replies = together(key_heads, "float32", requests, concurrency, 0 if no_room else None)
    for one, reply in zip(requests, replies, strict=True):
        if one["withdrawn"] and isinstance(reply, asyncio.CancelledError):
            continue
        prompt = prompt_of(one)
        if one["drawn"]:
            assert told(reply) == drawn_alone(key_heads, prompt, one["limit"], one["seed"])
        else:
            assert told(reply) == alone(key_heads, prompt, one["limit"])
        assert reply.prompt_tokens == len(prompt)


@settings(deadline=None, max_examples=15)
@given(st.lists(asked, min_size=1, max_size=10), st.sampled_from([1, 2, HEADS]))
def test_in_bfloat16_each_token_is_the_best_one_up_to_rounding(requests, key_heads):
    requests = [one | {"drawn": False, "withdrawn": False} for one in requests]
    for one, reply in zip(requests, together(key_heads, "bfloat16", requests), strict=True):
        tokens, count, reason = told(reply)
        assert reason == "stop" or count == one["limit"]
        prompt = list(prompt_of(one))
        with torch.no_grad():
            scores = (
                model(key_heads, "bfloat16")(torch.tensor([prompt + tokens]))
                .logits[0, len(prompt) - 1 :]
                .float()
            )
        for token, row in zip(tokens, scores, strict=False):
            assert row[token] >= row.max() - 0.05 * (row.max() - row.min())


def test_the_cases_hold_what_they_should():
    found = [
        alone(heads, tuple(p[:n]), 30)
        for heads in (1, 2, HEADS)
        for p in PROMPTS
        for n in (1, 2, 20, 33, 60)
    ]
    assert {reason for _, _, reason in found} == {"stop", "length"}
    assert 1 in {count for _, count, _ in found}  # ends at once
    assert len({tuple(tokens) for tokens, _, _ in found}) > 8


def test_a_row_that_is_over_does_not_run_out_of_positions_while_others_go_on():
    torch.manual_seed(0)
    learned = GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, n_positions=128, n_embd=32, n_layer=1, n_head=2)
    ).eval()
    local = Asked(learned, Numbers(), "positions")
    prompts = [[5] * 126, [6] * 64]

    async def play():
        async with local:
            asked = (
                local.reply(p, Sampling(temperature=0.0, max_tokens=60, stop=())) for p in prompts
            )
            return await asyncio.gather(*asked)

    replies = asyncio.run(play())
    assert [
        reply.completion_tokens <= most for reply, most in zip(replies, (2, 60), strict=True)
    ] == [True, True]
    assert {reply.finish_reason for reply in replies} <= {"stop", "length"}


def test_what_does_not_fit_an_accelerator_together_goes_by_halves(monkeypatch):
    whole, rows = LlamaForCausalLM.generate, []

    def generate(self, ids, **options):
        rows.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("no room")
        return whole(self, ids, **options)

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    requests = [ONE | {"limit": 9, "length": length} for length in (20, 32, 33, 20, 32)]
    replies = together(2, "float32", requests, concurrency=9)
    assert rows == [5, 2, 3, 1, 2]
    monkeypatch.undo()
    assert [told(r) for r in replies] == [alone(2, prompt_of(o), 9) for o in requests]


def test_greedy_attempts_at_a_question_are_equal_and_those_of_a_single_one(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    agent = LocalModel(LlamaForCausalLM.from_pretrained(POCKET, dtype=torch.float32), tokenizer)
    tasks, passages = make_tasks(4, seed=0)
    tools = [nf.SearchTool(passages), nf.CalculatorTool()]

    def play(attempts):
        protocol = LiveSettings(
            temperatures=(0.0,), attempts=attempts, instruction=False, max_tokens=64
        )
        return nf.collect(
            agent, tasks, tools, protocol, file=tmp_path / f"{attempts}.jsonl"
        ).trajectories

    single = {t.question_id: t.messages for t in play(1)}
    assert len({str(messages) for messages in single.values()}) == len(tasks)
    for attempts in (2, 4):
        assert all(t.messages == single[t.question_id] for t in play(attempts))


def test_memory_bounds_a_batch(monkeypatch):
    monkeypatch.setattr(local_module, "MEMORY", 0.0)
    rows, whole = [], LlamaForCausalLM.generate

    def generate(self, ids, **options):
        rows.append(len(ids))
        return whole(self, ids, **options)

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    together(1, "float32", [ONE] * 3)
    assert rows == [1, 1, 1]
