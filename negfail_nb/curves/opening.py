"""The run folder of a finished benchmark, opened by itself: its settings are in it, its questions
where they were.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from negfail_nb.benchmarking.scores import Benchmark
from negfail_nb.settings import BenchmarkSettings, ContextSettings, Profile
from negfail_nb.trajectory import UnreadableLog

__all__ = ["open_benchmark"]


def open_benchmark(folder: str | Path, home: str | Path = ".") -> Benchmark:
    """Return the answers in a run folder, ``runs/<profile>/benchmark/<time>-<fingerprint>``.

    Parameters
    ----------
    folder
        Of a finished benchmark of this version.
    home
        The project folder, where paths in its settings start.

    Raises
    ------
    ValueError
        Where it is not finished, is of another stage, or was written with other settings or records
        than this version has; the text says which.
    """
    from negfail_nb.benchmarking.opening import read_grid

    folder = Path(folder)
    profile = _profile(folder, _plan(folder))
    try:
        return read_grid(profile, Path(home), folder)
    except (OSError, UnreadableLog) as error:
        raise ValueError(f"{folder} cannot be read as a benchmark: {error}") from error


def _plan(folder: Path) -> dict[str, Any]:
    from negfail_nb.runs import MANIFEST, PLAN

    for name in (PLAN, MANIFEST):
        if not (folder / name).is_file():
            what = "was not finished" if name == MANIFEST else "is no run folder"
            raise ValueError(
                f"{folder} {what}: it has no {name}; give a folder of runs/<profile>/benchmark"
            )
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        stage = str(plan["stage"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / PLAN} is of another schema: {error!r}; run the benchmark again"
        ) from error
    if stage.rpartition("/")[2] != "benchmark":
        raise ValueError(
            f"{folder} is of stage {stage!r}; give a folder of runs/<profile>/benchmark"
        )
    return plan


def _profile(folder: Path, plan: dict[str, Any]) -> Profile:
    try:
        settings = plan["settings"]
        asked, contexts = (_plain(settings[name]) for name in ("benchmark", "contexts"))
        name = plan["stage"].rpartition("/")[0] or "benchmark"
        return Profile(
            name=name, benchmark=BenchmarkSettings(**asked), contexts=ContextSettings(**contexts)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} was written with other settings than this version has: {error}"
        ) from error


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
