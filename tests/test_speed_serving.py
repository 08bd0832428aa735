"""Requests that share an engine and wait for it: closed loops, open loops, pipelines."""

from dataclasses import replace

import pytest
from figure_checks import check_layout
from hypothesis import example, given, settings
from hypothesis import strategies as st

from negfail_nb import views
from negfail_nb.speed import Efficiencies, Workload, predict, published_ladders
from negfail_nb.speed.roofline import DoesNotFit, Overloaded, highest_rate_of
from negfail_nb.speed.rows import read_row

LARGE = "llama-3.1-70b"
LOOP = Workload(
    input_tokens=5000,
    output_tokens=500,
    tensor_parallel=2,
    weights="fp8",
    kv="fp8",
    batching="continuous",
    queued=True,
)


def loop(at_once, **change):
    return predict(LARGE, "h100", replace(LOOP, batch=at_once, **change))


def test_a_closed_loop_that_does_not_fit_waits():
    """NIM 1.8, published: 917 tokens/s and 8.0 s to the first token at 100, 920 and 61.7 at 200."""
    full, more, twice = loop(60), loop(100), loop(200)
    assert full.capacity < 100
    assert more.output_tokens_per_second == pytest.approx(917, rel=0.15)
    assert more.ttft_seconds == pytest.approx(8.0, rel=0.25)
    assert twice.output_tokens_per_second == pytest.approx(920, rel=0.15)
    assert twice.ttft_seconds == pytest.approx(61.7, rel=0.25)
    assert twice.tpot_seconds == pytest.approx(more.tpot_seconds, rel=0.05)
    assert full.ttft_seconds < more.ttft_seconds / 5


@pytest.mark.parametrize(
    ("at_once", "ttft", "tpot"),
    [(1, 0.407, 0.0186), (5, 0.547, 0.0218), (25, 0.689, 0.0388), (50, 0.835, 0.0597)],
)
def test_unfitted_defaults_come_near_a_published_server_under_load(at_once, ttft, tpot):
    said = loop(at_once)
    assert said.ttft_seconds == pytest.approx(ttft, rel=0.25)
    assert said.tpot_seconds == pytest.approx(tpot, rel=0.2)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 600),
    st.integers(1, 600),
    st.sampled_from([1, 2, 40, 700]),
    st.sampled_from([64, 2000, 30_000]),
)
@example(5, 26, 2, 64)  # as fast as requests are taken in
def test_more_at_once_is_never_faster_for_one_and_hardly_slower_for_all(few, more, output, tokens):
    few, more = sorted((few, more))
    a, b = (loop(n, output_tokens=output, input_tokens=tokens) for n in (few, more))
    for name in ("ttft_seconds", "e2e_seconds"):
        assert getattr(b, name) >= getattr(a, name) * (1 - 1e-9)
    assert b.requests_per_second >= 0.95 * a.requests_per_second
    # Little's law: so many are in the server.
    assert b.requests_per_second * b.e2e_seconds == pytest.approx(more)
    assert b.e2e_seconds == pytest.approx(b.ttft_seconds + (output - 1) * b.tpot_seconds)


def test_a_batch_that_does_not_fit_is_served_in_turns():
    """vLLM on an A100 of 40 GB, 64 x 2,048 of an 8B, of which 39 fit: 125.7 s, published."""
    work = Workload(input_tokens=2048, output_tokens=2048, batch=64)
    said = predict("llama-3-8b", "a100-40gb", work)
    assert said.capacity == 39
    assert said.e2e_seconds == pytest.approx(125.7, rel=0.15)
    first, rest = (predict("llama-3-8b", "a100-40gb", replace(work, batch=n)) for n in (39, 25))
    assert said.e2e_seconds == pytest.approx(first.e2e_seconds + rest.e2e_seconds)
    assert said.ttft_seconds > first.ttft_seconds + 0.3 * first.e2e_seconds


def test_the_engines_own_limit_lets_others_wait_too():
    free, limited = loop(64), loop(64, max_batch=32)
    assert limited.ttft_seconds > 5 * free.ttft_seconds
    assert limited.tpot_seconds < free.tpot_seconds
    # With one place less than clients just one request waits.
    short = loop(64, max_batch=63)
    waiting = (short.ttft_seconds - free.ttft_seconds) * short.requests_per_second
    assert waiting == pytest.approx(1, rel=0.2)


def test_a_run_begins_with_an_empty_engine():
    assert loop(64, requests=640).ttft_seconds > loop(64).ttft_seconds
    assert loop(64, requests=640_000).ttft_seconds == pytest.approx(loop(64).ttft_seconds, rel=0.01)


def test_a_last_round_that_is_not_full_costs_throughput():
    work = replace(LOOP, batch=0, queued=False)
    endless = predict(LARGE, "h100", work)
    whole, uneven = (
        predict(LARGE, "h100", replace(work, requests=n))
        for n in (2 * endless.batch, endless.batch + 5)
    )
    assert whole.output_tokens_per_second == pytest.approx(endless.output_tokens_per_second)
    assert uneven.output_tokens_per_second < 0.9 * endless.output_tokens_per_second


def test_a_slow_front_end_sets_the_pace():
    slow = Efficiencies(stream_us=5000.0)
    said = predict(LARGE, "h100", replace(LOOP, batch=50), slow)
    assert said.output_tokens_per_second < 210
    assert said.ttft_seconds > 5 * loop(50).ttft_seconds
    engine = replace(LOOP, batch=50, queued=False)
    assert predict(LARGE, "h100", engine, slow).output_tokens_per_second > 400


def test_an_open_loop_has_the_times_of_as_many_as_are_in_it():
    work = replace(LOOP, queued=False)
    quiet = predict(LARGE, "h100", replace(work, rate=0.001))
    alone = predict(LARGE, "h100", replace(work, batch=1))
    assert quiet.e2e_seconds == pytest.approx(alone.e2e_seconds, rel=0.03)
    busy = predict(LARGE, "h100", replace(work, rate=1.5))
    assert busy.batch == pytest.approx(1.5 * busy.e2e_seconds)
    same = predict(LARGE, "h100", replace(work, batch=round(busy.batch)))
    assert busy.tpot_seconds == pytest.approx(same.tpot_seconds, rel=0.05)
    assert busy.output_tokens_per_second == pytest.approx(1.5 * 500)


def test_more_load_than_any_server_holds_names_the_highest_rate():
    most = highest_rate_of(LARGE, "h100", LOOP)
    assert most == pytest.approx(917 / 500, rel=0.15)
    with pytest.raises(Overloaded, match=rf"5 requests per second are more.*holds: {most:.3g};"):
        predict(LARGE, "h100", replace(LOOP, rate=5.0))
    near = predict(LARGE, "h100", replace(LOOP, rate=0.98 * most))
    far = predict(LARGE, "h100", replace(LOOP, rate=0.5 * most))
    assert near.ttft_seconds > 2 * far.ttft_seconds
    # A pipeline of three calls holds less than a third of the questions.
    assert highest_rate_of(LARGE, "h100", replace(LOOP, calls=3)) < most


def test_stages_of_a_pipeline_work_on_different_sequences():
    work = replace(LOOP, tensor_parallel=1, queued=False)
    fast = {"architecture": LARGE, "hardware": "h200"}
    one = predict(**fast, workload=replace(work, batch=1))
    staged = replace(work, pipeline_parallel=4)
    alone = predict(**fast, workload=replace(staged, batch=1))
    assert one.tpot_seconds <= alone.tpot_seconds < 1.5 * one.tpot_seconds  # no faster for one
    many, spread = (
        predict(**fast, workload=replace(w, batch=b)) for w, b in ((work, 8), (staged, 32))
    )
    assert 2.5 < spread.output_tokens_per_second / many.output_tokens_per_second < 4
    assert alone.capacity > 4 * one.capacity  # weights are there once
    with pytest.raises(
        ValueError, match="pipeline_parallel is 81, but llama-3.1-70b has 80 layers"
    ):
        predict(LARGE, "h200", replace(staged, pipeline_parallel=81))


def test_all_reduces_over_a_bus_take_longer():
    work = Workload(input_tokens=2048, tensor_parallel=8, weights="fp8")
    terms = [predict(LARGE, gpu, work).calls[0].prefill_terms["link"] for gpu in ("h100", "l40s")]
    assert terms[1] > 10 * terms[0]


def test_a_ladder_longer_than_the_window_is_refused():
    with pytest.raises(
        DoesNotFit, match="131472 tokens of context, but llama-3.1-70b reads 131072"
    ):
        loop(4, input_tokens=130_972)


def test_a_published_row_of_a_loop_is_predicted_as_one():
    row = {
        "version": "NIM 1.8.0",
        "model": "Llama-3.3-70B",
        "precision": "fp8",
        "gpu": "H100 SXM 80GB",
        "n_gpus": 2,
        "isl": 5000,
        "osl": 500,
        "concurrency": 250,
        "metric": "ttft_mean",
        "value": 88605.32,
        "unit": "ms",
    }
    m = read_row(row)
    said = predict(m.architecture, m.hardware, m.workload).ttft_seconds
    assert said == pytest.approx(88.6, rel=0.2)


def test_published_ladders_stand_beside_predictions_that_never_saw_them():
    table = published_ladders()
    points = table[table.source == "measured"].groupby("ladder")
    assert {"M3 Ultra, mlx-lm 0.31, 4 bits", "2 x H100, NIM 1.8, fp8"} <= set(points.groups)
    assert (table.note.str.len() > 20).all()
    nim = points.get_group("2 x H100, NIM 1.8, fp8")
    assert nim.error.abs().max() < 0.25
    assert points.get_group("Tenstorrent Galaxy, vLLM").error.isna().all()
    lines = table[table.source == "predicted"]
    assert ((lines.low < lines.seconds) & (lines.seconds < lines.high)).all()
    mac = points.get_group("M3 Ultra, mlx-lm 0.31, 4 bits")
    grows = mac.seconds.iloc[1] / mac.seconds.iloc[0]
    said = (mac.seconds * (1 + mac.error)).to_list()
    assert said[1] / said[0] == pytest.approx(grows, rel=0.15)


def test_the_figure_of_ladders_says_how_far_each_is_off():
    figure = views.draw_ladders(published_ladders(), title="a 70B")
    check_layout(figure)
    assert "none of them fitted" in figure.caption and "Tenstorrent" in figure.caption
    hollow = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert len(hollow) == 5
