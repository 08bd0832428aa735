"""07: how fast a model is: an analytic throughput model of Llamas (`roofline`), and what it is
fitted to: published rows, a server under load (`load`), and a GPU measured with a truncated model
(`gpu`).
"""

from negfail_nb.speed.architecture import Architecture, architecture_from_config, get_architecture
from negfail_nb.speed.calibration import calibrate
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import Hardware, get_hardware, hardware_table
from negfail_nb.speed.ladder import BreakEven, break_even, pipeline_workload, speed_table
from negfail_nb.speed.load import Cell, Measured, expand_cells, measure_load
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
from negfail_nb.speed.roofline import DoesNotFit, Prediction, Workload, predict
from negfail_nb.speed.traces import Chunk, ClockError, Trace, read_traces

__all__ = [
    "Architecture",
    "BreakEven",
    "Cell",
    "Chunk",
    "ClockError",
    "DoesNotFit",
    "Efficiencies",
    "Hardware",
    "Limits",
    "LoadSummary",
    "Measured",
    "MeasuredGpu",
    "Measurement",
    "Prediction",
    "RequestsFailed",
    "ServerFacts",
    "Trace",
    "Workload",
    "architecture_from_config",
    "break_even",
    "calibrate",
    "expand_cells",
    "get_architecture",
    "get_hardware",
    "gpu_table",
    "hardware_table",
    "measure_load",
    "pipeline_workload",
    "predict",
    "probe_server",
    "read_gpu",
    "read_measurements",
    "read_traces",
    "request_table",
    "server_rows",
    "speed_table",
    "summarise",
]
