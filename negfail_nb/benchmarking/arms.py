"""The arms: ways from a question to an answer.

An arm is one entry of ``ARMS``: a short function of a `QuestionRun`, what it costs, and what it
needs. Its prompts are in `negfail_nb.benchmarking.prompts`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from negfail_nb.agents.protocol import EpisodeTooLong, ModelError, Reply, Task
from negfail_nb.agents.rollout import Toolbox
from negfail_nb.agents.rollout import play as play_episode
from negfail_nb.agents.spending import BudgetSpent
from negfail_nb.agents.tools import SearchTool, show_passages
from negfail_nb.benchmarking.contexts import Context
from negfail_nb.benchmarking.paths import linked_search
from negfail_nb.benchmarking.question_run import (
    Answered,
    QuestionRun,
    Retrieval,
    Setup,
    arm_label,
    new_numbers,
    timed,
)
from negfail_nb.benchmarking.records import Question, gold_numbers
from negfail_nb.environment import redact
from negfail_nb.settings import LiveSettings, ReadingSettings
from negfail_nb.trajectory import Message, replace_surrogates

_AGENT_ENDINGS = {
    "finished": "answered",
    "max_steps": "max_steps",
    "tool_error": "max_steps",
    "crashed": "crashed",
}

logger = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What an arm's prompts are estimated from: mean tokens of a prompt without its passages
    (``frame``), of the closed-book prompt, of a passage, and of the chat template around a message;
    the mean number of ``gold`` passages; the arm's context ``length``; and the settings.
    """

    frame: float
    closed_book: float
    passage: float
    template: float
    gold: float
    length: int
    settings: ReadingSettings
    live: LiveSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way from a question to an answer.

    Attributes
    ----------
    name, title
        In settings and files, and in tables and figures.
    play
        Plays a question: asks, searches, and leaves its answer in the `QuestionRun`.
    prompts
        Returns the tokens of each prompt of one question, at most.
    needs
        Of ``"index"``, ``"gold"`` (questions with supporting facts), ``"context"`` (a context at
        each length), ``"budget"`` (what counts the tokens of passages), ``"links"`` (unless the
        index follows them) and ``"agent"`` (its model, and replies as long as its settings allow).
        What is missing is refused before anything is asked.
    lengths
        Of an arm at set lengths: which of `ContextSettings.lengths` its bare name stands for.
    """

    name: str
    title: str
    play: Callable[[QuestionRun], Awaitable[None]]
    prompts: Callable[[Sizes], Sequence[float]]
    needs: tuple[str, ...] = ()
    lengths: Callable[[Sequence[int]], Sequence[int]] | None = None


async def _closed_book(run: QuestionRun) -> None:
    await run.ask(run.setup.prompt.closed_book(run.question))


async def _oracle(run: QuestionRun) -> None:
    """Only the gold passages, the same ones as in long contexts."""
    await run.ask_about(gold_numbers(run.question, run.setup.pool))


async def _long_context(run: QuestionRun) -> None:
    await run.read_all()


async def _retrieve_1(run: QuestionRun) -> None:
    await run.ask_about(await run.search(run.question.question, _shown(run.setup.settings)[0]))


async def _retrieve_3(run: QuestionRun) -> None:
    """Retrieve, let the model write the next query or answer, retrieve again: at most ``steps``
    times.
    """
    settings = run.setup.settings
    prompt = run.setup.prompt
    question = run.question
    query = question.question
    asked = set[str]()
    for left in reversed(range(settings.steps)):
        found = await run.search(query, min(settings.passages, settings.total - len(run.shown)))
        most = min(settings.total, len(run.setup.pool))
        more = left > 0 and len(run.shown) + len(found) < most
        before = "" if run.messages else prompt.before(question)
        behind = prompt.step(question, bool(found)) if more else prompt.after(question)
        said = await run.ask(before + run.lines(found) + behind, searching=more)
        asked.add(query)
        if not (more and said.query) or (said.answer is not None and said.query in asked):
            return
        query = said.query


async def _retrieve_3_no_model(run: QuestionRun) -> None:
    """As many passages as three steps may show, found without the model, and one call."""
    setup = run.setup
    query = run.question.question
    k = _shown(run.setup.settings)[-1]
    if setup.links is None:  # the index follows links itself
        return await run.ask_about(await run.search(query, k))
    index = setup.index
    settings = setup.retrieval
    size = len(setup.pool)
    wanted = min(max(k, settings.first), size)
    k = min(k, size)
    first = await run.hits(query, settings.first, partial(index.search, [query], wanted))
    follow = partial(linked_search, index, setup.links, [query], k, settings, first)
    await run.ask_about(new_numbers(await run.hits(query, k, follow), ())[:k])


async def _agent(run: QuestionRun) -> None:
    """An episode of an agent that searches and finishes, as in live collection."""
    question = run.question
    agent = run.setup.agent
    task = Task(id=question.id, question=question.question, prompt=agent.prompt(question.question))

    def after(reply: Reply, messages: Sequence[Message]) -> None:
        run.note(reply)

    tools = Toolbox([IndexTool(run, agent.live.results)])
    played = await play_episode(
        agent.model or run.setup.model,
        task,
        tools,
        agent.live,
        after=after,
        thoughts=agent.thoughts,
    )
    run.finish(played.prediction, _AGENT_ENDINGS.get(played.termination, "no_answer"), played.error)


async def _dos_rag(run: QuestionRun) -> None:
    """The best passages until the budget is filled, in the order of the pool, and one call (DOS
    RAG, arXiv 2506.03989).
    """
    question = run.question
    budgets = run.setup.budgets
    wanted = budgets.guess(run.target)
    while True:
        found = await run.search(question.question, wanted)
        packed = budgets.pack(question, found, run.target)
        if packed.full or wanted >= len(run.setup.pool):
            break
        wanted *= 2
    run.retrievals[-1] = replace(run.retrievals[-1], passages=packed.taken)
    run.filled = packed
    await run.ask_about(packed.passages)


async def _self_route(run: QuestionRun) -> None:
    """As with one retrieval, but the model may say that the passages do not answer; only then it is
    shown everything (Self-Route, arXiv 2407.16833).
    """
    setup = run.setup
    prompt = setup.prompt
    question = run.question
    found = await run.search(question.question, _shown(setup.settings)[0])
    await run.ask(prompt.before(question) + run.lines(found) + prompt.route(question))
    declined = prompt.declines(run.calls[-1].reply, setup.settings.strict)
    run.route = "everything" if declined else "passages"
    if declined:
        await run.read_all()


class IndexTool:
    """The search of an agent, over an index; it answers as `negfail_nb.agents.tools.SearchTool`."""

    name = SearchTool.name
    argument = SearchTool.argument
    description = SearchTool.description

    def __init__(self, run: QuestionRun, results: int) -> None:
        self._run = run
        self._results = results

    def __call__(self, query: str) -> str:
        """Return the best passages as one line: ``Title [1]: text Title [2]: text``."""
        run = self._run
        pool = self._run.setup.pool
        wanted = min(self._results, len(pool))
        hits, seconds = timed(lambda: run.setup.index.search([query], wanted))
        titled = map(int, pool.find(query.strip()))  # as SearchTool: this very title comes first
        found = list(dict.fromkeys([*titled, *new_numbers(hits, ())]))[: self._results]
        run.retrievals.append(Retrieval(query=query, passages=tuple(found), seconds=seconds))
        run.show([number for number in found if number not in run.shown])
        passages = (pool[number] for number in found)
        return show_passages((passage.title, passage.text) for passage in passages)


def _shown(settings: ReadingSettings) -> list[int]:
    """Return how many passages are shown after each step, at most."""
    steps = range(1, settings.steps + 1)
    return [min(step * settings.passages, settings.total) for step in steps]


def _step_prompts(sizes: Sizes) -> list[float]:
    """A later prompt holds the earlier ones and their replies."""
    turn = sizes.frame + sizes.settings.answer_tokens
    shown = _shown(sizes.settings)
    return [n * sizes.passage + sizes.frame + step * turn for step, n in enumerate(shown)]


def _agent_prompts(sizes: Sizes) -> list[float]:
    live = sizes.live
    turn = sizes.template + live.max_tokens + live.results * sizes.passage
    return [sizes.frame + step * turn for step in range(live.max_calls)]


def _longest(lengths: Sequence[int]) -> Sequence[int]:
    return sorted(lengths)[-1:]


def _below_longest(lengths: Sequence[int]) -> Sequence[int]:
    """With a budget as long as the longest context, nothing would be left out."""
    return sorted(set(lengths))[:-1] or tuple(lengths)


ARMS = {
    arm.name: arm
    for arm in (
        Arm(
            name="closed_book",
            title="closed book",
            play=_closed_book,
            prompts=lambda sizes: [sizes.closed_book],
        ),
        Arm(
            name="oracle",
            title="oracle (gold only)",
            play=_oracle,
            prompts=lambda sizes: [sizes.frame + sizes.gold * sizes.passage],
            needs=("gold",),
        ),
        Arm(
            name="long_context",
            title="long context",
            play=_long_context,
            prompts=lambda sizes: [sizes.length - sizes.settings.answer_tokens],
            needs=("gold", "context"),
            lengths=tuple,
        ),
        Arm(
            name="retrieve_1",
            title="retrieval, 1 step",
            play=_retrieve_1,
            prompts=lambda sizes: [sizes.frame + _shown(sizes.settings)[0] * sizes.passage],
            needs=("index",),
        ),
        Arm(
            name="retrieve_3",
            title="retrieval, 3 steps",
            play=_retrieve_3,
            prompts=_step_prompts,
            needs=("index",),
        ),
        Arm(
            name="retrieve_3_no_model",
            title="3 steps, no model",
            play=_retrieve_3_no_model,
            prompts=lambda sizes: [sizes.frame + _shown(sizes.settings)[-1] * sizes.passage],
            needs=("index", "links"),
        ),
        Arm(
            name="agent",
            title="agent",
            play=_agent,
            prompts=_agent_prompts,
            needs=("index", "agent"),
        ),
        Arm(
            name="dos_rag",
            title="passages in order",
            play=_dos_rag,
            prompts=lambda sizes: [sizes.length - sizes.settings.answer_tokens],
            needs=("index", "budget"),
            lengths=_below_longest,
        ),
        Arm(
            name="self_route",
            title="retrieval, else all",
            play=_self_route,
            prompts=lambda sizes: [
                sizes.frame + _shown(sizes.settings)[0] * sizes.passage,
                sizes.length - sizes.settings.answer_tokens,
            ],
            needs=("index", "gold", "context"),
            lengths=_longest,
        ),
    )
}


def length_of(label: str) -> int:
    """Return the length of a label, in tokens: 4096 of ``dos_rag@4096``; 0 if it has none."""
    return int(label.partition("@")[2] or 0)


def get_arm(label: str) -> Arm:
    """Return the arm of a label such as ``long_context@4096``; ``ValueError`` if there is none."""
    name = label.partition("@")[0]
    if name not in ARMS:
        raise ValueError(
            f"unknown arm {name!r}; use {', '.join(ARMS)}, or long_context@4096 for one length"
        )
    return ARMS[name]


def expand_arms(arms: Sequence[str], lengths: Sequence[int]) -> tuple[str, ...]:
    """Return the labels of arms, each once: ``long_context`` at every length, ``dos_rag`` at all
    but the longest, ``self_route`` at the longest.

    Parameters
    ----------
    arms
        Names, in order; ``long_context@8192`` is one length only.
    lengths
        Of arms that have some, in tokens.

    Raises
    ------
    ValueError
        For no arms, an unknown one, or a length that is no number of tokens.
    """
    if not arms or isinstance(arms, str):
        raise ValueError(f"arms is {arms!r}; give a list with some of {', '.join(ARMS)}")
    found: dict[str, None] = {}
    for label in arms:
        name, at, length = label.partition("@")
        chosen = get_arm(name).lengths
        if at and not (chosen and length.isdecimal() and int(length)):
            raise ValueError(
                f"unknown arm {label!r}; use {', '.join(ARMS)}, or long_context@4096 for one length"
            )
        targets = chosen(lengths) if chosen and not at else (int(length or 0),)
        found.update(dict.fromkeys(arm_label(name, target) for target in targets))
    return tuple(found)


async def play_arm(
    setup: Setup, arm: str, question: Question, context: Context | None = None
) -> Answered:
    """Let an entered model answer one question under one arm. It always ends in a record.

    Raises
    ------
    ValueError
        For an unknown arm, one with long contexts without a context, or one that fills a budget
        without one: ``dos_rag@4096``, and ``Setup.budgets``.
    ModelError
        If no question could succeed.
    BudgetSpent
        If nothing is left of the budget.
    """
    chosen = get_arm(arm)
    if "context" in chosen.needs and context is None:
        raise ValueError(
            f"question {question.id}: the arm {arm} needs a context; see make_contexts"
        )
    target = length_of(arm)
    if "budget" in chosen.needs and not (target and setup.budgets):
        raise ValueError(
            f"question {question.id}: the arm {arm} needs a budget, such as {chosen.name}@4096, "
            "and what counts its tokens; see make_budgets"
        )
    run = QuestionRun(setup, chosen.name, question, context, target)
    try:
        await chosen.play(run)
        ending = run.ending
        error = run.error
    except (ModelError, BudgetSpent):
        raise
    except EpisodeTooLong as reason:
        ending = "too_long"
        error = redact(str(reason))
    except Exception as reason:  # noqa: BLE001 - a question that crashed is a record
        ending = "crashed"
        error = redact(f"{type(reason).__name__}: {reason}")
        logger.info("%s/%s crashed: %s", arm, question.id, error)
    return run.record(ending, replace_surrogates(error))
