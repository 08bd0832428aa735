"""Make the pictures of README and gallery, and the gallery: ``make pictures``.

The notebooks of the named profiles are executed as they come, and their figures replace those in
``figures/``. Pictures of the notebooks in a browser are those that ``tests/test_browser.py`` left.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from negfail_nb.__main__ import main as command
from negfail_nb.kept import kept
from negfail_nb.notebooks import find_notebooks, read_parameters

HOME = Path(__file__).parents[1]
FIGURES = HOME / "figures"
BROWSER = HOME / "build" / "browser"
# Picture of the browser test: what it shows.
SHOTS = {
    "01_collect": "Notebook 01: a success and a failure of one question, side by side",
    "02_form": "Notebook 02: knobs, what differs from the profile, and the line that does the same",
    "03_prefix": "Notebook 03: which tokens carry loss (green), which are the label (orange)",
    "07_tradeoff": "Notebook 07: accuracy against a cost, with the numbers under the pointer",
}
# More questions than the default asks in its minutes: figures of a paper want narrow intervals.
SETTINGS = {"pocket": ("benchmark.questions=200",)}
TITLES = {
    "pocket": "A very small model in a generated world (`make run`)",
    "smollm": "SmolLM2-135M on public questions (`make run PROFILE=smollm`, `make experiment`)",
}
HEAD = """# Gallery

Made by `make pictures`. Each figure is in `figures/` as pdf and png, with its numbers as csv and
what made it as json; `negfail_nb.views.redraw` draws it again from its csv, at any width.
Intervals are 95 %.

One model is trained per *arm*. *vanilla* has successes only, *NUT* adds failures without a label,
*NAT* adds them with a label that says they failed (the *prefix* of the question), *NAT-k* sorts
failures into classes by a score. In notebooks 06 and 07 an arm is one way from a question to an
answer; *gold* passages are those that hold it.
"""
READ = {  # how to read a figure, by its name
    "01_outcomes": "A bar per log and task; behind it, the share of its runs that succeeded.",
    "02_failure_kinds": "In which ways runs fail; one run may fail in several.",
    "02_funnel": "How many runs each filter leaves, and in brackets how many it takes.",
    "02_scores": "How far failed runs got: at the right are those that nearly succeeded.",
    "03_lengths": "Tokens of the runs by label class; the title says what padding would cost.",
    "04_curves": "Loss of each arm against the tokens it has seen. Arms see other data, so their "
    "heights do not compare.",
    "05_arms": "Left: perplexity of held-out successes, lower is better. Right: the difference to "
    "vanilla; where its interval holds 0, which arm is better stays open.",
    "05_agents": "Left: how many held-out questions each agent answers. Right: the difference to "
    "vanilla, question by question; right of 0 is better.",
    "05_study": "Left: a dot with its interval over questions and seeds, open dots are seeds. "
    "Right: the difference to the first row; where its interval holds 0, no difference is seen.",
    "06_accuracy": "Long contexts along their length; beside them every other arm as a flat line.",
    "06_depths": "Accuracy by length and by where gold stands; darker is better, in brackets the "
    "number of questions.",
    "06_pairs": "Left: each arm. Right: its difference to the longest context, question by "
    "question; right of 0 is better.",
    "06_places": "Where gold stands in the contexts, a dot a passage; lines follow one question.",
    "06_retrieval": "How many of the gold passages are among the first k, for each way to search.",
    "06_types": "The arms on each type of question.",
    "07_answer": "Left: published accuracy (hollow) at predicted seconds, measured accuracy (full) "
    "at its own. Right: what a full server answers; above a level line, reading is the better one.",
    "07_card": "A GPU (here this processor) measured with a truncated model: dots; lines are "
    "predicted.",
    "07_costs": "Accuracy against other costs, up and left is better.",
    "07_ladders": "Points are published speeds of a 70B along the length, lines what is predicted "
    "for their hardware; none was used for a fit.",
    "07_published": "What others measured, and one's own long contexts (blue).",
    "07_speed": "Predicted for the named model and GPUs: where the lines cross, three steps of "
    "retrieval take as long as one long context.",
    "07_split": "Where the seconds of a question go.",
    "07_tradeoff": "Up and left is better. The black line is the best that can be had for at most "
    "this cost; faint arms are beaten by another one.",
    "08_checks": "Which sentences each check lets pass: of the blue dots all should, of the others "
    "none.",
    "08_verdicts": "Left: what the claims came to. Right: the measured margins; right of 0 is as "
    "claimed.",
}


def main(names: list[str]) -> None:
    """Walk the profiles of these names, take their figures, and write ``docs/gallery.md``."""
    for name in names:
        _take_figures(name)
    if names:
        subprocess.run([sys.executable, "-m", "pytest", "tests/test_browser.py"], cwd=HOME)
    for name in SHOTS:
        if (BROWSER / f"{name}.png").is_file():
            (FIGURES / "lab").mkdir(exist_ok=True)
            shutil.copyfile(BROWSER / f"{name}.png", FIGURES / "lab" / f"{name}.png")
    (HOME / "docs" / "gallery.md").write_text(gallery(), encoding="utf-8")


def _take_figures(name: str) -> None:
    changed = [p.name for p in find_notebooks(HOME / "notebooks") if read_parameters(p)["changes"]]
    if kept(HOME, name) or changed:
        raise ValueError(
            "pictures show the profiles as they come: move settings.json away, and empty "
            f"`changes` in {', '.join(changed) or 'no notebook'}"
        )
    settings = SETTINGS.get(name, ())
    sets = [word for setting in settings for word in ("--set", setting)]
    if command(["run", "--profile", name, "--home", str(HOME), *sets]):
        raise RuntimeError(f"the profile {name} was not walked")
    walked = f"{name}-own" if settings else name
    made = {p for p in (HOME / "runs" / walked / "figures").iterdir() if "explored" not in p.stem}
    for old in (FIGURES / name).glob("0*"):
        if old.name not in {path.name for path in made} and "study" not in old.stem:
            old.unlink()
    for path in sorted(made):
        shutil.copyfile(path, FIGURES / name / path.name)


def gallery() -> str:
    """Return the page: screenshots, and each figure with how to read it and what makes it."""
    parts = [HEAD, "## The notebooks in JupyterLab\n"]
    for name, title in SHOTS.items():
        if (FIGURES / "lab" / f"{name}.png").is_file():
            parts.append(f"![{title}](../figures/lab/{name}.png)\n\n{title}.\n")
    for profile, title in TITLES.items():
        parts.append(f"## {title}\n")
        parts += [_entry(path) for path in sorted((FIGURES / profile).glob("*.json"))]
    return "\n".join(parts)


def _entry(path: Path) -> str:
    record = json.loads(path.read_text(encoding="utf-8"))
    read = READ.get(path.stem) or READ["_".join(path.stem.split("_")[:2])]
    words = [read, *record.get("caption", "").splitlines()]
    place = _cell(path.stem)
    picture = f"../{path.relative_to(HOME).with_suffix('.png').as_posix()}"
    said = "\n".join(filter(None, words))
    return f"### {path.stem}\n\n![{record['title']}]({picture})\n\n{said} Made by {place}.\n"


def _cell(figure: str) -> str:
    """The notebook and the cell that save a figure."""
    for path in find_notebooks(HOME / "notebooks", [figure[:2]]):
        cells = nbformat.read(path, as_version=4).cells
        code = [cell.source for cell in cells if cell.cell_type == "code"]
        names = (f'"{figure}"', f"{{{figure.rpartition('_')[0]}", '"05_study_{study}"')
        found = [n for n, c in enumerate(code, 1) if any(name in c for name in names)]
        if found:
            return f"[{path.stem}](../notebooks/{path.name}), code cell {found[0]}"
    raise ValueError(f"no notebook saves {figure}; take it out of figures/")


if __name__ == "__main__":
    main(sys.argv[1:])
