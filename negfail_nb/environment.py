"""What a result was made with, and the memory of this process."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from negfail_nb.secrets import redact
from negfail_nb.source import package_hash

# Environment variable: the command line that a kernel, or a worker elsewhere, works for.
COMMAND = "NEGFAIL_NB_COMMAND"
_PACKAGES = (
    *("negfail_nb", "torch", "transformers", "trl", "peft"),
    *("datasets", "accelerate", "tokenizers", "numpy"),
)
# Results that lie in the package are no source: `make experiment` rewrites them.
_SOURCE = (".", ":(exclude)experiment", ":/notebooks")


def release_memory() -> None:
    """Return unused memory to the system.

    Accelerators keep freed blocks for the next tensor. On Linux the C library keeps freed pages
    that lie below others in use: gigabytes after a thousand episodes of a small model.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # a C library without it


def environment() -> dict[str, Any]:
    """Return what a result was made with: versions, source, commit, command; no host, user, key.

    ``source`` is the hash of the package's source. ``git`` says whether package or notebooks differ
    from the commit (``dirty``); figures and other results do not count. It is empty if the package
    is in no repository of its own.
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "packages": {name: package_version(name) for name in _PACKAGES if package_version(name)},
        "source": package_hash(),
        "git": _git(),
        "command": command(),
    }


def command() -> str:
    """Return the command line that this process works for, without folders and keys."""
    # The arguments of a kernel or worker say nothing; what started it does.
    if COMMAND in os.environ:
        return redact(os.environ[COMMAND])
    if "ipykernel" in sys.argv[0]:
        return "jupyter lab"
    path = Path(sys.argv[0])
    name = f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name
    return redact(" ".join([name, *sys.argv[1:]]))


def package_version(package: str) -> str:
    """Return the version of an installed package, or an empty text."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _git() -> dict[str, Any]:
    def ask(*words: str) -> str | None:
        given = {"capture_output": True, "text": True, "timeout": 10, "cwd": Path(__file__).parent}
        done = subprocess.run(["git", *words], **given)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        # The package may be installed below a repository that does not hold it.
        if not ask("ls-files", "--error-unmatch", "--", Path(__file__).name):
            return {}
        commit = ask("rev-parse", "HEAD")
        changes = ask("status", "--porcelain", "--", *_SOURCE)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": changes != ""} if commit else {}
