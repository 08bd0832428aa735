"""``python -m negfail_nb.speed.gpu``: measure this machine's GPU into one JSON, in 10 minutes."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from negfail_nb.speed.gpu.cells import GpuSettings
from negfail_nb.speed.gpu.measure import measure_gpu


def main(words: list[str] | None = None) -> int:
    """Measure, and say what came of it; return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    asked = vars(_parser().parse_args(words))
    out = Path(asked.pop("out"))
    small = asked.pop("small")
    given = {name: value for name, value in asked.items() if value is not None}
    try:
        start = GpuSettings.small(given.pop("model", "pocket-llama")) if small else GpuSettings()
        found = measure_gpu(replace(start, **given), out)
    except (ValueError, FileExistsError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; what was measured before is in {out}\n")
        return 130
    sys.stdout.write("\n".join([*summary_lines(found), f"written to {out}", ""]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m negfail_nb.speed.gpu", description=__doc__)
    parser.add_argument(
        "--out", default="gpu.json", help="the JSON to write; it must not be there yet"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="a very small model on the CPU, in seconds: to try it out",
    )
    for field in fields(GpuSettings):
        many = field.metadata.get("items")
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=many or type(field.default),
            nargs="+" if many else None,
            help=f"{field.metadata['help']} (default: {field.default})",
        )
    return parser


def summary_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a measurement says, in lines."""
    gpu = found["gpu"]
    rates = found["rates"]
    versions = f"torch {gpu['torch']}, transformers {gpu['transformers']}"
    yield f"{gpu['name']}, {gpu['memory_gib']} GiB, {versions}"
    for name, value in rates.items():
        if name.endswith("_tflops"):
            yield f"square matrices in {name.removesuffix('_tflops')}: {value:.4g} TFLOP/s"
    if rates["fp8_note"]:
        yield f"fp8: {rates['fp8_note']}"
    yield f"a copy: {rates['copy_gbs']:.4g} GB/s"
    for precision, errors in found["checks"].items():
        yield f"{precision} against 32 bits on the CPU: off by at most {max(errors.values()):.2g}"
    titles = f"{'model':<16}{'':<6}{'phase':<9}{'tokens':>8}{'batch':>7}{'layers':>8}"
    yield f"{titles}{'seconds':>11}{'whole':>11}  share"
    yield from map(_line, found["rows"])
    for what, why in found["skipped"].items():
        yield f"left out: {what}: {why}"
    for name, off in truncation_errors(found).items():
        yield f"{name}: a truncated model is off by {off:+.1%} from the whole one"


def _line(row: Mapping[str, Any]) -> str:
    about = f"{row['model']:<16}{row['precision']:<6}{row['phase']:<9}{row['tokens']:>8}"
    if "seconds" not in row:
        return f"{about}{row['asked']:>7}  left out: {row['note']}"
    share = row["matrix_share"] if row["phase"] == "prefill" else row["copy_share"]
    cut = f", {row['note']}" if row["note"] else ""
    took = f"{row['seconds']:>11.5f}{row['whole_seconds']:>11.5f}"
    return f"{about}{row['batch']:>7}{row['layers']:>8}{took}  {share:.0%}{cut}"


def truncation_errors(found: Mapping[str, Any]) -> dict[str, float]:
    """Return, by cell, how far a truncated model is off from the whole (relative)."""
    by_cell: dict[str, dict[bool, float]] = {}
    for row in found["rows"]:
        if "seconds" in row:
            cell = f"{row['phase']} of {row['tokens']} x {row['batch']}, {row['precision']}"
            whole = row["layers"] == row["of_layers"]
            seconds = row["seconds"] if whole else row["whole_seconds"]
            by_cell.setdefault(f"{row['model']}, {cell}", {})[whole] = seconds
    return {
        name: seconds[False] / seconds[True] - 1
        for name, seconds in by_cell.items()
        if len(seconds) == 2
    }


if __name__ == "__main__":
    sys.exit(main())
