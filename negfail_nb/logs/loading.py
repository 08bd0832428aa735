"""From files and folders to trajectories, and an account of what could not be read."""

from __future__ import annotations

import html
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from negfail_nb.logs import importers  # noqa: F401 - registers them
from negfail_nb.logs.files import find_files
from negfail_nb.logs.jsontext import explain, mend
from negfail_nb.logs.reading import LogFile, shown_path
from negfail_nb.logs.registry import find_importer, named
from negfail_nb.runs import Run
from negfail_nb.settings import CollectSettings
from negfail_nb.trajectory import Problem, Trajectory, UnreadableLog

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["file", "format", "records", "successes", "failures", "unlabelled", "problems"]
SHOWN_PROBLEMS = 20

logger = logging.getLogger("negfail_nb")


@dataclass(frozen=True)
class Logs:
    """Trajectories, what could not be read, and notes on what was guessed. Behaves like a list of
    trajectories.

    ``passed`` names the files that need not be read: hidden ones, and those that this package
    writes beside logs. Of live runs, ``missing`` counts the episodes that were to be played and are
    not there, for want of budget; ``run`` is their run folder, if they have one.
    """

    trajectories: tuple[Trajectory, ...]
    problems: tuple[Problem, ...] = ()
    missing: int = 0
    notes: tuple[str, ...] = ()
    passed: tuple[Problem, ...] = ()
    run: Run | None = None

    @property
    def complete(self) -> bool:
        """Whether all is there that was to be played."""
        return not self.missing

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self.trajectories)

    def __iter__(self) -> Iterator[Trajectory]:
        """Iterate over the trajectories."""
        return iter(self.trajectories)

    def __getitem__(self, index):
        """Return one trajectory, or a tuple of them for a slice."""
        return self.trajectories[index]

    def table(self) -> pd.DataFrame:
        """Return a row for each file and format: records, successes, failures, unlabelled,
        problems.
        """
        import pandas as pd

        counts: dict[tuple[str, str], Counter[str]] = {}
        formats = {t.source.file: t.source.format for t in self.trajectories}
        for t in self.trajectories:
            counts.setdefault((t.source.file, t.source.format), Counter())[t.outcome] += 1
        for problem in self.problems:
            counts.setdefault((problem.file, formats.get(problem.file, "")), Counter())[
                "problem"
            ] += 1
        rows = []
        for key, count in sorted(counts.items()):
            outcomes = [count["success"], count["failure"], count["unlabelled"]]
            rows.append([*key, sum(outcomes), *outcomes, count["problem"]])
        return pd.DataFrame(rows, columns=COLUMNS)

    def __repr__(self) -> str:
        """Return the counts."""
        notes = "".join(f"; {note}" for note in self.notes)
        return f"Logs({len(self.trajectories)} trajectories, {len(self.problems)} problems{notes})"

    def _repr_html_(self) -> str:
        guessed = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        listed = _listed(self.problems, "could not be read", "problems")
        listed += _listed(self.passed, "files were passed over", "passed")
        return f"<div>{self.table().to_html(index=False, escape=True)}{guessed}{listed}</div>"


def _listed(problems: tuple[Problem, ...], what: str, name: str) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{html.escape(str(p))}</li>" for p in problems[:SHOWN_PROBLEMS])
    more = len(problems) - SHOWN_PROBLEMS
    items += f"<li>.. and {more} more in <code>.{name}</code></li>" if more > 0 else ""
    return f"<p>{len(problems)} {what}:</p><ul>{items}</ul>"


def load_trajectories(
    path: str | Path | Iterable[str | Path],
    settings: CollectSettings | None = None,
    *,
    format: str | None = None,
    questions: str | Path | None = None,
    score: str | None = None,
    columns: Mapping[str, str] | None = None,
    strict: bool | None = None,
) -> Logs:
    """Read logs of any known format. Nothing in a log is executed.

    Parameters
    ----------
    path
        A file, a folder, or a list of them. Below a folder every file is read, also behind links,
        but for hidden files and those that this package writes beside logs.
    settings
        Settings of the stage; the arguments after it override them.
    format
        Name of the importer; without it, it is guessed from the content.
    questions
        File with the questions, for logs that hold only their ids.
    score
        Name of the score that decides success, where a log has several.
    columns
        Of a table (CSV, Parquet): which column is which field, such as ``{"question": "q",
        "messages": "chat"}``.
    strict
        Raise at the first record that cannot be read.

    Returns
    -------
    Logs
        The trajectories, and a `Problem` for each record or file that could not be read. No file,
        whatever is wrong with it, ends the import of the others. An id that occurs again gets
        ``~2``, ``~3`` and so on behind it.

    Raises
    ------
    FileNotFoundError
        Where a path does not exist.
    ValueError
        Where no importer has the name ``format``.
    UnreadableLog
        In strict mode.
    """
    given = {
        "format": format,
        "questions": str(questions) if questions else None,
        "score": score,
        "strict": strict,
    }
    settings = replace(
        settings or CollectSettings(), **{k: v for k, v in given.items() if v is not None}
    )
    if settings.format:
        named(settings.format)
    given_paths = [path] if isinstance(path, str | Path) else list(path)
    if "" in given_paths:
        raise ValueError(
            "the path of the logs is empty; give a file or a folder, '.' for the one you are in"
        )
    paths = [Path(p) for p in given_paths]
    found: list[Trajectory] = []
    problems: list[Problem] = []
    notes: list[str] = []
    passed: list[Problem] = []
    for file, problem, note in _files(paths, settings, columns or {}):
        if note:
            passed.append(Problem(file.name, "", note))
            continue
        found += _read(file, problem)
        problems += file.problems
        notes += file.notes
    return Logs(
        tuple(_with_own_ids(found)), tuple(problems), notes=tuple(notes), passed=tuple(passed)
    )


def load(settings: CollectSettings) -> Logs:
    """Read the logs that a profile names (``settings.logs``).

    Raises
    ------
    ValueError
        Where it names none.
    """
    if not settings.logs:
        raise ValueError("the settings name no logs; give a file or a folder: logs=('..',)")
    return load_trajectories(settings.logs, settings)


def _files(
    paths: list[Path], settings: CollectSettings, columns: Mapping[str, str]
) -> Iterator[tuple[LogFile, str, str]]:
    """Yield the files, named from the folder that all of them share, so that no two have one name."""
    for path in paths:
        if not os.path.lexists(path):
            raise FileNotFoundError(f"{path}: there is no such file or folder")
    # Not resolved: a link keeps its place and its name.
    places = [Path(os.path.abspath(path)) for path in paths]
    shared = os.path.commonpath([p if p.is_dir() else p.parent for p in places]) if places else ""
    for path, problem, note in find_files(places):
        name = path.name if str(path) == shared else path.relative_to(shared).as_posix()
        yield LogFile(path, name, settings, columns), problem, note


def _read(log: LogFile, problem: str) -> list[Trajectory]:
    """Return the trajectories of one file; whatever is wrong with it ends up in its problems."""
    found: list[Trajectory] = []
    try:
        if problem or not log.head.strip():
            log.report("", problem or "the file is empty")
            return found
        chosen, log = find_importer(log)
        log.format = chosen.name
        for item in chosen.read(log):
            if isinstance(item, Problem):
                log.report(item.record, item.reason)
            else:
                found.append(item)
        found = log.settled(found)
    except UnreadableLog:
        raise
    except Exception as error:  # noqa: BLE001 - one bad file never ends an import
        logger.debug("%s", log.name, exc_info=True)
        log.report("", explain(error))
    if not found and not log.problems:
        log.report("", "the file holds no records")
    if shown_path(str(log.path)) != str(log.path):
        found = [_writable(t) for t in found]
    return found


def _writable(trajectory: Trajectory) -> Trajectory:
    """Return a record of a file whose name is not UTF-8, without pieces of that name that no file
    can hold.
    """
    return Trajectory.from_dict(mend(trajectory.to_dict()))


def _with_own_ids(trajectories: Iterable[Trajectory]) -> Iterator[Trajectory]:
    seen: set[str] = set()
    copies: dict[str, int] = {}
    for trajectory in trajectories:
        name = trajectory.id
        while name in seen:
            copies[trajectory.id] = copies.get(trajectory.id, 1) + 1
            name = f"{trajectory.id}~{copies[trajectory.id]}"
        seen.add(name)
        yield trajectory if name == trajectory.id else trajectory.replace(id=name)
