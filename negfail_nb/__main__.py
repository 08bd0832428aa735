"""The command line: ``python -m negfail_nb run`` walks the notebooks, one verb a stage does the
same headless.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from negfail_nb.secrets import redact
from negfail_nb.settings import profiles
from negfail_nb.trajectory import printable

FAILURE = 1
SCORED = (
    "arm",
    "questions",
    "em",
    "em_low",
    "em_high",
    "f1",
    "joint_f1",
    "gold_found",
    "parse_failure_rate",
)
SCORED += (
    "plain_answers",
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "seconds",
)  # of one question


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s"
    )
    try:
        options.command(options)
    except (ValueError, OSError, RuntimeError) as error:
        if options.verbose:
            raise
        _say(f"negfail_nb: {error}", sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        _say("stopped; what is finished stays, and the same command goes on from there", sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="negfail_nb", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("run", _run, "execute the notebooks; leave figures and executed notebooks behind"),
        ("doctor", _doctor, "say what this machine has, and what is missing for what"),
        ("collect", _stage, "01: read or generate logs"),
        ("quality", _stage, "02: why runs failed; filter and split"),
        ("prefix", _stage, "03: label and tokenise"),
        ("train", _stage, "04: fine-tune every arm"),
        ("evaluate", _stage, "05: compare the arms on held-out successes"),
        (
            "agents",
            _agents,
            "05: let each arm's agent answer held-out questions, live, and compare them",
        ),
        (
            "benchmark",
            _benchmark,
            "06: the cost of long contexts against retrieval, then their scores",
        ),
        (
            "claims",
            _claims,
            "08: judge claims from their sources and the tables of notebooks 05 to 07; write the report",
        ),
        ("experiment", _experiment, "05: the paper's studies, each with several seeds"),
        (
            "paper",
            _paper,
            "put all figures of a profile into one folder, in a venue's size, with LaTeX snippets",
        ),
        ("settings", _settings, "print every setting with its help text"),
        (
            "formats",
            _formats,
            "print which formats of logs can be read, and what their records must hold",
        ),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command, stage=name)
        sub.add_argument(
            "--profile", default="pocket", help=f"{', '.join(profiles())} (default: pocket)"
        )
        sub.add_argument(
            "--home", type=Path, default=Path(), help="project folder (default: this one)"
        )
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="STAGE.SETTING=JSON",
            help="change one setting",
        )
        sub.add_argument(
            "--verbose", action="store_true", help="say more, and show whole tracebacks"
        )
        if name == "run":
            sub.add_argument("--force", action="store_true", help="execute again what is done")
        if name in ("settings", "formats"):
            sub.add_argument("--markdown", action="store_true", help=f"the page docs/{name}.md")
        if name == "paper":
            sub.add_argument(
                "--venue", default="neurips", help="whose sizes, such as icml (default: neurips)"
            )
            sub.add_argument(
                "--part", default="text", help="column, or text: the whole width (default: text)"
            )
            sub.add_argument("--out", type=Path, help="folder (default: runs/PROFILE/paper)")
        if name == "experiment":
            sub.add_argument(
                "--seeds",
                default="0,1,2,3,4",
                help="seeds of sampling and training (default: 0,1,2,3,4)",
            )
            sub.add_argument(
                "--studies", default="", help="some of the studies, comma-separated (default: all)"
            )
            sub.add_argument(
                "--workers",
                type=int,
                default=1,
                help="cells at once, each in a process (default: 1)",
            )
            sub.add_argument(
                "--out",
                type=Path,
                default=Path("results"),
                help="folder of the tables, in the project",
            )
    return parser


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


def _run(options: argparse.Namespace) -> None:
    from negfail_nb.notebooks import walk_notebooks

    walked = walk_notebooks(options.profile, options.home, _changes(options.set), options.force)
    _say(f"{walked.executed} notebooks executed, {walked.reused} reused, profile {walked.profile}")
    _say(f"executed notebooks: {walked.notebooks}  (open the .html in a browser)")
    _say(f"figures:            {walked.figures}")


def _stage(options: argparse.Namespace) -> None:
    from negfail_nb.walk import open_walk

    walk = open_walk(options.profile, options.home, _changes(options.set))
    result = getattr(walk, options.stage)()
    if options.stage == "evaluate":
        _say(result.round(4).to_string(index=False))
    else:
        _say(
            "\n".join(f"{k}: {v!r}" for k, v in result.items())
            if isinstance(result, dict)
            else repr(result)
        )
    for folder in walk.folders(options.stage):
        _say(f"run folder: {folder}")


def _agents(options: argparse.Namespace) -> None:
    from negfail_nb.evaluation import compare_agents
    from negfail_nb.walk import open_walk

    walk = open_walk(options.profile, options.home, _changes(options.set))
    scores = walk.agents()
    if not scores:
        raise ValueError(
            "evaluate.agent_questions is 0, so no agent is asked; set how many questions"
        )
    _say(
        compare_agents(scores, walk.profile.evaluate, walk.profile.train.arms[0])
        .round(4)
        .to_string(index=False)
    )
    for folder in walk.folders("agent"):
        _say(f"run folder: {folder}")


def _benchmark(options: argparse.Namespace) -> None:
    from negfail_nb.benchmarking.opening import estimate_grid
    from negfail_nb.walk import open_walk

    walk = open_walk(options.profile, options.home, _changes(options.set))
    cost = estimate_grid(walk.resolved(), walk.home)
    _say(f"cost, were nothing asked yet:\n{cost.table.to_string(index=False)}\n{cost}")
    _say(
        walk.benchmark()
        .scores.by(settings=walk.profile.evaluate)[list(SCORED)]
        .round(4)
        .to_string(index=False)
    )
    for folder in walk.folders("benchmark"):
        _say(f"run folder: {folder}")


def _claims(options: argparse.Namespace) -> None:
    from negfail_nb.claims.opening import write_profile_report
    from negfail_nb.walk import open_walk

    walk = open_walk(options.profile, options.home, _changes(options.set))
    judged = walk.claims()
    shown = judged.checked.table[["claim", "measured", "value", "low", "high", "written", "tier"]]
    _say(shown.round(4).to_string(index=False, na_rep=""))
    for problem in judged.checked.problems:
        _say(f"problem: {problem}")
    report = write_profile_report(judged, walk)
    _say(
        f"review: {judged.review.rounds[-1].score} of 10, {'passed' if judged.review.passed else 'not passed'}"
    )
    _say(f"report: {report.html}")
    for folder in walk.folders("claims"):
        _say(f"run folder: {folder}")


def _experiment(options: argparse.Namespace) -> None:
    from negfail_nb.studies import paper_studies, sweep
    from negfail_nb.walk import open_walk

    train = open_walk(options.profile, options.home, _changes(options.set)).profile.train
    studies = paper_studies(train.successes or 60, train.failures or 240)
    wanted = [name for name in options.studies.split(",") if name]
    chosen = [c for c in studies if not wanted or c.study in wanted]
    if not chosen:
        known = ", ".join(dict.fromkeys(c.study for c in studies))
        raise ValueError(f"--studies {options.studies}: no such study; there are {known}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    swept = sweep(
        chosen, seeds, options.profile, options.home, _changes(options.set), options.workers
    )
    folder = swept.save(options.home / options.out)
    for study in dict.fromkeys(c.study for c in chosen):
        _say(f"{study}\n{swept.compare(study).round(4).to_string(index=False)}")
    _say(f"tables: {folder}")


def _paper(options: argparse.Namespace) -> None:
    from negfail_nb.views import collect_figures
    from negfail_nb.walk import open_walk

    walk = open_walk(options.profile, options.home)
    folder = options.out or walk.home / "runs" / walk.profile.name / "paper"
    paper = collect_figures(walk.figures, folder, options.venue, options.part)
    _say(
        f"{len(paper.figures)} figures for {options.venue}: {paper.folder}  (\\input{{figures.tex}})"
    )
    if paper.old:
        _say(
            f"in their old size, as an older version saved them: {', '.join(paper.old)}; `make run` draws them anew"
        )


def _doctor(options: argparse.Namespace) -> None:
    from negfail_nb.doctor import examine

    _say(examine(options.home))


def _settings(options: argparse.Namespace) -> None:
    from negfail_nb.settings import describe, settings_page
    from negfail_nb.walk import open_walk

    if options.markdown:
        sys.stdout.write(settings_page())
        return
    _say(
        describe(open_walk(options.profile, options.home, _changes(options.set)).profile).to_string(
            index=False
        )
    )


def _formats(options: argparse.Namespace) -> None:
    from negfail_nb.logs.registry import formats_table

    page = formats_table()
    sys.stdout.write(page if options.markdown else page[page.index("| format") :])


def _say(line: str, stream: Any = None) -> None:
    (stream or sys.stdout).write(
        printable(redact(line)) + "\n"
    )  # text of logs and servers may stand in it


if __name__ == "__main__":
    sys.exit(main())
