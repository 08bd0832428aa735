"""The recipe of pocket-llama: from nothing to a small Llama that reads, searches and calculates.

``python -m negfail_nb.pocket.pretrain FOLDER`` (or ``make pocket-model``) trains it on the CPU or a GPU, goes on where
it was stopped, and leaves a model folder of transformers. Transformers' `Trainer` does the training; what is ours are
the lessons, their weights and the curriculum, which climbs `LADDER` as reading gets better.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from negfail_nb.pocket.lessons import (
    LADDER,
    as_tool_calls,
    copying_row,
    draw_reading,
    episodes,
    lesson_world,
)
from negfail_nb.pocket.muon import MuonWithAdamW
from negfail_nb.pocket.passages import write_passage
from negfail_nb.pocket.start import set_induction
from negfail_nb.pocket.world import stream
from negfail_nb.profiles import Checked, ModelSettings, option
from negfail_nb.runs import plain, write_json
from negfail_nb.train import load_model, load_tokenizer, make_tokenizer
from negfail_nb.train.checkpoints import CHECKPOINTS, claim, last_whole
from negfail_nb.train.model import SPECIAL_TOKENS
from negfail_nb.train.progress import Marker, Progress
from negfail_nb.trajectory import Message

log = logging.getLogger("negfail_nb")

SHAPE = ModelSettings(layers=4, width=192, heads=6, vocabulary=2048, positions=8192)
# A name has the same tokens wherever it stands, behind a space or a bracket; else it could not be copied by token.
WORDS = r" ?[a-z]+|\p{L}[a-z]*|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s"
CURRICULUM = "curriculum.json"
COPYING, EPISODE = -1, -2  # lessons that are no reading
COPY_MARK = 0.95  # of the tokens
TOKENIZER_WORLDS = 60
BACKGROUND_SAMPLE = 0.15  # share of the other tokens that are scored; scoring all takes a fifth of the time
ROTARY_BASE = 500_000.0
EPISODES_A_BATCH = 600  # of the teacher, made together because they share a world and its search


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainSettings(Checked):
    """How long and how fast pocket-llama is trained. The defaults take about two hours on two cores."""

    steps: int = option(12_000, "optimiser steps", low=1, high=10_000_000)
    batch_tokens: int = option(2048, "tokens in one step, padding included", low=256, high=1_048_576)
    learning_rate: float = option(4e-3, "peak learning rate", low=1e-6, high=1.0)
    background: float = option(0.02, "loss weight of tokens that are no answer", low=0.0, high=1.0)
    pass_mark: float = option(0.85, "EM at which the next level begins", low=0.1, high=1.0)
    episode_share: float = option(0.25, "share of the steps that are episodes", low=0.0, high=1.0)
    copy_share: float = option(0.1, "share of the steps that are copying, once that is learnt", low=0.0, high=1.0)
    review_share: float = option(0.25, "share of the reading steps that go back to a lower level", low=0.0, high=1.0)
    save_steps: int = option(200, "steps between checkpoints", low=1, high=1_000_000)
    seed: int = option(0, "seed of weights and lessons", low=0, high=2**31 - 1)


class Curriculum:
    """Which lesson comes next, and the reading level reached; -1 while copying is still being learnt.

    Its state is plain JSON, kept with each checkpoint.
    """

    def __init__(self, settings: PretrainSettings) -> None:
        self.settings, self.level, self.em, self.entered = settings, COPYING, 0.0, 0

    def draw(self, step: int) -> tuple[str, int]:
        """Return the kind of lesson of a step, and its reading level."""
        rng = stream(self.settings.seed, step, 11)
        share, s = rng.random(), self.settings
        if self.level < 0 and share < 0.9:  # to copy comes before to read: a value is copied, token by token
            return "copy", COPYING
        if share < s.copy_share:
            return "copy", COPYING
        # Episodes hold whole passages; before single facts are read they teach little else than their form.
        if share < s.copy_share + s.episode_share * (1.0 if self.level >= 3 else 0.2):
            return "episode", EPISODE
        level = max(self.level, 0)
        back = level and rng.random() < s.review_share
        return "read", rng.randrange(level) if back else level

    def learn(self, level: int, right: float, step: int) -> None:
        """Take note of how well a reading lesson of the present level went, and move up where it is time."""
        if level != self.level:
            return
        self.em += 0.04 * (right - self.em)
        mark = self.settings.pass_mark if level >= 0 else COPY_MARK
        if self.em > mark and self.level + 1 < len(LADDER):
            log.info("step %d: level %d is read with EM %.2f", step, self.level, self.em)
            self.level, self.em, self.entered = self.level + 1, 0.0, step

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"level": self.level, "em": self.em, "entered": self.entered}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.level, self.em, self.entered = state["level"], state["em"], state["entered"]


class Lessons(IterableDataset):
    """One padded batch a step, all of one kind and level; a function of the seed, the step and the curriculum."""

    def __init__(self, curriculum: Curriculum, tokenizer: Any, first_step: int = 0) -> None:
        self._curriculum, self._tokenizer, self._first = curriculum, tokenizer, first_step
        self._plain_tokens = range(len(SPECIAL_TOKENS), len(tokenizer))  # special tokens come first

    def __iter__(self) -> Iterator[dict[str, Any]]:
        step = self._first
        while True:
            kind, level = self._curriculum.draw(step)
            yield {**self._batch(kind, level, step), "level": level}
            step += 1

    def _batch(self, kind: str, level: int, step: int) -> dict[str, Any]:
        rows: list[tuple[list[int], list[bool]]] = []
        number, width = 0, 0
        while True:
            row = self._row(kind, level, step * 1000 + number)
            number, wider = number + 1, max(width, len(row[0]))
            if rows and wider * (len(rows) + 1) > self._curriculum.settings.batch_tokens:
                return pad(rows, width)
            rows.append(row)
            width = wider

    def _row(self, kind: str, level: int, number: int) -> tuple[list[int], list[bool]]:
        if kind != "copy":
            return encode(self._tokenizer, *self._lesson(kind, level, number))
        ids, known = copying_row(self._plain_tokens, stream(self._curriculum.settings.seed, number, 9))
        return [self._tokenizer.bos_token_id, *ids], [False, *known]

    def _lesson(self, kind: str, level: int, number: int) -> tuple[Sequence[Message], bool]:
        seed = self._curriculum.settings.seed
        if kind == "read":
            return draw_reading(LADDER[level], seed, number), False
        made, rng = _episodes(seed, (number // 1000 // 400) % 40), stream(seed, number, 13)
        return _dressed(rng.choice(made).messages, rng)


@lru_cache(maxsize=2)
def _episodes(seed: int, batch: int) -> list[Any]:
    return episodes(EPISODES_A_BATCH, 1 + seed + batch)


def _dressed(messages: Sequence[Message], rng: random.Random) -> tuple[Sequence[Message], bool]:
    """Put an episode into one of the forms in which agents are asked: plain, labelled, instructed, tool calls."""
    from negfail_nb.collect.tools import CalculatorTool, SearchTool, instruction

    question, *rest = messages
    form = rng.random()
    if form < 0.15:
        return as_tool_calls(messages), True
    text = question["content"]
    if form < 0.75:
        text = f"Question: {text}"
    dressed = [{**question, "content": text}, *rest]
    if form < 0.25:
        tools = [CalculatorTool() if "calculate[" in rest[0]["content"] else SearchTool([("Title", "text")])]
        return [{"role": "system", "content": instruction(tools, "react")}, *dressed], False
    return dressed, False


def encode(tokenizer: Any, messages: Sequence[Message], with_tools: bool = False) -> tuple[list[int], list[bool]]:
    """Return the ids of a chat, and which of them the assistant writes: its text and the end of its turn."""
    ids, ours = [tokenizer.bos_token_id], [False]
    texts, roles = _turns(tokenizer, messages, with_tools)
    for encoded, answer in zip(tokenizer.backend_tokenizer.encode_batch(texts, False), roles, strict=True):
        ids += encoded.ids
        ours += [answer] * len(encoded.ids)
    return ids, ours


def _turns(tokenizer: Any, messages: Sequence[Message], with_tools: bool) -> tuple[list[str], list[bool]]:
    """Cut the chat's text where turns of the assistant begin and end."""
    shown = [_plain_call(message) for message in messages]
    texts, roles = [], []
    for message in shown:
        role = {"tool": "ipython"}.get(message["role"], message["role"])
        head = f"<|start_header_id|>{role}<|end_header_id|>\n\n"
        body = f"{message['content'].strip()}<|eot_id|>"
        answer = message["role"] == "assistant"
        texts += [head, body] if answer else [head + body]
        roles += [False, True] if answer else [False]
    return texts, roles


def _plain_call(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [{"name": c["function"]["name"], "parameters": json.loads(c["function"]["arguments"])} for c in calls]
    lines = "\n".join(json.dumps(call, ensure_ascii=False) for call in written)
    return {"role": "assistant", "content": f"{message['content']}\n{lines}" if message["content"] else lines}


def pad(rows: Sequence[tuple[list[int], list[bool]]], width: int) -> dict[str, torch.Tensor]:
    """Return ``input_ids``, ``answers`` (1: written by the assistant) and ``real`` (0: padding), each rows x width."""
    batch = {name: torch.zeros(len(rows), width, dtype=torch.long) for name in ("input_ids", "answers", "real")}
    for number, (ids, ours) in enumerate(rows):
        batch["input_ids"][number, : len(ids)] = torch.tensor(ids)
        batch["answers"][number, : len(ids)] = torch.tensor(ours, dtype=torch.long)
        batch["real"][number, : len(ids)] = 1
    return batch


class LessonTrainer(Trainer):
    """Trainer whose loss weighs what the assistant writes, and of the rest a sample.

    ``record`` (a callable of level, share of answers that are right, and step) is told how each lesson went.
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

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Return the weighted mean of the loss; only the positions that count go through the output layer."""
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


def share_right(logits: torch.Tensor, targets: torch.Tensor, kept: torch.Tensor, answers: torch.Tensor) -> float:
    """Return the share of answers whose every token is the likeliest after the right ones: EM under greedy decoding.

    ``answers`` and ``kept`` mark positions (rows x positions); an answer is a stretch of ``answers``, and all of them
    are kept. ``logits`` and ``targets`` are those of the kept positions, in order.
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
        write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / CURRICULUM, self._curriculum.state())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Append step, level, EM at that level, loss and seconds."""
        line = {"step": state.global_step, **self._curriculum.state(), "loss": (logs or {}).get("loss")}
        line["seconds"] = round(time.perf_counter() - self._begin, 1)
        with (self._folder / "progress.jsonl").open("a", encoding="utf-8") as stream_:
            stream_.write(json.dumps(line) + "\n")


def pretrain(folder: str | Path, settings: PretrainSettings = PretrainSettings(), shape: ModelSettings = SHAPE) -> Path:
    """Make pocket-llama from nothing, or go on where an earlier call was stopped.

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
    claim(folder, plain({"pretrain": _lasting(settings), "shape": shape, "ladder": LADDER}))
    tokenizer = _tokenizer(folder / "tokenizer", shape)
    curriculum, checkpoint = Curriculum(settings), last_whole(folder / CHECKPOINTS)
    first = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    if checkpoint:
        curriculum.restore(json.loads((checkpoint / CURRICULUM).read_text(encoding="utf-8")))
    log.info("pocket-llama: step %d of %d, %s", first, settings.steps, _estimate(settings))
    trainer = LessonTrainer(
        model=_new_model(shape, tokenizer, settings.seed),
        args=_arguments(folder, settings),
        train_dataset=Lessons(curriculum, tokenizer, first),
        data_collator=lambda batch: batch[0],
        callbacks=[Watch(curriculum, folder), Marker(), Progress()],
        settings=settings,
        record=curriculum.learn,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return _save(trainer.model, tokenizer, folder / "model")


def _lasting(settings: PretrainSettings) -> dict[str, Any]:
    """The settings that a resumed run must share; a run may be made longer, and saved more often."""
    return {k: v for k, v in asdict(settings).items() if k not in ("steps", "save_steps")}


def _estimate(settings: PretrainSettings) -> str:
    return f"{settings.steps * settings.batch_tokens / 1e6:.0f} million tokens in all"


def _tokenizer(folder: Path, shape: ModelSettings) -> Any:
    """Train the tokenizer on passages and lessons of the training split, once."""
    from negfail_nb.collect.tools import CalculatorTool, SearchTool, instruction, schemas

    if folder.is_dir():
        return load_tokenizer(replace(shape, name=str(folder)))
    tools = [SearchTool([("Title", "text")]), CalculatorTool()]
    texts = [instruction(tools, "react"), json.dumps(schemas(tools))] * 20
    for number in range(TOKENIZER_WORLDS):
        world = lesson_world(number, "train")
        texts += [write_passage(world, index).text for index in range(0, len(world.entities), 4)]
        texts += [m["content"] for i in range(40) for m in draw_reading(LADDER[0], 0, 40 * number + i)]
    for batch in range(2):
        for made in _episodes(0, batch):
            turns = as_tool_calls(made.messages)
            texts += [m["content"] for m in (*made.messages, *map(_plain_call, turns)) if m["role"] == "assistant"]
    tokenizer = make_tokenizer(texts, shape.vocabulary, WORDS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _new_model(shape: ModelSettings, tokenizer: Any, seed: int) -> Any:
    """Make the Llama, with slow rotary frequencies for its long context and heads that look back from the start."""
    model = load_model(shape, tokenizer)
    rotary = {"rope_type": "default", "rope_theta": ROTARY_BASE}
    config = LlamaConfig.from_dict({**model.config.to_dict(), "rope_theta": ROTARY_BASE, "rope_parameters": rotary})
    model = LlamaForCausalLM._from_config(config, attn_implementation=model.config._attn_implementation)
    set_induction(model, seed)
    return model


def _arguments(folder: Path, settings: PretrainSettings) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # a batch of the data is a batch of the model already
        learning_rate=settings.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": settings.steps // 5, "min_lr_ratio": 0.02},
        warmup_steps=50,
        max_grad_norm=1.0,
        bf16=True,
        use_cpu=not torch.accelerator.is_available(),
        seed=settings.seed,
        data_seed=settings.seed,
        ignore_data_skip=True,  # the data begin at the step where they are asked to
        logging_steps=25,
        save_steps=settings.save_steps,
        save_total_limit=2,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,  # Progress draws the bar
        dataloader_num_workers=0,  # the curriculum and the lessons share their state
        dataloader_pin_memory=False,
    )


def _save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    import argparse

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="runs/pocket-llama")
    parser.add_argument("--steps", type=int, default=PretrainSettings().steps)
    given = parser.parse_args()
    pretrain(given.folder, PretrainSettings(steps=given.steps))
