"""Trajectories per second of packed training, against TRL's padded batches and against padding to 4,096 tokens.

Same MINT logs, tokens, model, optimiser, learning rate, dtype and average of 8 trajectories a step; in turns. ``value``
of ``train_vs_trl_default`` is the strict one: TRL with our settings and packing off. ``as_shipped`` compares with TRL's
own defaults (they recompute activations), of which only max_length is raised and bfloat16 is off.
"""

import json
import logging
import statistics
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from negfail_nb.collect import load_trajectories
from negfail_nb.evaluate import perplexity
from negfail_nb.prefix import render
from negfail_nb.profiles import ModelSettings, PrefixSettings, TrainSettings
from negfail_nb.train import load_model, make_tokenizer, plan, train
from negfail_nb.train.progress import Curve

LOGS = Path(__file__).parents[2] / "shared" / "data" / "trajectories" / "mint"
NAMES = ("train_vs_trl_default", "train_vs_pad_4096")
ROUNDS, EXAMPLES, PADDED_EXAMPLES, HELDOUT, BATCH, WINDOW = 3, 24, 8, 24, 8, 4096
MODEL = ModelSettings(layers=4, width=192, heads=6, vocabulary=4096, positions=WINDOW)
RATE = 1e-3


@dataclass
class Part:
    """Some rendered examples, under the interface that training takes."""

    rows: object
    tokenizer: object

    def dataset(self):
        return self.rows


def main() -> dict:
    if not LOGS.is_dir():
        return {name: {"skipped": f"{LOGS} is absent"} for name in NAMES}
    parts, heldout = read()
    shipped = peer(parts[0], activation_checkpointing=True)
    rounds = []
    for part in parts:
        few = Part(part.rows.select(range(PADDED_EXAMPLES)), part.tokenizer)
        rounds.append((ours(part), peer(part), peer(few, pad_to_multiple_of=WINDOW)))
    losses = {
        "loss": statistics.mean(perplexity(r[0][1], heldout).loss for r in rounds),
        "peer_loss": statistics.mean(perplexity(r[1][1], heldout).loss for r in rounds),
    }
    default = entry([r[0][0] / r[1][0] for r in rounds], "TRL 1.16, padded batches of 8, all else equal", rounds, 1)
    padded = entry([r[0][0] / r[2][0] for r in rounds], "TRL 1.16, all examples padded to 4,096", rounds, 2)
    extra = {"as_shipped": round(rounds[0][0][0] / shipped[0], 2), "peer_as_shipped": "TRL's defaults, max_length=4096"}
    return {NAMES[0]: default | losses | extra, NAMES[1]: padded | losses}


def entry(ratios: list[float], name: str, rounds: list, which: int) -> dict:
    ours_speed, peer_speed = (statistics.median(r[i][0] for r in rounds) for i in (0, which))
    return {
        "value": round(statistics.median(ratios), 2),
        "unit": f"x ({ours_speed:.2f} against {peer_speed:.2f} trajectories/s)",
        "peer": name,
        "low": round(min(ratios), 2),
        "high": round(max(ratios), 2),
        "n": len(ratios),
    }


def read() -> tuple[list[Part], Part]:
    logs = load_trajectories(LOGS).trajectories
    order = np.random.default_rng(0).permutation(len(logs))[: ROUNDS * EXAMPLES + HELDOUT]
    tokenizer = make_tokenizer([m["content"] or "" for t in logs[::8] for m in t.messages], MODEL.vocabulary)
    chosen = [logs[i] for i in order]
    rows = render(chosen, "none", tokenizer, PrefixSettings(max_tokens=WINDOW)).dataset()
    cuts = [range(i * EXAMPLES, (i + 1) * EXAMPLES) for i in range(ROUNDS)] + [range(ROUNDS * EXAMPLES, len(rows))]
    parts = [Part(rows.select(cut), tokenizer) for cut in cuts]
    return parts[:-1], parts[-1]


def ours(part: Part) -> tuple[float, object]:
    mean = sum(map(len, part.rows["input_ids"])) / len(part.rows)
    settings = (
        TrainSettings(epochs=1, batch_tokens=tokens, learning_rate=RATE, save_steps=10**6)
        for tokens in count(int(BATCH * mean), 128)
    )
    settings = next(s for s in settings if plan(part, s).steps <= len(part.rows) // BATCH)  # as many steps as the peer
    with tempfile.TemporaryDirectory() as folder:
        run = train(part, settings, MODEL, folder=folder)
        return len(part.rows) / run.seconds, run.load()


def peer(part: Part, activation_checkpointing: bool = False, **settings) -> tuple[float, object]:
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_length=WINDOW,
            num_train_epochs=1,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            bf16=False,
            use_cpu=True,
            activation_checkpointing=activation_checkpointing,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **settings,
        )
        trainer = SFTTrainer(
            model=load_model(MODEL, part.tokenizer, attention="sdpa"),
            args=config,
            train_dataset=part.rows.select_columns(["input_ids", "labels"]),
            processing_class=part.tokenizer,
            callbacks=[Curve()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return len(part.rows) / max(e.get("seconds", 0.0) for e in trainer.state.log_history), trainer.model


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(main()))
