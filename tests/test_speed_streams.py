"""Streams as servers really send them, and answers that are none: what came is read, and what went
wrong is said.
"""

import gzip
import json
from dataclasses import replace

import pytest
from stream_server import StreamServer
from test_live_refusals import TOO_LONG
from test_speed_load import PLAIN, PROMPTS, SMALL, ask, measure

from negfail_nb.agents import transport
from negfail_nb.agents.protocol import ModelError
from negfail_nb.settings import EndpointSettings
from negfail_nb.speed import probe_server, summarise
from negfail_nb.speed.client import Answer, Events


def event(text="a", **more):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None} | more
    return b"data: " + json.dumps({"choices": [choice]}).encode()


USAGE = b'data: {"id": "x", "usage": {"prompt_tokens": 100, "completion_tokens": 2}}'
END = b"data: [DONE]"


def stream(*events, end=b"\n\n", head=b"", pack=bytes):
    body = pack(end.join([*events, b""]))
    kind = b"Content-Type: text/event-stream; charset=utf-8\r\n"
    return b"HTTP/1.1 200 OK\r\n" + kind + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def read(*parts):
    answer = Answer(status=200, kind="text/event-stream")
    events = Events(answer)
    for time, part in enumerate(parts):
        events.feed(part, float(time))
    return answer


READ = {
    "usage without choices": stream(event(), event(), USAGE, END),
    "usage with choices null": stream(
        event(), event(), USAGE.replace(b'"id": "x"', b'"choices": null'), END
    ),
    "no end": stream(event(), event(finish_reason="stop"), USAGE),
    "comments": stream(b": keep-alive", event(), b": OPENROUTER PROCESSING", event(), USAGE, END),
    "carriage returns": stream(event(), event(), USAGE, END, end=b"\r\n\r\n"),
    "no space": stream(*(e.replace(b"data: ", b"data:") for e in (event(), event(), USAGE, END))),
    "no empty lines": stream(event(), event(), USAGE, END, end=b"\n"),
    "named events": stream(b"event: message\nid: 7\nretry: 10\n" + event(), event(), USAGE, END),
    "a sign of life": stream(event(), b'data: {"type": "ping"}', event(), b"data: {}", USAGE, END),
    "several lines": stream(
        event().replace(b'{"choices"', b'{\ndata: "choices"'), event(), USAGE, END
    ),
    "packed": stream(
        event(), event(), USAGE, END, head=b"Content-Encoding: gzip\r\n", pack=gzip.compress
    ),
    "blocks": stream(event([{"type": "text", "text": "a"}]), event("a"), USAGE, END),
}


@pytest.mark.parametrize("kind", READ)
def test_a_stream_is_read_however_it_is_written(kind):
    with StreamServer(fault=READ[kind]) as server:
        answer = ask(server, 1)[0]
    assert not answer.failure
    assert (
        "".join(chunk.text for chunk in answer.chunks) == "aa"
        and answer.usage["completion_tokens"] == 2
    )


@pytest.mark.parametrize(
    ("delta", "text", "thought"),
    [
        (
            {"tool_calls": [{"index": 0, "function": {"name": "search", "arguments": '{"q'}}]},
            'search{"q',
            "",
        ),
        (
            {"tool_calls": [{"index": 0, "function": {"arguments": '":1}'}}], "content": None},
            '":1}',
            "",
        ),
        ({"content": None, "reasoning_content": "hm"}, "", "hm"),
        ({"content": "", "reasoning": "hm"}, "", "hm"),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
            "",
            "hm",
        ),
        ({"refusal": "I cannot"}, "I cannot", ""),
        ({"role": "assistant", "content": ""}, "", ""),
        (None, "", ""),
    ],
)
def test_what_a_model_writes_is_text_or_thought(delta, text, thought):
    chunk = read(event(delta=delta) + b"\n\n").chunks[0]
    assert (chunk.text, chunk.thought) == (text, thought)


def test_an_event_that_is_cut_anywhere_is_one_event_of_its_last_byte():
    data = event() + b"\r\n\r\n" + USAGE + b"\r\n\r\n" + END + b"\r\n\r\n"
    whole = read(data)
    for place in range(1, len(data)):
        cut = read(data[:place], data[place:])
        assert ([c.text for c in cut.chunks], cut.usage, cut.done) == (
            [c.text for c in whole.chunks],
            whole.usage,
            True,
        )


FAILED = {
    "an error": (
        stream(event(), b'data: {"error": {"message": "it died", "code": 500}}'),
        "it died",
    ),
    "an error event": (stream(event(), b'event: error\ndata: {"message": "it died"}'), "it died"),
    "an error event of text": (stream(event(), b"event: error\ndata: it died"), "it died"),
    "an error object": (
        stream(event(), b'data: {"object": "error", "message": "it died"}', END),
        "it died",
    ),
    "garbage": (stream(event(), b"data: {garbage", END), "no chunk of a completion: {garbage"),
    "a list": (stream(event(), b"data: [1]", END), "no chunk of a completion"),
    "withheld": (stream(event("", finish_reason="content_filter"), END), "content_filter"),
    "only usage": (stream(USAGE, END), "held no text"),
    "brotli": (stream(event(), END, head=b"Content-Encoding: br\r\n"), "packed by br"),
    "no gzip": (
        stream(event(), END, head=b"Content-Encoding: gzip\r\n"),
        "connection was lost, or is no HTTP",
    ),
    "status line": (b"HTTQ/1 200\r\n\r\n", "no HTTP"),
    "chunk size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP"),
    "moved": (
        b"HTTP/1.1 307 Moved\r\nLocation: http://other/v1\r\nContent-Length: 0\r\n\r\n",
        "on to http://other/v1",
    ),
    "page": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        "no stream, but text/html",
    ),
}


@pytest.mark.parametrize("kind", FAILED)
def test_what_is_no_stream_of_text_fails_with_the_reason(kind):
    answer, words = FAILED[kind]
    with StreamServer(fault=answer) as server:
        assert words in ask(server, 1)[0].failure


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    "events", [[event("x" * 1000)] * 3000, [b"data: " + b"x" * 3_000_000]], ids=["many", "line"]
)
def test_a_stream_has_a_bound_which_is_kept_while_it_is_read(pack, events, monkeypatch):
    monkeypatch.setattr(transport, "MOST_BYTES", 1_000_000)
    head = b"Content-Encoding: gzip\r\n" if pack is gzip.compress else b""
    with StreamServer(fault=stream(*events, head=head, pack=pack)) as server:
        with pytest.raises(ModelError, match="over 1 MB came, which no reply needs"):
            probe_server(EndpointSettings(base_url=server.url, model="mock"))


def test_a_server_that_tells_of_zero_tokens_has_chunks_counted():
    zeros = USAGE.replace(b"100", b"0").replace(b": 2", b": 0")
    with StreamServer(fault=stream(event(), event(), zeros, END)) as server:
        found = measure(server)
    table = summarise(found.traces).table
    assert (
        {t.completion_tokens for t in found.measured}
        == {t.prompt_tokens for t in found.measured}
        == {None}
    )
    assert (table["tokens_out_per_s"] > 0).all() and not table["told"].any()
    assert table["tokens_out_min"].tolist() == [2] and table["tokens_in_per_s"].isna().all()


def test_a_server_that_thinks_and_speculates_is_measured_as_such():
    with StreamServer(
        kind="vllm", ttft=0.05, itl=0.02, tokens=13, merged=3, thoughts=6, drafted=3
    ) as server:
        found = measure(server, replace(SMALL, output_tokens=13))
    table = summarise(found.traces).table
    thinking = [t.answer.time - t.spoken[0].time for t in found.measured]
    assert all(0.11 < seconds < 0.3 for seconds in thinking)  # six tokens of 20 ms
    assert {t.drafts for t in found.measured} == {(12, 8)}
    assert (table["answered"] == 1.0).all() and (table["tokens_per_step"] == 3.0).all()
    assert table["drafts_accepted"].tolist() == pytest.approx([2 / 3] * len(table))


def test_negative_counts_are_none_and_a_cache_beside_the_prompt_is_part_of_it():
    usage = {
        "prompt_tokens": -4,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": -1},
    }
    beside = {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 60},
    }
    told = [
        stream(event(), b"data: " + json.dumps({"usage": u}).encode(), END) for u in (usage, beside)
    ]
    with StreamServer(faults=told) as server:
        first, second = measure(server).measured[:2]
    assert sorted([(t.prompt_tokens or 0, t.cached_tokens or 0) for t in (first, second)]) == [
        (0, 0),
        (64, 60),
    ]


def test_a_request_whose_prompt_was_cut_has_failed():
    cut = stream(event(), USAGE.replace(b"100", b"64"), END)
    with StreamServer(faults=[cut]) as server:
        found = measure(server, prompts=["word " * 200])
    assert [trace.ok for trace in found.measured].count(False) == 1
    with (
        StreamServer(fault=cut) as server,
        pytest.raises(ModelError, match="none of 6.*read 64 .*cut the prompt"),
    ):
        measure(server, prompts=["word " * 200])


def test_a_probe_waits_for_a_server_that_loads_its_model():
    with StreamServer(kind="vllm", faults=["loading"]) as server:
        assert probe_server(EndpointSettings(base_url=server.url, model="mock")).kind == "vllm"
    with (
        StreamServer(fault="loading") as server,
        pytest.raises(ModelError, match="Loading model.*start_timeout"),
    ):
        probe_server(EndpointSettings(base_url=server.url, model="mock", start_timeout=0.0))


@pytest.mark.parametrize(("status", "said"), TOO_LONG[:4])
def test_a_refusal_is_a_failure_in_the_servers_words(status, said):
    body = json.dumps({"error": {"message": said}}).encode()
    head = b"HTTP/1.1 %d No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
        status,
        len(body),
    )
    with StreamServer(faults=[head + body]) as server:
        errors = [
            trace.error for trace in measure(server, SMALL, facts=PLAIN, prompts=PROMPTS).measured
        ]
    assert sum(f"status {status}" in error and said[:30] in error for error in errors) == 1
