"""`train`: fine-tuning of one arm, by TRL's `SFTTrainer` on packed tokens.

One process on one device (CPU, the first of the visible GPUs, or Apple's), or several processes
with a device each, see `ranks`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb import content, runs
from negfail_nb.models import find_weights
from negfail_nb.prefix.trained import Mark, chat_tokenizer, check_mark, mark_of_data
from negfail_nb.settings import LoraSettings, ModelSettings, TrainSettings
from negfail_nb.source import source_hash
from negfail_nb.training.arithmetic import resolve_dtype
from negfail_nb.training.four_bits import BITS, check_four_bits, four_bit_loading
from negfail_nb.training.layout import Layout, check_divides, count_processes, lay_out
from negfail_nb.training.model import load_model, only_our_bars, outline
from negfail_nb.training.planning import ROW_TOKENS, Plan, plan
from negfail_nb.training.ranks import run_ranks
from negfail_nb.training.result import TrainedRun, finished, write_result

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedTokenizerBase
    from trl import SFTConfig, SFTTrainer

log = logging.getLogger("negfail_nb")

NEAR_ZERO = 0.1  # of the median norm of all rows
SHOWN_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Job:
    """All that a training works on: in this process, or, written down, in others.

    Attributes
    ----------
    dataset, tokenizer
        Rows of ``input_ids`` and ``labels``, and what made them.
    mark
        What the data was rendered under, see `negfail_nb.prefix.trained`.
    settings, model, lora, planned
        As `train` takes and plans them; no ``auto`` is left in the type of number.
    base
        Which weights training begins from; nothing for a model that is made.
    layout
        How the model lies on the devices.
    """

    dataset: Any
    tokenizer: Any
    mark: Mark
    settings: TrainSettings
    model: ModelSettings
    lora: LoraSettings
    planned: Plan
    base: Mapping[str, str]
    layout: Layout = Layout()


def train(
    data: Any,
    settings: TrainSettings = TrainSettings(),
    model: ModelSettings = ModelSettings(),
    lora: LoraSettings = LoraSettings(),
    folder: str | Path | runs.Place = "runs/train",
    shard: bool | None = None,
) -> TrainedRun:
    """Fine-tune a model on rendered trajectories, or go on with an interrupted run.

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
        ``data.tokenizer``, and ``data.content``, a hash of what it holds. A column ``weights``
        holds what the loss of each token is multiplied by.
    settings
        Budget, batch, learning rate. ``auto``: the type that this machine is fast in, see
        `negfail_nb.training.arithmetic.resolve_dtype`. ``bfloat16``: arithmetic in bfloat16;
        weights that are trained stay float32 meanwhile (small updates would be lost); whole models
        are saved as bfloat16, adapters as float32.
    model
        Which model is tuned.
    lora
        Rank 0 tunes all weights, else an adapter is trained.
    folder
        Everything is written here and nowhere else: a folder, or a `negfail_nb.runs.Place` that has
        one for each plan. Checkpoints are deleted once the run is finished.
    shard
        With several processes, whether FSDP2 splits the model among them; ``None``: if it does not
        fit a device.

    Returns
    -------
    TrainedRun
        Learning curve and final weights: ``model``, or ``adapter`` if ``lora.rank`` is above 0.

    Raises
    ------
    SettingsChanged
        If the folder holds a run from other settings or data.
    ValueError
        If data, model and tokenizer do not fit; see `plan` and `load_model`. If processes and
        batch do not; see `count_processes` and `check_divides`.
    RuntimeError
        If one of several processes fails; the text has its own error.
    """
    processes = count_processes(settings)
    check_four_bits(lora, model)
    mark = mark_of_data(data)
    settings = replace(settings, dtype=resolve_dtype(settings.dtype))
    found = find_weights(model.name) if model.name else None

    def compute(run: runs.Run) -> dict[str, Any]:
        with only_our_bars():
            planned = plan(data, settings)
            chat = getattr(data, "chat_template", "")
            tokenizer = chat_tokenizer(data.tokenizer, chat, mark["end_token"])
            base = found.described if found else {}
            given = settings, model, lora, planned, base
            from negfail_nb.training.weighting import check_weights

            dataset = data.dataset()
            check_weights(dataset, settings)
            job = Job(dataset, tokenizer, mark, *given)
            return work(job, run.folder) if processes == 1 else _share(job, run, processes, shard)

    # Given data, these change neither the weights nor the curve.
    unused = ("successes", "failures", "steps" if settings.budget == "epochs" else "epochs")
    counted = {k: v for k, v in content.counted(settings).items() if k not in unused}
    parts = {"train": counted, "model": model, "lora": lora, "chat": mark}
    if lora.dropout and processes > 1:  # each process drops others
        parts["processes"] = processes
    inputs = {"data": data} | ({"weights": found} if found else {})
    source = source_hash("training.fit")
    return finished(runs.make(folder, parts, compute, inputs, source))


def work(job: Job, folder: Path) -> dict[str, Any]:
    """Train in this process, alone or as one of several; return what the manifest keeps."""
    from negfail_nb.training.trainer import run_to_end

    settings, planned = job.settings, job.planned
    given = job.dataset, job.tokenizer, settings, job.model, job.lora, folder, planned, job.layout
    trainer = _make_trainer(*given)
    check_mark(trainer.model, job.mark, "this training")
    notes = untrained_tokens(trainer.model, job.dataset, job.tokenizer) if job.lora.rank else ()
    run_to_end(trainer, folder, planned)
    kept = job.tokenizer, job.mark, settings.dtype, job.model, planned, notes, job.base
    return write_result(folder, trainer, *kept)


def work_as_rank(
    folder: Path, task: Mapping[str, Any], dataset: Dataset, tokenizer: Any, layout: Layout
) -> dict[str, Any]:
    """Train as one of several processes on what `_share` wrote down."""
    settings = TrainSettings(**task["settings"])
    model, lora = ModelSettings(**task["model"]), LoraSettings(**task["lora"])
    given = settings, model, lora, Plan(**task["planned"]), task["base"], layout
    return work(Job(dataset, tokenizer, task["mark"], *given), folder)


def _share(job: Job, run: runs.Run, processes: int, shard: bool | None) -> dict[str, Any]:
    """Let several processes do a job."""
    from negfail_nb.training.trainer import begun_split, check_fit

    begun = begun_split(run.folder)  # it goes on as it began, whatever is free now
    settings, planned = job.settings, job.planned
    ranks = processes // settings.context_parallel
    row = planned.row_tokens
    whole = max(planned.longest, ROW_TOKENS)  # batches of so many such have so many rows
    what = f"packed rows ({row:,} tokens each)"
    check_divides(planned.rows_per_step, ranks, what, "train.batch_tokens", whole)
    network = outline(job.model, job.tokenizer)
    check_fit(network, _highest(job.dataset), planned)
    bits = BITS if job.lora.four_bits else 0
    given = settings, row, processes, bits, shard if begun is None else begun
    layout = lay_out(network, adapter_config(job.lora), *given)
    parts = {"settings": settings, "model": job.model, "lora": job.lora, "planned": planned}
    task = {name: asdict(part) for name, part in (parts | {"layout": layout}).items()}
    task |= {"mark": job.mark, "base": dict(job.base)}
    return run_ranks(run.folder, "fit", processes, task, job.dataset, job.tokenizer)


def _highest(dataset: Dataset) -> int:
    return max(max(ids) for ids in dataset["input_ids"])


def _make_trainer(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainSettings,
    model: ModelSettings,
    lora: LoraSettings,
    folder: Path,
    planned: Plan,
    layout: Layout = Layout(),
) -> SFTTrainer:
    from negfail_nb.training.trainer import PackedTrainer, check_fit, decided, with_callbacks
    from negfail_nb.training.weighting import Weighed, is_weighed, pack

    frozen_base = lora.rank > 0 and settings.dtype == "bfloat16"
    dtype = "bfloat16" if frozen_base or lora.four_bits else "float32"
    attention = "sdpa" if layout.context > 1 else None
    loading = four_bit_loading() if lora.four_bits else {}
    network = load_model(model, tokenizer, dtype, attention, loading)
    check_fit(network, _highest(dataset), planned)
    layout = decided(layout, settings, network, planned.row_tokens)
    weighed = is_weighed(dataset)
    rows = dataset.select_columns(["input_ids", "labels"])
    if weighed:
        rows = pack(dataset, planned.row_tokens, settings.seed)
    trainer = PackedTrainer(
        model=network,
        args=_config(settings, folder, planned, layout, packed=weighed),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=adapter_config(lora),
    )
    if weighed:
        trainer.data_collator = Weighed(trainer.data_collator)
    packed = sum(map(len, trainer.train_dataset["input_ids"]))
    if packed != planned.tokens:
        raise RuntimeError(
            f"packing kept {packed:,} of {planned.tokens:,} tokens; this version of TRL packs "
            "differently"
        )
    return with_callbacks(trainer)


def _config(
    settings: TrainSettings, folder: Path, planned: Plan, layout: Layout, packed: bool = False
) -> SFTConfig:
    from trl import SFTConfig

    from negfail_nb.training.trainer import on_one_device, training_arguments

    # A trajectory that is shared cannot be told from another in its row.
    shared = layout.context > 1
    config = SFTConfig(
        packing=not shared,
        packing_strategy="bfd",
        pad_to_multiple_of=2 * layout.context if shared else None,
        max_length=planned.row_tokens,
        shuffle_dataset=True,
        dataset_kwargs={"skip_prepare_dataset": True} if packed else None,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=planned.rows_per_step // layout.ranks,
        learning_rate=settings.learning_rate,
        include_num_input_tokens_seen="all",
        **training_arguments(settings, folder, planned, layout),
    )
    return on_one_device(config)


def adapter_config(lora: LoraSettings) -> LoraConfig | None:
    """Return what PEFT makes an adapter of; ``None`` if all weights are tuned."""
    if not lora.rank:
        return None
    from peft import LoraConfig

    targets, saved = (
        [name.strip() for name in names.split(",") if name.strip()]
        for names in (lora.targets, lora.modules_to_save)
    )
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        modules_to_save=saved or None,
        task_type="CAUSAL_LM",
    )


def untrained_tokens(model: Any, dataset: Dataset, tokenizer: Any) -> tuple[str, ...]:
    """Say which tokens of the data have embeddings that are zero or near it and will stay so.

    Base models have rows for the control tokens of chats that nothing was ever learnt for (Llama
    3's ``<|eot_id|>`` and headers are near zero). Training all weights learns them; an adapter on
    the linear layers does not. Each note, for input and output embeddings, is also a warning in the
    log.
    """
    read, written = _used(dataset)
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    notes = []
    for ids, side, verb, module in (
        (read, "input", "read", base.get_input_embeddings()),
        (written, "output", "write", base.get_output_embeddings()),
    ):
        if module is None or any(p.requires_grad for p in module.parameters()):
            continue
        if weak := _near_zero(module.weight, ids):
            names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(weak[:SHOWN_TOKENS])))
            rest = len(weak) - SHOWN_TOKENS
            more = f" and {rest} more" if rest > 0 else ""
            notes.append(
                f"the {side} embeddings of {names}{more} are zero or near it, and the adapter "
                f"leaves them so: the model cannot learn to {verb} these tokens. Set "
                'lora.modules_to_save="embed_tokens,lm_head" (in peft also '
                "trainable_token_indices), train all weights (lora.rank=0), or choose a chat "
                "template of tokens that the model knows"
            )
            log.warning("%s", notes[-1])
    return tuple(notes)


def _used(dataset: Dataset) -> tuple[list[int], list[int]]:
    """The ids that occur, and those that carry loss, in order."""
    import numpy as np

    read: set[int] = set()
    written: set[int] = set()
    for batch in dataset.select_columns(["input_ids", "labels"]).with_format("numpy").iter(1000):
        read.update(np.unique(np.concatenate(list(batch["input_ids"]))).tolist())
        written.update(np.unique(np.concatenate(list(batch["labels"]))).tolist())
    return sorted(read), sorted(written - {-100})


def _near_zero(rows: torch.Tensor, ids: list[int]) -> list[int]:
    """Those ids whose rows are far shorter than the median of all that are not zero."""
    norms = rows.detach().float().norm(dim=-1)
    some = norms[norms > 0]
    usual = float(some.median()) if len(some) else 0.0
    return [i for i in ids if float(norms[i]) <= NEAR_ZERO * usual]
