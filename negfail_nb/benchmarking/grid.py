"""06: every question under every arm, many at once, in a folder that interruptions leave whole."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from negfail_nb import runs
from negfail_nb.agents.counts import PromptCounts
from negfail_nb.agents.protocol import Model, Reply
from negfail_nb.agents.queue import Queue
from negfail_nb.agents.scripted import ScriptedModel
from negfail_nb.agents.spending import Meter, Metered
from negfail_nb.benchmarking.arms import expand_arms, get_arm, length_of, play_arm
from negfail_nb.benchmarking.budgets import Budgets, make_budgets
from negfail_nb.benchmarking.contexts import Context, Contexts, make_contexts
from negfail_nb.benchmarking.costs import Estimate, estimate
from negfail_nb.benchmarking.index import Index
from negfail_nb.benchmarking.links import build_links
from negfail_nb.benchmarking.needs import check_grid, needing
from negfail_nb.benchmarking.prompts import open_prompt
from negfail_nb.benchmarking.question_run import Agent, Answered, Setup, read_answers
from negfail_nb.benchmarking.records import PassagePool, Question
from negfail_nb.benchmarking.scores import Benchmark
from negfail_nb.content import counted, fingerprint
from negfail_nb.csvs import read_csv, write_csv
from negfail_nb.journal import Journal
from negfail_nb.runs import MANIFEST, PLAN, NotWhole, Place, Run
from negfail_nb.settings import DEFAULT_ARMS, BudgetSettings, ContextSettings, ReadingSettings
from negfail_nb.source import source_hash
from negfail_nb.trajectory import UnreadableLog, read_records

ANSWERS, QUESTIONS, COST = "answers.jsonl", "questions.jsonl", "cost.csv"  # of a run folder
HARD = 1000  # passages that are retrieved to fill the contexts of a question, at most

logger = logging.getLogger("negfail_nb")


def benchmark(
    model: Model,
    questions: Iterable[Question],
    arms: Sequence[str] = DEFAULT_ARMS,
    settings: ReadingSettings = ReadingSettings(),
    *,
    pool: PassagePool,
    index: Index | None = None,
    tokenizer: Any = None,
    window: int | None = None,
    agent: Agent | None = None,
    contexts: ContextSettings = ContextSettings(),
    folder: str | Path | Place | None = None,
    budget: BudgetSettings = BudgetSettings(),
    retry_crashed: bool = False,
) -> Benchmark:
    """Let a model answer the same questions under every arm.

    Each finished question is one appended and synced JSON line. To go on after an interruption,
    call again with the same arguments: only questions that were under way are asked again. Also
    works inside a running event loop, as in Jupyter.

    Parameters
    ----------
    model
        See `negfail_nb.agents.protocol.Model`; it is entered and left here.
    questions
        What to ask; ids must differ.
    arms
        Names, see `negfail_nb.benchmarking.arms.expand_arms`.
    settings
        How questions are asked.
    pool
        The passages.
    index
        Searches the pool; arms without retrieval, with random filler, need none.
    tokenizer, window
        For arms at set lengths: what counts their tokens, and how many the model takes; ``None``:
        the model's own.
    agent
        Who plays the arm ``agent``; ``None``: the model itself.
    contexts
        How long contexts are filled, and their lengths.
    folder
        Where answers go. A `Place` has a folder for each plan. In a plain folder, arms and lengths
        may be added: what it has is not asked again. ``None``: answers are kept nowhere.
    budget
        What may be spent in all, with what the folder's answers cost already; ``episodes`` are
        answers.
    retry_crashed
        Ask again what crashed; otherwise it stays as it is. A finished run in a `Place` stays too.

    Returns
    -------
    Benchmark
        Answers in the order of arms, then questions. If the budget did not reach for all, a problem
        says so.

    Raises
    ------
    ValueError
        For an unknown arm, an empty question, two of one id, a gold passage that the pool lacks, a
        length that the model cannot take, or an arm that lacks what it needs.
    SettingsChanged
        If a plain folder was begun with other settings, questions, passages or another model; the
        text names each field. Concurrency, budget and the server's address may change.
    NotWhole
        If the budget did not reach for all, and folder is a `Place`. What was answered is kept.
    ModelError
        If the model cannot be reached or refuses: no question could succeed. What was answered is
        kept.
    """
    questions = tuple(questions)
    labels = expand_arms(arms, contexts.lengths)
    check_grid(questions, labels, pool, index)
    meter = Meter(budget)
    agent = agent or Agent()
    tokenizer = tokenizer or getattr(model, "tokenizer", None)
    metered = Metered(model, meter)
    own = agent.model not in (None, model)
    setup = Setup(
        model=metered,
        pool=pool,
        prompt=open_prompt(settings.prompt),
        settings=settings,
        index=index,
        agent=replace(agent, model=Metered(agent.model, meter) if own else metered),
        # A scripted model counts words.
        counts=PromptCounts(None if isinstance(model, ScriptedModel) else tokenizer),
    )
    grid = _Grid(setup, questions, labels, contexts, tokenizer, window or model.window, meter)
    if folder is None:
        with tempfile.TemporaryDirectory() as place:
            return grid.play(Path(place), budget, retry_crashed)
    made: list[Benchmark] = []

    def compute(run: Run) -> Mapping[str, Any]:
        bench = replace(grid.play(run.folder, budget, retry_crashed), run=run)
        made.append(bench)
        if bench.problems:
            raise NotWhole(f"the grid is not whole; its answers are kept. {bench.problems[0]}")
        em = bench.scores.table.groupby("arm", sort=False)["em"].mean().round(4)
        players = {"weights": model, **({"agent_weights": agent.model} if own else {})}
        known = {k: player.weights for k, player in players.items() if hasattr(player, "weights")}
        return {"answers": len(bench.answers), **em, **known}

    plan = grid.plan
    if isinstance(folder, Place):
        plan = {**plan, "arms": labels}
    else:  # other arms may be asked now, so a finished folder is looked at again
        (Path(folder) / MANIFEST).unlink(missing_ok=True)
    try:
        run = runs.make(folder, plan, compute, source=source_hash("benchmarking.grid"))
    except NotWhole:
        if isinstance(folder, Place):
            raise
        return made[0]
    return made[0] if made else open_benchmark(run.folder)


def open_benchmark(folder: str | Path) -> Benchmark:
    """Open the run folder of a finished benchmark.

    Raises
    ------
    ValueError
        If it is not finished, is of another stage, or was written with other records than this
        version has; the text says which.
    """
    folder = Path(folder)
    for name, what in ((PLAN, "is no run folder"), (MANIFEST, "was not finished")):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} {what}: it has no {name}; give a benchmark's run folder")
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        run = Run(str(plan["stage"]), folder, plan)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / PLAN} is of another schema: {error!r}; run the benchmark again"
        ) from error
    if not (folder / COST).is_file():
        raise ValueError(f"{folder} is of stage {run.stage!r}; give a benchmark's run folder")
    try:
        questions = tuple(read_records(folder / QUESTIONS, Question.from_dict))
        found = {answer.id: answer for answer in read_answers(folder / ANSWERS)}
        cost = Estimate(read_csv(folder / COST))
    except (OSError, UnreadableLog) as error:
        raise ValueError(f"{folder} cannot be read as a benchmark: {error}") from error
    labels = tuple(cost.table["arm"])
    names = [_Turn(label, question).id for label in labels for question in questions]
    answers = tuple(found[name] for name in names if name in found)
    return Benchmark(questions, labels, answers, (), cost, run)


class _Turn(NamedTuple):
    """One question under one arm, with its context if the arm has one."""

    label: str
    question: Question
    context: Context | None = None

    @property
    def id(self) -> str:
        return f"{self.label}/{self.question.id}"


@dataclass(frozen=True)
class _Grid:
    """All questions under all arms, and what they are played with."""

    setup: Setup
    questions: tuple[Question, ...]
    labels: tuple[str, ...]
    contexts: ContextSettings
    tokenizer: Any
    window: int | None
    meter: Meter

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What an answer depends on; arms and lengths may be added to those of a folder."""
        setup = self.setup
        agent = self.setup.agent
        content = getattr(setup.model, "content", "")
        same = agent.model is setup.model
        return {
            "reading": setup.settings,
            "contexts": {k: v for k, v in counted(self.contexts).items() if k != "lengths"},
            "retrieval": setup.retrieval,
            "model": setup.model.name,
            "content": content,
            "agent": {
                "model": agent.model.name,
                "content": content if same else getattr(agent.model, "content", ""),
                "prompt": agent.prompt("question"),
                "thoughts": agent.thoughts,
                "live": agent.live,
            },
            "prompt": setup.prompt.fingerprint,
            "tokenizer": _tokenizer_fingerprint(self.tokenizer),
            "pool": setup.pool.content,
            "index": str(getattr(setup.index, "content", "")),
            "questions": {
                "count": len(self.questions),
                "hash": fingerprint([question.to_dict() for question in self.questions]),
            },
        }

    def play(self, folder: Path, budget: BudgetSettings, retry_crashed: bool) -> Benchmark:
        """Ask what a folder has no answers to."""
        setup = self.setup
        live = self.setup.agent.live
        how = setup.settings, setup.pool
        cost = estimate(self.labels, self.questions, *how, tokenizer=self.tokenizer, live=live)
        logger.info("%d questions under %d arms: %s", len(self.questions), len(self.labels), cost)
        given = read_answers, "benchmark", "answers", "benchmarking.grid"
        journal = Journal(folder / ANSWERS, self.plan, *given)
        names = [_Turn(label, question).id for label in self.labels for question in self.questions]
        queue = Queue(journal, names, budget, retry_crashed)
        if queue.left:
            self._ask(queue)
        answers, problems = queue.result(self.meter, "questions were not asked")
        lines = (json.dumps(question.to_dict()) + "\n" for question in self.questions)
        (folder / QUESTIONS).write_text("".join(lines), encoding="utf-8")
        write_csv(cost.table, folder / COST)
        return Benchmark(self.questions, self.labels, answers, problems, cost)

    def _ask(self, queue: Queue) -> None:
        left = [
            label
            for label in self.labels
            if any(_Turn(label, question).id not in queue.kept for question in self.questions)
        ]
        opened = {"links": self._open_links(left), "budgets": self._open_budgets(left)}
        setup = replace(self.setup, **opened)
        turns = self._turns(left, queue.kept, self._open_contexts(left))
        self._pay(queue.journal)

        async def one(turn: _Turn) -> Answered:
            return await play_arm(setup, turn.label, turn.question, turn.context)

        queue.work(
            islice(turns, queue.left),
            one,
            [setup.model, setup.agent.model],
            setup.settings.concurrency,
            "benchmark",
            lambda answer: f"{answer.label}, {self.meter}",
        )

    def _turns(
        self, labels: Sequence[str], kept: set[str], contexts: Contexts | None
    ) -> Iterator[_Turn]:
        """Yield what is left, arm by arm and length by length: what is under way together takes
        about as long.
        """
        by_id = {question.id: question for question in self.questions}
        for label in labels:
            turns = (_Turn(label, question) for question in self.questions)
            if "context" in get_arm(label).needs:
                made = contexts.of_length(length_of(label))
                turns = (_Turn(label, by_id[c.question_id], c) for c in made)
            yield from (turn for turn in turns if turn.id not in kept)

    def _pay(self, journal: Journal) -> None:
        """Count what the answers in a folder cost."""
        for answer in journal.records.values():
            untold = any(call.prompt_tokens is None for call in answer.calls)
            texts = [self.setup.pool[n].text for n in answer.passages] if untold else []
            shown = [{"role": "user", "content": text} for text in texts]
            for call in answer.calls:
                message = {"role": "assistant", "content": call.reply}
                prompt = call.prompt_tokens
                completion = call.completion_tokens
                reply = Reply(message=message, prompt_tokens=prompt, completion_tokens=completion)
                self.meter.add(reply, shown)

    def _open_links(self, labels: Sequence[str]) -> Any:
        """Return links for the arms that need them, unless the index follows links itself."""
        arms = needing("links", labels)
        method = self.setup.retrieval.method
        if not arms or method.startswith("linked"):
            return None
        if method == "dense":
            raise ValueError(
                f"the arm {arms[0]!r} scores words; give an index of method 'hybrid' or 'linked'"
            )
        return build_links(self.setup.pool)

    def _open_contexts(self, labels: Sequence[str]) -> Contexts | None:
        """Return the contexts of all questions; lengths that cannot be made are refused here."""
        setup = self.setup
        settings = self.contexts
        if not needing("context", labels):
            return None
        # All lengths, also those that are answered, as the shorter are inside the longer.
        arms = needing("context", self.labels)
        lengths = tuple(map(length_of, arms))
        self._check_tokenizer(arms[0])
        hits = None
        if settings.fill != "random":
            if setup.index is None:
                raise ValueError(
                    f"ContextSettings.fill is {settings.fill!r}, but there is no index; give one, "
                    "or use 'random'"
                )
            asked = [question.question for question in self.questions]
            hits = setup.index.search(asked, min(HARD, len(setup.pool)))
        return make_contexts(
            self.questions,
            setup.pool,
            self.tokenizer,
            replace(settings, lengths=lengths),
            prompt=setup.prompt,
            answer_tokens=setup.settings.answer_tokens,
            window=self.window,
            hits=hits,
            chat_template=getattr(setup.model, "chat_template", ""),
        )

    def _open_budgets(self, labels: Sequence[str]) -> Budgets | None:
        """Return what fills the budgets of all questions; those that hold none are refused here."""
        setup = self.setup
        arms = needing("budget", labels)
        if not arms:
            return None
        self._check_tokenizer(arms[0])
        return make_budgets(
            self.questions,
            setup.pool,
            self.tokenizer,
            tuple(map(length_of, arms)),
            prompt=setup.prompt,
            answer_tokens=setup.settings.answer_tokens,
            window=self.window,
            chat_template=getattr(setup.model, "chat_template", ""),
        )

    def _check_tokenizer(self, label: str) -> None:
        if self.tokenizer is None:
            raise ValueError(
                f"the arm {get_arm(label).name!r} counts tokens; give the model's own: "
                "benchmark(.., tokenizer=..)"
            )


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    if tokenizer is None:
        return ""
    return fingerprint([tokenizer.get_vocab(), getattr(tokenizer, "chat_template", None)])[:16]
