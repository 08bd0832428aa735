"""A GPU, measured cell by cell within the time and the memory there is; every result is kept at
once.
"""

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
from negfail_nb.speed.gpu.cells import (
    DECODE,
    Cell,
    GpuSettings,
    flops,
    plan_cells,
    read_bytes,
    sure_seconds,
)
from negfail_nb.speed.gpu.clock import (
    LEAST,
    WARMUP,
    as_graph,
    fast_kernels,
    find_device,
    free_bytes,
    measure_rates,
    times,
)
from negfail_nb.speed.gpu.model import (
    build_model,
    check_model,
    dtype_of,
    find_shape,
    kept_cache,
    only_layers,
    truncated,
)
from negfail_nb.speed.measurements import GPU_SCHEMA

WHOLE_TOKENS, WHOLE_BATCHES = 8192, (1, 8)  # of the check on a whole model
MEMORY = 0.9  # share of the free memory that is used

logger = logging.getLogger("negfail_nb")


@torch.no_grad()
def measure_gpu(
    settings: GpuSettings = GpuSettings(), file: str | Path | None = None
) -> dict[str, Any]:
    """Measure a GPU, and return what the file holds.

    First its own rates, then, for each precision, whether the truncated model computes what the CPU
    does, and its cells; then the whole small model against its own first layers.

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
        ``schema``; ``finished``; ``gpu`` (name, memory, versions); ``settings``; ``shapes`` by
        model; ``rates``; ``checks`` (relative errors by precision); ``skipped`` (precisions and
        models, with the reason); and ``rows``, one per cell: ``model``, ``precision``, ``phase``,
        ``tokens``, ``batch``, ``asked``, ``layers`` and ``of_layers``, ``seconds`` of the truncated
        model (median, with ``low`` and ``high`` quartiles of ``repeats``), ``rest_seconds`` of
        embedding and LM head alone, ``layer_seconds``, ``whole_seconds`` by layer count, ``graph``
        (whether the step was a CUDA graph), ``matrix_share`` and ``copy_share`` (of the GPU's own
        rates), ``note`` (why it is smaller than asked for, or left out).

    Raises
    ------
    ValueError
        For an unknown model or device.
    FileExistsError
        If the file is there already.
    WrongResult
        If the device computes something else than the CPU does.
    """
    device, shape = find_device(settings.device), find_shape(settings.model)
    if file and Path(file).exists():
        raise FileExistsError(f"{file} is there already; give another file, or move it away")
    with torch.random.fork_rng():
        session = _Session(settings, device, Path(file) if file else None)
        session.keep(rates=measure_rates(settings, device))
        for precision in settings.precisions:
            session.measure(shape, precision)
        if settings.whole:
            session.check_whole(find_shape(settings.whole))
        session.keep(finished=True)
    return session.found


class _Session:
    """One run: what was found so far, and how much time is left."""

    def __init__(self, settings: GpuSettings, device: torch.device, file: Path | None) -> None:
        self.settings, self.device, self.file = settings, device, file
        self.start, self.room = time.monotonic(), free_bytes(device) * MEMORY
        self.found: dict[str, Any] = {
            "schema": GPU_SCHEMA,
            "finished": False,
            "gpu": _describe(device),
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
        """Check and measure the truncated model in one precision."""
        if precision == "fp8" and (why := self.found["rates"]["fp8_note"]):
            return self.skip(precision, why)
        part = truncated(shape, self.settings.layers)
        self.keep(shapes=self.found["shapes"] | {shape.name: asdict(shape)})
        errors = check_model(part, precision, self.device)
        self.keep(checks=self.found["checks"] | {precision: errors})
        cells = plan_cells(self.settings, part, self.room, precision)
        what = f"{shape.name}, {precision}"
        if not cells[0].batch:
            return self.skip(what, f"{part.layers} layers do not fit into memory")
        model = build_model(part, precision, self.device)
        for cell in tqdm(cells, desc=what):
            self._add(model, shape, part, cell, precision)
        _forget(model)

    def check_whole(self, shape: Architecture) -> None:
        """Measure a model with all its layers, and with its first ones: these must tell the time of
        all.
        """
        precision = next((name for name in self.settings.precisions if name != "fp8"), "bf16")
        tokens = min(WHOLE_TOKENS, *self.settings.lengths)
        small = replace(self.settings, lengths=(tokens,), batches=WHOLE_BATCHES)
        cells = plan_cells(small, shape, self.room, precision)
        what = f"{shape.name}, whole"
        if not cells[0].batch:
            return self.skip(what, f"it does not fit into memory: {cells[0].note}")
        self.keep(shapes=self.found["shapes"] | {shape.name: asdict(shape)})
        model = build_model(shape, precision, self.device)
        for cell in tqdm(cells, desc=what):
            for some in (truncated(shape, self.settings.layers), shape):
                self._add(model, shape, some, cell, precision)
        _forget(model)

    def _add(
        self, model: Any, shape: Architecture, part: Architecture, cell: Cell, precision: str
    ) -> None:
        """Measure a cell and keep it, or why it is left out."""
        rates = self.found["rates"]
        row = {"model": shape.name, "precision": precision, **asdict(cell)}
        row |= {"layers": part.layers, "of_layers": shape.layers}
        if cell.batch:
            tflops = rates[f"{precision}_tflops"]
            once = sure_seconds(cell, part, tflops, rates["copy_gbs"], precision)
            needed = (WARMUP + LEAST) * once
            left = self.settings.seconds - (time.monotonic() - self.start)
            if needed > left:
                note = f"no time: {needed:.0f} s at most are needed, {left:.0f} s are left"
                row |= {"batch": 0, "note": note}
            else:
                row |= self._measured(model, part, cell, precision, shape.layers)
        self.keep(rows=[*self.found["rows"], row])

    def _measured(
        self, model: Any, part: Architecture, cell: Cell, precision: str, layers: int
    ) -> dict[str, Any]:
        try:
            with fast_kernels(self.device), only_layers(model, part.layers):
                found = self._times(model, part, cell, precision)
        except torch.OutOfMemoryError:  # other processes take memory, too
            _forget()
            return {"batch": 0, "note": "out of memory, against the count"}
        layer = (found["seconds"] - found["rest_seconds"]) / part.layers
        whole = found["rest_seconds"] + layers * layer
        shares = _shares(cell, part, precision, found["seconds"], self.found["rates"])
        return found | {"layer_seconds": layer, "whole_seconds": whole} | shares

    def _times(self, model: Any, part: Architecture, cell: Cell, precision: str) -> dict[str, Any]:
        """Times of the truncated model, and of the same without its layers."""
        decode = cell.phase == DECODE
        step = 1 if decode else cell.tokens
        ids = torch.randint(part.vocabulary, (cell.batch, step), device=self.device)
        sizes = (cell.batch, cell.tokens - step, cell.tokens)
        cache = kept_cache(part, *sizes, self.device, dtype_of(precision))

        def work() -> None:
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

        run, why = as_graph(work, self.device) if decode else (work, "prefill")
        seconds = times(run, self.device, self.settings)
        with only_layers(model, 0):
            run, _ = as_graph(work, self.device) if decode else (work, "")
            rest = statistics.median(times(run, self.device, self.settings))
        low, middle, high = statistics.quantiles(seconds, n=4)
        return {
            "seconds": middle,
            "low": low,
            "high": high,
            "repeats": len(seconds),
            "rest_seconds": rest,
            "graph": not why,
            "graph_note": why,
        }


def _shares(
    cell: Cell, part: Architecture, precision: str, seconds: float, rates: Mapping[str, Any]
) -> dict[str, float]:
    """Return what a cell reaches of the GPU's own rates: of its matrix rate, and of its copy's
    bandwidth.
    """
    matrices, attention = flops(cell, part)
    wide = "fp32" if precision == "fp32" else "bf16"  # attention has 16 bits at least
    ideal = matrices / rates[f"{precision}_tflops"] + attention / rates[f"{wide}_tflops"]
    moved = read_bytes(cell, part, precision) / (rates["copy_gbs"] * 1e9)
    return {"matrix_share": ideal / 1e12 / seconds, "copy_share": moved / seconds}


def _describe(device: torch.device) -> dict[str, Any]:
    """Return name, memory and versions; nothing that names this machine or its user."""
    name, memory = f"{platform.machine()} {device.type}", free_bytes(device)
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        name, memory = found.name, float(found.total_memory)
    return {
        "name": name,
        "memory_gib": round(memory / 2**30, 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
    }


def _forget(*models: Any) -> None:
    """Give memory back before the next model."""
    for model in models:
        model.to("meta")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
