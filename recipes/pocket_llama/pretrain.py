"""The recipe of pocket-llama: a small Llama that reads, searches and calculates, from scratch.

``python -m recipes.pocket_llama.pretrain FOLDER`` (or ``make pocket-model``) trains it on the CPU
or a GPU, resumes if it was stopped, and leaves a model folder of transformers. Transformers'
`Trainer` does the training; ours are the lessons, their weights and the curriculum, which climbs
`LADDER` as reading gets better.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from negfail_nb.content import write_json
from negfail_nb.pocket.passages import write_passage
from negfail_nb.runs import start
from negfail_nb.settings import ModelSettings
from negfail_nb.training import load_model, load_tokenizer, make_tokenizer
from negfail_nb.training.result import CHECKPOINTS
from negfail_nb.training.trainer import Marker, Progress, last_whole
from recipes.pocket_llama.curriculum import (
    COPYING,
    Curriculum,
    Lessons,
    PretrainSettings,
    plain_call,
    teacher_episodes,
)
from recipes.pocket_llama.lessons import LADDER, as_tool_calls, draw_reading, lesson_world
from recipes.pocket_llama.muon import MuonWithAdamW
from recipes.pocket_llama.start import hold_heads, set_heads

log = logging.getLogger("negfail_nb")

SHAPE = ModelSettings(layers=4, width=192, heads=6, vocabulary=2048, positions=8192)
# A name has the same tokens wherever it stands, behind a space or a bracket; else it could not be
# copied by token.
WORDS = r" ?[a-z]+|\p{L}[a-z]*|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s"
CURRICULUM = "curriculum.json"
TOKENIZER_WORLDS = 60
BACKGROUND_SAMPLE = (
    0.15  # share of the other tokens that are scored; scoring all takes a fifth of the time
)
ROTARY_BASE = 1e8
RELEASE = 6  # the heads of the first two layers may change from this level on


class LessonTrainer(Trainer):
    """Trainer whose loss weighs what the assistant writes, and of the rest a sample.

    ``record``, a callable of level, share of right answers and step, is called after each lesson.
    """

    def __init__(self, *args: Any, settings: PretrainSettings, record: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings, self._record = settings, record
        self.model_accepts_loss_kwargs = False

    def create_optimizer(self, *args: Any) -> Any:
        """Muon for matrices, AdamW for the rest."""
        if self.optimizer is None:
            self.optimizer = MuonWithAdamW(self.model, self._settings.learning_rate)
        return self.optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        """Return the weighted mean of the loss; only the positions that count go through the output
        layer.
        """
        ids, level = inputs["input_ids"], int(inputs["level"])
        answers, real = inputs["answers"][:, 1:].bool(), inputs["real"][:, 1:].bool()
        sampled = torch.rand(answers.shape, device=ids.device) < BACKGROUND_SAMPLE
        kept = answers | (real & sampled)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][kept]
        logits, targets, ours = model.lm_head(hidden).float(), ids[:, 1:][kept], answers[kept]
        weights = torch.where(ours, 1.0, self._settings.background / BACKGROUND_SAMPLE)
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        if level == COPYING:  # a row is long: its tokens are counted, not whole rows
            right = (logits.argmax(-1) == targets)[ours].float().mean().item()
        else:
            right = share_right(logits.detach(), targets, kept, answers)
        self._record(level, right, self.state.global_step)
        return (losses * weights).sum() / weights.sum()


def share_right(
    logits: torch.Tensor, targets: torch.Tensor, kept: torch.Tensor, answers: torch.Tensor
) -> float:
    """Return the share of answers whose every token is the likeliest after the right ones: EM under
    greedy decoding.

    ``answers`` and ``kept`` mark positions (rows x positions); an answer is a stretch of
    ``answers``, and all of them are kept. ``logits`` and ``targets`` are those of the kept
    positions, in order.
    """
    starts = answers & ~torch.nn.functional.pad(answers, (1, 0))[:, :-1]
    number = starts.flatten().cumsum(0)
    wrong = torch.zeros_like(kept)
    wrong[kept] = logits.argmax(-1) != targets
    missed = number[(wrong & answers).flatten()].unique().numel()
    return 1 - missed / max(1, int(starts.sum()))


class Watch(TrainerCallback):
    """Keeps the curriculum beside each checkpoint, and a log of what was learnt when."""

    def __init__(self, curriculum: Curriculum, folder: Path) -> None:
        self._curriculum, self._folder, self._begin = curriculum, folder, time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the curriculum into the checkpoint."""
        write_json(
            Path(args.output_dir) / f"checkpoint-{state.global_step}" / CURRICULUM,
            self._curriculum.state(),
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Append step, level, EM at that level, loss and seconds."""
        line = {
            "step": state.global_step,
            **self._curriculum.state(),
            "loss": (logs or {}).get("loss"),
        }
        line["seconds"] = round(time.perf_counter() - self._begin, 1)
        with (self._folder / "progress.jsonl").open("a", encoding="utf-8") as stream_:
            stream_.write(json.dumps(line) + "\n")


def pretrain(
    folder: str | Path,
    settings: PretrainSettings = PretrainSettings(),
    shape: ModelSettings = SHAPE,
) -> Path:
    """Train pocket-llama from scratch, or resume an earlier call that was stopped.

    Parameters
    ----------
    folder
        Checkpoints, ``progress.jsonl`` and, at the end, ``model/`` are written here.

    Returns
    -------
    Path
        The model folder: weights in bfloat16 as safetensors, tokenizer, chat template.
    """
    folder = Path(folder)
    start(folder, {"pretrain": _lasting(settings), "shape": shape, "ladder": LADDER})
    tokenizer = _tokenizer(folder / "tokenizer", shape)
    curriculum, checkpoint = Curriculum(settings), last_whole(folder / CHECKPOINTS)
    first = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    if checkpoint:
        curriculum.restore(json.loads((checkpoint / CURRICULUM).read_text(encoding="utf-8")))
    log.info("pocket-llama: step %d of %d, %s", first, settings.steps, _estimate(settings))
    trainer = LessonTrainer(
        model=first_model(shape, tokenizer, settings.seed),
        args=_arguments(folder, settings),
        train_dataset=Lessons(curriculum, tokenizer, first),
        data_collator=lambda batch: batch[0],
        callbacks=[Watch(curriculum, folder), Marker(), Progress()],
        settings=settings,
        record=curriculum.learn,
    )
    hold_heads(
        trainer.model, settings.seed, lambda depth: curriculum.level < (RELEASE if depth < 2 else 0)
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    made = _made(folder, settings, curriculum)
    return _save(trainer.model, tokenizer, made, folder / "model")


def _made(folder: Path, settings: PretrainSettings, curriculum: Curriculum) -> dict[str, Any]:
    """What the model card says of the training; minutes are added up over interruptions."""
    times = [
        json.loads(line)["seconds"]
        for line in (folder / "progress.jsonl").read_text("utf-8").splitlines()
    ]
    ends = [time for time, after in zip(times, [*times[1:], 0.0], strict=True) if after < time]
    return {
        "steps": settings.steps,
        "batch": settings.batch_tokens,
        "tokens": settings.steps * settings.batch_tokens / 1e6,
        "minutes": f"{sum(ends) / 60:.0f} minutes on {_machine()}",
        "level": max(curriculum.level, 0) + 1,
        "levels": len(LADDER),
    }


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU core{'s' if cores != 1 else ''}"


def _lasting(settings: PretrainSettings) -> dict[str, Any]:
    """The settings that a resumed run must share: it may be longer, and saved more often."""
    return {k: v for k, v in asdict(settings).items() if k not in ("steps", "save_steps")}


def _estimate(settings: PretrainSettings) -> str:
    return f"{settings.steps * settings.batch_tokens / 1e6:.0f} million tokens in all"


def _tokenizer(folder: Path, shape: ModelSettings) -> Any:
    """Train the tokenizer on passages and lessons of the training split, once."""
    from negfail_nb.agents.tools import CalculatorTool, SearchTool, instruction, schemas

    if folder.is_dir():
        return load_tokenizer(replace(shape, name=str(folder)))
    tools = [SearchTool([("Title", "text")]), CalculatorTool()]
    texts = [instruction(tools, "react"), json.dumps(schemas(tools))] * 20
    for number in range(TOKENIZER_WORLDS):
        world = lesson_world(number, "train")
        texts += [write_passage(world, index).text for index in range(0, len(world.entities), 4)]
        texts += [
            m["content"] for i in range(40) for m in draw_reading(LADDER[0], 0, 40 * number + i)
        ]
    texts += [
        f"Title [{number}]: text" for number in range(1, 100)
    ] * 300  # so that each number is one token
    for batch in range(2):
        for made in teacher_episodes(0, batch):
            turns = as_tool_calls(made.messages)
            texts += [
                m["content"]
                for m in (*made.messages, *map(plain_call, turns))
                if m["role"] == "assistant"
            ]
    tokenizer = make_tokenizer(texts, shape.vocabulary, WORDS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def first_model(shape: ModelSettings, tokenizer: Any, seed: int) -> Any:
    """Return the Llama that training starts from: `set_heads`, and slow rotary frequencies for a
    long context.
    """
    model = load_model(replace(shape, seed=seed), tokenizer)
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": ROTARY_BASE}
    model.model.rotary_emb = LlamaRotaryEmbedding(
        model.config
    )  # it keeps frequencies of the config it was made with
    set_heads(model, tokenizer.encode(" [", add_special_tokens=False)[0], seed)
    return model


def _arguments(folder: Path, settings: PretrainSettings) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # a batch of the data is a batch of the model already
        learning_rate=settings.learning_rate,
        # High while circuits form; at a lower rate each level is read better.
        lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"power": 2.0, "lr_end": settings.learning_rate / 100},
        warmup_steps=50,
        max_grad_norm=1.0,
        bf16=True,
        use_cpu=not torch.accelerator.is_available(),
        seed=settings.seed,
        data_seed=settings.seed,
        ignore_data_skip=True,  # the data begin at the given step themselves
        logging_steps=25,
        save_steps=settings.save_steps,
        save_total_limit=2,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,  # Progress draws the bar
        dataloader_num_workers=0,  # the curriculum and the lessons share their state
        dataloader_pin_memory=False,
    )


def _save(model: Any, tokenizer: Any, made: dict[str, Any], folder: Path) -> Path:
    model.config.use_cache = True  # Trainer turned it off
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "made.json", made)
    return folder


if __name__ == "__main__":
    import argparse

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="runs/pocket-llama")
    parser.add_argument("--steps", type=int, default=PretrainSettings().steps)
    given = parser.parse_args()
    pretrain(given.folder, PretrainSettings(steps=given.steps))
