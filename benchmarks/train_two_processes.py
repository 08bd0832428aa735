"""Largest difference of the losses of all steps: two processes against one at the same batch.

Float32 on the CPU, whole weights and an adapter, data parallel and FSDP2; two epochs, the last step
of each with a row for one process only. ``value`` is the largest of the four, ``each`` has all.
"""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset

from negfail_nb.settings import LoraSettings, ModelSettings, TrainSettings
from negfail_nb.training import make_tokenizer, train

TOKENIZER = make_tokenizer(["Thought: I look it up.\nAction: search[it]\n"] * 20, 300)
MODEL = ModelSettings(layers=2, width=64, heads=2, vocabulary=300, positions=2048)
SETTINGS = TrainSettings(epochs=2, batch_tokens=16_384, learning_rate=1e-2)
EXAMPLES, LONGEST = 60, 1000
CASES = {"weights": 0, "adapter": 8}


@dataclass
class Random:
    """Random tokens, a tenth of each example masked, as `negfail_nb.render` returns it."""

    tokenizer: object = TOKENIZER
    content: str = "random tokens"

    def dataset(self) -> Dataset:
        draw = np.random.default_rng(0)
        lengths = draw.integers(100, LONGEST, EXAMPLES)
        ids = [draw.integers(10, len(TOKENIZER), n).tolist() for n in lengths]
        labels = [[-100] * (len(row) // 10) + row[len(row) // 10 :] for row in ids]
        names = [str(i) for i in range(len(ids))]
        columns = {"input_ids": ids, "labels": labels, "id": names, "question_id": names}
        return Dataset.from_dict(columns)


def main() -> dict:
    differences = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, rank in CASES.items():
            lora = LoraSettings(rank=rank)
            one = train(Random(), SETTINGS, MODEL, lora, Path(folder) / name)
            for how, shard in (("data parallel", False), ("FSDP2", True)):
                place = Path(folder) / f"{name} {how}"
                two = train(Random(), replace(SETTINGS, processes=2), MODEL, lora, place, shard)
                apart = np.abs(two.history["loss"] - one.history["loss"])
                differences[f"{name}, {how}"] = float(apart.max())
    entry = {
        "value": float(f"{max(differences.values()):.2g}"),
        "unit": "nats per token",
        "low": 0,
        "high": 0,
        "n": len(one.history),
        "each": differences,
        "peer": "one process, same batch",
    }
    return {"train_two_processes_equal": entry}


if __name__ == "__main__":
    print(json.dumps(main()))
