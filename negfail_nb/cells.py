"""A cell of a study: one function from settings to run folders, here or on another machine."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from negfail_nb import earlier
from negfail_nb.content import counted, fingerprint, write_json
from negfail_nb.data_sets import named_part
from negfail_nb.environment import COMMAND
from negfail_nb.executors import Parcel
from negfail_nb.parcels import pack, unpack
from negfail_nb.project import Project
from negfail_nb.runs import MANIFEST, Run
from negfail_nb.settings import DATA, Profile
from negfail_nb.source import source_hash
from negfail_nb.sources import plays_live
from negfail_nb.training import PREFERENCE_ARMS

# Stages that a cell comes from, and those of them whose files travel. A model's folder does not:
# what is trained on top of it names it by its path.
STAGES = ("collect", "live", "endpoint", "quality", "prefix", "model", "lora", "train")
STAGES += ("preference", "evaluate")
SENT = ("collect", "quality", "prefix", "evaluate")
INPUTS = "inputs"  # in the folder of a node: files that settings name
PLAYED = ("collect", "warm-start")  # runs that cells share

Key = tuple[Profile, str]  # a cell: settings, and the arm that is trained


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that is done.

    Attributes
    ----------
    folder
        Where its agent's answers are.
    parts
        The run folders that it is made of, training first.
    environment, weights, dtype
        What its training was made with, and began from (as `TrainedRun.base`).
    steps, seconds
        Of its training.
    took
        Seconds of all its runs.
    """

    folder: Path
    parts: tuple[Path, ...]
    environment: Mapping[str, Any]
    weights: Mapping[str, str]
    dtype: str
    steps: int
    seconds: float
    took: float


def run_cell(profile: Profile, arm: str, home: Path, seen: str = "", command: str = "") -> Cell:
    """From settings to what the arm's agent answered.

    Parameters
    ----------
    profile, arm, home
        Settings, the arm, and the project folder.
    seen
        A file of the project folder that this process must see too; empty: none.
    command
        The command line that this process works for; empty: its own.

    Raises
    ------
    FileNotFoundError
        If the project folder is not the one that was meant, on another machine.
    """
    if seen and not (home / seen).is_file():
        raise FileNotFoundError(
            f"{home}: this worker does not see the project folder of the machine that asked. Put "
            "it on a disk that all of them see under the same path; Ray can do without: "
            "shared=False (no --shared)"
        )
    with _environment(COMMAND, command):
        return _run(Project(profile, home), arm)


def _run(project: Project, arm: str) -> Cell:
    names = ["vanilla", arm] if arm in PREFERENCE_ARMS else [arm]
    trained = earlier.trained(project, names)
    asked = earlier.ask(project, arm, trained[arm]).run
    runs = [*(one.run for one in trained.values()), asked]
    made = asked.manifest["environment"], trained[arm].base, trained[arm].dtype
    took = sum(run.manifest.get("seconds") or 0.0 for run in runs)
    parts = tuple(run.folder for run in runs)
    return Cell(asked.folder, parts, *made, trained[arm].steps, trained[arm].seconds, took)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while, unless there is no value."""
    before = os.environ.get(name)
    try:
        if value:
            os.environ[name] = value
        yield
    finally:
        if value:
            del os.environ[name]
        if value and before is not None:
            os.environ[name] = before


def note(cell: Cell, key: Key, home: Path) -> Cell:
    """Note in the project folder that a cell is done, and how long it took."""
    path = _noted(key, home)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [part.relative_to(home).as_posix() for part in cell.parts]
    write_json(path, {"arm": key[1], "runs": parts, "seconds": round(cell.took, 2)})
    return cell


def noted_seconds(key: Key, home: Path) -> float | None:
    """Return how long a cell took that is done; ``None`` if it is not.

    It is only a note: what counts are the run folders, which are looked at when they are used.
    """
    try:
        found = json.loads(_noted(key, home).read_text(encoding="utf-8"))
        there = all((home / name / MANIFEST).is_file() for name in found["runs"])
        return float(found["seconds"]) if there else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _noted(key: Key, home: Path) -> Path:
    profile, arm = key
    project = Project(profile, home)
    settings = {stage: counted(getattr(project, stage)) for stage in STAGES}
    name = fingerprint({"settings": settings, "arm": arm, "source": source_hash("cells")})
    return home / "runs" / profile.name / "cells" / f"{name[:16]}.json"


def inputs(keys: Iterable[Key], home: Path) -> dict[str, Path]:
    """Return the files that cells read, under the names that they have on another machine.

    Those are files that settings name, local files of data sets, and logs that were played live.
    """
    found: dict[str, Path] = {}
    for profile, _ in keys:
        project = Project(profile, home)
        for _, _, value in _named(project, SENT):
            if path := _there(project, value):
                found[_sent_name(path)] = path
            elif known := named_part(value):
                for pattern in known[0].files.values():
                    files = sorted(project.data.glob(pattern))
                    found |= {f"data/{p.relative_to(project.data).as_posix()}": p for p in files}
        found |= _played(project)
    return found


def _named(project: Project, stages: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield each stage, setting and value that may name a file."""
    for stage in stages:
        settings = getattr(project.profile, stage)
        for f in fields(settings):
            value = getattr(settings, f.name)
            if f.metadata.get("path"):
                values = value if isinstance(value, tuple) else (value,)
                yield from ((stage, f.name, one) for one in values if one)


def _there(project: Project, value: str) -> Path | None:
    path = project.home / Path(value).expanduser()
    return path.absolute() if path.exists() else None


def _sent_name(path: Path) -> str:
    return f"{INPUTS}/{fingerprint(str(path))[:8]}/{path.name}"


def _played(project: Project) -> dict[str, Path]:
    if not plays_live(project):
        return {}
    places = [project.folder(name) for name in PLAYED]
    folders = [folder for p in places for folder in sorted((p.root / p.name).glob("*-*"))]
    done = (folder for folder in folders if Run("", folder, {}).done)
    return {folder.relative_to(project.home).as_posix(): folder for folder in done}


def as_sent(profile: Profile, home: Path) -> Profile:
    """Return settings that name files as another machine has them, see `inputs`.

    A model's folder must be there under the path that it has here.
    """
    project = Project(profile, home)

    def renamed(value: str) -> str:
        path = _there(project, value) if value else None
        return _sent_name(path) if path else value

    changes: dict[str, dict[str, Any]] = {}
    for stage, name, _ in _named(project, SENT):
        value = getattr(getattr(profile, stage), name)
        new = tuple(map(renamed, value)) if isinstance(value, tuple) else renamed(value)
        changes.setdefault(stage, {})[name] = new
    if path := _there(project, profile.model.name) if profile.model.name else None:
        changes["model"] = {"name": str(path)}
    return profile.change(**changes)


def run_away(profile: Profile, arm: str, parcel: Parcel, command: str) -> tuple[Cell, bytes]:
    """Run a cell in a folder of this node; return it with its run folders as an archive.

    Paths in the cell are relative: to this folder, and to the project folder that it goes to.

    Raises
    ------
    FileNotFoundError
        If the model is a folder that this node does not have.
    """
    model = Path(profile.model.name)
    if model.is_absolute() and not model.is_dir():
        raise FileNotFoundError(
            f"model.name is the folder {model}, which this node does not have; put it there under "
            "the same path, or name a model of the hub"
        )
    home = parcel.open()
    data = home / "data"
    with _environment(DATA, str(data) if data.is_dir() else ""):
        cell = run_cell(profile, arm, home, command=command)
    parts = {part.relative_to(home).as_posix(): part for part in cell.parts}
    relative = replace(cell, folder=cell.folder.relative_to(home), parts=tuple(map(Path, parts)))
    return relative, pack(parts)


def bring_home(cell: Cell, content: bytes, home: Path) -> Cell:
    """Put the run folders of a cell that was made elsewhere into the project folder, whole.

    A run that is there already, made with the same settings, inputs and source, stays.

    Raises
    ------
    OSError
        If they did not arrive as they were written.
    """
    (home / "runs").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".arriving-", dir=home / "runs") as scratch:
        arrived = unpack(content, Path(scratch) / "cell")
        parts = tuple(_put(arrived / part, home / part) for part in cell.parts)
    return replace(cell, folder=parts[-1], parts=parts)


def _put(arrived: Path, place: Path) -> Path:
    if not Run("", arrived, {}).done:
        raise OSError(f"{place.name} did not arrive whole; the same call makes its cell again")
    plan = Run("", arrived, {}).manifest["fingerprint"]
    for other in sorted(place.parent.glob(f"*-{plan[:8]}")):
        run = Run("", other, {})
        if run.done and run.manifest["fingerprint"] == plan:
            return other
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(arrived, place)
    return place
