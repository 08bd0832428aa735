"""What live runs share: what was spent, workers over a queue, and waiting for them from a notebook."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

from negfail_nb.collect.protocol import Model, Reply
from negfail_nb.profiles import BudgetSettings
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Trajectory

CHARS_PER_TOKEN = 3  # where a server does not say its tokens: rather too many than too few

logger = logging.getLogger("negfail_nb")


class BudgetSpent(Exception):
    """Nothing is left of the budget; the text says of which."""


class Meter:
    """What was spent, and how the episodes ended."""

    def __init__(self, budget: BudgetSettings, earlier: Iterable[Trajectory] = ()) -> None:
        self._budget, self.spent = budget, ""
        self._prompt = self._completion = self._right = self._labelled = self._crashed = 0
        self._warned = False
        for episode in earlier:
            said = [text(m) for m in episode.messages if m["role"] == "assistant"]
            self._pay(episode.usage.prompt_tokens, len(said) * sum(len(text(m)) for m in episode.messages) // 2, True)
            self._pay(episode.usage.completion_tokens, sum(map(len, said)), False)
            self.count(episode)

    def check(self) -> None:
        """Raise `BudgetSpent` where nothing is left."""
        if self._budget.tokens and self.tokens >= self._budget.tokens:
            self.spent = f"the budget of {self._budget.tokens:,} tokens (BudgetSettings.tokens) is spent"
        elif self._budget.money and self.cost >= self._budget.money:
            self.spent = f"the budget of {self._budget.money:g} (BudgetSettings.money) is spent"
        if self.spent:
            raise BudgetSpent(self.spent)

    def add(self, reply: Reply, messages: Sequence[Message]) -> None:
        """Pay for a reply to these messages."""
        self._pay(reply.prompt_tokens, sum(len(text(m)) for m in messages), True)
        self._pay(reply.completion_tokens, len(text(reply.message)), False)

    def count(self, episode: Trajectory) -> None:
        """Note how an episode ended."""
        self._labelled += episode.success is not None
        self._right += episode.success is True
        self._crashed += episode.termination == "crashed"

    @property
    def tokens(self) -> int:
        """All tokens so far."""
        return self._prompt + self._completion

    @property
    def cost(self) -> float:
        """What they cost."""
        return (self._prompt * self._budget.prompt_price + self._completion * self._budget.completion_price) / 1e6

    def __str__(self) -> str:
        """Return the state for a progress bar."""
        parts = [f"{self._right / self._labelled:.0%} right"] if self._labelled else []
        parts += [f"{self._crashed} crashed"] if self._crashed else []
        parts += [f"{self.tokens:,} tokens"] + ([f"cost {self.cost:.2f}"] if self.cost else [])
        return ", ".join(parts)

    def _pay(self, tokens: int | None, characters: int, prompt: bool) -> None:
        if tokens is None:
            tokens = characters // CHARS_PER_TOKEN + 1
            if not self._warned and (self._budget.tokens or self._budget.money):
                logger.warning("the model does not say its tokens; the budget goes by an estimate from characters")
                self._warned = True
        if prompt:
            self._prompt += tokens
        else:
            self._completion += tokens


async def work_off(
    models: Iterable[Model], jobs: Iterator[Any], do: Callable[[Any], Awaitable[None]], count: int
) -> None:
    """Do jobs, ``count`` at once, with the models entered; leaves nothing running, however it ends.

    A job that raises `BudgetSpent` ends its worker; any other error ends all.
    """

    async def work() -> None:
        for job in jobs:
            try:
                await do(job)
            except BudgetSpent:
                return

    async with AsyncExitStack() as stack:
        for model in {id(model): model for model in models}.values():
            await stack.enter_async_context(model)
        workers = [asyncio.create_task(work()) for _ in range(count)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


def wait_for(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, in a thread of its own where this one has a running event loop, as notebooks do."""
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
