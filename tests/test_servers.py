"""Real servers on loopback: ``make test-servers``.

Episodes are played by a small model that has learnt six of them by heart; the grid of the benchmark
by pocket-llama, or by the model whose folder ``NEGFAIL_NB_READER`` names. ``transformers serve`` is
always tried; vLLM where ``NEGFAIL_NB_VLLM`` names a virtual environment that has it.
"""

import dataclasses
import os
import urllib.request
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from real_servers import serving

from negfail_nb.agents.endpoint import EndpointModel
from negfail_nb.agents.live import collect
from negfail_nb.agents.local import LocalModel
from negfail_nb.agents.protocol import ModelError, Task
from negfail_nb.agents.tools import SearchTool, instruction, schemas
from negfail_nb.benchmarking import benchmark, build_index, load_questions, open_pool
from negfail_nb.models import find_model
from negfail_nb.settings import ContextSettings, LiveSettings, ModelSettings, ReadingSettings
from negfail_nb.training import load_tokenizer

TASKS = [Task(id=f"q{i}", question=f"Who wrote book {i}?", answer="nobody") for i in range(3)]
ACTIONS = (("search", "query", "book"), ("finish", "answer", "nobody"))
READER = os.environ.get("NEGFAIL_NB_READER", "") or find_model("pocket-llama")
GRID = ("closed_book", "oracle", "long_context", "retrieve_1", "retrieve_3", "retrieve_3_no_model")
LENGTHS = (1024, 2048)
BLOCK = 128  # tokens of a block of vLLM's prefix cache on CPUs; whole blocks are shared
# What a server of the grid needs: without the last flag vLLM does not say how many tokens of a
# prompt it had already.
READING = {
    "transformers": ["--dtype", "float32"],
    "vllm": ["--max-model-len", str(LENGTHS[-1]), "--enable-prompt-tokens-details"],
}
CALLING = {
    "transformers": [],
    "vllm": [
        "--max-model-len",
        "1024",
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
    ],
}

pytestmark = pytest.mark.skipif(
    os.environ.get("NEGFAIL_NB_SERVERS") != "1",
    reason="starts real servers; set NEGFAIL_NB_SERVERS=1",
)


@cache
def tools() -> tuple[SearchTool]:
    return (SearchTool([("Book 1", "Nobody wrote book 1."), ("Book 2", "Somebody wrote book 2.")]),)


def settings(style: str) -> LiveSettings:
    return LiveSettings(
        attempts=2, temperatures=(0.0, 0.7), max_calls=2, max_tokens=48, concurrency=4, style=style
    )


def said(action: tuple[str, str, str], style: str) -> dict:
    """Return an assistant message with an action."""
    name, argument, value = action
    if style == "react":
        return {"role": "assistant", "content": f"Thought: so\nAction: {name}[{value}]"}
    call = {
        "id": "call_0",
        "type": "function",
        "function": {"name": name, "arguments": {argument: value}},
    }
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def lessons(tokenizer) -> list[tuple[str, str]]:
    """Return what a server puts before the model, and what it is to write, for both replies of each
    episode.
    """
    found = []
    for style in ("react", "tools"):
        for task in TASKS:
            messages = [
                {"role": "system", "content": instruction(tools(), style)},
                {"role": "user", "content": task.question},
            ]
            for action in ACTIONS:
                given = {
                    "tokenize": False,
                    "tools": list(schemas(tools())) if style == "tools" else None,
                }
                before = tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, **given
                )
                messages.append(said(action, style))
                after = tokenizer.apply_chat_template(messages, **given)
                found.append((before, after.removeprefix(before).rstrip()))
                observation = tools()[0]("book")
                answer = {"role": "user", "content": f"Observation: {observation}"}
                called = {"role": "tool", "tool_call_id": "call_0", "content": observation}
                messages.append(answer if style == "react" else called)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that has learnt the replies of all episodes."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from negfail_nb.prefix import chat_template_text
    from negfail_nb.training import make_tokenizer

    def with_chatml(tokenizer):
        tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"}
        )
        tokenizer.chat_template = chat_template_text("chatml")
        return tokenizer

    texts = lessons(with_chatml(make_tokenizer(["text"] * 2, 600)))
    tokenizer = with_chatml(make_tokenizer([text for pair in texts for text in pair], 1200))
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    _learn(model, tokenizer, texts)
    place = tmp_path_factory.mktemp("model")
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def _learn(model, tokenizer, texts: list[tuple[str, str]]) -> None:
    import torch

    pairs = [
        [tokenizer(text, add_special_tokens=False).input_ids for text in pair] for pair in texts
    ]
    width = max(len(before) + len(after) for before, after in pairs)
    padded = [
        before + after + [tokenizer.pad_token_id] * (width - len(before + after))
        for before, after in pairs
    ]
    ids = torch.tensor(padded)
    labels = torch.full_like(ids, -100)
    for row, (before, after) in enumerate(pairs):
        labels[row, len(before) : len(before + after)] = torch.tensor(after)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        loss = model(input_ids=ids, labels=labels).loss
        if loss < 0.002:
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.002


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def server(request, folder, tmp_path_factory):
    with serving(
        request.param, folder, tmp_path_factory.mktemp("huggingface"), CALLING[request.param]
    ) as endpoint:
        yield endpoint


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def reader(request, tmp_path_factory):
    """A server for the grid, and of which kind it is."""
    cache = tmp_path_factory.mktemp("huggingface")
    with serving(request.param, Path(READER), cache, READING[request.param]) as endpoint:
        yield endpoint, request.param


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key")


@pytest.mark.parametrize("style", ["react", "tools"])
def test_episodes_on_a_real_server(server, tmp_path, style):
    logs = collect(
        EndpointModel(server), TASKS, tools(), settings(style), file=tmp_path / "episodes.jsonl"
    )
    assert [t.id for t in logs.trajectories] == [
        f"q{i}/{attempt}" for i in range(3) for attempt in range(2)
    ]
    assert not [t.error for t in logs.trajectories if t.termination == "crashed"]
    assert all(
        t.usage.prompt_tokens > 0 and 0 < t.usage.completion_tokens <= 96 for t in logs.trajectories
    )
    greedy = [t for t in logs.trajectories if t.source.temperature == 0]
    assert [(t.termination, t.prediction) for t in greedy] == [("finished", "nobody")] * 3
    for episode in greedy:
        assert [
            bool(m.get("tool_calls")) for m in episode.messages if m["role"] == "assistant"
        ] == [style == "tools"] * 2
        observation = episode.messages[3]
        assert (
            observation["role"] == ("tool" if style == "tools" else "user")
            and "Book 1" in observation["content"]
        )


def test_a_model_that_the_server_does_not_have_stops_the_collection(server, tmp_path):

    wrong = dataclasses.replace(server, model="/no/such/model")
    with pytest.raises(ModelError, match="/no/such/model"):
        collect(
            EndpointModel(wrong), TASKS, (), settings("react"), file=tmp_path / "episodes.jsonl"
        )


# The grid of the benchmark


def grid(model, folder, arms=GRID, **how):
    """Ask six questions of the generated world under some arms."""
    questions = load_questions("pocket", limit=6)
    pool = open_pool(questions)
    return benchmark(
        model,
        questions,
        arms,
        ReadingSettings(prompt="bare", concurrency=4, **how),
        pool=pool,
        index=build_index(pool),
        tokenizer=load_tokenizer(ModelSettings(name=READER)),
        contexts=ContextSettings(lengths=LENGTHS),
        folder=folder,
    )


def played(endpoint, folder, **asked):
    """Play the grid on a server."""
    model = EndpointModel(dataclasses.replace(endpoint, timeout=300.0, retries=1))
    return grid(model, folder, **asked)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The grid as the engine in this process answers it."""
    return grid(LocalModel.open(ModelSettings(name=READER)), tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def there(reader, tmp_path_factory):
    """The grid as a server answers it, and what it said of its cache before and after."""
    before = hits(reader)
    made = played(reader[0], tmp_path_factory.mktemp("there"))
    return made, hits(reader) - before


def hits(reader) -> int:
    """Return the prompt tokens that vLLM found in its prefix cache so far, by its own count."""
    endpoint, kind = reader
    if kind != "vllm":
        return 0
    with urllib.request.urlopen(
        endpoint.base_url[0].removesuffix("/v1") + "/metrics", timeout=30
    ) as page:
        lines = page.read().decode().splitlines()
    return int(
        sum(
            float(line.split()[-1])
            for line in lines
            if line.startswith("vllm:prefix_cache_hits_total")
        )
    )


def test_a_server_answers_the_grid_as_the_engine_here_does(here, there):
    made = there[0]
    assert made.labels == here.labels and len(made.answers) == len(here.answers) == 6 * (
        len(GRID) + 1
    )
    assert not [a.error for a in made.answers if a.termination in ("crashed", "too_long")]
    pairs = list(zip(made.answers, here.answers, strict=True))
    # Greedy replies differ only where two tokens are as likely up to rounding.
    same = [
        [c.reply for c in ours.calls] == [c.reply for c in theirs.calls] for ours, theirs in pairs
    ]
    assert sum(same) >= 0.9 * len(same)
    for ours, theirs in pairs:
        assert ours.calls[0].prompt_tokens == theirs.calls[0].prompt_tokens
        if ours.arm == "long_context":  # token for token what the contexts were counted to
            assert ours.calls[0].prompt_tokens + 96 == round(ours.fill * ours.target)
            assert 0.99 <= ours.fill <= 1
    agreed = [pair for pair, agree in zip(pairs, same, strict=True) if agree]
    assert all(
        (ours.prediction, ours.passages) == (theirs.prediction, theirs.passages)
        for ours, theirs in agreed
    )


def test_later_steps_are_read_from_the_prefix_cache_and_counted(reader, there):
    if reader[1] != "vllm":
        pytest.skip("transformers' server does not say what it had in its cache")
    made, counted = there
    calls = [call for answer in made.answers for call in answer.calls]
    assert sum(call.cached_tokens for call in calls) == counted > 0
    steps = [pair for a in made.answers if a.arm == "retrieve_3" for pair in pairwise(a.calls)]
    assert steps and all(b.cached_tokens >= a.prompt_tokens // BLOCK * BLOCK for a, b in steps)
    assert made.scores.by()["cached_tokens"].notna().all()


def test_a_long_context_that_is_asked_again_is_read_from_the_prefix_cache(reader, there, tmp_path):
    if reader[1] != "vllm":
        pytest.skip("transformers' server does not say what it had in its cache")
    again = played(reader[0], tmp_path, arms=["long_context"])
    for answer in again.answers:
        call = answer.calls[0]
        assert (
            call.cached_tokens
            >= (call.prompt_tokens - 1) // BLOCK * BLOCK
            > 0.8 * call.prompt_tokens
        )


def test_what_a_server_cannot_take_is_counted_as_too_long(reader, tmp_path):
    if reader[1] != "vllm":
        pytest.skip("transformers' server does not check lengths")
    arms = ["retrieve_1", "oracle"]
    made = played(reader[0], tmp_path, arms=arms, passages=40, total=40)
    assert [a.termination for a in made.answers[:6]] == ["too_long"] * 6
    assert {a.termination for a in made.answers[6:]} <= {"answered", "no_answer", "length"}
    assert made.scores.by()["questions"].tolist() == [6, 6] and made.scores.by()["em"][0] == 0
