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
    tests = seconds(
        "-m", "pytest", "-n", "2", "--dist", "loadfile", OMP_NUM_THREADS="1"
    )  # as `make test` does
    return {
        "run_seconds": {
            "value": first,
            "unit": "s",
            "peer": None,
            "low": first,
            "high": first,
            "n": 1,
            "again": again,
        },
        "test_seconds": {
            "value": tests,
            "unit": "s",
            "peer": None,
            "low": tests,
            "high": tests,
            "n": 1,
        },
    }


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
