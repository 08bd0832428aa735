"""What tests share: no deadline of examples, and a project folder in which all notebooks were
walked once, small.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from negfail_nb.content import what_is_wrong
from negfail_nb.fetch import fetchable
from negfail_nb.notebooks import walk_notebooks
from negfail_nb.settings import DATA

HOME = Path(__file__).parents[1]
SMALL = {
    "collect": {"generate": 24},
    "train": {"budget": "steps", "steps": 3, "batch_tokens": 1024},
    "evaluate": {"resamples": 100, "agent_questions": 3},
    "benchmark": {"questions": 4},
    "contexts": {"lengths": [512, 1024]},
}

# No test asserts a time, and a busy machine would miss any deadline.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def real_data(name):
    """Return the path of a file or folder of real data; the test is skipped if there is none."""
    path = Path(os.environ.get(DATA) or HOME / "data") / name
    if not path.exists():
        pytest.skip(f"no {name} in the data folder; {DATA} says where it is")
    return path


@pytest.fixture(scope="session")
def walked(tmp_path_factory):
    """The folder of the walk: ``home`` as it was left, ``lab`` with the same runs for a browser,
    ``walked.json``.

    Of the processes that run tests, the first to ask walks, and the others wait for it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = shared / "walked"
    with FileLock(shared / "walked.lock"):
        if not (folder / "walked.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            _walk(folder)
    return folder


def _walk(folder):
    shutil.copytree(HOME / "notebooks", folder / "home" / "notebooks")
    done = walk_notebooks("pocket", folder / "home", SMALL)
    shutil.copytree(folder / "home" / "runs", folder / "lab" / "runs", copy_function=os.link)
    (folder / "walked.json").write_text(json.dumps([done.executed, done.reused]), encoding="utf-8")


@pytest.fixture(scope="session")
def smollm():
    """The folder of SmolLM2-135M-Instruct as ``negfail_nb fetch smollm`` left it; the test is
    skipped where that was not done.
    """
    folder = fetchable()["smollm"].wheel.folder
    if wrong := what_is_wrong(folder):
        pytest.skip(f"no {folder} ({wrong}); `negfail_nb fetch smollm` makes it")
    return folder
