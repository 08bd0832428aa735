"""Room 05, first form: loss and perplexity on held-out successes, and how arms compare."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from negfail_nb.evaluation import Perplexity, compare, perplexity
from negfail_nb.runs import Place
from negfail_nb.settings import EvaluateSettings, ModelSettings
from negfail_nb.training import load_model, make_tokenizer

TOKENIZER = make_tokenizer(["Thought: I look it up."] * 20, 300)
MODEL = load_model(
    ModelSettings(layers=2, width=32, heads=2, vocabulary=300, positions=128), TOKENIZER
)
FEW = EvaluateSettings(resamples=500)


@dataclass
class Data:
    lengths: tuple[int, ...] = (5, 30, 12, 12, 44, 9)

    def dataset(self):
        draw = np.random.default_rng(0)
        ids = [draw.integers(0, len(TOKENIZER), n).tolist() for n in self.lengths]
        labels = [
            [-100 if draw.random() < 0.4 and i != 1 else t for i, t in enumerate(row)]
            for row in ids
        ]
        questions = [f"q{i % 3}" for i in range(len(ids))]
        return Dataset.from_dict(
            {
                "input_ids": ids,
                "labels": labels,
                "id": [f"t{i}" for i in range(len(ids))],
                "question_id": questions,
            }
        )


def direct(example):
    """Sum of ``-ln p`` over labels that are not -100, from the second token on."""
    logp = MODEL(torch.tensor([example["input_ids"]]), use_cache=False).logits[0].log_softmax(-1)
    kept = [i for i in range(1, len(example["labels"])) if example["labels"][i] != -100]
    return sum(-logp[i - 1, example["labels"][i]].item() for i in kept), len(kept)


@pytest.mark.parametrize("batch_tokens", [64, 4096])
def test_perplexity_is_the_direct_computation(batch_tokens):
    score = perplexity(MODEL, Data(), EvaluateSettings(batch_tokens=batch_tokens))
    expected = {e["id"]: direct(e) for e in Data().dataset()}
    table = score.table.set_index("id")
    for name, (nll, tokens) in expected.items():
        assert table.nll[name] == pytest.approx(nll, abs=1e-4)
        assert table.tokens[name] == tokens
    loss = sum(n for n, _ in expected.values()) / sum(t for _, t in expected.values())
    assert score.loss == pytest.approx(loss, abs=1e-6)
    assert score.perplexity == pytest.approx(np.exp(loss), rel=1e-6)
    assert "perplexity=" in repr(score)


def test_untrained_model_is_near_uniform():
    assert perplexity(MODEL, Data()).perplexity == pytest.approx(len(TOKENIZER), rel=0.1)


def test_question_limit_is_the_same_for_every_arm():
    chosen = perplexity(MODEL, Data(), EvaluateSettings(max_questions=2)).table
    assert chosen.question_id.nunique() == 2 and len(chosen) == 4
    other = perplexity(MODEL, Data((44, 30, 9, 8, 7, 6)), EvaluateSettings(max_questions=2)).table
    assert set(other.id) == set(chosen.id)


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="0 of 0 held-out examples have no assistant token"):
        perplexity(MODEL, Data(()))
    with pytest.raises(ValueError, match="example t0 has 200 tokens, the model takes 128"):
        perplexity(MODEL, Data((200,)))


def test_a_run_folder_is_read_and_not_measured_again(tmp_path, monkeypatch):
    data = Data()
    data.content = "0" * 64
    place = Place(tmp_path, "perplexity-nat")
    first = perplexity(MODEL, data, FEW, folder=place)
    assert first.run.done and first.table.equals(perplexity(MODEL, data, FEW).table)
    monkeypatch.setattr(type(MODEL), "forward", lambda *a, **k: pytest.fail("measured again"))
    again = perplexity(MODEL, data, EvaluateSettings(resamples=900), folder=place)
    assert again.run == first.run and again.table.equals(first.table)
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        perplexity(MODEL, data, EvaluateSettings(max_questions=2), folder=place)


# Comparison
# --------------------------------------------------------------------------------------------------


def score(nll, questions=None, tokens=None, ids=None):
    n = len(nll)
    return Perplexity(
        pd.DataFrame(
            {
                "id": ids or [f"t{i}" for i in range(n)],
                "question_id": questions or [f"q{i}" for i in range(n)],
                "nll": np.asarray(nll, dtype=float),
                "tokens": tokens or [10] * n,
            }
        )
    )


def synthetic(draw, questions=40, shift=0.0, noise=1.0):
    """True loss 2 a token (plus ``shift``): questions differ, and their three attempts differ
    little.
    """
    difficulty = np.repeat(draw.normal(2.0, noise, questions), 3)
    nll = 10 * (difficulty + shift + draw.normal(0, 0.1, questions * 3))
    return score(nll, [f"q{i // 3}" for i in range(questions * 3)])


def test_interval_over_questions_covers_as_often_as_it_says():
    draw = np.random.default_rng(1)
    rows = [
        compare({"a": synthetic(draw)}, EvaluateSettings(resamples=400, seed=i)).iloc[0]
        for i in range(200)
    ]
    covered = np.mean([r.loss_low <= 2.0 <= r.loss_high for r in rows])
    assert 0.90 <= covered <= 0.98
    # attempts taken for independent would give intervals narrower by about the square root of three
    width = np.mean([r.loss_high - r.loss_low for r in rows])
    assert width == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.1)


def test_paired_difference_is_sharper_than_the_arms():
    draw = np.random.default_rng(2)
    base = synthetic(draw)
    better = Perplexity(
        base.table.assign(nll=base.table.nll - 1.0 + draw.normal(0, 0.5, len(base.table)))
    )
    table = compare({"vanilla": base, "nat": better}, FEW).set_index("arm")
    row = table.loc["nat"]
    assert row.difference == pytest.approx(row.loss - table.loss["vanilla"])
    assert row.difference_low < row.difference < row.difference_high < 0
    assert row.difference_high - row.difference_low < (row.loss_high - row.loss_low) / 5
    assert tuple(table.loc["vanilla", ["difference", "difference_low", "difference_high"]]) == (
        0,
        0,
        0,
    )
    other = compare({"vanilla": base, "nat": better}, FEW, baseline="nat").set_index("arm")
    assert other.difference["vanilla"] == pytest.approx(-row.difference)


def test_counts_and_perplexity_columns():
    row = compare({"a": score([10, 20, 30, 40], ["p", "p", "q", "q"], [10, 10, 20, 20])}, FEW).iloc[
        0
    ]
    assert (row.questions, row.examples, row.tokens, row.note) == (2, 4, 60, "")
    assert row.loss == pytest.approx(100 / 60)
    assert row.perplexity == pytest.approx(np.exp(100 / 60))
    assert row.perplexity_low == pytest.approx(np.exp(row.loss_low))
    assert (row.loss_low, row.loss_high) == (pytest.approx(30 / 20), pytest.approx(70 / 40))


@given(st.lists(st.floats(0.1, 50), min_size=2, max_size=8), st.floats(-3, 3))
@example([38.5, 38.5], 0.0)
@settings(max_examples=25, deadline=None)
def test_intervals_are_ordered_and_shifts_shift_them(nll, shift):
    few = EvaluateSettings(resamples=100)
    table = compare({"a": score(nll), "b": score([x + 10 * shift for x in nll])}, few)
    assert (table.loss_low <= table.loss_high).all()
    assert table.difference[1] == pytest.approx(shift, abs=1e-6)
    assert table.difference_low[1] == pytest.approx(shift, abs=1e-6)
    assert table.loss_low[1] - table.loss_low[0] == pytest.approx(shift, abs=1e-6)


def test_same_seed_same_intervals():
    arms = {"a": synthetic(np.random.default_rng(3))}
    assert compare(arms, FEW).equals(compare(arms, FEW))
    assert not compare(arms, FEW).equals(compare(arms, EvaluateSettings(resamples=500, seed=1)))


def test_one_question_has_no_interval_and_says_so(caplog):
    table = compare({"a": score([10, 20], ["q", "q"]), "b": score([12, 20], ["q", "q"])}, FEW)
    assert table.loss.tolist() == [1.5, 1.6]
    assert table[["loss_low", "loss_high", "perplexity_low", "difference_low"]].isna().all().all()
    assert table.note.tolist() == ["one question only: no interval"] * 2
    assert "one question only" in caplog.text


def test_different_examples_are_refused():
    with pytest.raises(
        ValueError,
        match="arms a and b were measured on different examples; 2 are not in both: t1, x",
    ):
        compare({"a": score([1, 2]), "b": score([1, 2], ids=["t0", "x"])})


def test_different_tokens_are_refused():
    with pytest.raises(
        ValueError, match=r"arms a and b count different tokens in 1 examples: t1 \(10 and 9\)"
    ):
        compare({"a": score([1, 2]), "b": score([1, 2], tokens=[10, 9])})


def test_no_arms_and_unknown_baseline():
    with pytest.raises(ValueError, match="no arms to compare"):
        compare({})
    with pytest.raises(ValueError, match="baseline 'nut' is not among the arms: a"):
        compare({"a": score([1, 2])}, FEW, baseline="nut")
