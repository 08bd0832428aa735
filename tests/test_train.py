"""Room 04: the arms, the plan, and training that survives what happens to it."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.content import mark_whole, what_is_wrong
from negfail_nb.runs import Place
from negfail_nb.settings import LoraSettings, ModelSettings, PrefixSettings, TrainSettings
from negfail_nb.training import (
    ARMS,
    Arm,
    TrainedRun,
    fit,
    load_model,
    make_arms,
    make_tokenizer,
    plan,
    select,
    train,
)
from negfail_nb.training.planning import padded_tokens, row_tokens, token_counts
from negfail_nb.training.result import CHECKPOINTS
from negfail_nb.training.trainer import PackedTrainer, Progress, last_whole
from negfail_nb.trajectory import Trajectory

TOKENIZER = make_tokenizer(["Thought: I look it up.\nAction: search[it]\n"] * 20, 300)
MODEL = ModelSettings(layers=2, width=32, heads=2, vocabulary=300, positions=128)
SETTINGS = TrainSettings(
    budget="steps", steps=6, batch_tokens=128, save_steps=2, learning_rate=1e-2
)


@dataclass
class Data:
    """What `render` returns, with random tokens, two masked at the start of each example."""

    lengths: tuple[int, ...] = tuple(range(6, 46, 2))
    seed: int = 0
    tokenizer: object = TOKENIZER

    @property
    def content(self):
        return f"random tokens {self.lengths} {self.seed}"

    def dataset(self):
        draw = np.random.default_rng(self.seed)
        ids = [draw.integers(10, len(TOKENIZER), n).tolist() for n in self.lengths]
        labels = [[-100, -100, *row[2:]] for row in ids]
        names = [f"t{i}" for i in range(len(ids))]
        return Dataset.from_dict(
            {"input_ids": ids, "labels": labels, "id": names, "question_id": names}
        )


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.load().parameters()])


def loss(model, data):
    """Mean over trained tokens, one example at a time: the plain formula."""
    total, count = 0.0, 0
    for e in data.dataset():
        ids, labels = torch.tensor([e["input_ids"]]), torch.tensor(e["labels"])[1:]
        with torch.no_grad():
            logp = model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        kept = labels != -100
        total -= logp[kept].gather(1, labels[kept, None]).sum().item()
        count += int(kept.sum())
    return total / count


# Arms
# --------------------------------------------------------------------------------------------------


def record(number, success, split=""):
    return Trajectory(
        id=f"t{number}", question_id=f"q{number}", question="?", success=success, split=split
    )


LOGS = [record(i, i % 3 == 0) for i in range(60)]
VANILLA, NUT = Arm("vanilla", False, None), Arm("nut", True, None)


def test_arms_are_those_of_the_paper():
    arms = make_arms(ARMS, PrefixSettings())
    assert [(a.name, a.uses_failures) for a in arms] == [
        ("vanilla", False),
        ("nut", True),
        ("nat", True),
        ("nat-k", True),
    ]
    assert arms[0].template == arms[1].template and arms[0].template.name == "none"
    assert arms[2].template.name == "target-aware"
    assert len(arms[3].template.classes) == 3
    with pytest.raises(ValueError, match="no arm 'natt'; there are vanilla, nut, nat, nat-k"):
        make_arms(["natt"])


def test_every_arm_gets_the_same_successes_and_failures_are_nested():
    settings = TrainSettings(successes=7, failures=10, seed=3)
    vanilla, nut = select(LOGS, VANILLA, settings), select(LOGS, NUT, settings)
    more = select(LOGS, NUT, replace(settings, failures=25))
    outcomes = [[t.success for t in chosen] for chosen in (vanilla, nut, more)]
    assert [(o.count(True), o.count(False)) for o in outcomes] == [(7, 0), (7, 10), (7, 25)]
    first, second, third = ({t.id for t in chosen} for chosen in (vanilla, nut, more))
    assert first < second < third
    assert select(LOGS[::-1], NUT, settings)[::-1] == nut
    assert vanilla != select(LOGS, VANILLA, replace(settings, seed=4))
    assert len(select(LOGS, NUT)) == 60


def test_only_the_training_split_is_used_where_there_is_one():
    logs = [replace(t, split="train" if i < 20 else "heldout") for i, t in enumerate(LOGS)]
    assert {t.split for t in select(logs, NUT)} == {"train"}
    assert len(select(logs, NUT)) == 20


def test_asking_for_more_than_there_are_uses_all_and_says_so(caplog):
    chosen = select(LOGS, NUT, TrainSettings(failures=1000))
    assert sum(not t.success for t in chosen) == 40
    assert "arm nut: 1000 failures asked for, all 40 used" in caplog.text
    caplog.clear()
    assert select(LOGS, VANILLA, TrainSettings(failures=1000)) and not caplog.text


def test_no_successes_and_no_failures():
    with pytest.raises(
        ValueError,
        match="arm vanilla needs successful.*2 records given.*0 successful, 1 failed, 1 with",
    ):
        select([record(1, False), record(2, None)], VANILLA)
    with pytest.raises(ValueError, match="arm nut needs failed trajectories.*Leave this arm out"):
        select([record(1, True)], NUT)
    assert len(select([record(1, True)], VANILLA)) == 1


# Plan
# --------------------------------------------------------------------------------------------------


def test_plan_says_what_training_does(tmp_path):
    data, settings = Data(), TrainSettings(epochs=2, batch_tokens=128)
    planned = plan(data, settings)
    run = train(data, settings, MODEL, folder=tmp_path)
    assert planned.tokens == sum(data.lengths) and planned.examples == 20 and planned.longest == 44
    assert planned.trained_tokens == sum(data.lengths) - 2 * 20
    assert (
        planned.fill == pytest.approx(planned.tokens / (planned.rows * planned.row_tokens))
        and planned.fill > 0.85
    )
    assert (run.steps, run.tokens, run.plan) == (planned.steps, 2 * planned.tokens, planned)
    assert planned.gain == planned.padded_tokens / planned.tokens > 1
    assert "packing gain" in planned._repr_html_()


def test_steps_are_the_budget_where_asked():
    planned = plan(Data(), replace(SETTINGS, steps=11))
    assert planned.steps == 11
    assert planned.epochs == pytest.approx(11 / np.ceil(planned.rows / planned.rows_per_step))


@given(st.integers(1, 40_000), st.integers(64, 60_000))
def test_rows_hold_the_longest_example_and_fill_a_step(longest, batch):
    row = row_tokens(longest, batch)
    assert row >= longest
    assert row * max(1, round(batch / row)) <= max(longest, batch)


def test_padded_tokens_of_a_known_case():
    assert padded_tokens(np.array([5] * 8 + [5] * 3), seed=0) == 55
    assert padded_tokens(np.array([1, 9]), seed=0) == 18


def test_first_token_is_never_trained():
    dataset = Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [[1, 2, -100]]})
    assert [c.tolist() for c in token_counts(dataset)] == [[3], [1]]


def test_no_examples_and_no_trained_tokens():
    with pytest.raises(ValueError, match="no examples to train on"):
        plan(Data(lengths=()))
    with pytest.raises(ValueError, match=r"1 of 2 examples have no trained token \(t0\)"):
        plan(Data(lengths=(2, 9)))


# Training
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One uninterrupted run that several tests look at."""
    return train(Data(), SETTINGS, MODEL, folder=tmp_path_factory.mktemp("whole"))


def test_loss_of_a_packed_step_is_the_mean_over_trained_tokens(whole, tmp_path):
    settings = replace(SETTINGS, steps=1, batch_tokens=1024)
    first = train(Data(), settings, MODEL, folder=tmp_path).history["loss"][0]
    assert first == pytest.approx(loss(load_model(MODEL, TOKENIZER), Data()), abs=1e-5)


def test_several_rows_a_step_give_the_same_step(tmp_path, monkeypatch):
    data, settings = Data(lengths=(30, 30, 30, 30)), replace(SETTINGS, steps=3, batch_tokens=120)
    one = train(data, settings, MODEL, folder=tmp_path / "one")
    # 4 rows of one example each, summed over one step
    monkeypatch.setattr("negfail_nb.training.planning.ROW_TOKENS", 1)
    many = train(data, settings, MODEL, folder=tmp_path / "many")
    assert (one.plan.rows_per_step, many.plan.rows_per_step) == (1, 4)
    torch.testing.assert_close(weights(one), weights(many), atol=1e-5, rtol=1e-4)


def test_output_layer_over_trained_tokens_gives_the_weights_of_trls(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(PackedTrainer, "_fits", lambda *a: False)
    theirs = train(Data(), SETTINGS, MODEL, folder=tmp_path)
    torch.testing.assert_close(weights(whole), weights(theirs), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(whole.history["loss"], theirs.history["loss"], atol=1e-5)


def test_two_runs_are_equal_and_learn(whole, tmp_path):
    again = train(Data(), SETTINGS, MODEL, folder=tmp_path)
    assert torch.equal(weights(whole), weights(again)) and whole.content == again.content
    assert loss(again.load(), Data()) < loss(load_model(MODEL, TOKENIZER), Data()) - 0.1
    other = train(Data(), replace(SETTINGS, seed=1), MODEL, folder=tmp_path / "other")
    assert not torch.equal(weights(whole), weights(other)) and whole.content != other.content


def test_curve_is_kept(whole):
    history = whole.history
    assert list(history.columns) == ["step", "loss", "learning_rate", "tokens", "seconds"]
    assert history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert history["seconds"].is_monotonic_increasing and history["tokens"].iloc[-1] == whole.tokens
    assert (whole.folder / "curve.csv").read_text().count("\n") == 7
    assert not history.isna().any().any()


def test_weights_are_safetensors_and_nothing_is_written_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(Data(), SETTINGS, MODEL, folder="here/run")
    assert (run.weights / "model.safetensors").is_file()
    assert not [p for p in run.weights.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert [p.name for p in tmp_path.iterdir()] == ["here"]
    # a finished run needs no checkpoints
    files = ["curve.csv", "manifest.json", "model", "plan.json"]
    assert sorted(p.name for p in run.folder.iterdir()) == files


def test_finished_run_is_not_trained_again(whole, monkeypatch):
    monkeypatch.setattr(fit, "_make_trainer", lambda *a: pytest.fail("trained again"))
    again = train(Data(), SETTINGS, MODEL, folder=whole.folder)
    assert again.steps == 6 and again.history.equals(whole.history)


def test_a_place_has_a_folder_per_plan(tmp_path):
    place, one = Place(tmp_path, "train-nat"), replace(SETTINGS, steps=1)
    first = train(Data(), one, MODEL, folder=place)
    again = train(Data(), replace(one, save_steps=1, failures=7), MODEL, folder=place)
    other = train(Data(), replace(one, seed=1), MODEL, folder=place)
    assert first.folder == again.folder != other.folder
    assert first.folder.parent == other.folder.parent == tmp_path / "train-nat"
    kept = json.loads((first.folder / "plan.json").read_text())
    assert TrainedRun.open(first.folder).run.plan == first.run.plan == kept


def interrupt_at(monkeypatch, step):
    def stop(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "on_step_end", stop)


@pytest.mark.parametrize("rank", [0, 4])
def test_interrupted_run_ends_like_an_uninterrupted_one(rank, whole, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "negfail_nb")
    lora = LoraSettings(rank=rank, dropout=0.1 if rank else 0.0)
    uninterrupted = (
        train(Data(), SETTINGS, MODEL, lora, folder=tmp_path / "whole") if rank else whole
    )
    torch.manual_seed(6)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 5)
        train(Data(), SETTINGS, MODEL, lora, folder=tmp_path / "cut")
    begun = []
    monkeypatch.setattr(
        Progress,
        "on_step_end",
        lambda self, args, state, control, **k: begun.append(state.global_step),
    )
    torch.manual_seed(7)  # what was drawn before must not matter
    resumed = train(Data(), SETTINGS, MODEL, lora, folder=tmp_path / "cut")
    assert begun == [5, 6]
    assert "checkpoint-4" in caplog.text
    assert torch.equal(weights(resumed), weights(uninterrupted))
    assert resumed.tokens == uninterrupted.tokens
    columns = ["step", "learning_rate", "tokens"]
    assert resumed.history[columns].equals(uninterrupted.history[columns])
    np.testing.assert_allclose(resumed.history["loss"], uninterrupted.history["loss"], atol=1e-6)
    assert resumed.history["seconds"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: truncate(f / "model.safetensors"), r"model.safetensors has \d+ of \d+ bytes"),
        (lambda f: truncate(f / "optimizer.pt"), r"optimizer.pt has \d+ of \d+ bytes"),
        (lambda f: (f / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda f: (f / "whole.json").unlink(), r"it was not finished \(whole.json is missing\)"),
        (lambda f: truncate(f / "whole.json"), "whole.json is damaged"),
    ],
)
def test_damaged_checkpoint_is_named(damage, why, tmp_path):
    import re

    for step in (2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("model.safetensors", "optimizer.pt", "trainer_state.json"):
            (folder / name).write_bytes(b"x" * 50)
        mark_whole(folder)
    assert last_whole(tmp_path).name == "checkpoint-10"
    damage(tmp_path / "checkpoint-10")
    assert re.search(why, what_is_wrong(tmp_path / "checkpoint-10"))
    assert last_whole(tmp_path).name == "checkpoint-2"


def truncate(path):
    path.write_bytes(path.read_bytes()[:20])


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(
    whole, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "negfail_nb")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 5)
        train(Data(), SETTINGS, MODEL, folder=tmp_path)
    truncate(tmp_path / CHECKPOINTS / "checkpoint-4" / "model.safetensors")
    resumed = train(Data(), SETTINGS, MODEL, folder=tmp_path)
    assert "checkpoint-4 is skipped: model.safetensors has 20 of" in caplog.text
    assert f"{CHECKPOINTS}/checkpoint-2" in caplog.text
    assert torch.equal(weights(resumed), weights(whole))


def test_folder_from_other_settings_is_refused(whole):
    changed = r"other settings: settings.train.learning_rate: 0.01 -> 0.02\. Use the old ones"
    with pytest.raises(ValueError, match=changed):
        train(Data(), replace(SETTINGS, learning_rate=0.02), MODEL, folder=whole.folder)
    with pytest.raises(ValueError, match="model.seed: 0 -> 1"):
        train(Data(), SETTINGS, replace(MODEL, seed=1), folder=whole.folder)
    with pytest.raises(ValueError, match="data: "):
        train(Data(seed=1), SETTINGS, MODEL, folder=whole.folder)
    assert (
        train(
            Data(), replace(SETTINGS, save_steps=5, arms=("nut",)), MODEL, folder=whole.folder
        ).steps
        == 6
    )


def test_half_a_result_is_not_taken_as_finished(tmp_path, caplog):
    run = train(Data(), SETTINGS, MODEL, folder=tmp_path)
    truncate(run.weights / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="holds no finished training run"):
        TrainedRun.open(tmp_path)
    assert "model/model.safetensors changed since it was written" in caplog.text


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,v_proj"])
def test_adapter_gives_the_same_loss_after_reloading(targets, tmp_path, monkeypatch):
    trained = {}

    def keep(folder, trainer, *rest, write=fit.write_result):
        trained["loss"] = loss(trainer.model.eval(), Data())
        return write(folder, trainer, *rest)

    monkeypatch.setattr(fit, "write_result", keep)
    run = train(Data(), SETTINGS, MODEL, LoraSettings(rank=4, targets=targets), folder=tmp_path)
    assert {p.name for p in run.weights.glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert loss(run.load(), Data()) == pytest.approx(trained["loss"], abs=1e-5)
    assert trained["loss"] < loss(load_model(MODEL, TOKENIZER), Data()) - 0.01


def test_bfloat16_is_asked_for_and_saved(tmp_path):
    run = train(Data(), replace(SETTINGS, dtype="bfloat16"), MODEL, folder=tmp_path)
    assert run.load().dtype == torch.bfloat16
    assert run.history["loss"].notna().all()


def test_model_too_short_and_foreign_tokens(tmp_path):
    with pytest.raises(ValueError, match="longest example has 200 tokens, the model takes 128"):
        train(Data(lengths=(200,)), SETTINGS, MODEL, folder=tmp_path / "long")
    small = make_tokenizer(["a"], 262)
    with pytest.raises(
        ValueError, match="the data holds token .*, the model has 262 token embeddings"
    ):
        train(Data(tokenizer=small), SETTINGS, MODEL, folder=tmp_path / "foreign")


def test_importing_registers_nothing():
    import subprocess
    import sys

    code = "import negfail_nb.training, negfail_nb.evaluation, sys; "
    code += "print(*(m in sys.modules for m in ('torch', 'trl')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.split() == ["False", "False"], done.stderr
