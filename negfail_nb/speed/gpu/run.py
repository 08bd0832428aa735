"""06, the card: cell by cell within the time and the memory there is; every result is kept at once."""

from __future__ import annotations

import gc
import logging
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

from negfail_nb.runs import write_json
from negfail_nb.speed.architecture import Architecture
from negfail_nb.speed.gpu.check import check_slice
from negfail_nb.speed.gpu.clock import (
    as_graph,
    fast_kernels,
    find_device,
    free_bytes,
    measure_rates,
    times,
)
from negfail_nb.speed.gpu.plan import DECODE, Cell, flops, plan_cells, read_bytes, sure_seconds
from negfail_nb.speed.gpu.settings import CardSettings
from negfail_nb.speed.gpu.slices import (
    build_slice,
    find_shape,
    kept_cache,
    only_layers,
    sliced,
    to_fp8,
)

SCHEMA = "negfail_nb.card/1"
WHOLE_TOKENS, WHOLE_BATCHES = 8192, (1, 8)  # of the check on a whole model

logger = logging.getLogger("negfail_nb")


@torch.no_grad()
def measure_card(
    settings: CardSettings = CardSettings(), file: str | Path | None = None
) -> dict[str, Any]:
    """Measure a card, and return what the file holds.

    First the card's own rates, then, for each precision, whether the slice computes what the CPU
    does, and its cells; then the whole small model against its own slice.

    Parameters
    ----------
    settings
        What is measured.
    file
        JSON, written after every cell, so that what was measured is there when it is stopped.
        ``None``: no file.

    Returns
    -------
    dict
        ``schema``; ``finished``; ``card`` (name, memory, versions); ``settings``; ``shapes`` by
        model; ``rates``; ``checks`` (relative errors by precision); ``skipped`` (precisions and
        models, with the reason); and ``rows``, one a cell: ``model``, ``precision``, ``phase``,
        ``tokens``, ``batch``, ``asked``, ``layers`` and ``of_layers``, ``seconds`` of the slice
        (median, with ``low`` and ``high`` quartiles of ``repeats``), ``rest_seconds`` of embedding
        and LM head alone, ``layer_seconds``, ``whole_seconds`` by layer count, ``graph`` (whether
        the step was a CUDA graph), ``matrix_share`` and ``copy_share`` (of the card's own rates),
        ``note`` (why it is smaller than asked for, or left out).

    Raises
    ------
    ValueError
        For an unknown model or device.
    FileExistsError
        Where the file is there already.
    WrongResult
        Where the device computes something else than the CPU does.
    """
    device, shape = find_device(settings.device), find_shape(settings.model)
    if file and Path(file).exists():
        raise FileExistsError(f"{file} is there already; give another file, or move it away")
    with torch.random.fork_rng():
        session = _Session(settings, device, Path(file) if file else None)
        session.keep(rates=dict(measure_rates(settings, device)))
        for precision in settings.precisions:
            session.measure(shape, precision)
        if settings.whole:
            session.check_whole(find_shape(settings.whole))
        session.keep(finished=True)
    return session.found


class _Session:
    """One run: what was found so far, and how much time is left."""

    def __init__(self, settings: CardSettings, device: torch.device, file: Path | None) -> None:
        self.settings, self.device, self.file = settings, device, file
        self.start, self.room = time.monotonic(), free_bytes(device) * settings.memory
        self.found: dict[str, Any] = {
            "schema": SCHEMA,
            "finished": False,
            "card": describe_card(device),
            "settings": asdict(settings),
            "shapes": {},
            "rates": {},
            "checks": {},
            "skipped": {},
            "rows": [],
        }

    def keep(self, **values: Any) -> None:
        """Add values, and write all to the file."""
        self.found |= values
        self.found["seconds"] = round(time.monotonic() - self.start, 1)
        if self.file:
            write_json(self.file, self.found)

    def skip(self, what: str, why: str) -> None:
        logger.warning("%s is left out: %s", what, why)
        self.keep(skipped=self.found["skipped"] | {what: why})

    def measure(self, shape: Architecture, precision: str) -> None:
        """Check and measure the slice in one precision."""
        if precision == "fp8" and (why := self.found["rates"]["fp8_note"]):
            return self.skip(precision, why)
        part = sliced(shape, self.settings.layers)
        self.keep(shapes=self.found["shapes"] | {shape.name: asdict(shape)})
        errors = check_slice(part, precision, self.device, self.settings.seed)
        self.keep(checks=self.found["checks"] | {precision: errors})
        if not plan_cells(self.settings, part, self.room, precision)[0].batch:
            return self.skip(
                f"{shape.name}, {precision}", f"{part.layers} layers do not fit into memory"
            )
        model = build_slice(shape, part.layers, self.device, self.settings.seed)
        if precision == "fp8":
            to_fp8(model)
        for cell in tqdm(
            plan_cells(self.settings, part, self.room, precision), desc=f"{shape.name}, {precision}"
        ):
            self._add(model, shape, part, cell, precision)
        _forget(model)

    def check_whole(self, shape: Architecture) -> None:
        """Measure a model with all its layers, and with a slice's: the second must tell the first."""
        small = replace(
            self.settings,
            lengths=(min(WHOLE_TOKENS, *self.settings.lengths),),
            batches=WHOLE_BATCHES,
        )
        cells, part = plan_cells(small, shape, self.room), sliced(shape, self.settings.layers)
        if not cells[0].batch:
            return self.skip(
                f"{shape.name}, whole", f"it does not fit into memory: {cells[0].note}"
            )
        self.keep(shapes=self.found["shapes"] | {shape.name: asdict(shape)})
        model = build_slice(shape, shape.layers, self.device, self.settings.seed)
        for cell in tqdm(cells, desc=f"{shape.name}, whole"):
            for some in (part, shape):
                self._add(model, shape, some, cell, "bf16")
        _forget(model)

    def _add(
        self, model: Any, shape: Architecture, part: Architecture, cell: Cell, precision: str
    ) -> None:
        rates = self.found["rates"]
        about = {"model": shape.name, "precision": precision, **asdict(cell)}
        about |= {"layers": part.layers, "of_layers": shape.layers}
        tflops = rates["fp8_tflops"] if precision == "fp8" else rates["bf16_tflops"]
        needed = (
            (2 + 3) * sure_seconds(cell, part, tflops, rates["copy_gbs"], precision)
            if cell.batch
            else 0.0
        )
        left = self.settings.seconds - (time.monotonic() - self.start)
        if cell.batch and needed > left:
            about |= {
                "batch": 0,
                "note": f"no time: {needed:.0f} s at most are needed, {left:.0f} s are left",
            }
        elif cell.batch:
            about |= self._measured(model, shape, part, cell, precision)
        self.keep(rows=[*self.found["rows"], about])

    def _measured(
        self, model: Any, shape: Architecture, part: Architecture, cell: Cell, precision: str
    ) -> dict:
        try:
            with fast_kernels(self.device), only_layers(model, part.layers):
                found = self._times(model, part, cell)
        except torch.OutOfMemoryError:  # other processes take memory, too
            _forget()
            return {"batch": 0, "note": "out of memory, against the count"}
        layer = (found["seconds"] - found["rest_seconds"]) / part.layers
        found |= {
            "layer_seconds": layer,
            "whole_seconds": found["rest_seconds"] + shape.layers * layer,
        }
        return found | _shares(cell, part, precision, found["seconds"], self.found["rates"])

    def _times(self, model: Any, part: Architecture, cell: Cell) -> dict[str, Any]:
        """Times of the slice, and of the same without its layers."""
        step = 1 if cell.phase == DECODE else cell.tokens
        ids = torch.randint(part.vocabulary, (cell.batch, step), device=self.device)
        before = cell.tokens - step
        cache = kept_cache(part, part.layers, cell.batch, before, cell.tokens, self.device)

        def work() -> None:
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

        repeat = (self.device, self.settings.repeats, self.settings.cell_seconds)
        run, why = as_graph(work, self.device) if cell.phase == DECODE else (work, "prefill")
        seconds = times(run, *repeat)
        with only_layers(model, 0):
            run, _ = as_graph(work, self.device) if cell.phase == DECODE else (work, "")
            rest = statistics.median(times(run, *repeat))
        low, middle, high = statistics.quantiles(seconds, n=4)
        said = {
            "seconds": middle,
            "low": low,
            "high": high,
            "repeats": len(seconds),
            "rest_seconds": rest,
        }
        return said | {"graph": not why, "graph_note": why}


def _shares(
    cell: Cell, part: Architecture, precision: str, seconds: float, rates: Mapping[str, Any]
) -> dict[str, float]:
    """Return what a cell reaches of the card's own rates: of its matrix rate, and of its copy's
    bandwidth.
    """
    matrices, attention = flops(cell, part)
    peak = rates["fp8_tflops"] if precision == "fp8" else rates["bf16_tflops"]
    ideal = matrices / peak + attention / rates["bf16_tflops"]  # attention computes in 16 bits
    return {
        "matrix_share": ideal / 1e12 / seconds,
        "copy_share": read_bytes(cell, part, precision) / (rates["copy_gbs"] * 1e9) / seconds,
    }


def describe_card(device: torch.device) -> dict[str, Any]:
    """Return name, memory and versions; nothing that names this machine or its user."""
    name, memory = f"{platform.machine()} {device.type}", free_bytes(device)
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        name, memory = found.name, float(found.total_memory)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
    }
    return {
        "name": name,
        "memory_gib": round(memory / 2**30, 2),
        "threads": torch.get_num_threads(),
        **versions,
    }


def _forget(*models: Any) -> None:
    """Give memory back before the next model."""
    for model in models:
        model.to("meta")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
