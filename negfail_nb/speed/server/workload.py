"""06: what is sent under a load: cells, prompts that the server's cache knows or does not know, and
arrivals.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from negfail_nb.settings import LoadSettings
from negfail_nb.speed.server.probe import ServerFacts
from negfail_nb.trajectory import Message

OPEN = "poisson@"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One load with one state of the prefix cache.

    Attributes
    ----------
    cache
        ``"cold"`` or ``"warm"``.
    concurrency
        Requests at once, in a closed loop; 0 in an open one.
    rate
        Arrivals a second, in an open loop.
    """

    cache: str
    concurrency: int = 0
    rate: float = 0.0

    @property
    def label(self) -> str:
        """Its name: ``closed@16/cold``, ``poisson@2.5/warm``."""
        load = f"closed@{self.concurrency}" if self.concurrency else f"{OPEN}{self.rate:g}"
        return f"{load}/{self.cache}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request that is ready to be sent; the fields are those of a `Trace`."""

    number: int
    phase: str
    prompt: int
    nonce: str
    asked: int
    body: bytes


def expand_cells(settings: LoadSettings) -> tuple[Cell, ...]:
    """Return the cells of some settings, in the order in which they are measured."""
    loads: list[dict[str, Any]] = [{"concurrency": n} for n in settings.concurrency]
    loads += [{"rate": rate} for rate in settings.rates]
    return tuple(Cell(cache=cache, **load) for load in loads for cache in settings.caches)


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Return the times of a Poisson process, in seconds: the first arrives at 0."""
    draw = random.Random(seed)
    return list(accumulate((draw.expovariate(rate) for _ in range(count - 1)), initial=0.0))


def as_chats(prompts: Sequence[str | Sequence[Message]]) -> list[list[dict[str, Any]]]:
    """Return prompts, given as texts or as messages, as messages.

    Raises
    ------
    ValueError
        Where there is none, or one is empty or has a message without text; the text says which.
    """
    if not prompts:
        raise ValueError("no prompts: give at least one")
    chats = [
        [{"role": "user", "content": p}] if isinstance(p, str) else [dict(m) for m in p]
        for p in prompts
    ]
    for number, chat in enumerate(chats):
        if not chat or not all(
            isinstance(m.get("content"), str) and m["content"].strip() for m in chat
        ):
            raise ValueError(
                f"prompt {number} is empty, or has a message without text; give texts, or messages with text"
            )
    return chats


class Workload:
    """Makes the requests of cells.

    Every prompt begins with a text that was never sent before, drawn anew at each call, so that no
    prefix of it stands in the server's cache: of a cold cell each request has its own; of a warm
    one each prompt, which was sent before.

    Parameters
    ----------
    model
        Name of the model.
    prompts
        As from `as_chats`; they are taken in turn.
    settings
        How many, how long.
    facts
        What the server takes.
    """

    def __init__(
        self,
        model: str,
        prompts: Sequence[Sequence[Mapping[str, Any]]],
        settings: LoadSettings,
        facts: ServerFacts,
    ) -> None:
        self._prompts, self._settings = prompts, settings
        fields = facts.fields(settings.fixed_length)
        self._fields = {"model": model, "stream": True, "temperature": 0.0, **fields}

    def warmup(self) -> list[Job]:
        """Return requests that get the server going. Their texts are as long as the prompts, but
        none of them.
        """
        count = range(self._settings.warmup)
        return [
            self._job(n, "warmup", n % len(self._prompts), _nonce(), backwards=True) for n in count
        ]

    def measured(self, cell: Cell) -> tuple[list[Job], list[Job]]:
        """Return what must be sent before a cell, so that the cache knows its prompts, and its
        measured requests.
        """
        count, turns = self._settings.requests, len(self._prompts)
        if cell.cache == "cold":
            return [], [self._job(n, "measured", n % turns, _nonce()) for n in range(count)]
        nonces = [_nonce() for _ in range(min(turns, count))]
        primes = [self._job(n, "prime", n, nonce, asked=1) for n, nonce in enumerate(nonces)]
        return primes, [
            self._job(n, "measured", n % turns, nonces[n % turns]) for n in range(count)
        ]

    def _job(
        self,
        number: int,
        phase: str,
        prompt: int,
        nonce: str,
        asked: int = 0,
        backwards: bool = False,
    ) -> Job:
        asked = asked or self._settings.output_tokens
        first, *others = self._prompts[prompt]
        if backwards:
            first = {**first, "content": " ".join(reversed(first["content"].split()))}
        messages = [{**first, "content": f"[{nonce}] {first['content']}"}, *others]
        body = json.dumps({**self._fields, "max_tokens": asked, "messages": messages}).encode()
        return Job(number=number, phase=phase, prompt=prompt, nonce=nonce, asked=asked, body=body)


def _nonce() -> str:
    return secrets.token_hex(6)
