"""Checkpoints of a model that is split among ranks, as torch's distributed checkpoints are.

The parts are torch files, which are read with ``weights_only=True``. What lists them is pickled,
and torch unpickles it: so it is looked through first, and must name nothing but what torch writes.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata

MODEL = "pytorch_model_fsdp*"
LIST = ".metadata"
KNOWN = {
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("torch", "Size"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
}
CLASSES = metadata.__name__


def is_split(checkpoint: Path) -> bool:
    """Whether a checkpoint was written by ranks that split the model."""
    return any(checkpoint.glob(MODEL))


def check_same_way(checkpoint: Path, split: bool) -> None:
    """Raise `ValueError` if a checkpoint cannot be gone on with: split with not split, or damaged
    on purpose.
    """
    if is_split(checkpoint) and not split:
        raise ValueError(
            f"{checkpoint} was written by processes that split the model among them; go on with "
            f"train.processes above 1, or delete {checkpoint.parent} to begin anew"
        )
    for path in sorted(checkpoint.rglob(LIST)):
        check_list(path)


def check_list(path: Path) -> None:
    """Raise `ValueError` if a pickled list of parts names anything but what torch writes there."""
    try:
        with path.open("rb") as stream:
            _Listed(stream).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise ValueError(
            f"{path} is no list of a checkpoint's parts ({error}); delete the checkpoint "
            f"{path.parents[1]} to go on from the one before"
        ) from error


class _Listed(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        plain = "." not in name and not name.startswith("__")
        number = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        own = (
            module == CLASSES and getattr(getattr(metadata, name, None), "__module__", "") == module
        )
        if plain and ((module, name) in KNOWN or own or number):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")
