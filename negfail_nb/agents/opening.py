"""Agents of a profile at work: live collection (01) and the agents of the arms (05), with the same
tools.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.agents import EndpointModel, LocalModel, Task, collect, load_corpus, load_tasks
from negfail_nb.agents.tools import CalculatorTool, SearchTool, Tool
from negfail_nb.evaluation import AgentScores, evaluate
from negfail_nb.logs import Logs
from negfail_nb.pocket import make_tasks
from negfail_nb.runs import NotWhole
from negfail_nb.settings import Profile

if TYPE_CHECKING:
    from negfail_nb.prefix.templates import Template
    from negfail_nb.training import TrainedRun


def play(profile: Profile, model: Any, home: Path, file: str | Path) -> Logs:
    """01: let a model play the profile's questions, live; see `negfail_nb.agents.live.collect`.

    Parameters
    ----------
    profile
        ``collect`` says which questions and corpus, ``live`` how they are played.
    model
        See `open_player`.
    home
        The folder that paths in settings start from.
    file
        Where the episodes go; called again, it goes on from there.

    Raises
    ------
    NotWhole
        Where the budget did not reach for all episodes. Raise it and call again: nothing is played
        twice.
    """
    settings = profile.collect
    given = settings.questions, settings.corpus, settings.generate, settings.seed
    tasks, tools = find_tasks(*given, "train", home, profile.live.results)
    more = {"budget": profile.budget, "thoughts": profile.prefix.thoughts}
    logs = collect(model, tasks, tools, profile.live, file=file, **more)
    _check_whole(logs, file)
    return logs


def ask(
    profile: Profile, model: Any, template: Template, home: Path, file: str | Path, seed: int = 0
) -> AgentScores:
    """05: let an agent answer the questions of the evaluation once each, under an arm's prompt of
    inference.

    Parameters
    ----------
    model
        The agent, see `open_agent`.
    template
        The arm's label template.
    seed
        Of the training run that made the agent.

    Raises
    ------
    NotWhole
        As `play`.
    """
    settings = profile.evaluate
    given = settings.questions, settings.corpus, settings.agent_questions, settings.seed
    tasks, tools = find_tasks(*given, "heldout", home, profile.live.results)
    prompted = [
        replace(t, prompt=template.inference(t.question, t.task))
        for t in tasks[: settings.agent_questions]
    ]
    once = replace(profile.live, attempts=1, temperatures=(settings.temperature,))
    more = {"budget": profile.budget, "thoughts": profile.prefix.thoughts}
    scores = evaluate(model, prompted, tools, settings, once, file=file, seed=seed, **more)
    _check_whole(scores, file)
    return scores


def _check_whole(made: Logs | AgentScores, file: str | Path) -> None:
    """What was left out may be what is hard, so a part is not taken for the whole."""
    if made.missing:
        raise NotWhole(
            f"{made.missing} episodes were not played, as the budget is spent; raise budget.episodes, budget.tokens or "
            f"budget.money, whichever is set, and call again: what was played is kept in {file}"
        )


def open_player(profile: Profile) -> Any:
    """Return who plays in live collection: the profile's endpoint, or its model, untuned."""
    return (
        EndpointModel(profile.endpoint)
        if profile.collect.player == "endpoint"
        else open_agent(profile)
    )


def open_agent(profile: Profile, run: TrainedRun | None = None, arm: str = "") -> LocalModel:
    """Return an agent on this machine, on the accelerator where there is one.

    Parameters
    ----------
    profile
        Its model plays as it is where there is no ``run``.
    run
        A tuned model.
    arm
        What the tuned model is called in its records (``source.model``); empty: as the run's
        folder.
    """
    import torch

    from negfail_nb.training import load_model, load_tokenizer

    chat, concurrency = profile.prefix.chat_template, profile.live.concurrency
    if run is not None:
        return LocalModel(
            run.load(), run.tokenizer(), arm or run.folder.name, chat, concurrency=concurrency
        )
    tokenizer = load_tokenizer(profile.model)
    model = load_model(profile.model, tokenizer, profile.train.dtype)
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    return LocalModel(model, tokenizer, profile.model.name, chat, concurrency=concurrency)


def find_tasks(
    questions: str, corpus: str, count: int, seed: int, split: str, home: Path, results: int = 3
) -> tuple[list[Task], list[Tool]]:
    """Return the questions of a file and tools for them, or those of a generated world.

    Parameters
    ----------
    questions, corpus
        Files, seen from ``home``; without questions, ``count`` are generated for a split of names.
        Without a corpus there is no search.

    Raises
    ------
    ValueError
        For a corpus without questions: a generated world has its own.
    """
    if questions:
        tools: list[Tool] = [SearchTool(load_corpus(home / corpus), results)] if corpus else []
        return load_tasks(home / questions), [*tools, CalculatorTool()]
    if corpus:
        raise ValueError(
            f"corpus is {corpus}, but no file of questions is given; set questions too, or neither"
        )
    wordings = split if split == "train" else ""
    tasks, passages = make_tasks(count, seed, split=split, wordings=wordings)
    return tasks, [SearchTool(passages, results), CalculatorTool()]
