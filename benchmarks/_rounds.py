"""For benchmarks of memory: every round is a child process, so that its peak is its own."""

import json
import resource
import subprocess
import sys


def peak_mb() -> float:
    """Return the largest memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def rounds(script: str, count: int = 3) -> list[dict]:
    """Call a script with the argument ``child`` so often; return what each call printed as JSON,
    the fastest first.
    """
    command = [sys.executable, script, "child"]
    done = [
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True) for _ in range(count)
    ]
    return sorted(
        (json.loads(d.stdout.splitlines()[-1]) for d in done), key=lambda result: result["seconds"]
    )
