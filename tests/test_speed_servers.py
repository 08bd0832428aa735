"""Load on real servers, with pocket-llama: ``make test-servers``.

``transformers serve`` is always tried; vLLM where ``NEGFAIL_NB_VLLM`` names a virtual environment
that has it.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from real_servers import serving

from negfail_nb.agents.protocol import ModelError
from negfail_nb.models import find_model
from negfail_nb.settings import LoadSettings
from negfail_nb.speed import ServerFacts, measure_load, probe_server, summarise

pytestmark = pytest.mark.skipif(
    os.environ.get("NEGFAIL_NB_SERVERS") != "1",
    reason="starts real servers; set NEGFAIL_NB_SERVERS=1",
)

SETTINGS = LoadSettings(concurrency=(4,), rates=(8.0,), requests=12, output_tokens=24)
PROMPTS = [
    "Who wrote the book of words, and where was she born? " * 12,
    "In which city is the firm? " * 20,
]
FLAGS = {"transformers": [], "vllm": ["--max-model-len", "1024", "--enable-prompt-tokens-details"]}
FACTS = {
    "transformers": {"usage": "finish", "fixed_length": "generation_config"},
    "vllm": {
        "models": ("small",),
        "usage": "apart",
        "every_chunk": True,
        "fixed_length": "ignore_eos",
        "cached_tokens": True,
        "reset": "//reset_prefix_cache",
    },
}


@pytest.fixture(scope="module", params=list(FACTS))
def server(request, tmp_path_factory):
    """A server, and of which kind it is."""
    cache = tmp_path_factory.mktemp("huggingface")
    with serving(
        request.param, Path(find_model("pocket-llama")), cache, FLAGS[request.param]
    ) as endpoint:
        yield endpoint, request.param


@pytest.fixture(scope="module")
def measured(server):
    return measure_load(server[0], PROMPTS, SETTINGS)


def test_what_a_real_server_can_do_is_found_out(server):
    endpoint, kind = server
    found = replace(probe_server(endpoint), merged_chunks=False)  # depends on what the model says
    assert found == ServerFacts(kind=kind, role_first=True, stream_options=True, **FACTS[kind])


def test_a_model_that_it_does_not_have_is_an_error(server):
    with pytest.raises(ModelError, match="no-such-model"):
        probe_server(replace(server[0], model="/no-such-model"))


def test_all_requests_succeed_at_the_length_asked_for(measured):
    table = summarise(measured.traces, refuse_failures=True).table
    assert table["cell"].tolist() == [
        f"{load}/{cache}" for load in ("closed@4", "poisson@8") for cache in ("cold", "warm")
    ]
    assert (
        (table["tokens_out_min"] == 24).all()
        and (table["tokens_out_max"] == 24).all()
        and table["told"].all()
    )
    assert (table["steady_tokens_out_per_s"] > 0).all()


def test_only_warm_prompts_come_from_the_cache(server, measured):
    shares = dict(
        summarise(measured.traces).table[["cell", "cached_share"]].itertuples(index=False)
    )
    if server[1] != "vllm":
        assert all(share != share for share in shares.values())  # it does not say
    else:
        assert all(
            share == 0 if cell.endswith("cold") else share > 0.4 for cell, share in shares.items()
        )
