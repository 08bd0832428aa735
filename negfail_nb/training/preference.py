"""The arms dpo and kto: from the vanilla arm's model on, by preferring successes to failures.

The usual baselines that use failures too (DPO: arXiv 2305.18290, for agents ETO: 2403.02502; KTO:
2402.01306), by TRL's trainers. Both sides carry the unlabelled prompt of inference. Only what the
agent wrote counts: observations are masked, which TRL's own tokenisation cannot do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from negfail_nb import content, runs
from negfail_nb.prefix import chat_template_text
from negfail_nb.prefix.trained import Mark, check_same, mark_of, read_mark
from negfail_nb.settings import PreferenceSettings, PrefixSettings, TrainSettings
from negfail_nb.source import source_hash
from negfail_nb.training.arithmetic import resolve_dtype
from negfail_nb.training.arms import Arm, make_arms
from negfail_nb.training.layout import Layout, check_divides, count_processes, lay_out
from negfail_nb.training.planning import Plan, padded_tokens
from negfail_nb.training.preference_rows import (
    Row,
    content_of,
    labels_of,
    preference_rows,
    tokens_of,
    with_mismatched,
)
from negfail_nb.training.ranks import run_ranks
from negfail_nb.training.result import TrainedRun, finished, write_result
from negfail_nb.trajectory import Trajectory

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

# Tokens of one padded forward pass, unless two runs are longer already.
FORWARD_TOKENS = 16_384
# What TRL adds to the rows: log-likelihoods under the model that training starts from, and their
# names in a batch.
REFERENCES = ("ref_chosen_logps", "ref_rejected_logps", "ref_logps", "ref_KL_logps")


def train_preference(
    trajectories: Iterable[Trajectory],
    arm: Arm,
    start: TrainedRun | str | Path,
    settings: PreferenceSettings = PreferenceSettings(),
    training: TrainSettings = TrainSettings(),
    prefix: PrefixSettings = PrefixSettings(),
    folder: str | Path | runs.Place = "runs/preference",
    shard: bool | None = None,
) -> TrainedRun:
    """Train an arm on preferences, from a finished run on, or go on with an interrupted training.

    The model that training starts from is also the one that the result is held to. As in `train`:
    AdamW, cosine schedule, checkpoints, resumption, and on the CPU the same weights from the same
    arguments.

    Parameters
    ----------
    trajectories
        Successes and failures, such as `select` gives; see `preference_rows` for those that are
        left out.
    arm
        ``dpo``: pairs of a success and a failure at one question that was put in the same words, at
        most ``settings.pairs`` per question. ``kto``: every run; the rarer of successes and
        failures weighs more, so that both sides count the same (KTO, equation 8).
    start
        The vanilla arm's run, or its folder. If it is an adapter, that is trained on; else all
        weights are.
    settings
        Strength, batch, budget, learning rate.
    training
        Its seed, dtype, ``save_steps``, ``processes`` and ``recompute`` are used.
    prefix
        How runs are tokenised, as for the start.
    folder, shard
        As in `train`.

    Returns
    -------
    TrainedRun
        As `train` returns. The loss in its curve is the method's, and no loss of tokens. ``margin``
        is beta times the nats by which successes have gained on failures, ``accuracy`` (dpo) the
        share of pairs in which they have.

    Raises
    ------
    ValueError
        If the arm is none of the two, there is nothing to prefer (with counts), or data and model
        do not fit.
    FileNotFoundError
        If ``start`` is no finished run.
    SettingsChanged
        If the folder holds a run from other settings, data or start.
    """
    processes = _count_processes(training, settings, arm)
    training = replace(training, dtype=resolve_dtype(training.dtype))
    start = start if isinstance(start, TrainedRun) else TrainedRun.open(start)
    tokenizer = start.tokenizer()
    template = chat_template_text(prefix.chat_template) if prefix.chat_template else ""
    mark = mark_of(tokenizer, template, prefix.chat_template)
    known = read_mark(start.weights)
    check_same(known, mark, f"model {start.weights}", "this training")
    rows = preference_rows(trajectories, arm, tokenizer, settings, prefix, training.seed)
    planned = preference_plan(rows, settings, training.seed)

    def compute(run: runs.Run) -> dict[str, Any]:
        given = rows, arm, start, settings, training, planned, known or mark
        job = Job(*given)
        return work(job, run.folder) if processes == 1 else _share(job, run, processes, shard)

    # Given the rows, this changes neither the weights nor the curve.
    unused = ("pairs",) if arm.name == "kto" else ()
    counted = {k: v for k, v in content.counted(settings).items() if k not in unused}
    used = {"seed": training.seed, "dtype": training.dtype}
    parts = {"arm": arm.name, "preference": counted, "train": used, "data": content_of(rows)}
    if processes > 1 and arm.name == "kto":  # compared within a forward pass, which may be larger
        parts["forward"] = _forward_of(planned, rows, settings, processes)
    source = source_hash("training.preference")
    return finished(runs.make(folder, parts, compute, {"start": start}, source))


def preference_plan(
    rows: Sequence[Row], settings: PreferenceSettings = PreferenceSettings(), seed: int = 0
) -> Plan:
    """Return what training on preferences will take. Runs are padded, not packed: ``rows`` are
    runs, a pair has two.
    """
    tokens = tokens_of(rows)
    lengths = np.array([len(ids) for ids, _ in tokens])
    longest = int(lengths.max())
    sides = len(tokens) // len(rows)
    forward = _forward(settings.batch, sides, longest)
    steps_per_epoch = math.ceil(math.ceil(len(rows) / forward) / (settings.batch // forward))
    steps = max(1, math.ceil(settings.epochs * steps_per_epoch))
    return Plan(
        examples=len(tokens),
        tokens=int(lengths.sum()),
        trained_tokens=int(sum(mask.sum() for _, mask in tokens)),
        longest=longest,
        row_tokens=longest,
        rows=len(tokens),
        fill=float(lengths.mean() / longest),
        padded_tokens=padded_tokens(lengths, seed),
        rows_per_step=settings.batch * sides,
        steps=steps,
        epochs=steps / steps_per_epoch,
    )


@dataclass(frozen=True, slots=True)
class Job:
    """All that a training on preferences works on, see `train_preference`."""

    rows: Sequence[Row]
    arm: Arm
    start: TrainedRun
    settings: PreferenceSettings
    training: TrainSettings
    planned: Plan
    mark: Mark
    layout: Layout = Layout()


def work(job: Job, folder: Path) -> dict[str, Any]:
    """Train in this process, alone or as one of several; return what the manifest keeps."""
    from negfail_nb.training.trainer import run_to_end

    given = job.rows, job.arm, job.start, job.settings, job.training, folder, job.planned
    trainer = _make_trainer(*given, job.layout)
    run_to_end(trainer, folder, job.planned)
    kept = job.mark, job.training.dtype, job.start.model, job.planned, job.start.notes
    return write_result(folder, trainer, job.start.tokenizer(), *kept, job.start.base)


def work_as_rank(
    folder: Path, task: Mapping[str, Any], rows: Any, tokenizer: Any, layout: Layout
) -> dict[str, Any]:
    """Train as one of several processes on what `_share` wrote down."""
    (arm,) = make_arms([task["arm"]])
    settings, training = PreferenceSettings(**task["settings"]), TrainSettings(**task["training"])
    given = arm, TrainedRun.open(task["start"]), settings, training, Plan(**task["planned"])
    return work(Job(rows.with_format("numpy"), *given, task["mark"], layout), folder)


def _share(job: Job, run: runs.Run, processes: int, shard: bool | None) -> dict[str, Any]:
    """Let several processes do a job."""
    from negfail_nb.training.trainer import begun_split

    begun = begun_split(run.folder)
    shard = shard if begun is None else begun
    layout = lay_out(*job.start.shape(), job.training, FORWARD_TOKENS, processes, shard=shard)
    forward = _forward_of(job.planned, job.rows, job.settings, processes)
    parts = {"settings": job.settings, "training": job.training, "planned": job.planned}
    task = {name: asdict(part) for name, part in (parts | {"layout": layout}).items()}
    task |= {"arm": job.arm.name, "start": str(job.start.folder), "mark": job.mark}
    dataset = _dataset(job.rows, job.arm, forward, job.planned.longest)
    return run_ranks(run.folder, "preference", processes, task, dataset, job.start.tokenizer())


def _count_processes(training: TrainSettings, settings: PreferenceSettings, arm: Arm) -> int:
    """How many processes train; each takes the same number of pairs or runs of a step."""
    processes = count_processes(replace(training, context_parallel=1))
    what, least = ("pairs", 1) if arm.name == "dpo" else ("runs", 2)
    check_divides(settings.batch, processes, what, "preference.batch", least=least)
    return processes


def _forward_of(
    planned: Plan, rows: Sequence[Row], settings: PreferenceSettings, ranks: int
) -> int:
    return _forward(settings.batch, planned.rows // len(rows), planned.longest, ranks)


def _forward(batch: int, sides: int, longest: int, ranks: int = 1) -> int:
    """Pairs or runs of one forward pass on all ranks: a divisor of the batch; two runs at least on
    each, as KTO compares within it.
    """
    divisors = [n for n in range(ranks, batch + 1, ranks) if batch % n == 0]
    least = min(n for n in divisors if n * sides >= 2 * ranks)
    most = FORWARD_TOKENS * ranks
    return max([least, *(n for n in divisors if n * sides * longest <= most)])


def _make_trainer(
    rows: Sequence[Row],
    arm: Arm,
    start: TrainedRun,
    settings: PreferenceSettings,
    training: TrainSettings,
    folder: Path,
    planned: Plan,
    layout: Layout = Layout(),
) -> DPOTrainer | KTOTrainer:
    from negfail_nb.training.preference_trainer import masked_trainer
    from negfail_nb.training.trainer import check_fit, decided, with_callbacks

    tokenizer = start.tokenizer()
    network = start.open_weights(training.dtype, trainable=True)
    check_fit(network, max(int(ids.max()) for ids, _ in tokens_of(rows)), planned)
    layout = decided(layout, training, network, FORWARD_TOKENS)
    config = _config(rows, arm, settings, training, folder, planned, layout)
    if layout.processes == 1:
        dataset = _dataset(rows, arm, config.per_device_train_batch_size, planned.longest)
    else:
        dataset = rows.with_format(None)  # `_share` has made it
    collator = PairCollator if arm.name == "dpo" else SingleCollator
    trainer = masked_trainer(arm)(
        model=network,
        args=config,
        data_collator=collator(tokenizer.pad_token_id),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    if hasattr(trainer.model, "peft_config"):
        # TRL's copy of the adapter has done its work: the log-likelihoods under it are in the rows.
        trainer.model.delete_adapter("ref")
    return with_callbacks(trainer)


def _dataset(rows: Sequence[Row], arm: Arm, forward: int, longest: int) -> Dataset:
    """Rows as the trainer takes them, for forward passes of so many."""
    from datasets import Dataset

    if arm.name == "kto":
        rows = with_mismatched(rows, forward, longest)
    return Dataset.from_list([{k: v for k, v in row.items() if k != "question_id"} for row in rows])


def _config(
    rows: Sequence[Row],
    arm: Arm,
    settings: PreferenceSettings,
    training: TrainSettings,
    folder: Path,
    planned: Plan,
    layout: Layout,
) -> DPOConfig | KTOConfig:
    from trl import DPOConfig, KTOConfig

    from negfail_nb.training.trainer import on_one_device, training_arguments

    solved = sum(labels_of(rows))
    failed = planned.rows - solved
    weights = {
        "desirable_weight": max(1.0, failed / solved),
        "undesirable_weight": max(1.0, solved / failed),
    }
    forward = _forward_of(planned, rows, settings, layout.ranks)
    config = (DPOConfig if arm.name == "dpo" else KTOConfig)(
        beta=settings.beta,
        max_length=None,
        precompute_ref_log_probs=True,  # half the time and memory of a second model
        remove_unused_columns=False,
        per_device_train_batch_size=forward // layout.ranks,
        gradient_accumulation_steps=settings.batch // forward,
        learning_rate=settings.learning_rate,
        include_num_input_tokens_seen="non_padding",
        **(weights if arm.name == "kto" else {}),
        **training_arguments(training, folder, planned, layout),
    )
    return on_one_device(config)


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Rows to a padded batch as `DPOTrainer` takes it: all chosen runs, then all rejected ones."""

    pad: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return ids and masks of shapes ``(2 * pairs, tokens)``."""
        sides = [
            (row[f"{side}_ids"], row[f"{side}_mask"])
            for side in ("chosen", "rejected")
            for row in rows
        ]
        return _padded(sides, self.pad) | _references(rows)


@dataclass(frozen=True, slots=True)
class SingleCollator:
    """Rows to a padded batch as `KTOTrainer` takes it: the runs, their labels, and the mismatched
    runs.
    """

    pad: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return ids and masks, ``(runs, tokens)``, also of the mismatched, and ``label``."""
        import torch

        batch = _padded([(row["ids"], row["mask"]) for row in rows], self.pad)
        batch |= _padded([(row["KL_ids"], row["KL_mask"]) for row in rows], self.pad, "KL_")
        return batch | {"label": torch.tensor([row["label"] for row in rows])} | _references(rows)


def _padded(
    tokens: Sequence[tuple[Any, Any]], pad: int, prefix: str = ""
) -> dict[str, torch.Tensor]:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.as_tensor(row, dtype=torch.long) for row, _ in tokens]
    masks = [torch.as_tensor(mask, dtype=torch.long) for _, mask in tokens]
    seen = [torch.ones_like(row) for row in ids]
    return {
        f"{prefix}input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
        f"{prefix}attention_mask": pad_sequence(seen, batch_first=True),
        f"{prefix}completion_mask": pad_sequence(masks, batch_first=True),
    }


def _references(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    import torch

    known = [name for name in REFERENCES if name in rows[0]]
    return {name: torch.tensor([row[name] for row in rows]) for name in known}
