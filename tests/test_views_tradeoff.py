"""The trade-off in figures and sentences: the numbers of the table, told apart without colour,
nothing cut off.
"""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from figure_checks import check_layout
from test_curves import ARMS, FAST, GPU, MODEL, PIPE, made, measurement

from negfail_nb import views
from negfail_nb.benchmarking.question_run import Call, Retrieval
from negfail_nb.curves import Prices, literature_table, tradeoff
from negfail_nb.speed import (
    BreakEven,
    break_even,
    pipeline_workload,
    read_measurements,
    speed_table,
)
from negfail_nb.views.figures import arm_title, log_ticks
from negfail_nb.views.pages import to_html
from negfail_nb.views.speed import show_speed
from negfail_nb.views.tradeoff import frontier_page, message

NAMES = {"oracle": "oracle", "cheap": "closed_book", "best": "retrieve_3", "worse": "agent"}
ALL = {NAMES[arm]: numbers for arm, numbers in ARMS.items()} | {
    "long_context@4096": (14, 3.0, 4000), "long_context@131072": (6, 30.0, 130_000)
}  # fmt: skip


def retrieves(arm, n):
    return {"retrievals": (Retrieval(query="x", seconds=0.25),)} if arm == "retrieve_3" else {}


@pytest.fixture(scope="module")
def curve():
    return tradeoff(made(ALL, retrieves), FAST, Prices(prompt=2.0))


@pytest.fixture(scope="module")
def table(curve):
    return views.tradeoff_table(curve)


@pytest.fixture(scope="module")
def speed():
    return speed_table(MODEL, GPU, pipeline=PIPE, measured=read_measurements([measurement()]))


def dots(panel):
    """Markers of arms, by where they are."""
    return {
        tuple(np.round(line.get_xydata()[0], 6)): line
        for line in panel.lines
        if line.get_marker() in "os^DvPX"
    }


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


# Accuracy against cost


def test_the_table_holds_every_arm_and_the_line_in_percent(curve, table):
    arms = table[(table.what == "arm") & (table.against == "tokens")].set_index("arm")
    assert (
        set(arms.index) == set(ALL)
        and arms.value["retrieve_3"] == 80
        and arms.cost["retrieve_3"] == 410
    )
    line = table[(table.what == "frontier") & (table.against == "tokens")]
    assert line.value.max() == 80 and set(table.against) == {"seconds_p50", "tokens"}
    ends = curve.table.set_index("arm").loc["agent", ["em_low", "em_high"]] * 100
    assert arms.loc["agent", ["value_low", "value_high"]].tolist() == pytest.approx(ends.tolist())


def test_arms_stand_where_the_table_says_and_beaten_ones_are_faint(table):
    figure = views.draw_tradeoff(table)
    for panel, cost in zip(figure.axes, ("seconds_p50", "tokens"), strict=True):
        found, arms = dots(panel), table[(table.what == "arm") & (table.against == cost)]
        for arm in arms.itertuples():
            dot = found[round(arm.cost, 6), round(arm.value, 6)]
            assert (dot.get_alpha() == 1) == bool(arm.on_frontier or arm.control), arm.arm
            assert (dot.get_markerfacecolor() == "white") == (arm.arm == "oracle")
        line = table[(table.what == "frontier") & (table.against == cost)]
        assert any(np.array_equal(drawn.get_ydata(orig=True), line.value) for drawn in panel.lines)
        assert {text.get_text() for text in panel.texts} == {"4K", "128K"}


def test_arms_are_told_apart_without_colour(table):
    figure = views.draw_tradeoff(table)
    handles = figure.legends[0].legend_handles
    assert legend(figure) == [
        "frontier",
        *map(arm_title, ("closed_book", "oracle", "long_context", "retrieve_3", "agent")),
    ]
    assert len({handle.get_marker() for handle in handles}) == len(handles)


def test_the_sentence_says_from_how_many_questions_and_what_is_on_the_frontier(table):
    said = views.draw_tradeoff(table).caption
    assert "EM of 20 questions" in said and "95% intervals" in said
    against = said.split("Against tokens")[1]
    assert "retrieval, 3 steps (100% of the draws)" in against and "agent" not in against


PARTS = {
    "one arm": ("closed_book",),
    "only controls": ("oracle",),
    "only lengths": ("long_context@4096", "long_context@131072"),
}


@pytest.mark.parametrize("names", PARTS.values(), ids=PARTS)
def test_any_arm_may_be_missing(names):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve = tradeoff(made({name: ALL[name] for name in names}), FAST)
        shown = views.tradeoff_table(curve)
        views.draw_tradeoff(shown).draw_without_rendering()
        views.draw_split(views.split_table(curve)).draw_without_rendering()
        assert (
            "no arm beats" in views.draw_tradeoff(shown).caption
            and "no arm retrieves" in views.draw_split(views.split_table(curve)).caption
        )
        for page in (to_html(curve), frontier_page(curve, names).html):
            assert "nan" not in re.sub(r"base64,[^\"]*", "", page)


def test_seconds_alone_stand_beside_those_under_load_if_there_are_any(curve):
    costs = ("alone_p50", "seconds_p95")
    quick = {arm: (right, seconds / 8, tokens) for arm, (right, seconds, tokens) in ALL.items()}
    alone = made(quick, asked=lambda arm, n: n < 5)
    both = tradeoff(made(ALL, retrieves), FAST, alone=alone)
    table = views.tradeoff_table(both, costs=costs)
    assert list(dict.fromkeys(table.against)) == list(costs)
    figure = views.draw_tradeoff(table)
    assert [axes.get_xlabel() for axes in figure.axes][0] == "seconds alone, p50"
    check_layout(figure)
    assert "seconds alone, p50 (of 5 questions)" in to_html(both)
    assert set(views.tradeoff_table(curve, costs=costs).against) == {"seconds_p95"}
    assert "alone" not in to_html(curve)


def test_tokens_that_are_not_known_leave_the_seconds_and_an_unknown_cost_is_refused(curve):
    mute = tradeoff(made(ALL, lambda a, n: {"calls": (Call(reply="", seconds=1.0),)}), FAST)
    assert set(views.tradeoff_table(mute).against) == {"seconds_p50"}
    with pytest.raises(ValueError, match="no arm has tokens"):
        views.tradeoff_table(mute, costs=("tokens",))
    with pytest.raises(ValueError, match="unknown cost 'watts'"):
        views.tradeoff_table(curve, costs=("watts",))


def test_costs_of_0_are_drawn_on_a_straight_axis(curve):
    free = tradeoff(made(ALL), FAST, Prices())
    figure = views.draw_tradeoff(views.tradeoff_table(free, costs=("money",)))
    figure.draw_without_rendering()
    assert figure.axes[0].get_xscale() == "linear"
    paid = views.draw_tradeoff(views.tradeoff_table(curve, costs=("money",)))
    assert paid.axes[0].get_xscale() == "log"


# Where the time goes


def test_time_is_split_into_retrieval_and_model(curve):
    split = views.split_table(curve).set_index("arm")
    assert split.loc["retrieve_3", ["retrieval_seconds", "model_seconds"]].tolist() == [0.25, 4.0]
    figure = views.draw_split(views.split_table(curve))
    widths = [bar.get_width() for bar in figure.axes[0].patches if bar.get_facecolor()[3]]
    assert sorted(widths) == pytest.approx(sorted([*split.retrieval_seconds, *split.model_seconds]))
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == [
        "retrieval 250.0 ms"
    ]
    assert (
        "at most 5.88% of the time (retrieval, 3 steps, 250.0 ms)"
        in views.draw_split(views.split_table(curve)).caption
    )


def test_the_models_time_is_split_at_its_first_tokens_where_they_are_known():
    calls = (
        Call(reply="", seconds=2.0, first_seconds=1.5),
        Call(reply="", seconds=2.0, first_seconds=0.5),
    )
    known = tradeoff(made(ALL, lambda a, n: {"calls": calls} if a == "agent" else {}), FAST)
    table = views.split_table(known)
    row = table.set_index("arm").loc["agent"]
    assert (row.model_seconds, row.prefill_seconds, row.decode_seconds) == (4.0, 2.0, 2.0)
    assert np.isnan(table.set_index("arm").prefill_seconds["closed_book"])
    figure = views.draw_split(table)
    parts = {text.get_text() for text in figure.legends[0].get_texts()}
    assert parts == {"retrieval", "waiting, reading the prompt", "writing", "model, not split"}
    written = [
        bar for bar in figure.axes[0].patches if bar.get_x() == 2.0 and bar.get_facecolor()[3]
    ]
    assert [bar.get_width() for bar in written] == [2.0]
    assert "reading the prompt take 50%" in views.draw_split(table).caption


def test_parts_of_some_questions_are_not_shown_as_those_of_the_arm():
    def change(arm, n):
        return {"calls": (Call(reply="", seconds=2.0, first_seconds=None if n == 3 else 1.5),)}

    table = views.split_table(tradeoff(made({"agent": ALL["agent"]}, change), FAST))
    assert table.prefill_seconds.isna().all() and table.decode_seconds.isna().all()

    def lost(arm, n):
        return change(arm, n) if n != 3 else {"termination": "crashed", "calls": ()}

    assert views.split_table(
        tradeoff(made({"agent": ALL["agent"]}, lost), FAST)
    ).prefill_seconds.tolist() == [1.5]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (15, 90, [20, 50]),
        (40, 4000, [100, 300, 1000, 3000]),
        (0.00003, 0.003, [0.0001, 0.001]),
        (22, 90, [40, 60, 80]),
        (30, 45, [30, 35, 40, 45]),
        (0.9, 55, [1, 2, 5, 10, 20, 50]),
    ],
)
def test_numbers_on_a_logarithmic_axis_are_plain_and_have_room(low, high, ticks):
    assert log_ticks(low, high) == pytest.approx(ticks)


def test_where_no_question_got_a_reply_the_figure_says_so():
    lost = tradeoff(
        made({"agent": (0, 1, 1)}, lambda a, n: {"termination": "crashed", "calls": ()}), FAST
    )
    figure = views.draw_split(views.split_table(lost))
    assert "No question got a reply" in figure.axes[0].texts[0].get_text()
    assert re.findall(r"<td [^>]*>(\d+)</td>", to_html(lost))[:1] == ["20"]
    assert "no reply" in to_html(lost)


# Speed


def test_lines_are_predicted_points_measured_and_the_break_even_is_drawn(speed):
    even = break_even(MODEL, GPU, PIPE)
    figure = views.draw_speed(speed, even, title="70B")
    left = figure.axes[0]
    drawn = {line.get_label(): line for line in left.lines}
    long = speed[(speed.kind == "long context") & (speed.source == "predicted")]
    assert np.array_equal(drawn["long context"].get_xydata(), long[["length", "ttft_seconds"]])
    assert (
        drawn["measured"].get_xydata().tolist() == [[8192, 0.5]]
        and drawn["measured"].get_linestyle() == "None"
    )
    flat = speed[speed.kind == "retrieval"].ttft_seconds.iloc[0]
    assert set(drawn["retrieval, 3 calls"].get_ydata()) == {flat}
    assert set(drawn[f"break-even, {even.tokens:,} tokens"].get_xdata()) == {even.tokens}
    looks = [
        (drawn[name].get_linestyle(), drawn[name].get_marker())
        for name in drawn
        if name in legend(figure)
    ]
    assert len(set(looks)) == len(looks) >= 4
    said = figure.caption
    assert "1 point measured" in said and f"From {even.tokens:,} prompt tokens" in said


def test_lengths_that_do_not_fit_are_crossed_and_explained():
    table = speed_table(MODEL, GPU, pipeline=pipeline_workload(tensor_parallel=2))
    cross = next(
        line for line in views.draw_speed(table).axes[1].lines if line.get_label() == "does not fit"
    )
    assert list(cross.get_xdata()) == [32768, 65536, 131072]
    said = views.draw_speed(table, BreakEven(20_000, 10_000, None)).caption
    assert (
        "Long context of 32K, 64K, 128K does not fit" in said
        and "longer than any that can be served" in said
    )
    assert said.count("does not fit") == 1
    assert (
        "sequence fits" in show_speed(table).to_html() and "nan" not in show_speed(table).to_html()
    )
    assert "at every length" in views.draw_speed(table, BreakEven(None, 10_000, None)).caption


def test_an_unknown_speed_is_refused(speed):
    with pytest.raises(ValueError, match="unknown speed 'watts'; use one of ttft_seconds"):
        views.draw_speed(speed, rate="watts")


def test_controls_change_the_page_also_to_gpus_that_cannot_hold_the_model():
    shown = views.explore_speed(MODEL, GPU, 8)
    knobs = {knob.description: knob for knob in shown.children[0].children}
    before = shown.children[1].value
    assert "From " in before and "<img" in before
    knobs["rate"].value = "output_tokens_per_second"
    assert shown.children[1].value != before
    knobs["how many (TP)"].value = 1
    after = shown.children[1].value
    assert (
        "Retrieval of" in after and "weights take 131.4 GiB" in after and "Traceback" not in after
    )


def test_names_of_engines_are_text_and_never_run():
    evil = "<script>alert(1)</script>"
    table = speed_table(
        MODEL, GPU, (4096,), PIPE, measured=read_measurements([measurement(version=evil)])
    )
    page = show_speed(table).to_html()
    assert "<script>" not in page and "&lt;script&gt;" in page


# Published points


def test_published_points_are_drawn_with_their_sources_and_own_ones_before_them(curve):
    published, table = views.published_table(), views.published_table(curve)
    own = table[table.name == "own long contexts"]
    assert own.length.tolist() == [4096, 131072] and len(table) == len(published) + 2
    figure = views.draw_published(table, 20)
    labels = [text.get_text() for panel in figure.axes for text in panel.get_legend().get_texts()]
    assert set(labels) == set(table.name)
    assert len(views.draw_published(literature_table("seconds")).axes) == 1
    said = figure.caption
    assert "20 questions" in said and all(source in said for source in published.source)
    assert "check before you quote" in said and "nan" not in said


def test_nothing_is_cut_off_and_panels_keep_apart(curve, table, speed):
    check_layout(views.draw_tradeoff(table))
    check_layout(views.draw_split(views.split_table(curve)))
    check_layout(views.draw_speed(speed, break_even(MODEL, GPU, PIPE)))
    check_layout(views.draw_published(views.published_table()))


def arms_of(rows, questions=300):
    names = ("arm", "length", "value", "value_low", "value_high", "cost")
    table = pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows])
    return table.assign(questions=questions)


@pytest.mark.parametrize(
    ("retrieval", "said"),
    [
        (
            (40, 36, 44, 0.5),
            "Retrieval, 1 step or long context, 4K: no difference is seen, and it is",
        ),
        ((50, 46, 54, 0.5), "1 step answers better than long context, 4K, and is 8.0 times faster"),
        ((20, 16, 24, 8.0), "answers worse than long context, 4K, and is 2.0 times slower"),
    ],
)
def test_the_title_says_what_the_numbers_say(retrieval, said):
    long = [("long_context@512", 512, 45, 41, 49, 0.4), ("long_context@4096", 4096, 42, 38, 46, 4)]
    arms = arms_of([*long, ("retrieve_1", 0, *retrieval)])
    assert said in message(arms, "seconds_p50")
    few = message(arms.assign(questions=40), "seconds_p50")
    assert "difference" not in few and "long context, 4K: 42 % for 4.00 s" in few
    assert message(arms[arms["length"] > 0], "seconds_p50") == ""
    assert message(arms, "money") == ""
