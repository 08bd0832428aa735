"""Share of logs that are read with all counts right: records, successes, failures, unlabelled,
problems.

A small log of every shape is made here; of the real files in the data folder the labels are counted
by code of its own. Both are those of the tests (``tests/log_formats.py``,
``tests/log_frameworks.py``).
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from _data import FOLDER
from log_formats import real_cases, small_cases  # noqa: E402 - it lies beside the tests
from log_frameworks import framework_cases  # noqa: E402

from negfail_nb.logs import load_trajectories  # noqa: E402

COUNTS = ["records", "successes", "failures", "unlabelled", "problems"]


def is_right(path, format, counts):
    """Whether a file is read in this format with these counts."""
    read = load_trajectories(path).table()
    return [
        (row["format"], *(int(row[name]) for name in COUNTS)) for _, row in read.iterrows()
    ] == [(format, *counts)]


def main():
    """Print the share, and which files are read wrongly."""
    with tempfile.TemporaryDirectory() as folder:
        made = [
            (case.write(Path(folder) / str(n)), case.format, case.counts)
            for n, case in enumerate([*small_cases(), *framework_cases()])
        ]
        real = list(real_cases(FOLDER))
        wrong = [
            path.name for path, format, counts in made + real if not is_right(path, format, counts)
        ]
    total = len(made) + len(real)
    more = {
        "files": total,
        "real": len(real),
        "formats": len({format for _, format, _ in made + real}),
        "wrong": wrong,
    }
    print(
        json.dumps(
            {"formats_right": {"value": round(1 - len(wrong) / total, 4), "unit": "share", **more}}
        )
    )


if __name__ == "__main__":
    main()
