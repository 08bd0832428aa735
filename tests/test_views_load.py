"""A measured GPU and a measured server in figures and words: failures are red."""

import math

import numpy as np
import pytest
from figure_checks import check_layout
from test_speed_measurements import CELLS, measured, row

from negfail_nb import views
from negfail_nb.speed import Chunk, Efficiencies, Trace, calibrate, gpu_table, read_gpu, summarise
from negfail_nb.views.pages import to_html

RED = "#B00020"


@pytest.fixture(scope="module")
def gpu():
    left = measured()["rows"][-1]
    cut = row("decode", 131072, 16) | {"asked": 64, "note": "64 need 128 GiB"}
    return read_gpu(
        measured(
            rows=[*(row(*c, p) for p in ("bf16", "fp8") for c in CELLS), cut, left], finished=False
        )
    )


@pytest.fixture(scope="module")
def table(gpu):
    return gpu_table(gpu, {"before": Efficiencies(), "fitted": calibrate(gpu.measurements)})


def lines(panel, dashes):
    return [line for line in panel.lines if line.get_linestyle() == dashes]


def test_points_are_measured_and_lines_predicted(table):
    figure = views.draw_gpu(table, "70B")
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == ["prefill, bf16", "decode, bf16", "prefill, fp8", "decode, fp8"]
    prefill = figure.axes[0]
    rows = table[(table.weights == "bf16") & (table.phase == "prefill")]
    points = next(line for line in prefill.lines if line.get_marker() == "o")
    assert np.array_equal(
        points.get_xydata(), rows.loc[rows.source == "measured", ["tokens", "seconds"]]
    )
    fitted = lines(prefill, "-")[0]
    assert np.array_equal(fitted.get_ydata(), rows.loc[rows.source == "fitted", "seconds"])
    decode = figure.axes[1]
    in_ms = {
        round(y, 9) for line in decode.lines if line.get_marker() == "o" for y in line.get_ydata()
    }
    wanted = table[
        (table.weights == "bf16") & (table.phase == "decode") & (table.source == "measured")
    ]
    assert in_ms == {round(1e3 * s, 9) for s in wanted.loc[wanted.asked == 1, "seconds"]}


def test_the_sentence_of_a_gpu_says_how_far_it_is_off_and_what_is_missing(table, gpu):
    said = views.page(views.draw_gpu(table), gpu).html
    assert "15 cells, medians" in said and "no questions" in said and "Measured on h200" in said
    assert "Predicted, before: off by" in said and "Predicted, fitted: off by" in said
    assert (
        "1 of the planned cells are left out, such as decode of 131,072 tokens: 64 need 128 GiB"
        in said
    )
    assert "1 have fewer sequences than asked for" in said and "stopped before its end" in said


def test_a_gpu_without_cells_says_so():
    empty = read_gpu(measured(rows=[]))
    assert (
        "Nothing was measured" in views.draw_gpu(gpu_table(empty, {})).axes[0].texts[0].get_text()
    )


def trace(number, at_once, cache, error=""):
    start = number * 2.0
    first = start + (0.5 if cache == "cold" else 0.1)
    chunks = () if error else tuple(Chunk(first + 0.05 * n, f"t{n}") for n in range(5))
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 80},
    }
    given = {
        "cell": f"closed@{at_once}/{cache}",
        "number": number,
        "scheduled": start,
        "sent": start,
    }
    return Trace(**given, ended=start + 1, chunks=chunks, error=error, usage={} if error else usage)


@pytest.fixture(scope="module")
def summary():
    traces = [trace(n, at, cache) for at in (1, 4) for cache in ("cold", "warm") for n in range(8)]
    traces[16:18] = [trace(n, 4, "cold", "status 500: <script>alert(1)</script>") for n in range(2)]
    return summarise(traces)


def test_cold_and_warm_are_two_lines_and_failures_red_crosses(summary):
    table = views.load_table(summary)
    assert table.cell.tolist() == [
        "closed@1/cold",
        "closed@1/warm",
        "closed@4/cold",
        "closed@4/warm",
    ]
    assert table.failures.tolist() == [0, 0, 2, 0] and table.load.tolist() == [1, 1, 4, 4]
    first = views.draw_load(table).axes[0]
    drawn = {line.get_label(): line for line in first.lines}
    assert drawn["cold cache"].get_ydata() == pytest.approx([0.5, 0.5])
    assert drawn["warm cache"].get_ydata() == pytest.approx([0.1, 0.1])
    assert drawn["cold cache"].get_linestyle() != drawn["warm cache"].get_linestyle()
    crosses = [line for line in first.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in crosses] == [[4]] and crosses[0].get_color() == RED
    assert table.ttft_p95.tolist()[2] == math.inf, "a quarter failed, so p95 is no time"


def test_a_summary_with_failures_is_red_and_its_reasons_are_text(summary):
    said, _, shown = to_html(summary).partition("<style")
    assert said.index("2 of 8 requests failed") < said.index("32 requests in 4 cells")
    assert RED in said and RED in shown and "&lt;script&gt;" in shown
    assert "<script>" not in shown + said
    good = summarise([trace(n, 1, "cold") for n in range(4)])
    assert RED not in to_html(good)


def test_nothing_is_cut_off_and_panels_keep_apart(table, summary):
    check_layout(views.draw_gpu(table, "a title"))
    check_layout(views.draw_load(views.load_table(summary)))
