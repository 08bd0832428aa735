"""06, measuring: a server under load, every request's raw trace, and everything that is derived
from it.
"""

from negfail_nb.speed.server.dialects import dialects
from negfail_nb.speed.server.load import Measured, measure_load
from negfail_nb.speed.server.metrics import request_table, steady_window
from negfail_nb.speed.server.probe import ServerFacts, probe_server
from negfail_nb.speed.server.summary import Limits, LoadSummary, RequestsFailed, summarise
from negfail_nb.speed.server.trace import Chunk, ClockError, Trace, read_traces
from negfail_nb.speed.server.workload import Cell, expand_cells

__all__ = [
    "Cell",
    "Chunk",
    "ClockError",
    "Limits",
    "LoadSummary",
    "Measured",
    "RequestsFailed",
    "ServerFacts",
    "Trace",
    "dialects",
    "expand_cells",
    "measure_load",
    "probe_server",
    "read_traces",
    "request_table",
    "steady_window",
    "summarise",
]
