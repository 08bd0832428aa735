"""06: a grid of arms and questions is played, many at once, into a file that any interruption
leaves whole.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.agents.counts import PromptCounts
from negfail_nb.agents.protocol import Model, Reply
from negfail_nb.agents.queue import Queue
from negfail_nb.agents.scripted import ScriptedModel
from negfail_nb.agents.spending import Meter, Metered
from negfail_nb.benchmarking.arms.agenda import Todo, Turn, make_grid_plan, open_journal
from negfail_nb.benchmarking.arms.answers import Answered
from negfail_nb.benchmarking.arms.checks import check_grid
from negfail_nb.benchmarking.arms.costs import estimate
from negfail_nb.benchmarking.arms.playing import expand_arms, play_arm
from negfail_nb.benchmarking.arms.prompts import open_prompt
from negfail_nb.benchmarking.arms.reading import Benchmark
from negfail_nb.benchmarking.arms.sitting import Agent, Searcher, Setup
from negfail_nb.benchmarking.corpora.records import PassagePool, Question
from negfail_nb.settings import (
    DEFAULT_ARMS,
    BudgetSettings,
    ContextSettings,
    ReadingSettings,
    RetrievalSettings,
)

if TYPE_CHECKING:
    from negfail_nb.benchmarking.contexts.ladder import Contexts

ANSWERS = "answers.jsonl"
HARD = 1000  # passages that are retrieved to fill the contexts of a question, at most

logger = logging.getLogger("negfail_nb")


def benchmark(
    model: Model,
    questions: Iterable[Question],
    arms: Sequence[str] = DEFAULT_ARMS,
    settings: ReadingSettings = ReadingSettings(),
    *,
    pool: PassagePool,
    index: Searcher | None = None,
    links: Any = None,
    tokenizer: Any = None,
    window: int | None = None,
    agent: Agent = Agent(),
    contexts: ContextSettings = ContextSettings(),
    retrieval: RetrievalSettings | None = None,
    folder: str | Path | None = None,
    budget: BudgetSettings = BudgetSettings(),
    retry_crashed: bool = False,
) -> Benchmark:
    """Let a model answer the same questions under every arm.

    Each finished question is one appended and synced JSON line. To go on after an interruption,
    call again with the same arguments: what the folder has is not asked again; a question that was
    under way is. Arms, lengths, concurrency and budget may change. Also works where an event loop
    runs already, as in Jupyter.

    Parameters
    ----------
    model
        See `negfail_nb.agents.protocol.Model`; it is entered and left here.
    questions
        What to ask; ids must differ.
    arms
        Names, see `negfail_nb.benchmarking.arms.playing.expand_arms`.
    settings
        The protocol.
    pool
        Where passages come from.
    index
        What retrieves from it; arms without retrieval, with random filler, need none.
    links
        For ``retrieve_3_no_model``; ``None``: built here, unless the index follows links itself.
    tokenizer, window
        The model's own, for long contexts; ``None``: as the model says.
    agent
        Who plays the arm ``agent``.
    contexts
        How long contexts are filled, and their lengths.
    retrieval
        How links are followed; ``None``: as the index says.
    folder
        Where the answers go, ``answers.jsonl``; ``None``: they are kept nowhere.
    budget
        What may be spent in all, with what the folder's answers cost already; ``episodes`` are
        answers.
    retry_crashed
        Ask again what crashed; otherwise it stays as it is.

    Returns
    -------
    Benchmark
        Answers in the order of arms, then questions; what was not asked, for want of budget, is one
        of its problems.

    Raises
    ------
    ValueError
        For an unknown arm, an empty question, two of one id, a gold passage that the pool lacks, a
        length that the model cannot take, or an arm that lacks what it needs.
    SettingsChanged
        Where the folder was begun with other settings, questions, passages or another model; the
        text names each field.
    ModelError
        Where the model cannot be reached or refuses: no question could succeed. Finished answers
        are kept.
    """
    questions, labels = tuple(questions), expand_arms(arms, contexts.lengths)
    check_grid(questions, labels, pool, index)
    meter = Meter(budget)
    tokenizer = tokenizer or getattr(model, "tokenizer", None)
    metered = Metered(model, meter)
    setup = Setup(
        model=metered,
        pool=pool,
        prompt=open_prompt(settings.prompt),
        settings=settings,
        index=index,
        links=links,
        retrieval=retrieval or getattr(index, "settings", None) or RetrievalSettings(),
        agent=replace(
            agent,
            model=Metered(agent.model, meter) if agent.model not in (None, model) else metered,
        ),
        counts=PromptCounts(
            None if isinstance(model, ScriptedModel) else tokenizer
        ),  # which counts words
    )
    cost = estimate(labels, questions, settings, pool, tokenizer=tokenizer, live=agent.live)
    logger.info(
        "%d questions under %d arms with %s: %s", len(questions), len(labels), model.name, cost
    )
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as place:
        journal = open_journal(
            Path(place) / ANSWERS, make_grid_plan(setup, questions, contexts, tokenizer)
        )
        names = [Turn(label, question).id for label in labels for question in questions]
        queue = Queue(journal, names, budget, retry_crashed)
        todo = Todo(labels, questions, queue)
        if queue.left:
            setup = replace(setup, links=_open_links(setup, todo))
            made = _open_contexts(setup, todo, contexts, tokenizer, window or model.window)
            _play(setup, queue, meter, todo.turns(made))
        answers, problems = queue.result(meter, "questions were not asked")
    return Benchmark(questions, labels, answers, problems, cost)


def _play(setup: Setup, queue: Queue, meter: Meter, turns: Iterator[Turn]) -> None:
    """Ask what is left; what the journal's answers cost is paid for already."""
    for answer in queue.journal.records.values():
        untold = any(call.prompt_tokens is None for call in answer.calls)
        shown = [{"role": "user", "content": setup.pool[n].text} for n in answer.passages if untold]
        for call in answer.calls:
            message = {"role": "assistant", "content": call.reply}
            tokens = {name: getattr(call, name) for name in ("prompt_tokens", "completion_tokens")}
            meter.add(Reply(message=message, **tokens), shown)

    async def one(turn: Turn) -> Answered:
        return await play_arm(setup, turn.label.partition("@")[0], turn.question, turn.context)

    models = [model for model in (setup.model, setup.agent.model) if model is not None]
    workers = setup.settings.concurrency
    queue.work(turns, one, models, workers, "benchmark", lambda a: f"{a.label}, {meter}")


def _open_links(setup: Setup, todo: Todo) -> Any:
    """Return links for the arm without a model, unless the index follows links itself."""
    method = getattr(getattr(setup.index, "settings", None), "method", "")
    if "retrieve_3_no_model" not in todo.labels or method.startswith("linked"):
        return setup.links
    if method == "dense":
        raise ValueError(
            "the arm 'retrieve_3_no_model' scores words; give an index of method 'hybrid' or 'linked'"
        )
    if setup.links is not None:
        return setup.links
    from negfail_nb.benchmarking.retrieval.links import build_links

    return build_links(setup.pool)


def _open_contexts(
    setup: Setup, todo: Todo, settings: ContextSettings, tokenizer: Any, window: int | None
) -> Contexts | None:
    """Return the contexts of all questions; the lengths are checked, and refused, here."""
    lengths, pool = todo.lengths, setup.pool
    if not lengths:
        return None
    if tokenizer is None:
        raise ValueError(
            "the arm 'long_context' counts tokens; give the model's own: benchmark(.., tokenizer=..)"
        )
    if settings.fill != "random" and setup.index is None:
        raise ValueError(
            f"ContextSettings.fill is {settings.fill!r}, but there is no index; give one, or use 'random'"
        )
    from negfail_nb.benchmarking.contexts.making import make_contexts

    asked = [question.question for question in todo.questions]
    hits = None if settings.fill == "random" else setup.index.search(asked, min(HARD, len(pool)))
    return make_contexts(
        *(todo.questions, pool, tokenizer, replace(settings, lengths=lengths)),
        prompt=setup.prompt,
        answer_tokens=setup.settings.answer_tokens,
        window=window,
        hits=hits,
        chat_template=getattr(setup.model, "chat_template", ""),
    )
