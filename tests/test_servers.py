"""Real servers on loopback, with a small model that has learnt six episodes by heart: ``make test-servers``.

``transformers serve`` is always tried; vLLM where ``NEGFAIL_NB_VLLM`` names a virtual environment that has it.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from functools import cache
from pathlib import Path

import pytest

from negfail_nb.collect.endpoint import EndpointModel
from negfail_nb.collect.live import collect
from negfail_nb.collect.protocol import ModelError, Task
from negfail_nb.collect.tools import SearchTool, instruction, schemas
from negfail_nb.profiles import EndpointSettings, LiveSettings

VLLM = os.environ.get("NEGFAIL_NB_VLLM", "")
START = 300  # seconds that a server may take to start
TASKS = [Task(id=f"q{i}", question=f"Who wrote book {i}?", answer="nobody") for i in range(3)]
ACTIONS = (("search", "query", "book"), ("finish", "answer", "nobody"))

pytestmark = pytest.mark.skipif(
    os.environ.get("NEGFAIL_NB_SERVERS") != "1", reason="starts real servers; set NEGFAIL_NB_SERVERS=1"
)


@cache
def tools() -> tuple[SearchTool]:
    return (SearchTool([("Book 1", "Nobody wrote book 1."), ("Book 2", "Somebody wrote book 2.")]),)


def settings(style: str) -> LiveSettings:
    return LiveSettings(attempts=2, temperatures=(0.0, 0.7), max_calls=2, max_tokens=48, concurrency=4, style=style)


def said(action: tuple[str, str, str], style: str) -> dict:
    """Return an assistant message with an action."""
    name, argument, value = action
    if style == "react":
        return {"role": "assistant", "content": f"Thought: so\nAction: {name}[{value}]"}
    call = {"id": "call_0", "type": "function", "function": {"name": name, "arguments": {argument: value}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def lessons(tokenizer) -> list[tuple[str, str]]:
    """Return what a server puts before the model, and what it is to write, for both replies of each episode."""
    found = []
    for style in ("react", "tools"):
        for task in TASKS:
            messages = [
                {"role": "system", "content": instruction(tools(), style)},
                {"role": "user", "content": task.question},
            ]
            for action in ACTIONS:
                given = {"tokenize": False, "tools": list(schemas(tools())) if style == "tools" else None}
                before = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **given)
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

    from negfail_nb.prefix.chat import chat_template_text
    from negfail_nb.train import make_tokenizer

    def with_chatml(tokenizer):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"})
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

    pairs = [[tokenizer(text, add_special_tokens=False).input_ids for text in pair] for pair in texts]
    width = max(len(before) + len(after) for before, after in pairs)
    padded = [before + after + [tokenizer.pad_token_id] * (width - len(before + after)) for before, after in pairs]
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


def commands(kind: str, folder: Path, port: int) -> tuple[list[str], str]:
    """Return the command of a server, and the model's name there."""
    if kind == "vllm":
        flags = ["--served-model-name", "small", "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"]
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
        return [f"{VLLM}/bin/vllm", "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), *flags], "small"
    flags = [
        "--continuous-batching",
        "--device",
        "cpu",
        "--attn-implementation",
        "sdpa",
        "--cb-max-memory-percent",
        "0.1",
    ]
    program = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder)]
    return [*program, "--host", "127.0.0.1", "--port", str(port), *flags], str(folder)


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def server(request, folder, tmp_path_factory):
    if request.param == "vllm" and not VLLM:
        pytest.skip("NEGFAIL_NB_VLLM names no environment with vLLM")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cache = tmp_path_factory.mktemp("huggingface")
    (cache / "hub").mkdir()  # without it, transformers' server answers 500
    offline = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    command, name = commands(request.param, folder, port)
    log = cache / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=os.environ | offline, stdout=stream, stderr=subprocess.STDOUT)
    try:
        wait(f"http://127.0.0.1:{port}/health", process, log)
        yield EndpointSettings(base_url=f"http://127.0.0.1:{port}/v1", model=name, timeout=120.0, retries=1)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def wait(url: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key")


@pytest.mark.parametrize("style", ["react", "tools"])
def test_episodes_on_a_real_server(server, tmp_path, style):
    logs = collect(EndpointModel(server), TASKS, tools(), settings(style), file=tmp_path / "episodes.jsonl")
    assert [t.id for t in logs.trajectories] == [f"q{i}/{attempt}" for i in range(3) for attempt in range(2)]
    assert not [t.error for t in logs.trajectories if t.termination == "crashed"]
    assert all(t.usage.prompt_tokens > 0 and 0 < t.usage.completion_tokens <= 96 for t in logs.trajectories)
    greedy = [t for t in logs.trajectories if t.source.temperature == 0]
    assert [(t.termination, t.prediction) for t in greedy] == [("finished", "nobody")] * 3
    for episode in greedy:
        assert [bool(m.get("tool_calls")) for m in episode.messages if m["role"] == "assistant"] == [
            style == "tools"
        ] * 2
        observation = episode.messages[3]
        assert observation["role"] == ("tool" if style == "tools" else "user") and "Book 1" in observation["content"]


def test_a_model_that_the_server_does_not_have_stops_the_collection(server, tmp_path):
    import dataclasses

    wrong = dataclasses.replace(server, model="/no/such/model")
    with pytest.raises(ModelError, match="/no/such/model"):
        collect(EndpointModel(wrong), TASKS, (), settings("react"), file=tmp_path / "episodes.jsonl")
