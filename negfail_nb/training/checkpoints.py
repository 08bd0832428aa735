"""Checkpoints that can be trusted: whole ones are marked last, half-written ones are skipped and
named.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from negfail_nb.runs import SettingsChanged, differences, file_hash, write_json

log = logging.getLogger("negfail_nb")

CHECKPOINTS, WHOLE, SETTINGS = "checkpoints", "whole.json", "training.json"


def mark_whole(folder: Path) -> None:
    """Write, last of all, the hash of every file of a folder. A folder without this mark was cut
    short.
    """
    sizes = _sizes(folder)
    write_json(
        folder / WHOLE,
        {"bytes": sizes, "sha256": {name: file_hash(folder / name) for name in sizes}},
    )


def what_is_wrong(folder: Path) -> str:
    """Return why a folder is not whole, naming the files; empty where it is whole.

    Covered are missing, short, long and changed files, and files that were added. Content is
    hashed, so this reads all.
    """
    try:
        mark = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
        expected, hashes = dict(mark["bytes"]), dict(mark["sha256"])
    except FileNotFoundError:
        return f"it was not finished ({WHOLE} is missing)"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{WHOLE} is damaged, or of an earlier version without hashes"
    found = _sizes(folder)
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} was added" for name in found if name not in hashes]
    wrong += [
        f"{n} has {found[n]} of {size} bytes"
        for n, size in expected.items()
        if found.get(n, size) != size
    ]
    same = [name for name, size in expected.items() if found.get(name) == size]
    wrong += [
        f"{name} has changed" for name in same if file_hash(folder / name) != hashes.get(name)
    ]
    return ", ".join(wrong)


def last_whole(folder: Path) -> Path | None:
    """Return the newest whole ``checkpoint-<step>`` of a folder, or ``None``; the log names each
    that is skipped.
    """
    steps = sorted(
        (int(path.name.split("-")[1]), path)
        for path in folder.glob("checkpoint-*")
        if _is_numbered(path)
    )
    for _, path in reversed(steps):
        wrong = what_is_wrong(path)
        if not wrong:
            return path
        log.warning("checkpoint %s is skipped: %s", path, wrong)
        # It will be written over; until then its old mark must not vouch for a mixture of old and
        # new files.
        (path / WHOLE).unlink(missing_ok=True)
    return None


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make a folder the place of a run with these settings.

    Raises
    ------
    SettingsChanged
        Where it holds a run with others; the text names each that differs, old and new value.
    """
    path = folder / SETTINGS
    if path.is_file():
        changes = differences(json.loads(path.read_text(encoding="utf-8")), settings)
        if changes:
            raise SettingsChanged(
                f"{folder} holds a run from other settings: {'; '.join(changes)}. Use the old ones, or another folder."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != WHOLE)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _is_numbered(path: Path) -> bool:
    return path.is_dir() and path.name.split("-", 1)[1].isdigit()
