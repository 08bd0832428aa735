"""Studies over successes x failures x arm x wording x seed: a study that was stopped goes on.

A cell is a profile with some settings changed. Its result is its agent's scores on held-out
questions, which are the same for all cells. What two cells share (logs, quality control) is
computed once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb import earlier
from negfail_nb.content import fingerprint, write_json
from negfail_nb.csvs import read_csv, write_csv
from negfail_nb.evaluation import AgentScores, agent_scores, compare_agents
from negfail_nb.project import Project, open_project
from negfail_nb.runs import Run
from negfail_nb.settings import EvaluateSettings, Profile
from negfail_nb.sources import plays_live
from negfail_nb.trajectory import read_trajectories

if TYPE_CHECKING:
    import pandas as pd

FILES = ("episodes.csv", "cells.csv")
MADE = "made.json"  # beside them: what the cells were made with
CELLS = (
    "study",
    "condition",
    "arm",
    "seed",
    "folder",
    "em",
    "f1",
    "action_error_rate",
    "questions",
)
PACKAGED = Path(__file__).parent / "pocket" / "experiment"
ARMS = ("vanilla", "nut", "nat")
PAPER_EPOCHS = 2.0
WORDINGS = ("target-aware", "prefix-correct", "prefix-good", "prefix-AB", "random-sentence")


@dataclass(frozen=True, slots=True)
class Condition:
    """One way of training, to be repeated with several seeds.

    Attributes
    ----------
    study
        Which question it belongs to; a condition may belong to several.
    name
        Short and unique within the study; the first condition of a study is what the others are
        compared with.
    arm
        The arm that is trained.
    changes
        Settings that differ from the profile's, by stage.
    """

    study: str
    name: str
    arm: str
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def paper_studies(successes: int = 60, failures: int = 240, more: int = 0) -> list[Condition]:
    """Return the paper's questions (arXiv 2402.11651) as conditions.

    1. ``arms``: few successes and many failures (tables 2 to 4); ``epochs``: the same with two
       epochs per arm, as in the paper, so that arms with failures take more steps.
    2. ``failures`` and ``successes``: their numbers (figures 2 and 3).
    3. ``wordings``: five pairs of labels (table 7).
    4. ``quality``: failures of a worse teacher, and the same above a quality score (table 5).

    Action errors (table 6) are measured in every cell.

    Parameters
    ----------
    successes, failures
        Of the condition that all studies share.
    more
        The larger number of successes; 0: four times as many.
    """
    more = more or 4 * successes
    base = {"successes": successes, "failures": failures}

    def trained(**changed: int) -> dict[str, dict[str, Any]]:
        return {"train": {**base, **changed}}

    worse = {"collect": {"player": "worse-failures"}}
    shared = {"train": {**base, "budget": "epochs", "epochs": PAPER_EPOCHS}}
    cells = [Condition("arms", arm, arm, trained()) for arm in ARMS]
    cells += [Condition("epochs", arm, arm, shared) for arm in ARMS]
    for count in (failures // 4, failures, 2 * failures):
        cells += [
            Condition("failures", f"{arm} {count}", arm, trained(failures=count))
            for arm in ("nut", "nat")
        ]
    for count in (successes, more):
        cells += [
            Condition("successes", f"{arm} {count}", arm, trained(successes=count)) for arm in ARMS
        ]
    for wording in WORDINGS:
        cells.append(
            Condition("wordings", wording, "nat", {**trained(), "prefix": {"template": wording}})
        )
    cells += [
        Condition("quality", "usual failures", "nat", trained()),
        Condition("quality", "worse failures", "nat", {**trained(), **worse}),
        Condition(
            "quality",
            "worse, score >= 0.5",
            "nat",
            {**trained(), **worse, "quality": {"min_score": 0.5}},
        ),
    ]
    return cells


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
        ``folder``.
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

    def compare(self, study: str, settings: EvaluateSettings = EvaluateSettings()) -> pd.DataFrame:
        """Return `compare_agents` of the conditions of a study, the first one as the baseline.

        Raises
        ------
        ValueError
            For a study that was not swept; the text lists those that were.
        """
        known = list(dict.fromkeys(self.episodes["study"]))
        if study not in known:
            raise ValueError(f"no study {study!r} in this sweep; there are {', '.join(known)}")
        rows = self.episodes[self.episodes["study"] == study]
        scores = {name: AgentScores(part) for name, part in rows.groupby("condition", sort=False)}
        return compare_agents(scores, settings)

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
        See `paper_studies`. Conditions with equal settings are trained once.
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
        conditions or seeds.
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
    cells = [
        (condition, seed, _changed(start, condition, seed))
        for seed in seeds
        for condition in conditions
    ]
    found = _run_all([(p, c.arm) for c, _, p in cells], home, workers)
    made = {
        fingerprint(run.manifest["environment"]): run.manifest["environment"]
        for run in found.values()
    }
    swept = _joined([_read(c, seed, found[p, c.arm].folder) for c, seed, p in cells])
    return replace(swept, made=tuple(made.values()))


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
    for profile in {profile.collect: profile for profile, _ in unique}.values():
        if plays_live(project := Project(profile, home)):
            earlier.logs(project)  # once, before several processes need them
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
