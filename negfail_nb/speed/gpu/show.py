"""06, the card: what a measurement says, in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def summary_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines: the card, its rates, each cell, what was left out, how well a slice tells of
    the whole.
    """
    yield from _card(found["card"], found["rates"])
    for precision, errors in found["checks"].items():
        yield f"{precision} against 32 bits on the CPU: off by at most {max(errors.values()):.2g}"
    yield f"{'model':<16}{'':<6}{'phase':<9}{'tokens':>8}{'batch':>7}{'layers':>8}{'seconds':>11}{'whole':>11}  share"
    for row in found["rows"]:
        yield _line(row)
    yield from (f"left out: {what}: {why}" for what, why in found["skipped"].items())
    yield from (
        f"{name}: a slice is off by {off:+.1%} from the whole model"
        for name, off in slice_errors(found).items()
    )


def _card(card: Mapping[str, Any], rates: Mapping[str, Any]) -> Iterator[str]:
    yield f"{card['name']}, {card['memory_gib']} GiB, torch {card['torch']}, transformers {card['transformers']}"
    yield f"square matrices in 16 bits: {rates['bf16_tflops']:.4g} TFLOP/s; a copy: {rates['copy_gbs']:.4g} GB/s"
    note = rates["fp8_note"]
    yield (
        f"in 8 bits: {note}"
        if note
        else f"square matrices in 8 bits: {rates['fp8_tflops']:.4g} TFLOP/s"
    )


def _line(row: Mapping[str, Any]) -> str:
    about = f"{row['model']:<16}{row['precision']:<6}{row['phase']:<9}{row['tokens']:>8}"
    if "seconds" not in row:
        return f"{about}{row['asked']:>7}  left out: {row['note']}"
    share = row["matrix_share"] if row["phase"] == "prefill" else row["copy_share"]
    cut = f", {row['note']}" if row["note"] else ""
    took = f"{row['seconds']:>11.5f}{row['whole_seconds']:>11.5f}"
    return f"{about}{row['batch']:>7}{row['layers']:>8}{took}  {share:.0%}{cut}"


def slice_errors(found: Mapping[str, Any]) -> dict[str, float]:
    """Return, cell by cell, how far a slice's figure by layer count is off from the model measured
    whole (relative).
    """
    by_cell: dict[str, dict[bool, float]] = {}
    for row in found["rows"]:
        if "seconds" in row:
            name = f"{row['model']}, {row['phase']} of {row['tokens']} x {row['batch']}, {row['precision']}"
            whole = row["layers"] == row["of_layers"]
            by_cell.setdefault(name, {})[whole] = row["seconds"] if whole else row["whole_seconds"]
    return {
        name: seconds[False] / seconds[True] - 1
        for name, seconds in by_cell.items()
        if len(seconds) == 2
    }
