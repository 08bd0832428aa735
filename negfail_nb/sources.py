"""Logs, questions and models of a project: its own, or those of the generated world."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from negfail_nb.agents import (
    CalculatorTool,
    EndpointModel,
    LocalModel,
    SearchTool,
    Task,
    Tool,
    collect,
    load_corpus,
    load_tasks,
)
from negfail_nb.benchmarking import served_window
from negfail_nb.logs import Logs
from negfail_nb.pocket import generate_logs, make_tasks
from negfail_nb.training import load_tokenizer

if TYPE_CHECKING:
    from negfail_nb.project import Project
    from negfail_nb.settings import CollectSettings, EvaluateSettings

SCRIPTED = "teacher"


def plays_live(project: Project) -> bool:
    """Whether the project's logs are made by a model, which takes long."""
    return not project.logs and project.collect.player != SCRIPTED


def make_logs(project: Project) -> Logs:
    """Return logs that the project makes itself: its player answers questions.

    The scripted teacher plays in a generated world, which takes seconds. A model, here or on a
    server, plays live into ``project.folder("collect")``; called again, it goes on.

    Raises
    ------
    negfail_nb.runs.NotWhole
        If the budget did not last for all episodes; what was played is kept.
    """
    settings = project.collect
    if settings.player == SCRIPTED:
        return _scripted(settings, project.live.results)
    tasks, tools = open_tasks(settings, settings.generate, "train", project.live.results)
    return collect(
        open_model(project, settings.player),
        tasks,
        tools,
        project.live,
        folder=project.folder("collect"),
        budget=project.budget,
        thoughts=project.prefix.thoughts,
    )


def _scripted(settings: CollectSettings, results: int) -> Logs:
    given = settings.generate, settings.attempts, settings.seed
    return Logs(tuple(generate_logs(*given, split="train", wordings="train", results=results)), ())


def open_tasks(
    settings: CollectSettings | EvaluateSettings, count: int, split: str = "train", results: int = 3
) -> tuple[list[Task], list[Tool]]:
    """Return questions to play and the tools for them: those of files, or of a generated world.

    Parameters
    ----------
    settings
        ``questions`` and ``corpus`` name files; ``seed`` is that of the generated world. Without a
        corpus there is no search.
    count
        How many questions are generated, 0: none; of a file, all are returned.
    split
        Of the generated world: ``"train"``, or ``"heldout"`` with names that no log has.
    results
        Passages that one search returns.

    Raises
    ------
    ValueError
        For a corpus without questions: a generated world has its own.
    """
    if settings.questions:
        search = [SearchTool(load_corpus(settings.corpus), results)] if settings.corpus else []
        return load_tasks(settings.questions), [*search, CalculatorTool()]
    if settings.corpus:
        raise ValueError(
            f"corpus is {settings.corpus}, but no file of questions is given; set questions too, "
            "or neither"
        )
    if not count:
        return [], []  # nobody is asked
    wordings = split if split == "train" else ""
    tasks, passages = make_tasks(count, settings.seed, split=split, wordings=wordings)
    return tasks, [SearchTool(passages, results), CalculatorTool()]


def open_model(
    project: Project, player: str = "model", name: str = ""
) -> EndpointModel | LocalModel:
    """Return who plays or reads: the project's endpoint, or a model on this machine.

    Weights are loaded when they are first needed.

    Parameters
    ----------
    player
        ``"endpoint"`` or ``"model"``.
    name
        A model of this machine or the hub; empty: ``model.name``. For an endpoint: the model whose
        tokenizer counts its tokens, and whose config says how many it takes; empty: none.

    Raises
    ------
    ValueError
        If no setting names the model.
    """
    settings = replace(project.model, name=name) if name else project.model
    if player == "endpoint":
        model = EndpointModel(project.endpoint)
        if name:
            model.tokenizer = load_tokenizer(settings)
            model.window = served_window(name)
        return model
    if not settings.name:
        raise ValueError(
            "model.name is empty, so no model can play or read; name one: a hub id or a folder"
        )
    return LocalModel.open(
        settings,
        dtype=project.train.dtype,
        chat_template=project.prefix.chat_template,
        concurrency=project.live.concurrency,
    )
