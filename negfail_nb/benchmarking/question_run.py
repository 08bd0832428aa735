"""One question under one arm: its run, and the record of what came of it, with every call and
retrieval.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from negfail_nb.agents.counts import PromptCounts
from negfail_nb.agents.protocol import EpisodeTooLong, Model, Reply, Sampling
from negfail_nb.benchmarking.budgets import Budgets, Packed
from negfail_nb.benchmarking.contexts import Context
from negfail_nb.benchmarking.prompts import Prompt, Said
from negfail_nb.benchmarking.records import Passage, PassagePool, Question, gold_copies
from negfail_nb.said import split_thought
from negfail_nb.settings import LiveSettings, ReadingSettings, RetrievalSettings
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, read_records, replace_surrogates

ROUTES = ("passages", "everything")  # what the last answer of self_route rests on
ENDINGS = ("answered", "no_answer", "length", "max_steps", "too_long", "crashed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to the model; ``None`` if the model does not say.

    Attributes are those of `negfail_nb.agents.protocol.Reply`; ``reply`` is the text as it came,
    ``finish`` the model's ``"stop"``, ``"length"`` or other reason, and ``seconds`` and
    ``first_seconds`` are from asking to the whole reply and its first token.
    """

    reply: str
    finish: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    seconds: float = 0.0
    first_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """One search: the query, the numbers of the passages taken from it, best first, and seconds."""

    query: str
    passages: tuple[int, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question, answered or not, under one arm.

    Attributes
    ----------
    question_id, arm, target
        Which question, which arm, and the length of the context in tokens; 0: the arm has none.
    prediction
        The answer, if there is one.
    cited
        Names of the cited passages: of gold as in ``question.gold``, else the title, with its place
        behind it if several passages have that title; of a number that no passage has, the number
        in brackets. ``None``: the reply cites nothing in the form that was asked for.
    cites
        Whether the model was asked to cite.
    plain
        Whether the answer was read from a reply without the form that was asked for; see
        `negfail_nb.grading.plain_answer`.
    passages
        Numbers of the passages that it was shown, in order.
    gold_found
        Names of the gold passages among them, as in ``question.gold``.
    gold_depths, fill, truncated
        Of a long context: depths of gold (0 to 1), tokens / target, and whether its last filler was
        cut (``"sentence"``, ``"token"``) or not (empty). Of a budget: ``fill`` alone.
    route
        Of an arm that retrieves first: whether the passages sufficed (``"passages"``), or the model
        said that they do not answer and was shown ``"everything"``. Empty: there was no choice.
    calls, retrievals
        In order.
    termination
        One of ``ENDINGS``: no answer could be read (``"no_answer"``), also because the reply was
        cut (``"length"``); the agent's calls ran out (``"max_steps"``); the prompt did not fit the
        window (``"too_long"``); or an exception ended it (``"crashed"``). All but ``"answered"``
        score 0.
    error
        Text of that exception.
    """

    question_id: str
    arm: str
    target: int = 0
    prediction: str | None = None
    cited: tuple[str, ...] | None = None
    cites: bool = False
    plain: bool = False
    passages: tuple[int, ...] = ()
    gold_found: tuple[str, ...] = ()
    gold_depths: tuple[float, ...] = ()
    fill: float | None = None
    truncated: str = ""
    route: str = ""
    calls: tuple[Call, ...] = ()
    retrievals: tuple[Retrieval, ...] = ()
    termination: str = "answered"
    error: str = ""

    def __post_init__(self) -> None:
        if self.termination not in ENDINGS:
            raise ValueError(
                f"answer {self.id!r}: termination is {self.termination!r}; use one of {ENDINGS}"
            )

        if self.route not in ("", *ROUTES):
            raise ValueError(f"answer {self.id!r}: route is {self.route!r}; use one of {ROUTES}")

    @property
    def label(self) -> str:
        """The arm and, if it has one, its length: ``long_context@4096``."""
        return arm_label(self.arm, self.target)

    @property
    def id(self) -> str:
        """Unique in a grid."""
        return f"{self.label}/{self.question_id}"

    @property
    def parse_failed(self) -> bool:
        """Whether the model replied, but not in a form from which an answer can be read."""
        return self.termination in ("no_answer", "length")

    @property
    def queries(self) -> tuple[str, ...]:
        """What was searched for, in order."""
        return tuple(retrieval.query for retrieval in self.retrievals)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Answered:
        """Build an answer from JSON values; ``ValueError`` or ``TypeError`` for another schema."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        values["calls"] = tuple(Call(**call) for call in record.get("calls", ()))
        values["retrievals"] = tuple(
            Retrieval(**{**found, "passages": tuple(found.get("passages", ()))})
            for found in record.get("retrievals", ())
        )
        return cls(**values)


def arm_label(arm: str, target: int) -> str:
    """Return the label of an arm at a length: ``long_context@4096``."""
    return f"{arm}@{target}" if target else arm


def read_answers(path: str | Path) -> Iterator[Answered]:
    """Yield the answers of a benchmark's file; ``UnreadableLog`` at the first line that is none."""
    return read_records(path, Answered.from_dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Who plays the arm ``agent``.

    Attributes
    ----------
    model
        Such as the tuned agent of stage 05; ``None``: the model of the other arms.
    prompt
        From a question to what the agent is shown, such as a label template's prompt.
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
    """What all questions of a benchmark share.

    The model is entered. ``index`` has `search`, as `negfail_nb.benchmarking.index.Index`; arms
    without retrieval need none. ``links`` are for arms that follow them themselves, ``budgets`` for
    those that fill one. ``counts`` compares the tokens of prompts with what the server says that it
    read.
    """

    model: Model
    pool: PassagePool
    prompt: Prompt
    settings: ReadingSettings = ReadingSettings()
    index: Any = None
    links: Any = None
    budgets: Budgets | None = None
    agent: Agent = Agent()
    counts: PromptCounts = field(default_factory=PromptCounts)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def retrieval(self) -> RetrievalSettings:
        """The index's settings."""
        return getattr(self.index, "settings", None) or RetrievalSettings()

    @property
    def sampling(self) -> Sampling:
        """How all replies but the agent's are drawn."""
        settings = self.settings
        return Sampling(
            temperature=settings.temperature, max_tokens=settings.answer_tokens, seed=0, stop=()
        )


class QuestionRun:
    """One question under one arm, on the way to its answer.

    ``messages`` are only added, so that a server's prefix cache serves every later call. ``shown``
    are the numbers of the passages in them, in order, each once. ``calls`` and ``retrievals`` are
    what was asked and searched so far. ``target`` is the length of arms that have one, ``context``
    that of arms with long contexts, and ``filled`` what was shown of either.
    """

    def __init__(
        self,
        setup: Setup,
        arm: str,
        question: Question,
        context: Context | None = None,
        target: int = 0,
    ) -> None:
        self.setup = setup
        self.arm = arm
        self.question = question
        self.context = context
        self.target = int(context.target) if context is not None else target
        self.filled: Context | Packed | None = None
        self.route = ""
        self.messages: list[Message] = []
        self.shown: list[int] = []
        self.calls: list[Call] = []
        self.retrievals: list[Retrieval] = []
        self.said = Said()
        self.termination = self.error = ""
        self._cites = False

    async def ask(self, content: str, *, searching: bool = False) -> Said:
        """Add a message, and return what the model's reply says.

        `EpisodeTooLong` if the server says so, or read far less than it was sent.
        """
        setup = self.setup
        before = self.calls[-1].prompt_tokens if self.messages else None
        self.messages.append({"role": "user", "content": content})
        reply = await setup.model.reply(tuple(self.messages), setup.sampling)
        self.note(reply)
        if cut := setup.counts.cut(self.messages, reply.prompt_tokens, before):
            raise EpisodeTooLong(cut)
        written = self.calls[-1].reply
        self.messages.append({"role": "assistant", "content": split_thought(written)[1]})
        self._cites = bool(self.shown)
        self.said = setup.prompt.read(written, searching, setup.settings.strict)
        cut_off = reply.finish_reason == "length"
        if cut_off and self.said.plain and written.endswith(self.said.answer or ""):
            self.said = Said()  # the last words of a reply that was cut are no answer
        self.error = self._reason(reply)
        return self.said

    async def ask_about(self, numbers: Sequence[int]) -> None:
        """Ask once, with these passages."""
        await self.ask(self.setup.prompt.once(self.question, self.show(numbers)))

    async def read_all(self) -> None:
        """Ask once with the whole context, in a conversation of its own."""
        self.messages = []
        self.said = Said()
        self.shown = list(self.context.passages)
        self.filled = self.context
        await self.ask(self.context.text)

    def _reason(self, reply: Reply) -> str:
        """Return why the reply has no answer, as far as that is known."""
        if self.said.answer is not None or self.said.query or reply.finish_reason != "length":
            return self.said.reason
        tokens = reply.completion_tokens or self.setup.settings.answer_tokens
        cut = f"the reply was cut after {tokens} tokens; raise ReadingSettings.answer_tokens"
        return "; ".join(filter(None, (self.said.reason, cut)))

    def note(self, reply: Reply) -> None:
        """Write down a call of the model."""
        first = None if reply.first_seconds is None else round(reply.first_seconds, 6)
        self.calls.append(
            Call(
                reply=replace_surrogates(text(reply.message)),
                finish=reply.finish_reason,
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                cached_tokens=reply.cached_tokens,
                seconds=round(reply.seconds, 6),
                first_seconds=first,
            )
        )

    async def search(self, query: str, k: int) -> list[int]:
        """Return the best ``k`` passages that are not shown yet, or as many as there are."""
        wanted = min(k + len(self.shown), len(self.setup.pool))
        found = await self.hits(query, k, lambda: self.setup.index.search([query], wanted))
        return new_numbers(found, self.shown)[:k]

    async def hits(self, query: str, k: int, find: Callable[[], Any]) -> Any:
        """Return the hits of a search, and write down the best ``k`` that are not shown yet.

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
        self.said = Said(answer)
        self.termination = termination
        self.error = error

    def show(self, numbers: Sequence[int]) -> list[Passage]:
        """Return these passages, which count as shown from now on."""
        self.shown += numbers
        return [self.setup.pool[number] for number in numbers]

    def lines(self, numbers: Sequence[int]) -> str:
        """Show passages: return their lines, numbered on from those before."""
        first = len(self.shown) + 1
        return self.setup.prompt.passages(self.show(numbers), first)

    @property
    def ending(self) -> str:
        """How it ended, if nothing went wrong."""
        if self.termination:
            return self.termination
        if self.said.answer is not None:
            return "answered"
        return "length" if self.calls and self.calls[-1].finish == "length" else "no_answer"

    def record(self, ending: str, error: str = "") -> Answered:
        """Return what came of it."""
        answered = ending == "answered"
        found = dict.fromkeys(name for n, name in self._gold.items() if n in self.shown)
        return Answered(
            question_id=self.question.id,
            arm=self.arm,
            prediction=self.said.answer if answered else None,
            cited=self._cited() if answered else None,
            cites=self._cites,
            plain=answered and self.said.plain,
            passages=tuple(self.shown),
            gold_found=tuple(found),
            calls=tuple(self.calls),
            retrievals=tuple(self.retrievals),
            termination=ending,
            error=error,
            target=self.target,
            route=self.route,
            **self._filled(),
        )

    def _filled(self) -> dict[str, Any]:
        """What a record says of a length that was filled."""
        if self.filled is None:
            return {}
        return {
            "gold_depths": tuple(round(float(depth), 6) for depth in self.filled.gold_depths),
            "fill": round(self.filled.fill, 6),
            "truncated": self.filled.truncated,
        }

    def _cited(self) -> tuple[str, ...] | None:
        if not self._cites or self.said.sources is None:
            return None
        return tuple(dict.fromkeys(self._name(number) for number in self.said.sources))

    @cached_property
    def _gold(self) -> dict[int, str]:
        """Names of the gold passages by number; the grid checked that the pool has them all."""
        try:
            copies = gold_copies(self.question, self.setup.pool)
        except ValueError:
            return {}
        named = zip(copies, self.question.gold, strict=True)
        return {number: name for numbers, name in named for number in numbers}

    def _name(self, place: int) -> str:
        """Return the name of a cited passage: of gold as in ``question.gold``, else its title.

        With its place behind it if other passages have that title, so that it counts as a wrong
        citation, as does a place that was not shown.
        """
        if not 0 < place <= len(self.shown):
            return f"[{place}]"
        number = self.shown[place - 1]
        title = self.setup.pool[number].title
        alone = len(self.setup.pool.find(title)) == 1
        return self._gold.get(number) or (title if alone else f"{title} [{place}]")


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
