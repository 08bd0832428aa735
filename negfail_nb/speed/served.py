"""A server that was measured under load (`negfail_nb.speed.server`), as rows that efficiencies are
fitted to.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from negfail_nb.speed.published import read_measurements
from negfail_nb.speed.server import Trace, request_table, summarise

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["server_rows"]

CLOSED, COLD = "closed@", "cold"

log = logging.getLogger("negfail_nb")


def server_rows(
    traces: Iterable[Trace],
    model: str,
    gpu: str,
    gpus: int = 1,
    engine: str = "my server",
    **more: Any,
) -> pd.DataFrame:
    """Return measured rows of a server, for `negfail_nb.curves.read_measurements` or a CSV file.

    A cell of one request at a time gives TTFT and time a token (medians); one of several gives the
    tokens that all get in a second, without begin and end. Only closed loops with a cold cache can
    be predicted; others are counted in the log and left out.

    Parameters
    ----------
    traces
        Of `negfail_nb.speed.server.measure_load`.
    model, gpu, gpus
        What was served on what: ``"llama-3.1-70b"``, ``"h100"``, 8.
    engine
        Name and version of the server; rows of one engine on one GPU are fitted together.
    more
        Other columns of `read_measurements`: ``precision``, ``kv``.

    Raises
    ------
    RequestsFailed
        Where a request failed.
    ValueError
        Where no cell can be used, the server counts no tokens, or a name is unknown.
    """
    import pandas as pd

    traces = [trace for trace in traces if trace.phase == "measured"]
    cells = [cell for cell in dict.fromkeys(trace.cell for trace in traces) if _usable(cell)]
    if not cells:
        raise ValueError(
            "no closed loop with a cold cache among the traces; measure one: LoadSettings(concurrency=(1,))"
        )
    if left := len({trace.cell for trace in traces}) - len(cells):
        log.info("%d cells are no closed loops with a cold cache, and give no rows", left)
    shared = {
        "version": engine,
        "model": model,
        "gpu": gpu,
        "n_gpus": gpus,
        "source": "measured here",
        **more,
    }
    rows = [
        row | shared for cell in cells for row in _rows(cell, [t for t in traces if t.cell == cell])
    ]
    read_measurements(rows)  # a name that is unknown is said now, not at the fit
    return pd.DataFrame(rows)


def _usable(cell: str) -> bool:
    load, _, cache = cell.partition("/")
    return load.startswith(CLOSED) and cache == COLD


def _rows(cell: str, traces: list[Trace]) -> list[dict[str, Any]]:
    summed = summarise(traces, refuse_failures=True).table.iloc[0]
    middle = request_table(traces)[["prompt_tokens", "completion_tokens", "ttft", "tpot"]].median()
    if math.isnan(middle["prompt_tokens"]) or not summed["told"]:
        raise ValueError(
            f"{cell}: the server does not count tokens, so nobody knows what its times are of"
        )
    at_once = int(cell.partition("/")[0].removeprefix(CLOSED))
    about = {
        "isl": round(middle["prompt_tokens"]),
        "osl": round(middle["completion_tokens"]),
        "concurrency": at_once,
    }
    if at_once > 1:
        rate = summed["steady_tokens_out_per_s"]
        return [
            about | _value("output_throughput_total", rate, "tok/s") | {"batching": "continuous"}
        ]
    times = [_value(name, middle[name], "s") for name in ("ttft", "tpot") if middle[name] > 0]
    return [about | time | {"batching": "static"} for time in times]


def _value(metric: str, value: float, unit: str) -> dict[str, Any]:
    return {"metric": metric, "value": float(value), "unit": unit}
