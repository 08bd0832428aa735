"""What traces come to, held against numbers worked out by hand."""

import math

import numpy as np
import pytest
from _dialects import dialects
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.intervals import weighted_quantiles
from negfail_nb.settings import EvaluateSettings
from negfail_nb.speed import Chunk, Limits, RequestsFailed, Trace, request_table, summarise
from negfail_nb.speed.metrics import LATENCIES, METRICS, QUANTILES, CellTraces, Metric, spread

FEW = EvaluateSettings(resamples=200)


def trace(number=0, sent=0.0, times=(1.0, 1.5, 2.5), cell="closed@2/cold", **more) -> Trace:
    """A request with a role-only chunk after 0.25 s, tokens after these seconds, and usage 0.25 s
    after the last.
    """
    after = [0.25, *times, times[-1] + 0.25]
    middle = [Chunk(sent + time, f"t{n} ") for n, time in enumerate(times)]
    chunks = (Chunk(sent + 0.25), *middle, Chunk(sent + after[-1], choices=False))
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 25},
    }
    values = {
        "scheduled": sent,
        "ended": sent + after[-1] + 0.25,
        "chunks": chunks,
        "usage": usage,
        **more,
    }
    return Trace(cell=cell, number=number, sent=sent, finish="length", **values)


def failed(number=0, sent=0.0, **more) -> Trace:
    return trace(number, sent, error="status 500", status=500, usage={}, **more)


def latencies(summary, metric) -> dict:
    rows = summary.latencies[summary.latencies["metric"] == metric]
    return dict(zip(rows["statistic"], rows["value"], strict=True))


def test_a_request_by_hand():
    row = request_table([trace(sent=2.0, scheduled=1.5)]).iloc[0]
    assert (row["ttft"], row["tpot"], row["e2e"], row["lag"]) == (
        1.5,
        1.5 / 4,
        3.0,
        0.5,
    )  # from when it was due
    assert (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"], row["told"]) == (
        100,
        25,
        5,
        True,
    )


def test_where_the_first_chunk_holds_several_tokens_they_are_no_later_ones():
    chunks = (Chunk(1.0, "a b c", "", 3), Chunk(2.0, "d", "", 4), Chunk(3.0, "e", "", 5))
    assert request_table([trace(chunks=chunks)]).iloc[0]["tpot"] == 1.0


def test_where_the_server_counts_no_tokens_chunks_are_counted_and_said_to_be():
    row = request_table([trace(usage={})]).iloc[0]
    assert (row["completion_tokens"], row["told"], row["tpot"]) == (3, False, 0.75)
    assert math.isnan(row["prompt_tokens"]) and math.isnan(row["cached_tokens"])


def test_one_token_has_no_time_a_token_and_still_is_a_good_request():
    one = trace(times=(1.0,), usage={"completion_tokens": 1})
    assert math.isnan(request_table([one]).iloc[0]["tpot"])
    assert summarise([one], Limits(tpot=0.001), FEW).table.iloc[0]["good_share"] == 1.0


THINKING = {
    "a field of its own": [("", "hm"), ("", "so"), ("Ida", ""), (" H", "")],
    "tags": [("<think>h", ""), ("m</thi", ""), ("nk>\n\nIda", ""), (" H", "")],
    "a tag that only closes": [("hm", ""), ("so\n</think>\n", ""), ("Ida", ""), (" H", "")],
}


@pytest.mark.parametrize("kind", THINKING)
def test_the_answer_begins_after_what_a_model_only_thinks(kind):
    chunks = tuple(Chunk(n + 1.0, *said) for n, said in enumerate(THINKING[kind]))
    row = request_table([trace(chunks=chunks, ended=9.0)]).iloc[0]
    assert (row["ttft"], row["ttfa"]) == (1.0, 3.0)


@pytest.mark.parametrize("kind", ["a field of its own", "tags"])
def test_a_reply_that_was_cut_while_thinking_was_never_answered(kind):
    chunks = tuple(Chunk(n + 1.0, *said) for n, said in enumerate(THINKING[kind]))
    traces = [trace(0, chunks=chunks[:1], ended=9.0), trace(1, chunks=chunks, ended=9.0)]
    found = summarise(traces, settings=FEW)
    assert found.table.iloc[0]["answered"] == 0.5 and latencies(found, "ttfa")["p95"] == math.inf


def test_without_thoughts_the_first_token_is_the_answers():
    assert request_table([trace()]).iloc[0]["ttfa"] == 1.0


SPECULATED = {
    "chunks": {},
    "OpenAI": {
        "completion_tokens_details": {
            "accepted_prediction_tokens": 6,
            "rejected_prediction_tokens": 2,
        }
    },
    "vLLM": {"speculative_decoding": {"num_draft_tokens": 8, "num_accepted_draft_tokens": 6}},
    "llama.cpp": {"timings": {"draft_n": 8, "draft_n_accepted": 6}},
}


@pytest.mark.parametrize("kind", SPECULATED)
def test_tokens_a_step_are_what_the_server_tells_of_drafts_else_tokens_a_chunk(kind):
    # 10 tokens: the first, and 9 in 3 steps; of the drafted ones 6 were accepted.
    usage = {"completion_tokens": 10, **SPECULATED[kind]}
    times = (1.0, 2.0, 3.0, 4.0) if kind == "chunks" else (1.0, 2.0)
    row = summarise([trace(times=times, usage=usage)], settings=FEW).table.iloc[0]
    assert row["tokens_per_step"] == 3.0
    assert row["drafts_accepted"] == 0.75 or kind == "chunks"


def test_tokens_a_step_are_not_known_where_nobody_counts_tokens():
    row = summarise([trace(usage={})], settings=FEW).table.iloc[0]
    assert math.isnan(row["tokens_per_step"]) and math.isnan(row["drafts_accepted"])


def test_a_cell_by_hand():
    # Two slots, each with two requests of 3 s: ended 3, 3, 6, 6.
    traces = [trace(0), trace(1), trace(2, sent=3.0), trace(3, sent=3.0), trace(9, phase="warmup")]
    row = summarise(traces, Limits(ttft=1.0, tpot=0.4, e2e=2.5), FEW).table.iloc[0]
    assert (row["requests"], row["failures"], row["peak"], row["seconds"]) == (4, 0, 2, 6.0)
    assert (row["requests_per_s"], row["tokens_out_per_s"], row["tokens_in_per_s"]) == (
        4 / 6,
        20 / 6,
        400 / 6,
    )
    assert (row["goodput"], row["good_share"], row["cached_share"]) == (4 / 6, 1.0, 0.25)
    assert summarise(traces, Limits(ttft=0.9), FEW).table.iloc[0]["goodput"] == 0


def test_chunks_of_a_request_are_gaps_and_warm_ups_count_nowhere():
    found = summarise(
        [trace(0), trace(1), trace(2, times=(9.0, 99.0), phase="warmup")], settings=FEW
    )
    assert latencies(found, "itl") == {"mean": 0.75, "p50": 0.5, "p90": 1.0, "p95": 1.0, "p99": 1.0}
    assert latencies(found, "ttft")["p99"] == 1.0


def test_a_new_metric_of_a_cell_or_of_a_request_is_one_entry(monkeypatch):
    chunks = Metric(lambda cell: len(cell.traces[0].spoken), "chunks of the first reply")
    second = Metric(
        lambda trace: trace.spoken[1].time - trace.scheduled, "time to second token", "s"
    )
    monkeypatch.setitem(METRICS, "chunks", chunks)
    monkeypatch.setitem(LATENCIES, "ttst", second)
    found = summarise([trace(0), trace(1)], settings=FEW)
    assert found.table["chunks"].tolist() == [3] and latencies(found, "ttst")["p50"] == 1.5
    assert request_table([trace(0)])["ttst"].tolist() == [1.5]


def test_failures_stay_in_the_denominator_and_are_said_aloud(caplog):
    traces = [trace(n) for n in range(8)] + [failed(8), failed(9)]
    found = summarise(traces, Limits(ttft=2.0), FEW)
    row = found.table.iloc[0]
    assert (row["success_rate"], row["good_share"], row["failures"], row["error"]) == (
        0.8,
        0.8,
        2,
        "status 500",
    )
    assert row["tokens_out_per_s"] == 8 * 5 / 3  # what failed requests said counts for nothing
    assert summarise(traces, settings=FEW).table.iloc[0]["good_share"] == 0.8  # without limits, too
    assert request_table(traces)["completion_tokens"].tolist() == [5] * 8 + [0] * 2
    ttft = latencies(found, "ttft")
    assert (ttft["p50"], ttft["p90"], ttft["mean"]) == (1.0, math.inf, math.inf)
    assert "2 of 10 requests failed (status 500)" in found.warning
    assert found.warning in caplog.text
    with pytest.raises(RequestsFailed, match="2 of 10"):
        summarise(traces, refuse_failures=True)


def test_without_failures_nothing_is_said():
    found = summarise([trace(0), trace(1)], settings=FEW, refuse_failures=True)
    assert found.warning == ""


def test_a_cell_without_success_or_no_request_at_all_is_an_error():
    with pytest.raises(RequestsFailed, match=r"closed@2/cold: 2 of 2 .*nothing to sum up"):
        summarise([failed(0), failed(1), trace(2, cell="closed@1/cold")])
    for nothing in ([], [trace(phase="warmup")]):
        with pytest.raises(ValueError, match="no measured request"):
            summarise(nothing)


def test_the_steady_state_leaves_begin_and_end_out():
    # Two slots: the second begins late, and the first ends early.
    spans = [(0, 3), (3, 6), (6, 9), (1, 4), (4, 7), (7, 10), (10, 13)]
    traces = [trace(n, sent=float(start)) for n, (start, _) in enumerate(spans)]
    assert CellTraces(traces).steady == (1.0, 9.0)
    row = summarise(traces, settings=FEW).table.iloc[0]
    # Tokens count when they come, 5/3 a chunk: of the chunks before 1.0 and from 9.0 none.
    arrived = [start + after for start, _ in spans for after in (1.0, 1.5, 2.5)]
    inside = sum(1.0 <= time < 9.0 for time in arrived)
    assert row["steady_tokens_out_per_s"] == pytest.approx(inside * 5 / 3 / 8)


def test_the_steady_state_of_an_open_loop_ends_with_the_arrivals():
    traces = [trace(n, sent=float(n), cell="poisson@1/cold") for n in range(5)]
    assert CellTraces(traces).steady == (0.0, 4.0)


@given(st.lists(st.floats(0.001, 1e3), min_size=1, max_size=40))
def test_quantiles_are_numpys_where_each_counts_once(values):
    ordered = np.sort(values)
    found = weighted_quantiles(
        ordered, np.arange(len(values)), QUANTILES, np.ones((1, len(values)))
    )[0]
    assert found.tolist() == np.quantile(values, QUANTILES, method="inverted_cdf").tolist()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12).filter(any), st.integers(0, 99))
def test_a_request_that_counts_twice_is_as_if_it_were_there_twice(counts, seed):
    rng = np.random.default_rng(seed)
    owners = rng.integers(0, len(counts), 3 * len(counts))
    values = np.sort(rng.random(len(owners)))
    repeated = np.repeat(values, np.array(counts)[owners])
    found = weighted_quantiles(values, owners, QUANTILES, np.array([counts]))[0]
    if len(repeated):
        assert found.tolist() == np.quantile(repeated, QUANTILES, method="inverted_cdf").tolist()
    else:
        assert np.isnan(found).all()


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        values = rng.exponential(1.0, 100)
        found = spread(values, np.arange(100), 100, EvaluateSettings(resamples=300))
        inside += found["p50"]["low"] <= math.log(2) <= found["p50"]["high"]
        assert found["mean"]["low"] < found["mean"]["value"] < found["mean"]["high"]
    assert 0.89 <= inside / 200 <= 0.99


def test_intervals_are_over_requests_and_not_over_chunks():
    # Chunks of one request are all alike: 20 requests know no more than 20 values do.
    values = np.random.default_rng(0).random(20)
    few = spread(values, np.arange(20), 20, FEW)["p50"]
    many = spread(np.repeat(values, 50), np.repeat(np.arange(20), 50), 20, FEW)["p50"]
    assert many == few and few["low"] < few["high"]


def dialect(traces) -> dict:
    table = dialects(traces)
    keys = zip(table["tool"], table["name"], table["statistic"], strict=True)
    return dict(zip(keys, table["value"], strict=True))


def test_the_same_requests_in_the_words_of_the_other_tools():
    second = {"prompt_tokens": 100, "completion_tokens": 3}
    found = dialect(
        [trace(0, sent=1.0, scheduled=0.0), trace(1, sent=1.0, times=(2.0, 3.0, 4.0), usage=second)]
    )
    # The first: 5 tokens from 1.0 to 2.5 s after sending; the second: 3 tokens from 2.0 to 4.0.
    assert found["vllm", "ttft_ms", "mean"] == 250  # the chunk that only names the role
    assert found["vllm", "tpot_ms", "mean"] == pytest.approx(1e3 * (2.25 / 4 + 3.75 / 2) / 2)
    assert found["vllm", "itl_ms", "mean"] == pytest.approx(
        1e3 * (0.75 + 0.5 + 1 + 1.75 + 1 + 1) / 6
    )
    assert found["vllm", "e2el_ms", "p50"] == 3250
    assert found["guidellm", "time_to_first_token_ms", "mean"] == 1500
    assert found["guidellm", "inter_token_latency_ms", "mean"] == pytest.approx(
        1e3 * (1.5 + 2.0) / (4 + 2)
    )
    assert found["guidellm", "time_per_output_token_ms", "mean"] == pytest.approx(
        1e3 * (2.5 + 4.0) / (5 + 3)
    )
    assert found["guidellm", "request_latency", "mean"] == 3.75
    assert found["aiperf", "inter_token_latency", "mean"] == pytest.approx(
        1e3 * (1.5 / 4 + 2.0 / 2) / 2
    )
    assert found["aiperf", "inter_chunk_latency", "mean"] == pytest.approx(
        1e3 * (0.5 + 1 + 1 + 1) / 4
    )
    assert found["aiperf", "time_to_second_token", "mean"] == 750
    assert found["aiperf", "request_latency", "mean"] == 3250
    assert found["aiperf", "output_sequence_length", "mean"] == 4
    # 4.5 s from the first sending to the last byte.
    for tool, out in (("vllm", "output_throughput"), ("guidellm", "output_tokens_per_second")):
        assert found[tool, out, "rate"] == pytest.approx(8 / 4.5)
    assert found["aiperf", "total_token_throughput", "rate"] == pytest.approx(208 / 4.5)


def test_failures_are_counted_in_every_dialect_and_left_out_of_its_latencies():
    found = dialect([trace(0), failed(1, times=(50.0, 60.0))])
    assert found["vllm", "failed", "count"] == found["guidellm", "errored", "count"] == 1
    assert found["aiperf", "error_request_count", "count"] == 1
    assert found["guidellm", "time_to_first_token_ms", "p99"] == 1000
    nothing = dialect([failed(0)])
    assert (
        math.isnan(nothing["vllm", "ttft_ms", "mean"])
        and nothing["vllm", "completed", "count"] == 0
    )
