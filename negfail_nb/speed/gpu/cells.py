"""What is measured on a GPU, and what each cell needs of memory and time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from negfail_nb.settings import Checked, option
from negfail_nb.speed.architecture import Architecture
from negfail_nb.speed.roofline import BYTES

PRECISIONS = ("bf16", "fp8", "fp32")
PREFILL = "prefill"
DECODE = "decode"
_LONGEST = 1_048_576
# A share of the GPU's rates that plain PyTorch surely reaches: times are estimated too long rather
# than too short.
SURE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSettings(Checked):
    """07: a truncated model on one GPU, with random weights."""

    model: str = option(
        "llama-3.1-70b", "whose layers: a known name, or a folder with a config.json"
    )
    layers: int = option(
        4, "layers of the truncated model; embedding and LM head come once", low=1, high=1000
    )
    whole: str = option(
        "llama-3.1-8b", "measured whole, to check the truncated model against; empty: none is"
    )
    precisions: tuple[str, ...] = option(
        ("bf16", "fp8"), "of the layers' matrices: bf16, fp8 if torch has it, fp32", items=str
    )
    lengths: tuple[int, ...] = option(
        (4096, 8192, 16384, 32768, 65536, 131072),
        "prompts of prefill and contexts of decode, tokens",
        items=int,
    )
    batches: tuple[int, ...] = option((1, 4, 16, 64), "sequences of decode at once", items=int)
    cell_seconds: float = option(
        6.0, "seconds after which 3 repetitions of a cell are enough", low=0.0, high=3600.0
    )
    seconds: float = option(
        540.0, "seconds for all; what does not fit in is left out", low=1.0, high=86_400.0
    )
    device: str = option("auto", "auto, cuda, cpu, or what else torch calls it")

    @classmethod
    def small(cls, model: str = "pocket-llama") -> GpuSettings:
        """Return settings for a small model on a CPU, in 32 bits: many are slow in 16."""
        return cls(
            model=model,
            layers=2,
            whole=model,
            precisions=("fp32",),
            lengths=(256, 512, 1024),
            batches=(1, 8),
            cell_seconds=0.1,
            seconds=60.0,
            device="cpu",
        )

    def __post_init__(self) -> None:
        Checked.__post_init__(self)  # not `super()`: slots make the class anew
        if not self.precisions or not set(self.precisions) <= set(PRECISIONS):
            known = ", ".join(map(repr, PRECISIONS))
            self._refuse("precisions", self.precisions, f"use some of {known}")
        for name, most in (("lengths", _LONGEST), ("batches", 65_536)):
            values = getattr(self, name)
            if not values or not all(1 <= n <= most for n in values):
                self._refuse(name, values, f"give some whole numbers of 1 to {most:,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point: prefill of a prompt, or one step of decode at a context."""

    phase: str
    tokens: int  # of the prompt, or of the context with the new token
    batch: int  # sequences at once
    asked: int  # how many were asked for
    note: str = ""  # why there are fewer, or, if batch is 0, why the cell is left out

    def flops(self, shape: Architecture) -> tuple[float, float]:
        """Return the FLOPs of the matrices, LM head included, and of attention."""
        new = self.tokens if self.phase == PREFILL else 1
        attention = shape.attention_flops(self.tokens, self.tokens - new)
        return shape.matrix_flops(new * self.batch, self.batch), self.batch * attention

    def read_bytes(self, shape: Architecture, precision: str) -> float:
        """Return the bytes that a step of decode reads: weights, keys and values."""
        each = BYTES[precision]
        return shape.read_bytes(each) + self.batch * self.tokens * shape.kv_bytes(max(2, each))

    def sure_seconds(
        self, shape: Architecture, flops: float, copied: float, precision: str
    ) -> float:
        """Return the seconds it takes once, at most: at a `SURE` share of FLOP/s and bytes/s."""
        seconds = sum(self.flops(shape)) / flops + self.read_bytes(shape, precision) / copied
        return seconds / SURE


def plan_cells(
    settings: GpuSettings, shape: Architecture, room: float, precision: str = "bf16"
) -> tuple[Cell, ...]:
    """Return the cells of a model, in the order of measuring; those that do not fit say so.

    ``shape`` is that of the model in memory, ``room`` the bytes that it and a cell may take.
    """
    free = room - shape.weight_bytes(BYTES[precision])
    lengths = sorted(set(settings.lengths))

    def fitted(phase: str, tokens: int, asked: int) -> Cell:
        each = cell_bytes(phase, shape, tokens, precision)
        fit = max(0, min(asked, int(free / each)))
        note = ""
        if fit < asked:
            need = asked * each / 2**30
            note = f"{asked} need {need:.1f} GiB beside the weights, {free / 2**30:.1f} are free"
        return Cell(phase=phase, tokens=tokens, batch=fit, asked=asked, note=note)

    cells = [fitted(PREFILL, tokens, 1) for tokens in lengths]
    for tokens in lengths:
        before = 0
        for asked in sorted(set(settings.batches)):
            cell = fitted(DECODE, tokens, asked)
            if cell.batch and cell.batch <= before:
                note = f"{cell.note}; {cell.batch} are measured already"
                cell = replace(cell, batch=0, note=note)
            before = max(before, cell.batch)
            cells.append(cell)
    return tuple(cells)


def cell_bytes(phase: str, shape: Architecture, tokens: int, precision: str) -> float:
    """Return the bytes per sequence beside the weights: keys, values, and what a layer holds.

    A layer holds its MLP's two inner rows and their product in 16 bits (6 bytes per place; with
    8-bit matrices also the scaled and the rounded one, 9), and about 16 bytes per place of the
    residual stream, its norms in 32 bits among them. In 32 bits all of it is twice as large.
    """
    inner = 9 if precision == "fp8" else 6
    computed = (tokens if phase == PREFILL else 1) * (inner * shape.ffn + 16 * shape.hidden)
    whole = tokens * shape.kv_bytes(2) + computed + shape.vocabulary * 6
    return whole * (2 if precision == "fp32" else 1)
