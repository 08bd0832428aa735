"""Raw traces: what is kept of a request, what is refused, and how streams are read."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.speed import Chunk, ClockError, Trace, read_traces
from negfail_nb.speed.client import Answer, Events
from negfail_nb.trajectory import UnreadableLog

CHUNKS = (
    Chunk(0.2, choices=True),
    Chunk(0.5, "Hé", "", 1),
    Chunk(0.6, "", "so", 2),
    Chunk(0.7, choices=False),
)
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}


def make(**changes) -> Trace:
    values = {
        "cell": "closed@1/cold",
        "number": 3,
        "scheduled": 0.0,
        "sent": 0.1,
        "ended": 0.8,
        "chunks": CHUNKS,
    }
    return Trace(**{**values, "usage": USAGE, **changes})


def test_a_trace_comes_back_as_it_was_written(tmp_path):
    file = tmp_path / "traces.jsonl"
    traces = [
        make(),
        make(number=4, chunks=(), usage={}, error="timeout", status=0, finish="", nonce="abc"),
    ]
    file.write_text(
        "".join(json.dumps(trace.to_dict()) + "\n" for trace in traces), encoding="utf-8"
    )
    assert list(read_traces(file)) == traces
    assert (traces[0].prompt_tokens, traces[0].completion_tokens, traces[0].cached_tokens) == (
        9,
        2,
        4,
    )
    assert (traces[1].prompt_tokens, traces[1].ok, traces[0].ok) == (None, False, True)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"schema": "negfail_nb.trace/0"}, "negfail_nb.trace/0"),
        ({"schema": None}, "schema is None"),
        ({"sent": -1.0}, "clock goes backwards"),
        ({"surprise": 1}, "surprise"),
        ({"chunks": {"time": [0.2]}}, "text"),
        ({"phase": "later"}, "phase is 'later'"),
        ({"sent": "soon"}, "not supported"),
    ],
)
def test_a_line_of_another_kind_names_file_line_and_reason(tmp_path, change, said):
    file = tmp_path / "traces.jsonl"
    lines = [make().to_dict(), {**make(number=4).to_dict(), **change}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UnreadableLog, match="traces.jsonl:line 2") as error:
        list(read_traces(file))
    assert said in str(error.value)


def test_a_missing_field_is_named(tmp_path):
    record = make().to_dict()
    del record["scheduled"]
    with pytest.raises(ValueError, match="'scheduled' is missing"):
        Trace.from_dict(record)


@pytest.mark.parametrize(
    "times",
    [
        {"scheduled": 0.2},
        {"ended": 0.65},
        {"chunks": (Chunk(0.5, "a"), Chunk(0.4, "b"))},
        {"ended": math.nan},
        {"chunks": (Chunk(0.05, "a"),)},
    ],
)
def test_times_that_go_back_are_refused(times):
    with pytest.raises(ClockError, match=r"closed@1/cold/measured/3.*backwards"):
        make(**times)


def event(text: str, **more) -> bytes:
    return (
        b"data: "
        + json.dumps({"choices": [{"delta": {"content": text}, **more}]}).encode()
        + b"\n\n"
    )


STREAM = (
    b": keep-alive\n\n"
    + event("")
    + event("é\n\ndata: x")
    + event("b", finish_reason="stop").replace(b"\n", b"\r\n")
    + b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\ndata: [DONE]\n\n'
)


@given(st.sets(st.integers(1, len(STREAM) - 1)))
def test_however_the_bytes_are_cut_the_same_is_read(cuts):
    answer = Answer(status=200)
    events, ends = Events(answer), [0, *sorted(cuts), len(STREAM)]
    for start, end in zip(ends, ends[1:], strict=False):
        events.feed(STREAM[start:end], float(end))
    assert [chunk.text for chunk in answer.chunks] == ["", "é\n\ndata: x", "b", ""]
    assert [chunk.choices for chunk in answer.chunks] == [True, True, True, False]
    assert (answer.finish, answer.usage, answer.done, answer.error) == (
        "stop",
        {"completion_tokens": 2},
        True,
        "",
    )
    # Each has the time of the read that completed its line.
    first = STREAM.index(b"\n", STREAM.index(b'"content": ""')) + 1
    assert answer.chunks[0].time == min(end for end in ends if end >= first)


@pytest.mark.parametrize(
    "data, said",
    [
        (b"{half", "no chunk of a completion: {half"),
        (b"[]", "no chunk of a completion"),
        (b'{"choices": [7]}', "no chunk of a completion"),
        (b'{"choices": [{"delta": {"content": 7}}]}', "no chunk of a completion"),
        (b'{"error": {"message": "the engine died"}}', "the engine died"),
        (b'{"error": "out of memory"}', "out of memory"),
    ],
)
def test_an_event_that_is_no_chunk_is_an_error(data, said):
    answer = Answer(status=200)
    Events(answer).feed(b"data: " + data + b"\n\n", 1.0)
    assert said in answer.error


def test_reasoning_counts_as_written_but_is_no_reply():
    answer = Answer(status=200)
    Events(answer).feed(b'data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}\n\n', 1.0)
    assert (answer.chunks[0].spoken, answer.chunks[0].text, answer.chunks[0].thought) == (
        True,
        "",
        "hm",
    )
