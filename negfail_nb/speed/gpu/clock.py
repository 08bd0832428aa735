"""06, the card: times of a piece of work, and the rates that the card itself reaches."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from negfail_nb.speed.gpu.settings import CardSettings
from negfail_nb.speed.gpu.slices import FP8, scaled_product, why_no_fp8

WARMUP, LEAST = 2, 3
Work = Callable[[], Any]


def find_device(name: str) -> torch.device:
    """Return a device; ``"auto"`` is CUDA's first one where there is one, else the CPU.

    Raises
    ------
    ValueError
        Where this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
        return device
    except (RuntimeError, AssertionError) as error:
        text = str(error).splitlines()[0]
        raise ValueError(
            f"CardSettings.device is {name!r}, but torch cannot use it here: {text}"
        ) from error


def free_bytes(device: torch.device) -> float:
    """Return the free memory of a device; of other devices than CUDA's, that of this machine."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    name = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return float(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))


def settle(device: torch.device) -> None:
    """Wait until all work of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def fast_kernels(device: torch.device) -> AbstractContextManager:
    """Keep attention from PyTorch's plain kernel on a GPU, whose memory grows with the square of
    the context.
    """
    if device.type != "cuda":
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    )


def times(work: Work, device: torch.device, repeats: int, enough: float) -> list[float]:
    """Return the seconds of each repetition, after a warm-up.

    Parameters
    ----------
    work
        What is measured. On CUDA it is timed by the card's own events, so that the processor's
        delays between repetitions are not in it.
    repeats
        How often, at most.
    enough
        Seconds after which three repetitions are enough.
    """
    for _ in range(WARMUP):
        work()
    settle(device)
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < repeats and (len(found) < LEAST or time.perf_counter() - start < enough):
        found.append(_once(work, device))
    return found


def _once(work: Work, device: torch.device) -> float:
    if device.type == "cuda":
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3
    start = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - start


def as_graph(work: Work, device: torch.device) -> tuple[Work, str]:
    """Return the work as one CUDA graph, as engines decode, and why it is none; elsewhere the work
    itself.

    Launching the many small kernels of a step one by one takes longer than they do.
    """
    if device.type != "cuda":
        return work, "no CUDA"
    try:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                work()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay, ""
    except RuntimeError as error:
        settle(device)
        return work, f"not captured: {str(error).splitlines()[0]}"


def measure_rates(settings: CardSettings, device: torch.device) -> Mapping[str, Any]:
    """Return what the card reaches of itself: TFLOP/s of square matrices, GB/s of a copy (read and
    written).
    """
    rates: dict[str, Any] = {"matrix": settings.matrix, "copy_mib": settings.copy_mib}
    one, other = (
        torch.randn(settings.matrix, settings.matrix, device=device, dtype=torch.bfloat16)
        for _ in range(2)
    )
    work = 2 * settings.matrix**3 / 1e12

    def rate(run: Work) -> float:
        return work / statistics.median(times(run, device, settings.repeats, settings.cell_seconds))

    rates["bf16_tflops"] = rate(lambda: one @ other)
    rates["fp8_note"] = why_no_fp8(device) if "fp8" in settings.precisions else "not asked for"
    if not rates["fp8_note"]:
        scale = torch.ones((), device=device)
        small, columns = one.to(FP8), other.to(FP8).t()
        rates["fp8_tflops"] = rate(lambda: scaled_product(small, columns, scale, scale))
    source = torch.empty(settings.copy_mib * 2**20, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    seconds = times(lambda: target.copy_(source), device, settings.repeats, settings.cell_seconds)
    rates["copy_gbs"] = 2 * source.numel() / statistics.median(seconds) / 1e9
    return rates
