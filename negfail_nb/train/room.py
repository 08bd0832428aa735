"""Whether a model fits into memory, before its weights are read: a process that the system kills says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LIMIT, USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")  # of a container


def check_room(name: str, place: str, dtype: Any) -> None:
    """Raise where the weights alone need more memory than is free. Room for gradients and activations is not counted.

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
        half = f"train.dtype=bfloat16 ({parameters * 2 / 1e9:,.0f} GB), " if dtype.itemsize > 2 else ""
        raise ValueError(
            f"model {name} has {parameters / 1e9:,.1f} billion parameters: {needed / 1e9:,.0f} GB as "
            f"{str(dtype).removeprefix('torch.')}, and {free / 1e9:,.0f} GB of memory are free; use {half}a smaller "
            "model, or a machine with more memory"
        )


def free_memory() -> int:
    """Return the bytes of main memory that are free, also where a container is given less than the machine has."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        return min(free, int(LIMIT.read_text()) - int(USED.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return free
