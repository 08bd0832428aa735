"""What a result was made with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from negfail_nb.secrets import redact
from negfail_nb.source import package_hash

COMMAND = "NEGFAIL_NB_COMMAND"  # environment variable: the command line that a kernel runs for
DATA = "NEGFAIL_NB_DATA"  # environment variable: the folder of data
_PACKAGES = (
    "negfail_nb",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "tokenizers",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Return what a result was made with: versions, source, git commit, command. No host name, no
    user, no key.

    ``source`` is the hash of the package's source, also where it was installed without a
    repository. ``git`` says of the commit whether package or notebooks differ from it (``dirty``);
    what a walk writes, such as figures, does not count. It is empty where the package lies in no
    repository of its own.
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "packages": {name: package_version(name) for name in _PACKAGES if package_version(name)},
        "source": package_hash(),
        "git": _git(),
        "command": _command(),
    }


def data_folder(home: str | Path = ".") -> Path:
    """Return the folder of logs and data: ``NEGFAIL_NB_DATA``, or ``data`` in the project folder."""
    return Path(os.environ.get(DATA) or Path(home) / "data")


def _command() -> str:
    # A kernel's own arguments name a file of one machine and tell nothing; a headless walk says
    # what started it.
    if "ipykernel" in sys.argv[0]:
        return redact(os.environ.get(COMMAND, "jupyter lab"))
    path = Path(sys.argv[0])
    name = f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name
    return redact(" ".join([name, *sys.argv[1:]]))


def package_version(package: str) -> str:
    """Return the version of an installed package, or an empty text."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


# Results that lie in the package: `make experiment` rewrites them.
_SOURCE = (".", ":(exclude)pocket/experiment", ":/notebooks")


def _git() -> dict[str, Any]:
    def ask(*words: str) -> str | None:
        place = Path(__file__).parent
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=10, cwd=place
        )
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        # Installed below somebody else's repository, the package is none of its files.
        if not ask("ls-files", "--error-unmatch", "--", Path(__file__).name):
            return {}
        commit, changes = ask("rev-parse", "HEAD"), ask("status", "--porcelain", "--", *_SOURCE)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": changes != ""} if commit else {}
