"""Seconds of ``make run`` on generated logs and of ``make test``, both after installation, from
nothing.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def main() -> dict:
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "project"
        shutil.copytree(PROJECT / "notebooks", home / "notebooks")
        first = seconds("-m", "negfail_nb", "run", "--profile", "pocket", "--home", str(home))
        again = seconds("-m", "negfail_nb", "run", "--profile", "pocket", "--home", str(home))
    # As `make test` does.
    tests = seconds("-m", "pytest", "-n", "2", "--dist", "loadfile", OMP_NUM_THREADS="1")
    return {"run_seconds": once(first) | {"again": again}, "test_seconds": once(tests)}


def once(value: float) -> dict:
    return {"value": value, "unit": "s", "peer": None, "low": value, "high": value, "n": 1}


def seconds(*command: str, **variables: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=os.environ | variables,
        check=True,
        stdout=sys.stderr,
    )
    return round(time.perf_counter() - start, 1)


if __name__ == "__main__":
    print(json.dumps(main()))
