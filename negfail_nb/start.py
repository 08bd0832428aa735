"""A project folder of one's own: the notebooks that come with the package, and a place for data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_HERE = Path(__file__).parent
START = "start.md"  # beside the notebooks: what JupyterLab opens first
README = """# A project of negfail_nb

- `notebooks/`: eight numbered notebooks; `negfail_nb lab .` opens them, `negfail_nb run` executes
  them all without a browser. Results go to `runs/` beside them.
- `data/`: logs of your own, files or folders in any format of `negfail_nb formats`. The profile
  `logs` reads them: `negfail_nb run --profile logs`, or `profile = "logs"` in a notebook. If it
  has a folder `trajectories`, only that one is read, and other data may lie beside it.
  The environment variable `NEGFAIL_NB_DATA` names another folder instead.
"""


def lab_environment() -> dict[str, str]:
    """Return the environment for JupyterLab: Markdown opens as a page, and ▶▶ runs all without
    asking. The user's own settings count more.
    """
    paths = [os.environ.get("JUPYTER_CONFIG_PATH", ""), str(_HERE / "jupyter")]
    return os.environ | {"JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, paths))}


def packaged_notebooks() -> list[Path]:
    """Return the numbered notebooks: of the installed package, or those beside its source."""
    for folder in (_HERE / "_notebooks", _HERE.parent / "notebooks"):
        if found := sorted(folder.glob("[0-9][0-9]_*.ipynb")):
            return found
    raise FileNotFoundError(f"no notebooks came with the package in {_HERE}; install it again")


def start_project(folder: str | Path) -> list[Path]:
    """Lay the notebooks, an empty ``data/`` and a short README into a folder.

    Parameters
    ----------
    folder
        Made if it is not there. What is in it stays as it is.

    Returns
    -------
    list of pathlib.Path
        The notebooks.

    Raises
    ------
    NotADirectoryError
        If there is a file of that name.
    FileExistsError
        If one of the notebooks is there with other content; nothing is written then.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder, which is made if need be")
    packaged = packaged_notebooks()
    files = [*packaged, packaged[0].with_name(START)]
    laid = {path: folder / "notebooks" / path.name for path in files}
    changed = [
        target.name
        for path, target in laid.items()
        if target.exists() and target.read_bytes() != path.read_bytes()
    ]
    if changed:
        raise FileExistsError(
            f"{folder / 'notebooks'} has {', '.join(changed)} with other content than this "
            "version's; move them away, or start in another folder"
        )
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    for path, target in laid.items():
        shutil.copyfile(path, target)
    readme = folder / "README.md"
    if not readme.exists():
        readme.write_text(README, encoding="utf-8")
    return [laid[path] for path in packaged]
