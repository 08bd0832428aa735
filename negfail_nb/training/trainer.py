"""TRL's trainer as all arms use it: what is logged and saved on the way, and how it resumes.

What Trainer adds to a checkpoint beside the safetensors weights (optimizer, schedule and random
state) are torch files; they are read back with ``weights_only=True``, which runs no code.
``training_args.bin`` is written by Trainer and never read.
"""

from __future__ import annotations

import inspect
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from trl import SFTTrainer

from negfail_nb.content import WHOLE, mark_whole, what_is_wrong
from negfail_nb.settings import TrainSettings
from negfail_nb.training.layout import MOST_LOGITS, Layout
from negfail_nb.training.model import device, free_bytes
from negfail_nb.training.planning import Plan
from negfail_nb.training.ranks import tell
from negfail_nb.training.result import CHECKPOINTS
from negfail_nb.training.shards import check_same_way, is_split
from negfail_nb.training.sharing import ROWS, SharedTrainer, prepared, sharding
from negfail_nb.training.weighting import WEIGHTS, summed_loss

log = logging.getLogger("negfail_nb")

KEPT_CHECKPOINTS = 2
CURVE_POINTS = 200
STEPS_BEFORE_ESTIMATE = 3
# Bytes that training keeps per parameter (weight, gradient, two moments of Adam, float32), and per
# layer and token for the backward pass, in units of the widths of the layer.
PARAMETER_BYTES = 16
KEPT_HIDDEN, KEPT_INTERMEDIATE, KEPT_BYTES = 16, 4, 4
MEMORY = 0.5  # share of what is left then that activations may take


class PackedTrainer(SharedTrainer, SFTTrainer):
    """`SFTTrainer` that leaves observations and prompts out of the output layer on every device.

    On CUDA, TRL's fused output layer already computes the trained positions only. Elsewhere it
    computes all positions and discards those that are masked; for a small model on a CPU that is a
    third of all the time. The loss is the same: the sum over the trained tokens of a step, divided
    by their number.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of one packed row, a scalar; see `SFTTrainer.compute_loss`.

        If the row has weights, each token's loss is multiplied by its own; what the sum is divided
        by stays the number of trained tokens. The gradients of several processes are averaged, so
        each counts its loss as often as there are processes; ``num_items_in_batch`` are the tokens
        of all.
        """
        inputs = {name: value for name, value in inputs.items() if name != ROWS}
        weights = inputs.pop(WEIGHTS, None)
        targets = inputs["labels"][:, 1:]
        kept = (targets[0] != -100).nonzero().flatten()
        if return_outputs or not self._fits(inputs, len(kept)):
            if weights is not None and not return_outputs:
                return self._pieced_loss(model, inputs, weights, num_items_in_batch)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not len(kept):  # a filler: its loss is 0, and has gradients as those of the other ranks
            kept = kept.new_zeros(1)
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**rest, use_cache=False, logits_to_keep=kept).logits[0]
        count = len(kept) if num_items_in_batch is None else num_items_in_batch
        parts = None if weights is None else weights[0, 1:][kept]
        loss = summed_loss(logits.float(), targets[0, kept], parts) / count
        return loss * self.ranks

    def _pieced_loss(
        self, model: Any, inputs: dict[str, Any], weights: torch.Tensor, count: Any
    ) -> torch.Tensor:
        """The weighed loss by TRL's output layer, which works in pieces; without weights TRL's own
        formula is the same.
        """
        if self.aux_loss_enabled:
            raise ValueError(
                "a mixture of experts has a loss of its router beside that of the tokens, which is "
                "not weighed; train it with an arm without weights"
            )
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        count = outputs.label_mask.sum() if count is None else count
        loss = -(outputs.log_probs * weights[:, 1:]).sum() / torch.as_tensor(count).clamp(min=1)
        return loss * self.ranks

    def filler(self) -> dict[str, Any]:
        """Return a row without a trained token."""
        row = {"input_ids": [0, 0], "labels": [-100, -100], "seq_lengths": [2], WEIGHTS: [0.0, 0.0]}
        return {name: row[name] for name in self.train_dataset.column_names if name in row}

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if WEIGHTS not in self._signature_columns:
            self._signature_columns.append(WEIGHTS)

    def _fits(self, inputs: dict[str, Any], kept: int) -> bool:
        base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        if self.ranks > 1:  # all must choose the same, as TRL's way waits for the other ranks
            kept = self.args.max_length
        return (
            inputs["input_ids"].device.type != "cuda"
            and len(inputs["input_ids"]) == 1
            and not self.aux_loss_enabled
            and 0 < kept * base.config.get_text_config().vocab_size <= MOST_LOGITS
            and "logits_to_keep" in inspect.signature(type(base).forward).parameters
        )


class Curve(TrainerCallback):
    """Adds the seconds of training, those before an interruption included, to each point of the
    learning curve.
    """

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Go on from the time that a checkpoint remembers."""
        before = [entry["seconds"] for entry in state.log_history if "seconds" in entry]
        self.begin = time.perf_counter() - (before[-1] if before else 0.0)

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Write into the entry that Trainer has just added; checkpoints keep it."""
        state.log_history[-1]["seconds"] = time.perf_counter() - self.begin


class Marker(TrainerCallback):
    """Marks a checkpoint as whole once Trainer has written all of it."""

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Trainer calls this after the last file of a checkpoint; the other ranks may be behind."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class Progress(TrainerCallback):
    """A progress bar with the loss, and an estimate in the log after a few steps."""

    bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Open the bar at the step that training starts from."""
        self.begin = time.perf_counter()
        self.first = state.global_step
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step")

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)
        if state.global_step - self.first == STEPS_BEFORE_ESTIMATE:
            _estimate(self.begin, state)

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Show the newest loss."""
        loss = state.log_history[-1].get("loss")
        if loss is not None:
            self.bar.set_postfix(loss=f"{float(loss):.3f}", refresh=False)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()


class Told(TrainerCallback):
    """Tells who started the ranks of each step, and estimates as `Progress` does."""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Remember the step that training starts from."""
        self.begin = time.perf_counter()
        self.first = state.global_step
        self._tell(state, None)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Tell how far it is."""
        logged = [entry["loss"] for entry in state.log_history[-2:] if "loss" in entry]
        self._tell(state, float(logged[-1]) if logged else None)
        if state.global_step - self.first == STEPS_BEFORE_ESTIMATE:
            _estimate(self.begin, state)

    def _tell(self, state: TrainerState, loss: float | None) -> None:
        steps = {"step": state.global_step, "of": state.max_steps, "from": self.first}
        tell({**steps, "loss": loss})


def _estimate(begin: float, state: TrainerState) -> None:
    each = (time.perf_counter() - begin) / STEPS_BEFORE_ESTIMATE
    left = state.max_steps - state.global_step
    log.info("about %.0f s for the %d steps left", each * left, left)


def training_arguments(
    settings: TrainSettings, folder: Path, planned: Plan, layout: Layout
) -> dict[str, Any]:
    """Return what every arm gives its trainer: schedule, arithmetic, seeds, checkpoints, logs."""
    return {
        "output_dir": str(folder / CHECKPOINTS),
        "max_steps": planned.steps,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,  # below 1: a share of all steps
        "weight_decay": 0.0,
        "bf16": settings.dtype == "bfloat16",
        "use_cpu": not torch.accelerator.is_available(),  # else Trainer refuses bfloat16 on the CPU
        "activation_checkpointing": bool(layout.recompute),
        "seed": settings.seed,
        "data_seed": settings.seed,
        "logging_steps": max(1, planned.steps // CURVE_POINTS),
        # Trainer would save once more at the end; a run that short is its own checkpoint.
        "save_strategy": "steps" if planned.steps >= settings.save_steps else "no",
        "save_steps": settings.save_steps,
        "save_total_limit": KEPT_CHECKPOINTS,
        "report_to": "none",
        "disable_tqdm": True,  # Progress draws the bar
        "dataloader_pin_memory": torch.cuda.is_available(),
        **(sharding(layout) if layout.sharded else {}),
    }


def on_one_device(config: TrainingArguments) -> Any:
    """Return the configuration, held to one GPU: Trainer would spread each batch over all, which
    TRL refuses.
    """
    if config.n_gpu > 1:
        log.info("%d GPUs are visible; one of them is used: %s", config.n_gpu, config.device)
        config._n_gpu = 1
    return config


def with_callbacks(trainer: Trainer) -> Trainer:
    """Return the trainer with what logs and marks, and without what prints."""
    trainer.remove_callback(PrinterCallback)
    shown = [Progress()] if trainer.accelerator.num_processes == 1 else []
    if not shown and trainer.is_world_process_zero():
        shown = [Told()]
    for callback in (Curve(), Marker(), *shown):
        trainer.add_callback(callback)
    return trainer


def decided(
    layout: Layout, settings: TrainSettings, network: PreTrainedModel, tokens: int
) -> Layout:
    """Return a layout that says whether activations are computed again."""
    if layout.recompute is not None:
        return layout
    if settings.recompute != "auto":
        return replace(layout, recompute=settings.recompute == "on")
    return replace(layout, recompute=recomputes(network, tokens, free_bytes(device())))


def recomputes(network: PreTrainedModel, tokens: int, free: int) -> bool:
    """Whether activations are computed again in the backward pass: a third more arithmetic.

    Parameters
    ----------
    network
        What is trained.
    tokens
        Of one forward pass.
    free
        Bytes of the device that are free before training.
    """
    config = network.config.get_text_config()
    hidden = config.hidden_size
    width = KEPT_HIDDEN * hidden + KEPT_INTERMEDIATE * getattr(config, "intermediate_size", hidden)
    kept = KEPT_BYTES * tokens * config.num_hidden_layers * width
    left = free - PARAMETER_BYTES * sum(p.numel() for p in network.parameters())
    return kept > MEMORY * left


def check_fit(network: PreTrainedModel, highest: int, planned: Plan) -> None:
    """Raise `ValueError` if the highest token or the longest example is too much for the model."""
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if positions and planned.longest > positions:
        raise ValueError(
            f"the longest example has {planned.longest:,} tokens, the model takes {positions:,}; "
            "render with prefix.max_tokens at most that, or take a model with a longer context"
        )
    rows = network.get_input_embeddings().num_embeddings
    if highest >= rows:
        raise ValueError(
            f"the data holds token {highest}, the model has {rows} token embeddings; render with "
            "the model's own tokenizer"
        )


def run_to_end(trainer: Trainer, folder: Path, planned: Plan) -> None:
    """Train from the last whole checkpoint in a folder to the end."""
    checkpoint = last_whole(folder / CHECKPOINTS)
    start = checkpoint or "the beginning"
    log.info("%d steps on %d tokens per epoch; start: %s", planned.steps, planned.tokens, start)
    if checkpoint:
        check_same_way(checkpoint, trainer.is_fsdp_enabled)
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= planned.steps:  # only load it: Trainer would add a step
            if trainer.is_fsdp_enabled:
                prepared(trainer, planned.steps, checkpoint)
            else:
                trainer._load_from_checkpoint(str(checkpoint))
            trainer.state = state
            return
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def begun_split(folder: Path) -> bool | None:
    """Whether ranks that split the model left the last whole checkpoint of a folder; ``None`` if
    there is none.
    """
    checkpoint = last_whole(folder / CHECKPOINTS)
    return is_split(checkpoint) if checkpoint else None


def last_whole(folder: Path) -> Path | None:
    """Return the newest whole ``checkpoint-<step>`` of a folder, or ``None``; the log names each
    that is skipped.
    """
    steps = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in folder.glob("checkpoint-*")
        if path.is_dir() and path.name.removeprefix("checkpoint-").isdigit()
    }
    for _, path in sorted(steps.items(), reverse=True):
        wrong = what_is_wrong(path)
        if not wrong:
            return path
        log.warning("checkpoint %s is skipped: %s", path, wrong)
        # It will be written over; until then its old mark must not vouch for a mixture of old and
        # new files.
        (path / WHOLE).unlink(missing_ok=True)
    return None
