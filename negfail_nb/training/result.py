"""What a finished training run leaves behind."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.prefix.trained import Mark, read_mark, remember, write_mark
from negfail_nb.runs import write_json
from negfail_nb.settings import ModelSettings
from negfail_nb.training.checkpoints import SETTINGS, mark_whole, what_is_wrong
from negfail_nb.training.planning import Plan

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

log = logging.getLogger("negfail_nb")

RESULT, CURVE, MODEL, ADAPTER = "result.json", "curve.csv", "model", "adapter"
COLUMNS = {
    "step": "step",
    "loss": "loss",
    "learning_rate": "learning_rate",
    "num_input_tokens_seen": "tokens",
    "seconds": "seconds",
}
# What preference training reports besides.
PREFERENCE_COLUMNS = {"rewards/margins": "margin", "rewards/accuracies": "accuracy"}


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A finished run. Its folder holds the final weights, the curve and the numbers, and no
    checkpoints any more.

    Attributes
    ----------
    folder
        Where it is.
    history
        Learning curve: step, loss (nats a trained token), learning_rate, tokens (so far), seconds
        (so far). After `train_preference` the loss is the method's, and margin and, for pairs,
        accuracy are there too.
    plan
        What was planned, and done.
    steps, tokens, seconds
        Optimiser steps, tokens processed, time of training without loading and saving the model.
    notes
        What to know before using the model, such as tokens that it could not learn.
    """

    folder: Path
    history: pd.DataFrame
    plan: Plan
    steps: int
    tokens: int
    seconds: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return where it is and the numbers."""
        loss = f", loss {self.history['loss'].iloc[-1]:.3f}" if len(self.history) else ""
        notes = "".join(f"\n  note: {note}" for note in self.notes)
        return f"TrainedRun({str(self.folder)!r}: {self.steps} steps, {self.tokens:,} tokens{loss}){notes}"

    @property
    def weights(self) -> Path:
        """Folder of the final weights: the whole model, or the adapter."""
        adapter = self.folder / ADAPTER
        return adapter if adapter.is_dir() else self.folder / MODEL

    def load(self, attention: str | None = None) -> PreTrainedModel | PeftModel:
        """Return the tuned model in evaluation mode, on the accelerator where there is one, else on
        the CPU.

        An adapter stays in float32 on top of its base: merged into bfloat16 weights, small updates
        would round away.

        Parameters
        ----------
        attention
            As in `negfail_nb.training.model.load_model`.
        """
        from negfail_nb.training.model import load_model

        settings = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        dtype, base = settings["train"]["dtype"], ModelSettings(**settings["model"])
        tokenizer = self.tokenizer()
        if self.weights.name == MODEL:
            return (
                load_model(ModelSettings(name=str(self.weights)), tokenizer, dtype, attention)
                .to(_device())
                .eval()
            )
        from peft import PeftModel

        model = load_model(base, tokenizer, dtype, attention)
        if mark := read_mark(self.weights):
            remember(model, tokenizer, mark)
        return (
            PeftModel.from_pretrained(model, str(self.weights), torch_device="cpu")
            .to(_device())
            .eval()
        )

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer that was saved with the weights."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(self.weights), trust_remote_code=False)

    @classmethod
    def write(
        cls,
        folder: Path,
        trainer: Trainer,
        tokenizer: PreTrainedTokenizerBase,
        planned: Plan,
        dtype: str,
        mark: Mark,
        notes: Sequence[str] = (),
    ) -> None:
        """Save the final weights, the curve and the numbers of a run; its mark comes last.

        ``tokenizer`` and ``mark`` say how the model wants to be asked: see
        `negfail_nb.prefix.trained`.
        """
        import torch
        from transformers import GenerationConfig

        history = _history(trainer.state.log_history)
        history.to_csv(folder / CURVE, index=False)
        model = trainer.accelerator.unwrap_model(trainer.model)
        adapted = hasattr(model, "peft_config")
        weights = folder / (ADAPTER if adapted else MODEL)
        base = model.get_base_model() if adapted else model
        remember(base, tokenizer, mark)
        (model if adapted else model.to(getattr(torch, dtype))).save_pretrained(weights)
        if adapted and base.generation_config is not None:
            GenerationConfig(eos_token_id=base.generation_config.eos_token_id).save_pretrained(
                weights
            )
        tokenizer.save_pretrained(weights)
        write_mark(weights, mark)
        mark_whole(weights)
        state = trainer.state
        seconds = float(history["seconds"].max())
        numbers = {
            "steps": state.global_step,
            "tokens": int(state.num_input_tokens_seen),
            "seconds": seconds,
        }
        write_json(folder / RESULT, {**numbers, "plan": asdict(planned), "notes": list(notes)})

    @classmethod
    def open(cls, folder: str | Path) -> TrainedRun:
        """Read what `write` wrote.

        Raises
        ------
        FileNotFoundError
            Where the folder holds no finished run.
        """
        import pandas as pd

        folder = Path(folder)
        if not is_finished(folder):
            raise FileNotFoundError(
                f"{folder} holds no finished training run; train with the same settings to go on"
            )
        numbers: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        planned, notes = Plan(**numbers.pop("plan")), tuple(numbers.pop("notes", ()))
        return cls(folder, pd.read_csv(folder / CURVE), planned, **numbers, notes=notes)


def _device() -> torch.device:
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished run with whole weights; the log says why not, where it is
    half there.
    """
    if not (folder / RESULT).is_file():
        return False
    weights = folder / (ADAPTER if (folder / ADAPTER).is_dir() else MODEL)
    wrong = what_is_wrong(weights)
    if wrong:
        log.warning("%s is not taken as finished: %s", weights, wrong)
    return not wrong


def _history(entries: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    logged = [entry for entry in entries if "loss" in entry]
    also = {
        old: new for old, new in PREFERENCE_COLUMNS.items() if any(old in entry for entry in logged)
    }
    columns = COLUMNS | also
    points = pd.DataFrame(
        [{new: entry.get(old) for old, new in columns.items()} for entry in logged]
    )
    return points.reindex(columns=list(columns.values())).astype({"step": int})
