"""Studies over successes x failures x arm x wording x seed: a study that was stopped goes on.

A cell is a profile with some settings changed. Its result is its agent's scores on held-out
questions, which are the same for all cells. What two cells share (logs, quality control) is
computed once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb import earlier
from negfail_nb.conditions import Condition
from negfail_nb.content import counted, fingerprint, plain
from negfail_nb.evaluation import AgentScores, agent_scores
from negfail_nb.project import Project, open_project
from negfail_nb.settings import Profile, TrainSettings
from negfail_nb.swept import CELLS, Swept
from negfail_nb.training import make_arms
from negfail_nb.trajectory import read_trajectories

if TYPE_CHECKING:
    pass

log = logging.getLogger("negfail_nb")


def sweep(
    conditions: Iterable[Condition],
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    profile: str | Profile = "pocket",
    home: str | Path = ".",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    workers: int = 1,
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

    Raises
    ------
    ValueError
        Where the profile asks no questions (``evaluate.agent_questions`` is 0), or there are no
        conditions or seeds, or no condition has as many runs as it asks for.
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
    found = _run_all([(p, c.arm) for c, _, p in cells], home, workers)
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


def _run_all(
    cells: Sequence[tuple[Profile, str]], home: Path, workers: int
) -> dict[tuple[Profile, str], Cell]:
    """Run the cells; equal ones are one."""
    from tqdm.auto import tqdm

    unique = list(dict.fromkeys(cells))
    with tqdm(total=len(unique), desc="sweep", unit="cell") as bar:
        if workers == 1:
            return {cell: _advance(bar, _run_cell(*cell, home)) for cell in unique}
        threads = max(1, (os.cpu_count() or 1) // workers)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            workers, context, initializer=_prepare, initargs=(threads,)
        ) as pool:
            futures = {cell: pool.submit(_run_cell, *cell, home) for cell in unique}
            for future in futures.values():
                future.add_done_callback(lambda _: bar.update())
            try:
                return {cell: future.result() for cell, future in futures.items()}
            except BaseException:
                # A cell that failed, or Ctrl-C: what is under way ends, the rest does not begin.
                pool.shutdown(wait=True, cancel_futures=True)
                raise


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that is done: where its agent's answers are, what its training began from (as
    `TrainedRun.base`), and what it took.
    """

    folder: Path
    environment: Mapping[str, Any]
    weights: Mapping[str, str]
    dtype: str
    steps: int
    seconds: float


def _run_cell(profile: Profile, arm: str, home: Path) -> Cell:
    """From settings to what the arm's agent answered."""
    project = Project(profile, home)
    trained = earlier.trained(project, [arm])[arm]
    run = earlier.ask(project, arm, trained).run
    made = run.manifest["environment"], trained.base, trained.dtype
    return Cell(run.folder, *made, trained.steps, trained.seconds)


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
