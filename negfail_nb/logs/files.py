"""Which files of a folder are logs: linked folders are followed once, and what is passed over is
said.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from negfail_nb.logs.jsontext import explain

SETTINGS = ".settings.json"  # behind the name of a live collection's file
OURS = (
    "trajectories.jsonl",
    "kept.jsonl",
    "episodes.jsonl",
)  # the logs of a run folder; the first holds the others
SMALL = 1_000_000  # bytes; our own files beside logs are smaller


class Found(NamedTuple):
    """A file; ``problem`` says why it cannot be read, ``note`` why it need not be."""

    path: Path
    problem: str = ""
    note: str = ""


def find_files(places: list[Path]) -> Iterator[Found]:
    """Yield the files at and below some places, in the order of their names.

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
            yield Found(
                folder,
                f"the link leads to a folder that is read already: {os.path.realpath(folder)}",
            )
            return
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield Found(folder, explain(error))
        return
    plan = _plan(folder) or plan
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
    """Return a file that is not a folder, with what is wrong with it."""
    try:
        path.stat()
        if not path.is_file():  # a pipe would be waited for, a device might have no end
            return Found(path, "this is no ordinary file")
        linked = path.is_symlink()
        if _is_seen(path, seen) and linked:
            return Found(path, note="a link to a file that is read already")
    except OSError as error:
        broken = path.is_symlink() and not path.exists()
        return Found(
            path,
            f"the link is broken: there is no {os.readlink(path)}" if broken else explain(error),
        )
    return Found(path)


def _is_seen(path: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether the file or folder was met before, under this name or another; it now was."""
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
    if path.suffix == ".json" and name in ("manifest.json", "problems.json"):
        return _of_a_run(name, _read(path))
    figure = (
        _read(path.with_suffix(".json"))
        if path.suffix in (".json", ".csv", ".png", ".pdf")
        else None
    )
    is_figure = isinstance(figure, dict) and {"figure", "provenance", "drawn_with"} <= figure.keys()
    return "of a figure, no log" if is_figure else ""


def _of_a_run(name: str, value: Any) -> str:
    if name == "manifest.json":
        ours = isinstance(value, dict) and {"stage", "fingerprint", "files"} <= value.keys()
    else:
        ours = isinstance(value, list) and all(isinstance(p, list) and len(p) == 3 for p in value)
    return f"{name} of a run folder, no log" if ours else ""


def _plan(folder: Path) -> dict[str, Any]:
    """Return the plan of a run folder of ours; empty for any other."""
    plan = _read(folder / "plan.json")
    return (
        plan
        if isinstance(plan, dict) and {"stage", "settings", "fingerprint"} <= plan.keys()
        else {}
    )


def _read(path: Path) -> Any:
    try:
        if not path.is_file() or path.stat().st_size > SMALL:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
