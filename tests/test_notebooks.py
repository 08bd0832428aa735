"""The notebooks: thin, stripped, of one form; each runs headless without a hidden error."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
from conftest import SMALL
from matplotlib.figure import Figure

from negfail_nb.notebooks import (
    NotebookFailed,
    find_notebooks,
    run_notebook,
    walk_notebooks,
    with_parameters,
)
from negfail_nb.views import redraw

HOME = Path(__file__).parents[1]
NOTEBOOKS = find_notebooks(HOME / "notebooks")


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebooks_are_stripped_and_thin(path):
    notebook = read(path)
    cells = code(notebook)
    assert not any(c.outputs or c.execution_count for c in cells)
    assert "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"
    assert len(cells) <= 20
    for cell in cells:
        assert len(cell.source.splitlines()) <= 25
        assert max(map(len, cell.source.splitlines()), default=0) <= 120
        defined = [
            n
            for n in ast.walk(ast.parse(cell.source))
            if isinstance(n, ast.FunctionDef | ast.ClassDef)
        ]
        assert not defined and "/home/" not in cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_open_alike(path):
    cells = read(path).cells
    opening = cells[0].source
    assert opening.startswith(f"# {path.stem[:2]} ") and "?" in opening.splitlines()[0], (
        "a title that asks"
    )
    for word in ("**Question.**", "**In.**", "**Out.**", "**Time.**"):
        assert opening.count(word) == 1
    time = next(line for line in opening.splitlines() if "**Time.**" in line)
    assert (
        "two cores" in time and "GPU" in time and re.search(r"second|minute", time, re.IGNORECASE)
    )
    tagged = [i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", [])]
    assert tagged == [2] and cells[1].metadata.jupyter.source_hidden
    assert "if not importlib.util.find_spec" in cells[1].source
    names = [statement.targets[0] for statement in ast.parse(cells[2].source).body]
    assert [name.id for name in names[:3] if isinstance(name, ast.Name)] == [
        "profile",
        "home",
        "changes",
    ]
    for statement in ast.parse(cells[2].source).body:
        ast.literal_eval(statement.value)
    assert cells[3].source.startswith("import negfail_nb as nf\nfrom negfail_nb import views\n")
    assert "project = nf.open_project(profile, home, changes)" in cells[3].source


def test_a_python_without_the_package_gets_it_from_the_clone(monkeypatch, tmp_path):
    source = read(NOTEBOOKS[0]).cells[1].source
    asked = []
    monkeypatch.setattr("subprocess.run", lambda command, check: asked.append(command))
    monkeypatch.chdir(HOME / "notebooks")
    exec(source, {})
    assert asked == [], "it is here"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(source, {})
    assert asked[0][-1] == str(HOME.resolve()) and "install" in asked[0]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="clone the project"):
        exec(source, {})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_close_alike_and_lead_on(path):
    cells = read(path).cells
    closing = cells[-1].source
    assert closing.startswith("- **Written:** ") and closing.count("\n- **Next:** ") == 1
    written = closing.partition("\n- **Next:** ")[0]
    saved = re.findall(r'save_figure\([^"]*"(\w+)"', "\n".join(c.source for c in code(read(path))))
    assert saved, "a notebook leaves at least one figure"
    for name in saved:
        assert name in written or f"{path.stem[:2]}_study_*" in written, name
    place = [p.name for p in NOTEBOOKS].index(path.name)
    if place:
        assert f"]({NOTEBOOKS[place - 1].name})" in cells[0].source, "the opening leads back"
    if place + 1 < len(NOTEBOOKS):
        assert f"]({NOTEBOOKS[place + 1].name})" in closing, "the closing leads on"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_show_pictures_and_pages_and_print_nothing(path):
    source = "\n".join(c.source for c in code(read(path)))
    assert "print(" not in source
    assert "%" not in [c.source[:1] for c in code(read(path))] and "!pip" not in source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_of_notebooks_lead_somewhere(path):
    for cell in read(path).cells:
        for target in re.findall(
            r"\]\(([^)#]+)[^)]*\)", cell.source if cell.cell_type == "markdown" else ""
        ):
            assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.fixture(scope="module")
def home(walked):
    """A project folder of its own, walked once with small settings."""
    assert json.loads((walked / "walked.json").read_text(encoding="utf-8")) == [len(NOTEBOOKS), 0]
    return walked / "home"


def test_every_notebook_runs_and_leaves_its_figures(home):
    executed = home / "runs" / "pocket-own" / "notebooks"
    assert {p.stem for p in executed.glob("*.html")} == {p.stem for p in NOTEBOOKS}
    figures = home / "runs" / "pocket-own" / "figures"
    names = {p.stem for p in figures.iterdir()}
    assert {n[:2] for n in names} == {p.stem[:2] for p in NOTEBOOKS}
    origin = json.loads((figures / "01_outcomes.json").read_text(encoding="utf-8"))
    assert "kernel" not in origin["environment"]["command"], (
        "what started the walk, not the kernel's own arguments"
    )
    for name in names:
        assert {p.suffix for p in figures.glob(f"{name}.*")} == {".pdf", ".png", ".csv", ".json"}


def test_exported_pages_show_masks_and_runs_without_widgets(home):
    pages = home / "runs" / "pocket-own" / "notebooks"
    masks = (pages / "03_prefix.html").read_text(encoding="utf-8")
    assert (
        "border-bottom:2px solid #1b7a2f" in masks.replace(": ", ":") and "trained, token" in masks
    )
    assert "Reference" in (pages / "01_collect.html").read_text(encoding="utf-8")
    forms = (pages / "04_train.html").read_text(encoding="utf-8")
    assert "<b>epochs</b>" in forms and "passes over an arm" in forms
    for page in pages.glob("*.ipynb"):
        shown = [
            o.get("data", {}).get("text/plain", "") for c in code(read(page)) for o in c.outputs
        ]
        assert not [text for text in shown if re.search(r"\d+%\|", str(text))], (
            "no progress bars are left in a page"
        )


def test_every_figure_of_a_walk_can_be_drawn_again(home):
    """Byte for byte: `test_views_figures`. 07_published joins two tables in its csv, and is copied
    as it is.
    """
    drawn = [
        path
        for path in (home / "runs" / "pocket-own" / "figures").glob("*.csv")
        if path.stem != "07_published"
    ]
    assert len(drawn) > 15
    for path in drawn:
        assert isinstance(redraw(path), Figure), path.name


def test_a_second_walk_executes_nothing(home):
    walked = walk_notebooks("pocket", home, SMALL)
    assert (walked.executed, walked.reused) == (0, len(NOTEBOOKS))


def test_what_people_look_at_is_put_back(home):
    figure, page = (
        home / "runs" / "pocket-own" / "figures" / "01_outcomes.png",
        home / "runs" / "pocket-own" / "notebooks",
    )
    before = figure.read_bytes()
    figure.write_bytes(b"of another walk")
    (page / "01_collect.html").unlink()
    assert walk_notebooks("pocket", home, SMALL).executed == 0
    assert figure.read_bytes() == before and (page / "01_collect.html").is_file()


def test_a_notebook_runs_by_itself_from_what_is_on_disk(home):
    parameters = {"profile": "pocket", "home": "..", "changes": SMALL}
    assert run_notebook(
        home / "notebooks" / "05_evaluate.ipynb", home / "alone", parameters
    ).is_file()


def test_where_no_agent_is_asked_notebook_05_says_so(home):
    """As in the profiles ``logs`` and ``llama-8b``, before one sets how many questions."""
    evaluate = {**SMALL["evaluate"], "agent_questions": 0}
    parameters = {"profile": "pocket", "home": "..", "changes": {**SMALL, "evaluate": evaluate}}
    executed = run_notebook(home / "notebooks" / "05_evaluate.ipynb", home / "mute", parameters)
    assert "No agent was asked" in executed.with_suffix(".html").read_text(encoding="utf-8")


SWALLOWED = {
    "interactive output": "import ipywidgets as w\nw.interactive_output(lambda n: 1 / n, "
    "{'n': w.IntSlider(value=0)})",
    "button": "import ipywidgets as w\nb = w.Button()\nb.on_click(lambda _: 1 / 0)\nb.click()",
    "output widget": "import ipywidgets as w\nwith w.Output():\n    1 / 0",
    "a knob of ours": (
        "import ipywidgets as w\nfrom negfail_nb import views\n"
        "s = w.IntSlider(value=1)\nviews.explore(lambda n: 1 / n, n=s)\ns.value = 0"
    ),
    "a button of ours": (
        "from negfail_nb import views\n"
        "b = views.widgets.StartButton(lambda _: 1 / 0, lambda _: "
        "views.widgets.Cost(minutes=1))\nb.button.click()\nb.button.click()"
    ),
    "plain": "1 / 0",
}


@pytest.mark.parametrize("source", SWALLOWED.values(), ids=SWALLOWED)
def test_errors_that_widgets_swallow_fail_a_headless_run(tmp_path, source):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, tmp_path / "planted.ipynb")
    for _ in range(
        3
    ):  # seldom, nbclient waits for a kernel's first message; that is not tested here
        with pytest.raises(NotebookFailed) as failed:
            run_notebook(tmp_path / "planted.ipynb", tmp_path / "out", timeout=30)
        if "timed out" not in str(failed.value).lower():
            break
    assert re.search(r"planted\.ipynb failed(.|\n)*division by zero", str(failed.value))


def test_progress_bars_leave_no_trace_in_an_executed_notebook(tmp_path):
    source = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass\nprint('kept')"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / "bars.ipynb"
    )
    (cell,) = read(run_notebook(tmp_path / "bars.ipynb", tmp_path / "out", timeout=60)).cells
    assert [o.get("text") for o in cell.outputs] == ["kept\n"]


def test_an_unknown_parameter_is_refused():
    with pytest.raises(ValueError, match="has no parameter profil"):
        with_parameters(read(NOTEBOOKS[0]), {"profil": "pocket"})


def test_a_folder_without_notebooks_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no numbered notebooks in"):
        walk_notebooks("pocket", tmp_path)
