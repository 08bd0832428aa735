"""One process at a time: a lock that the operating system gives back when its holder dies."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE = 0.2  # seconds between two looks at a lock that another process holds

logger = logging.getLogger("negfail_nb")


@contextmanager
def alone(path: str | Path, what: str) -> Iterator[bool]:
    """Hold the lock of a file or folder; wait while another process or thread has it.

    Parameters
    ----------
    path
        The lock is the hidden file ``.<name>.lock`` beside it; ``.<name>.owner`` says who holds it.
    what
        What is waited for, in the log.

    Yields
    ------
    bool
        Whether it had to wait: then things may have changed meanwhile.

    Raises
    ------
    OSError
        If the lock cannot be made; the text says where.
    """
    path = Path(path)
    lock, owner = (path.with_name(f".{path.name}.{ending}") for ending in ("lock", "owner"))
    with naming(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        waited = not _try(held)
    if waited:
        logger.warning("%s: waiting for %s; interrupt to give up", what, _holder(owner))
        held.acquire(poll_interval=PATIENCE)
    try:
        with naming(owner):
            owner.write_text(json.dumps(_self()), encoding="utf-8")
        yield waited
    finally:
        # While the lock is held: who waits sees that its file is gone, and makes a new one.
        for path in (owner, lock):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        held.release()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the system that name no file, such as of a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _self() -> dict[str, str | int]:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
    return {"pid": os.getpid(), "host": platform.node(), "since": started}


def _holder(owner: Path) -> str:
    for _ in range(5):
        try:
            found = json.loads(owner.read_text(encoding="utf-8"))
            return f"process {found['pid']} on {found['host']}, at work since {found['since']}"
        except (OSError, ValueError, TypeError, KeyError):
            time.sleep(PATIENCE)  # who has just got the lock has not written yet
    return "another process"
