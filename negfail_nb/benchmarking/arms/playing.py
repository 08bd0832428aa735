"""The arms: ways to come from a question to an answer. An arm is one short function of a `Sitting`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from negfail_nb.agents.protocol import EpisodeTooLong, ModelError, Reply, Task
from negfail_nb.agents.rollout import Toolbox
from negfail_nb.agents.rollout import play as play_episode
from negfail_nb.agents.spending import BudgetSpent
from negfail_nb.agents.tools import SearchTool, show_passages
from negfail_nb.benchmarking.arms.answers import Answered, Retrieval, arm_label
from negfail_nb.benchmarking.arms.sitting import Setup, Sitting, new_numbers, timed
from negfail_nb.benchmarking.corpora.records import Question, gold_numbers
from negfail_nb.environment import redact
from negfail_nb.settings import ARMS
from negfail_nb.trajectory import Message, replace_surrogates

Arm = Callable[[Question], Awaitable[Answered]]
_AGENT_ENDINGS = {
    "finished": "answered",
    "max_steps": "max_steps",
    "tool_error": "max_steps",
    "crashed": "crashed",
}

logger = logging.getLogger("negfail_nb")


def open_arm(name: str, setup: Setup, contexts: Mapping[str, Any] | None = None) -> Arm:
    """Return an arm as a function from a question to what came of it.

    Parameters
    ----------
    name, setup
        As for `play_arm`.
    contexts
        For ``long_context``: the contexts of one length, by the questions' ids.

    Raises
    ------
    ValueError
        For an unknown arm.
    """
    check_arm(name)
    return lambda question: play_arm(setup, name, question, (contexts or {}).get(question.id))


async def play_arm(setup: Setup, arm: str, question: Question, context: Any = None) -> Answered:
    """Let a model answer one question under one arm. It always ends in a record.

    Parameters
    ----------
    setup
        What all questions share; its model is entered.
    arm
        One of `negfail_nb.settings.ARMS`.
    question
        The question.
    context
        For ``long_context``: what `negfail_nb.benchmarking.contexts.making.make_contexts` made for
        the question.

    Raises
    ------
    ValueError
        For an unknown arm, or ``long_context`` without a context.
    ModelError
        Where no question could succeed.
    BudgetSpent
        Where nothing is left of the budget.
    """
    check_arm(arm)
    if arm == "long_context" and context is None:
        raise ValueError(
            f"question {question.id}: the arm long_context needs a context; see make_contexts"
        )
    sitting = Sitting(setup, arm, question)
    try:
        await (_long_context(sitting, context) if arm == "long_context" else _PLAYERS[arm](sitting))
        ending, error = sitting.ending, sitting.error
    except (ModelError, BudgetSpent):
        raise
    except EpisodeTooLong as reason:
        ending, error = "too_long", redact(str(reason))
    except Exception as reason:  # noqa: BLE001 - a question that crashed is a record
        ending, error = "crashed", redact(f"{type(reason).__name__}: {reason}")
        logger.info("%s/%s crashed: %s", arm, question.id, error)
    return sitting.record(ending, replace_surrogates(error))


def check_arm(name: str) -> None:
    """Check that there is such an arm.

    Raises
    ------
    ValueError
        Where there is none.
    """
    if name not in ARMS:
        raise ValueError(
            f"unknown arm {name!r}; use {', '.join(ARMS)}, or long_context@4096 for one length"
        )


def expand_arms(arms: Sequence[str], lengths: Sequence[int]) -> tuple[str, ...]:
    """Return the arms, each once, with ``long_context`` at every length: ``long_context@4096``.

    Parameters
    ----------
    arms
        Names, in order; ``long_context@8192`` is one length only.
    lengths
        Of ``long_context``, in tokens.

    Raises
    ------
    ValueError
        For no arms, an unknown one, or a length that is no number of tokens.
    """
    if not arms or isinstance(arms, str):
        raise ValueError(f"arms is {arms!r}; give a list with some of {', '.join(ARMS)}")
    found: dict[str, None] = {}
    for arm in arms:
        name, at, length = arm.partition("@")
        check_arm(
            name
            if not at or (name == "long_context" and length.isdecimal() and int(length))
            else arm
        )
        targets = lengths if name == "long_context" and not at else (int(length or 0),)
        found.update(dict.fromkeys(arm_label(name, target) for target in targets))
    return tuple(found)


def take_context(sitting: Sitting, context: Any) -> str:
    """Return the message that a context is. All that the arms know of `Context` is here."""
    sitting.shown = [int(number) for number in context.passages]
    sitting.context = {
        "target": int(context.target),
        "gold_depths": tuple(round(float(depth), 6) for depth in context.gold_depths),
        "fill": round(context.fill, 6),
        "truncated": context.truncated,
    }
    return context.text


async def _long_context(sitting: Sitting, context: Any) -> None:
    await sitting.ask(take_context(sitting, context))


async def _closed_book(sitting: Sitting) -> None:
    await sitting.ask(sitting.setup.prompt.closed_book(sitting.question))


async def _oracle(sitting: Sitting) -> None:
    """Only the gold passages, the same ones as in long contexts."""
    await _ask_about(sitting, gold_numbers(sitting.question, sitting.setup.pool))


async def _retrieve_1(sitting: Sitting) -> None:
    settings = sitting.setup.settings
    await _ask_about(
        sitting,
        await sitting.search(sitting.question.question, min(settings.passages, settings.total)),
    )


async def _retrieve_3(sitting: Sitting) -> None:
    """Retrieve, let the model write the next query or answer, retrieve again: at most ``steps``
    times.
    """
    settings, prompt, question = sitting.setup.settings, sitting.setup.prompt, sitting.question
    query, asked = question.question, set[str]()
    for left in reversed(range(settings.steps)):
        found = await sitting.search(
            query, min(settings.passages, settings.total - len(sitting.shown))
        )
        more = left > 0 and len(sitting.shown) + len(found) < min(
            settings.total, len(sitting.setup.pool)
        )
        before = "" if sitting.messages else prompt.before(question)
        behind = prompt.step(question, bool(found)) if more else prompt.after(question)
        said = await sitting.ask(before + sitting.lines(found) + behind, searching=more)
        asked.add(query)
        if not (more and said.query) or (said.answer is not None and said.query in asked):
            return
        query = said.query


async def _retrieve_3_no_model(sitting: Sitting) -> None:
    """As many passages as three steps may show, found without the model, and one call that answers."""
    setup, query = sitting.setup, sitting.question.question
    k = min(setup.settings.steps * setup.settings.passages, setup.settings.total)
    if setup.links is None:
        return await _ask_about(sitting, await sitting.search(query, k))
    from negfail_nb.benchmarking.retrieval.paths import linked_search

    index, settings, size = sitting.index, setup.retrieval, len(setup.pool)
    wanted, k = min(max(k, settings.first), size), min(k, size)
    first = await sitting.hits(query, settings.first, partial(index.search, [query], wanted))
    follow = partial(linked_search, index, setup.links, [query], k, settings, first)
    await _ask_about(sitting, new_numbers(await sitting.hits(query, k, follow), ())[:k])


async def _agent(sitting: Sitting) -> None:
    """An episode of an agent that searches and finishes, as in live collection."""
    setup, question, agent = sitting.setup, sitting.question, sitting.setup.agent
    task = Task(id=question.id, question=question.question, prompt=agent.prompt(question.question))

    def after(reply: Reply, messages: Sequence[Message]) -> None:
        sitting.note(reply)

    tools = Toolbox([IndexTool(sitting, agent.live.results)])
    played = await play_episode(
        agent.model or setup.model, task, tools, agent.live, after=after, thoughts=agent.thoughts
    )
    sitting.finish(
        played.prediction, _AGENT_ENDINGS.get(played.termination, "no_answer"), played.error
    )


async def _ask_about(sitting: Sitting, numbers: Sequence[int]) -> None:
    """Ask once, with these passages."""
    prompt, question = sitting.setup.prompt, sitting.question
    await sitting.ask(prompt.before(question) + sitting.lines(numbers) + prompt.after(question))


class IndexTool:
    """The search of an agent, over an index; it answers as `negfail_nb.agents.tools.SearchTool`
    does.

    Parameters
    ----------
    sitting
        Where retrievals and passages are written down.
    results
        How many passages a call returns, at most.
    """

    name, argument, description = SearchTool.name, SearchTool.argument, SearchTool.description

    def __init__(self, sitting: Sitting, results: int) -> None:
        self._sitting, self._results = sitting, results

    def __call__(self, query: str) -> str:
        """Return the best passages as one line: ``Title [1]: text Title [2]: text``."""
        sitting, pool = self._sitting, self._sitting.setup.pool
        hits, seconds = timed(lambda: sitting.index.search([query], min(self._results, len(pool))))
        titled = [
            int(number) for number in pool.find(query.strip())
        ]  # as SearchTool: this very title comes first
        found = list(dict.fromkeys([*titled, *new_numbers(hits, ())]))[: self._results]
        sitting.retrievals.append(Retrieval(query=query, passages=tuple(found), seconds=seconds))
        sitting.read([number for number in found if number not in sitting.shown])
        passages = (pool[number] for number in found)
        return show_passages((passage.title, passage.text) for passage in passages)


_PLAYERS: dict[str, Callable[[Sitting], Awaitable[None]]] = {
    "closed_book": _closed_book,
    "oracle": _oracle,
    "retrieve_1": _retrieve_1,
    "retrieve_3": _retrieve_3,
    "retrieve_3_no_model": _retrieve_3_no_model,
    "agent": _agent,
}
