"""Results of other load generators, read as ours: guidellm, AIPerf, ``vllm bench serve`` and
inference-perf.

What they call by one name differs; each file says how its numbers become ours, and what does not.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from negfail_nb.settings import EvaluateSettings
from negfail_nb.speed.metrics import LATENCIES, METRICS, Limits, LoadSummary, summarise
from negfail_nb.speed.tools import aiperf, guidellm, inference_perf, vllm
from negfail_nb.speed.tools.told import STATISTICS, Run, Tool
from negfail_nb.speed.traces import SCHEMA, Trace, read_own
from negfail_nb.trajectory import UnreadableLog

TOOLS = (guidellm.TOOL, aiperf.TOOL, vllm.TOOL, inference_perf.TOOL)
# Files that say less than one beside them.
_SUMMARIES = {"profile_export.jsonl": "*_aiperf.json", inference_perf.REQUESTS: "*_lifecycle_*"}
_BROKEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)

logger = logging.getLogger("negfail_nb")


def read_traces(path: str | Path) -> Iterator[Trace]:
    """Yield the traces of a file of `measure_load`, or the requests of another tool's results.

    Parameters
    ----------
    path
        JSONL of ours; guidellm's JSON, AIPerf's ``profile_export.jsonl``, the JSON of
        ``vllm bench serve --save-detailed``, inference-perf's
        ``per_request_lifecycle_metrics.json``; or a folder of such files. The cells of a tool end
        with its name in place of the cache's state, which is not known: ``closed@16/guidellm``.

    Raises
    ------
    UnreadableLog
        If it is of no known tool or version, damaged, or only states a summary (`read_load` reads
        it). The text names the file, and what is known.
    """
    if _is_own(Path(path)):
        yield from read_own(path)
        return
    for name, run in _named(path):
        if not run.traces:
            raise UnreadableLog(f"{path}: {name} has no requests, only a summary; use read_load")
        yield from (replace(trace, cell=name) for trace in run.traces)


def read_load(
    path: str | Path, limits: Limits = Limits(), settings: EvaluateSettings = EvaluateSettings()
) -> LoadSummary:
    """Return what was measured about a server, by `measure_load` or by another tool.

    Parameters
    ----------
    path
        As for `read_traces`, and summaries, too: their cells have the numbers that the tool states,
        and no intervals.
    limits, settings
        As for `summarise`.

    Returns
    -------
    LoadSummary
        One row per cell; ``notes`` says how the numbers of other tools differ from ours.

    Raises
    ------
    UnreadableLog
        As `read_traces`.
    """
    import pandas as pd

    if _is_own(Path(path)):
        return summarise(read_own(path), limits, settings)
    tables, times, warnings, notes = [], [], [], []
    for name, run in _named(path):
        notes += [f"{name}: {note}" for note in run.notes]
        traces = [replace(trace, cell=name) for trace in run.traces]
        found = summarise(traces, limits, settings) if traces else _stated(name, run)
        tables.append(found.table)
        times.append(found.latencies)
        warnings += [found.warning] if found.warning else []
    joined = (pd.concat(frames, ignore_index=True) for frames in (tables, times))
    return LoadSummary(*joined, "; ".join(warnings), tuple(notes))


def _stated(name: str, run: Run) -> LoadSummary:
    """Return what a tool states about a run of which it kept no requests."""
    import pandas as pd

    row = {metric: math.nan for metric in METRICS} | {"error": "", "told": False}
    row |= run.numbers
    row["success_rate"] = 1 - row["failures"] / row["requests"] if row["requests"] else math.nan
    row["steady_tokens_out_per_s"] = row["tokens_out_per_s"]  # the ends are not told apart
    nothing = {"low": math.nan, "high": math.nan}
    times = [
        {"cell": name, "metric": metric, "statistic": s, **nothing}
        | {"value": run.times.get(metric, {}).get(s, math.nan)}
        for metric in (*LATENCIES, "itl")
        for s in STATISTICS
    ]
    warning = ""
    if row["failures"]:
        warning = f"{name}: {row['failures']:g} of {row['requests']:g} requests failed, and are in "
        warning += "no time that the tool states"
    return LoadSummary(pd.DataFrame([{"cell": name, **row}]), pd.DataFrame(times), warning)


def _named(path: str | Path) -> list[tuple[str, Run]]:
    """Return the runs of a file or folder with the names of their cells, each name once."""
    runs = [pair for file in _files(Path(path)) for pair in _read(file)]
    if not runs:
        raise UnreadableLog(f"{path} holds no run; give a file of a benchmark that ended")
    seen: Counter[str] = Counter()
    named = []
    for tool, run in runs:
        name = f"{run.load}/{tool.name}"
        seen[name] += 1
        named.append((name if seen[name] == 1 else f"{name} {seen[name]}", run))
    return named


def _files(path: Path) -> list[Path]:
    """Return the files of results in a folder, without those that say less; a file itself."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*.json*") if file.is_file())
    more = [(file.parent, _SUMMARIES[file.name]) for file in files if file.name in _SUMMARIES]
    less = {other for folder, form in more for other in folder.rglob(form)}
    kept = [file for file in files if file not in less or file.name in _SUMMARIES]
    known = [file for file in kept if _tool(_records(file, few=True))]
    for file in sorted(set(kept) - set(known)):
        logger.info("%s: no results of a known tool", file)
    if not known:
        raise UnreadableLog(f"{path}: no results in the folder; known are {_known()}")
    return known


def _read(path: Path) -> list[tuple[Tool, Run]]:
    records = _records(path)
    tool = _tool(records)
    if tool is None:
        raise UnreadableLog(f"{path}: not the results of a known tool; known are {_known()}")
    try:
        return [(tool, _checked(run)) for run in tool.read(records, path)]
    except _BROKEN as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise UnreadableLog(
            f"{path}: looks like {tool.files}, but cannot be read: {what}. Give the file as the "
            "tool wrote it, or the traces of measure_load."
        ) from error


def _checked(run: Run) -> Run:
    """Return a run whose stated numbers are numbers; what a tool does not state is left out."""
    if not run.traces and not run.numbers:
        raise ValueError("it holds no request")
    return replace(run, numbers={k: float(v) for k, v in run.numbers.items() if v is not None})


def _known() -> str:
    return f"traces of measure_load ({SCHEMA}); {'; '.join(tool.files for tool in TOOLS)}"


def _tool(records: Sequence[Any]) -> Tool | None:
    return next((tool for tool in TOOLS if records and tool.looks_like(records[0])), None)


def _is_own(path: Path) -> bool:
    if path.is_dir():
        return False
    with path.open(encoding="utf-8") as stream:
        return '"negfail_nb.trace/' in stream.readline()[:200]


def _records(path: Path, few: bool = False) -> list[Any]:
    """Return the JSON values of a file: one, or one a line; none where it is no JSON."""
    text = path.read_text(encoding="utf-8")
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):
        lines = [line for line in text.splitlines() if line.strip()]
    try:
        return [json.loads(line) for line in (lines[:1] if few else lines)]
    except (ValueError, RecursionError) as error:
        if few:
            return []
        raise UnreadableLog(
            f"{path}: no JSON, nor JSON lines ({error}); known are {_known()}"
        ) from error
