"""The benchmark in tables and pictures: right numbers, every arm in sight, no text of others run as
HTML.
"""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from figure_checks import check_layout
from html_text import text_of
from matplotlib.text import Text

from negfail_nb import views
from negfail_nb.benchmarking import (
    Answered,
    Benchmark,
    Estimate,
    Hits,
    MemoryPool,
    Passage,
    Question,
    estimate,
    make_contexts,
)
from negfail_nb.benchmarking.question_run import Call, Retrieval
from negfail_nb.settings import ContextSettings, EvaluateSettings
from negfail_nb.views.benchmark_viewers import show_answers, show_context
from negfail_nb.views.figures import arm_title, tokens_title
from negfail_nb.views.pages import to_html

FAST = EvaluateSettings(resamples=100)
COUNT, LENGTHS = 20, (4096, 8192, 131072)
POOL = MemoryPool([Passage(f"Title {n}", (f"Text {n}.",)) for n in range(200)])
FLAT = {
    "closed_book": 2,
    "oracle": 16,
    "retrieve_1": 10,
    "retrieve_3": 13,
    "retrieve_3_no_model": 12,
    "agent": 9,
}
RIGHT = {
    **FLAT,
    **{f"long_context@{n}": right for n, right in zip(LENGTHS, (14, 11, 5), strict=True)},
}


def question(n):
    kind, level = ("bridge", "comparison")[n % 2], ("easy", "hard")[n % 4 // 2]
    facts = ((f"Title {2 * n}", 0), (f"Title {2 * n + 1}", 0))
    return Question(
        id=f"q{n}", question=f"Who is {n}?", answer=f"Ada {n}", type=kind, level=level, facts=facts
    )


QUESTIONS = tuple(map(question, range(COUNT)))


def shown(label, n):
    """Gold first and last, and between them ever more filler."""
    arm, _, length = label.partition("@")
    filler = tuple(range(100, 103 + LENGTHS.index(int(length)) * 12)) if length else ()
    return {"closed_book": (), "agent": (2 * n,)}.get(arm, (2 * n, *filler, 2 * n + 1))


def answered(label, n, **more):
    arm, _, length = label.partition("@")
    passages = shown(label, n)
    titles = tuple(POOL[number].title for number in passages if number < 100)
    given = {
        "passages": passages,
        "gold_found": titles,
        "cites": arm not in ("closed_book", "agent"),
    }
    given["cited"] = titles if given["cites"] else None
    if length:
        given |= {"target": int(length), "fill": 0.995, "gold_depths": (n / COUNT, 1.0)}
    call = Call(
        reply=f"Answer: Ada {n}",
        prompt_tokens=100,
        completion_tokens=5,
        cached_tokens=0,
        seconds=0.5,
    )
    given["calls"] = (call,)
    given["prediction"] = f"Ada {n}" if n < RIGHT[label] else "Ada"
    return Answered(question_id=f"q{n}", arm=arm, **given | more)


def made(labels, change=lambda label, n: {}):
    rows = [
        {"arm": a, "questions": COUNT, "requests": 1, "prompt_tokens": 2, "completion_tokens": 3}
        for a in labels
    ]
    answers = tuple(
        answered(label, n, **change(label, n)) for label in labels for n in range(COUNT)
    )
    return Benchmark(QUESTIONS, tuple(labels), answers, (), Estimate(pd.DataFrame(rows)))


@pytest.fixture(scope="module")
def bench():
    return made(RIGHT)


@pytest.fixture(scope="module")
def table(bench):
    return views.reading_table(bench.scores, settings=FAST)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def words(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def markers(panel):
    return [line for line in panel.lines if line.get_marker() in tuple("os^DvPX")]


# Numbers


def test_the_table_is_that_of_the_scores_in_percent(bench, table):
    assert dict(zip(table.arm, table.em.round(6), strict=True)) == {
        a: 100 * r / COUNT for a, r in RIGHT.items()
    }
    given = bench.scores.by(settings=FAST)
    for column in ("f1", "sp_f1_low", "joint_em_high", "gold_found", "citation_rate"):
        assert table[column].to_numpy() == pytest.approx(
            100 * given[column].to_numpy(), nan_ok=True
        )
    assert table.prompt_tokens.tolist() == given.prompt_tokens.tolist()
    assert dict(zip(table.arm, table.length, strict=True)) == dict.fromkeys(FLAT, 0) | {
        f"long_context@{n}": n for n in LENGTHS
    }


def test_requests_without_a_reply_are_counted_and_stay_in_the_denominator():
    lost = {("oracle", 0): "too_long", ("oracle", 1): "crashed", ("oracle", 2): "no_answer"}
    bench = made(
        ("oracle", "closed_book"),
        lambda label, n: (
            {"termination": lost[label, n], "prediction": None} if (label, n) in lost else {}
        ),
    )
    oracle, closed = views.reading_table(bench.scores, settings=FAST).itertuples()
    assert (oracle.questions, oracle.em) == (COUNT, 100 * (FLAT["oracle"] - 3) / COUNT)
    assert (oracle.failed, oracle.parse_failure_rate, closed.failed) == (10.0, 5.0, 0.0)


def test_split_tables_have_a_row_an_arm_and_group(bench):
    split = views.reading_table(bench.scores, "type", settings=FAST)
    row = split[(split.arm == "oracle") & (split.type == "bridge")].iloc[0]
    assert (row.questions, row.em) == (COUNT / 2, 80.0) and len(split) == 2 * len(RIGHT)


def test_depths_are_counted_a_length_and_pooled_over_lengths(bench):
    depths = views.depth_table(bench.scores, FAST)
    pooled, single = depths[depths.length == 0], depths[depths.length == LENGTHS[0]]
    assert single.questions.sum() == COUNT == pooled.questions.sum()
    assert list(single.depth_band) == [
        "0.4-0.6",
        "0.6-0.8",
        "0.8-1",
    ]  # the mean of one anywhere and one at the end
    right = {n for n in range(COUNT) if 0.5 + n / 2 / COUNT < 0.6}
    expected = np.mean([n < RIGHT[f"long_context@{length}"] for n in right for length in LENGTHS])
    assert pooled.em.iloc[0] == pytest.approx(100 * expected)


def test_arms_are_paired_with_the_longest_context_unless_told_otherwise(bench):
    pairs = views.paired_table(bench.scores, settings=FAST).set_index("arm")
    assert set(pairs.baseline) == {"long_context@131072"}
    assert pairs.em_difference["retrieve_3"] == pytest.approx(40.0) and pairs.f1[
        "oracle"
    ] == pytest.approx(80 + 20 * 2 / 3)
    assert pairs.em_difference["long_context@131072"] == 0 and np.isnan(
        pairs.p["long_context@131072"]
    )
    assert set(views.paired_table(bench.scores, "oracle", FAST).baseline) == {"oracle"}
    assert set(views.paired_table(made(("oracle", "agent")).scores, settings=FAST).baseline) == {
        "oracle"
    }


def test_places_tell_whether_contexts_are_nested():
    def change(label, n):
        mixed = (
            label == f"long_context@{LENGTHS[1]}" and n == 3
        )  # the same passages, gold the other way round
        return {"passages": (*reversed(shown(label, n)),)} if mixed else {}

    places = views.place_table(made(RIGHT, change))
    assert (
        len(places) == 2 * COUNT * len(LENGTHS)
        and places.nested[places.target == LENGTHS[0]].isna().all()
    )
    assert set(places[places.nested == False].question_id) == {"q3"}  # noqa: E712
    page = text_of(views.show_places(places))
    assert (
        "95%" in page
        and "100%" not in page.split("95%")[0]
        and "128K" in page
        and "99.50 99.50 to 99.50" in page
    )


def test_retrieval_is_measured_on_the_questions_that_have_gold():
    asked = [*QUESTIONS[:4], replace(QUESTIONS[4], facts=())]
    numbers = np.array([[0, 1, 150], [2, 150, 3], [150, 151, 152], [6, 150, 151], [8, 9, 150]])
    hits = Hits(numbers, np.zeros(numbers.shape, np.float32))
    found = views.retrieval_table({"bm25": hits}, asked, POOL, (1, 2, 3, 10), FAST)
    rows = found[found.group == "all"].set_index(["measure", "k"])
    assert rows.loc[("recall", 2), "value"] == pytest.approx(100 * (1 + 0.5 + 0 + 0.5) / 4)
    assert (rows.loc[("all_gold", 3), "value"], rows.loc[("recall", 1), "questions"]) == (50.0, 4)
    assert 10 not in set(found.k.dropna()), "only three were searched for"
    page = text_of(views.show_retrieval(found))
    assert "R@k" in page and "k = 3" in page and "nan" not in page
    assert "hop 2" in text_of(views.show_retrieval(found, ["hop_2"]))
    none = views.retrieval_table(
        {"bm25": hits}, [replace(q, facts=()) for q in asked], POOL, settings=FAST
    )
    assert none.empty and "supporting facts" in words(views.draw_retrieval(none))[0]
    assert "supporting facts" in text_of(views.show_retrieval(none))


def test_questions_and_costs_are_summed_up(bench):
    asked = views.question_table(QUESTIONS)
    assert (
        asked["questions"].sum() == COUNT
        and set(asked["gold passages"]) == {2.0}
        and len(asked) == 4
    )
    page = to_html(bench.cost)
    cells = re.findall(r"<td [^>]*>([^<]*)</td>", page)
    assert "long context, 128K" in cells
    total = ["all arms", f"{COUNT}", *(f"{n * len(RIGHT)}" for n in (1, 2, 3))]
    assert cells[-5:] == total and f"{bench.cost}" in page


# Figures


def test_the_curve_its_band_and_the_flat_lines_are_the_numbers(table):
    left, right = views.draw_accuracy(table).axes
    long = table[table.length > 0]
    curve = markers(left)[0]
    assert curve.get_xydata().ravel() == pytest.approx(long[["length", "em"]].to_numpy().ravel())
    assert matplotlib.colors.same_color(
        curve.get_color(), left.collections[0].get_facecolor()[0][:3]
    )
    band = left.collections[0].get_paths()[0].vertices
    for _, row in long.iterrows():
        ends = band[np.isclose(band[:, 0], row.length)][:, 1]
        assert (ends.min(), ends.max()) == pytest.approx((row.em_low, row.em_high))
    flats = {
        round(line.get_ydata()[0], 6) for line in left.lines if list(line.get_xdata()) == [0, 1]
    }
    assert flats == {100 * right_ones / COUNT for right_ones in FLAT.values()}
    reached = [
        line.get_xdata()[1]
        for line in right.lines
        if line.get_xdata()[0] == 0 and len(line.get_xdata()) == 2
    ]
    assert reached == pytest.approx([(n + 0.5) / len(FLAT) for n in range(len(FLAT))]), (
        "each line ends at its dot"
    )
    assert [dot.get_ydata()[0] for dot in markers(right)] == pytest.approx(
        table.em[table.length == 0].tolist()
    )


def test_arms_are_told_apart_without_colour_and_look_alike_in_every_figure(bench, table):
    figure = views.draw_accuracy(table)
    looks = {
        h.get_marker(): t
        for h, t in zip(figure.legends[0].legend_handles, legend(figure), strict=True)
    }
    assert len(looks) == len(FLAT) + 1 and set(looks.values()) == {
        "long context",
        *map(arm_title, FLAT),
    }
    fewer = views.draw_accuracy(
        views.reading_table(made(("agent", "retrieve_3")).scores, settings=FAST)
    )
    found = {
        h.get_marker(): t
        for h, t in zip(fewer.legends[0].legend_handles, legend(fewer), strict=True)
    }
    assert found.items() <= looks.items()
    split = views.reading_table(bench.scores, "type", settings=FAST)
    panel = views.draw_groups(split).axes[0]
    assert [dot.get_marker() for dot in markers(panel)][0] == {t: m for m, t in looks.items()}[
        "closed book"
    ]


PARTS = {
    "one length": ("closed_book", "long_context@4096", "retrieve_3"),
    "only lengths": ("long_context@4096", "long_context@8192"),
    "no lengths": ("closed_book", "oracle", "agent"),
    "one arm": ("closed_book",),
    "unheard of": ("oracle", "long_context@5000"),
}


@pytest.mark.parametrize("labels", PARTS.values(), ids=PARTS)
def test_any_arm_may_be_missing(labels, monkeypatch):
    monkeypatch.setitem(RIGHT, "long_context@5000", 7)
    monkeypatch.setattr(f"{__name__}.LENGTHS", (*LENGTHS, 5000))
    bench = made(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = views.reading_table(bench.scores, settings=FAST)
        figure = views.draw_accuracy(read)
        long, flat = (sum((label in FLAT) == kind for label in labels) for kind in (False, True))
        assert len(legend(figure)) == flat + (long > 0) and len(figure.axes) == (flat > 0) + (
            long > 0
        )
        places, depths = views.place_table(bench), views.depth_table(bench.scores, FAST)
        pairs = views.paired_table(bench.scores, settings=FAST)
        for drawn in (
            views.draw_places(places),
            views.draw_depths(depths),
            views.draw_pairs(pairs),
        ):
            drawn.draw_without_rendering()
        assert ("No long context" in " ".join(words(views.draw_places(places)))) == (long == 0)
        for page in (views.show_reading(read), views.show_pairs(pairs), views.show_places(places)):
            assert "nan" not in text_of(page)


def test_two_readers_are_told_apart_and_the_last_one_is_drawn_as_alone(bench, table):
    worse = made(tuple(RIGHT), lambda label, n: {"prediction": None} if n % 2 else {})
    both = views.reading_table({"as it comes": worse, "tuned": bench}, settings=FAST)
    assert both.columns[0] == "reader" and len(both) == 2 * len(table)
    one = views.reading_table({"tuned": bench}, settings=FAST)
    pd.testing.assert_frame_equal(one, table)
    figure = views.draw_accuracy(both)
    alone = views.draw_accuracy(table)
    assert legend(figure) == [*legend(alone), "as it comes", "tuned"]
    for panel, before in zip(figure.axes, alone.axes, strict=True):
        filled, hollow = [], []
        for dot in markers(panel):
            (hollow if dot.get_markerfacecolor() == "white" else filled).append(dot.get_ydata())
        assert [list(y) for y in filled] == [list(dot.get_ydata()) for dot in markers(before)]
        assert len(hollow) == len(filled)
        drawn = {round(float(y), 6) for ys in hollow for y in ys}
        assert drawn <= {round(value, 6) for value in both[both.reader == "as it comes"].em}
    marks = figure.legends[0].legend_handles[-2:]
    assert [mark.get_markerfacecolor() for mark in marks] == ["white", "black"]
    check_layout(figure)
    shown = to_html(views.show_reading(both))
    assert "as it comes" in shown and "as it comes" not in to_html(views.show_reading(table))


def test_a_measure_that_no_arm_has_is_said_and_an_unknown_one_refused(table):
    only = table[table.arm.isin(["closed_book", "agent"])]
    assert "asked to cite" in words(views.draw_accuracy(only, "sp_f1"))[0]
    assert "asked to cite" in words(views.draw_groups(only.assign(type=""), "joint_f1"))[0]
    assert "closed book" not in legend(views.draw_accuracy(table, "sp_f1"))
    with pytest.raises(ValueError, match="no measure 'rouge'; use one of em, f1"):
        views.draw_accuracy(table, "rouge")


def test_cells_of_depth_show_value_and_number_of_questions(bench):
    depths = views.depth_table(bench.scores, FAST)
    left = views.draw_depths(depths, "f1").axes[0]
    cells = depths[depths.length > 0]
    texts = [text.get_text() for text in left.texts]
    assert texts == [f"{row.f1:.0f} ({row.questions})" for row in cells.itertuples()]
    assert [t.get_text() for t in left.get_xticklabels()] == ["4K", "8K", "128K"]


def test_groups_beyond_four_are_counted():
    bench = made(("oracle", "agent"))
    bench.scores.table["type"] = [
        f"kind {int(q[1:]) % 6}" for q in bench.scores.table["question_id"]
    ]
    figure = views.draw_groups(views.reading_table(bench.scores, "type", settings=FAST))
    assert len(figure.axes) == 4 and "2 smaller groups" in " ".join(words(figure))
    assert figure.axes[0].get_title(loc="left") == "kind 0 (n = 4)"


def test_nothing_is_cut_off_and_panels_keep_apart(bench, table):
    check_layout(views.draw_accuracy(table))
    check_layout(views.draw_groups(views.reading_table(bench.scores, "type", settings=FAST)))
    check_layout(views.draw_pairs(views.paired_table(bench.scores, settings=FAST)))
    check_layout(views.draw_places(views.place_table(bench)))
    check_layout(views.draw_depths(views.depth_table(bench.scores, FAST)))


def test_measure_and_groups_are_switched_by_widgets(bench):
    shown = views.explore_reading(bench.scores, FAST)
    by, measure = shown.children[0].children
    seen = {shown.children[1].value}
    for knob, value in ((measure, "sp_f1"), (by, "type"), (by, "level")):
        knob.value = value
        seen.add(shown.children[1].value)
    assert len(seen) == 4 and all(page.startswith("<img") for page in seen)


# Pages


def test_one_question_is_shown_under_all_arms(bench):
    page = show_answers(bench, "q12").html
    assert (
        page.count("<tr>") == 1 + len(RIGHT)
        and "Who is 12?" in page
        and "Title 24, Title 25" in page
    )
    assert len(re.findall(r">Ada 12</td>", page)) == sum(right > 12 for right in RIGHT.values())
    with pytest.raises(ValueError, match="no question 'q99'"):
        show_answers(bench, "q99")


def test_what_went_wrong_is_said_and_text_of_others_is_escaped():
    evil = "<script>alert(1)</script>"

    def change(label, n):
        call = Call(reply=evil + "x" * 400)
        search = Retrieval(query=evil)
        ending = (
            {"termination": "too_long", "error": evil, "prediction": None}
            if label == "oracle"
            else {}
        )
        return {
            "calls": (call,),
            "retrievals": (search,),
            "cited": (evil,),
            "cites": True,
            "prediction": evil,
        } | ending

    bench = made(("oracle", "retrieve_1"), change)
    bench = replace(
        bench, questions=tuple(replace(q, question=evil, level=evil) for q in QUESTIONS)
    )
    page = show_answers(bench, "q1").html
    assert "<script" not in page and page.count("&lt;script") >= 7
    assert "(did not fit the window)" in page and "more characters]" in page
    pool = MemoryPool([Passage(f"Title {n}", (evil,)) for n in range(200)])
    assert "<script" not in show_context(bench.answers[0], bench.questions[0], pool).html
    split = views.reading_table(bench.scores, "level", settings=FAST)
    assert "<script" not in views.show_reading(split).html


def test_a_context_shows_all_gold_and_counts_the_filler_between(bench):
    answer = next(
        a for a in bench.answers if a.label == "long_context@131072" and a.question_id == "q5"
    )
    page = show_context(answer, QUESTIONS[5], POOL).html
    assert page.count("<b>gold</b>") == 2 and "Title 10 [1]" in page and "Title 11 [29]" in page
    assert "21 more passages" in page and page.count("Text 1") == 2 + 6
    assert "filled to 99.50%" in page and "29 passages" in page


@pytest.mark.parametrize(
    ("tokens", "title"),
    [(512, "512"), (1024, "1K"), (131072, "128K"), (5000, "5,000"), (1536, "1,536")],
)
def test_lengths_are_said_as_people_say_them(tokens, title):
    assert (
        tokens_title(tokens) == title
        and arm_title(f"long_context@{tokens}") == f"long context, {title}"
    )


# The how-to

HOW_TO = (Path(__file__).parents[1] / "docs" / "long_context_vs_retrieval.md").read_text(
    encoding="utf-8"
)


def test_the_settings_of_the_how_to_exist_and_its_cost_is_the_estimate():
    names, block = {}, re.findall(r"```python\n(.*?)```", HOW_TO, re.DOTALL)[0]
    assert "models/llama-3.1-70b-tokenizer" in block  # a folder that a reader has, and we have not
    exec(block.replace("models/llama-3.1-70b-tokenizer", "pocket-llama"), names)
    profile = names["project"].profile
    assert (profile.benchmark.player, profile.endpoint.timeout) == ("endpoint", 1800.0)
    for stage, setting in re.findall(
        r"(?:--set |`)(benchmark|endpoint|contexts|retrieval|budget)\.(\w+)[=`]", HOW_TO
    ):
        assert hasattr(getattr(profile, stage), setting), f"{stage}.{setting}"
    asked = [f"long_context@{length}" for length in profile.contexts.lengths]
    cost = estimate(asked, [QUESTIONS[0]] * profile.benchmark.questions, profile.reading, POOL)
    tokens = cost.table["prompt_tokens"].sum()
    said = " ".join(HOW_TO.split())
    assert f"{tokens:,} prompt tokens" in said
    assert f"{tokens / 15_000 / 3600 * 8:.0f} GPU hours" in said
    refused = " ".join(re.search(r"```\n(ContextSettings.*?)```", HOW_TO, re.DOTALL)[1].split())
    ladder = ContextSettings(lengths=(4096, 8192, 16384, 32768))
    with pytest.raises(ValueError) as error:
        make_contexts(
            QUESTIONS, POOL, None, prompt=None, answer_tokens=96, window=8192, settings=ladder
        )
    assert str(error.value) == refused
