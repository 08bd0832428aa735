"""Whether a model fits into memory, before its weights are read: a process that the system kills
says nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Sizes of a model's shape that are refused before anything is made of them; the largest models have
# far smaller ones.
MOST = {
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "vocab_size": 100_000_000,
}
CONFIG_BYTES = 10_000_000
LIMIT, USED = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory.current"),
)  # of a container


def check_config(folder: Path) -> None:
    """Raise `ValueError` where a folder's ``config.json`` is no object, or its sizes are none that
    a model can have.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise ValueError(f"it has more than {CONFIG_BYTES:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it is a {type(config).__name__}, not an object")
        parts = [
            config,
            *(config[name] for name in ("text_config",) if isinstance(config.get(name), dict)),
        ]
        for part in parts:
            for name, most in MOST.items():
                value = part.get(name)
                if value is not None and (type(value) is not int or not 1 <= value <= most):
                    raise ValueError(f"{name} is {value!r}; use 1 to {most:,}")
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path}: {why}; copy the file from where the model came from") from error


def check_room(name: str, place: str, dtype: Any) -> None:
    """Raise where the weights alone need more memory than is free. Room for gradients and
    activations is not counted.

    Parameters
    ----------
    name, place
        The model as the settings name it, and its folder or hub id.
    dtype
        Torch type of the weights.

    Raises
    ------
    ValueError
        With what the weights need, what is free, and what to change.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):  # shapes only, no memory
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        parameters = AutoModelForCausalLM.from_config(config, dtype=dtype).num_parameters()
    needed, free = parameters * dtype.itemsize, free_memory()
    if needed > free:
        half = (
            f"train.dtype=bfloat16 ({parameters * 2 / 1e9:,.0f} GB), " if dtype.itemsize > 2 else ""
        )
        raise ValueError(
            f"model {name} has {parameters / 1e9:,.1f} billion parameters: {needed / 1e9:,.0f} GB as "
            f"{str(dtype).removeprefix('torch.')}, and {free / 1e9:,.0f} GB of memory are free; use {half}a smaller "
            "model, or a machine with more memory"
        )


def free_memory() -> int:
    """Return the bytes of main memory that are free, also where a container is given less than the
    machine has.
    """
    import psutil

    free = psutil.virtual_memory().available
    try:
        return min(free, int(LIMIT.read_text()) - int(USED.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return free
