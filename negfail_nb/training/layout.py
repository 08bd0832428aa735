"""How a training is laid out on the devices of this machine: decided by memory before it begins."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from negfail_nb.settings import TrainSettings
from negfail_nb.training.memory import Memory, memory, size_of
from negfail_nb.training.model import device, free_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("negfail_nb")

SPARE = 0.9  # share of the free memory that is planned with
# Logits that are held at once, 1 GB in float32; larger steps go through TRL's layer, which works in
# pieces.
MOST_LOGITS = 2**28
SHORT = 0.5  # share of what is left besides activations that they may take


@dataclass(frozen=True, slots=True)
class Layout:
    """How many processes train, and how the model lies on their devices.

    Attributes
    ----------
    processes
        That train together, a device each.
    sharded
        Whether they split weights, gradients and moments among them (FSDP2).
    recompute
        Whether activations are computed again in the backward pass; ``None``: not decided yet.
    context
        Processes that share each trajectory.
    """

    processes: int = 1
    sharded: bool = False
    recompute: bool | None = None
    context: int = 1

    @property
    def ranks(self) -> int:
        """Processes among which the rows of a step are divided."""
        return self.processes // self.context


def devices() -> int:
    """Return on how many devices processes can train here: accelerators, or cores of the CPU."""
    import torch

    if torch.accelerator.is_available():
        return torch.accelerator.device_count()
    known = getattr(os, "sched_getaffinity", None)
    return len(known(0)) if known else os.cpu_count() or 1


def count_processes(settings: TrainSettings) -> int:
    """Return how many processes train.

    Raises
    ------
    ValueError
        If there are fewer devices, or trajectories cannot be shared so.
    """
    wanted, context = settings.processes, settings.context_parallel
    if wanted == 1 and context == 1:
        return 1
    found = devices()
    kind = {"cpu": "cores", "cuda": "GPUs"}.get(device().type, "devices")
    if wanted > found:
        raise ValueError(
            f"train.processes is {wanted}, and this machine has {found} {kind}; use at most "
            f"{found}, or 0 for all of them"
        )
    processes = wanted or found
    if context > 1:
        _check_context(context, processes)
    return processes


def _check_context(context: int, processes: int) -> None:
    if device().type != "cuda":
        raise ValueError(
            f"train.context_parallel is {context}: torch passes keys and values around a ring for "
            "attention kernels of CUDA only, and there is no CUDA here; use 1"
        )
    if processes % context:
        known = [n for n in range(1, processes + 1) if processes % n == 0]
        raise ValueError(
            f"train.context_parallel is {context}, which does not divide the {processes} "
            f"processes; use one of {', '.join(map(str, known))}"
        )


def check_divides(
    rows: int, ranks: int, what: str, setting: str, each: int = 1, least: int = 1
) -> None:
    """Raise `ValueError` if the rows of a step cannot be divided among ranks; it names numbers that
    can be.

    ``each`` is how much of ``setting`` one row is, ``least`` how many rows each rank needs.
    """
    if rows % ranks == 0 and rows >= least * ranks:
        return
    fits = [n for n in range(1, rows // least + 1) if rows % n == 0]
    below = rows // ranks * ranks
    near = [n * each for n in (below, below + ranks) if n >= least * ranks] or [
        least * ranks * each
    ]
    raise ValueError(
        f"a step has {rows} {what}, which {ranks} processes cannot share evenly; use "
        f"train.processes of {', '.join(map(str, fits))}, or {setting} of "
        f"{' or '.join(map(str, near))}"
    )


def lay_out(
    network: PreTrainedModel,
    adapter: Any,
    settings: TrainSettings,
    tokens: int,
    processes: int,
    base_bits: float = 0,
    shard: bool | None = None,
) -> Layout:
    """Decide whether the model is split, and whether activations are kept; the log says so.

    Parameters
    ----------
    network
        Of shapes only.
    adapter
        Its ``LoraConfig``, if one is trained.
    settings
        Type of number, and what was asked for.
    tokens
        Of one forward pass.
    processes
        That train together.
    base_bits
        As `memory` takes it.
    shard
        ``True`` or ``False``: whatever memory says.
    """
    free = free_bytes(device()) * SPARE
    if device().type == "cpu":
        free /= processes
    size = size_of(network, adapter)
    context = settings.context_parallel
    row = tokens // context
    # Elsewhere TRL's output layer works in pieces.
    logits = row if device().type == "cpu" and row * size.vocabulary <= MOST_LOGITS else 0

    def needed(sharded: bool, recompute: bool) -> Memory:
        given = size, row, logits, settings.dtype, processes
        return memory(*given, sharded, recompute, base_bits)

    least = needed(False, settings.recompute != "off")
    sharded = least.total > free or context > 1 if shard is None else shard
    recompute = settings.recompute == "on"
    if settings.recompute == "auto":
        kept = needed(sharded, False)
        recompute = kept.activations > SHORT * (free - kept.total + kept.activations)
    said = needed(sharded, recompute)
    log.info("%s", _told(processes, sharded, recompute, said, least, free))
    return Layout(processes, sharded, recompute, context)


def _told(
    processes: int, sharded: bool, recompute: bool, said: Memory, least: Memory, free: float
) -> str:
    whole = f"{least.total / 1e9:,.1f} GB of {free / 1e9:,.1f} GB free on each"
    how = f"FSDP2 splits the model (whole: {whole})" if sharded else f"each has all of it ({whole})"
    again = "; activations are computed again" if recompute else ""
    return f"{processes} processes train together; {how}; about {said}{again}"
