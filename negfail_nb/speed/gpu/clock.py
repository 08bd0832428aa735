"""Times of a piece of work on a device, and the rates that the device itself reaches."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from negfail_nb.speed.gpu.cells import GpuSettings

WARMUP = 2
LEAST, MOST = 3, 30  # repetitions of a cell
# Of the machine's own rates: rows of the square matrices, MiB of the copy.
RATED = {"cpu": (512, 64), "gpu": (8192, 2048)}
FP8 = torch.float8_e4m3fn
Work = Callable[[], Any]


def find_device(name: str) -> torch.device:
    """Return a device; ``"auto"`` is CUDA's first one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
        return device
    except (RuntimeError, AssertionError) as error:
        text = f"torch cannot use it here: {str(error).splitlines()[0]}"
        raise ValueError(f"GpuSettings.device is {name!r}, but {text}") from error


def on_cuda(device: torch.device) -> bool:
    """Return whether a device is one of CUDA's; tests stand in for them here."""
    return device.type == "cuda"


def free_bytes(device: torch.device) -> float:
    """Return the free memory of a CUDA device; for others, that of this machine."""
    if on_cuda(device):
        return float(torch.cuda.mem_get_info(device)[0])
    name = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return float(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))


def free(device: torch.device) -> None:
    """Give memory back before the next model."""
    gc.collect()
    if on_cuda(device):
        torch.cuda.empty_cache()


def settle(device: torch.device) -> None:
    """Wait until all work of a device is done."""
    if on_cuda(device):
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def fast_kernels(device: torch.device) -> AbstractContextManager:
    """Keep attention from the kernel whose memory grows with the square of the context."""
    if not on_cuda(device):
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    )


def times(work: Work, device: torch.device, settings: GpuSettings) -> list[float]:
    """Return the seconds of 3 to 30 repetitions, as fit into the time, after a warm-up."""
    for _ in range(WARMUP):
        work()
    settle(device)
    found: list[float] = []
    end = time.perf_counter() + settings.cell_seconds
    while len(found) < MOST and (len(found) < LEAST or time.perf_counter() < end):
        found.append(_once(work, device))
    return found


def _once(work: Work, device: torch.device) -> float:
    if on_cuda(device):  # by its own events: delays of the CPU between repetitions are not in it
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
    """Return the work as one CUDA graph, as engines decode, or the work itself and why.

    Launching the many small kernels of a step one by one takes longer than they do.
    """
    if not on_cuda(device):
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


def measure_rates(settings: GpuSettings, device: torch.device) -> dict[str, Any]:
    """Return TFLOP/s of square matrices by precision, and GB/s of a copy (read and written)."""
    side, mib = RATED["cpu" if device.type == "cpu" else "gpu"]
    rates: dict[str, Any] = {"matrix": side, "copy_mib": mib}
    size = (side, side)

    def rate(run: Work) -> float:
        return 2e-12 * side**3 / statistics.median(times(run, device, settings))

    wanted = set(settings.precisions)
    rates["fp8_note"] = why_no_fp8(device) if "fp8" in wanted else "not asked for"
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        # Attention beside 8-bit matrices has 16 bits.
        if name in wanted or (name == "bf16" and "fp8" in wanted):
            one, other = (torch.randn(size, device=device, dtype=dtype) for _ in range(2))
            rates[f"{name}_tflops"] = rate(lambda a=one, b=other: a @ b)
    if not rates["fp8_note"]:
        scale = torch.ones((), device=device)
        small, columns = (torch.randn(size, device=device).to(FP8) for _ in range(2))
        rates["fp8_tflops"] = rate(lambda: scaled_product(small, columns.t(), scale, scale))
    source = torch.empty(mib * 2**20, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    seconds = statistics.median(times(lambda: target.copy_(source), device, settings))
    rates["copy_gbs"] = 2e-9 * source.numel() / seconds
    return rates


def scaled_product(
    one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor, other_scale: torch.Tensor
) -> torch.Tensor:
    """Return the product of two 8-bit matrices, the second laid out by columns, in 16 bits."""
    return torch._scaled_mm(
        one,
        other,
        scale_a=scale,
        scale_b=other_scale,
        out_dtype=torch.bfloat16,
        use_fast_accum=one.is_cuda,  # sums of 8-bit products as engines take them
    )


def why_no_fp8(device: torch.device) -> str:
    """Return why a device does not multiply 8-bit matrices; empty if it does."""
    try:
        ones = torch.ones(16, 16, device=device).to(FP8)
        scale = torch.ones((), device=device)
        scaled_product(ones, ones.t(), scale, scale)
        return ""
    except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
        return f"torch {torch.__version__} has no 8-bit product here: {str(error).splitlines()[0]}"
