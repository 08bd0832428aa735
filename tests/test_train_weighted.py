"""Room 04: a weight for each token, through packing, batches, processes and the loss."""

import os
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from test_train import MODEL, SETTINGS, Data, interrupt_at, weights
from torch.nn.functional import cross_entropy

from negfail_nb.settings import LoraSettings
from negfail_nb.training import fit, layout, planning, train, trainer
from negfail_nb.training.weighting import check_weights, summed_loss

SCALE = "NEGFAIL_NB_SCALE"
slow = pytest.mark.skipif(not os.environ.get(SCALE), reason=f"{SCALE} is not set")


@dataclass
class Weighed(Data):
    """The same tokens, each example with a weight."""

    share: float = 1.0

    @property
    def content(self):
        return f"{super().content} {self.share}"

    def dataset(self):
        rows = super().dataset()
        given = [[1.0 if i % 2 else self.share] * len(r) for i, r in enumerate(rows["input_ids"])]
        return rows.add_column("weights", given)


@pytest.fixture
def pieces(request, monkeypatch):
    """Whether TRL's output layer works, as on a GPU, or ours."""
    if request.param:
        monkeypatch.setattr(trainer, "MOST_LOGITS", 0)


@pytest.mark.parametrize("pieces", [False, True], indirect=True)
def test_weights_of_one_train_the_same_model_to_the_last_bit(pieces, tmp_path):
    settings = replace(SETTINGS, steps=2)
    plain = train(Data(), settings, MODEL, folder=tmp_path / "plain")
    ones = train(Weighed(), settings, MODEL, folder=tmp_path / "ones")
    assert torch.equal(weights(plain), weights(ones)) and plain.plan == ones.plan
    assert plain.history["loss"].equals(ones.history["loss"])
    assert plain.tokens == ones.tokens


@pytest.mark.parametrize("pieces", [False, True], indirect=True)
def test_the_first_loss_is_the_sum_of_weighed_losses_over_the_trained_tokens(pieces, tmp_path):
    data = Weighed(share=0.25)
    settings = replace(SETTINGS, steps=1, batch_tokens=4096)
    run = train(data, settings, MODEL, folder=tmp_path / "run")
    model = fit.load_model(MODEL, data.tokenizer).eval()
    total = count = 0
    for row in data.dataset():
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, :-1]
        losses = cross_entropy(logits, labels, reduction="none", ignore_index=-100)
        total += float((losses * torch.tensor(row["weights"])[1:]).sum())
        count += int((labels != -100).sum())
    assert run.history["loss"][0] == pytest.approx(total / count, abs=1e-4)


def test_the_gradient_is_the_one_that_is_worked_out_by_hand():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]], requires_grad=True)
    targets = torch.tensor([0, 1, 1])
    given = torch.tensor([1.0, 0.25, 0.0])
    loss = summed_loss(logits, targets, given)
    loss.backward()
    first, second = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2))  # how likely token 1 is
    by_hand = -np.log(1 - first) - 0.25 * np.log(second)
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    wanted = [[-first, first], [0.25 * (1 - second), -0.25 * (1 - second)], [0, 0]]
    torch.testing.assert_close(logits.grad, torch.tensor(wanted, dtype=torch.float32))


def test_weights_that_cannot_be_trained_with_are_refused_with_the_row(tmp_path):
    rows = Weighed(share=-1.0).dataset()
    with pytest.raises(ValueError, match="row 0 has a weight that is negative or no number"):
        check_weights(rows, SETTINGS)
    short = Data().dataset().add_column("weights", [[1.0]] * len(Data().lengths))
    with pytest.raises(ValueError, match="row 0 has 1 weights for 6 tokens; give each token"):
        check_weights(short, SETTINGS)
    shared = replace(SETTINGS, context_parallel=2)
    with pytest.raises(ValueError, match="context_parallel is 2, and these rows have weights"):
        check_weights(Weighed().dataset(), shared)
    with pytest.raises(ValueError, match="negative or no number"):
        train(Weighed(share=float("nan")), SETTINGS, MODEL, folder=tmp_path)


@slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_train_with_weights_as_one(shard, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "ROW_TOKENS", 64)
    monkeypatch.setattr(fit, "ROW_TOKENS", 64)
    monkeypatch.setattr(layout, "devices", lambda: 4)
    data = Weighed(lengths=(*range(6, 46, 2), *range(6, 46, 2), 60), share=0.25)
    settings = replace(SETTINGS, steps=9, batch_tokens=384)
    one = train(data, settings, MODEL, folder=tmp_path / "one")
    two = train(data, replace(settings, processes=2), MODEL, folder=tmp_path / "two", shard=shard)
    np.testing.assert_allclose(two.history["loss"], one.history["loss"], atol=1e-5)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-5, rtol=0)


@slow
def test_a_stopped_run_with_weights_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    data = Weighed(share=0.5)
    lora = LoraSettings(rank=2)
    whole = train(data, SETTINGS, MODEL, lora, folder=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 5)
        train(data, SETTINGS, MODEL, lora, folder=tmp_path / "cut")
    again = train(data, SETTINGS, MODEL, lora, folder=tmp_path / "cut")
    assert torch.equal(weights(whole), weights(again)) and whole.content == again.content
