"""Run folders: where a stage writes, how it knows that it is done, and what a result came from.

A stage writes into ``runs/<stage>/<time>-<fingerprint>/``. The manifest is written last: it lists every file with its
hash, so a folder whose manifest is missing or does not match was not finished. The fingerprint covers the stage's
settings, the content of its inputs and the version of the package; the same fingerprint is not computed twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from negfail_nb.environment import environment, package_version, redact

logger = logging.getLogger("negfail_nb")

MANIFEST, PLAN = "manifest.json", "plan.json"


class SettingsChanged(ValueError):
    """A run folder was made with other settings or inputs than those it is asked to go on with."""


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
        """Whether the manifest is there and every file in it still has the content it was written with."""
        if not (self.folder / MANIFEST).is_file():
            return False
        changed = _changed_files(self.folder)
        if changed:
            logger.warning("%s is not taken as done: %s changed since it was written", self.folder, ", ".join(changed))
        return not changed

    @property
    def manifest(self) -> dict[str, Any]:
        """What `finish` wrote.

        Raises
        ------
        FileNotFoundError
            Where the run is not finished.
        """
        path = self.folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder} has no {MANIFEST}: the stage {self.stage!r} did not finish there")
        return json.loads(path.read_text(encoding="utf-8"))

    def path(self, name: str) -> Path:
        """Return the path of a file in the run folder."""
        return self.folder / name

    def finish(self, results: Mapping[str, Any] | None = None, seconds: float | None = None) -> Run:
        """Write the manifest, last: every file with size and hash, what it was made with, and what came out.

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
            "files": {name: file_hash(self.folder / name) for name in _files(self.folder) if name != MANIFEST},
            "environment": environment(),
        }
        write_json(self.folder / MANIFEST, manifest)
        return self


def start(
    stage: str,
    settings: Any,
    inputs: Mapping[str, str | Path | Run] | None = None,
    root: str | Path = "runs",
    force: bool = False,
) -> Run:
    """Return the run folder for a stage: the finished one, the unfinished one to go on with, or a new one.

    Parameters
    ----------
    stage
        Name of the stage, which is also the folder's.
    settings
        A frozen dataclass, or a mapping of several.
    inputs
        Files, folders or runs that the stage reads, by name. Their content counts, not their path or age.
    root
        Folder of all runs.
    force
        Begin anew even where a finished or unfinished folder is there.
    """
    plan = make_plan(stage, settings, inputs)
    home = Path(root) / stage
    if not force:
        found = [Run(stage, path, plan) for path in sorted(home.glob(f"*-{plan['fingerprint'][:8]}"), reverse=True)]
        found = [run for run in found if _read_plan(run.folder).get("fingerprint") == plan["fingerprint"]]
        unfinished = [run for run in found if not (run.folder / MANIFEST).exists()]
        for run in [r for r in found if r.done] or unfinished:
            return run
    folder = _new_folder(home, plan["fingerprint"][:8])
    write_json(folder / PLAN, plan)
    return Run(stage, folder, plan)


def resume(folder: str | Path, settings: Any, inputs: Mapping[str, str | Path | Run] | None = None) -> Run:
    """Return an existing run folder, to go on with.

    Raises
    ------
    SettingsChanged
        Where it was begun with other settings or inputs; the text names each that differs, old and new.
    FileNotFoundError
        Where it is no run folder.
    """
    folder = Path(folder)
    old = _read_plan(folder)
    if not old:
        raise FileNotFoundError(f"{folder} is no run folder: it has no {PLAN}")
    plan = make_plan(old["stage"], settings, inputs)
    changes = differences({k: old[k] for k in ("settings", "inputs")}, {k: plan[k] for k in ("settings", "inputs")})
    if changes:
        raise SettingsChanged(
            f"{folder} was begun with other settings: {'; '.join(changes)}. Use the old ones, or begin a new run."
        )
    return Run(old["stage"], folder, plan)


def latest(stage: str, root: str | Path = "runs") -> Run:
    """Return the newest finished run of a stage.

    Raises
    ------
    FileNotFoundError
        Where there is none; the text says which folder was searched.
    """
    for folder in sorted((Path(root) / stage).glob("*-*"), reverse=True):
        run = Run(stage, folder, _read_plan(folder))
        if run.plan and run.done:
            return run
    raise FileNotFoundError(f"no finished run of stage {stage!r} in {Path(root) / stage}; run that stage first")


def make_plan(stage: str, settings: Any, inputs: Mapping[str, str | Path | Run] | None = None) -> dict[str, Any]:
    """Return settings and inputs as plain JSON values, with the fingerprint over both and the package's version."""
    hashes = {name: _input(value) for name, value in (inputs or {}).items()}
    plan = {"stage": stage, "settings": _redacted(plain(settings)), "inputs": hashes}
    content = {**plan, "version": package_version("negfail_nb")}
    return {**plan, "fingerprint": fingerprint(content)}


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their names; hidden files do not count.

    Raises
    ------
    FileNotFoundError
        Where nothing is there; the text names the path.
    """
    path = Path(path)
    if path.is_dir():
        return fingerprint({name: file_hash(path / name) for name in _files(path)})
    if not path.is_file():
        raise FileNotFoundError(
            f"input {path} does not exist; check the spelling: paths in settings start from the project folder (home)"
        )
    status = path.stat()
    return _content_hash(str(path.absolute()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _content_hash(path: str, size: int, changed: int) -> str:
    """Size and time of the last change are part of the key, so a file is read again once it is another."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return one text for each leaf in which two JSON values differ: ``"train.epochs: 2.0 -> 3.0"``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(old) + [k for k in new if k not in old]
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{name}.{k}" if name else str(k))]
    return [] if old == new else [f"{name}: {old!r} -> {new!r}"]


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back: dataclasses as dicts, tuples as lists, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.as_posix() if isinstance(value, Path) else value


def _redacted(value: Any) -> Any:
    """Redact texts, not the JSON made of them: a cut inside a quotation would break it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {k: _redacted(v) for k, v in value.items()}
    return [_redacted(v) for v in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all. Whatever looks like a key is left out of it."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(_redacted(value), indent=1, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)


def _changed_files(folder: Path) -> list[str]:
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    return [n for n, digest in files.items() if not (folder / n).is_file() or file_hash(folder / n) != digest]


def _files(folder: Path) -> list[str]:
    names = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.suffix != ".part")
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def _input(value: str | Path | Run) -> str:
    return value.plan["fingerprint"] if isinstance(value, Run) else file_hash(value)


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
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
