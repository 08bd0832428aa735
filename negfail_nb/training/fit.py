"""Fine-tuning of one arm: TRL's `SFTTrainer` on packed tokens, with checkpoints that survive a
kill.

One process, one device (CPU, the first of the visible GPUs, or Apple's). What Trainer adds to a
checkpoint beside the safetensors weights (optimizer, schedule and random state) are torch files;
they are read back with ``weights_only=True``, which runs no code. ``training_args.bin`` is written
by Trainer and never read.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.prefix.trained import chat_tokenizer, check_data, mark_of_data
from negfail_nb.runs import plain
from negfail_nb.settings import LoraSettings, ModelSettings, TrainSettings
from negfail_nb.training.checkpoints import CHECKPOINTS, claim, last_whole
from negfail_nb.training.embeddings import untrained_tokens
from negfail_nb.training.planning import Plan, plan
from negfail_nb.training.result import TrainedRun, is_finished

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
    from trl import SFTConfig, SFTTrainer

log = logging.getLogger("negfail_nb")

# These change what is selected, or how often it is saved, but not what is learnt from given data.
WITHOUT_EFFECT = ("arms", "successes", "failures", "save_steps")
CURVE_POINTS = 200
# Parameters from which on activations are recomputed: a third more arithmetic, and memory that
# small models have.
LARGE = 100_000_000
KEPT_CHECKPOINTS = 2


def train(
    data: Any,
    settings: TrainSettings = TrainSettings(),
    model: ModelSettings = ModelSettings(),
    lora: LoraSettings = LoraSettings(),
    folder: str | Path = "runs/train",
    max_length: int | None = None,
) -> TrainedRun:
    """Fine-tune a model on rendered trajectories, or go on where an interrupted run stopped.

    AdamW without weight decay, cosine schedule with 3 % warm-up, loss averaged over the trained
    tokens of a step (arXiv 2402.11651, section 4, trains so). Trajectories are packed and cannot
    see each other. A run that was killed goes on from its last whole checkpoint. On the CPU the
    same arguments give the same weights on the same machine, interrupted or not; on CUDA some
    kernels add in no fixed order, so there the weights agree up to rounding. A finished run is
    returned without training again.

    Parameters
    ----------
    data
        What `negfail_nb.render` returned: ``data.dataset()`` with ``input_ids`` and ``labels``,
        ``data.tokenizer``.
    settings
        Budget, batch, learning rate. ``bfloat16``: arithmetic in bfloat16; weights that are trained
        stay float32 meanwhile (small updates would be lost); whole models are saved as bfloat16,
        adapters as float32.
    model
        Which model is tuned.
    lora
        Rank 0 tunes all weights, else an adapter is trained.
    folder
        Everything is written here and nowhere else. The checkpoints in it are deleted once the run
        is finished.
    max_length
        Tokens of a packed row; ``None``: chosen.

    Returns
    -------
    TrainedRun
        Learning curve and final weights: ``folder/model``, or ``folder/adapter`` where
        ``lora.rank`` is above 0.

    Raises
    ------
    SettingsChanged
        Where the folder holds a run from other settings or data.
    ValueError
        Where data, model and tokenizer do not fit; see `plan` and
        `negfail_nb.training.model.load_model`.
    """
    folder = Path(folder)
    planned = plan(data, settings, max_length)
    dataset = data.dataset()
    mark = mark_of_data(data)
    claim(folder, _identity(dataset, settings, model, lora, planned) | {"chat": mark})
    if is_finished(folder):
        log.info("%s is trained already", folder)
    else:
        tokenizer = chat_tokenizer(
            data.tokenizer, getattr(data, "chat_template", ""), mark["end_token"]
        )
        trainer = _make_trainer(dataset, tokenizer, settings, model, lora, folder, planned)
        check_data(trainer.model, data, "this training")
        notes = untrained_tokens(trainer.model, dataset, tokenizer) if lora.rank else ()
        run_to_end(trainer, last_whole(folder / CHECKPOINTS), planned)
        TrainedRun.write(folder, trainer, tokenizer, planned, settings.dtype, mark, notes)
        del trainer
        free_memory()
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return TrainedRun.open(folder)


def run_to_end(trainer: Trainer, checkpoint: Path | None, planned: Plan) -> None:
    """Train from a checkpoint to the end, or only load it where it is the last: Trainer would add a
    step.
    """
    from transformers import TrainerState

    log.info(
        "%d steps on %d tokens an epoch; start: %s",
        planned.steps,
        planned.tokens,
        checkpoint or "the beginning",
    )
    state = (
        TrainerState.load_from_json(str(checkpoint / "trainer_state.json")) if checkpoint else None
    )
    if state is not None and state.global_step >= planned.steps:
        trainer._load_from_checkpoint(str(checkpoint))
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def free_memory() -> None:
    """Give back what a trainer held: it and its callbacks refer to each other, and accelerators
    keep freed blocks.
    """
    import torch

    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _identity(
    dataset: Dataset,
    settings: TrainSettings,
    model: ModelSettings,
    lora: LoraSettings,
    planned: Plan,
) -> dict[str, Any]:
    """Everything that decides the final weights, as plain JSON."""
    unused = "steps" if settings.budget == "epochs" else "epochs"
    train_settings = {
        k: v for k, v in asdict(settings).items() if k not in (*WITHOUT_EFFECT, unused)
    }
    parts = {
        "train": train_settings,
        "model": model,
        "lora": lora,
        "row_tokens": planned.row_tokens,
    }
    return plain({**parts, "data": data_fingerprint(dataset)})


def data_fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of the tokens and labels, in order."""
    import numpy as np

    digest = hashlib.sha256()
    for example in dataset.select_columns(["input_ids", "labels"]).with_format("numpy"):
        for column in ("input_ids", "labels"):
            values = np.asarray(example[column], dtype="<i8")
            digest.update(len(values).to_bytes(8, "little") + values.tobytes())
    return digest.hexdigest()


def _make_trainer(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainSettings,
    model: ModelSettings,
    lora: LoraSettings,
    folder: Path,
    planned: Plan,
) -> SFTTrainer:
    from transformers import PrinterCallback

    from negfail_nb.training.model import load_model
    from negfail_nb.training.progress import Curve, Marker, Progress
    from negfail_nb.training.trainer import PackedTrainer

    frozen_base = lora.rank > 0 and settings.dtype == "bfloat16"
    network = load_model(model, tokenizer, dtype="bfloat16" if frozen_base else "float32")
    check_fit(network, max(max(ids) for ids in dataset["input_ids"]), planned)
    trainer = PackedTrainer(
        model=network,
        args=_config(settings, folder, planned, recompute=is_large(network)),
        train_dataset=dataset.select_columns(["input_ids", "labels"]),
        processing_class=tokenizer,
        peft_config=_adapter(lora),
        callbacks=[Curve(), Marker(), Progress()],
    )
    trainer.remove_callback(PrinterCallback)
    packed = sum(sum(lengths) for lengths in trainer.train_dataset["seq_lengths"])
    if packed != planned.tokens:
        raise RuntimeError(
            f"packing kept {packed:,} of {planned.tokens:,} tokens; this version of TRL packs differently"
        )
    return trainer


def _config(settings: TrainSettings, folder: Path, planned: Plan, recompute: bool) -> SFTConfig:
    from trl import SFTConfig

    config = SFTConfig(
        packing=True,
        packing_strategy="bfd",
        max_length=planned.row_tokens,
        shuffle_dataset=True,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=planned.rows_per_step,
        learning_rate=settings.learning_rate,
        include_num_input_tokens_seen="all",
        **training_arguments(settings, folder, planned, recompute),
    )
    return on_one_device(config)


def training_arguments(
    settings: TrainSettings, folder: Path, planned: Plan, recompute: bool
) -> dict[str, Any]:
    """Return what all arms give to their trainer: schedule, arithmetic, seeds, checkpoints and what
    is logged.
    """
    import torch

    return {
        "output_dir": str(folder / CHECKPOINTS),
        "max_steps": planned.steps,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,  # below 1: a share of all steps
        "weight_decay": 0.0,
        "bf16": settings.dtype == "bfloat16",
        "use_cpu": not torch.accelerator.is_available(),  # else Trainer refuses bfloat16 on the CPU
        "activation_checkpointing": recompute,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "logging_steps": max(1, planned.steps // CURVE_POINTS),
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": KEPT_CHECKPOINTS,
        "report_to": "none",
        "disable_tqdm": True,  # Progress draws the bar
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def on_one_device(config: TrainingArguments) -> Any:
    """Return the configuration, held to one GPU: Trainer would spread each batch over all, which
    TRL refuses.
    """
    if config.n_gpu > 1:
        log.info("%d GPUs are visible; one of them is used: %s", config.n_gpu, config.device)
        config._n_gpu = 1
    return config


def is_large(network: torch.nn.Module) -> bool:
    """Whether activations are recomputed: not for a model of a few million parameters, whether
    loaded or new.
    """
    return sum(p.numel() for p in network.parameters()) >= LARGE


def _adapter(lora: LoraSettings) -> LoraConfig | None:
    if not lora.rank:
        return None
    from peft import LoraConfig

    targets = [name.strip() for name in lora.targets.split(",") if name.strip()]
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        modules_to_save=[name.strip() for name in lora.modules_to_save.split(",") if name.strip()]
        or None,
        task_type="CAUSAL_LM",
    )


def check_fit(network: PreTrainedModel, highest: int, planned: Plan) -> None:
    """Raise ValueError where the highest token or the longest example of the data is none that the
    model knows.
    """
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if positions and planned.longest > positions:
        raise ValueError(
            f"the longest example has {planned.longest:,} tokens, the model takes {positions:,}; render with "
            "prefix.max_tokens at most that, or take a model with a longer context"
        )
    rows = network.get_input_embeddings().num_embeddings
    if highest >= rows:
        raise ValueError(
            f"the data holds token {highest}, the model has {rows} token embeddings; "
            "render with the model's own tokenizer"
        )
