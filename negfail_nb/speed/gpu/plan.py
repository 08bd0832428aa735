"""06, the card: which cells are measured, and what each needs of memory and time, counted before
anything is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from negfail_nb.speed.architecture import Architecture
from negfail_nb.speed.gpu.settings import CardSettings

PREFILL, DECODE = "prefill", "decode"
# Of what a card can do, a share that plain PyTorch surely reaches: times are estimated too long
# rather than too short.
SURE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point: so many tokens of so many sequences.

    Attributes
    ----------
    phase
        ``"prefill"`` of a prompt, or one step of ``"decode"`` at a context.
    tokens
        Of the prompt, or of the context with the new token.
    batch, asked
        Sequences at a time, and how many were asked for.
    note
        Why there are fewer than asked for, or, where ``batch`` is 0, why the cell is left out.
    """

    phase: str
    tokens: int
    batch: int
    asked: int
    note: str = ""


def plan_cells(
    settings: CardSettings,
    shape: Architecture,
    room: float,
    precision: str = "bf16",
    resident: Architecture | None = None,
) -> tuple[Cell, ...]:
    """Return the cells of a slice, in the order of measuring; those that memory has no room for say
    so.

    Parameters
    ----------
    settings
        Lengths and batches.
    shape
        Of the slice.
    room
        Bytes that may be used, weights included.
    precision
        Of the layers' matrices.
    resident
        Shape of all weights that lie in memory; ``None``: those of the slice.
    """
    free = room - weight_bytes(resident or shape, precision)
    lengths, batches = sorted(set(settings.lengths)), sorted(set(settings.batches))
    prefills = [_cut(PREFILL, shape, tokens, 1, free, precision) for tokens in lengths]
    return (*prefills, *_decodes(shape, lengths, batches, free, precision))


def _decodes(
    shape: Architecture, lengths: Iterable[int], batches: Sequence[int], free: float, precision: str
) -> Iterator[Cell]:
    for tokens in lengths:
        before = 0
        for asked in batches:
            cell = _cut(DECODE, shape, tokens, asked, free, precision)
            if cell.batch and cell.batch <= before:
                cell = replace(
                    cell, batch=0, note=f"{cell.note}; {cell.batch} are measured already"
                )
            before = max(before, cell.batch)
            yield cell


def _cut(
    phase: str, shape: Architecture, tokens: int, asked: int, free: float, precision: str
) -> Cell:
    each = cell_bytes(phase, shape, tokens, 1, precision)
    fit = max(0, min(asked, int(free / each)))
    note = (
        ""
        if fit == asked
        else f"{asked} need {asked * each / 2**30:.1f} GiB beside the weights, {free / 2**30:.1f} are free"
    )
    return Cell(phase=phase, tokens=tokens, batch=fit, asked=asked, note=note)


def weight_bytes(shape: Architecture, precision: str) -> float:
    """Return the bytes of a slice's weights."""
    return shape.weight_bytes(1 if precision == "fp8" else 2)


def cell_bytes(phase: str, shape: Architecture, tokens: int, batch: int, precision: str) -> float:
    """Return the bytes that a cell needs beside the weights: keys, values, and what a layer has in
    hand at most.

    A layer holds its MLP's two inner rows and their product in 16 bits (6 bytes a place; with 8-bit
    matrices also the scaled and the rounded one, 9), and about 16 bytes a place of the residual
    stream, its norms in 32 bits among them.
    """
    kept = batch * tokens * shape.kv_bytes(2)
    computed = batch * (tokens if phase == PREFILL else 1)
    inner = 9 if precision == "fp8" else 6
    logits = batch * shape.vocabulary * 6
    return kept + computed * (inner * shape.ffn + 16 * shape.hidden) + logits


def flops(cell: Cell, shape: Architecture) -> tuple[float, float]:
    """Return the FLOPs of a cell's matrices, LM head included, and of its attention."""
    if cell.phase == PREFILL:
        return shape.matrix_flops(
            cell.tokens * cell.batch, cell.batch
        ), cell.batch * shape.attention_flops(cell.tokens)
    attention = shape.attention_flops(cell.tokens, cell.tokens - 1)
    return shape.matrix_flops(cell.batch, cell.batch), cell.batch * attention


def read_bytes(cell: Cell, shape: Architecture, precision: str) -> float:
    """Return the bytes that a step of decode reads: weights, keys and values."""
    weights = shape.read_bytes(1 if precision == "fp8" else 2)
    return weights + cell.batch * cell.tokens * shape.kv_bytes(2)


def sure_seconds(
    cell: Cell, shape: Architecture, tflops: float, copy_gbs: float, precision: str
) -> float:
    """Return the seconds that a cell takes once, at most: at a `SURE` share of the card's rates."""
    compute = sum(flops(cell, shape)) / (tflops * 1e12)
    moved = read_bytes(cell, shape, precision) / (copy_gbs * 1e9)
    return (compute + moved) / SURE
