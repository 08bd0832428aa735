"""Room 04: the end of a training run, the devices that it uses, and what it leaves behind."""

import gc
import logging
import weakref
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file
from test_train import MODEL, SETTINGS, Data, loss, weights

from negfail_nb.evaluation import perplexity
from negfail_nb.settings import LoraSettings
from negfail_nb.training import TrainedRun, fit, plan, result, train
from negfail_nb.training.layout import Layout
from negfail_nb.training.trainer import PackedTrainer, recomputes

FOUR = replace(SETTINGS, steps=4)
LORA = LoraSettings(rank=4)


def killed(*arguments):
    raise KeyboardInterrupt


@pytest.mark.parametrize("lora", [LoraSettings(), LORA])
def test_killed_between_the_last_checkpoint_and_the_result(lora, tmp_path, monkeypatch):
    whole = train(Data(), SETTINGS, MODEL, lora, folder=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit, "write_result", killed)
        train(Data(), SETTINGS, MODEL, lora, folder=tmp_path / "cut")
    assert (tmp_path / "cut" / result.CHECKPOINTS / "checkpoint-6").is_dir()
    monkeypatch.setattr(
        PackedTrainer, "training_step", lambda *a, **k: pytest.fail("trained a step too many")
    )
    resumed = train(Data(), SETTINGS, MODEL, lora, folder=tmp_path / "cut")
    assert (resumed.steps, resumed.tokens, resumed.plan) == (6, whole.tokens, whole.plan)
    columns = ["step", "loss", "learning_rate", "tokens"]
    assert resumed.history[columns].equals(whole.history[columns])
    assert torch.equal(weights(resumed), weights(whole))


def test_checkpoints_left_beside_a_result_are_deleted(tmp_path):
    run = train(Data(), FOUR, MODEL, folder=tmp_path)
    (tmp_path / result.CHECKPOINTS / "checkpoint-4").mkdir(parents=True)
    assert train(Data(), FOUR, MODEL, folder=tmp_path).history.equals(run.history)
    assert not (tmp_path / result.CHECKPOINTS).exists()


def test_trainer_and_model_are_freed(tmp_path, monkeypatch):
    held = []

    def remember(*arguments, make=fit._make_trainer):
        trainer = make(*arguments)
        held.extend(map(weakref.ref, (trainer, trainer.model, next(trainer.model.parameters()))))
        return trainer

    monkeypatch.setattr(fit, "_make_trainer", remember)
    gc.disable()
    try:
        train(Data(), FOUR, MODEL, folder=tmp_path)
        assert [ref() is None for ref in held] == [True] * 3
    finally:
        gc.enable()


def test_one_of_several_gpus_is_used(tmp_path, monkeypatch, caplog):
    from trl import SFTConfig

    def with_two(self, after=SFTConfig.__post_init__):
        after(self)
        self._n_gpu = 2

    monkeypatch.setattr(SFTConfig, "__post_init__", with_two)
    caplog.set_level(logging.INFO, "negfail_nb")
    config = fit._config(FOUR, tmp_path, plan(Data(), FOUR), Layout())
    assert config.n_gpu == 1 and config.train_batch_size == 1
    assert "2 GPUs are visible; one of them is used" in caplog.text


POCKET = {"vocab_size": 2048, "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6}


def test_activations_are_recomputed_only_where_memory_is_short():
    """It costs a third more time, so a model of 135M parameters does without on a laptop."""
    from transformers import LlamaConfig, LlamaForCausalLM

    laptop = {"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536}
    with torch.device("meta"):
        small = LlamaForCausalLM(LlamaConfig(**POCKET, intermediate_size=512))
        real = LlamaForCausalLM(LlamaConfig(vocab_size=49152, num_attention_heads=9, **laptop))
        large = LlamaForCausalLM(LlamaConfig(num_hidden_layers=32))
    assert not recomputes(small, 4096, 2 * 10**9)
    assert not recomputes(real, 2048, 16 * 10**9)
    assert recomputes(real, 4096, 8 * 10**9)
    assert recomputes(large, 4096, 80 * 10**9)


def test_model_is_loaded_onto_the_accelerator(tmp_path, monkeypatch):
    full = train(Data(), FOUR, MODEL, folder=tmp_path / "full")
    adapted = train(Data(), FOUR, MODEL, LORA, folder=tmp_path / "adapted")
    assert full.load().device.type == adapted.load().device.type == "cpu"
    # stands in for a GPU
    with monkeypatch.context() as patch:
        patch.setattr(
            torch.accelerator, "current_accelerator", lambda check_available: torch.device("meta")
        )
        assert result.device().type == "meta"
    monkeypatch.setattr(result, "device", lambda: torch.device("meta"))
    for run in (full, adapted):
        assert {p.device.type for p in run.load().parameters()} == {"meta"}


def test_small_updates_of_an_adapter_survive_bfloat16(tmp_path):
    run = train(
        Data(), replace(FOUR, dtype="bfloat16", learning_rate=1e-5), MODEL, LORA, folder=tmp_path
    )
    saved = load_file(run.weights / "adapter_model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    model = run.load()
    assert perplexity(model, Data()).loss == pytest.approx(loss(model, Data()), abs=0.01)
    state = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(state) == len(saved) and {p.dtype for p in state.values()} == {torch.float32}
    assert {p.dtype for name, p in model.named_parameters() if "lora_" not in name} == {
        torch.bfloat16
    }
    # the update of every weight that the adapter makes is there, and is far below what bfloat16
    # weights could hold
    assert all(value.abs().max() > 0 for name, value in saved.items() if "lora_B" in name)


def test_result_holds_the_plan(tmp_path):
    run = train(Data(), FOUR, MODEL, folder=tmp_path)
    assert asdict(TrainedRun.open(tmp_path).plan) == asdict(run.plan) == asdict(plan(Data(), FOUR))
