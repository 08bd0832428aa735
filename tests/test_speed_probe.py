"""What is found out about servers of several kinds, and what is said of those that cannot be
measured.
"""

import socket

import pytest
from stream_server import StreamServer

from negfail_nb.agents.protocol import ModelError
from negfail_nb.settings import EndpointSettings
from negfail_nb.speed import ServerFacts, probe_server

STREAMING = {"role_first": True, "stream_options": True}
KINDS = {
    "vllm": {
        **STREAMING,
        "models": ("mock",),
        "usage": "apart",
        "every_chunk": True,
        "fixed_length": "ignore_eos",
        "cached_tokens": True,
        "reset": "//reset_prefix_cache",
    },
    "transformers": {**STREAMING, "usage": "finish", "fixed_length": "generation_config"},
    "llama.cpp": {
        **STREAMING,
        "models": ("mock",),
        "usage": "apart",
        "fixed_length": "ignore_eos",
        "cached_tokens": True,
    },
    "": {"models": ("mock",), "stream_options": True, "usage": "apart", "cached_tokens": True},
}
KINDS["sglang"] = {**KINDS["vllm"], "reset": "//flush_cache"}


def endpoint(url: str, **more) -> EndpointSettings:
    return EndpointSettings(base_url=url, model="mock", **{"timeout": 5.0, **more})


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_server_can_do_is_found_out(kind):
    with StreamServer(kind=kind) as server:
        assert probe_server(endpoint(server.url)) == ServerFacts(kind=kind, **KINDS[kind])
        assert "/reset" not in server.paths and server.at_once == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_that_follow_are_taken(kind):
    with StreamServer(kind=kind) as server:
        fields = probe_server(endpoint(server.url)).fields()
    assert ("ignore_eos" in fields) == (kind in ("vllm", "sglang", "llama.cpp"))
    assert fields["stream_options"].get("continuous_usage_stats", False) == (
        kind in ("vllm", "sglang")
    )


def test_chunks_of_several_tokens_and_silence_on_tokens_show():
    with StreamServer(merged=3) as server:
        assert probe_server(endpoint(server.url)).merged_chunks
    with StreamServer(usage=False) as server:
        facts = probe_server(endpoint(server.url))
    assert (facts.usage, facts.cached_tokens, facts.merged_chunks, facts.fixed_length) == (
        "",
        False,
        False,
        "",
    )


def test_no_server():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ModelError, match=r"cannot reach .*Is the server up"):
        probe_server(endpoint(url))


def test_a_wrong_model_names_those_that_are_there():
    with StreamServer(kind="vllm", model="llama") as server, pytest.raises(ModelError) as error:
        probe_server(endpoint(server.url))
    assert "'mock'" in str(error.value) and "It lists 'llama'" in str(error.value)


@pytest.mark.parametrize(
    "fault, said",
    [
        ("silent", "the stream held no text"),
        ("role", "the stream held no text"),
        ("drop", "connection was lost"),
        ("error", "the engine died"),
        ("html", "web page"),
        ("500", "scripted 500"),
    ],
)
def test_a_server_without_a_stream_of_text_is_refused(fault, said):
    with StreamServer(kind="vllm", fault=fault) as server, pytest.raises(ModelError, match=said):
        probe_server(endpoint(server.url, retries=0))


def test_a_server_that_says_nothing_at_all_ends_in_a_timeout():
    with StreamServer(fault="hang") as server, pytest.raises(ModelError, match="timeout"):
        probe_server(endpoint(server.url, timeout=0.2))


@pytest.mark.parametrize(
    "wrong, said", [({"model": ""}, "model is empty"), ({"base_url": "localhost"}, "http://")]
)
def test_settings_that_cannot_be_right(wrong, said):
    with pytest.raises(ModelError, match=said):
        probe_server(
            EndpointSettings(**{"base_url": "http://127.0.0.1:9/v1", "model": "mock", **wrong})
        )
