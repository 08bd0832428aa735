"""The arms dpo and kto: from the vanilla arm's model on, by preferring successes to failures (TRL's
trainers).

The usual baselines that use failures too (DPO: arXiv 2305.18290, for agents ETO: 2403.02502; KTO:
2402.01306). Both sides carry the unlabelled prompt of inference. Only what the agent wrote counts:
observations are masked, which TRL's own tokenisation cannot do.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.prefix import chat_template_text
from negfail_nb.prefix.trained import check_same, mark_of, read_mark
from negfail_nb.runs import file_hash, plain
from negfail_nb.settings import ModelSettings, PreferenceSettings, PrefixSettings, TrainSettings
from negfail_nb.training.arms import Arm
from negfail_nb.training.checkpoints import CHECKPOINTS, SETTINGS, claim, last_whole
from negfail_nb.training.fit import (
    check_fit,
    free_memory,
    is_large,
    on_one_device,
    run_to_end,
    training_arguments,
)
from negfail_nb.training.planning import Plan, padded_tokens
from negfail_nb.training.preference_rows import Row, preference_rows, tokens_of, with_mismatched
from negfail_nb.training.result import MODEL, TrainedRun, is_finished
from negfail_nb.trajectory import Trajectory

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

log = logging.getLogger("negfail_nb")

# Tokens of one padded forward pass, where two runs are not longer already.
FORWARD_TOKENS = 16_384


def train_preference(
    trajectories: Iterable[Trajectory],
    arm: Arm,
    start: TrainedRun | str | Path,
    settings: PreferenceSettings = PreferenceSettings(),
    training: TrainSettings = TrainSettings(),
    prefix: PrefixSettings = PrefixSettings(),
    folder: str | Path = "runs/preference",
) -> TrainedRun:
    """Train an arm on preferences, from a finished run on, or go on where an interrupted training
    stopped.

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
        most ``settings.pairs`` a question. ``kto``: every run; the rarer of successes and failures
        weighs more, so that both sides count the same (KTO, equation 8).
    start
        The vanilla arm's run, or its folder. Where it is an adapter, that is trained on; else all
        weights are.
    settings
        Strength, batch, budget, learning rate.
    training
        Its seed, dtype and ``save_steps`` are used.
    prefix
        How runs are tokenised, as for the start.
    folder
        Everything is written here. The checkpoints in it are deleted once the run is finished.

    Returns
    -------
    TrainedRun
        As `train` returns. The loss in its curve is the method's, and no loss of tokens. ``margin``
        is beta times the nats by which successes have gained on failures, ``accuracy`` (dpo) the
        share of pairs where they have.

    Raises
    ------
    ValueError
        Where the arm is none of the two, there is nothing to prefer (with counts), or data and
        model do not fit.
    FileNotFoundError
        Where ``start`` is no finished run.
    SettingsChanged
        Where the folder holds a run from other settings, data or start.
    """
    folder, start = Path(folder), start if isinstance(start, TrainedRun) else TrainedRun.open(start)
    tokenizer = start.tokenizer()
    template = chat_template_text(prefix.chat_template) if prefix.chat_template else ""
    mark = mark_of(tokenizer, template, prefix.chat_template)
    known = read_mark(start.weights)
    check_same(known, mark, f"model {start.weights}", "this training")
    rows = preference_rows(trajectories, arm, tokenizer, settings, prefix, training.seed)
    planned = preference_plan(rows, settings, training.seed)
    claim(folder, _identity(rows, arm, start, settings, training))
    if is_finished(folder):
        log.info("%s is trained already", folder)
    else:
        trainer = _make_trainer(rows, arm, start, settings, training, folder, planned)
        run_to_end(trainer, last_whole(folder / CHECKPOINTS), planned)
        TrainedRun.write(
            folder, trainer, tokenizer, planned, training.dtype, known or mark, start.notes
        )
        del trainer
        free_memory()
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return TrainedRun.open(folder)


def preference_plan(
    rows: Sequence[Row], settings: PreferenceSettings = PreferenceSettings(), seed: int = 0
) -> Plan:
    """Return what training on preferences will take. Runs are padded, not packed: ``rows`` are
    runs, a pair has two.
    """
    import numpy as np

    runs = tokens_of(rows)
    lengths = np.array([len(ids) for ids, _ in runs])
    longest, sides = int(lengths.max()), len(runs) // len(rows)
    forward = _forward(settings.batch, sides, longest)
    steps_per_epoch = math.ceil(math.ceil(len(rows) / forward) / (settings.batch // forward))
    steps = settings.steps or max(1, math.ceil(settings.epochs * steps_per_epoch))
    return Plan(
        examples=len(runs),
        tokens=int(lengths.sum()),
        trained_tokens=int(sum(mask.sum() for _, mask in runs)),
        longest=longest,
        row_tokens=longest,
        rows=len(runs),
        fill=float(lengths.mean() / longest),
        padded_tokens=padded_tokens(lengths, seed),
        rows_per_step=settings.batch * sides,
        steps=steps,
        epochs=steps / steps_per_epoch,
    )


def _forward(batch: int, sides: int, longest: int) -> int:
    """Pairs or runs of one forward pass: a divisor of the batch; two runs at least, as KTO compares
    within it.
    """
    fitting = [
        n for n in range(1, batch + 1) if batch % n == 0 and n * sides * longest <= FORWARD_TOKENS
    ]
    least = min(n for n in range(1, batch + 1) if batch % n == 0 and n * sides >= 2)
    return max([least, *fitting])


def _identity(
    rows: Sequence[Row],
    arm: Arm,
    start: TrainedRun,
    settings: PreferenceSettings,
    training: TrainSettings,
) -> dict[str, Any]:
    """Everything that decides the final weights, as plain JSON; `TrainedRun.load` reads model and
    dtype in it.
    """
    begun = json.loads((start.folder / SETTINGS).read_text(encoding="utf-8"))
    unused = ("epochs",) if settings.steps else ()
    unused += ("pairs",) if arm.name == "kto" else ()
    return plain(
        {
            "arm": arm.name,
            "preference": {k: v for k, v in asdict(settings).items() if k not in unused},
            "train": {"seed": training.seed, "dtype": training.dtype},
            "model": begun["model"],
            "lora": begun["lora"],
            "start": file_hash(start.weights),
            "data": _fingerprint(rows),
        }
    )


def _fingerprint(rows: Sequence[Row]) -> str:
    """The SHA-256 of tokens, masks and labels, in order."""
    import hashlib

    digest = hashlib.sha256()
    for (ids, mask), label in zip(tokens_of(rows), _labels(rows), strict=True):
        digest.update(
            len(ids).to_bytes(8, "little")
            + ids.astype("<i4").tobytes()
            + mask.tobytes()
            + bytes([label])
        )
    return digest.hexdigest()


def _labels(rows: Sequence[Row]) -> list[bool]:
    return [
        label for row in rows for label in ([row["label"]] if "label" in row else [True, False])
    ]


def _make_trainer(
    rows: Sequence[Row],
    arm: Arm,
    start: TrainedRun,
    settings: PreferenceSettings,
    training: TrainSettings,
    folder: Path,
    planned: Plan,
) -> DPOTrainer | KTOTrainer:
    from datasets import Dataset
    from transformers import PrinterCallback

    from negfail_nb.training.preference_trainers import (
        PairCollator,
        PairTrainer,
        SingleCollator,
        SingleTrainer,
    )
    from negfail_nb.training.progress import Curve, Marker, Progress

    tokenizer, network = start.tokenizer(), _open(start, training.dtype)
    check_fit(network, max(int(ids.max()) for ids, _ in tokens_of(rows)), planned)
    config = _config(rows, arm, settings, training, folder, planned, recompute=is_large(network))
    if arm.name == "kto":
        rows = with_mismatched(rows, config.per_device_train_batch_size, planned.longest)
    kind, collator = (
        (PairTrainer, PairCollator) if arm.name == "dpo" else (SingleTrainer, SingleCollator)
    )
    trainer = kind(
        model=network,
        args=config,
        data_collator=collator(tokenizer.pad_token_id),
        train_dataset=Dataset.from_list(
            [{k: v for k, v in row.items() if k != "question_id"} for row in rows]
        ),
        processing_class=tokenizer,
        callbacks=[Curve(), Marker(), Progress()],
    )
    trainer.remove_callback(PrinterCallback)
    if hasattr(trainer.model, "peft_config"):
        # TRL's copy of the adapter has done its work: the log-likelihoods under it are in the rows.
        trainer.model.delete_adapter("ref")
    return trainer


def _open(start: TrainedRun, dtype: str) -> PreTrainedModel | PeftModel:
    """The model to train on: weights that are trained in float32, the frozen base of an adapter in
    ``dtype``.
    """
    from negfail_nb.training.model import load_model

    begun = json.loads((start.folder / SETTINGS).read_text(encoding="utf-8"))
    if start.weights.name == MODEL:
        return load_model(ModelSettings(name=str(start.weights)), start.tokenizer(), "float32")
    from peft import PeftModel

    base = load_model(ModelSettings(**begun["model"]), start.tokenizer(), dtype)
    return PeftModel.from_pretrained(
        base, str(start.weights), is_trainable=True, torch_device="cpu"
    )


def _config(
    rows: Sequence[Row],
    arm: Arm,
    settings: PreferenceSettings,
    training: TrainSettings,
    folder: Path,
    planned: Plan,
    recompute: bool,
) -> DPOConfig | KTOConfig:
    from trl import DPOConfig, KTOConfig

    solved, sides = sum(_labels(rows)), planned.rows // len(rows)
    failed = planned.rows - solved
    weights = {
        "desirable_weight": max(1.0, failed / solved),
        "undesirable_weight": max(1.0, solved / failed),
    }
    forward = _forward(settings.batch, sides, planned.longest)
    config = (DPOConfig if arm.name == "dpo" else KTOConfig)(
        beta=settings.beta,
        max_length=None,
        precompute_ref_log_probs=True,  # half the time and memory of a second model
        remove_unused_columns=False,
        per_device_train_batch_size=forward,
        gradient_accumulation_steps=settings.batch // forward,
        learning_rate=settings.learning_rate,
        include_num_input_tokens_seen="non_padding",
        **(weights if arm.name == "kto" else {}),
        **training_arguments(training, folder, planned, recompute),
    )
    return on_one_device(config)
