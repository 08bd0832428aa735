"""What a trainer does where several processes train together: it deals rows to the ranks so that
each step sums over the same rows as in one process, and puts together what FSDP2 has split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard, SeedableRandomSampler
from torch.utils.data import RandomSampler, Sampler
from transformers import Trainer

from negfail_nb.training.layout import Layout

ROWS = "rows_of_rank"  # how many rows of a batch count; popped before the model sees the batch


class Shares(Sampler[list[int]]):
    """The rows of one rank: each chunk of the order of one process is dealt to all ranks in turn.

    A rank that gets none of the last chunk gets ``filler``, which adds nothing, for all ranks must
    take each step together.
    """

    def __init__(
        self, sampler: Sampler[int], chunk: int, ranks: int, rank: int, filler: int
    ) -> None:
        self.sampler = sampler  # Accelerate sets its epoch
        self.chunk = chunk
        self.ranks = ranks
        self.rank = rank
        self.filler = filler

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self.sampler)
        while rows := list(islice(order, self.chunk)):
            yield rows[self.rank :: self.ranks] or [self.filler]

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.chunk)


@dataclass(frozen=True, slots=True)
class WithFiller:
    """Rows, and behind the last one a row that counts nothing."""

    rows: Any
    filler: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.filler if index == len(self.rows) else self.rows[index]


@dataclass(frozen=True, slots=True)
class Counting:
    """A collator that says beside a batch how many of its rows count."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    filler: dict[str, Any]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch."""
        counted = 0 if rows[0] is self.filler else len(rows)
        return {**self.collate(rows), ROWS: torch.tensor(counted)}


class SharedTrainer(Trainer):
    """A trainer of one or of several processes; of one, it is as transformers' own."""

    @property
    def ranks(self) -> int:
        """Among how many processes rows are divided; those that share each row count as one."""
        return self.accelerator.num_processes // self.get_cp_size()

    def filler(self) -> dict[str, Any]:
        """Return a row that a rank without one takes; it is not counted."""
        return self.train_dataset[0]

    def get_train_dataloader(self) -> Any:
        """Return the rows of this rank, in the order of one process."""
        if self.ranks == 1:
            return super().get_train_dataloader()
        dataset = self._remove_unused_columns(self.train_dataset, description="training")
        filler = self.filler()
        sampler = self._get_train_sampler(dataset)
        if isinstance(sampler, RandomSampler):
            sampler = SeedableRandomSampler(dataset, data_seed=self.args.data_seed)
        chunk = self.args.per_device_train_batch_size * self.ranks
        rank = self.accelerator.process_index // self.get_cp_size()
        given = self.ranks, rank, len(dataset)
        return DataLoaderShard(
            WithFiller(dataset, filler),
            device=self.accelerator.device,
            batch_sampler=Shares(sampler, chunk, *given),
            collate_fn=Counting(self.data_collator, filler),
            pin_memory=self.args.dataloader_pin_memory,
        )

    def create_accelerator_and_postprocess(self) -> None:
        """Let Accelerate shard over processes of the CPU too, which it does for devices only: this
        is how sharding is tested.
        """
        super().create_accelerator_and_postprocess()
        plugin = self.args.fsdp_plugin_args
        if plugin is None or self.is_fsdp_enabled:
            return
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        made = FullyShardedDataParallelPlugin(**plugin)
        if self.args.mixed_precision not in (None, "no"):
            made.set_mixed_precision(self.args.mixed_precision)
        kind = {"distributed_type": DistributedType.FSDP}
        AcceleratorState._shared_state.update(fsdp_plugin=made, **kind)
        PartialState._shared_state.update(kind)
        self.is_fsdp_enabled = True

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        """Count the tokens of all ranks, fillers aside."""
        if ROWS in inputs and not int(inputs[ROWS]):
            nothing = ("input_ids", "attention_mask")
            inputs = {name: value[:0] for name, value in inputs.items() if name in nothing}
        super()._track_num_input_tokens(inputs)


def sharding(layout: Layout) -> dict[str, Any]:
    """Return the arguments of FSDP2, and of context parallelism.

    Each rank keeps and saves its own part: with a full state, earlier versions of Accelerate saved
    the first rank's part of an adapter only (its issue 4206). Weights are loaded by each rank: with
    efficient loading some adapters were not trained (axolotl's issue 3977).
    """
    config = {
        "version": 2,
        "state_dict_type": "SHARDED_STATE_DICT",
        "cpu_ram_efficient_loading": False,
        "reshard_after_forward": True,
    }
    given = {"fsdp": True, "fsdp_config": config}
    if layout.context > 1:
        from accelerate import ParallelismConfig

        given["parallelism_config"] = ParallelismConfig(
            dp_shard_size=layout.ranks, cp_size=layout.context
        )
    return given


def prepared(trainer: Trainer, steps: int, checkpoint: Path) -> None:
    """Shard a trainer's model, and load a checkpoint of shards into it."""
    trainer._prepare_for_training(steps, None, str(checkpoint))


def whole_weights(network: Any, trained_only: bool) -> dict[str, torch.Tensor]:
    """Return weights on the CPU, each put together from the parts of all ranks, who must all call.

    The first rank gets them, the others an empty dict.
    """
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    wanted = {n for n, p in network.named_parameters(remove_duplicate=False) if p.requires_grad}
    found = {}
    for name, value in network.state_dict().items():
        if trained_only and name not in wanted:
            continue
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        if first:
            found[name] = whole.detach().cpu()
    return found
