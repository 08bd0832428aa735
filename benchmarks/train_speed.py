"""Trajectories per second of packed training, against TRL's padded batches and against padding to
4,096 tokens.

Same 16 MINT logs a round, tokens, model, optimiser, learning rate and dtype; in turns. Every step
of every run sees all 16 examples, so the training losses must agree step by step:
``largest_loss_difference`` is the largest relative one (the first step of the schedule moves
nothing, so from the third on they tell about the updates too), ``loss`` and ``peer_loss`` are those
of the last step, averaged over rounds. The first step of a run warms up and is not timed. A ratio
is that of one timed step beside the peer's; ``value`` is the median, ``low`` and ``high`` the
extremes of ``n``.

``train_vs_trl_default`` is the strict one: TRL with our settings and packing off. ``as_shipped``
compares with TRL's own defaults (they recompute activations), of which only max_length is raised
and bfloat16 is off. Padding to 4,096 is so slow that it runs in the first round only.
"""

import json
import logging
import statistics
import tempfile
from dataclasses import dataclass
from itertools import count

import numpy as np
from _data import MINT

from negfail_nb.logs import load_trajectories
from negfail_nb.prefix import render
from negfail_nb.settings import ModelSettings, PrefixSettings, TrainSettings
from negfail_nb.training import load_model, make_tokenizer, plan, train
from negfail_nb.training.trainer import Curve

NAMES = ("train_vs_trl_default", "train_vs_pad_4096")
ROUNDS, PADDED_ROUNDS, EXAMPLES, BATCH, WINDOW = 3, 1, 16, 8, 4096
WARM_UP, STEPS = 1, 3
MODEL = ModelSettings(layers=4, width=192, heads=6, vocabulary=4096, positions=WINDOW)
RATE = 1e-3


@dataclass
class Part:
    """Some rendered examples, under the interface that training takes."""

    rows: object
    tokenizer: object

    @property
    def content(self):
        return self.rows._fingerprint

    def dataset(self):
        return self.rows


@dataclass
class Steps:
    """Training losses of all steps, and trajectories per second of the timed ones."""

    losses: list[float]
    speeds: list[float]

    @classmethod
    def of(cls, losses: list[float], seconds: list[float]) -> "Steps":
        """Take the steps of a learning curve; ``seconds`` are those since the beginning."""
        assert len(losses) == STEPS, f"{len(losses)} steps were logged, {STEPS} wanted"
        return cls(losses, (EXAMPLES / np.diff(seconds)[WARM_UP - 1 :]).tolist())


def main() -> dict:
    if not MINT.is_dir():
        return {name: {"skipped": f"{MINT} is absent"} for name in NAMES}
    parts = read()
    shipped = peer(parts[0], activation_checkpointing=True)
    default, padded = [], []
    for i, part in enumerate(parts):
        mine = ours(part)
        default.append((mine, peer(part)))
        if i < PADDED_ROUNDS:
            padded.append((mine, peer(part, pad_to_multiple_of=WINDOW)))
    as_shipped = statistics.median(default[0][0].speeds) / statistics.median(shipped.speeds)
    extra = {
        "as_shipped": round(as_shipped, 2),
        "peer_as_shipped": "TRL's defaults, max_length=4096",
    }
    return {
        NAMES[0]: entry(default, "TRL 1.16, padded batches of 8, all else equal") | extra,
        NAMES[1]: entry(padded, "TRL 1.16, all examples padded to 4,096"),
    }


def entry(rounds: list[tuple[Steps, Steps]], name: str) -> dict:
    """Compare the timed steps of all rounds pair by pair, and the losses of all steps."""
    ratios = [
        ours / peer
        for pair in rounds
        for ours, peer in zip(pair[0].speeds, pair[1].speeds, strict=True)
    ]
    speeds = [
        statistics.median(speed for pair in rounds for speed in pair[i].speeds) for i in (0, 1)
    ]
    losses = np.array([[pair[0].losses, pair[1].losses] for pair in rounds])  # (rounds, 2, steps)
    return {
        "value": round(statistics.median(ratios), 2),
        "unit": f"x ({speeds[0]:.2f} against {speeds[1]:.2f} trajectories/s)",
        "peer": name,
        "low": round(min(ratios), 2),
        "high": round(max(ratios), 2),
        "n": len(ratios),
        "loss": float(losses[:, 0, -1].mean()),
        "peer_loss": float(losses[:, 1, -1].mean()),
        "largest_loss_difference": float((abs(losses[:, 0] - losses[:, 1]) / losses[:, 1]).max()),
    }


def read() -> list[Part]:
    logs = load_trajectories(MINT).trajectories
    order = np.random.default_rng(0).permutation(len(logs))
    tokenizer = make_tokenizer(
        [m["content"] or "" for t in logs[::8] for m in t.messages], MODEL.vocabulary
    )
    chosen = [logs[i] for i in order[: ROUNDS * EXAMPLES]]
    rows = render(chosen, "none", tokenizer, PrefixSettings(max_tokens=WINDOW)).dataset()
    assert len(rows) == ROUNDS * EXAMPLES, f"{len(rows)} examples are left after rendering"
    return [
        Part(rows.select(range(i * EXAMPLES, (i + 1) * EXAMPLES)), tokenizer) for i in range(ROUNDS)
    ]


def ours(part: Part) -> Steps:
    tokens = sum(map(len, part.rows["input_ids"]))
    candidates = (
        TrainSettings(
            budget="steps", steps=STEPS, batch_tokens=size, learning_rate=RATE, save_steps=10**6
        )
        for size in count(tokens, 128)
    )
    settings = next(s for s in candidates if one_step_holds_all(plan(part, s)))
    with tempfile.TemporaryDirectory() as folder:
        history = train(part, settings, MODEL, folder=folder).history
    return Steps.of(history["loss"].tolist(), history["seconds"].tolist())


def one_step_holds_all(planned) -> bool:
    return planned.rows <= planned.rows_per_step


def peer(part: Part, activation_checkpointing: bool = False, **settings) -> Steps:
    import torch
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=EXAMPLES // BATCH,
            max_length=WINDOW,
            max_steps=STEPS,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            bf16=False,
            use_cpu=not torch.accelerator.is_available(),
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
    steps = [e for e in trainer.state.log_history if "loss" in e]
    return Steps.of([float(e["loss"]) for e in steps], [e["seconds"] for e in steps])


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(main()))
