"""Real servers on loopback, with a small model made on the fly: ``make test-servers``.

``transformers serve`` is always tried; vLLM where ``NEGFAIL_NB_VLLM`` names a virtual environment that has it.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from negfail_nb.collect.endpoint import EndpointModel
from negfail_nb.collect.live import collect
from negfail_nb.collect.protocol import ModelError, Task
from negfail_nb.collect.tools import SearchTool
from negfail_nb.profiles import EndpointSettings, LiveSettings, ModelSettings

VLLM = os.environ.get("NEGFAIL_NB_VLLM", "")
START = 300  # seconds that a server may take to start
TASKS = [Task(id=f"q{i}", question=f"Who wrote book {i}?", answer="nobody") for i in range(3)]
SETTINGS = LiveSettings(attempts=2, temperatures=(0.0, 0.7), max_calls=2, max_tokens=16, concurrency=4)

pytestmark = pytest.mark.skipif(
    os.environ.get("NEGFAIL_NB_SERVERS") != "1", reason="starts real servers; set NEGFAIL_NB_SERVERS=1"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from negfail_nb.train import load_model, make_tokenizer

    tokenizer = make_tokenizer(["Question: who wrote the book? Action: search[book] finish[answer]"] * 9, 600)
    model = load_model(ModelSettings(layers=2, width=64, heads=2, vocabulary=600, positions=2048), tokenizer)
    place = tmp_path_factory.mktemp("model")
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def commands(kind: str, folder: Path, port: int) -> tuple[list[str], str]:
    """Return the command of a server, and the model's name there."""
    if kind == "vllm":
        flags = ["--served-model-name", "small", "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"]
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


def test_episodes_on_a_real_server(server, tmp_path):
    tools = (SearchTool([("Book 1", "Nobody wrote book 1."), ("Book 2", "Somebody wrote book 2.")]),)
    logs = collect(EndpointModel(server), TASKS, tools, SETTINGS, file=tmp_path / "episodes.jsonl")
    assert [t.id for t in logs.trajectories] == [f"q{i}/{attempt}" for i in range(3) for attempt in range(2)]
    assert not [t.error for t in logs.trajectories if t.termination == "crashed"]
    assert all(t.usage.prompt_tokens > 0 and 0 < t.usage.completion_tokens <= 32 for t in logs.trajectories)
    again = collect(EndpointModel(server), TASKS, tools, SETTINGS, file=tmp_path / "again.jsonl")
    greedy = [[t.messages for t in part.trajectories if t.source.temperature == 0] for part in (logs, again)]
    assert greedy[0] == greedy[1]


def test_a_model_that_the_server_does_not_have_stops_the_collection(server, tmp_path):
    import dataclasses

    wrong = dataclasses.replace(server, model="/no/such/model")
    with pytest.raises(ModelError, match="/no/such/model"):
        collect(EndpointModel(wrong), TASKS, (), SETTINGS, file=tmp_path / "episodes.jsonl")
