"""What live runs spend: tokens and money, counted, and reserved before each call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from negfail_nb.agents.protocol import Model, Reply, Sampling
from negfail_nb.settings import BudgetSettings
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Trajectory

CHARS_PER_TOKEN = 3  # if a server does not report tokens: rather too many than too few
SAFE = 1.25  # how much more a prompt may have than was seen of others

logger = logging.getLogger("negfail_nb")


class BudgetSpent(Exception):
    """Nothing is left of the budget; the text says which."""


class Meter:
    """What was spent, what is reserved, and how the episodes ended.

    Calls under way may exceed the budget by one reply at most: each call reserves what it may cost,
    and if the rest of the budget is reserved, further calls wait until the cost of those before
    them is known. Before the first reply nobody knows how a server counts, so the first call runs
    alone.
    """

    def __init__(self, budget: BudgetSettings, earlier: Iterable[Trajectory] = ()) -> None:
        self._budget = budget
        self.spent = ""
        self._prompt = self._completion = self._right = self._labelled = self._crashed = 0
        self._reserved: list[float] = []
        self._ratio = 0.0  # the largest ratio of reported to estimated prompt tokens
        self._longest = 0  # tokens of the longest reply
        self._settled = asyncio.Condition()
        self._warned = False
        for episode in earlier:
            said = [text(m) for m in episode.messages if m["role"] == "assistant"]
            characters = len(said) * sum(len(text(m)) for m in episode.messages) // 2
            self._prompt += self._known(episode.usage.prompt_tokens, characters)
            self._completion += self._known(episode.usage.completion_tokens, sum(map(len, said)))
            self.count(episode)

    def check(self) -> None:
        """Raise `BudgetSpent` if nothing is left."""
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
        """Reserve what a call may cost while it runs; raises `BudgetSpent` if nothing is left."""
        if not (self._budget.tokens or self._budget.money):
            yield
            return
        async with self._settled:
            while self.check() or self._is_reserved():
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
        self._ratio = max(self._ratio, 1.0)
        self._longest = max(self._longest, reply.completion_tokens or 0)
        self._prompt += self._known(reply.prompt_tokens, characters)
        self._completion += self._known(reply.completion_tokens, len(text(reply.message)))

    def lose(self, prompt: int, completion: int) -> None:
        """Pay for an answer that cannot be used; raises `BudgetSpent` if nothing is left then."""
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
        parts = [f"{self._right / self._labelled:.0%} right"] if self._labelled else []
        parts += [f"{self._crashed} crashed"] if self._crashed else []
        parts += [f"{self.tokens:,} tokens"] + ([f"cost {self.cost:.2f}"] if self.cost else [])
        return ", ".join(parts)

    def _price(self, prompt: float, completion: float) -> float:
        prices = self._budget.prompt_price, self._budget.completion_price
        return (prompt * prices[0] + completion * prices[1]) / 1e6

    def _part(self, tokens: float, money: float) -> float:
        """Return which part of the budget so many tokens and so much money are."""
        of_tokens = tokens / self._budget.tokens if self._budget.tokens else 0.0
        return max(of_tokens, money / self._budget.money if self._budget.money else 0.0)

    def _share(self, messages: Sequence[Message], most: int) -> float:
        """Return which part of the budget a call may take."""
        if not self._ratio:
            return 1.0
        prompt = self._ratio * SAFE * _estimate(sum(len(text(m)) for m in messages))
        completion = max(most, self._longest)
        return self._part(prompt + completion, self._price(prompt, completion))

    def _is_reserved(self) -> bool:
        """Whether the rest of the budget is reserved."""
        spent = self._part(self.tokens, self.cost)
        return bool(self._reserved) and spent + sum(self._reserved) >= 1.0

    def _known(self, tokens: int | None, characters: int) -> int:
        """Return tokens as reported, else an estimate."""
        if tokens is not None:
            return tokens
        if not self._warned and (self._budget.tokens or self._budget.money):
            logger.warning(
                "the model does not report tokens; the budget uses an estimate from characters"
            )
            self._warned = True
        return _estimate(characters)


class Metered:
    """A model whose every reply is paid for; in all else it is the model."""

    def __init__(self, model: Model, meter: Meter) -> None:
        self._model = model
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def __aenter__(self) -> Self:
        await self._model.__aenter__()
        if hasattr(self._model, "lose"):
            self._model.lose = self._meter.lose
        return self

    async def __aexit__(self, *error: object) -> None:
        if hasattr(self._model, "lose"):
            self._model.lose = lose_nothing
        await self._model.__aexit__(*error)

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Return the model's reply and pay for it; raises `BudgetSpent` if nothing is left."""
        async with self._meter.reserved(messages, sampling.max_tokens):
            reply = await self._model.reply(messages, sampling, tools)
            self._meter.add(reply, messages)
            return reply


def lose_nothing(prompt: int, completion: int) -> None:
    """Do nothing: nobody pays for answers that cannot be used."""


def _estimate(characters: int) -> int:
    return characters // CHARS_PER_TOKEN + 1
