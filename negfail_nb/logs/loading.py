"""From files and folders to trajectories, and an account of what could not be read."""

from __future__ import annotations

import hashlib
import html
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from negfail_nb.journal import SETTINGS
from negfail_nb.logs import importers  # noqa: F401 - registers them
from negfail_nb.logs.jsontext import explain
from negfail_nb.logs.reading import LogFile, shown_path
from negfail_nb.logs.registry import find_importer, named
from negfail_nb.runs import Run
from negfail_nb.settings import CollectSettings
from negfail_nb.trajectory import Problem, Trajectory, UnreadableLog, replace_surrogates, unique_ids

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["file", "format", "records", "successes", "failures", "unlabelled", "problems"]
SHOWN_PROBLEMS = 20
# The logs of a run folder; the first of them holds the others.
OURS = ("trajectories.jsonl", "kept.jsonl", "episodes.jsonl")
SMALL = 1_000_000  # bytes; our own files beside logs are smaller

logger = logging.getLogger("negfail_nb")


@dataclass(frozen=True)
class Logs:
    """Trajectories, what could not be read, and notes on what was guessed. Behaves like a list of
    trajectories.

    ``passed`` names the files that need not be read: hidden ones, and those that this package
    writes beside logs. Of live runs, ``missing`` counts the episodes that the budget did not allow,
    and ``run`` is their run folder, if they have one.
    """

    trajectories: tuple[Trajectory, ...]
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

        def plain(record: Any) -> dict[str, Any]:
            return {field.name: getattr(record, field.name) for field in fields(record)}

        digest = hashlib.sha256()
        for record in (*self.trajectories, *self.problems):
            digest.update(json.dumps(record, default=plain).encode() + b"\n")
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
        formats = {t.source.file: t.source.format for t in self.trajectories}
        for t in self.trajectories:
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
    trajectories: list[Trajectory] = []
    problems: list[Problem] = []
    notes: list[str] = []
    passed: list[Problem] = []
    for found in find_files(places):
        # Named from the folder that all of them share, so that no two have the same name.
        same = str(found.path) == shared
        name = found.path.name if same else found.path.relative_to(shared).as_posix()
        log = LogFile(found.path, name, settings, columns)
        if found.note:
            passed.append(Problem(log.name, "", found.note))
            continue
        trajectories += _read(log, found.problem)
        problems += log.problems
        notes += log.notes
    ids = unique_ids(t.id for t in trajectories)
    unique = tuple(
        t if t.id == name else t.replace(id=name) for t, name in zip(trajectories, ids, strict=True)
    )
    return Logs(unique, tuple(problems), notes=tuple(notes), passed=tuple(passed))


def _read(log: LogFile, problem: str) -> list[Trajectory]:
    """Return the trajectories of one file; whatever is wrong with it ends up in its problems."""
    found: list[Trajectory] = []
    try:
        if problem or not log.head.strip():
            log.report("", problem or "the file is empty")
            return found
        chosen, reading = find_importer(log)
        reading.format = chosen.name
        for item in chosen.read(reading):
            if isinstance(item, Problem):
                reading.report(item.record, item.reason)
            else:
                found.append(item)
        found = reading.settled(found)
    except UnreadableLog:
        raise
    except Exception as error:  # noqa: BLE001 - one bad file never ends an import
        logger.debug("%s", log.name, exc_info=True)
        log.report("", explain(error))
    if not found and not log.problems:
        log.report("", "the file holds no records")
    if shown_path(str(log.path)) != str(log.path):  # pieces of its name may stand in the records
        found = [Trajectory.from_dict(replace_surrogates(t.to_dict())) for t in found]
    return found


class Found(NamedTuple):
    """A file; ``problem`` says why it cannot be read, ``note`` why it need not be."""

    path: Path
    problem: str = ""
    note: str = ""


def find_files(places: list[Path]) -> Iterator[Found]:
    """Yield the files at and below some places, sorted by name.

    Parameters
    ----------
    places
        Files and folders. A file that is named is read whatever it is called; below a folder,
        hidden files, and files that this package writes beside logs, get a note. A folder is read
        once, however many links lead to it.
    """
    seen: set[tuple[int, int]] = set()
    for place in places:
        if place.is_dir():
            found = list(_below(place, seen, {}))
            yield from found or [Found(place, "the folder holds no file")]
        else:
            yield _once(place, seen)


def _below(folder: Path, seen: set[tuple[int, int]], plan: dict[str, Any]) -> Iterator[Found]:
    try:
        if _is_seen(folder, seen):
            real = os.path.realpath(folder)
            yield Found(folder, f"the link leads to a folder that is read already: {real}")
            return
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield Found(folder, explain(error))
        return
    own = _small_json(folder / "plan.json")
    plan = own if _has(own, "stage", "settings", "fingerprint") else plan
    for entry in entries:
        if entry.name.startswith("."):
            yield Found(entry, note="hidden; name it to read it")
        elif entry.is_dir():
            yield from _below(entry, seen, plan)
        elif note := _ours(entry, plan):
            yield Found(entry, note=note)
        else:
            yield _once(entry, seen)


def _once(path: Path, seen: set[tuple[int, int]]) -> Found:
    try:
        path.stat()
        if not path.is_file():  # a pipe would be waited for, a device might have no end
            return Found(path, "this is no ordinary file")
        if _is_seen(path, seen) and path.is_symlink():
            return Found(path, note="a link to a file that is read already")
    except OSError as error:
        if path.is_symlink() and not path.exists():
            return Found(path, f"the link is broken: there is no {os.readlink(path)}")
        return Found(path, explain(error))
    return Found(path)


def _is_seen(path: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether the file or folder was met before, under any name; now it was."""
    status = path.stat()
    key = (status.st_dev, status.st_ino)
    known = key in seen
    seen.add(key)
    return known


def _ours(path: Path, plan: dict[str, Any]) -> str:
    """Return what a file is that this package writes beside logs, ``""`` for any other."""
    name = path.name
    if name.endswith(".part"):
        return "half-written: whoever wrote it was stopped"
    if name.endswith(SETTINGS):
        return "what a live collection was made with, no log"
    if plan:
        first = next((own for own in OURS if (path.parent / own).is_file()), name)
        kept = name == first and name in OURS
        return "" if kept else f"of a run folder of the stage {plan['stage']!r}, not its log"
    if name in _OF_A_RUN:
        return f"{name} of a run folder, no log" if _OF_A_RUN[name](_small_json(path)) else ""
    if path.suffix not in (".json", ".csv", ".png", ".pdf"):
        return ""
    figure = _small_json(path.with_suffix(".json"))
    return "of a figure, no log" if _has(figure, "figure", "provenance", "drawn_with") else ""


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and set(keys) <= value.keys()


_OF_A_RUN = {
    "manifest.json": lambda value: _has(value, "stage", "fingerprint", "files"),
    "problems.json": lambda value: (
        isinstance(value, list) and all(isinstance(p, list) and len(p) == 3 for p in value)
    ),
}


def _small_json(path: Path) -> Any:
    try:
        if not path.is_file() or path.stat().st_size > SMALL:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
