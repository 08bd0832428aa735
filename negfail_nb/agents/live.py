"""01: episodes are played live, many at once, into a file that any interruption leaves whole."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from negfail_nb.agents.protocol import Model, Task
from negfail_nb.agents.rollout import Toolbox, play
from negfail_nb.agents.spending import Meter, Metered, wait_for, work_off
from negfail_nb.agents.tools import Tool, schemas
from negfail_nb.journal import Journal
from negfail_nb.logs.loading import Logs
from negfail_nb.runs import fingerprint
from negfail_nb.settings import BudgetSettings, LiveSettings
from negfail_nb.trajectory import SPLITS, TASKS, Problem, Trajectory

Turn = tuple[Task, int]

logger = logging.getLogger("negfail_nb")


def collect(
    model: Model,
    tasks: Iterable[Task],
    tools: Sequence[Tool] = (),
    settings: LiveSettings = LiveSettings(),
    *,
    file: str | Path,
    budget: BudgetSettings = BudgetSettings(),
    retry_crashed: bool = False,
    thoughts: str = "neither",
) -> Logs:
    """Play episodes: each task ``settings.attempts`` times, ``settings.concurrency`` of them at
    once.

    Each finished episode is one appended and synced JSON line. To go on after an interruption, call
    again with the same arguments: what the file has is not played again. Also works where an event
    loop runs already, as in Jupyter.

    Parameters
    ----------
    model
        See `negfail_nb.agents.protocol.Model`; it is entered and left here.
    tasks
        What to ask; ids must differ.
    tools
        What the agent may call besides finish. Where a tool has a ``fingerprint`` (a text, such as
        a hash of its corpus), that counts as a setting.
    settings
        The protocol.
    file
        The file of the episodes. Beside it, ``<file>.settings.json`` holds what they were played
        with.
    budget
        What may be spent in all, with what the file's episodes cost already. It is checked before
        each call, also of tries: once it is spent no call begins, and those under way pass it by
        one reply at most. Episodes not played to their end are not recorded; one problem of the
        result counts them, and so does its ``missing``.
    retry_crashed
        Play the file's crashed episodes again; otherwise they stay as they are.
    thoughts
        Whether the model is shown its earlier thoughts; see `negfail_nb.agents.rollout.play`.

    Returns
    -------
    Logs
        In the order of tasks, then attempts, however many are played at once.

    Raises
    ------
    ValueError
        Where there are no tasks, or tasks or settings that cannot be played.
    SettingsChanged
        Where the file was begun with other settings, tasks, tools or another model; the text names
        each field. The concurrency, the budget and the server's address may change.
    ModelError
        Where the model cannot be reached or refuses: no episode could succeed. Finished episodes
        are kept.
    OSError
        Where the file cannot be written.
    """
    turns = _turns(tasks, settings, budget)
    journal = Journal(file, _plan(model, turns, tools, settings, thoughts))
    kept = {
        name
        for name, t in journal.records.items()
        if not (retry_crashed and t.termination == "crashed")
    }
    pending = [turn for turn in turns if _name(turn) not in kept]
    if budget.episodes:
        pending = pending[: max(budget.episodes - len(kept), 0)]
    meter = Meter(budget, [journal.records[name] for name in kept])
    logger.info(
        "%s: %d episodes, %d of them there already; at most %d calls of %s, %d episodes at once",
        *(
            journal.path,
            len(turns),
            len(kept),
            len(pending) * settings.max_calls,
            model.name,
            settings.concurrency,
        ),
    )
    if pending:
        _run(_Collection(model, tools, settings, journal, meter, thoughts), pending, len(turns))
    found = tuple(journal.records[_name(turn)] for turn in turns if _name(turn) in journal.records)
    crashed = sum(episode.termination == "crashed" for episode in found)
    if crashed:
        logger.warning(
            "%d episodes crashed; their records say why, and retry_crashed=True tries again",
            crashed,
        )
    missing = len(turns) - len(found)
    return Logs(found, tuple(_problems(journal, missing, meter)), missing=missing)


class _Collection:
    """What all workers share."""

    def __init__(
        self,
        model: Model,
        tools: Sequence[Tool],
        settings: LiveSettings,
        journal: Journal,
        meter: Meter,
        thoughts: str,
    ) -> None:
        self.model, self.tools, self.settings = Metered(model, meter), Toolbox(tools), settings
        self.journal, self.meter, self.thoughts = journal, meter, thoughts

    async def play(self, pending: Sequence[Turn], bar: Any) -> None:
        """Play these."""

        async def one(turn: Turn) -> None:
            task, attempt = turn
            episode = await play(
                self.model, task, self.tools, self.settings, attempt, thoughts=self.thoughts
            )
            self.journal.add(_placed(episode, self.journal.path.name))
            self.meter.count(episode)
            bar.set_postfix_str(str(self.meter), refresh=False)
            bar.update()

        await work_off(
            [self.model], iter(pending), one, min(self.settings.concurrency, len(pending))
        )


def _run(collection: _Collection, pending: Sequence[Turn], total: int) -> None:
    from tqdm.auto import tqdm

    with (
        collection.journal,
        tqdm(total=total, initial=total - len(pending), unit="episode", desc="collect") as bar,
    ):
        wait_for(collection.play(pending, bar))


def _turns(tasks: Iterable[Task], settings: LiveSettings, budget: BudgetSettings) -> list[Turn]:
    """Return what is to be played, in order."""
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
    return [(task, attempt) for task in tasks for attempt in range(settings.attempts)]


def _plan(
    model: Model,
    turns: Sequence[Turn],
    tools: Sequence[Tool],
    settings: LiveSettings,
    thoughts: str,
) -> dict[str, Any]:
    """Return what makes an episode what it is; with another of these a file is not gone on with."""
    schemas(tools)  # says where two have one name
    tasks = [asdict(task) for task, attempt in turns if attempt == 0]
    return {
        "live": {k: v for k, v in asdict(settings).items() if k != "concurrency"},
        "model": model.name,
        "tools": {
            t.name: [t.argument, t.description, str(getattr(t, "fingerprint", ""))] for t in tools
        },
        "tasks": {"count": len(tasks), "hash": fingerprint(tasks)},
        **({} if thoughts == "neither" else {"thoughts": thoughts}),
    }


def _problems(journal: Journal, missing: int, meter: Meter) -> Iterator[Problem]:
    if missing:
        why = meter.spent or "the budget of episodes (BudgetSettings.episodes) is spent"
        problem = Problem(
            journal.path.name,
            "",
            f"{missing} episodes were not played: {why}; raise it and call again",
        )
        logger.warning("%s", problem)
        yield problem


def _placed(episode: Trajectory, name: str) -> Trajectory:
    return episode.replace(source=replace(episode.source, file=name))


def _name(turn: Turn) -> str:
    return f"{turn[0].id}/{turn[1]}"
