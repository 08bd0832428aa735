"""06: the load generator: puts a server under load, cell by cell, and keeps the raw trace of every
request.

Nothing is tried again: a request that fails is a failure of the server under that load, and is kept
as one.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from negfail_nb.agents.counts import PromptCounts
from negfail_nb.agents.protocol import ModelError
from negfail_nb.agents.spending import wait_for
from negfail_nb.journal import Journal
from negfail_nb.runs import fingerprint, write_json
from negfail_nb.settings import EndpointSettings, LoadSettings
from negfail_nb.speed.server.client import Client
from negfail_nb.speed.server.events import Answer
from negfail_nb.speed.server.probe import ServerFacts, probe, why_failed
from negfail_nb.speed.server.trace import Chunk, Trace, read_traces
from negfail_nb.speed.server.workload import Cell, Job, Workload, arrivals, as_chats, expand_cells
from negfail_nb.trajectory import Message

SERVER = ".server.json"  # behind the name of the traces' file
_CELLS = (
    "concurrency",
    "rates",
    "caches",
)  # more of these may be measured into the same file later

logger = logging.getLogger("negfail_nb")


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
        Where the clock goes backwards.
    SettingsChanged
        Where the file was begun with other settings, prompts, or another server.
    UnreadableLog
        Where the file has a line that is no trace of this schema.
    ValueError
        Where there are no prompts, or one is empty.
    """
    chats, kept = as_chats(prompts), _Kept(file, endpoint, settings, prompts)
    cells = expand_cells(settings)
    missing = [cell for cell in cells if not kept.done(cell, settings.requests)]
    found = [facts or kept.facts or ServerFacts()]

    async def measure() -> None:
        async with Client(endpoint, clock) as client:
            found[0] = facts or await probe(client)
            kept.save(found[0])
            work = Workload(endpoint.model, chats, settings, found[0])
            counts = PromptCounts(tokenizer)
            sizes = [counts.size(chat) for chat in chats]
            for cell in tqdm(missing, desc="measuring", unit="cell"):
                traces = await _measure_cell(
                    client, cell, work, settings, found[0], lambda t: _cut(t, counts, sizes)
                )
                kept.add(traces)

    if missing:
        wait_for(measure())
    return Measured(cells, tuple(kept.of(cells)), found[0])


async def _measure_cell(
    client: Client,
    cell: Cell,
    work: Workload,
    settings: LoadSettings,
    facts: ServerFacts,
    judge: Callable[[Trace], Trace],
) -> list[Trace]:
    primes, jobs = work.measured(cell)
    if settings.reset_cache:
        await _reset(client, facts)
    few = Cell(cache=cell.cache, concurrency=min(4, cell.concurrency or 4))
    before = await _run(client, few, work.warmup(), settings) + await _run(
        client, few, primes, settings
    )
    if failed := [trace.error for trace in before if not trace.ok]:
        logger.warning(
            "%s: %d of %d requests before it failed: %s",
            cell.label,
            len(failed),
            len(before),
            failed[0],
        )
    await _connect(client, cell.concurrency or 1)
    logger.info("measuring %s: %d requests", cell.label, len(jobs))
    traces = [judge(trace) for trace in await _run(client, cell, jobs, settings)]
    if not any(trace.ok for trace in traces):
        error, count = Counter(trace.error for trace in traces).most_common(1)[0]
        raise ModelError(
            f"{cell.label}: none of {len(traces)} requests succeeded, so there is nothing to measure; "
            f"{count} times: {error}. Is the load too high, or EndpointSettings.timeout too short?"
        )
    return [replace(trace, cell=cell.label) for trace in before] + traces


async def _run(
    client: Client, cell: Cell, jobs: Sequence[Job], settings: LoadSettings
) -> list[Trace]:
    """Send the requests of a cell, and return their traces. Nothing but sending and reading happens
    meanwhile.
    """
    if not jobs:
        return []
    answers: list[tuple[Job, float | None, Answer]] = []

    async def one(job: Job, due: float | None = None) -> None:
        answers.append((job, due, await client.ask("/chat/completions", job.body)))

    with _undisturbed():
        start = client.clock()
        if cell.concurrency:
            await _closed_loop(one, jobs, cell.concurrency)
        else:
            times = arrivals(cell.rate, len(jobs), seed=0)
            await _open_loop(one, jobs, [start + time for time in times], client.clock)
    return [
        _trace(cell, job, due, answer, start, client)
        for job, due, answer in sorted(answers, key=_number)
    ]


async def _closed_loop(one: Callable[[Job], Any], jobs: Sequence[Job], concurrency: int) -> None:
    """Each of so many slots sends its next request when the one before it is answered."""
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


async def _reset(client: Client, facts: ServerFacts) -> None:
    answer = await client.ask(facts.reset) if facts.reset else None
    if answer is None or answer.status != 200:
        why = (
            f"{facts.reset} answers {answer.status or answer.error}"
            if answer
            else "no path for that is known"
        )
        logger.warning(
            "%s: the prefix cache cannot be emptied: %s",
            client.server.url,
            client.server.short(why),
        )


async def _connect(client: Client, count: int) -> None:
    try:
        await client.connect(count)
    except OSError as error:
        text = client.server.short(f"{type(error).__name__}: {error}")
        raise ModelError(
            f"cannot open {count} connections to {client.server.url} ({text}). Is the server up, "
            "EndpointSettings.base_url right, and the limit of open files high enough (ulimit -n)?"
        ) from None


def _cut(trace: Trace, counts: PromptCounts, sizes: Sequence[tuple[int, int]]) -> Trace:
    """Return a trace as a failure where the server read far less than it was sent."""
    why = "" if trace.error else counts.compare(sizes[trace.prompt], trace.prompt_tokens)
    return replace(trace, error=why) if why else trace


def _number(row: tuple[Job, float | None, Answer]) -> int:
    return row[0].number


def _trace(
    cell: Cell, job: Job, due: float | None, answer: Answer, start: float, client: Client
) -> Trace:
    sent = answer.sent - start
    return Trace(
        cell=cell.label,
        **{name: getattr(job, name) for name in ("number", "phase", "prompt", "nonce", "asked")},
        scheduled=sent if due is None else due - start,
        sent=sent,
        ended=answer.ended - start,
        chunks=tuple(
            Chunk(c.time - start, c.text, c.thought, c.tokens, c.choices) for c in answer.chunks
        ),
        status=answer.status,
        finish=answer.finish,
        usage=answer.usage,
        error=client.server.short(why_failed(answer)),
    )


class _Kept:
    """The traces of a file, or of none."""

    def __init__(
        self,
        file: str | Path | None,
        endpoint: EndpointSettings,
        settings: LoadSettings,
        prompts: Sequence[Any],
    ) -> None:
        load = {name: value for name, value in asdict(settings).items() if name not in _CELLS}
        server = {
            "base_url": endpoint.base_url,
            "model": endpoint.model,
            "timeout": endpoint.timeout,
        }
        plan = {"load": load, "endpoint": server, "prompts": fingerprint(list(prompts))}
        about = read_traces, "measure", "traces", "speed.server.load"
        self._journal = Journal(file, plan, *about) if file else None
        self._traces: dict[str, Trace] = self._journal.records if self._journal else {}

    @property
    def facts(self) -> ServerFacts | None:
        """What was found out about the server when the file was made."""
        try:
            found: Mapping[str, Any] = json.loads(self._beside.read_text(encoding="utf-8"))["facts"]
            return ServerFacts(**{**found, "models": tuple(found["models"])})
        except (AttributeError, OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def _beside(self) -> Path:
        path = self._journal.path
        return path.with_name(path.name + SERVER)

    def save(self, facts: ServerFacts) -> None:
        """Write what was found out beside the traces."""
        if self._journal:
            write_json(self._beside, {"facts": asdict(facts)})

    def done(self, cell: Cell, count: int) -> bool:
        """Whether all measured requests of a cell are there."""
        return all(f"{cell.label}/measured/{number}" in self._traces for number in range(count))

    def add(self, traces: Sequence[Trace]) -> None:
        """Keep the traces of a cell."""
        if not self._journal:
            self._traces.update({trace.id: trace for trace in traces})
            return
        with self._journal as journal:
            for trace in traces:
                journal.add(trace)

    def of(self, cells: Sequence[Cell]) -> Iterator[Trace]:
        """Yield the traces of some cells, in order."""
        for cell in cells:
            yield from (trace for trace in self._traces.values() if trace.cell == cell.label)
