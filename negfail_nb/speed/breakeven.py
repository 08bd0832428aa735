"""The prompt length from which one long-context call costs more time than a pipeline of short ones."""

from __future__ import annotations

from dataclasses import replace

from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import Hardware, get_hardware
from negfail_nb.speed.roofline import DoesNotFit, predict
from negfail_nb.speed.workload import Workload

__all__ = ["break_even_tokens"]


def break_even_tokens(
    architecture: Architecture | str,
    hardware: Hardware | str,
    pipeline: Workload,
    efficiencies: Efficiencies = Efficiencies(),
    tool_seconds: float = 0.0,
) -> int | None:
    """Return the shortest prompt whose one call takes as long as a pipeline, or None where the
    longest takes less.

    Parameters
    ----------
    architecture, hardware
        By name, or as records.
    pipeline
        The dependent calls, such as ``Workload(input_tokens=1200, calls=3, added_tokens=1000)``.
        The long call has its answer length, batch, precision and GPUs, and no cached prefix. Of
        ``batch=0`` each side holds what fits.
    efficiencies
        What the engine reaches.
    tool_seconds
        Time of all retrievals of the pipeline together.

    Raises
    ------
    DoesNotFit
        Where the pipeline itself does not fit.
    """
    architecture = get_architecture(architecture) if isinstance(architecture, str) else architecture
    hardware = get_hardware(hardware) if isinstance(hardware, str) else hardware
    budget = predict(architecture, hardware, pipeline, efficiencies).e2e_seconds + tool_seconds
    once = replace(pipeline, calls=1, added_tokens=0, cached_tokens=0)

    def costs(tokens: int) -> bool:
        try:
            workload = replace(once, input_tokens=tokens)
            return predict(architecture, hardware, workload, efficiencies).e2e_seconds >= budget
        except DoesNotFit:  # no room: longer than any that can be served
            return True

    low, high = 1, architecture.window - pipeline.output_tokens
    if not costs(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if costs(middle) else (middle + 1, high)
    return low if _fits(architecture, hardware, replace(once, input_tokens=low)) else None


def _fits(architecture: Architecture, hardware: Hardware, workload: Workload) -> bool:
    try:
        predict(architecture, hardware, workload)
        return True
    except DoesNotFit:
        return False
