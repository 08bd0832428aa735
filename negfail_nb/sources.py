"""Logs, questions and models of a project: its own, or those of the generated world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from negfail_nb.agents import (
    CalculatorTool,
    EndpointModel,
    LocalModel,
    SearchTool,
    Task,
    Tool,
    collect,
    demonstrate,
    divide,
    load_corpus,
    load_tasks,
)
from negfail_nb.agents.tasks import read_passages
from negfail_nb.benchmarking import served_window
from negfail_nb.data_sets import read_asked
from negfail_nb.duplicates import rank
from negfail_nb.logs import Logs
from negfail_nb.pocket import generate_logs, make_tasks
from negfail_nb.prefix import render
from negfail_nb.training import TrainedRun, load_tokenizer, train

if TYPE_CHECKING:
    from negfail_nb.agents import Model
    from negfail_nb.project import Project
    from negfail_nb.settings import CollectSettings, EvaluateSettings, LiveSettings

SCRIPTED = "teacher"


def plays_live(project: Project) -> bool:
    """Whether the project's logs are made by a model, which takes long."""
    return not project.logs and project.collect.player != SCRIPTED


def make_logs(project: Project) -> Logs:
    """Return logs that the project makes itself: its player answers questions.

    The scripted teacher plays in a generated world, which takes seconds. A model, here or on a
    server, plays live into ``project.folder("collect")``; called again, it goes on. With
    ``collect.demonstrations`` it knows the form first, see `warm_start`.

    Raises
    ------
    negfail_nb.runs.NotWhole
        If the budget did not last for all episodes; what was played is kept.
    ValueError
        If there are fewer questions or worked solutions than asked for.
    """
    settings = project.collect
    if settings.demonstrations:
        return warm_start(project).play()
    if settings.player == SCRIPTED:
        given = settings.generate, project.live.attempts, settings.seed
        same = {"split": "train", "wordings": "train", "results": project.live.results}
        return Logs(tuple(generate_logs(*given, **same)), ())
    tasks, tools = open_tasks(
        settings, settings.generate, "train", project.live.results, project.data
    )
    return _play(project, open_model(project, settings.player), tasks, tools, project.live)


@dataclass(frozen=True, slots=True)
class WarmStart:
    """How a player comes to know the form of the logs (arXiv 2402.11651, section 3).

    The paper's player is GPT-3.5, which follows instructions; so does an endpoint here. A small
    model is tuned on worked solutions of some questions instead. Either plays the same others.

    Attributes
    ----------
    project
        Whose logs are made.
    demonstrations
        The worked solutions that it is tuned on; what is none is among their problems, with the
        reason.
    tasks, tools
        What it plays then. No question is, or nearly is, one of the demonstrations or one that
        agents are evaluated on.
    """

    project: Project
    demonstrations: Logs
    tasks: tuple[Task, ...]
    tools: tuple[Tool, ...]

    def train(self) -> TrainedRun:
        """Tune the model, or open it if it is there; as long as the arms (``train.epochs``)."""
        project = self.project
        tokenizer = load_tokenizer(project.model)
        data = render(self.demonstrations, "none", tokenizer, project.prefix)
        settings = replace(project.train, budget="epochs", seed=project.collect.seed)
        folder = project.folder("warm-start")
        return train(data, settings, model=project.model, lora=project.lora, folder=folder)

    def play(self) -> Logs:
        """Let the tuned model, or the instructed endpoint, play; called again, it goes on."""
        project = self.project
        if project.collect.player == "endpoint":
            told = replace(project.live, instruction=True)
            return _play(project, open_model(project, "endpoint"), self.tasks, self.tools, told)
        player = open_tuned(project, self.train(), "warm-start")
        return _play(project, player, self.tasks, self.tools, project.live)


def warm_start(project: Project) -> WarmStart:
    """Divide the questions of the project into worked demonstrations and those that are played.

    Raises
    ------
    ValueError
        If the scripted teacher plays, no questions are given, or there are fewer than asked for.
    """
    settings = project.collect
    if settings.player == SCRIPTED or not settings.questions:
        raise ValueError(
            f"collect.demonstrations is {settings.demonstrations}, with collect.player "
            f"{settings.player!r} and collect.questions {list(settings.questions)}: a warm start "
            'needs the player "model" or "endpoint", and questions that come with solutions, such '
            "as svamp/train; for the teacher set collect.demonstrations to 0"
        )
    tasks, tools = open_tasks(settings, 0, "train", project.live.results, project.data)
    given = {"tools": tools, "settings": project.live, "data": project.data}
    worked = [demonstrate(s, part=_part_of(s, "train"), **given) for s in settings.questions]
    solved = {t.question_id: t for logs in worked for t in logs}
    asked = open_tasks(project.evaluate, 0, "heldout", data=project.data)[0]
    parts = divide(
        tasks,
        {"demonstrations": settings.demonstrations, "played": settings.generate},
        settings.seed,
        only={"demonstrations": solved},
        apart_from=asked if project.evaluate.questions else (),
        similarity=project.quality.leak_similarity,
    )
    chosen = Logs(
        tuple(solved[task.id] for task in parts["demonstrations"]),
        tuple(problem for logs in worked for problem in logs.problems),
    )
    return WarmStart(project, chosen, tuple(parts["played"]), tuple(tools))


def _play(
    project: Project,
    player: Model,
    tasks: Sequence[Task],
    tools: Sequence[Tool],
    settings: LiveSettings,
) -> Logs:
    return collect(
        player,
        tasks,
        tools,
        settings,
        folder=project.folder("collect"),
        budget=project.budget,
        thoughts=project.prefix.thoughts,
    )


def open_tasks(
    settings: CollectSettings | EvaluateSettings,
    count: int,
    split: str = "train",
    results: int = 3,
    data: str | Path = "",
) -> tuple[list[Task], list[Tool]]:
    """Return questions to play and the tools for them: those of files, or of a generated world.

    Parameters
    ----------
    settings
        ``questions`` names files or data sets, ``corpus`` a file of passages; ``seed`` is that of
        the generated world. Without a corpus, the passages that come with questions are searched;
        without any there is no search.
    count
        How many questions are generated, 0: none. Given questions are all returned, those of
        several sources in turn, so that the first of them are equal shares.
    split
        ``"train"``, or ``"heldout"``: of the generated world, names that no log has; of a data set
        without a part in its name, its test part.
    results
        Passages that one search returns.
    data
        Folder of data sets, as for `negfail_nb.agents.load_tasks`.

    Raises
    ------
    ValueError
        For a corpus without questions: a generated world has its own.
    """
    if settings.questions:
        part = "train" if split == "train" else "test"
        named = [(name, _part_of(name, part)) for name in settings.questions]
        passages = (
            load_corpus(settings.corpus, data=data) if settings.corpus else _passages(named, data)
        )
        search = [SearchTool(passages, results)] if passages else []
        asked = [sorted(load_tasks(n, part=p, data=data), key=_rank) for n, p in named]
        tasks = [task for turn in zip_longest(*asked) for task in turn if task]
        return tasks, [*search, CalculatorTool()]
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


def _part_of(source: str, part: str) -> str:
    """The part of a data set that is meant, unless its name says so."""
    return "" if "/" in source else part


def _passages(named: Sequence[tuple[str, str]], data: str | Path) -> list[tuple[str, str]]:
    """The passages that come with questions, each once."""
    records = [record for name, part in named for record in read_asked(name, part, data)]
    found = (read_passages(record) for record in records if "context" in record)
    return list(dict.fromkeys(passage for passages in found for passage in passages))


def _rank(task: Task) -> bytes:
    """The same random-looking order on every machine, so that any number of first ones is fair."""
    return rank(0, task.question)


def open_tuned(project: Project, run: TrainedRun, name: str) -> LocalModel:
    """Return a model that the project has trained, under a name for its records."""
    return LocalModel.open(
        run,
        name=name,
        chat_template=project.prefix.chat_template,
        concurrency=project.live.concurrency,
    )


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
