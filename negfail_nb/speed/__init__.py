"""07: how fast a model is: an analytic throughput model of Llamas (`roofline`), and what it is
fitted to: published rows, a server under load (`load`), and a GPU measured with a truncated model
(`gpu`).
"""

from negfail_nb.speed.architecture import get_architecture
from negfail_nb.speed.bands import band
from negfail_nb.speed.calibration import calibrate
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import get_hardware, hardware_table
from negfail_nb.speed.ladder import BreakEven, break_even, pipeline_workload, speed_table
from negfail_nb.speed.load import measure_load
from negfail_nb.speed.measurements import (
    MeasuredGpu,
    Measurement,
    gpu_table,
    read_gpu,
    read_measurements,
    server_rows,
)
from negfail_nb.speed.metrics import Limits, LoadSummary, RequestsFailed, request_table, summarise
from negfail_nb.speed.probe import ServerFacts, probe_server
from negfail_nb.speed.published import published_ladders
from negfail_nb.speed.roofline import Workload, highest_rate_of, predict
from negfail_nb.speed.tools import read_load, read_traces
from negfail_nb.speed.traces import Chunk, ClockError, Trace

__all__ = ["BreakEven", "Chunk", "ClockError", "Efficiencies", "Limits", "LoadSummary"]
__all__ += ["MeasuredGpu", "Measurement", "RequestsFailed", "ServerFacts", "Trace", "Workload"]
__all__ += ["break_even", "calibrate", "get_architecture", "get_hardware", "gpu_table"]
__all__ += [
    "band",
    "hardware_table",
    "highest_rate_of",
    "measure_load",
    "pipeline_workload",
    "predict",
    "probe_server",
]
__all__ += [
    "published_ladders",
    "read_gpu",
    "read_load",
    "read_measurements",
    "read_traces",
    "request_table",
    "server_rows",
]
__all__ += ["speed_table", "summarise"]
