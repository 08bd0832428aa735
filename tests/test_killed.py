"""A training that is killed outright (SIGKILL) goes on from its last whole checkpoint, to the same
weights.
"""

import signal
import subprocess
import sys
import time

import torch

from negfail_nb.training import TrainedRun

SCRIPT = """
import sys
from dataclasses import dataclass
import numpy as np
from datasets import Dataset
from negfail_nb.settings import ModelSettings, TrainSettings
from negfail_nb.training import make_tokenizer, train

TOKENIZER = make_tokenizer(["Action: search[it]"] * 20, 300)

class Data:
    tokenizer, content = TOKENIZER, "random tokens"

    def dataset(self):
        draw = np.random.default_rng(0)
        ids = [draw.integers(10, len(TOKENIZER), n).tolist() for n in range(6, 46, 2)]
        names = [str(n) for n in range(len(ids))]
        labels = [[-100, *row[1:]] for row in ids]
        columns = {"input_ids": ids, "labels": labels, "id": names, "question_id": names}
        return Dataset.from_dict(columns)

given = {"batch_tokens": 128, "save_steps": 2, "learning_rate": 1e-2}
settings = TrainSettings(budget="steps", steps=40, **given)
model = ModelSettings(layers=1, width=32, heads=2, vocabulary=300, positions=128)
train(Data(), settings, model, folder=sys.argv[1])
"""


def weights(folder):
    return torch.cat([p.detach().flatten() for p in TrainedRun.open(folder).load().parameters()])


def test_killed_training_goes_on_to_the_same_weights(tmp_path):
    def training(name):
        return [sys.executable, "-c", SCRIPT, str(tmp_path / name)]

    killed = subprocess.Popen(training("killed"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while (
        not list((tmp_path / "killed").glob("**/checkpoint-*/whole.json"))
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not list((tmp_path / "killed").glob("**/manifest.json")), "it was killed while training"
    for name in ("killed", "whole"):
        subprocess.run(training(name), check=True, stderr=subprocess.DEVNULL)
    assert torch.equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
