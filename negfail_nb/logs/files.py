"""Which files are logs: those at and below some places, without what this package writes there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from negfail_nb.journal import SETTINGS
from negfail_nb.logs.jsontext import explain

# The logs of a run folder; the first of them holds the others.
OURS = ("trajectories.jsonl", "kept.jsonl", "episodes.jsonl")
SMALL = 1_000_000  # bytes; our own files beside logs are smaller
LARGE = 2**29  # bytes of logs from which they should stay on disk
IN_MEMORY = 5  # times as large as on disk


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


def log_bytes(paths: Iterable[str | Path]) -> int:
    """Return the size of all logs at and below some places, in bytes."""
    found = find_files([Path(path) for path in paths])
    return sum(f.path.stat().st_size for f in found if not (f.problem or f.note))


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
