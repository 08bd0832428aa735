"""The load generator: puts a server under load, cell by cell, and keeps the raw trace of every
request.

Nothing is tried again: a request that fails is a failure of the server under that load, and is kept
as one. Every prompt begins with a nonce, drawn anew at each call, so that no prefix of it is in the
server's cache: in a cold cell one per request, in a warm one per prompt, which was sent before.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from negfail_nb.agents.counts import PromptCounts
from negfail_nb.agents.protocol import ModelError
from negfail_nb.agents.queue import wait_for
from negfail_nb.content import fingerprint, write_json
from negfail_nb.journal import Journal
from negfail_nb.settings import EndpointSettings, LoadSettings
from negfail_nb.speed.client import Answer, Client
from negfail_nb.speed.metrics import OPEN
from negfail_nb.speed.probe import ServerFacts, probe
from negfail_nb.speed.traces import Trace, read_own
from negfail_nb.trajectory import Message

SERVER = ".server.json"  # behind the name of the traces' file
# More of these may be measured into the same file later.
_CELLS = ("concurrency", "rates", "caches")

logger = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One load with one state of the prefix cache."""

    cache: str  # cold or warm
    concurrency: int = 0  # requests at once, in a closed loop; 0 in an open one
    rate: float = 0.0  # arrivals per second, in an open loop

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
    """What `measure_load` returns."""

    cells: tuple[Cell, ...]  # in order
    traces: tuple[Trace, ...]  # of every request, by cell; also of warm-ups, which count nowhere
    facts: ServerFacts  # what the server can do

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
    chats = _as_chats(prompts)
    cells = expand_cells(settings)
    journal = None
    if file:
        load = {name: value for name, value in asdict(settings).items() if name not in _CELLS}
        server = {name: getattr(endpoint, name) for name in ("model", "timeout")}
        server["base_url"] = ",".join(endpoint.base_url)
        plan = {"load": load, "endpoint": server, "prompts": fingerprint(list(prompts))}
        journal = Journal(file, plan, read_own, "measure", "traces", "speed.load")
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


class _Job(NamedTuple):
    """A request that is ready to be sent."""

    about: dict[str, Any]  # fields of its `Trace`
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
        self._client = client
        self._chats = chats
        self._settings = settings
        self._facts = facts
        self._counts = PromptCounts(tokenizer)
        self._sizes = [self._counts.size(chat) for chat in chats]
        self._fields = {"model": client.settings.model, "stream": True, "temperature": 0.0}
        self._fields |= facts.fields(settings.fixed_length)

    async def measure(self, cell: Cell) -> list[Trace]:
        """Return the traces of a cell, those of its warm-ups included."""
        if self._settings.reset_cache:
            await self._reset()
        count = self._settings.requests
        turns = len(self._chats)
        warm = cell.cache == "warm"
        nonces = [secrets.token_hex(6) for _ in range(turns if warm else 0)]
        jobs = self._jobs("measured", count, nonces)
        few = Cell(cache=cell.cache, concurrency=min(4, cell.concurrency or 4))
        before = await self._send(few, self._jobs("warmup", self._settings.warmup))
        if warm:
            before += await self._send(few, self._jobs("prime", min(turns, count), nonces))
        if failed := [trace.error for trace in before if not trace.ok]:
            about = cell.label, len(failed), len(before), failed[0]
            logger.warning("%s: %d of %d requests before it failed: %s", *about)
        await self._connect(cell.concurrency or 1)
        logger.info("measuring %s: %d requests", cell.label, count)
        traces = [self._judged(trace) for trace in await self._send(cell, jobs)]
        if not any(trace.ok for trace in traces):
            error, times = Counter(trace.error for trace in traces).most_common(1)[0]
            raise ModelError(
                f"{cell.label}: none of {count} requests succeeded, so there is nothing to "
                f"measure; {times} times: {error}. Is the load too high, or "
                "EndpointSettings.timeout too short?"
            )
        return [replace(trace, cell=cell.label) for trace in before] + traces

    def _jobs(self, phase: str, count: int, nonces: Sequence[str] = ()) -> list[_Job]:
        """Return requests, prompts in turn, each with a new nonce or that of its prompt."""
        jobs = []
        for number in range(count):
            prompt = number % len(self._chats)
            nonce = nonces[prompt] if nonces else secrets.token_hex(6)
            first, *others = self._chats[prompt]
            text = first["content"]
            if phase == "warmup":  # as long as a prompt, but none of them
                text = " ".join(reversed(text.split()))
            messages = [{**first, "content": f"[{nonce}] {text}"}, *others]
            asked = 1 if phase == "prime" else self._settings.output_tokens
            body = {**self._fields, "max_tokens": asked, "messages": messages}
            about = {"number": number, "phase": phase, "prompt": prompt, "nonce": nonce}
            jobs.append(_Job(about | {"asked": asked}, json.dumps(body).encode()))
        return jobs

    async def _send(self, cell: Cell, jobs: Sequence[_Job]) -> list[Trace]:
        """Send the requests of a cell, doing nothing else meanwhile; return their traces."""
        client = self._client
        answers = []
        left = iter(jobs)

        async def one(job: _Job, due: float | None = None) -> None:
            answers.append((job, due, await client.ask("/chat/completions", job.body)))

        async def slot() -> None:  # sends its next request when the one before is answered
            for job in left:
                await one(job)

        collecting = gc.isenabled()
        gc.disable()  # with torch loaded, a collection takes longer than many tokens do
        try:
            start = client.clock()
            async with asyncio.TaskGroup() as group:
                for _ in range(cell.concurrency):
                    group.create_task(slot())
                # In an open loop, each is sent when it is due, however many are under way.
                times = arrivals(cell.rate, len(jobs), seed=0) if cell.rate else ()
                for job, time in zip(jobs, times, strict=False):
                    await asyncio.sleep(max(start + time - client.clock(), 0.0))
                    group.create_task(one(job, start + time))
        finally:
            if collecting:
                gc.enable()
        answers.sort(key=lambda row: row[0].about["number"])
        return [self._trace(cell, *answer, start) for answer in answers]

    def _trace(
        self, cell: Cell, job: _Job, due: float | None, answer: Answer, start: float
    ) -> Trace:
        sent = answer.sent - start
        return Trace(
            cell=cell.label,
            **job.about,
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
        server = self._client.server
        path = self._facts.reset
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


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Return the times of a Poisson process, in seconds: the first arrives at 0."""
    draw = random.Random(seed)
    return list(accumulate((draw.expovariate(rate) for _ in range(count - 1)), initial=0.0))
