"""The load generator against a server of fixed times: loops, caches, failures, and going on where
it was stopped.
"""

import asyncio
import itertools
import json
import random
import re
import socket
from dataclasses import replace

import pytest
from stream_server import StreamServer

from negfail_nb.agents.protocol import ModelError
from negfail_nb.runs import SettingsChanged
from negfail_nb.settings import EndpointSettings, LoadSettings
from negfail_nb.speed import ClockError, ServerFacts, measure_load, read_traces
from negfail_nb.speed.client import Answer, Client
from negfail_nb.speed.load import arrivals, expand_cells
from negfail_nb.trajectory import UnreadableLog

PLAIN = ServerFacts(stream_options=True)
PROMPTS = ["one two three four five " * 10, "six seven eight nine ten " * 10]
SMALL = LoadSettings(concurrency=(2,), caches=("cold",), requests=6, warmup=0, output_tokens=4)


def measure(server: StreamServer, settings: LoadSettings = SMALL, timeout: float = 5.0, **more):
    endpoint = EndpointSettings(base_url=server.url, model="mock", timeout=timeout)
    return measure_load(
        endpoint, more.pop("prompts", PROMPTS), settings, **{"facts": PLAIN, **more}
    )


def ask(server: StreamServer, count: int, timeout: float = 5.0) -> list[Answer]:
    """Send requests one after the other; the server closes the connection after each."""

    async def send() -> list[Answer]:
        body = json.dumps(
            {"model": "mock", "messages": [], "stream": True, "max_tokens": 50}
        ).encode()
        async with Client(
            EndpointSettings(base_url=server.url, model="mock", timeout=timeout)
        ) as client:
            answers = []
            for _ in range(count):
                answers.append(await client.ask("/chat/completions", body))
                for connection in tuple(server.connections):
                    server._loop.call_soon_threadsafe(connection.abort)
                await asyncio.sleep(0.05)
        return answers

    return asyncio.run(send())


def sent_texts(server: StreamServer) -> list[str]:
    return [request["messages"][0]["content"] for request in server.requests]


def test_a_closed_loop_keeps_its_number_at_once():
    with StreamServer(ttft=0.02, itl=0.01) as server:
        found = measure(server, replace(SMALL, concurrency=(3,), requests=9))
    assert server.most_at_once == 3
    assert len(found.measured) == 9 and all(trace.ok for trace in found.traces)
    for trace in found.measured:
        assert [chunk.text for chunk in trace.spoken] == ["t0 ", "t1 ", "t2 ", "t3 "]
        first, last = trace.spoken[0].time - trace.sent, trace.spoken[-1].time - trace.sent
        assert first >= 0.02 and last >= 0.05  # no chunk is read before it was sent
        assert (trace.status, trace.finish, trace.completion_tokens) == (200, "length", 4)


def test_an_open_loop_sends_when_due_however_slow_the_server_is():
    settings = replace(SMALL, concurrency=(), rates=(200.0,), requests=12)
    with StreamServer(ttft=0.3) as server:
        found = measure(server, settings)
    assert server.most_at_once == 12  # nobody waits for an answer
    times = arrivals(200.0, 12, 0)
    assert [trace.scheduled for trace in found.measured] == pytest.approx(times)
    assert all(trace.sent >= trace.scheduled for trace in found.measured)


def test_arrivals_are_a_poisson_process():
    times = arrivals(5.0, 20_001, seed=1)
    waits = [b - a for a, b in itertools.pairwise(times)]
    mean = sum(waits) / len(waits)
    assert times[0] == 0 and mean == pytest.approx(0.2, rel=0.03)
    assert sum((w - mean) ** 2 for w in waits) / len(waits) == pytest.approx(0.04, rel=0.06)
    assert arrivals(5.0, 10, seed=1) != arrivals(5.0, 10, seed=2)


def test_warm_ups_are_kept_apart_and_none_of_the_prompts():
    with StreamServer() as server:
        found = measure(server, replace(SMALL, warmup=3))
    assert [trace.phase for trace in found.traces] == ["warmup"] * 3 + ["measured"] * 6
    assert len(found.measured) == 6
    assert not any(prompt.strip() in text for text in sent_texts(server)[:3] for prompt in PROMPTS)


def test_cold_prompts_are_new_each_time_and_warm_ones_known():
    settings = replace(SMALL, concurrency=(1, 2), caches=("cold", "warm"))
    with StreamServer(kind="vllm") as server:
        cells = {}
        for trace in [*measure(server, settings).measured, *measure(server, settings).measured]:
            cells.setdefault(trace.cell, []).append(trace)
    for label, traces in cells.items():
        cached = {trace.cached_tokens for trace in traces}
        assert cached == ({0} if label.endswith("cold") else {48}), label
    cold = [
        trace.nonce for label, traces in cells.items() if label.endswith("cold") for trace in traces
    ]
    assert len(set(cold)) == len(cold) == 24
    texts = sent_texts(server)
    assert all(text.startswith("[") for text in texts) and any(PROMPTS[1] in text for text in texts)


def test_warm_ups_that_fail_are_told_of(caplog):
    with StreamServer(faults=["500"]) as server:
        found = measure(server, replace(SMALL, warmup=2))
    assert "closed@2/cold: 1 of 2 requests before it failed: status 500" in caplog.text
    assert all(trace.ok for trace in found.measured)


def test_the_cache_is_emptied_where_asked_for(caplog):
    settings = replace(SMALL, reset_cache=True)
    with StreamServer(kind="vllm") as server:
        measure(server, settings, facts=ServerFacts(reset="//reset_prefix_cache"))
        assert server.paths.count("/reset_prefix_cache") == 1
        measure(server, settings)
    assert "cannot be emptied: no path for that is known" in caplog.text


@pytest.mark.parametrize("kind", ["vllm", "sglang", "transformers", "llama.cpp"])
def test_replies_have_the_length_asked_for_where_the_server_can(kind):
    settings = replace(SMALL, output_tokens=20)
    with StreamServer(kind=kind, tokens=5) as server:
        assert {t.completion_tokens for t in measure(server, settings, facts=None).measured} == {20}
        free = measure(server, replace(settings, fixed_length=False), facts=None)
    assert {(len(t.spoken), t.finish) for t in free.measured} == {(5, "stop")}


@pytest.mark.parametrize(
    "fault, status, chunks, said",
    [
        ("500", 500, 0, "status 500: .*scripted 500"),
        ("429", 429, 0, "status 429"),
        ("html", 200, 0, "no stream, but text/html"),
        ("silent", 200, 0, "held no text"),
        ("drop", 200, 2, "connection was lost"),
        ("garbage", 200, 2, "no chunk of a completion"),
        ("error", 200, 2, "the engine died"),
        ("hang", 0, 0, "timeout: not answered within 0.3 s"),
    ],
)
def test_a_failure_is_kept_with_its_reason_and_not_tried_again(fault, status, chunks, said):
    with StreamServer(faults=["", fault], ttft=0.01) as server:
        found = measure(
            server, replace(SMALL, concurrency=(1,)), timeout=0.3 if fault == "hang" else 5.0
        )
    assert len(server.requests) == 6
    failed = found.measured[1]
    assert [trace.ok for trace in found.measured] == [True, False] + [True] * 4
    assert (failed.status, len(failed.spoken)) == (status, chunks)
    assert re.search(said, failed.error)


def test_what_had_come_before_a_timeout_is_kept():
    with StreamServer(itl=0.1, tokens=50) as server:
        answer = ask(server, 1, timeout=0.35)[0]
    assert "timeout" in answer.error and 2 <= len(answer.chunks) <= 4
    assert answer.sent <= answer.chunks[0].time <= answer.chunks[-1].time <= answer.ended


def test_a_cell_without_success_is_an_error_and_not_kept(tmp_path):
    file = tmp_path / "traces.jsonl"
    with (
        StreamServer(fault="500") as server,
        pytest.raises(ModelError, match=r"closed@2/cold: none of 6.*6 times.*500"),
    ):
        measure(server, file=file)
    assert not file.exists() or not file.read_text()


def test_a_clock_that_goes_back_is_an_error():
    ticks = itertools.count()
    with StreamServer() as server, pytest.raises(ClockError, match="backwards"):
        measure(server, clock=lambda: -float(next(ticks)))


def test_no_server_and_a_wrong_model_are_errors():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ModelError, match="cannot reach"):
        measure_load(EndpointSettings(base_url=url, model="mock"), PROMPTS, SMALL)
    with pytest.raises(ModelError, match="cannot open 2 connections .*Is the server up"):
        measure_load(EndpointSettings(base_url=url, model="mock"), PROMPTS, SMALL, facts=PLAIN)
    with StreamServer(model="llama") as server, pytest.raises(ModelError, match="does not exist"):
        measure(server, facts=None)


@pytest.mark.parametrize("prompts", [[], [""], [[]], [[{"role": "user", "content": None}]]])
def test_prompts_without_text_are_refused(prompts):
    with pytest.raises(ValueError, match="prompt"):
        measure_load(
            EndpointSettings(base_url="http://127.0.0.1:9/v1", model="mock"), prompts, SMALL
        )


def test_a_connection_that_the_server_closed_meanwhile_is_opened_anew():
    with StreamServer() as server:
        assert [answer.error for answer in ask(server, 3)] == [""] * 3


def test_a_finished_cell_is_not_measured_again_and_a_broken_one_is(tmp_path):
    file = tmp_path / "traces.jsonl"
    with StreamServer() as server:
        first = measure(server, file=file)
        assert list(read_traces(file)) == list(first.traces)
        asked = len(server.requests)
        again = measure(server, replace(SMALL, concurrency=(2, 1)), file=file)
        assert len(server.requests) == asked + 6 and len(again.measured) == 12
        assert again.measured[:6] == first.measured
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:-1]) + lines[-1][:40])  # as a killed run leaves it
        mended = measure(server, replace(SMALL, concurrency=(2, 1)), file=file)
        assert len(server.requests) == asked + 12
    assert mended.measured[:6] == first.measured and len(mended.measured) == 12


def test_all_done_needs_no_server_and_keeps_what_was_found_out(tmp_path):
    file = tmp_path / "traces.jsonl"
    with StreamServer(kind="vllm") as server:
        first = measure(server, file=file, facts=None)
    again = measure(server, file=file, facts=None)
    assert (again.traces, again.facts.kind) == (first.traces, "vllm")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"settings": replace(SMALL, output_tokens=5)}, "output_tokens: 4 -> 5"),
        ({"prompts": ["another"]}, "prompts"),
        ({"timeout": 9.0}, "timeout: 5.0 -> 9.0"),
    ],
)
def test_a_file_of_other_settings_is_refused(tmp_path, change, said):
    file = tmp_path / "traces.jsonl"
    with StreamServer() as server:
        measure(server, file=file)
        with pytest.raises(SettingsChanged, match=said):
            measure(server, file=file, **change)


def test_a_file_of_another_schema_is_refused(tmp_path):
    file = tmp_path / "traces.jsonl"
    with StreamServer() as server:
        measure(server, file=file)
        file.write_text(file.read_text().replace("negfail_nb.trace/1", "negfail_nb.trace/9"))
        with pytest.raises(UnreadableLog, match="negfail_nb.trace/9"):
            measure(server, file=file)


def test_the_key_stands_nowhere(tmp_path, monkeypatch):
    key = "very-" + "".join(random.Random(0).choices("abcdef", k=20))
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with StreamServer(faults=["", "quote"]) as server:
        found = measure(server, file=tmp_path / "traces.jsonl")
        server.fault = "quote"
        with pytest.raises(ModelError) as error:
            measure(server, facts=None)
    assert f"Bearer {key}" in server.head and any("***" in trace.error for trace in found.traces)
    assert key not in str(error.value)
    assert key not in json.dumps([trace.to_dict() for trace in found.traces])
    assert not any(key in path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"concurrency": (0,)}, "concurrency"),
        ({"concurrency": ()}, "concurrency"),
        ({"rates": (0.0,)}, "rates"),
        ({"rates": (float("inf"),)}, "rates"),
        ({"caches": ("hot",)}, "caches"),
        ({"caches": ()}, "caches"),
        ({"requests": 0}, "requests"),
    ],
)
def test_settings_that_cannot_be_right_are_named(wrong, named):
    with pytest.raises(ValueError, match=rf"LoadSettings\.{named} is"):
        LoadSettings(**wrong)


def test_every_load_has_each_cache():
    labels = [cell.label for cell in expand_cells(LoadSettings(concurrency=(1, 16), rates=(2.5,)))]
    assert labels == [
        f"{load}/{cache}"
        for load in ("closed@1", "closed@16", "poisson@2.5")
        for cache in ("cold", "warm")
    ]
