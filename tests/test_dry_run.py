"""What training will take is said before a GPU is rented."""

import json
import re

import pytest

from negfail_nb.__main__ import main
from negfail_nb.dry_run import dry_run
from negfail_nb.pocket import generate_logs
from negfail_nb.project import open_project
from negfail_nb.settings import ModelSettings
from negfail_nb.trajectory import write_trajectories

BILLION = 10**9


def asked(tmp_path, profile="llama-70b", gpu="h100", **changes):
    return dry_run(open_project(profile, tmp_path, changes), gpu)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without the hub and without data."""
    for name in ("NEGFAIL_NB_DATA", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def test_the_command_line_says_what_a_70b_takes(bare, tmp_path, capsys):
    assert main(["train", "--dry-run", "--profile", "llama-70b", "--home", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "71 billion parameters, 80 layers of 8192, 414.2 million of them trained" in said
    assert "weights  gradients  optimiser  activations  total" in said
    assert "shape: from the table of models" in said and "half of prefix.max_tokens" in said
    assert "assumed GPU: h100, 80 GiB, 60% of 989 TFLOP/s (--gpu for others)" in said
    assert "negfail_nb train --profile llama-70b --set train.processes=4" in said
    assert "torch.distributed.run --standalone" in said and "--nproc-per-node=4" in said
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_a_70b(bare, tmp_path):
    found = asked(tmp_path)
    one, eight = found.memory.loc[1], found.memory.loc[8]
    # 70.55 billion in bfloat16; the adapter in float32, with gradient and two moments
    assert one["weights"] == pytest.approx(70.55 * 2 + 0.4142 * 4, rel=1e-3)
    assert one["optimiser"] == pytest.approx(0.4142 * 8, rel=1e-3)
    assert not one["fits"] and not one["split"] and eight["fits"] and eight["split"]
    assert eight["optimiser"] == pytest.approx(one["optimiser"] / 8)
    assert found.processes == 4 and asked(tmp_path, gpu="h200").processes == 2
    arm = found.arms.loc["nat"]
    assert (arm["tokens"], arm["steps"], arm["from"]) == (4_096_000, 64, "assumed")
    # forward, backward to the activations, and forward again: 6 operations a parameter and token
    least = 6 * 69.5 * BILLION * 4.096e6 / (4 * 0.6 * 989e12) / 3600
    assert least < arm["hours"] < 1.3 * least
    assert asked(tmp_path, gpu="a100").arms.loc["nat"]["hours"] > 2.5 * arm["hours"]


def test_what_is_set_is_what_is_asked(bare, tmp_path):
    train = {"processes": 16, "recompute": "off", "budget": "steps", "steps": 10}
    found = asked(tmp_path, train=train, lora={"four_bits": True})
    assert found.processes == 16 and found.arms["steps"].tolist() == [10] * 4
    assert not found.memory.loc[16, "again"]
    ends = 2 * 128256 * 8192 / BILLION  # embeddings and output layer stay in bfloat16
    four = (70.55 - ends) * 4.25 / 8 + 2 * ends + 0.4142 * 4
    assert found.memory.loc[1, "weights"] == pytest.approx(four, rel=0.01)
    assert (
        """--set 'train.recompute="off"'""" in found.commands[0]
        and "lora.four_bits=true" in found.commands[0]
    )
    again = re.findall(r"--set (\S+)=(\S+)", found.commands[0])
    assert ("train.processes", "16") in again


def test_logs_are_estimated_without_a_tokenizer_and_counted_with_one(bare, tmp_path):
    write_trajectories(tmp_path / "data" / "logs.jsonl", generate_logs(24, 4, 0))
    guess = asked(tmp_path, "llama-8b")
    assert set(guess.arms["from"]) == {"estimated"} and "3.5 characters each" in str(guess)
    pocket = ModelSettings(name="pocket-llama").name
    counted = asked(tmp_path, "llama-8b", model={"name": pocket}, gpu="l40s")
    assert set(counted.arms["from"]) == {"counted"} and counted.processes == 1
    assert (counted.arms["trajectories"] == guess.arms["trajectories"]).all()
    assert counted.arms["tokens"].between(guess.arms["tokens"] / 2, guess.arms["tokens"] * 2).all()


def test_unknown_gpus_and_models_are_named(bare, tmp_path):
    with pytest.raises(ValueError, match="no GPU 'h900' in the table; did you mean h200"):
        asked(tmp_path, gpu="h900")
    with pytest.raises(ValueError, match="no architecture 'somebody/else'; known are llama-3-8b"):
        asked(tmp_path, model={"name": "somebody/else"})
    made = json.dumps(asked(tmp_path, "pocket").arms["from"].tolist())
    assert "counted" in made
