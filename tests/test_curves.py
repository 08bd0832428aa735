"""07 trade-off: accuracy against cost, the frontier, speed against length, and clear words where
there is none.
"""

import json
import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.benchmarking import Answered, Benchmark, Estimate, Question, load_questions
from negfail_nb.benchmarking.question_run import Call, Retrieval
from negfail_nb.curves import Prices, literature_table, tradeoff
from negfail_nb.curves.curve import COSTS, Cost
from negfail_nb.intervals import mean_interval
from negfail_nb.settings import EvaluateSettings
from negfail_nb.speed import (
    Efficiencies,
    break_even,
    calibrate,
    pipeline_workload,
    read_measurements,
    speed_table,
)
from negfail_nb.speed.ladder import CACHED, LONG, PIPELINE

FAST = EvaluateSettings(resamples=300)
COUNT = 20
QUESTIONS = tuple(
    Question(id=f"q{n}", question=f"Who is {n}?", answer=f"Ada {n}") for n in range(COUNT)
)
# Right answers, seconds and prompt tokens of each arm.
ARMS = {
    "oracle": (19, 0.5, 50),
    "cheap": (8, 1.0, 100),
    "best": (16, 4.0, 400),
    "worse": (7, 2.0, 900),
}
MODEL, GPU = "llama-3.1-70b", "h100"
PIPE = pipeline_workload(tensor_parallel=8)


def answered(arm, n, right, seconds, tokens, **more):
    call = Call(
        reply="",
        prompt_tokens=tokens,
        completion_tokens=10,
        cached_tokens=tokens // 2,
        seconds=seconds,
    )
    given = {"calls": (call,), "prediction": f"Ada {n}" if n < right else "Bob"}
    name, _, length = arm.partition("@")
    return Answered(question_id=f"q{n}", arm=name, target=int(length or 0), **given | more)


def made(arms=ARMS, change=lambda arm, n: {}, asked=lambda arm, n: True):
    answers = [
        answered(a, n, *v, **change(a, n))
        for a, v in arms.items()
        for n in range(COUNT)
        if asked(a, n)
    ]
    return Benchmark(QUESTIONS, tuple(arms), tuple(answers), (), Estimate(pd.DataFrame()))


@pytest.fixture(scope="module")
def curve():
    return tradeoff(made(), FAST, Prices(prompt=2.0, completion=8.0, cached=1.0))


# Numbers


def test_it_says_in_short_what_it_is(curve):
    assert repr(curve) == "Curve(4 arms, 20 questions, 300 draws of them)"


def test_the_table_has_accuracy_seconds_tokens_and_money(curve):
    row = curve.table.set_index("arm").loc["best"]
    assert (row.em, row.seconds_p50, row.seconds_p95, row.tokens) == (0.8, 4.0, 4.0, 410)
    assert row.money == pytest.approx((200 * 2 + 200 * 1 + 10 * 8) / 1e6)
    assert (row.questions, row.timed, row.length) == (COUNT, COUNT, 0)
    assert curve.table.control.tolist() == [True, False, False, False]


def test_seconds_are_quantiles_over_questions_and_hold_retrieval():
    def change(arm, n):
        found = (Retrieval(query="x", seconds=0.25), Retrieval(query="y", seconds=0.25))
        return {
            "retrievals": found,
            "calls": (Call(reply="", seconds=n + 1.0), Call(reply="", seconds=1.0)),
        }

    row = tradeoff(made({"a": (5, 0, 0)}, change), FAST).table.iloc[0]
    assert (row.seconds_p50, row.seconds_p95, row.retrieval_seconds) == (11.5, 20.5, 0.5)
    assert row.model_seconds == pytest.approx(11.5)
    assert 7 <= row.seconds_p50_low < 11.5 < row.seconds_p50_high <= 16


def test_intervals_are_those_of_the_bootstrap_over_questions(curve):
    low, high = mean_interval(np.arange(COUNT) < 16, FAST)
    row = curve.table.set_index("arm").loc["best"]
    assert (row.em_low, row.em_high) == pytest.approx((low, high), abs=0.051)
    assert row.em_low < 0.8 < row.em_high
    wider = tradeoff(made(), replace(FAST, confidence=0.6)).table.set_index("arm").loc["best"]
    assert wider.em_high - wider.em_low < row.em_high - row.em_low


def test_seconds_alone_are_those_of_the_questions_that_were_asked_alone(curve):
    quick = {arm: (right, seconds / 8, tokens) for arm, (right, seconds, tokens) in ARMS.items()}

    def change(arm, n):
        found = (Retrieval(query="x", seconds=1.0),) if n != 2 else ()
        lost = {"termination": "crashed", "prediction": None, "calls": ()}
        return lost if (arm, n) == ("best", 4) else {"retrievals": found}

    alone = made(quick, change, lambda arm, n: n < 5)
    both = tradeoff(made(), FAST, curve.prices, alone=alone)
    rows = both.table.set_index("arm")
    assert rows.alone.to_dict() == {arm: 5 - (arm == "best") for arm in ARMS}
    wanted = {arm: seconds + 1 for arm, (_, seconds, _) in quick.items()}
    assert rows.alone_p50.to_dict() == wanted and (rows.alone_p50_low <= rows.alone_p50).all()
    others = [c for c in both.table if not c.startswith("alone")]
    pd.testing.assert_frame_equal(both.table[others], curve.table[others])
    assert both.frontier("em", "alone_p50").arm.tolist()[0] == "oracle"
    with pytest.raises(ValueError, match="no arm has alone_p50: ask some questions one at a time"):
        curve.frontier("em", "alone_p50")


def test_questions_without_a_reply_score_0_and_have_no_time_and_no_tokens():
    def change(arm, n):
        lost = {18: "crashed", 19: "too_long"}.get(n) if arm == "best" else None
        return {"termination": lost, "prediction": None, "calls": ()} if lost else {}

    row = (
        tradeoff(made({**ARMS, "best": (20, 4.0, 400)}, change), FAST)
        .table.set_index("arm")
        .loc["best"]
    )
    assert (row.em, row.questions, row.timed, row.seconds_p50, row.tokens) == (
        0.9,
        20,
        18,
        4.0,
        410,
    )
    none = tradeoff(
        made({"a": (0, 1, 1)}, lambda a, n: {"termination": "crashed", "calls": ()}), FAST
    )
    assert none.table.timed.tolist() == [0] and np.isnan(none.table.seconds_p50[0])
    with pytest.raises(ValueError, match="no arm has seconds_p50: no question got a reply"):
        none.frontier()


def test_cached_tokens_cost_as_others_unless_they_have_a_price():
    whole = tradeoff(made(), FAST, Prices(prompt=2.0)).table.set_index("arm").money
    free = tradeoff(made(), FAST, Prices(prompt=2.0, cached=0.0)).table.set_index("arm").money
    assert whole["best"] == pytest.approx(8e-4) and free["best"] == pytest.approx(4e-4)
    with pytest.raises(ValueError, match=r"Prices\.prompt"):
        Prices(prompt=-1)


def test_a_new_cost_is_one_entry(monkeypatch):
    calls = Cost(lambda answers: answers["requests"], "calls per question")
    monkeypatch.setitem(COSTS, "calls", calls)
    arms = {"once": (9, 1.0, 10), "twice": (12, 1.0, 10)}
    twice = (Call(reply="", seconds=1.0), Call(reply="", seconds=1.0))
    curve = tradeoff(made(arms, lambda arm, n: {"calls": twice} if arm == "twice" else {}), FAST)
    assert curve.frontier("em", "calls")["calls"].tolist() == [1, 2]
    assert curve.frontier("em", "calls")["on_frontier"].tolist() == [True, True]


# The frontier


def test_the_frontier_holds_what_no_arm_beats_and_names_what_does(curve):
    table = curve.frontier("em", "seconds_p50").set_index("arm")
    assert list(table.index) == ["oracle", "cheap", "worse", "best"]
    assert table.on_frontier.to_dict() == {
        "oracle": False,
        "cheap": True,
        "worse": False,
        "best": True,
    }
    assert table.dominated_by["worse"] == "cheap" and table.dominated_by["best"] == ""
    assert (
        table.share["cheap"] == 1.0
        and np.isnan(table.share["oracle"])
        and table.share["worse"] == 0.0
    )


def test_the_share_says_how_sure_a_place_on_the_frontier_is():
    near = {"a": (10, 1.0, 10), "b": (11, 2.0, 10)}  # b answers what a does, and one question more
    share = tradeoff(made(near), FAST).frontier().set_index("arm").share
    # Without that one question b is no better, and costs more: (1 - 1/20) ** 20 = 36 % of the
    # draws.
    assert share["a"] == 1.0 and share["b"] == pytest.approx(0.64, abs=0.08)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, COUNT), st.integers(1, 5), st.integers(1, 9)),
        min_size=1,
        max_size=6,
    )
)
def test_every_arm_is_on_the_frontier_or_beaten_by_one_that_is(numbers):
    arms = {
        f"a{n}": (right, float(seconds), tokens)
        for n, (right, seconds, tokens) in enumerate(numbers)
    }
    table = (
        tradeoff(made(arms), replace(FAST, resamples=100)).frontier("em", "tokens").set_index("arm")
    )
    best = table[table.on_frontier]
    assert len(best) and best.em.is_monotonic_increasing
    for arm in table[~table.on_frontier].itertuples():
        assert arm.dominated_by != arm.Index
        assert ((best.em >= arm.em) & (best.tokens <= arm.tokens)).any()


def test_the_band_is_the_best_for_at_most_a_cost(curve):
    band = curve.band("em", "seconds_p50")
    assert band.value[band.cost < 4].unique() == [0.4] and band.value[band.cost >= 4].unique() == [
        0.8
    ]
    assert (
        band.value.is_monotonic_increasing
        and (band.low <= band.value).all()
        and (band.value <= band.high).all()
    )
    with pytest.raises(ValueError, match="only controls"):
        tradeoff(made({"oracle": ARMS["oracle"]}), FAST).band()


def test_arms_are_held_against_each_other_on_the_questions_of_all(caplog):
    with caplog.at_level(logging.WARNING, "negfail_nb"):
        found = tradeoff(made(asked=lambda arm, n: arm != "best" or n < 10), FAST)
    assert (
        set(found.table.questions) == {10}
        and "10 questions were not asked under all arms" in caplog.text
    )
    with caplog.at_level(logging.WARNING, "negfail_nb"):
        tradeoff(replace(made(), labels=(*ARMS, "retrieve_9")), FAST)
    assert "no question was asked under retrieve_9" in caplog.text
    with pytest.raises(ValueError, match="no question was asked under all 2 arms"):
        tradeoff(
            made({"a": (5, 1, 1), "b": (5, 1, 1)}, asked=lambda a, n: (a == "a") == (n < 5)), FAST
        )


# Bad input


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (("rouge", "tokens"), "unknown measure 'rouge'; use one of em, f1"),
        (("em", "watts"), "unknown cost 'watts'"),
        (("em", "money"), r"no arm has money: give tradeoff\(.., prices="),
        (("sp_f1", "tokens"), "asked to cite"),
    ],
)
def test_a_measure_or_cost_that_is_not_there_is_named(chosen, said):
    for verb in (tradeoff(made(), FAST).frontier, tradeoff(made(), FAST).band):
        with pytest.raises(ValueError, match=said):
            verb(*chosen)


def test_no_answers_are_refused_and_unknown_tokens_said():
    with pytest.raises(ValueError, match=r"0 of 80 answers\) has no answers; ask first"):
        tradeoff(made(asked=lambda arm, n: False))
    mute = tradeoff(made(change=lambda a, n: {"calls": (Call(reply="", seconds=1.0),)}), FAST)
    with pytest.raises(ValueError, match="no arm has tokens: the model does not say"):
        mute.frontier("em", "tokens")


@pytest.fixture
def folder(tmp_path):
    """A finished run of two generated questions under one arm."""
    plan = {"stage": "pocket/benchmark", "settings": {}}
    questions = load_questions("pocket", limit=2)
    lines = [
        Answered(
            question_id=q.id,
            arm="closed_book",
            prediction=q.answer,
            calls=(Call(reply="", seconds=2.0),),
        )
        for q in questions
    ]
    (tmp_path / "answers.jsonl").write_text(
        "\n".join(json.dumps(line.to_dict()) for line in lines), encoding="utf-8"
    )
    (tmp_path / "questions.jsonl").write_text(
        "\n".join(json.dumps(q.to_dict()) for q in questions), encoding="utf-8"
    )
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "cost.csv").write_text("arm,questions\nclosed_book,2\n", encoding="utf-8")
    return tmp_path


def test_a_finished_run_folder_is_read(folder):
    row = tradeoff(folder, FAST).table.iloc[0]
    assert (row.arm, row.questions, row.em, row.seconds_p50) == ("closed_book", 2, 1.0, 2.0)


def change_plan(folder, change):
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    change(plan)
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


SPOILED = {
    "no run folder": (
        lambda f: (f / "plan.json").unlink(),
        "is no run folder: it has no plan.json",
    ),
    "not finished": (
        lambda f: (f / "manifest.json").unlink(),
        "was not finished: it has no manifest.json",
    ),
    "not json": (lambda f: (f / "plan.json").write_text("{"), "plan.json is of another schema"),
    "no stage": (lambda f: change_plan(f, lambda p: p.pop("stage")), "of another schema: KeyError"),
    "other stage": (lambda f: (f / "cost.csv").unlink(), "is of stage 'pocket/benchmark'"),
    "other questions": (
        lambda f: (f / "questions.jsonl").write_text('{"colour": 1}\n'),
        "read as a benchmark.*line 1",
    ),
    "other records": (
        lambda f: (f / "answers.jsonl").write_text('{"id": 1}\n'),
        "read as a benchmark.*line 1",
    ),
    "no answers": (lambda f: (f / "answers.jsonl").unlink(), "cannot be read as a benchmark"),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILED.values(), ids=SPOILED)
def test_a_folder_of_another_schema_is_refused_with_the_reason(folder, spoil, said):
    spoil(folder)
    with pytest.raises(ValueError, match=said):
        tradeoff(folder)


# Speed against length


def row(table, kind, length=None):
    found = table[(table.kind == kind) & (table.source == "predicted")]
    return found[found.length == length].iloc[0] if length else found.iloc[0]


def test_longer_contexts_take_longer_and_the_pipeline_lies_flat_between():
    table = speed_table(MODEL, GPU, pipeline=PIPE)
    long = table[table.kind == LONG]
    assert list(long.length) == [4096, 8192, 16384, 32768, 65536, 131072]
    assert (
        long.ttft_seconds.is_monotonic_increasing
        and long.requests_per_second.is_monotonic_decreasing
    )
    flat = row(table, PIPELINE)
    assert flat.calls == 3 and long.ttft_seconds.min() < flat.ttft_seconds < long.ttft_seconds.max()
    assert row(table, CACHED, 131072).ttft_seconds < 0.1 * row(table, LONG, 131072).ttft_seconds
    for name in ("ttft_seconds", "output_tokens_per_second"):
        assert (table[f"{name}_low"] < table[name]).all() and (
            table[name] < table[f"{name}_high"]
        ).all()


def test_tool_time_adds_to_time_and_load_decides_throughput():
    plain_row, slow = (
        row(speed_table(MODEL, GPU, (4096,), PIPE, tool_seconds=t), PIPELINE) for t in (0, 1.5)
    )
    assert slow.e2e_seconds - plain_row.e2e_seconds == pytest.approx(1.5)
    assert slow.requests_per_second == plain_row.requests_per_second
    one, many = (row(speed_table(MODEL, GPU, (4096,), PIPE, load=n), LONG) for n in (1, 16))
    assert (one.batch, many.batch) == (
        1,
        16,
    ) and many.requests_per_second > 2 * one.requests_per_second
    assert (
        one.requests_per_second == pytest.approx(1 / one.e2e_seconds)
        and one.ttft_seconds == many.ttft_seconds
    )
    eight = replace(PIPE, batch=8)
    assert row(speed_table(MODEL, GPU, (4096,), eight), LONG).ttft_seconds == one.ttft_seconds, (
        "time is that of one"
    )
    assert break_even(MODEL, GPU, eight) == break_even(MODEL, GPU, PIPE)


def test_where_a_length_does_not_fit_the_row_says_why():
    table = speed_table(MODEL, GPU, (4096, 131072, 262144), pipeline_workload(tensor_parallel=2))
    notes = table[table.kind == LONG].set_index("length").note
    assert (
        notes[4096] == "" and "sequence fits" in notes[131072] and "reads 131072" in notes[262144]
    )
    assert np.isnan(row(table, LONG, 131072).ttft_seconds)
    none = speed_table(MODEL, GPU, (4096,), pipeline_workload(tensor_parallel=1))
    assert (none.note != "").all(), "131 GiB of weights fit no single GPU, for the pipeline either"


def measurement(**change):
    given = {
        "version": "vLLM 0.9",
        "model": MODEL,
        "gpu": GPU,
        "n_gpus": 8,
        "isl": 8064,
        "osl": 128,
        "concurrency": 1,
    }
    return given | {"metric": "ttft", "value": 0.5, "unit": "s"} | change


def test_measured_points_are_told_apart_and_others_counted(caplog):
    full = measurement(concurrency="max", metric="output_throughput_total", unit="tok/s", value=90)
    others = ({"gpu": "a100"}, {"n_gpus": 4}, {"concurrency": 8}, {"precision": "fp8"})
    rows = [measurement(), full, *(measurement(**other) for other in others)]
    with caplog.at_level(logging.WARNING, "negfail_nb"):
        table = speed_table(MODEL, GPU, pipeline=PIPE, measured=read_measurements(rows))
    found = table[table.source == "measured"]
    assert found.ttft_seconds.dropna().tolist() == [
        0.5
    ] and found.output_tokens_per_second.dropna().tolist() == [90]
    assert (
        set(found.length) == {8192}
        and "4 of 6 measured rows" in caplog.text
        and "vLLM 0.9" in found.note.iloc[0]
    )


def test_break_even_lies_where_the_lines_cross_and_measuring_narrows_it():
    even = break_even(MODEL, GPU, PIPE, tool_seconds=0.1)
    assert even.low < even.tokens < even.high
    lengths = [even.tokens - 500 + 128, even.tokens + 500 + 128]
    table = speed_table(MODEL, GPU, lengths, PIPE, tool_seconds=0.1)
    short, long = table[table.kind == LONG].e2e_seconds
    assert short < row(table, PIPELINE).e2e_seconds < long
    rows = [measurement(isl=isl, value=isl / 20_000) for isl in (2048, 8192, 32768, 65536)]
    fitted = calibrate(read_measurements(rows))
    narrow, wide = (
        row(speed_table(MODEL, GPU, (65536,), PIPE, e), LONG) for e in (fitted, Efficiencies())
    )
    spread = [r.ttft_seconds_high / r.ttft_seconds_low for r in (narrow, wide)]
    assert spread[0] < spread[1]
    never = break_even(
        MODEL, GPU, pipeline_workload(steps=200, passages=4, passage_tokens=50, tensor_parallel=8)
    )
    assert (never.tokens, never.high) == (None, None), "so many calls take longer than any one"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lengths": ()}, "lengths is empty"),
        ({"lengths": (100,)}, "100 tokens has no room for an answer of 128"),
        ({"hardware": "abacus"}, "no GPU 'abacus'"),
        ({"architecture": "gpt-2"}, "no architecture 'gpt-2'"),
        ({"pipeline": pipeline_workload(tensor_parallel=7)}, "use a divisor"),
    ],
)
def test_what_cannot_be_predicted_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        speed_table(**{"architecture": MODEL, "hardware": GPU, "pipeline": PIPE} | given)


def test_published_points_have_their_source():
    table = literature_table()
    ladders = table[table.kind != "retrieval"]
    assert {"RULER", "HELMET", "CAG"} == {name.replace(",", "").split()[0] for name in ladders.name}
    assert (ladders.length >= 4096).all() and (ladders.calls == 1).all()
    assert table.source.str.contains("arXiv").all() and (table["read"] != "").all()
    point = table[(table.name == "RULER QA, Llama-3.1-70B") & (table.length == 131072)].iloc[0]
    assert (point.value, point.kind) == (47.6, "accuracy") and set(
        literature_table("seconds").kind
    ) == {"seconds"}
    with pytest.raises(ValueError, match="unknown kind 'watts'"):
        literature_table("watts")
