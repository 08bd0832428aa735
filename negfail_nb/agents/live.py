"""01: episodes are played live, many at once, into a file that survives any interruption."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from negfail_nb.agents.protocol import Model, Task
from negfail_nb.agents.queue import Queue
from negfail_nb.agents.rollout import Toolbox, play
from negfail_nb.agents.spending import Meter, Metered
from negfail_nb.agents.tools import Tool, schemas
from negfail_nb.content import fingerprint
from negfail_nb.journal import Journal
from negfail_nb.logs.loading import Logs
from negfail_nb.runs import NotWhole, Place, Run, make
from negfail_nb.settings import BudgetSettings, LiveSettings
from negfail_nb.source import source_hash
from negfail_nb.trajectory import SPLITS, TASKS, Trajectory, read_trajectories

EPISODES = "episodes.jsonl"

logger = logging.getLogger("negfail_nb")


def collect(
    model: Model,
    tasks: Iterable[Task],
    tools: Sequence[Tool] = (),
    settings: LiveSettings = LiveSettings(),
    *,
    folder: str | Path | Place | None = None,
    file: str | Path | None = None,
    budget: BudgetSettings = BudgetSettings(),
    retry_crashed: bool = False,
    thoughts: str = "neither",
) -> Logs:
    """Play each task ``settings.attempts`` times, ``settings.concurrency`` episodes at once.

    Each finished episode is one appended and synced JSON line. Called again with the same
    arguments, it goes on: what the file has is not played again. It also works if an event loop
    runs already, as in Jupyter.

    Parameters
    ----------
    model
        See `negfail_nb.agents.protocol.Model`; it is entered and left here.
    tasks
        What to ask; ids must differ.
    tools
        What the agent may call besides finish. If a tool has a ``fingerprint`` (a text, such as a
        hash of its corpus), that counts as a setting.
    settings
        The protocol.
    folder
        A run folder, or the `Place` of some, see `negfail_nb.runs.make`. It has ``episodes.jsonl``
        in it, and is finished once all episodes are there; its plan also has the model's content.
    file
        Instead of a folder, the file of the episodes. Beside it, ``<file>.settings.json`` holds
        what they were played with. Without both, episodes are not kept.
    budget
        What may be spent in all, including what the file's episodes cost. It is checked before
        each call, also before retries: once it is spent no call begins, and those under way exceed
        it by one reply at most. Unfinished episodes are not recorded; the result's ``missing``
        counts them, and one of its problems says why.
    retry_crashed
        Play crashed episodes again, unless the folder is finished; else they stay as they are.
    thoughts
        Whether the model is shown its earlier thoughts; see `negfail_nb.agents.rollout.play`.

    Returns
    -------
    Logs
        In the order of tasks, then attempts, however many are played at once.

    Raises
    ------
    ValueError
        If there are no tasks, or tasks or settings that cannot be played.
    SettingsChanged
        If the file or folder was begun with other settings, tasks, tools or another model; the text
        names each field. The concurrency, the budget and the server's address may change.
    NotWhole
        If the budget did not suffice for all episodes of a folder.
    ModelError
        If the model cannot be reached or refuses, so that no episode could succeed. Finished
        episodes are kept.
    OSError
        If the file cannot be written.
    """
    turns = _turns(tasks, settings, budget)
    plan = _plan(model, turns, tools, settings, thoughts)
    given = {"budget": budget, "retry_crashed": retry_crashed, "thoughts": thoughts}
    play_into = partial(_play, model, turns, tools, settings, plan=plan, **given)
    if folder is None:
        with tempfile.TemporaryDirectory() if file is None else nullcontext() as scratch:
            return play_into(file=file or Path(scratch) / EPISODES)
    if file is not None:
        raise ValueError(f"both a folder ({folder}) and a file ({file}) are given; give one")

    def compute(run: Run) -> dict[str, Any]:
        logs = play_into(file=run.path(EPISODES))
        if logs.missing:  # what is left out may be what is hard, so a part is not the whole
            raise NotWhole(
                f"{logs.missing} episodes were not played, as the budget is spent; raise "
                "budget.episodes, budget.tokens or budget.money, whichever is set, and call again: "
                f"what was played is kept in {run.path(EPISODES)}"
            )
        counts = {"episodes": len(logs), "successes": sum(t.success is True for t in logs)}
        return counts | ({"weights": model.weights} if hasattr(model, "weights") else {})

    modules = ["negfail_nb.agents.live", type(model).__module__]
    ours = [name.removeprefix("negfail_nb.") for name in modules if name.startswith("negfail_nb.")]
    source = fingerprint([source_hash(name) for name in ours])
    inputs = {"model": model} if hasattr(model, "content") else {}
    run = make(folder, plan, compute, inputs, source)
    episodes = {episode.id: episode for episode in read_trajectories(run.path(EPISODES))}
    return Logs(tuple(episodes[name] for name in turns), run=run)


def _play(
    model: Model,
    turns: dict[str, tuple[Task, int]],
    tools: Sequence[Tool],
    settings: LiveSettings,
    file: str | Path,
    plan: dict[str, Any],
    budget: BudgetSettings,
    retry_crashed: bool,
    thoughts: str,
) -> Logs:
    journal = Journal(file, plan)
    queue = Queue(journal, list(turns), budget, retry_crashed)
    meter = Meter(budget, [journal.records[name] for name in queue.kept])
    logger.info(
        "%s: %d episodes, %d of them there already; at most %d calls of %s, %d at once",
        *(journal.path, len(turns), len(queue.kept), queue.left * settings.max_calls),
        *(model.name, settings.concurrency),
    )
    metered = Metered(model, meter)
    toolbox = Toolbox(tools)

    async def one(turn: tuple[Task, int]) -> Trajectory:
        episode = await play(metered, turn[0], toolbox, settings, turn[1], thoughts=thoughts)
        meter.count(episode)
        return episode.replace(source=replace(episode.source, file=journal.path.name))

    pending = [turn for name, turn in turns.items() if name not in queue.kept][: queue.left]
    if pending:
        workers = min(settings.concurrency, len(pending))
        queue.work(iter(pending), one, [metered], workers, "collect", lambda _: str(meter))
    episodes, problems = queue.result(meter, "episodes were not played")
    return Logs(episodes, problems, missing=len(turns) - len(episodes))


def _turns(
    tasks: Iterable[Task], settings: LiveSettings, budget: BudgetSettings
) -> dict[str, tuple[Task, int]]:
    """Return what is to be played, in order, by the ids of the episodes."""
    tasks = tuple(tasks)
    if not tasks:
        raise ValueError("there are no questions to play; give at least one task (see load_tasks)")
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise ValueError(f"two tasks have the id {task.id!r}; give each its own")
        if not (task.question.strip() and task.task in TASKS and task.split in SPLITS):
            raise ValueError(
                f"{task}: it needs a question, a task of {TASKS} and a split of {SPLITS}"
            )
        seen.add(task.id)
    if not settings.temperatures:
        raise ValueError("LiveSettings.temperatures is empty; name at least one")
    if budget.money and not (budget.prompt_price or budget.completion_price):
        raise ValueError(
            "BudgetSettings.money is set, but no price; give prompt_price and completion_price"
        )
    attempts = range(settings.attempts)
    return {f"{task.id}/{attempt}": (task, attempt) for task in tasks for attempt in attempts}


def _plan(
    model: Model,
    turns: dict[str, tuple[Task, int]],
    tools: Sequence[Tool],
    settings: LiveSettings,
    thoughts: str,
) -> dict[str, Any]:
    """Return what decides an episode; resuming with another of these is refused."""
    schemas(tools)  # refuses two tools of one name
    tasks = [asdict(task) for task, attempt in turns.values() if attempt == 0]
    return {
        "live": settings,
        "model": model.name,
        "tools": {
            t.name: [t.argument, t.description, str(getattr(t, "fingerprint", ""))] for t in tools
        },
        "tasks": {"count": len(tasks), "hash": fingerprint(tasks)},
        **({} if thoughts == "neither" else {"thoughts": thoughts}),
    }
