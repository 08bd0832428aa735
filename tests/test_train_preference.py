"""Room 04: the arms that prefer successes to failures, from the vanilla arm's model on."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from negfail_nb.evaluation import perplexity
from negfail_nb.pocket import generate_logs
from negfail_nb.prefix import render
from negfail_nb.prefix.exports import dpo_rows
from negfail_nb.runs import SettingsChanged
from negfail_nb.settings import (
    LoraSettings,
    ModelSettings,
    PreferenceSettings,
    PrefixSettings,
    TrainSettings,
)
from negfail_nb.steps import text
from negfail_nb.training import TrainedRun, layout, make_arms, make_tokenizer, preference, train
from negfail_nb.training.preference import (
    PairCollator,
    SingleCollator,
    _make_trainer,
    preference_plan,
    train_preference,
)
from negfail_nb.training.preference_rows import preference_rows, tokens_of, with_mismatched
from negfail_nb.training.result import CHECKPOINTS
from negfail_nb.training.trainer import Progress


def short(trajectory):
    """The same run with short observations: what the agent writes is what counts here."""
    messages = tuple(
        m if m["role"] == "assistant" else m | {"content": text(m)[:70]}
        for m in trajectory.messages
    )
    return replace(trajectory, question=trajectory.question[:70], messages=messages)


LOGS = [short(t) for t in generate_logs(12, 4, seed=3)]
TOKENIZER = make_tokenizer((text(m) for t in LOGS for m in t.messages), 800)
MODEL = ModelSettings(layers=1, width=32, heads=2, vocabulary=800, positions=512)
PREFIX = PrefixSettings(max_tokens=512)
TRAINING = TrainSettings(
    budget="steps", steps=8, batch_tokens=2048, learning_rate=5e-3, save_steps=2
)
SETTINGS = PreferenceSettings(batch=16, epochs=3.0, learning_rate=3e-3)
DPO, KTO = make_arms(["dpo", "kto"])
VANILLA = make_arms(["vanilla"])[0]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The vanilla arm's model."""
    data = render([t for t in LOGS if t.success], VANILLA.template, TOKENIZER, PREFIX)
    return train(data, TRAINING, MODEL, folder=tmp_path_factory.mktemp("vanilla"))


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """An uninterrupted run of each arm."""
    return {arm.name: prefer(start, tmp_path_factory.mktemp(arm.name), arm) for arm in (DPO, KTO)}


def prefer(start, folder, arm=DPO, logs=LOGS, settings=SETTINGS, training=TRAINING):
    return train_preference(logs, arm, start, settings, training, PREFIX, folder)


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.load().parameters()])


def margin(model):
    """Nats by which successes are likelier than failures, averaged over the questions that have
    both.
    """
    rendered = render(LOGS, VANILLA.template, TOKENIZER, PREFIX, inference=True)
    table = perplexity(model, rendered).table
    solved = table["id"].isin({t.id for t in LOGS if t.success})
    nll = table.groupby(["question_id", solved])["nll"].mean().unstack().dropna()
    return (nll[False] - nll[True]).mean()


# Rows
# --------------------------------------------------------------------------------------------------


def test_pairs_are_those_of_the_export():
    rows = preference_rows(
        LOGS, DPO, TOKENIZER, PreferenceSettings(pairs=2), PrefixSettings(max_tokens=4096), seed=5
    )
    exported = dpo_rows(LOGS, DPO.template, PrefixSettings(), pairs=2, seed=5).rows
    assert len(rows) == len(exported) > 10
    for row, pair in zip(rows, exported, strict=True):
        for side in ("chosen", "rejected"):
            decoded = TOKENIZER.decode(row[f"{side}_ids"])
            assert all(
                text(m).strip() in decoded
                for m in (*pair["prompt"], *pair[side])
                if m["role"] != "tool"
            )


def test_a_pair_is_a_success_and_a_failure_of_one_question():
    rows = preference_rows(LOGS[::-1], DPO, TOKENIZER, prefix=PREFIX)
    by_tokens = {
        tuple(e.input_ids): e.id for e in render(LOGS, VANILLA.template, TOKENIZER, PREFIX).examples
    }
    runs = {t.id: t for t in LOGS}
    for row in rows:
        chosen, rejected = (
            runs[by_tokens[tuple(row[f"{side}_ids"])]] for side in ("chosen", "rejected")
        )
        assert chosen.question == rejected.question and chosen.success and rejected.success is False
    again = preference_rows(LOGS, DPO, TOKENIZER, prefix=PREFIX)
    assert [row["question_id"] for row in rows] == [row["question_id"] for row in again]
    assert (
        max(np.unique([row["question_id"] for row in rows], return_counts=True)[1])
        <= PreferenceSettings().pairs
    )


@pytest.mark.parametrize("arm", [DPO, KTO])
def test_only_what_the_agent_wrote_is_preferred(arm):
    rendered = render(LOGS, VANILLA.template, TOKENIZER, PREFIX)
    runs = {t.id: t for t in LOGS}
    written = {
        tuple(e.input_ids): "".join(
            f"{text(m).strip()}<|eot_id|>" for m in runs[e.id].messages if m["role"] == "assistant"
        )
        for e in rendered.examples
    }
    for ids, mask in tokens_of(preference_rows(LOGS, arm, TOKENIZER, prefix=PREFIX)):
        assert written[tuple(ids)] == TOKENIZER.decode(ids[mask])


def test_mismatched_runs_have_the_prompt_of_one_and_the_answer_of_another():
    rows = [
        {"ids": np.arange(10 * i, 10 * i + 4 + i), "mask": np.arange(4 + i) >= 2, "label": i < 2}
        for i in range(5)
    ]
    made = with_mismatched(rows, 2, longest=6)
    assert made[0]["KL_ids"].tolist() == [0, 1, 12, 13, 14]
    assert made[1]["KL_ids"].tolist() == [10, 11, 2, 3]
    assert made[2]["KL_ids"].tolist() == [20, 21, 32, 33, 34, 35]  # cut
    assert made[4]["KL_ids"].tolist() == rows[4]["ids"].tolist()[:6]  # alone in its batch
    assert made[1]["KL_mask"].tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("arm", "runs", "message"),
    [
        (
            DPO,
            [t for t in LOGS if t.success],
            "arm dpo found no pairs: .* 0 failures; no question has both",
        ),
        (
            KTO,
            [t for t in LOGS if t.success],
            "arm kto needs successes and failures: .* 0 failures. Leave this arm",
        ),
        (
            DPO,
            [replace(t, messages=({"role": "system", "content": t.id}, *t.messages)) for t in LOGS],
            "found no pairs: 48 trajectories given, .* have both, but put to the agent in other w",
        ),
        (KTO, [replace(t, success=None) for t in LOGS], "48 without an outcome"),
        (VANILLA, LOGS, "arm vanilla is not trained on preferences"),
    ],
)
def test_nothing_to_prefer(arm, runs, message):
    with pytest.raises(ValueError, match=message):
        preference_rows(runs, arm, TOKENIZER, prefix=PREFIX)


def test_runs_that_are_cut_are_left_out_and_counted(caplog):
    caplog.set_level("INFO", "negfail_nb")
    cut = PrefixSettings(max_tokens=300)
    whole = sum(
        not e.truncated_turns for e in render(LOGS, VANILLA.template, TOKENIZER, cut).examples
    )
    rows = preference_rows(LOGS, KTO, TOKENIZER, prefix=cut)
    assert len(rows) == whole < 60
    assert f"arm kto: {whole} runs; 48 trajectories given, 0 without an outcome" in caplog.text
    assert "longer than prefix.max_tokens" in caplog.text


def test_plan_counts_what_is_trained_on():
    rows = preference_rows(LOGS, DPO, TOKENIZER, prefix=PREFIX)
    planned = preference_plan(rows, PreferenceSettings(batch=4, epochs=2.0))
    assert planned.examples == 2 * len(rows) and planned.steps == 2 * -(-len(rows) // 4)
    assert planned.tokens == sum(len(ids) for ids, _ in tokens_of(rows)) > planned.trained_tokens
    assert preference_plan(rows, PreferenceSettings(epochs=0.01)).steps == 1


# Training
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", [DPO, KTO])
def test_successes_gain_on_failures(arm, start, whole, monkeypatch):
    run = whole[arm.name]
    assert margin(run.load()) > margin(start.load()) + 1
    assert run.steps == len(run.history) == {"dpo": 6, "kto": 9}[arm.name]
    if arm is DPO:
        first, last = run.history.iloc[0], run.history.iloc[-1]
        assert first.loss == pytest.approx(np.log(2), abs=1e-4)  # nothing is preferred at the start
        assert last.loss < first.loss and last.margin > 0 and last.accuracy > 0.5
    assert not (run.folder / CHECKPOINTS).exists()
    monkeypatch.setattr(
        preference, "_make_trainer", lambda *a: pytest.fail("a finished run was trained again")
    )
    assert torch.equal(weights(prefer(start, run.folder, arm)), weights(run))


@pytest.mark.parametrize("arm", [DPO, KTO])
def test_the_reference_is_the_likelihood_of_what_the_agent_wrote(arm, start, tmp_path):
    """Under the model that training starts from, by the other computation that there is of it."""
    rows = preference_rows(LOGS, arm, TOKENIZER, SETTINGS, PREFIX)
    trainer = _make_trainer(
        rows, arm, start, SETTINGS, TRAINING, tmp_path, preference_plan(rows, SETTINGS)
    )
    rendered = render(
        [t for t in LOGS if t.success is not None], VANILLA.template, TOKENIZER, PREFIX
    )
    nll = dict(perplexity(start.load(), rendered).table[["id", "nll"]].itertuples(index=False))
    expected = {tuple(e.input_ids): -nll[e.id] for e in rendered.examples}
    ids, logps = ("chosen_ids", "ref_chosen_logps") if arm is DPO else ("ids", "ref_logps")
    for row in trainer.train_dataset:
        assert row[logps] == pytest.approx(expected[tuple(row[ids])], rel=1e-4)


@pytest.mark.parametrize("collate", [PairCollator(7), SingleCollator(7)])
def test_padding_is_neither_seen_nor_preferred(collate):
    side = {"ids": [1, 2, 3], "mask": [False, True, True]}
    other = {"ids": [4, 5], "mask": [False, True]}
    if isinstance(collate, PairCollator):
        rows = [
            {
                f"{n}_{k}": v
                for n, s in (("chosen", side), ("rejected", other))
                for k, v in s.items()
            }
        ]
        batch = collate(rows)
    else:
        rows = [s | {"KL_ids": [9], "KL_mask": [True], "label": s is side} for s in (side, other)]
        batch = collate(rows)
        assert batch["label"].tolist() == [True, False] and batch["KL_input_ids"].shape == (2, 1)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["completion_mask"].tolist() == [[0, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize("arm", [DPO, KTO])
def test_a_killed_run_goes_on_to_the_same_weights(arm, start, whole, tmp_path, monkeypatch):
    def kill(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", kill)
        prefer(start, tmp_path / "cut", arm)
    assert (tmp_path / "cut" / CHECKPOINTS / "checkpoint-2").is_dir()
    resumed = prefer(start, tmp_path / "cut", arm)
    assert torch.equal(weights(resumed), weights(whole[arm.name]))
    assert resumed.history["loss"].tolist() == whole[arm.name].history["loss"].tolist()
    assert resumed.tokens == whole[arm.name].tokens


def test_an_adapter_is_trained_on(start, tmp_path):
    data = render([t for t in LOGS if t.success], VANILLA.template, TOKENIZER, PREFIX)
    adapted = train(data, TRAINING, MODEL, LoraSettings(rank=4), folder=tmp_path / "vanilla")
    run = prefer(
        adapted, tmp_path / "dpo", settings=replace(SETTINGS, epochs=8.0, learning_rate=5e-3)
    )
    assert run.weights.name == "adapter" and not (run.weights / "ref").exists()
    assert margin(run.load()) > margin(adapted.load()) + 1
    before, after = (dict(r.load().named_parameters()) for r in (adapted, run))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) == ("lora_" not in name) for name in before)


def test_other_data_or_start_is_refused_by_name(start, tmp_path):
    run = prefer(start.folder, tmp_path / "dpo", settings=replace(SETTINGS, epochs=0.1))
    assert TrainedRun.open(tmp_path / "dpo").steps == 1
    for changes, name in (
        ({"logs": LOGS[:24]}, "data"),
        ({"settings": replace(SETTINGS, epochs=0.1, beta=0.5)}, "beta"),
        ({"start": run, "settings": replace(SETTINGS, epochs=0.1)}, "start"),
    ):
        with pytest.raises(SettingsChanged, match=name):
            prefer(
                **{
                    "start": start,
                    "folder": tmp_path / "dpo",
                    "settings": replace(SETTINGS, epochs=0.1),
                }
                | changes
            )
    with pytest.raises(FileNotFoundError, match="no finished training run"):
        prefer(tmp_path, tmp_path / "other")


def test_data_longer_than_the_model_is_refused(start, tmp_path):
    with pytest.raises(
        ValueError, match=r"the longest example has [\d,]+ tokens, the model takes 512"
    ):
        long = generate_logs(4, 4, seed=3)
        train_preference(
            long, DPO, start, SETTINGS, TRAINING, PrefixSettings(max_tokens=4096), tmp_path
        )


slow = pytest.mark.skipif(
    not os.environ.get("NEGFAIL_NB_SCALE"), reason="NEGFAIL_NB_SCALE is not set"
)


@slow
@pytest.mark.parametrize(
    ("arm", "processes", "shard"),
    [(DPO, 2, False), (KTO, 3, False), (DPO, 2, True), (KTO, 2, True)],
)
def test_processes_prefer_as_one(arm, processes, shard, start, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "devices", lambda: 4)
    settings = replace(SETTINGS, batch=12)  # the last of an epoch's 29 pairs do not divide
    one = prefer(start, tmp_path / "one", arm, settings=settings)
    many = train_preference(
        LOGS,
        arm,
        start,
        settings,
        replace(TRAINING, processes=processes),
        PREFIX,
        tmp_path / "many",
        shard,
    )
    np.testing.assert_allclose(many.history["loss"], one.history["loss"], atol=1e-5)
    # Not the accuracy: at first all pairs are even but for rounding.
    np.testing.assert_allclose(many.history["margin"], one.history["margin"], atol=1e-4)
    torch.testing.assert_close(flat(many), flat(one), atol=1e-5, rtol=0)
    assert many.tokens == one.tokens and many.processes == processes


def flat(run):
    return torch.cat([p.detach().flatten() for p in run.load().parameters()])
