"""SmolLM2 is tuned, merged and served: a server replies as the model in this process does.

``make test-servers``: ``transformers serve`` is always tried, vLLM where ``NEGFAIL_NB_VLLM`` names
a virtual environment that has it.
"""

import asyncio
import os

import pytest
from real_servers import serving
from smollm_runs import sums, tuned

from negfail_nb.agents import LocalModel, Sampling
from negfail_nb.agents.endpoint import EndpointModel
from negfail_nb.training.result import ADAPTER

FLAGS = {"transformers": ["--dtype", "float32"], "vllm": ["--max-model-len", "1024"]}
GREEDY = Sampling(temperature=0.0, max_tokens=12)

pytestmark = pytest.mark.skipif(
    os.environ.get("NEGFAIL_NB_SERVERS") != "1",
    reason="starts real servers; set NEGFAIL_NB_SERVERS=1",
)


@pytest.fixture(scope="module")
def merged(smollm, tmp_path_factory):
    """The folder of a model whose adapter was trained for three steps, and merged."""
    run = tuned(smollm, tmp_path_factory.mktemp("run"), "float32", rank=8, steps=3)
    assert run.weights.name == ADAPTER
    folder = tmp_path_factory.mktemp("merged")
    run.load().merge_and_unload().save_pretrained(folder)
    run.tokenizer().save_pretrained(folder)
    return folder


def asked():
    """Return three conversations: with the default system turn, one of its own, and four turns."""
    run = sums(1)[0].messages
    system = {"role": "system", "content": "Answer in few words."}
    capital = {"role": "user", "content": "What is the capital of France?"}
    return [capital], [system, capital], list(run[:3])


def replies(model):
    async def ask():
        async with model:
            return await asyncio.gather(*(model.reply(turns, GREEDY) for turns in asked()))

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def here(merged):
    return replies(LocalModel.open(merged))


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_a_server_replies_as_the_model_here_does(kind, merged, here, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key")
    with serving(kind, merged, tmp_path, FLAGS[kind]) as endpoint:
        there = replies(EndpointModel(endpoint))
    assert [r.message["content"] for r in there] == [r.message["content"] for r in here]
    assert [r.prompt_tokens for r in there] == [r.prompt_tokens for r in here]
    assert "Paris" in here[0].message["content"]
