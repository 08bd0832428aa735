"""Studies over successes x failures x arm x wording x seed: a study that was stopped goes on.

A cell is a profile with some settings changed. Its result is its agent's scores on held-out
questions, which are the same for all cells. What two cells share (logs, quality control) is
computed once.
"""

from __future__ import annotations

import json
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
from negfail_nb.content import fingerprint, write_json
from negfail_nb.csvs import read_csv, write_csv
from negfail_nb.evaluation import AgentScores, agent_scores, compare_agents
from negfail_nb.project import Project, open_project
from negfail_nb.runs import Run
from negfail_nb.settings import EvaluateSettings, Profile, TrainSettings
from negfail_nb.training import make_arms
from negfail_nb.trajectory import read_trajectories

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("negfail_nb")

FILES = ("episodes.csv", "cells.csv")
MADE = "made.json"  # beside them: what the cells were made with
CELLS = (
    "study",
    "condition",
    "arm",
    "seed",
    "against",
    "folder",
    "em",
    "f1",
    "action_error_rate",
    "questions",
)
PACKAGED = Path(__file__).parent / "pocket" / "experiment"


@dataclass(frozen=True, slots=True)
class Swept:
    """The results of a sweep.

    Attributes
    ----------
    episodes
        One row an episode: ``study``, ``condition``, ``arm``, ``seed`` and the columns of
        `AgentScores`.
    cells
        One row a condition and seed: ``em``, ``f1``, ``action_error_rate``, ``questions``,
        ``folder``, and ``against``: the condition that it is compared with.
    made
        The environments of the runs behind the cells, each once; none where nobody noted them.
    """

    episodes: pd.DataFrame
    cells: pd.DataFrame
    made: tuple[Mapping[str, Any], ...] = ()

    @property
    def provenance(self) -> dict[str, Any]:
        """What a figure of a study came from, as `negfail_nb.views.save_figure` takes it."""
        environment = self.made[0] if len(self.made) == 1 else dict(enumerate(self.made))
        return {"command": "make experiment", "environment": environment}

    def against(self, study: str) -> dict[str, str]:
        """Return what each condition of a study is compared with; what others are, with itself.

        Raises
        ------
        ValueError
            For a study that was not swept; the text lists those that were.
        """
        rows = self.episodes[self.episodes["study"] == study]
        if rows.empty:
            known = ", ".join(dict.fromkeys(self.episodes["study"]))
            raise ValueError(f"no study {study!r} in this sweep; there are {known}")
        names = list(dict.fromkeys(rows["condition"]))
        said = {}
        if "against" in self.cells:
            cells = self.cells[self.cells["study"] == study]
            said = dict(zip(cells["condition"], cells["against"].fillna(""), strict=True))
        return {name: said.get(name) if said.get(name) in names else names[0] for name in names}

    def compare(self, study: str, settings: EvaluateSettings = EvaluateSettings()) -> pd.DataFrame:
        """Return `compare_agents` of the conditions of a study, each with what it is compared with
        (``baseline``), in the order swept.

        Raises
        ------
        ValueError
            For a study that was not swept; the text lists those that were.
        """
        import pandas as pd

        against = self.against(study)
        rows = self.episodes[self.episodes["study"] == study]
        scores = {name: AgentScores(part) for name, part in rows.groupby("condition", sort=False)}
        parts = []
        for baseline in dict.fromkeys(against.values()):
            group = {name: scores[name] for name in against if against[name] == baseline}
            compared = compare_agents({baseline: scores[baseline], **group}, settings, baseline)
            parts.append(compared[compared["arm"].isin(group)].assign(baseline=baseline))
        table = pd.concat(parts).set_index("arm", drop=False)
        return table.loc[list(against)].reset_index(drop=True)

    def save(self, folder: str | Path) -> Path:
        """Write ``episodes.csv``, ``cells.csv``, and into ``made.json`` what the cells were made
        with.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(self.episodes, folder / "episodes.csv")
        write_csv(self.cells, folder / "cells.csv")
        write_json(folder / MADE, self.made)
        return folder

    @classmethod
    def load(cls, folder: str | Path = "") -> Swept:
        """Read what `save` wrote.

        Parameters
        ----------
        folder
            Where it lies; empty: the results of ``make experiment`` that come with the package, if
            there are any.

        Raises
        ------
        FileNotFoundError
            Where the folder lacks the tables.
        """
        import pandas as pd

        if not folder and not PACKAGED.is_dir():
            return cls(
                pd.DataFrame(columns=["study", "condition", "arm", "seed"]),
                pd.DataFrame(columns=CELLS),
            )
        folder = Path(folder or PACKAGED)
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder.name} has no {' and no '.join(missing)}; `make experiment` writes them"
            )
        tables = (read_csv(folder / name, keep_default_na=False, na_values=[""]) for name in FILES)
        made = folder / MADE
        return cls(
            *tables, tuple(json.loads(made.read_text(encoding="utf-8"))) if made.is_file() else ()
        )


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
    possible = _possible(conditions, start, home)
    cells = [
        (condition, seed, _changed(start, condition, seed))
        for seed in seeds
        for condition in possible
    ]
    found = _run_all([(p, c.arm) for c, _, p in cells], home, workers)
    made = {
        fingerprint(run.manifest["environment"]): run.manifest["environment"]
        for run in found.values()
    }
    swept = _joined([_read(c, seed, found[p, c.arm].folder) for c, seed, p in cells])
    return replace(swept, made=tuple(made.values()))


def _possible(conditions: Sequence[Condition], start: Profile, home: Path) -> list[Condition]:
    """Return the conditions for which there are as many runs as they ask for; the log names others.

    Logs that are played live are made here, once, before several processes need them.
    """
    counted: dict[Any, Counter] = {}
    lacking: dict[str, str] = {}
    for condition in conditions:
        profile = _changed(start, condition, 0)
        made_by = profile.collect, profile.live, profile.quality
        if made_by not in counted:
            runs = earlier.report(Project(profile, home)).train
            counted[made_by] = Counter(run.success for run in runs)
        if why := _lacks(condition, profile.train, counted[made_by]):
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
) -> dict[tuple[Profile, str], Run]:
    """Return the run of each cell's agent; equal cells are one."""
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


def _run_cell(profile: Profile, arm: str, home: Path) -> Run:
    """A cell: from settings to the folder with what the arm's agent answered."""
    return earlier.agents(Project(profile, home), [arm])[arm].run


def _advance(bar: Any, run: Run) -> Run:
    bar.update()
    return run


def _prepare(threads: int) -> None:
    """Give a worker its share of the cores, and let it end with the process that started it."""
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # nobody is left to raise to; a run folder without a manifest is gone on with


def _read(condition: Condition, seed: int, folder: Path) -> tuple[dict[str, Any], AgentScores]:
    scores = agent_scores(read_trajectories(folder / "episodes.jsonl"), seed)
    about = {
        "study": condition.study,
        "condition": condition.name,
        "arm": condition.arm,
        "seed": seed,
        "against": condition.against,
    }
    return {**about, "folder": folder.name}, scores


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
    return Swept(pd.concat(episodes, ignore_index=True), pd.DataFrame(cells))
