"""Files that travel between machines: packed into the bytes of a tar archive, unpacked whole."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from negfail_nb.content import file_hash, fingerprint, visible_files


def pack(files: Mapping[str, Path]) -> bytes:
    """Return files and folders as a tar archive, each under the name that it is given.

    Hidden and half-written files of folders do not travel.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, path in _each(files):
            archive.add(path.resolve(), name, recursive=False)
    return stream.getvalue()


def unpack(content: bytes, folder: Path) -> Path:
    """Unpack what `pack` returned into a new folder, whole or not at all.

    Raises
    ------
    tarfile.FilterError
        For a name that leads out of the folder, a link that does, or a device.
    FileExistsError
        If the folder is there already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; a parcel is unpacked into a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(part, filter="data")
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder


def parcel_name(files: Mapping[str, Path]) -> str:
    """Return a name that tells one content from another: the start of its SHA-256."""
    return fingerprint({name: file_hash(path) for name, path in files.items()})[:16]


def _each(files: Mapping[str, Path]) -> list[tuple[str, Path]]:
    found = []
    for name, path in files.items():
        if path.is_dir():
            found += [(f"{name}/{inner}", path / inner) for inner in visible_files(path)]
        else:
            found.append((name, path))
    return found
