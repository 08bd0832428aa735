"""The load generator: puts a server under load, cell by cell, and keeps the raw trace of every
request.

Nothing is tried again: a request that fails is a failure of the server under that load, and is kept
as one. Every prompt begins with a text that was never sent before, drawn anew at each call, so that
no prefix of it is in the server's cache: in a cold cell each request has its own; in a warm one
each prompt, which was sent before.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from negfail_nb.agents.counts import PromptCounts
from negfail_nb.agents.protocol import ModelError
from negfail_nb.agents.queue import wait_for
from negfail_nb.journal import Journal
from negfail_nb.runs import fingerprint, write_json
from negfail_nb.settings import EndpointSettings, LoadSettings
from negfail_nb.speed.client import Answer, Client
from negfail_nb.speed.metrics import OPEN
from negfail_nb.speed.probe import ServerFacts, probe
from negfail_nb.speed.traces import Trace, read_traces
from negfail_nb.trajectory import Message

__all__ = ["Cell", "Measured", "expand_cells", "measure_load"]

SERVER = ".server.json"  # behind the name of the traces' file
# More of these may be measured into the same file later.
_CELLS = ("concurrency", "rates", "caches")

logger = logging.getLogger("negfail_nb")


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
        Arrivals per second, in an open loop.
    """

    cache: str
    concurrency: int = 0
    rate: float = 0.0

    @property
    def label(self) -> str:
        """Its name: ``closed@16/cold``, ``poisson@2.5/warm``."""
        load = f"closed@{self.concurrency}" if self.concurrency else f"{OPEN}{self.rate:g}"
        return f"{load}/{self.cache}"


def expand_cells(settings: LoadSettings) -> tuple[Cell, ...]:
    """Return the cells of some settings, in the order in which they are measured."""
    loads: list[dict[str, Any]] = [{"concurrency": n} for n in settings.concurrency]
    loads += [{"rate": rate} for rate in settings.rates]
    return tuple(Cell(cache=cache, **load) for load in loads for cache in settings.caches)


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes
    ----------
    cells
        In order.
    traces
        Of every request, by cell; also of warm-ups, which count nowhere.
    facts
        What the server can do.
    """

    cells: tuple[Cell, ...]
    traces: tuple[Trace, ...]
    facts: ServerFacts

    @property
    def measured(self) -> tuple[Trace, ...]:
        """The traces that count."""
        return tuple(trace for trace in self.traces if trace.phase == "measured")


def measure_load(
    endpoint: EndpointSettings,
    prompts: Sequence[str | Sequence[Message]],
    settings: LoadSettings = LoadSettings(),
    file: str | Path | None = None,
    *,
    facts: ServerFacts | None = None,
    tokenizer: Any = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Measure a server under each load, and return the traces.

    Parameters
    ----------
    endpoint
        Which server and model. Its ``timeout`` bounds each request; its ``retries`` do not apply.
    prompts
        Texts, or lists of messages; taken in turn.
    settings
        Which loads.
    file
        JSONL of the traces, with what they were made with beside it. Cells that it holds are not
        measured again; one that was broken off is. ``None``: nothing is kept.
    facts
        What the server can do; ``None``: it is probed, if anything is left to measure.
    tokenizer
        The model's own. A request of which the server read far less than this counts has failed:
        the prompt was cut. ``None``: a prompt has at least as many tokens as words.
    clock
        Returns seconds, and never goes back.

    Raises
    ------
    ModelError
        No server, another model, a server that streams nothing, or a cell in which every request
        failed, of which nothing is kept.
    ClockError
        If the clock goes backwards.
    SettingsChanged
        If the file was begun with other settings, prompts, or another server.
    UnreadableLog
        If a line of the file is no trace of this schema.
    ValueError
        If there are no prompts, or one is empty.
    """
    chats, cells = _as_chats(prompts), expand_cells(settings)
    journal = _journal(file, endpoint, settings, prompts) if file else None
    traces: dict[str, Trace] = journal.records if journal else {}
    missing = [
        cell
        for cell in cells
        if any(f"{cell.label}/measured/{n}" not in traces for n in range(settings.requests))
    ]
    beside = Path(f"{file}{SERVER}")
    found = [facts or (_read_facts(beside) if journal else None) or ServerFacts()]

    async def measure() -> None:
        async with Client(endpoint, clock) as client:
            found[0] = facts or await probe(client)
            if journal:
                write_json(beside, {"facts": asdict(found[0])})
            run = _Run(client, chats, settings, found[0], tokenizer)
            for cell in tqdm(missing, desc="measuring", unit="cell"):
                measured = await run.measure(cell)
                if not journal:
                    traces.update({trace.id: trace for trace in measured})
                    continue
                with journal:
                    for trace in measured:
                        journal.add(trace)

    if missing:
        wait_for(measure())
    kept = tuple(trace for cell in cells for trace in traces.values() if trace.cell == cell.label)
    return Measured(cells, kept, found[0])


def _journal(
    file: str | Path, endpoint: EndpointSettings, settings: LoadSettings, prompts: Sequence[Any]
) -> Journal:
    load = {name: value for name, value in asdict(settings).items() if name not in _CELLS}
    server = {name: getattr(endpoint, name) for name in ("base_url", "model", "timeout")}
    plan = {"load": load, "endpoint": server, "prompts": fingerprint(list(prompts))}
    return Journal(file, plan, read_traces, "measure", "traces", "speed.load")


def _read_facts(path: Path) -> ServerFacts | None:
    """Return what was found out about the server when the file was made."""
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["facts"]
        return ServerFacts(**{**found, "models": tuple(found["models"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _as_chats(prompts: Sequence[str | Sequence[Message]]) -> list[list[dict[str, Any]]]:
    if not prompts:
        raise ValueError("no prompts: give at least one")
    chats = []
    for number, prompt in enumerate(prompts):
        chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        texts = [message.get("content") for message in chat]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(
                f"prompt {number} is empty, or has a message without text; "
                "give texts, or messages with text"
            )
        chats.append([dict(message) for message in chat])
    return chats


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request that is ready to be sent; the fields are those of a `Trace`."""

    number: int
    phase: str
    prompt: int
    nonce: str
    asked: int
    body: bytes


class _Run:
    """Measures cells: makes the requests of each, sends them, and returns their traces."""

    def __init__(
        self,
        client: Client,
        chats: Sequence[Sequence[Mapping[str, Any]]],
        settings: LoadSettings,
        facts: ServerFacts,
        tokenizer: Any,
    ) -> None:
        self._client, self._chats, self._settings, self._facts = client, chats, settings, facts
        self._counts = PromptCounts(tokenizer)
        self._sizes = [self._counts.size(chat) for chat in chats]
        self._fields = {"model": client.settings.model, "stream": True, "temperature": 0.0}
        self._fields |= facts.fields(settings.fixed_length)

    async def measure(self, cell: Cell) -> list[Trace]:
        """Return the traces of a cell, those of its warm-ups included."""
        if self._settings.reset_cache:
            await self._reset()
        primes, jobs = self._jobs(cell)
        few = Cell(cache=cell.cache, concurrency=min(4, cell.concurrency or 4))
        before = [*await self._send(few, self._warmups()), *await self._send(few, primes)]
        if failed := [trace.error for trace in before if not trace.ok]:
            about = cell.label, len(failed), len(before), failed[0]
            logger.warning("%s: %d of %d requests before it failed: %s", *about)
        await self._connect(cell.concurrency or 1)
        logger.info("measuring %s: %d requests", cell.label, len(jobs))
        traces = [self._judged(trace) for trace in await self._send(cell, jobs)]
        if not any(trace.ok for trace in traces):
            error, count = Counter(trace.error for trace in traces).most_common(1)[0]
            raise ModelError(
                f"{cell.label}: none of {len(traces)} requests succeeded, so there is nothing to "
                f"measure; {count} times: {error}. Is the load too high, or "
                "EndpointSettings.timeout too short?"
            )
        return [replace(trace, cell=cell.label) for trace in before] + traces

    def _warmups(self) -> list[Job]:
        """Requests that get the server going. Their texts are as long as the prompts, but none of
        them.
        """
        turns = len(self._chats)
        return [
            self._job(n, "warmup", n % turns, _nonce(), backwards=True)
            for n in range(self._settings.warmup)
        ]

    def _jobs(self, cell: Cell) -> tuple[list[Job], list[Job]]:
        """Return what must be sent before a cell, so that the cache knows its prompts, and its
        measured requests.
        """
        count, turns = self._settings.requests, len(self._chats)
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
        first, *others = self._chats[prompt]
        text = " ".join(reversed(first["content"].split())) if backwards else first["content"]
        messages = [{**first, "content": f"[{nonce}] {text}"}, *others]
        body = json.dumps({**self._fields, "max_tokens": asked, "messages": messages}).encode()
        return Job(number=number, phase=phase, prompt=prompt, nonce=nonce, asked=asked, body=body)

    async def _send(self, cell: Cell, jobs: Sequence[Job]) -> list[Trace]:
        """Send the requests of a cell, and return their traces. Nothing but sending and reading
        happens meanwhile.
        """
        if not jobs:
            return []
        client, answers = self._client, []

        async def one(job: Job, due: float | None = None) -> None:
            answers.append((job, due, await client.ask("/chat/completions", job.body)))

        with _undisturbed():
            start = client.clock()
            if cell.concurrency:
                await _closed_loop(one, jobs, cell.concurrency)
            else:
                times = arrivals(cell.rate, len(jobs), seed=0)
                await _open_loop(one, jobs, [start + time for time in times], client.clock)
        answers.sort(key=lambda row: row[0].number)
        return [self._trace(cell, *answer, start) for answer in answers]

    def _trace(
        self, cell: Cell, job: Job, due: float | None, answer: Answer, start: float
    ) -> Trace:
        sent = answer.sent - start
        return Trace(
            cell=cell.label,
            **{
                name: getattr(job, name) for name in ("number", "phase", "prompt", "nonce", "asked")
            },
            scheduled=sent if due is None else due - start,
            sent=sent,
            ended=answer.ended - start,
            chunks=tuple(replace(chunk, time=chunk.time - start) for chunk in answer.chunks),
            status=answer.status,
            finish=answer.finish,
            usage=answer.usage,
            error=self._client.server.short(answer.failure),
        )

    def _judged(self, trace: Trace) -> Trace:
        """Return a trace as a failure if the server read far less than it was sent."""
        if trace.error:
            return trace
        why = self._counts.compare(self._sizes[trace.prompt], trace.prompt_tokens)
        return replace(trace, error=why) if why else trace

    async def _reset(self) -> None:
        server, path = self._client.server, self._facts.reset
        why = "no path for that is known"
        if path:
            answer = await self._client.ask(path)
            why = f"{path} answers {answer.status or answer.error}" if answer.status != 200 else ""
        if why:
            why = server.short(why)
            logger.warning("%s: the prefix cache cannot be emptied: %s", server.url, why)

    async def _connect(self, count: int) -> None:
        server = self._client.server
        try:
            await self._client.connect(count)
        except OSError as error:
            text = server.short(f"{type(error).__name__}: {error}")
            raise ModelError(
                f"cannot open {count} connections to {server.url} ({text}). Is the server up, "
                "EndpointSettings.base_url right, and the limit of open files high enough "
                "(ulimit -n)?"
            ) from None


def _nonce() -> str:
    return secrets.token_hex(6)


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Return the times of a Poisson process, in seconds: the first arrives at 0."""
    draw = random.Random(seed)
    return list(accumulate((draw.expovariate(rate) for _ in range(count - 1)), initial=0.0))


async def _closed_loop(
    one: Callable[[Job], Awaitable[None]], jobs: Sequence[Job], concurrency: int
) -> None:
    """Each of ``concurrency`` slots sends its next request when the one before is answered."""
    left = iter(jobs)

    async def slot() -> None:
        for job in left:
            await one(job)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(slot())


async def _open_loop(
    one: Callable[[Job, float], Any],
    jobs: Sequence[Job],
    times: Sequence[float],
    clock: Callable[[], float],
) -> None:
    """Each request is sent when it is due, however many are under way."""
    async with asyncio.TaskGroup() as group:
        for job, due in zip(jobs, times, strict=True):
            await asyncio.sleep(max(due - clock(), 0.0))
            group.create_task(one(job, due))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the garbage collector from stopping everything: with torch loaded, it takes longer than
    many tokens do.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
