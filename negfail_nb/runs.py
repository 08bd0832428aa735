"""Run folders: where a stage writes, how it knows that it is done, and what a result came from.

A stage writes into ``runs/<stage>/<time>-<fingerprint>/``. The manifest is written last: it lists
every file with its hash, and has a hash of itself, so a folder whose manifest is missing, damaged
or does not match was not finished. The fingerprint covers the stage's settings, the content of its
inputs and the source of what computes it (see `negfail_nb.source`); the same fingerprint is not
computed twice, also not by two processes at once.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negfail_nb.content import (
    counted,
    differences,
    file_hash,
    fingerprint,
    plain,
    redacted,
    visible_files,
    write_json,
)
from negfail_nb.environment import environment, package_version
from negfail_nb.locks import alone, naming

logger = logging.getLogger("negfail_nb")

MANIFEST = "manifest.json"
PLAN = "plan.json"
LOCKS = ".locks"  # folder beside the stages


class SettingsChanged(ValueError):
    """A run folder was made with other settings or inputs than those that are now given."""


class NotWhole(RuntimeError):
    """A stage ended before all was done. Its folder stays open; the same stage goes on in it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One folder of one stage.

    Attributes
    ----------
    stage, folder
        Which stage, and where it writes.
    plan
        Settings and inputs as plain JSON values, and their fingerprint.
    """

    stage: str
    folder: Path
    plan: Mapping[str, Any]

    @property
    def done(self) -> bool:
        """Whether the manifest is there and whole, and the files are those that it lists, as they
        were written.
        """
        if not _exists(self.folder / MANIFEST):
            return False
        manifest = _read_manifest(self.folder)
        changed = _changedvisible_files(self.folder, manifest["files"]) if manifest else []
        if changed:
            logger.warning("%s is not taken as done: %s", self.folder, ", ".join(changed))
        return bool(manifest) and not changed

    @property
    def manifest(self) -> dict[str, Any]:
        """What `finish` wrote.

        Raises
        ------
        FileNotFoundError
            Where the run is not finished, or its manifest is damaged.
        """
        if manifest := _read_manifest(self.folder):
            return manifest
        state = "damaged" if _exists(self.folder / MANIFEST) else "no"
        raise FileNotFoundError(
            f"{self.folder} has {state} {MANIFEST}: the stage {self.stage!r} did not finish there"
        )

    @property
    def content(self) -> str:
        """Hash of what the stage wrote, without what it was made with: equal results are equal
        inputs.
        """
        return fingerprint({k: v for k, v in self.manifest["files"].items() if k != PLAN})

    def path(self, name: str) -> Path:
        """Return the path of a file in the run folder."""
        return self.folder / name

    def finish(self, results: Mapping[str, Any] | None = None, seconds: float | None = None) -> Run:
        """Write the manifest, last: every file with size and hash, what it was made with, and what
        came out.

        Parameters
        ----------
        results
            A few numbers or texts worth seeing without opening the files.
        seconds
            How long the stage took.
        """
        manifest = {
            "status": "done",
            **self.plan,
            "seconds": seconds,
            "finished": _now("%Y-%m-%dT%H:%M:%SZ"),
            "results": plain(results or {}),
            "files": {
                name: file_hash(self.folder / name)
                for name in visible_files(self.folder)
                if name != MANIFEST
            },
            "environment": environment(),
        }
        write_json(self.folder / MANIFEST, {**manifest, "sha256": fingerprint(redacted(manifest))})
        return self


@dataclass(frozen=True, slots=True)
class Place:
    """Where the runs of one stage lie: one folder per plan, named by time and fingerprint.

    Attributes
    ----------
    root
        Folder of all runs.
    name
        Name of the stage, such as ``"pocket/train-nat"``.
    """

    root: Path
    name: str

    def newest(self) -> Run:
        """Return the newest finished run.

        Raises
        ------
        FileNotFoundError
            If there is none; the text says which folder was searched.
        """
        folder = self.root / self.name
        for path in sorted(folder.glob("*-*"), reverse=True):
            run = Run(self.name, path, _read_plan(path))
            if run.plan and run.done:
                return run
        raise FileNotFoundError(
            f"no finished run of stage {self.name!r} in {folder}; run that stage first"
        )


def make(
    folder: str | Path | Place,
    settings: Any,
    compute: Callable[[Run], Mapping[str, Any] | None],
    inputs: Mapping[str, Any] | None = None,
    source: str = "",
    force: bool = False,
) -> Run:
    """Return the finished run of a plan; compute it first if it is not there.

    While another process computes the same, this one waits for it, and takes what it leaves.

    Parameters
    ----------
    folder, settings, inputs, source, force
        As `start` takes them.
    compute
        Writes into the run's folder, and returns what `Run.finish` keeps of it. If it raises, or is
        interrupted, the folder stays open, and the next call goes on in it.

    Raises
    ------
    SettingsChanged
        If a plain folder holds a run with other settings or inputs.
    OSError
        If something cannot be written; the text names the path.
    """
    plan = make_plan(_name(folder), settings, inputs, source)
    if not force and (done := _finished(folder, plan)):
        return done
    if isinstance(folder, Place):
        lock = _open_locks(folder.root) / plan["fingerprint"][:16]
    else:
        lock = Path(folder)
    with alone(lock, plan["stage"]) as waited:
        run = _begin(folder, plan, force and not waited)
        if not run.done:
            began = time.perf_counter()
            try:
                with naming(run.folder):
                    run.finish(compute(run), round(time.perf_counter() - began, 2))
            except KeyboardInterrupt:  # whose own traceback ends somewhere in torch
                said = (
                    f"what is finished stays in {run.folder}, and the same call goes on from there"
                )
                raise KeyboardInterrupt(f"stopped; {said}") from None
    return run


def finished(
    folder: str | Path | Place,
    settings: Any,
    inputs: Mapping[str, Any] | None = None,
    source: str = "",
) -> Run | None:
    """Return the finished run of a plan, if there is one; arguments as `start` takes them."""
    return _finished(folder, make_plan(_name(folder), settings, inputs, source))


def start(
    folder: str | Path | Place,
    settings: Any,
    inputs: Mapping[str, Any] | None = None,
    source: str = "",
    force: bool = False,
) -> Run:
    """Return the run of a plan: a finished one, an unfinished one to go on with, or a new one.

    Parameters
    ----------
    folder
        A `Place`, which has a folder for each plan; or a folder, which has one plan only.
    settings
        A frozen dataclass, or a mapping of several. Fields that change no result do not count, and
        of a file that a field names its content counts (see `counted`).
    inputs
        What the stage reads, by name: files, folders, runs, or anything with a hash of its own as
        ``content``. Content counts, not path or age.
    source
        Hash of the source that computes the stage, see `negfail_nb.source`; empty: the package's
        version. In a `Place`, what another source began is not gone on with.
    force
        Of a `Place`: begin anew even if a finished or unfinished run is there.

    Raises
    ------
    SettingsChanged
        If a plain folder holds a run with other settings or inputs; the text names each that
        differs, old and new.
    """
    return _begin(folder, make_plan(_name(folder), settings, inputs, source), force)


def _name(folder: str | Path | Place) -> str:
    return folder.name if isinstance(folder, Place) else Path(folder).absolute().name


def _open_locks(root: Path) -> Path:
    folder = root / LOCKS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        advice = f"{root} cannot be written to; give another project folder (home, --home)"
        raise OSError(error.errno, f"{error.strerror}: {advice}", str(folder)) from None
    return folder


def _finished(folder: str | Path | Place, plan: dict[str, Any]) -> Run | None:
    if isinstance(folder, Place):
        return _find(folder, plan, done=True)
    run = _opened(Path(folder), plan)
    return run if run and run.done else None


def _begin(folder: str | Path | Place, plan: dict[str, Any], force: bool) -> Run:
    if isinstance(folder, Place):
        if not force:
            found = _find(folder, plan, done=True) or _find(folder, plan, done=False)
            if found:
                return found
        path = _new_folder(folder.root / folder.name, plan["fingerprint"][:8])
    else:
        path = Path(folder)
        if found := _opened(path, plan):
            return found
        path.mkdir(parents=True, exist_ok=True)
    write_json(path / PLAN, plan)
    return Run(plan["stage"], path, plan)


def _opened(folder: Path, plan: dict[str, Any]) -> Run | None:
    """Return the run that a plain folder holds; ``None`` if it holds none."""
    old = _read_plan(folder)
    if not old:
        return None
    names = "settings", "inputs"
    changes = differences({k: old[k] for k in names}, {k: plan[k] for k in names})
    if changes:
        raise SettingsChanged(
            f"{folder} was begun with other settings: {'; '.join(changes)}. Use the old ones, or "
            "another folder."
        )
    return Run(old["stage"], folder, old)


def _find(place: Place, plan: dict[str, Any], done: bool) -> Run | None:
    """Return the newest run of a plan that is done, or that has no manifest yet."""
    folders = (place.root / place.name).glob(f"*-{plan['fingerprint'][:8]}")
    for folder in sorted(folders, reverse=True):
        run = Run(place.name, folder, plan)
        if _read_plan(folder).get("fingerprint") != plan["fingerprint"]:
            continue
        if run.done if done else not _exists(folder / MANIFEST):
            return run
    return None


def make_plan(
    stage: str, settings: Any, inputs: Mapping[str, Any] | None = None, source: str = ""
) -> dict[str, Any]:
    """Return settings, inputs and source as plain JSON values, with the fingerprint over all of it.

    Of a run among the inputs its content counts: where it was made anew and came out the same, what
    follows stays.
    """
    plan = {
        "stage": stage,
        "settings": redacted(plain(counted(settings))),
        "inputs": {name: _input(value) for name, value in (inputs or {}).items()},
        "source": source or package_version("negfail_nb"),
    }
    return {**plan, "fingerprint": fingerprint(plan)}


def _exists(path: Path) -> bool:
    """Whether anything is there, also a folder or a link that leads nowhere."""
    return os.path.lexists(path)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Return a manifest; an empty one, with a warning, where it is not as `Run.finish` wrote it."""
    if not _exists(folder / MANIFEST):
        return {}
    manifest = _read_object(folder / MANIFEST)
    claimed = manifest.pop("sha256", None)
    if manifest and claimed == fingerprint(manifest) and isinstance(manifest.get("files"), dict):
        return manifest
    logger.warning("%s is damaged, so its run is not taken as done", folder / MANIFEST)
    return {}


def _read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where there is none that can be read."""
    if not path.is_file():  # a pipe would be waited for
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _changedvisible_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Return what of a folder is not as it was written, in words."""
    here = {name for name in visible_files(folder) if name != MANIFEST}
    added = [f"{name} was added" for name in sorted(here - set(files))]
    gone = [f"{name} is missing" for name in files if not (folder / name).is_file()]
    kept = [name for name in files if (folder / name).is_file()]
    other = [
        f"{name} changed since it was written"
        for name in kept
        if file_hash(folder / name) != files[name]
    ]
    return gone + other + added


def _input(value: Any) -> str:
    content = getattr(value, "content", None)
    return content if isinstance(content, str) else file_hash(value)


def _read_plan(folder: Path) -> dict[str, Any]:
    """Return the plan of a folder; an empty one where there is none, with a warning where it is
    damaged.
    """
    plan = _read_object(folder / PLAN)
    kinds = {"stage": str, "settings": object, "inputs": dict, "fingerprint": str}
    if all(isinstance(plan.get(name), kind) for name, kind in kinds.items()):
        return plan
    if _exists(folder / PLAN):
        logger.warning("%s is damaged, so its run is not gone on with", folder / PLAN)
    return {}


def _new_folder(home: Path, short: str) -> Path:
    """Folder names sort by age, also when two begin within one second."""
    for number in range(1000):
        folder = home / f"{_now('%Y%m%dT%H%M%S')}{number:03d}-{short}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f"{home} has 1000 runs of one second; wait a second")


def _now(form: str) -> str:
    return time.strftime(form, time.gmtime())
