"""A journalled queue: many episodes (or answers) at once, each kept as soon as it is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

from negfail_nb.agents.protocol import Model
from negfail_nb.agents.spending import BudgetSpent, Meter
from negfail_nb.journal import Journal
from negfail_nb.settings import BudgetSettings
from negfail_nb.trajectory import Problem

logger = logging.getLogger("negfail_nb")


class Queue:
    """What of a journalled run is left to do, and the workers that do it.

    Parameters
    ----------
    journal
        The records so far; new ones are added.
    names
        Ids of all the records that are wanted, in order.
    budget
        ``episodes`` bounds how many of them are made in all.
    retry_crashed
        Make records that crashed again.

    Attributes
    ----------
    kept
        Ids of records that are not made again.
    done, left
        How many records are there, and how many are left to make within the budget.
    """

    def __init__(
        self,
        journal: Journal,
        names: Sequence[str],
        budget: BudgetSettings,
        retry_crashed: bool = False,
    ) -> None:
        self.journal = journal
        self.names = names
        self.kept = {
            name
            for name, record in journal.records.items()
            if not (retry_crashed and record.termination == "crashed")
        }
        self.done = sum(name in self.kept for name in names)
        self.left = len(names) - self.done
        if budget.episodes:
            self.left = min(self.left, max(budget.episodes - self.done, 0))

    def work(
        self,
        jobs: Iterator[Any],
        do: Callable[[Any], Awaitable[Any]],
        models: Iterable[Model],
        concurrency: int,
        bar: str,
        show: Callable[[Any], str],
    ) -> None:
        """Do jobs, ``concurrency`` at once, with the models entered; nothing is left running.

        Parameters
        ----------
        jobs
            What is left to do; each worker takes the next one.
        do
            Returns the record of a job. If it raises `BudgetSpent`, its worker ends; any other
            error ends all of them.
        models
            They are entered once each, and left at the end.
        concurrency
            Workers.
        bar, show
            Name of the progress bar, and what it says after a record.
        """
        from tqdm.auto import tqdm

        async def worker() -> None:
            for job in jobs:
                try:
                    record = await do(job)
                except BudgetSpent:
                    return
                self.journal.add(record)
                progress.set_postfix_str(show(record), refresh=False)
                progress.update()

        async def all_workers() -> None:
            async with AsyncExitStack() as stack:
                for model in {id(model): model for model in models}.values():
                    await stack.enter_async_context(model)
                workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
                try:
                    await asyncio.gather(*workers)
                finally:
                    for task in workers:
                        task.cancel()
                    await asyncio.gather(*workers, return_exceptions=True)

        counts = {"total": len(self.names), "initial": self.done}
        with self.journal, tqdm(**counts, unit=self.journal.things[:-1], desc=bar) as progress:
            wait_for(all_workers())

    def result(self, meter: Meter, undone: str) -> tuple[tuple[Any, ...], tuple[Problem, ...]]:
        """Return the records in order, and a problem if some are missing.

        ``undone`` says what did not happen to those: ``"episodes were not played"``.
        """
        found = [self.journal.records.get(name) for name in self.names]
        records = tuple(record for record in found if record is not None)
        things = self.journal.things
        if crashed := sum(record.termination == "crashed" for record in records):
            advice = "their records say why, and retry_crashed=True tries again"
            logger.warning("%d %s crashed; %s", crashed, things, advice)
        missing = len(found) - len(records)
        if not missing:
            return records, ()
        why = meter.spent or f"the budget of {things} (BudgetSettings.episodes) is spent"
        reason = f"{missing} {undone}: {why}; raise it and call again"
        problem = Problem(self.journal.path.name, "", reason)
        logger.warning("%s", problem)
        return records, (problem,)


def wait_for(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end; in a thread if an event loop runs already, as in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task]] = []

    async def noted() -> None:
        started.append((asyncio.get_running_loop(), asyncio.current_task()))
        await work

    with ThreadPoolExecutor(max_workers=1) as thread:
        future = thread.submit(asyncio.run, noted())
        try:
            future.result()
        except KeyboardInterrupt:
            if started and not future.done():
                loop, task = started[0]
                loop.call_soon_threadsafe(task.cancel)
            raise
