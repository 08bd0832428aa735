"""Running the notebooks headless, so that what a reader will see was seen to work.

A widget's callback that raises leaves a notebook green: the error stands in the widget's state or
in an output, and the execution goes on. So a run here fails on any error that can be found anywhere
in the notebook.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import nbformat
from tqdm.auto import tqdm

from negfail_nb import runs
from negfail_nb.environment import COMMAND, environment
from negfail_nb.kept import merged
from negfail_nb.project import Project, open_project
from negfail_nb.secrets import check_no_secret
from negfail_nb.settings import Profile, get_profile
from negfail_nb.source import package_hash
from negfail_nb.swept import PACKAGED as STUDIES

WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
BAR_OF_ALL = "{desc}{percentage:3.0f} %|{bar}| {elapsed} passed, about {remaining} left"
QUICK = 10.0  # seconds of a notebook that only reads and draws
BAR = re.compile(r"^.*\d+%\|")  # a progress bar, as a page without widgets shows it


@dataclass(frozen=True, slots=True)
class Walked:
    """What `walk_notebooks` did, and where it left things: a folder with ``notebooks`` and
    ``figures``, or several if the notebooks have different profiles.
    """

    executed: int
    reused: int
    results: tuple[Path, ...]


class NotebookFailed(RuntimeError):
    """A notebook raised, in a cell or inside a widget."""


def walk_notebooks(
    profile: str = "",
    home: str | Path = ".",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    force: bool = False,
    only: Sequence[str] = (),
    before: Callable[[str, Project], None] = lambda number, project: None,
    seconds: Mapping[str, float] | None = None,
) -> Walked:
    """Execute the numbered notebooks of a project in order.

    A notebook that was executed with the same settings, files and package is not executed again.

    Parameters
    ----------
    profile
        The name of one; empty: the one that each notebook's parameters cell names.
    home, changes
        As `negfail_nb.open_project` takes them. What a notebook's parameters cell changes counts as
        well, except where ``changes`` says otherwise.
    force
        Execute again what is done.
    only
        How the names of the wanted notebooks begin, such as ``"04"``; none: all.
    before
        Called with a notebook's number, such as ``"04"``, and its project before it is executed:
        what takes long can be done here, with its progress bars, and the notebook finds it done.
    seconds
        About how long each notebook takes, by number: the progress bar shows shares of all of it.

    Raises
    ------
    NotebookFailed
        At the first notebook that fails.
    ValueError
        If a parameters cell cannot be read.
    """
    planned = plan_notebooks(profile, home, changes, only)
    executed: list[str] = []
    expected = [(seconds or {}).get(path.name[:2], QUICK) for path, _ in planned]
    with tqdm(total=round(sum(expected)), bar_format=BAR_OF_ALL) as bar:
        for (path, project), share in zip(planned, expected, strict=True):
            bar.set_description(path.stem)
            if _walk(path, project, force, before):
                executed.append(path.name)
            bar.update(round(share))
    places = tuple(dict.fromkeys(project.results for _, project in planned))
    return Walked(len(executed), len(planned) - len(executed), places)


def plan_notebooks(
    profile: str = "",
    home: str | Path = ".",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    only: Sequence[str] = (),
) -> list[tuple[Path, Project]]:
    """Return the notebooks that `walk_notebooks` executes, each with its project."""
    planned = []
    if profile:
        get_profile(profile, home)  # a wrong name is said before anything else
    for path in find_notebooks(Path(home) / "notebooks", only):
        own = read_parameters(path)
        both = merged(own.get("changes", {}), changes or {})
        planned.append((path, open_project(profile or own.get("profile", "pocket"), home, both)))
    return planned


def _walk(
    path: Path, project: Project, force: bool, before: Callable[[str, Project], None]
) -> bool:
    """Execute one notebook, unless that was done; return whether it was executed now."""
    executed = []

    def execute(run: runs.Run) -> dict[str, str]:
        given = {"profile": project.profile.name, "home": "..", "changes": project.changes}
        before(path.name[:2], project)
        run_notebook(path, run.folder, given)
        _copy(project.figures, run.path("figures"), f"{path.stem[:2]}_*")
        executed.append(path.name)
        return {"notebook": path.name}

    place, settings, inputs, source = _plan(path, project)
    run = runs.make(place, settings, execute, inputs, source, force)
    # What people look at shows this walk, even if another one with other settings came between.
    _copy(run.folder, project.results / "notebooks", f"{path.stem}.*")
    _copy(run.path("figures"), project.figures, "*")
    return bool(executed)


def is_walked(path: Path, project: Project) -> bool:
    """Whether a notebook was executed with the same settings, files and package."""
    return runs.finished(*_plan(path, project)) is not None


def _plan(path: Path, project: Project) -> tuple[runs.Place, dict[str, Any], dict[str, Path], str]:
    settings = {f.name: getattr(project, f.name) for f in fields(Profile) if f.name != "name"}
    inputs = {"notebook": path} | ({"studies": STUDIES} if STUDIES.is_dir() else {})
    return project.folder(f"notebook-{path.stem}"), settings, inputs, package_hash()


def read_parameters(path: str | Path) -> dict[str, Any]:
    """Return what the parameters cell of a notebook sets; nothing is executed.

    Raises
    ------
    ValueError
        If it sets something that is not written out; the text names the notebook and the name.
    """
    cells = nbformat.read(path, as_version=4).cells
    tagged = (c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    found = {}
    try:
        lines = ast.parse(next(tagged, "")).body
    except SyntaxError as error:
        raise ValueError(f"{Path(path).name}, parameters cell: {error}; correct it") from None
    for line in lines:
        if not (isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)):
            continue
        name = line.targets[0].id
        try:
            found[name] = ast.literal_eval(line.value)
        except ValueError:
            raise ValueError(
                f"{Path(path).name}, parameters cell: {name} = {ast.unparse(line.value)} is not "
                "written out; write values only, or set them on the command line with --set"
            ) from None
    return found


def _copy(source: Path, target: Path, pattern: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob(pattern)):
        shutil.copyfile(path, target / path.name)


def find_notebooks(folder: str | Path, only: Sequence[str] = ()) -> list[Path]:
    """Return the numbered notebooks of a folder, in order.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    paths = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))
    found = [path for path in paths if path.name.startswith(tuple(only) or "")]
    if not found:
        raise FileNotFoundError(
            f"no numbered notebooks in {folder}; start this in the project's folder, or set --home "
            "(`negfail_nb start FOLDER` makes such a folder)"
        )
    return found


def run_notebook(
    path: str | Path,
    output: str | Path,
    parameters: Mapping[str, Any] | None = None,
    timeout: int | None = None,
) -> Path:
    """Execute a notebook top to bottom and write it, with its outputs, as .ipynb and .html.

    Parameters
    ----------
    path
        The notebook; its own folder is the working directory.
    output
        Folder for the executed notebook; it is written where the notebook fails, too.
    parameters
        Literals set in a new cell behind the one tagged ``parameters``; they take its place.
    timeout
        Seconds that one cell may take; ``None``: as long as it needs.

    Returns
    -------
    pathlib.Path
        The executed notebook.

    Raises
    ------
    NotebookFailed
        Where a cell or a widget's callback raised; the text names the notebook and holds the
        traceback.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    path = Path(path)
    output = Path(output)
    notebook = with_parameters(nbformat.read(path, as_version=4), parameters or {})
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": path.parent}},
        extra_arguments=["--IPKernelApp.log_level=40"],
    )
    raised = ""
    try:
        with _headless():
            client.execute()
    except (CellExecutionError, DeadKernelError, TimeoutError) as error:
        raised = str(error)
    executed = _write(_without_bars(notebook), output / path.name)
    problems = [raised] if raised else list(find_errors(notebook))
    if problems:
        raise NotebookFailed(f"{path.name} failed; see {executed}\n" + "\n".join(problems))
    return executed


def with_parameters(
    notebook: nbformat.NotebookNode, parameters: Mapping[str, Any]
) -> nbformat.NotebookNode:
    """Return the notebook with a cell that sets ``parameters``, behind the cell tagged
    ``parameters``.

    Raises
    ------
    ValueError
        Where a parameter is set that the notebook does not have, or one holds what looks like a
        secret.
    """
    if not parameters:
        return notebook
    place = next(
        i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])
    )
    unknown = [name for name in parameters if f"{name} =" not in notebook.cells[place].source]
    if unknown:
        raise ValueError(
            f"the notebook has no parameter {', '.join(unknown)}:\n{notebook.cells[place].source}"
        )
    lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    check_no_secret("a parameter of the notebook", lines)
    cell = nbformat.v4.new_code_cell(lines, metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(place + 1, cell)
    return notebook


def find_errors(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """Yield every error in a notebook's outputs, and those that widgets swallowed."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                yield f"cell {index}: {output.ename}: {output.evalue}"
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for name, widget in state.items():
        for output in widget["state"].get("outputs", ()):
            if output.get("output_type") == "error":
                yield f"widget {name}: {output['ename']}: {output['evalue']}"


def _without_bars(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take progress bars out of the outputs; bars that are widgets do not heed ``TQDM_DISABLE``."""
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if not _is_bar(o.get("data", {}))]
    return notebook


def _is_bar(data: Mapping[str, Any]) -> bool:
    return WIDGET_VIEW in data and bool(BAR.match(data.get("text/plain", "")))


@contextmanager
def _headless() -> Iterator[None]:
    """Quiet and offline-safe kernels: no progress bars in the outputs, no drawing window."""
    wanted = {
        COMMAND: environment()["command"],
        "TQDM_DISABLE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _write(notebook: nbformat.NotebookNode, path: Path) -> Path:
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    # nbconvert complains about pictures without alternative text on every figure; a logger of its
    # own keeps that down.
    quiet = logging.Logger("nbconvert", level=logging.ERROR)
    # A page has no kernel: what a widget would show is taken from its static twin.
    shown = ["text/html", "image/svg+xml", "image/png", "text/markdown", "text/latex", "text/plain"]
    config = Config({"NbConvertBase": {"display_data_priority": shown}})
    exporter = HTMLExporter(config=config, embed_images=True, log=quiet)
    exporter.register_filter("escape_html_script", _in_script)
    html, _ = exporter.from_notebook_node(notebook)
    path.with_suffix(".html").write_text(html, encoding="utf-8")
    return path


def _in_script(text: str) -> str:
    """Return JSON as it may stand in a script element: of a log's "<!--", "<script" and "</script"
    nothing is left.

    nbconvert's own escapes the slash alone, and behind "<!--" and "<script" a browser takes the
    rest of a page as data.
    """
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
