"""A GPU, measured cell by cell within the time and the memory that there are."""

from __future__ import annotations

import json
import logging
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

from negfail_nb.content import fingerprint, write_json
from negfail_nb.speed.architecture import Architecture
from negfail_nb.speed.gpu import clock, model
from negfail_nb.speed.gpu.cells import DECODE, Cell, GpuSettings, plan_cells
from negfail_nb.speed.measurements import GPU_SCHEMA

WHOLE_TOKENS, WHOLE_BATCHES = 8192, (1, 8)  # of the check on a whole model
MEMORY = 0.9  # share of the free memory that may be used

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
        ``schema``; ``finished``; ``date``; ``gpu`` (name, memory, versions); ``settings``;
        ``shapes`` by model; ``rates``; ``checks`` (relative errors by precision); ``skipped``
        (precisions and models, with the reason); and ``rows``, one per cell: ``model``,
        ``precision``, ``phase``, ``tokens``, ``batch``, ``asked``, ``layers`` and ``of_layers``,
        ``seconds`` of the truncated model (median, with ``low`` and ``high`` quartiles of
        ``repeats``), ``rest_seconds`` of embedding and LM head alone, ``layer_seconds``,
        ``whole_seconds`` by layer count, ``graph`` (whether the step was a CUDA graph),
        ``matrix_share`` and ``copy_share`` (of the GPU's own rates), ``note`` (why it is smaller
        than asked for, or left out).

    Raises
    ------
    ValueError
        For an unknown model or device.
    FileExistsError
        If the file is there already.
    WrongResult
        If the device computes something else than the CPU does.
    """
    device = clock.find_device(settings.device)
    shape = model.find_shape(settings.model)
    if file and Path(file).exists():
        raise FileExistsError(f"{file} is there already; give another file, or move it away")
    with torch.random.fork_rng():
        session = _Session(settings, device, Path(file) if file else None)
        session.keep(rates=clock.measure_rates(settings, device))
        for precision in settings.precisions:
            session.measure_truncated(shape, precision)
        if settings.whole:
            session.measure_whole(model.find_shape(settings.whole))
        session.keep(finished=True)
    return session.found


def measure_once(folder: str | Path, settings: GpuSettings = GpuSettings.small()) -> dict[str, Any]:
    """Return what was measured on this machine before; measure only if nothing is there.

    Parameters
    ----------
    folder
        Where it is kept, a file for each device and settings; delete it to measure again.
    settings
        As for `measure_gpu`.
    """
    gpu = _describe(clock.find_device(settings.device))
    del gpu["memory_gib"]  # of a processor: what is free just now
    file = Path(folder) / f"{fingerprint([gpu, asdict(settings)])[:12]}.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["finished"]:
            return found
        file.unlink()  # it was stopped; it takes seconds
    file.parent.mkdir(parents=True, exist_ok=True)
    return measure_gpu(settings, file)


class _Session:
    """One run: what was found so far, and how much time is left."""

    def __init__(self, settings: GpuSettings, device: torch.device, file: Path | None) -> None:
        self.settings = settings
        self.device = device
        self.file = file
        self.start, self.room = time.monotonic(), MEMORY * clock.free_bytes(device)
        self.found: dict[str, Any] = {
            "schema": GPU_SCHEMA,
            "finished": False,
            "date": time.strftime("%Y-%m-%d %H:%M"),
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

    def measure_truncated(self, shape: Architecture, precision: str) -> None:
        if precision == "fp8" and (why := self.found["rates"]["fp8_note"]):
            return self.skip(precision, why)
        part = model.truncated(shape, self.settings.layers)
        what = f"{shape.name}, {precision}"
        errors = model.check_model(part, precision, self.device)
        self.keep(checks=self.found["checks"] | {precision: errors})
        cells = plan_cells(self.settings, part, self.room, precision)
        if not cells[0].batch:
            return self.skip(what, f"{part.layers} layers do not fit into memory")
        self._measure(what, shape, [part], cells, precision)

    def measure_whole(self, shape: Architecture) -> None:
        """Measure a model with all layers and with its first ones, which must tell of all."""
        precision = next((name for name in self.settings.precisions if name != "fp8"), "bf16")
        tokens = min(WHOLE_TOKENS, *self.settings.lengths)
        settings = replace(self.settings, lengths=(tokens,), batches=WHOLE_BATCHES)
        cells = plan_cells(settings, shape, self.room, precision)
        what = f"{shape.name}, whole"
        if not cells[0].batch:
            return self.skip(what, f"it does not fit into memory: {cells[0].note}")
        parts = [model.truncated(shape, self.settings.layers), shape]
        self._measure(what, shape, parts, cells, precision)

    def _measure(
        self,
        what: str,
        shape: Architecture,
        parts: Sequence[Architecture],
        cells: Sequence[Cell],
        precision: str,
    ) -> None:
        """Measure each cell with each number of layers."""
        self.keep(shapes=self.found["shapes"] | {shape.name: asdict(shape)})
        network = model.build_model(parts[-1], precision, self.device)
        for cell in tqdm(cells, desc=what):
            for part in parts:
                row = {"model": shape.name, "precision": precision, **asdict(cell)}
                row |= {"layers": part.layers, "of_layers": shape.layers}
                if cell.batch:
                    row |= self._cell(network, shape, part, cell, precision)
                self.keep(rows=[*self.found["rows"], row])
        network.to("meta")
        clock.free(self.device)

    def _cell(
        self, network: Any, shape: Architecture, part: Architecture, cell: Cell, precision: str
    ) -> dict[str, Any]:
        rates = self.found["rates"]
        tflops = rates[f"{precision}_tflops"] * 1e12
        copy = rates["copy_gbs"] * 1e9
        needed = (clock.WARMUP + clock.LEAST) * cell.sure_seconds(part, tflops, copy, precision)
        left = self.settings.seconds - (time.monotonic() - self.start)
        if needed > left:
            note = f"no time: {needed:.0f} s at most are needed, {left:.0f} s are left"
            return {"batch": 0, "note": note}
        try:
            with clock.fast_kernels(self.device), model.only_layers(network, part.layers):
                found = self._times(network, part, cell, precision)
        except torch.OutOfMemoryError:  # other processes take memory, too
            clock.free(self.device)
            return {"batch": 0, "note": "out of memory, against the count"}
        seconds = found["seconds"]
        rest = found["rest_seconds"]
        layer = (seconds - rest) / part.layers
        matrices, attention = cell.flops(part)
        wide = rates["fp32_tflops" if precision == "fp32" else "bf16_tflops"] * 1e12
        return found | {
            "layer_seconds": layer,
            "whole_seconds": rest + shape.layers * layer,
            # Attention computes in 16 bits at least.
            "matrix_share": (matrices / tflops + attention / wide) / seconds,
            "copy_share": cell.read_bytes(part, precision) / copy / seconds,
        }

    def _times(
        self, network: Any, part: Architecture, cell: Cell, precision: str
    ) -> dict[str, Any]:
        """Times of the truncated model, and of the same without its layers."""
        decode = cell.phase == DECODE
        step = 1 if decode else cell.tokens
        ids = torch.randint(part.vocabulary, (cell.batch, step), device=self.device)
        sizes = (cell.batch, cell.tokens - step, cell.tokens)
        cache = model.kept_cache(part, *sizes, self.device, model.dtype_of(precision))

        def work() -> None:
            network(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

        def timed() -> tuple[list[float], str]:
            run, why = clock.as_graph(work, self.device) if decode else (work, "prefill")
            return clock.times(run, self.device, self.settings), why

        seconds, why = timed()
        with model.only_layers(network, 0):
            rest, _ = timed()
        low, middle, high = statistics.quantiles(seconds, n=4)
        return {
            "seconds": middle,
            "low": low,
            "high": high,
            "repeats": len(seconds),
            "rest_seconds": statistics.median(rest),
            "graph": not why,
            "graph_note": why,
        }


def _describe(device: torch.device) -> dict[str, Any]:
    """Return name, memory and versions; nothing that names this machine or its user."""
    name = f"{platform.machine()} {device.type}"
    memory = clock.free_bytes(device)
    if clock.on_cuda(device):
        found = torch.cuda.get_device_properties(device)
        name = found.name
        memory = float(found.total_memory)
    return {
        "name": name,
        "memory_gib": round(memory / 2**30, 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
    }
