"""Studies over successes x failures x arm x wording x seed: a study that was stopped goes on.

A cell is a profile with some settings changed. Its result is its agent's scores on held-out
questions, which are the same for all cells. What two cells share (logs, quality control) is
computed once.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from negfail_nb import earlier
from negfail_nb.cells import (
    Cell,
    Key,
    as_sent,
    bring_home,
    inputs,
    note,
    noted_seconds,
    run_away,
    run_cell,
)
from negfail_nb.conditions import Condition
from negfail_nb.content import counted, fingerprint, plain
from negfail_nb.environment import command
from negfail_nb.evaluation import AgentScores, agent_scores
from negfail_nb.outlook import cell_seconds
from negfail_nb.project import Project, open_project
from negfail_nb.settings import Profile, TrainSettings
from negfail_nb.swept import CELLS, Swept
from negfail_nb.training import make_arms
from negfail_nb.trajectory import read_trajectories

log = logging.getLogger("negfail_nb")

PATIENCE = 0.1  # seconds between two looks at cells under way


def sweep(
    conditions: Iterable[Condition],
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    profile: str | Profile = "pocket",
    home: str | Path = ".",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    workers: int = 1,
    executor: Any = None,
) -> Swept:
    """Train and ask every condition with every seed. Cells that are done are read; a stopped sweep
    goes on.

    Seeds come in the outer loop, so that a stopped sweep has whole seeds of all conditions.

    Parameters
    ----------
    conditions
        See `negfail_nb.conditions.paper_studies`. Conditions with equal settings are trained once.
        One that asks for more runs than quality control leaves is left out, and the log says so.
    seeds
        Of sampling and training.
    profile, home, changes
        As `negfail_nb.open_project` takes them.
    workers
        Cells at once, each in a process of its own with its share of the cores. Small models gain
        from it on a CPU; with a GPU leave it at 1.
    executor
        Who runs the cells instead: `negfail_nb.executors.ray_executor`, ``submitit``'s, or anything
        else with ``submit``, whose futures have ``done``, ``result`` and ``cancel``. Its workers
        see the project folder under the same path, unless it says ``shared = False`` and can
        ``send`` and ``clear`` files. It is not shut down.

    Raises
    ------
    ValueError
        Where the profile asks no questions (``evaluate.agent_questions`` is 0), or there are no
        conditions or seeds, or no condition has as many runs as it asks for.
    RuntimeError
        If a worker died again and again. What is done stays, and the same call goes on.
    """
    conditions = list(conditions)
    home = Path(home)
    start = open_project(profile, home, changes).profile
    if not start.evaluate.agent_questions:
        raise ValueError(
            "evaluate.agent_questions is 0, so no agent would be asked; set how many questions"
        )
    if not conditions or not seeds:
        raise ValueError(
            f"{len(conditions)} conditions and {len(seeds)} seeds: give at least one of each"
        )
    possible = _possible(_compared(conditions), start, home)
    cells = [
        (condition, seed, _changed(start, condition, seed))
        for seed in seeds
        for condition in possible
    ]
    found = _run_all([(p, c.arm) for c, _, p in cells], home, workers, executor)
    about = {"profile": start.name, "model": _model(start), "train": plain(counted(start.train))}
    made = [
        about | {"dtype": cell.dtype, "weights": cell.weights, "environment": cell.environment}
        for cell in found.values()
    ]
    swept = _joined([_read(c, seed, found[p, c.arm]) for c, seed, p in cells])
    return replace(swept, made=tuple({fingerprint(one): one for one in made}.values()))


def _model(profile: Profile) -> str:
    """The name of the tuned model; of a folder, only its own: no paths in results."""
    name = profile.model.name
    return Path(name).name if Path(name).expanduser().is_dir() else name


def _compared(conditions: Sequence[Condition]) -> list[Condition]:
    """Let each condition name what it is compared with; the first of its study, if it did not."""
    first: dict[str, str] = {}
    for condition in conditions:
        first.setdefault(condition.study, condition.name)
    return [replace(c, against=c.against or first[c.study]) for c in conditions]


def _possible(conditions: Sequence[Condition], start: Profile, home: Path) -> list[Condition]:
    """Return the conditions for which there are as many runs as they ask for; the log names others.

    Logs that are played live are made here, once, before several processes need them.
    """
    there: dict[Any, Counter] = {}
    lacking: dict[str, str] = {}
    for condition in conditions:
        profile = _changed(start, condition, 0)
        made_by = profile.collect, profile.live, profile.quality
        if made_by not in there:
            runs = earlier.report(Project(profile, home)).train
            there[made_by] = Counter(run.success for run in runs)
        if why := _lacks(condition, profile.train, there[made_by]):
            lacking[f"{condition.study}: {condition.name}"] = why
    for name, why in lacking.items():
        log.warning("%s is left out: it asks for %s", name, why)
    if len(lacking) == len(conditions):
        raise ValueError(
            f"no condition has as many runs as it asks for: {'; '.join(lacking.values())}; collect "
            "more, or set train.successes and train.failures"
        )
    return [c for c in conditions if f"{c.study}: {c.name}" not in lacking]


def _lacks(condition: Condition, asked: TrainSettings, there: Counter) -> str:
    """Say how many runs a condition asks for, if there are fewer; else nothing."""
    (arm,) = make_arms([condition.arm])
    wanted = [("successes", asked.successes, there[True])]
    if arm.uses_failures:
        wanted.append(("failures", asked.failures, there[False]))
    return ", ".join(
        f"{count:,} {name} and quality control leaves {left:,}"
        for name, count, left in wanted
        if count > left
    )


def _changed(profile: Profile, condition: Condition, seed: int) -> Profile:
    return profile.change(**condition.changes).change(
        train={"arms": (condition.arm,), "seed": seed}
    )


def _run_all(keys: Sequence[Key], home: Path, workers: int, executor: Any) -> dict[Key, Cell]:
    """Run the cells; equal ones are one."""
    from tqdm.auto import tqdm

    unique = list(dict.fromkeys(keys))
    places = workers if executor is None else getattr(executor, "places", 0)
    about = foretell(unique, home, places, here=executor is None)
    log.info("sweep: %s", about)
    with tqdm(total=len(unique), desc=f"sweep ({about})", unit="cell") as bar:
        if executor is not None:
            return _run_elsewhere(executor, unique, home.absolute(), bar)
        if workers == 1:
            return {key: _advance(bar, note(run_cell(*key, home), key, home)) for key in unique}
        with _processes(workers) as pool:
            return _gather(
                unique,
                lambda key: pool.submit(run_cell, *key, home),
                lambda key, cell: note(cell, key, home),
                bar,
            )


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of this machine, each with its share of the cores."""
    given = multiprocessing.get_context("spawn"), _prepare, (_share(workers),)
    pool = ProcessPoolExecutor(workers, *given)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process was killed, most often because memory ran out; take fewer workers. "
            "What is done stays, and the same call goes on from the last checkpoint"
        ) from error
    finally:
        # After a cell that failed, or Ctrl-C: what is under way ends, the rest does not begin.
        pool.shutdown(wait=True, cancel_futures=True)


def _share(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)


def _run_elsewhere(executor: Any, keys: Sequence[Key], home: Path, bar: Any) -> dict[Key, Cell]:
    """Run cells by an executor that somebody gave."""
    if not getattr(executor, "shared", True):
        return _run_away(executor, keys, home, bar)
    with _seen(home) as seen:
        return _gather(
            keys,
            lambda key: executor.submit(run_cell, *key, home, seen, command()),
            lambda key, cell: note(cell, key, home),
            bar,
        )


@contextmanager
def _seen(home: Path) -> Iterator[str]:
    """Yield the name of a file that workers see, if they see the project folder."""
    (home / "runs").mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".seen-", dir=home / "runs") as file:
        yield f"runs/{Path(file.name).name}"


def _run_away(executor: Any, keys: Sequence[Key], home: Path, bar: Any) -> dict[Key, Cell]:
    """Run cells on machines that do not see the project folder; what is done here already is read.

    Each cell comes home as soon as it is done.
    """
    there = [key for key in keys if noted_seconds(key, home) is not None]
    found = {key: _advance(bar, run_cell(*key, home)) for key in there}
    rest = [key for key in keys if key not in found]
    if not rest:
        return found
    parcel = executor.send(inputs(rest, home))
    found |= _gather(
        rest,
        lambda key: executor.submit(run_away, as_sent(key[0], home), key[1], parcel, command()),
        lambda key, made: note(bring_home(*made, home), key, home),
        bar,
    )
    executor.clear(parcel)
    return {key: found[key] for key in keys}


def _gather(
    keys: Sequence[Key], submit: Callable[[Key], Any], take: Callable[[Key, Any], Cell], bar: Any
) -> dict[Key, Cell]:
    """Submit the cells, and take each that is done. If one fails, or on Ctrl-C, the rest is
    cancelled.

    Futures are asked whether they are done: jobs of `submitit` call nobody back.
    """
    waiting: dict[Key, Any] = {}
    found: dict[Key, Cell] = {}
    try:
        for key in keys:
            waiting[key] = submit(key)
        while waiting:
            for key in [key for key, future in waiting.items() if future.done()]:
                found[key] = _advance(bar, take(key, waiting.pop(key).result()))
            time.sleep(PATIENCE if waiting else 0)
    except BaseException:
        _stop(waiting, take)
        raise
    return {key: found[key] for key in keys}


def _stop(waiting: Mapping[Key, Any], take: Callable[[Key, Any], Cell]) -> None:
    """Cancel what is not done; keep what is."""
    done = {key: future for key, future in waiting.items() if future.done()}
    for key in waiting.keys() - done.keys():
        waiting[key].cancel()
    for key, future in done.items():
        with suppress(Exception):  # the first error counts
            take(key, future.result())


def foretell(keys: Sequence[Key], home: Path, places: int, here: bool = True) -> str:
    """Say how many cells are left, and about how long they take.

    Cells that are done say how long one takes; without any, the model of `negfail_nb.outlook` does,
    for this machine only.
    """
    took = [noted_seconds(key, home) for key in keys]
    rest = [key for key, seconds in zip(keys, took, strict=True) if seconds is None]
    known = [seconds for seconds in took if seconds is not None]
    if not rest:
        return "all are done"
    each = sum(known) / len(known) if known else _guess(rest, home) if here else None
    if each is None:
        return f"{len(rest)} to do, for how long is unknown"
    seconds = each * math.ceil(len(rest) / places) if places else each * len(rest)
    return f"{len(rest)} to do, about {_span(seconds)}{'' if places else ' of computing'}"


def _guess(keys: Sequence[Key], home: Path) -> float | None:
    try:
        return cell_seconds([(Project(profile, home), arm) for profile, arm in keys])
    except (ValueError, OSError):  # such as of a model that is not here yet
        return None


def _span(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _advance(bar: Any, cell: Cell) -> Cell:
    bar.update()
    return cell


def _prepare(threads: int) -> None:
    """Give a worker its share of the cores, and let it end with the process that started it."""
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # nobody is left to raise to; a run folder without a manifest is gone on with


def _read(condition: Condition, seed: int, cell: Cell) -> tuple[dict[str, Any], AgentScores]:
    scores = agent_scores(read_trajectories(cell.folder / "episodes.jsonl"), seed)
    about = {
        "study": condition.study,
        "condition": condition.name,
        "arm": condition.arm,
        "seed": seed,
        "against": condition.against,
    }
    took = {"steps": cell.steps, "train_seconds": round(cell.seconds, 1)}
    return {**about, "folder": cell.folder.name, **took}, scores


def _joined(parts: Sequence[tuple[dict[str, Any], AgentScores]]) -> Swept:
    import pandas as pd

    keys = ("study", "condition", "arm")
    episodes = [scores.table.assign(**{key: about[key] for key in keys}) for about, scores in parts]
    cells = [
        {
            **about,
            "em": s.em,
            "f1": s.f1,
            "action_error_rate": s.action_error_rate,
            "questions": len(s.table),
        }
        for about, s in parts
    ]
    return Swept(pd.concat(episodes, ignore_index=True), pd.DataFrame(cells)[list(CELLS)])
