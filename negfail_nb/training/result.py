"""What a finished training run leaves behind: weights, tokenizer, learning curve and numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from negfail_nb.content import fingerprint, write_json
from negfail_nb.environment import release_memory
from negfail_nb.models import IN_PLACE
from negfail_nb.prefix.trained import Mark, read_mark, remember, write_mark
from negfail_nb.runs import Run
from negfail_nb.settings import ModelSettings
from negfail_nb.training.model import device, load_model, outline
from negfail_nb.training.planning import Plan
from negfail_nb.training.ranks import FOLDER

if TYPE_CHECKING:
    import pandas as pd
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

CURVE = "curve.csv"
MODEL = "model"
ADAPTER = "adapter"
CHECKPOINTS = ".checkpoints"  # hidden, so that a finished run is whole with and without it
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
    """A finished run. Its folder holds the final weights, the curve and the manifest.

    Attributes
    ----------
    run
        Its folder, with the settings and inputs that it was made from.
    history
        Learning curve: step, loss (nats per trained token), learning_rate, tokens (so far), seconds
        (so far). After `train_preference` the loss is the method's, and margin and, for pairs,
        accuracy are there too.
    plan
        What was planned, and done.
    steps, tokens, seconds
        Optimiser steps, tokens processed, time of training without loading and saving the model.
    model, dtype
        The settings that the model was loaded or made by, and the type of its weights.
    notes
        What to know before using the model, such as tokens that it could not learn.
    base
        Which weights training began from: ``name``, ``origin``, ``sha256``; nothing for a model
        that was made from nothing.
    processes
        That trained it together.
    """

    run: Run
    history: pd.DataFrame
    plan: Plan
    steps: int
    tokens: int
    seconds: float
    model: ModelSettings
    dtype: str
    notes: tuple[str, ...] = ()
    base: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1

    def __repr__(self) -> str:
        """Return where it is and the numbers."""
        loss = f", loss {self.history['loss'].iloc[-1]:.3f}" if len(self.history) else ""
        notes = "".join(f"\n  note: {note}" for note in self.notes)
        numbers = f"{self.steps} steps, {self.tokens:,} tokens{loss}"
        return f"TrainedRun({str(self.folder)!r}: {numbers}){notes}"

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.run.folder

    @property
    def weights(self) -> Path:
        """Folder of the final weights: the whole model, or the adapter."""
        adapter = self.folder / ADAPTER
        return adapter if adapter.is_dir() else self.folder / MODEL

    @property
    def content(self) -> str:
        """SHA-256 over weights and tokenizer: runs that came out the same are the same input."""
        files = self.run.manifest["files"]
        weights = f"{self.weights.name}/"
        return fingerprint({name: h for name, h in files.items() if name.startswith(weights)})

    def load(self, attention: str | None = None) -> PreTrainedModel | PeftModel:
        """Return the tuned model in evaluation mode, on the accelerator if there is one.

        An adapter stays in float32 on top of its base: merged into bfloat16 weights, small updates
        would round away.

        Parameters
        ----------
        attention
            As in `load_model`.
        """
        return self.open_weights(self.dtype, attention).to(device()).eval()

    def open_weights(
        self, dtype: str, attention: str | None = None, trainable: bool = False
    ) -> PreTrainedModel | PeftModel:
        """Return the tuned model on the CPU; ``dtype`` is that of the whole model, or of the base
        of an adapter, which may be trained further.
        """
        tokenizer = self.tokenizer()
        if self.weights.name == MODEL:
            whole = ModelSettings(name=str(self.weights))
            return load_model(whole, tokenizer, "float32" if trainable else dtype, attention)
        from peft import PeftModel

        base = load_model(self.model, tokenizer, dtype, attention)
        if mark := read_mark(self.weights):
            remember(base, tokenizer, mark)
        place = {"is_trainable": trainable, "torch_device": "cpu"}
        return PeftModel.from_pretrained(base, str(self.weights), **place)

    def shape(self) -> tuple[PreTrainedModel, PeftConfig | None]:
        """Return the model that was tuned without its weights, and what its adapter is like."""
        tokenizer = self.tokenizer()
        if self.weights.name == MODEL:
            return outline(ModelSettings(name=str(self.weights)), tokenizer), None
        from peft import PeftConfig

        return outline(self.model, tokenizer), PeftConfig.from_pretrained(str(self.weights))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer that was saved with the weights."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(self.weights), trust_remote_code=False)

    @classmethod
    def open(cls, folder: str | Path | Run) -> TrainedRun:
        """Read a finished run.

        Raises
        ------
        FileNotFoundError
            If the folder holds no finished run; the log says which files are not as written.
        """
        import pandas as pd

        run = folder if isinstance(folder, Run) else Run("train", Path(folder), {})
        if not run.done:
            raise FileNotFoundError(
                f"{run.folder} holds no finished training run; train with the same settings to go "
                "on"
            )
        manifest = run.manifest
        plan = {k: manifest[k] for k in ("stage", "settings", "inputs", "source", "fingerprint")}
        results = dict(manifest["results"])
        return cls(
            run=Run(plan["stage"], run.folder, plan),
            history=pd.read_csv(run.path(CURVE)),
            plan=Plan(**results.pop("plan")),
            model=ModelSettings(**results.pop("model")),
            notes=tuple(results.pop("notes")),
            base=results.pop("weights", {}),
            **results,
        )


def finished(run: Run) -> TrainedRun:
    """Open a run that `runs.make` returned; delete its checkpoints, give back its memory."""
    for name in (CHECKPOINTS, FOLDER):
        shutil.rmtree(run.path(name), ignore_errors=True)
    release_memory()  # trainer and callbacks refer to each other
    return TrainedRun.open(run)


def write_result(
    folder: Path,
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    mark: Mark,
    dtype: str,
    model: ModelSettings,
    planned: Plan,
    notes: Sequence[str] = (),
    base: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Save the final weights and the curve; return what `TrainedRun` reads of the manifest.

    ``tokenizer`` and ``mark`` say how the model wants to be asked: see `negfail_nb.prefix.trained`.
    ``base`` are the weights that training began from, see `negfail_nb.models`.
    """
    import torch
    from transformers import GenerationConfig

    history = _history(trainer.state.log_history)
    network = trainer.accelerator.unwrap_model(trainer.model)
    adapted = hasattr(network, "peft_config")
    whole = _gathered(trainer, network, adapted)
    if not trainer.is_world_process_zero():
        return {}
    history.to_csv(folder / CURVE, index=False)
    weights = folder / (ADAPTER if adapted else MODEL)
    core = network.get_base_model() if adapted else network
    remember(core, tokenizer, mark)
    if adapted:
        config = network.active_peft_config
        if not isinstance(config.target_modules, str):  # a set: sorted, equal runs are equal files
            config.target_modules = sorted(config.target_modules)
        network.save_pretrained(weights, **whole)
        _name_base(weights / "adapter_config.json", base)
        if core.generation_config is not None:
            ends = core.generation_config.eos_token_id
            GenerationConfig(eos_token_id=ends).save_pretrained(weights)
    elif whole:
        cast = {k: v.to(getattr(torch, dtype)) for k, v in whole["state_dict"].items()}
        network.config.dtype = dtype
        network.save_pretrained(weights, state_dict=cast)
    else:
        network.to(getattr(torch, dtype)).save_pretrained(weights)
    tokenizer.save_pretrained(weights)
    write_mark(weights, mark)
    return {
        "steps": trainer.state.global_step,
        "tokens": int(trainer.state.num_input_tokens_seen),
        "seconds": float(history["seconds"].max()),
        "plan": asdict(planned),
        "model": asdict(model),
        "dtype": dtype,
        "notes": list(notes),
        "weights": dict(base),
        "processes": trainer.accelerator.num_processes,
    }


def _gathered(trainer: Trainer, network: Any, adapted: bool) -> dict[str, Any]:
    """Weights that are split among ranks, as `save_pretrained` takes them whole."""
    if not trainer.is_fsdp_enabled:
        return {}
    from negfail_nb.training.sharing import whole_weights

    return {"state_dict": whole_weights(network, trained_only=adapted)}


def _name_base(path: Path, base: Mapping[str, str]) -> None:
    """Let an adapter name its base by the hub's id: a path in a cache is of this machine only."""
    if base and base["origin"] not in IN_PLACE:
        config = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, config | {"base_model_name_or_path": base["name"]})


def _history(entries: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    logged = [entry for entry in entries if "loss" in entry]
    also = {k: v for k, v in PREFERENCE_COLUMNS.items() if any(k in entry for entry in logged)}
    columns = COLUMNS | also
    points = [{new: entry.get(old) for old, new in columns.items()} for entry in logged]
    return pd.DataFrame(points).reindex(columns=list(columns.values())).astype({"step": int})
