"""The question itself: what each way to an answer takes, beside the accuracy that is known."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from figure_checks import misplaced
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb import views
from negfail_nb.curves.answer import (
    MEASURED,
    PREDICTED,
    PUBLISHED,
    Asked,
    answer_table,
    answer_text,
    changes_table,
)
from negfail_nb.speed import predict
from negfail_nb.speed.ladder import CACHED, LONG, PIPELINE
from negfail_nb.views.papers import redraw

ASKED = Asked(architecture="llama-3.1-70b", hardware="h100", gpus=4, gpu_hour=2.5)


@pytest.fixture(scope="module")
def table():
    return answer_table(ASKED)


def ways(table, way):
    return table[(table["kind"] == PREDICTED) & (table["way"] == way)]


def test_each_way_has_the_seconds_of_the_formula_and_money_follows_the_rate(table):
    steps = ways(table, PIPELINE).set_index("calls")
    for calls in (1, 3):
        alone = predict("llama-3.1-70b", "h100", ASKED.pipeline(calls)).e2e_seconds
        assert steps.seconds[calls] == pytest.approx(alone)
    rows = table[table["kind"] == PREDICTED]
    a_second = 4 * 2.5 / 3600
    assert (rows["money"] * rows["rate"] / 1000).to_numpy() == pytest.approx(a_second)
    assert (rows["money_low"] <= rows["money"]).all() and (
        rows["money"] <= rows["money_high"]
    ).all()
    assert answer_table(replace(ASKED, gpu_hour=0, lengths=(4096,)))["money"].isna().all()


def test_published_accuracy_stands_at_the_predicted_seconds_of_its_length(table):
    seconds = ways(table, LONG).set_index("length")["seconds"]
    published = table[table["kind"] == PUBLISHED]
    long = published[published["way"] == LONG]
    assert set(long["name"]) == {"RULER QA, Llama-3.1-70B", "HELMET RAG, Llama-3.1-70B"}
    assert (long["seconds"].to_numpy() == seconds[long["length"]].to_numpy()).all()
    assert published["source"].str.contains("arXiv").all()
    assert not (table["kind"] == MEASURED).any()


def test_own_accuracy_counts_only_for_the_model_that_is_asked_for():
    rows = {"arm": ["retrieve_1", "long_context@4096"], "sub_em": [0.5, 0.6], "length": [0, 4096]}
    rows |= {"alone_p50": [float("nan")] * 2, "seconds_p50": [1.0, 2.0], "questions": [50, 50]}
    curve = SimpleNamespace(table=pd.DataFrame(rows))
    small = replace(ASKED, lengths=(4096,))
    own = answer_table(small, curve, "meta-llama/Llama-3.1-70B-Instruct")
    own = own[own["kind"] == MEASURED]
    assert own["accuracy"].tolist() == [50, 60] and own["seconds"].tolist() == [1, 2]
    for other in ("pocket-llama", "meta-llama/Llama-3.1-8B-Instruct", ""):
        assert not (answer_table(small, curve, other)["kind"] == MEASURED).any()


def test_the_paragraph_says_what_the_table_says(table):
    text = answer_text(ASKED, table)
    long = ways(table, LONG).iloc[-1]
    assert f"{long.seconds:.2g} ({long.seconds_low:.2g} to {long.seconds_high:.2g}) s" in text
    assert f"From {ASKED.even(3).tokens:,} tokens on" in text
    assert "RULER QA, Llama-3.1-70B falls from 77.2 at 4,096 tokens to 47.6 at 131,072" in text
    none = replace(ASKED, gpus=1)
    assert "fits on these GPUs" in answer_text(none, answer_table(none))


@settings(max_examples=5, deadline=None)
@given(steps=st.integers(1, 4), tokens=st.sampled_from([8, 64, 256]))
def test_reading_takes_as_long_as_the_steps_at_the_break_even_length(steps, tokens):
    asked = replace(ASKED, steps=(steps,), answer_tokens=tokens, lengths=(4096,))
    even = asked.even(steps).tokens
    work = asked.pipeline(steps)
    budget = predict("llama-3.1-70b", "h100", work).e2e_seconds

    def seconds(length):
        once = replace(work, calls=1, added_tokens=0, input_tokens=length)
        return predict("llama-3.1-70b", "h100", once).e2e_seconds

    if even is None:
        assert seconds(131072 - tokens) < budget
    else:
        assert seconds(even - 1) < budget <= seconds(even)


def test_more_steps_longer_answers_and_a_cache_move_the_break_even_up():
    table = changes_table(ASKED, gpus=("h200",)).set_index(["changed", "to"])
    tokens = table["tokens"]
    assert tokens["steps", "1"] < tokens["steps", "2"] < tokens["nothing", ""]
    assert tokens["nothing", ""] < tokens["steps", "5"] < tokens["answer tokens", "128"]
    assert "faster at every length" in table["note"]["cache", "the prefix is cached"]
    assert tokens["load", "full server"] < tokens["nothing", ""]
    assert "full server, cached" in views.show_changes(table.reset_index()).to_html()


def test_the_figure_fits_a_column_and_tells_published_from_predicted(table, tmp_path):
    figure = views.draw_answer(table, title="llama-3.1-70b, 4 x h100", currency="USD")
    _, labels = figure.axes[0].get_legend_handles_labels()
    assert "RULER QA, Llama-3.1-70B, published" in labels
    assert "retrieval, 3 steps, predicted" in labels
    assert "second-hand" not in figure.caption and "arXiv:2404.06654" in figure.caption
    saved = views.save_figure(figure, table, "07_answer", tmp_path, {})
    assert misplaced(redraw(saved.with_suffix(".csv"), 3.25)) == []
    cached = ways(table, CACHED)
    assert len(cached) == 6 and "128K" in views.show_answer(table).to_html()
