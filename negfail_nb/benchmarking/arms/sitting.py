"""One question under way: the conversation so far, which only grows, what was searched, and what it
cost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from negfail_nb.agents.counts import PromptCounts
from negfail_nb.agents.protocol import EpisodeTooLong, Model, Reply, Sampling
from negfail_nb.benchmarking.arms.answers import Answered, Call, Retrieval
from negfail_nb.benchmarking.arms.prompts import Prompt, Said
from negfail_nb.benchmarking.corpora.records import Passage, PassagePool, Question, gold_copies
from negfail_nb.said import split_thought
from negfail_nb.settings import LiveSettings, ReadingSettings, RetrievalSettings
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, replace_surrogates


class Searcher(Protocol):
    """An index, such as `negfail_nb.benchmarking.retrieval.index.build_index` returns."""

    def search(self, queries: Sequence[str], k: int) -> Any:
        """Return hits with ``.numbers``, shape (queries, k), best first; a number below 0 is no
        hit.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Who plays the arm ``agent``.

    Attributes
    ----------
    model
        Such as the tuned agent of room 05; ``None``: the model of the other arms.
    prompt
        From a question to what the agent is shown, such as the arm's label template.
    live
        How an episode is played; ``results`` is how many passages one search returns.
    thoughts
        Whether the agent is shown its earlier thoughts; see `negfail_nb.agents.rollout.play`.
    """

    model: Model | None = None
    prompt: Callable[[str], str] = str
    live: LiveSettings = LiveSettings()
    thoughts: str = "neither"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all questions of a grid share.

    Attributes
    ----------
    model
        An entered model.
    index
        What retrieves; arms without retrieval need none.
    links, retrieval
        For ``retrieve_3_no_model``: links between passages, and how they are followed. Without
        links the index is asked once for all passages, as one that follows links itself wants it.
    counts
        Counts prompts, and compares with what the server says that it read.
    """

    model: Model
    pool: PassagePool
    prompt: Prompt
    settings: ReadingSettings = ReadingSettings()
    index: Searcher | None = None
    links: Any = None
    retrieval: RetrievalSettings = RetrievalSettings()
    agent: Agent = Agent()
    counts: PromptCounts = field(default_factory=PromptCounts)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def sampling(self) -> Sampling:
        """How all replies are drawn, those of the agent apart."""
        settings = self.settings
        return Sampling(
            temperature=settings.temperature, max_tokens=settings.answer_tokens, seed=0, stop=()
        )


class Sitting:
    """One question under one arm, on the way to its answer.

    Attributes
    ----------
    messages
        The conversation; messages are only added, so that a server's prefix cache serves every
        later call.
    shown
        Numbers of the passages that stand in it, in order, each once.
    """

    def __init__(self, setup: Setup, arm: str, question: Question) -> None:
        self.setup, self.arm, self.question = setup, arm, question
        self.messages: list[Message] = []
        self.shown: list[int] = []
        self.calls: list[Call] = []
        self.retrievals: list[Retrieval] = []
        self.said = Said()
        self.termination = self.error = ""
        self.context: dict[str, Any] = {}
        self._cites = False

    async def ask(self, content: str, *, searching: bool = False) -> Said:
        """Add a message, and return what the model's reply says.

        Raises
        ------
        EpisodeTooLong
            Where the server says so, or read far less than it was sent.
        """
        setup, before = self.setup, self.calls[-1].prompt_tokens if self.calls else None
        self.messages.append({"role": "user", "content": content})
        reply = await setup.model.reply(tuple(self.messages), setup.sampling)
        self.note(reply)
        if cut := setup.counts.cut(self.messages, reply.prompt_tokens, before):
            raise EpisodeTooLong(cut)
        written = self.calls[-1].reply
        self.messages.append({"role": "assistant", "content": split_thought(written)[1]})
        self._cites = setup.prompt.cites and bool(self.shown)
        self.said = setup.prompt.read(written, searching, setup.settings.strict)
        # The last words of a reply that was cut are no answer.
        if (
            reply.finish_reason == "length"
            and self.said.plain
            and written.endswith(self.said.answer or "")
        ):
            self.said = Said()
        self.error = self._reason(reply)
        return self.said

    def _reason(self, reply: Reply) -> str:
        """Return why the reply has no answer, as far as that is known."""
        if self.said.answer is not None or self.said.query or reply.finish_reason != "length":
            return self.said.reason
        cut = f"the reply was cut after {reply.completion_tokens or self.setup.settings.answer_tokens} tokens"
        return "; ".join(
            filter(None, (self.said.reason, f"{cut}; raise ReadingSettings.answer_tokens"))
        )

    def note(self, reply: Reply) -> None:
        """Write down a call of the model."""
        costs = {
            name: getattr(reply, name)
            for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
        }
        first = None if reply.first_seconds is None else round(reply.first_seconds, 6)
        times = {"seconds": round(reply.seconds, 6), "first_seconds": first}
        self.calls.append(
            Call(
                reply=replace_surrogates(text(reply.message)),
                finish=reply.finish_reason,
                **times,
                **costs,
            )
        )

    async def search(self, query: str, k: int) -> list[int]:
        """Return the best ``k`` passages that are not shown yet, or as many as there are."""
        wanted = min(k + len(self.shown), len(self.setup.pool))
        found = await self.hits(query, k, lambda: self.index.search([query], wanted))
        return new_numbers(found, self.shown)[:k]

    async def hits(self, query: str, k: int, find: Callable[[], Any]) -> Any:
        """Return the hits of a search, and write down the best ``k`` of them that are not shown
        yet.

        It runs in a thread, and one at a time: the seconds are its own, and replies are waited for
        meanwhile.
        """
        async with self.setup.lock:
            hits, seconds = await asyncio.to_thread(timed, find)
        found = tuple(new_numbers(hits, self.shown)[:k])
        self.retrievals.append(Retrieval(query=query, passages=found, seconds=seconds))
        return hits

    def finish(self, answer: str | None, termination: str, error: str) -> None:
        """End it with what an agent's episode came to."""
        self.said, self.termination, self.error = Said(answer), termination, error

    def read(self, numbers: Sequence[int]) -> list[Passage]:
        """Return these passages, which count as shown from now on."""
        self.shown += numbers
        return [self.setup.pool[number] for number in numbers]

    def lines(self, numbers: Sequence[int]) -> str:
        """Return the lines of passages that are shown now, numbered on from those before."""
        first = len(self.shown) + 1
        return self.setup.prompt.passages(self.read(numbers), first)

    @property
    def index(self) -> Searcher:
        """The index.

        Raises
        ------
        ValueError
            Where there is none.
        """
        if self.setup.index is None:
            raise ValueError(
                f"the arm {self.arm!r} retrieves, but no index is given: benchmark(.., index=..)"
            )
        return self.setup.index

    @property
    def ending(self) -> str:
        """How it ended, as long as nothing went wrong."""
        if self.termination:
            return self.termination
        if self.said.answer is not None:
            return "answered"
        return "length" if self.calls and self.calls[-1].finish == "length" else "no_answer"

    def record(self, ending: str, error: str = "") -> Answered:
        """Return what came of it."""
        return Answered(
            question_id=self.question.id,
            arm=self.arm,
            prediction=self.said.answer if ending == "answered" else None,
            cited=self._cited() if ending == "answered" else None,
            cites=self._cites,
            plain=ending == "answered" and self.said.plain,
            passages=tuple(self.shown),
            gold_found=tuple(
                dict.fromkeys(name for n, name in self._gold.items() if n in self.shown)
            ),
            calls=tuple(self.calls),
            retrievals=tuple(self.retrievals),
            termination=ending,
            error=error,
            **self.context,
        )

    def _cited(self) -> tuple[str, ...] | None:
        if not self._cites or self.said.sources is None:
            return None
        return tuple(dict.fromkeys(self._name(number) for number in self.said.sources))

    @cached_property
    def _gold(self) -> dict[int, str]:
        """Names of the gold passages by their numbers in the pool. A grid checks beforehand that it
        has them all.
        """
        try:
            copies = gold_copies(self.question, self.setup.pool)
        except ValueError:
            return {}
        named = zip(copies, self.question.gold, strict=True)
        return {number: name for numbers, name in named for number in numbers}

    def _name(self, place: int) -> str:
        """Return the name of a cited passage: of gold as in ``question.gold``, else its title.

        With its place behind it, where other passages have that title; so it counts as a wrong
        citation, and so does a place that was not shown.
        """
        if not 0 < place <= len(self.shown):
            return f"[{place}]"
        number = self.shown[place - 1]
        title = self.setup.pool[number].title
        return self._gold.get(number) or (
            title if len(self.setup.pool.find(title)) == 1 else f"{title} [{place}]"
        )


def timed(find: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a search finds, and its seconds."""
    start = time.perf_counter()
    hits = find()
    return hits, round(time.perf_counter() - start, 6)


def new_numbers(hits: Any, shown: Sequence[int]) -> list[int]:
    """Return the numbers of the hits of one query, best first, without those shown before."""
    seen = {-1, *shown}
    numbers = (int(number) for number in hits.numbers[0])
    return [n for n in numbers if n >= 0 and not (n in seen or seen.add(n))]
