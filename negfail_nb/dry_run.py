"""What training will take, before a GPU is rented: memory of each, steps, tokens, hours, and the
command.

Nothing is loaded and nothing is trained. The model is a shape: of its files, or, for a gated model
without the hub, of the table of `negfail_nb.speed`. Hours are those of the speed model: arithmetic
at the share of a GPU's peak that it knows, beside what the GPUs send each other.
"""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from negfail_nb import earlier
from negfail_nb.models import ModelNotFound
from negfail_nb.quality.filters import CHARS_PER_TOKEN
from negfail_nb.settings import LoraSettings
from negfail_nb.sources import plays_live
from negfail_nb.speed import Efficiencies, get_architecture, get_hardware
from negfail_nb.speed.architecture import Architecture, architecture_from_config
from negfail_nb.speed.hardware import Hardware
from negfail_nb.steps import text
from negfail_nb.training import PREFERENCE_ARMS, load_tokenizer, make_arms, plan, select
from negfail_nb.training.fit import adapter_config
from negfail_nb.training.four_bits import BITS
from negfail_nb.training.memory import Memory, Size, memory, size_of
from negfail_nb.training.model import outline
from negfail_nb.training.planning import row_tokens
from negfail_nb.training.ranks import FOLDER, launch_command

if TYPE_CHECKING:
    from negfail_nb.project import Project

COUNTS = (1, 2, 4, 8, 16, 32, 64)  # GPUs that are compared
ASSUMED = 1000  # trajectories, where nothing is known of them
FLOAT32 = 0.5  # of the 16-bit rate: TF32
# Passes over the layers: forward; backward through activations; and through weights.
FORWARD, BACK, WEIGHTS = 1, 1, 1


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a training would take.

    Attributes
    ----------
    model
        What is tuned, in words.
    size
        Its shape.
    memory
        GB of each GPU, a row for each number of GPUs: ``weights``, ``gradients``, ``optimiser``,
        ``activations``, ``total``; whether it ``fits``, whether the model is ``split``, and
        whether activations are computed ``again``.
    processes
        Those that the command starts: as set, else the fewest that fit.
    arms
        A row for each arm: ``trajectories``, ``tokens``, ``steps``, ``hours``, and where the count
        is ``from``.
    notes
        What was assumed.
    commands
        What to type, and what that starts.
    """

    model: str
    size: Size
    memory: pd.DataFrame
    processes: int
    arms: pd.DataFrame
    notes: tuple[str, ...]
    commands: tuple[str, ...]

    def __str__(self) -> str:
        size = self.size
        shape = (
            f"{self.model}: {size.parameters / 1e9:,.3g} billion parameters, {size.layers} layers "
            f"of {size.hidden}, {size.trained / 1e6:,.4g} million of them trained"
        )
        parts = [
            shape,
            "memory of each GPU, GB:",
            self.memory.round(1).to_string(),
            f"training on {self.processes}:",
            self.arms.to_string(formatters={"hours": "{:,.2f}".format}),
            *self.notes,
            f"command: {self.commands[0]}",
            f"it starts: {self.commands[1]}",
        ]
        return "\n".join(parts)


def dry_run(
    project: Project, gpu: str | Hardware = "h100", efficiencies: Efficiencies = Efficiencies()
) -> DryRun:
    """Return what the training of a project's arms will take on some GPUs.

    Parameters
    ----------
    project
        Its ``model``, ``lora``, ``train`` and logs. With ``train.processes`` above 1 that many GPUs
        are taken, else the fewest that fit.
    gpu
        A name that `negfail_nb.speed.get_hardware` knows.
    efficiencies
        What is reached of its peak rates.

    Raises
    ------
    ValueError
        For a model whose shape is not known here, or an unknown GPU.
    """
    hardware = get_hardware(gpu)
    counted, notes = _count(project)
    size, architecture, said = _shape(project, counted)
    row = max(int(counted["row"].max()), 1)
    table = pd.DataFrame(
        [_memory(project, size, n, row, hardware) for n in COUNTS], index=pd.Index(COUNTS, name="")
    )
    processes, short = _processes(project, table)
    layout = _memory(project, size, processes, row, hardware)
    table.loc[processes] = layout
    arms = counted.drop(columns=["row", "length"]).assign(
        hours=[
            _hours(project, one, architecture, size, layout, processes, hardware, efficiencies)
            for _, one in counted.iterrows()
        ]
    )
    rate = f"{efficiencies.compute:.0%} of {hardware.bf16_tflops:,.0f} TFLOP/s"
    about = f"assumed GPU: {hardware.name}, {hardware.memory_gib:g} GiB, {rate} (--gpu for others)"
    host = f"{processes * _loaded(size, project) / 1e9:,.0f} GB of main memory while it is loaded"
    told = (said, *notes, about, host, *([short] if short else []))
    return DryRun(
        project.model.name or "a small Llama of the settings",
        size,
        table.sort_index(),
        processes,
        arms,
        tuple(filter(None, told)),
        _commands(project, processes),
    )


def _shape(project: Project, counted: pd.DataFrame) -> tuple[Size, Architecture, str]:
    """The shape of the model, and where it is from."""
    name = project.model.name
    if not name:
        tokenizer = counted.attrs["tokenizer"]
        if tokenizer is None:
            raise ValueError(
                "model.name is empty, so the model is made for a tokenizer that is trained on the "
                "logs, and there are none; give logs, or set model.name"
            )
        return *_measured(outline(project.model, tokenizer), "made", project.lora), ""
    try:
        network = outline(project.model, None)
    except (ModelNotFound, OSError):
        architecture = get_architecture(name)
        said = f"shape: from the table of models, as {name} is not on this machine"
        return _size_from_table(architecture, project.lora), architecture, said
    return *_measured(network, name, project.lora), ""


def _measured(network: Any, name: str, lora: LoraSettings) -> tuple[Size, Architecture]:
    architecture = architecture_from_config(network.config, name)
    return size_of(network, adapter_config(lora)), architecture


@cache
def _size_from_table(architecture: Architecture, lora: LoraSettings) -> Size:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = asdict(architecture)
    config = LlamaConfig(
        num_hidden_layers=shape["layers"],
        hidden_size=shape["hidden"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["ffn"],
        vocab_size=shape["vocabulary"],
        max_position_embeddings=shape["window"],
        tie_word_embeddings=shape["tied"],
    )
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    return size_of(network, adapter_config(lora))


def _memory(
    project: Project, size: Size, processes: int, row: int, hardware: Hardware
) -> dict[str, Any]:
    """A row of the table: as `negfail_nb.training.layout` would lay it out."""
    train = project.train
    bits = BITS if project.lora.four_bits else 0
    room = hardware.memory_gib * 2**30 * hardware.usable

    def needed(split: bool, again: bool) -> Memory:
        return memory(size, row, 0, train.dtype, processes, split, again, bits)

    again = train.recompute != "off"
    split = processes > 1 and needed(False, again).total > room
    if train.recompute == "auto":
        again = needed(split, False).total > room
    found = needed(split, again)
    parts = {name: getattr(found, name) / 1e9 for name in Memory.__slots__}
    fits = found.total <= room
    return {**parts, "total": found.total / 1e9, "fits": fits, "split": split, "again": again}


def _processes(project: Project, table: pd.DataFrame) -> tuple[int, str]:
    """How many GPUs, and what to say if they are too few."""
    wanted = project.train.processes
    if wanted > 1:
        return wanted, ""
    enough = table.index[table["fits"].astype(bool)]
    if len(enough):
        return int(enough[0]), ""
    return COUNTS[-1], f"it does not fit {COUNTS[-1]} of these GPUs either"


def _count(project: Project) -> tuple[pd.DataFrame, list[str]]:
    """Trajectories, tokens and steps of each arm; and what was assumed for it."""
    names = [name for name in project.train.arms if name not in PREFERENCE_ARMS]
    left = len(project.train.arms) - len(names)
    notes = ["arms that learn by preference are not counted"] if left else []
    tokenizer = _tokenizer(project)
    found = _report(project)
    if found is None:
        notes.append(
            f"no logs here: {ASSUMED:,} trajectories of half of prefix.max_tokens are assumed"
        )
        rows = [_assumed(project) for _ in names]
    elif tokenizer is None and project.model.name:
        why = f"tokens are an estimate: {CHARS_PER_TOKEN} characters each, as the tokenizer of "
        notes.append(f"{why}{project.model.name} is not on this machine")
        rows = [_estimated(project, found, name) for name in names]
    else:
        made = earlier.data(project, names)
        tokenizer = made.tokenizer
        rows = [_planned(project, made.train[name]) for name in names]
    table = pd.DataFrame(rows, index=pd.Index(names, name="arm"))
    table.attrs["tokenizer"] = tokenizer
    return table, notes


def _tokenizer(project: Project) -> Any:
    if not project.model.name:
        return None
    try:
        return load_tokenizer(project.model)
    except (OSError, ValueError):
        return None


def _report(project: Project) -> Any:
    """What quality control keeps of the logs; ``None`` where there are none yet."""
    if plays_live(project) or (project.logs and not any(path.exists() for path in project.logs)):
        return None
    return earlier.report(project)


def _assumed(project: Project) -> dict[str, Any]:
    return _row(project, np.full(ASSUMED, project.prefix.max_tokens // 2), "assumed")


def _estimated(project: Project, report: Any, name: str) -> dict[str, Any]:
    (arm,) = make_arms([name], project.prefix)
    chosen = select(report.train, arm, project.train)
    characters = np.array([sum(len(text(m)) for m in t.messages) for t in chosen])
    lengths = np.minimum(characters / CHARS_PER_TOKEN, project.prefix.max_tokens)
    return _row(project, lengths.astype(int), "estimated")


def _row(project: Project, lengths: np.ndarray, source: str) -> dict[str, Any]:
    train = project.train
    row = row_tokens(int(lengths.max()), train.batch_tokens)
    a_pass = math.ceil(lengths.sum() / train.batch_tokens)
    steps = train.steps if train.budget == "steps" else math.ceil(train.epochs * a_pass)
    tokens = steps * train.batch_tokens if train.budget == "steps" else train.epochs * lengths.sum()
    counts = {"trajectories": len(lengths), "tokens": int(tokens), "steps": steps}
    return {**counts, "from": source, "row": row, "length": float(lengths.mean())}


def _planned(project: Project, rendered: Any) -> dict[str, Any]:
    planned = plan(rendered, project.train)
    tokens = round(planned.tokens * planned.epochs)
    counts = {"trajectories": planned.examples, "tokens": tokens, "steps": planned.steps}
    mean = planned.tokens / planned.examples
    return {**counts, "from": "counted", "row": planned.row_tokens, "length": mean}


def _hours(
    project: Project,
    arm: pd.Series,
    architecture: Architecture,
    size: Size,
    layout: dict[str, Any],
    processes: int,
    hardware: Hardware,
    efficiencies: Efficiencies,
) -> float:
    """Arithmetic and traffic of all steps, which overlap as in `negfail_nb.speed.roofline`."""
    passes = FORWARD + BACK + (0 if size.adapted else WEIGHTS) + layout["again"]
    runs = arm["tokens"] / arm["length"]
    attention = architecture.attention_flops(arm["length"]) * runs
    work = passes * (architecture.matrix_flops(arm["tokens"], arm["tokens"]) + attention)
    rate = hardware.flops(2) * (1 if project.train.dtype == "bfloat16" else FLOAT32)
    compute = work / (rate * efficiencies.compute * processes)
    sent = _sent(project, arm, size, layout, processes)
    link = sent / (hardware.link_gbs * 1e9 * efficiencies.link)
    power = efficiencies.overlap
    return (compute**power + link**power) ** (1 / power) / 3600


def _sent(
    project: Project, arm: pd.Series, size: Size, layout: dict[str, Any], processes: int
) -> float:
    """Bytes that each GPU sends: the model in each pass if it is split, and the gradients."""
    share = (processes - 1) / processes
    if not layout["split"]:
        return 2 * share * 4 * size.trained * arm["steps"]
    passes = arm["tokens"] / arm["row"] / processes
    gathered = 2 * _loaded(size, project)
    return share * passes * (gathered + 4 * size.trained)


def _loaded(size: Size, project: Project) -> float:
    """Bytes of the weights as they are computed with."""
    if project.lora.four_bits:
        return size.parameters * BITS / 8
    return size.parameters * (2 if project.train.dtype == "bfloat16" and size.adapted else 4)


def _commands(project: Project, processes: int) -> tuple[str, str]:
    profile = project.profile.name
    changes = {
        f"{stage}.{name}": value
        for stage, values in project.changes.items()
        for name, value in values.items()
    } | {"train.processes": processes}
    typed = ["negfail_nb", "train", "--profile", profile]
    for name, value in changes.items():
        typed += ["--set", f"{name}={json.dumps(value)}"]
    place = f"runs/{profile}/train-{project.train.arms[0]}/RUN/{FOLDER}"
    started = launch_command(processes, place, "--with-caller")
    return shlex.join(typed), shlex.join(["python", *started[1:]])
