"""What live runs share: what was spent, workers over a queue, and waiting for them from a notebook."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

from negfail_nb.agents.protocol import Model, Reply, Sampling
from negfail_nb.settings import BudgetSettings
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Trajectory

CHARS_PER_TOKEN = 3  # where a server does not say its tokens: rather too many than too few
SAFE = 1.25  # how much more a prompt may have than was seen of others

logger = logging.getLogger("negfail_nb")


class BudgetSpent(Exception):
    """Nothing is left of the budget; the text says of which."""


class Meter:
    """What was spent, what is under way, and how the episodes ended.

    What is under way may pass the budget by one reply at most: each call reserves what it may cost,
    and where the rest of the budget is reserved, further calls wait until it is known what those
    before them did cost. Until the first reply is there nobody knows how a server counts, so that
    it is asked for alone.
    """

    def __init__(self, budget: BudgetSettings, earlier: Iterable[Trajectory] = ()) -> None:
        self._budget, self.spent = budget, ""
        self._prompt = self._completion = self._right = self._labelled = self._crashed = 0
        self._reserved: list[float] = []
        self._ratio, self._longest = (
            0.0,
            0,
        )  # the most that was told of what was estimated; the longest reply
        self._settled = asyncio.Condition()
        self._warned = False
        for episode in earlier:
            said = [text(m) for m in episode.messages if m["role"] == "assistant"]
            self._pay(
                episode.usage.prompt_tokens,
                len(said) * sum(len(text(m)) for m in episode.messages) // 2,
                True,
            )
            self._pay(episode.usage.completion_tokens, sum(map(len, said)), False)
            self.count(episode)

    def check(self) -> None:
        """Raise `BudgetSpent` where nothing is left."""
        if self._budget.tokens and self.tokens >= self._budget.tokens:
            self.spent = (
                f"the budget of {self._budget.tokens:,} tokens (BudgetSettings.tokens) is spent"
            )
        elif self._budget.money and self.cost >= self._budget.money:
            self.spent = f"the budget of {self._budget.money:g} (BudgetSettings.money) is spent"
        if self.spent:
            raise BudgetSpent(self.spent)

    @asynccontextmanager
    async def reserved(self, messages: Sequence[Message], most: int) -> AsyncIterator[None]:
        """Reserve what a call may cost for as long as it runs; raises `BudgetSpent` where nothing
        is left.
        """
        if not self._limited:
            yield
            return
        async with self._settled:
            while self.check() or self._taken(sum(self._reserved)):
                await self._settled.wait()
            share = self._share(messages, most)
            self._reserved.append(share)
        try:
            yield
        finally:
            async with self._settled:
                self._reserved.remove(share)
                self._settled.notify_all()

    def add(self, reply: Reply, messages: Sequence[Message]) -> None:
        """Pay for a reply to these messages."""
        characters = sum(len(text(m)) for m in messages)
        if reply.prompt_tokens is not None and characters:
            self._ratio = max(self._ratio, reply.prompt_tokens / _estimate(characters))
        self._longest = max(self._longest, reply.completion_tokens or 0)
        self._pay(reply.prompt_tokens, characters, True)
        self._pay(reply.completion_tokens, len(text(reply.message)), False)
        self._ratio = max(self._ratio, 1.0)

    def lose(self, prompt: int, completion: int) -> None:
        """Pay for an answer of which nothing could be used; raises `BudgetSpent` where nothing is
        left after it.
        """
        self._prompt += prompt
        self._completion += completion
        self.check()

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
        return self._price(self._prompt, self._completion)

    def __str__(self) -> str:
        """Return the state for a progress bar."""
        parts = [f"{self._right / self._labelled:.0%} right"] if self._labelled else []
        parts += [f"{self._crashed} crashed"] if self._crashed else []
        parts += [f"{self.tokens:,} tokens"] + ([f"cost {self.cost:.2f}"] if self.cost else [])
        return ", ".join(parts)

    @property
    def _limited(self) -> bool:
        return bool(self._budget.tokens or self._budget.money)

    def _price(self, prompt: float, completion: float) -> float:
        return (
            prompt * self._budget.prompt_price + completion * self._budget.completion_price
        ) / 1e6

    def _share(self, messages: Sequence[Message], most: int) -> float:
        """Return which part of the budget a call may take."""
        if not self._ratio:
            return 1.0
        prompt = self._ratio * SAFE * _estimate(sum(len(text(m)) for m in messages))
        completion = max(most, self._longest)
        tokens, money = self._budget.tokens, self._budget.money
        shares = [(prompt + completion) / tokens] if tokens else []
        return max(shares + ([self._price(prompt, completion) / money] if money else []))

    def _taken(self, reserved: float) -> bool:
        """Whether the rest of the budget is reserved."""
        tokens, money = self._budget.tokens, self._budget.money
        spent = max(self.tokens / tokens if tokens else 0.0, self.cost / money if money else 0.0)
        return bool(self._reserved) and spent + reserved >= 1.0

    def _pay(self, tokens: int | None, characters: int, prompt: bool) -> None:
        if tokens is None:
            tokens = _estimate(characters)
            if not self._warned and self._limited:
                logger.warning(
                    "the model does not say its tokens; the budget goes by an estimate from characters"
                )
                self._warned = True
        if prompt:
            self._prompt += tokens
        else:
            self._completion += tokens


class Metered:
    """A model whose every reply is paid for; in all else it is the model."""

    def __init__(self, model: Model, meter: Meter) -> None:
        self._model, self._meter = model, meter

    def __getattr__(self, name: str) -> Any:
        """Return what the model has."""
        return getattr(self._model, name)

    async def __aenter__(self) -> Self:
        """Enter the model."""
        await self._model.__aenter__()
        if hasattr(self._model, "lose"):
            self._model.lose = self._meter.lose
        return self

    async def __aexit__(self, *error: object) -> None:
        """Leave it."""
        if hasattr(self._model, "lose"):
            self._model.lose = lose_nothing
        await self._model.__aexit__(*error)

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Return the model's reply, and pay for it; raises `BudgetSpent` where nothing is left."""
        async with self._meter.reserved(messages, sampling.max_tokens):
            reply = await self._model.reply(messages, sampling, tools)
            self._meter.add(reply, messages)
            return reply


def lose_nothing(prompt: int, completion: int) -> None:
    """What a model does with answers of which nothing could be used, as long as nobody pays for it."""


def _estimate(characters: int) -> int:
    return characters // CHARS_PER_TOKEN + 1


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
    """Run to the end, in a thread of its own where this one has a running event loop, as notebooks
    do.
    """
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
