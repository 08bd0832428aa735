"""From files and folders to trajectories, and an account of what could not be read."""

from __future__ import annotations

import hashlib
import html
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from negfail_nb.logs.contents import NO_RECORDS, Contents
from negfail_nb.logs.files import IN_MEMORY, LARGE, Found, find_files
from negfail_nb.logs.questions import settle_questions
from negfail_nb.logs.reading import LogFile, shown_path
from negfail_nb.logs.registry import named
from negfail_nb.logs.streaming import load_stored
from negfail_nb.runs import Place, Run
from negfail_nb.settings import CollectSettings
from negfail_nb.stored import json_lines
from negfail_nb.trajectory import Problem, Trajectory, UnreadableLog, unique_ids

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
    writes beside logs. Of live runs, ``missing`` counts the episodes that the budget did not allow,
    and ``run`` is their run folder, if they have one. The trajectories are a tuple, or read from
    files where `load_trajectories` was given a folder.
    """

    trajectories: Sequence[Trajectory]
    problems: tuple[Problem, ...] = ()
    missing: int = 0
    notes: tuple[str, ...] = ()
    passed: tuple[Problem, ...] = ()
    run: Run | None = None

    @property
    def complete(self) -> bool:
        """Whether all episodes that were to be played exist."""
        return not self.missing

    @cached_property
    def content(self) -> str:
        """SHA-256 of the trajectories and problems: equal logs are equal inputs of later stages."""
        digest = hashlib.sha256()
        for line in chain(json_lines(self.trajectories), json_lines(self.problems)):
            digest.update(line + b"\n")
        return digest.hexdigest()

    def checked(self) -> Logs:
        """Return these logs.

        Raises
        ------
        UnreadableLog
            If they hold no trajectory; the text says what was wrong with the first files.
        """
        if self.trajectories:
            return self
        first = (*self.problems, *self.passed)[:5]
        files = ", ".join(dict.fromkeys(problem.file for problem in first)) or "the files"
        reasons = "; ".join(map(str, first)) or "there is none"
        raise UnreadableLog(
            f"none of {files} holds a run that can be read: {reasons}. Put logs there, or name "
            "others in collect.logs"
        )

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
        """Return a row per file and format: records, successes, failures, unlabelled, problems."""
        import pandas as pd

        counts: dict[tuple[str, str], Counter[str]] = {}
        formats: dict[str, str] = {}
        for t in self.trajectories:
            formats[t.source.file] = t.source.format
            counts.setdefault((t.source.file, t.source.format), Counter())[t.outcome] += 1
        for problem in self.problems:
            place = problem.file, formats.get(problem.file, "")
            counts.setdefault(place, Counter())["problem"] += 1
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
    folder: str | Path | Place | None = None,
) -> Logs:
    """Read logs of any known format. Nothing in a log is executed.

    Parameters
    ----------
    path
        A file, a folder, or a list of them. Below a folder every file is read, also behind links,
        except hidden files and those that this package writes beside logs.
    settings
        Settings of the stage; the arguments after it override them.
    format
        Name of the importer; by default it is guessed from the content.
    questions
        File with the questions, for logs that hold only their ids.
    score
        Name of the score that decides success, if a log has several.
    columns
        Of a table (CSV, Parquet): which column is which field, such as ``{"question": "q",
        "messages": "chat"}``.
    strict
        Raise at the first record that cannot be read.
    folder
        For more logs than memory holds: what is read is written here, piece by piece, and the
        trajectories are read from there. A call that was stopped goes on, and a finished one is not
        repeated. The records are the same as without a folder.

    Returns
    -------
    Logs
        The trajectories, and a `Problem` for each record or file that could not be read. A damaged
        file never ends the import of the others. A repeated id gets ``~2``, ``~3`` and so on
        behind it.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If no importer has the name ``format``.
    UnreadableLog
        In strict mode.
    """
    given = {"format": format, "score": score, "strict": strict}
    given["questions"] = str(questions) if questions else None
    settings = settings or CollectSettings()
    settings = replace(settings, **{k: v for k, v in given.items() if v is not None})
    if settings.format:
        named(settings.format)
    paths = [path] if isinstance(path, str | Path) else list(path)
    if "" in paths:
        raise ValueError(
            "the path of the logs is empty; give a file or a folder, '.' for the one you are in"
        )
    for one in paths:
        if not os.path.lexists(one):
            raise FileNotFoundError(
                f"{one}: there is no such file or folder; paths in settings start from the project "
                "folder"
            )
    # Not resolved: a link keeps its place and its name.
    places = [Path(os.path.abspath(one)) for one in paths]
    shared = os.path.commonpath([p if p.is_dir() else p.parent for p in places]) if places else ""
    files = []
    passed = []
    for found in find_files(places):
        # Named from the folder that all of them share, so that no two have the same name.
        same = str(found.path) == shared
        name = found.path.name if same else found.path.relative_to(shared).as_posix()
        if found.note:
            passed.append(Problem(shown_path(name), "", found.note))
        else:
            files.append((name, found))
    size = sum(one.path.stat().st_size for _, one in files if not one.problem)
    if folder is None and size > LARGE:
        needed = f"{size / 1e9:.1f} GB of logs take about {IN_MEMORY * size / 1e9:.0f} GB of memory"
        logger.warning("%s; with folder='runs/logs' they stay on disk (docs/scale.md)", needed)
    given = settings, columns or {}
    told = _load(files, *given) if folder is None else load_stored(files, *given, folder)
    trajectories, problems, notes = told
    return Logs(trajectories, problems, notes=notes, passed=tuple(passed))


def _load(
    files: Iterable[tuple[str, Found]], settings: CollectSettings, columns: Mapping[str, str]
) -> tuple[tuple[Trajectory, ...], tuple[Problem, ...], tuple[str, ...]]:
    trajectories: list[Trajectory] = []
    problems: list[Problem] = []
    notes: list[str] = []
    for name, found in files:
        log = LogFile(found.path, name, settings, columns)
        contents = Contents(log, found.problem)
        settled, note = settle_questions(list(contents), contents.guessed)
        if not settled and not log.problems:
            log.report("", NO_RECORDS)
        trajectories += settled
        problems += log.problems
        notes += [f"{log.name}: {note}"] if note else []
    ids = unique_ids(t.id for t in trajectories)
    unique = tuple(
        t if t.id == name else t.replace(id=name) for t, name in zip(trajectories, ids, strict=True)
    )
    return unique, tuple(problems), tuple(notes)
