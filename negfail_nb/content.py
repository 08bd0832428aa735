"""Hashes of what results depend on: files, folders and settings; and JSON written whole."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from negfail_nb.environment import redact
from negfail_nb.locks import naming

# Nanoseconds after which a change of a file has another time than the one before.
SETTLED = 2 * 10**9
WHOLE = "whole.json"  # the mark of a folder that was written to its end


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(
        json.dumps(plain(value), sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their names; hidden files do not
    count.

    Raises
    ------
    FileNotFoundError
        Where nothing is there; the text names the path.
    """
    path = Path(path)
    if path.is_dir():
        return fingerprint({name: file_hash(path / name) for name in visible_files(path)})
    if not path.is_file():
        raise FileNotFoundError(
            f"input {path} does not exist; check the spelling: paths in settings start from the "
            "project folder (home)"
        )
    status = path.stat()
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED:
        return _hash_content(
            path
        )  # another change may come within one tick of the file system's clock
    times = status.st_mtime_ns, status.st_ctime_ns
    return _known_hash(str(path.absolute()), status.st_ino, status.st_size, *times)


def _hash_content(path: str | Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=10_000)
def _known_hash(path: str, number: int, size: int, changed: int, noted: int) -> str:
    """The key tells one state of a file from another: the system notes each change, also one that
    sets the time.
    """
    return _hash_content(path)


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return one text for each leaf in which two JSON values differ: ``"train.epochs: 2.0 ->
    3.0"``.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(old) + [k for k in new if k not in old]
        return [
            d
            for k in keys
            for d in differences(old.get(k), new.get(k), f"{name}.{k}" if name else str(k))
        ]
    return [] if old == new else [f"{name}: {old!r} -> {new!r}"]


def counted(value: Any) -> Any:
    """Return settings as what results depend on.

    Left out are fields marked ``counts=False`` (how fast, how often saved); a field marked ``path``
    that names a file or folder becomes the hash of its content.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kept = (f for f in fields(value) if f.metadata.get("counts", True))
        return {f.name: _counted(getattr(value, f.name), f.metadata) for f in kept}
    if isinstance(value, Mapping):
        return {name: counted(part) for name, part in value.items()}
    return value


def _counted(value: Any, metadata: Mapping[str, Any]) -> Any:
    if not metadata.get("path"):
        return counted(value)
    if isinstance(value, tuple):
        return [_counted(part, metadata) for part in value]
    there = bool(value) and value not in metadata.get("names", ()) and Path(value).exists()
    return {"sha256": file_hash(value)} if there else value


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back: dataclasses as dicts, tuples as lists, paths as
    text.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.as_posix() if isinstance(value, Path) else value


def redacted(value: Any) -> Any:
    """Redact texts, not the JSON made of them: a cut inside a quotation would break it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {k: redacted(v) for k, v in value.items()}
    return [redacted(v) for v in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all. Whatever looks like a key is left out of it.

    Raises
    ------
    OSError
        Where it cannot be written; the text names the path.
    """
    part = path.with_name(path.name + ".part")
    text = json.dumps(redacted(value), indent=1, ensure_ascii=False) + "\n"
    try:
        with naming(path), part.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def visible_files(folder: Path) -> list[str]:
    """Return the names of a folder's files, sorted; hidden and half-written ones do not count."""
    names = (
        p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.suffix != ".part"
    )
    return sorted(
        name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)
    )


def mark_whole(folder: Path) -> None:
    """Write, last of all, the hashes of a folder's files. Without this mark it was cut short."""
    sizes = _sizes(folder)
    hashes = {name: file_hash(folder / name) for name in sizes}
    write_json(folder / WHOLE, {"bytes": sizes, "sha256": hashes})


def what_is_wrong(folder: Path) -> str:
    """Return why a folder is not whole, naming the files; ``""`` if it is.

    Covered are missing, short, long and changed files, and files that were added. Content is
    hashed, so this reads all.
    """
    try:
        mark = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
        expected = dict(mark["bytes"])
        hashes = dict(mark["sha256"])
    except FileNotFoundError:
        return f"it was not finished ({WHOLE} is missing)"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{WHOLE} is damaged, or of an earlier version without hashes"
    found = _sizes(folder)
    wrong = [f"{name} was added" for name in found if name not in hashes]
    for name, size in expected.items():
        if name not in found:
            wrong.append(f"{name} is missing")
        elif found[name] != size:
            wrong.append(f"{name} has {found[name]} of {size} bytes")
        elif file_hash(folder / name) != hashes.get(name):
            wrong.append(f"{name} has changed")
    return ", ".join(wrong)


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != WHOLE)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
