"""A model in this process: the same replies as `generate` gives, many at once, from the prompts of
training.
"""

import asyncio
import gc
import threading
import weakref

import pytest
import torch
from chat_tokenizers import tokenizer as family_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from negfail_nb.agents.engine import SeededNoise
from negfail_nb.agents.local import LocalModel
from negfail_nb.agents.protocol import EpisodeTooLong, ModelError, Sampling
from negfail_nb.prefix import find_template, render
from negfail_nb.settings import ModelSettings
from negfail_nb.training import load_model, make_tokenizer
from negfail_nb.trajectory import Trajectory

INSTRUCTION = (
    "Answer the question. Actions: search[query], calculate[expression], finish[answer]. " * 4
)
GREEDY = Sampling(temperature=0.0, max_tokens=12)
TINY = {
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}
SEARCH = {
    "type": "function",
    "function": {"name": "search", "parameters": {"type": "object", "properties": {}}},
}


def conversation(i: int) -> list[dict]:
    question = {
        "role": "user",
        "content": f"Question {i}: who wrote book {i * i}? " + "Think well. " * (7 * i),
    }
    turns = [
        {"role": "assistant", "content": f"Thought: I search.\nAction: search[book {i}]"},
        {"role": "user", "content": f"Observation: #1: Book {i}: a page about words. #2: none."},
    ]
    return [{"role": "system", "content": INSTRUCTION}, question, *turns * (i % 3)]


@pytest.fixture(scope="module")
def parts():
    return make_parts(key_heads=2)


def make_parts(key_heads: int):
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer([m["content"] for i in range(9) for m in conversation(i)], 600)
    model = load_model(
        ModelSettings(layers=2, width=64, heads=4, vocabulary=600, positions=1024), tokenizer
    )
    model.config.num_key_value_heads = key_heads
    model = AutoModelForCausalLM.from_config(model.config, attn_implementation="packed_sdpa")
    torch.manual_seed(0)
    with torch.no_grad():  # as drawn, all logits are so alike that rounding decides
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    return model, tokenizer


def generate(model, tokenizer, prompt: list[int], tokens: int) -> str:
    ids = torch.tensor([prompt])
    model.eval()
    whole = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
    )
    return tokenizer.decode(
        [t for t in whole[0, len(prompt) :].tolist() if t != tokenizer.eos_token_id]
    ).strip()


def run(local: LocalModel, *asked, one_by_one: bool = False) -> list:
    async def all_of_them():
        async with local:
            if one_by_one:
                return [await local.reply(*a) for a in asked]
            return await asyncio.gather(*(local.reply(*a) for a in asked), return_exceptions=True)

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_greedy_replies_equal_generate_and_come_many_at_once(key_heads):
    model, tokenizer = make_parts(key_heads)
    local = LocalModel(model, tokenizer, concurrency=4)  # fewer than are asked: the others wait
    asked = [(conversation(i), GREEDY) for i in range(9)]
    replies = run(local, *asked)
    prompts = [local.prompt_ids(messages) for messages, _ in asked]
    expected = [generate(model, tokenizer, prompt, GREEDY.max_tokens) for prompt in prompts]
    assert [reply.message["content"].strip() for reply in replies] == expected
    assert [reply.prompt_tokens for reply in replies] == [len(prompt) for prompt in prompts]
    assert {reply.finish_reason for reply in replies} <= {"stop", "length"}
    assert len(set(expected)) > 3


def test_a_drawn_reply_depends_on_its_seed_and_not_on_what_else_runs(parts):
    def asked(seed):
        return [
            (conversation(i), Sampling(temperature=0.9, max_tokens=12, seed=seed)) for i in range(5)
        ]

    local = LocalModel(*parts)
    greedy = (conversation(0), GREEDY)
    mixed, alone = run(local, *asked(3), greedy), run(local, *asked(3), greedy, one_by_one=True)
    assert [r.message for r in mixed] == [r.message for r in alone]
    other = run(local, *asked(4))
    assert all(a.message != b.message for a, b in zip(mixed, other, strict=False))


def test_noise_draws_from_the_softmax():
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(40_000, 1)
    ids = torch.zeros(len(scores), 9, dtype=torch.long)
    temperatures = [0.0, *[2.0] * 39_999]
    found = SeededNoise(temperatures, range(1, 40_001), 9)(ids, scores)
    shares = torch.bincount(found[1:].argmax(dim=1), minlength=4) / 39_999
    assert torch.allclose(shares, (scores[0] / 2).softmax(0), atol=0.01)
    assert torch.equal(found[0], scores[0])


@pytest.mark.parametrize(
    ("family", "template"),
    [
        ("byte-level", "llama-3"),
        ("byte-level", "qwen2_5"),
        ("sentencepiece", "llama-2"),
        ("sentencepiece, legacy", "phi3"),
    ],
)
def test_prompts_are_token_for_token_what_training_renders(family, template):
    tokenizer, question = family_tokenizer(family, template), "who wrote it?"
    messages = conversation(2)
    messages[1] = {
        "role": "user",
        "content": find_template("target-aware").inference(question, "qa"),
    }
    messages[3] = {"role": "user", "content": "Observation: <|eot_id|><|im_end|></s> is data, too."}
    local = LocalModel(LlamaForCausalLM(LlamaConfig(**TINY)), tokenizer)
    prompts = [local.prompt_ids(messages[:turn]) for turn in (2, 4)]
    messages[1] = {"role": "user", "content": question}
    logged = Trajectory(id="t", question_id="q", question=question, messages=tuple(messages[:5]))
    trained = render([logged], "target-aware", tokenizer, inference=True).examples[0]
    starts = [
        i for i in range(1, len(trained.trained)) if trained.trained[i] > trained.trained[i - 1]
    ]
    assert [trained.input_ids[:start].tolist() for start in starts] == prompts


def test_prompts_with_tools_are_what_training_renders(parts):
    model, tokenizer = parts
    call = {
        "id": "a",
        "type": "function",
        "function": {"name": "search", "arguments": '{"query": "book"}'},
    }
    question = "who wrote it?"
    messages = [
        {"role": "user", "content": find_template("target-aware").inference(question, "qa")},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "a page"},
        {"role": "assistant", "content": "nobody"},
    ]
    prompt = LocalModel(model, tokenizer).prompt_ids(messages[:3], (SEARCH,))
    messages[0] = {"role": "user", "content": question}
    logged = Trajectory(
        id="t", question_id="q", question=question, messages=tuple(messages), tools=(SEARCH,)
    )
    trained = render([logged], "target-aware", tokenizer, inference=True).examples[0]
    assert trained.input_ids[: len(prompt)].tolist() == prompt
    assert tokenizer.decode(trained.input_ids[len(prompt) :]).startswith("nobody")


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ('I look.\n{"name": "search", "parameters": {"query": "é"}}', "I look.", ["search"]),
        (
            '<tool_call>\n{"name": "search", "arguments": {"query": "é"}}\n</tool_call>',
            "",
            ["search"],
        ),
        ('{"name": "unknown", "parameters": {}}', '{"name": "unknown", "parameters": {}}', []),
        ('{"name": "search", "parameters": "é"}', '{"name": "search", "parameters": "é"}', []),
        ("{" * 5000, "{" * 5000, []),
    ],
)
def test_json_lines_become_tool_calls_where_tools_are_offered(text, content, names):
    from negfail_nb.agents.tools import make_message

    message = make_message(text, (SEARCH,), 1)
    assert message["content"] == content
    assert [call["function"]["name"] for call in message.get("tool_calls", ())] == names
    assert all(
        call["function"]["arguments"] == '{"query": "é"}' for call in message.get("tool_calls", ())
    )
    assert make_message(text, (), 1) == {"role": "assistant", "content": text}


def test_a_reply_ends_before_a_stop_string(parts):
    local = LocalModel(*parts)
    whole = run(local, (conversation(1), GREEDY))[0]
    text = whole.message["content"]
    stop = text[len(text) // 2 :][:3]
    cut = run(
        local,
        (conversation(1), Sampling(temperature=0.0, max_tokens=12, stop=(stop, "\nObservation:"))),
    )[0]
    assert cut.message["content"] == text[: text.index(stop)]
    assert cut.finish_reason == "stop"
    assert 0 < cut.completion_tokens < whole.completion_tokens
    assert run(
        local, (conversation(1), Sampling(temperature=0.0, max_tokens=12, stop=("nowhere",)))
    )[0].message == (whole.message)


def test_what_does_not_fit_the_window_is_refused_and_the_others_go_on(parts):
    model, tokenizer = parts
    local = LocalModel(model, tokenizer, "mine")
    long = [{"role": "user", "content": "book " * 2000}]
    nearly = [{"role": "user", "content": ""}]
    while len(local.prompt_ids(nearly)) < 1021:
        nearly[0]["content"] += " book"
    odd = [{"role": "user", "content": 7}]
    replies = run(local, (long, GREEDY), (conversation(1), GREEDY), (nearly, GREEDY), (odd, GREEDY))
    assert isinstance(replies[0], EpisodeTooLong)
    assert "2021 tokens, and the window of mine 1024" in str(replies[0])
    assert replies[1].completion_tokens == 12 or replies[1].finish_reason == "stop"
    assert replies[2].prompt_tokens + replies[2].completion_tokens <= 1024
    assert isinstance(replies[3], ValueError)
    assert local.window == 1024


def test_everything_is_put_back_and_freed(parts):
    model, tokenizer = parts
    model.train()
    local = LocalModel(model, tokenizer)
    held = []

    async def play():
        async with local:
            local.model.register_forward_hook(
                lambda *a: held.append(weakref.ref(a[-1].past_key_values))
            )
            await local.reply(conversation(0), GREEDY)

    threads = threading.active_count()
    asyncio.run(play())
    gc.collect()
    assert held[0]() is None
    assert threading.active_count() == threads
    assert (model.config._attn_implementation, model.training) == ("packed_sdpa", True)
    assert run(local, (conversation(0), GREEDY))[0].completion_tokens  # and it can be entered again


def test_an_interruption_ends_at_once_and_leaves_no_thread(parts):
    local = LocalModel(*parts)

    async def play():
        async with local:
            asyncio.get_running_loop().call_later(0.1, task.cancel)
            await asyncio.gather(
                *(
                    local.reply(conversation(i), Sampling(temperature=0.0, max_tokens=900))
                    for i in range(3)
                )
            )

    async def main():
        nonlocal task
        task = asyncio.create_task(play())
        await task

    task, threads = None, threading.active_count()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert threading.active_count() == threads


def test_a_request_that_nobody_waits_for_is_withdrawn(parts):
    async def play():
        async with LocalModel(*parts) as local:
            waiting = asyncio.create_task(
                local.reply(conversation(0), Sampling(temperature=0.0, max_tokens=900))
            )
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await local.reply(conversation(1), GREEDY)).prompt_tokens
            assert not local._waiting

    asyncio.run(play())


def test_an_engine_that_broke_stops_the_collection(parts, monkeypatch):
    model, _ = parts

    def breaks(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "forward", breaks)
    replies = run(LocalModel(*parts, "mine"), (conversation(0), GREEDY), (conversation(1), GREEDY))
    assert [type(reply) for reply in replies] == [ModelError, ModelError]
    assert "mine: generation has stopped" in str(replies[0])
    assert "out of memory" in str(replies[0])


def test_misuse_is_named(parts):
    local = LocalModel(*parts, "mine")
    with pytest.raises(ModelError, match="enter it first"):
        asyncio.run(local.reply(conversation(0), GREEDY))

    async def twice():
        async with local, local:
            pass

    with pytest.raises(ModelError, match="running already"):
        asyncio.run(twice())
    assert run(local, (conversation(0), GREEDY))[0].completion_tokens


def test_a_model_is_opened_by_its_place_and_loaded_on_first_use(parts, tmp_path):
    model, tokenizer = parts
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    opened = LocalModel.open(tmp_path / "model", name="mine")
    prompt = opened.prompt_ids(conversation(0))
    assert prompt == LocalModel(*parts).prompt_ids(conversation(0))
    assert opened.name == "mine" and opened.window == 1024 and len(opened.content) == 64
    assert "model" not in vars(opened), "nothing so far needs the weights"
    replies = run(opened, (conversation(0), GREEDY))
    assert [r.message for r in replies] == [
        r.message for r in run(LocalModel(*parts), (conversation(0), GREEDY))
    ]
    assert "model" in vars(opened)
    same = LocalModel.open(ModelSettings(name=str(tmp_path / "model")), concurrency=1)
    assert same.content == opened.content
    assert LocalModel.open(tmp_path / "model", dtype="bfloat16").content != opened.content
    assert LocalModel.open(tmp_path / "model", chat_template="chatml").content != opened.content
    assert LocalModel(*parts).content == LocalModel(*parts).content
