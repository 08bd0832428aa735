"""Contexts of set lengths, by the model's own tokens: gold passages and filler, the shorter inside
the longer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from negfail_nb.benchmarking.filler import (
    Cut,
    Fillers,
    Plan,
    depths,
    fill_up,
    gold_places,
    question_stream,
)
from negfail_nb.benchmarking.hits import Hits
from negfail_nb.benchmarking.passage_tokens import PromptTokens
from negfail_nb.benchmarking.prompts import Prompt
from negfail_nb.benchmarking.records import Passage, PassagePool, Question, gold_numbers
from negfail_nb.models import find_model
from negfail_nb.settings import ContextSettings
from negfail_nb.trajectory import Message

log = logging.getLogger("negfail_nb")

TOLERANCE = 0.01  # share of the target that may stay empty
COMPARED = 16  # questions whose gold is also tokenised as a whole, to see that ids may be joined
# Corrections of a context that has to be tokenised as a whole; if they do not fill it, the log says
# so.
_ROUNDS = 8


def make_contexts(
    questions: Sequence[Question],
    pool: PassagePool,
    tokenizer: Any,
    settings: ContextSettings = ContextSettings(),
    *,
    prompt: Prompt,
    answer_tokens: int,
    window: int | None = None,
    hits: Hits | None = None,
    chat_template: str = "",
) -> Contexts:
    """Return contexts of every length for every question, each made when it is asked for.

    Parameters
    ----------
    questions, pool
        What is asked, and the passages. Gold passages are found by title and text; of equal ones,
        the first.
    tokenizer
        The model's own, of transformers, with a chat template.
    prompt
        How a question and its passages are written.
    answer_tokens
        Room that every context leaves for the answer.
    window
        Tokens that the model can take, prompt and answer; ``None``: unknown.
    hits
        What was retrieved for each question, for the fills ``"hard"`` and ``"mixed"``. If it runs
        out, random passages follow; ``Context.hard`` counts. A context of 131,072 tokens takes
        about 1,000 passages.
    chat_template
        As in `negfail_nb.prefix.chat.open_chat`; empty: the tokenizer's own.

    Raises
    ------
    ValueError
        If a length is above the window or below what a question's gold takes; the pool cannot fill
        it or lacks a gold passage; a question has no supporting facts; hits are missing or not one
        row per question.
    """
    check_lengths(settings.lengths, answer_tokens, window)
    if not len(questions):
        raise ValueError("there are no questions to make contexts for")
    if hits is None and settings.fill != "random":
        raise ValueError(
            f"ContextSettings.fill is {settings.fill!r}, which needs hits; give them, or fill "
            "'random'"
        )
    if hits is not None and len(hits.numbers) != len(questions):
        raise ValueError(
            f"hits has {len(hits.numbers)} rows for {len(questions)} questions; search them in "
            "order"
        )
    tokens = PromptTokens(tokenizer, prompt, pool, chat_template)
    fillers = Fillers(pool, settings, None if hits is None else hits.numbers)
    for question in questions:
        if not question.gold:
            raise ValueError(
                f"question {question.id!r} has no supporting facts, so what it needs is not known"
            )
    gold = [gold_numbers(question, pool) for question in questions]
    contexts = Contexts(questions, gold, tokens, fillers, settings, answer_tokens)
    _check_gold(contexts)
    _check_pool(contexts)
    contexts.compare(contexts[len(contexts.lengths) - 1])
    return contexts


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One prompt: a question, its gold passages, and filler up to a length.

    Attributes
    ----------
    question_id, target
        The question, and the length that was wanted, in tokens.
    passages
        Numbers of the passages in the pool, in order.
    gold_positions, gold_depths
        Of each gold passage, in the order of ``question.gold``: its index among ``passages``, and
        the share of the other passages' tokens before it (0 first, 1 last).
    tokens
        Of the whole prompt, chat template and room for the answer included; never above ``target``.
    truncated, cuts
        The last filler is whole (``""``), or cut behind a ``"sentence"`` or a ``"token"``; and what
        is left of it, by its index among ``passages``. If there was no room for its title, the
        filler before it is cut too.
    hard, with_answer
        How many filler passages were retrieved for the question; how many hold the answer.
    dropped
        Filler left out on the way, by reason: ``"answer"``, ``"near_duplicate"``.
    """

    question_id: str
    target: int
    passages: tuple[int, ...]
    gold_positions: tuple[int, ...]
    gold_depths: tuple[float, ...]
    tokens: int
    truncated: str = ""
    cuts: Mapping[int, Passage] = field(default_factory=dict, hash=False)
    hard: int = 0
    with_answer: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict, hash=False)
    index: int = field(repr=False)
    made: Contexts = field(repr=False, compare=False)

    @property
    def fill(self) -> float:
        """Tokens as a share of the target."""
        return self.tokens / self.target

    @property
    def text(self) -> str:
        """The user's message, written anew each time."""
        return self.made.text(self)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as chat messages."""
        return ({"role": "user", "content": self.text},)

    @property
    def ids(self) -> np.ndarray:
        """Token ids of the prompt without the answer, int32, joined anew each time."""
        return self.made.ids(self)


class Contexts(Sequence[Context]):
    """Contexts of all questions at all lengths, each made when asked for; see `make_contexts`.

    Item ``i`` is question ``i // len(lengths)`` at length ``i % len(lengths)``, the shortest first.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        gold: Sequence[tuple[int, ...]],
        tokens: PromptTokens,
        fillers: Fillers,
        settings: ContextSettings,
        answer_tokens: int,
    ) -> None:
        self.questions = questions
        self.tokens = tokens
        self.fillers = fillers
        self.settings = settings
        self.answer_tokens = answer_tokens
        self.lengths = tuple(sorted(set(settings.lengths)))
        self.gold, self.frames = gold, tokens.frames(questions)
        tokens.lines([n for numbers in gold for n in numbers])  # in one batch, which is faster
        self.of_question = lru_cache(maxsize=1)(self._of_question)

    def __len__(self) -> int:
        return len(self.questions) * len(self.lengths)

    def __getitem__(self, item: int) -> Context:
        if not -len(self) <= item < len(self):
            raise IndexError(f"there are {len(self)} contexts; {item} was asked for")
        question, length = divmod(item % len(self), len(self.lengths))
        return self.of_question(question)[length]

    def of_length(self, length: int) -> Iterator[Context]:
        """Yield the contexts of one length, question by question."""
        for question in range(len(self.questions)):
            yield self._context(question, self._plan(question), length)

    def text(self, context: Context) -> str:
        """Return the user's message."""
        passages = [
            context.cuts.get(i) or self.tokens.pool[number]
            for i, number in enumerate(context.passages)
        ]
        return self.tokens.message(self.questions[context.index], passages)

    def ids(self, context: Context) -> np.ndarray:
        """Return the token ids of the prompt, int32."""
        if self._is_loose(context):
            return self.tokens.whole(self.text(context))
        lines = self.tokens.lines(context.passages)
        for position, passage in context.cuts.items():
            lines[position] = self.tokens.lines_of([passage])[0]
        return self.tokens.join(self.frames[context.index], lines)

    def _of_question(self, question: int) -> tuple[Context, ...]:
        plan = self._plan(question)
        return tuple(self._context(question, plan, length) for length in self.lengths)

    def _plan(self, index: int) -> Plan:
        """Choose filler for the longest length."""
        question = self.questions[index]
        gold = self.gold[index]
        rng = question_stream(self.settings.seed, question)
        plan = Plan(gold, gold_places(self.settings.depth, len(gold), rng), [], [], rng.random())
        stream = self.fillers.of(index, question, gold, rng)
        missing = self.lengths[-1]
        mean = 128.0
        while missing > 0 and (block := list(islice(stream, int(missing / mean) + 8))):
            plan.filler.extend(block)
            plan.sizes.extend(map(len, self.tokens.lines([chosen.number for chosen in block])))
            missing = self.lengths[-1] - sum(plan.sizes)
            mean = max(1.0, sum(plan.sizes) / len(plan.sizes))
        return plan

    def _context(self, index: int, plan: Plan, length: int) -> Context:
        """Return the context; one that is tokenised as a whole is laid out again until it fits."""
        room = length
        best = None
        for _ in range(_ROUNDS):
            context = self._measured(self._lay_out(index, plan, length, room))
            if context.tokens <= length and (best is None or context.tokens > best.tokens):
                best = context
            if (1 - TOLERANCE) * length <= context.tokens <= length or not self._is_loose(context):
                break
            room += length - context.tokens
        if best is None:
            raise ValueError(
                f"question {context.question_id!r} does not fit into {length} tokens; leave it out"
            )
        if best.fill < 1 - TOLERANCE:
            message = "contexts: question %r at %d tokens: %.1f %% full"
            log.warning(message, best.question_id, length, 100 * best.fill)
        return best

    def _measured(self, context: Context) -> Context:
        """Return the context with its tokens counted anew if their sum is only a guess."""
        if not self._is_loose(context):
            return context
        return replace(context, tokens=len(self.ids(context)) + self.answer_tokens)

    def _lay_out(self, index: int, plan: Plan, length: int, room: int) -> Context:
        """Return a context of at most ``room`` tokens, by the sum of its parts."""
        fixed = len(plan.gold)
        spare = int(TOLERANCE * length)
        labels = self.tokens.label_sums(fixed + len(plan.sizes) + 1)
        free = room - self.answer_tokens - len(self.frames[index])
        free -= sum(map(len, self.tokens.lines(plan.gold)))
        count = plan.take(labels[fixed:], free)
        cuts = []
        left = free - sum(plan.sizes[:count]) - int(labels[fixed + count])
        if left > spare and count < len(plan.filler):
            left -= len(self.tokens.labels(fixed + count + 1)[fixed + count + 1])
            last = slice(max(0, count - 1), count + 1)
            passages = [self.tokens.pool[chosen.number] for chosen in plan.filler[last]]
            cuts = fill_up(passages, plan.sizes[last], self._size, left - spare, left)
        return self._arrange(index, plan, length, count + bool(cuts), cuts)

    def _size(self, passage: Passage) -> int:
        return len(self.tokens.lines_of([passage])[0])

    def _arrange(
        self, index: int, plan: Plan, length: int, taken: int, cuts: Sequence[Cut]
    ) -> Context:
        """Return the context of the first ``taken`` filler passages, the last ones cut."""
        fixed = len(plan.gold)
        order = plan.order(taken)
        numbers = plan.numbers(taken)
        sizes = np.array([*map(len, self.tokens.lines(plan.gold)), *plan.sizes[:taken]])
        sizes[len(sizes) - len(cuts) :] = [self._size(passage) for passage, _ in cuts]
        where = np.argsort(order).tolist()
        lines = sizes[order] + np.diff(self.tokens.label_sums(len(order)))
        used = plan.filler[:taken]
        return Context(
            question_id=self.questions[index].id,
            target=length,
            passages=tuple(numbers[i] for i in order.tolist()),
            gold_positions=tuple(where[:fixed]),
            gold_depths=depths(lines, where[:fixed]),
            tokens=int(lines.sum()) + len(self.frames[index]) + self.answer_tokens,
            truncated=cuts[-1][1] if cuts else "",
            cuts={where[i]: passage for i, (passage, _) in enumerate(cuts, len(where) - len(cuts))},
            hard=sum(chosen.hard for chosen in used),
            with_answer=sum(chosen.answer for chosen in used),
            dropped=dict(used[-1].before) if used else {},
            index=index,
            made=self,
        )

    def _is_loose(self, context: Context) -> bool:
        """Whether the context has to be tokenised as a whole."""
        cut = any(line.loose for line in self.tokens.lines_of(list(context.cuts.values())))
        return cut or self.tokens.is_loose(self.frames[context.index], context.passages)

    def gold_only(self, index: int) -> Context:
        """Return the context of a question's gold passages alone."""
        gold = Plan(self.gold[index], np.arange(len(self.gold[index])), [], [], 0.0)
        return self._measured(self._arrange(index, gold, self.lengths[0], 0, []))

    def compare(self, context: Context) -> None:
        """Compare a context's joined ids with those of its text as a whole; if they differ, none
        are joined again.
        """
        self.tokens.check(context.text, None if self._is_loose(context) else context.ids)


def served_window(model: str) -> int | None:
    """Return how many tokens a served model takes, prompt and answer, as its config says.

    Without it, a length that the model cannot take would cost one refused request per question.

    Parameters
    ----------
    model
        A hub id, or a folder with ``config.json``.

    Returns
    -------
    int or None
        ``None``, with a warning, if there is no config that can be read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(find_model(model), trust_remote_code=False)
    except (OSError, ValueError) as error:
        log.warning("%s: no config can be read, so lengths are not checked: %s", model, error)
        return None
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_lengths(lengths: Sequence[int], answer_tokens: int, window: int | None) -> None:
    """Check that lengths are numbers of tokens that a model can take.

    Raises
    ------
    ValueError
        If not; the text names them.
    """
    if not lengths or min(lengths) < 1 or answer_tokens < 1:
        raise ValueError(
            f"ContextSettings.lengths is {tuple(lengths)} and answer_tokens {answer_tokens}; "
            "both must be above 0"
        )
    above = [length for length in lengths if window is not None and length > window]
    if above:
        raise ValueError(
            f"ContextSettings.lengths holds {', '.join(map(str, above))}, but the model takes "
            f"{window} tokens, prompt and answer together; leave these lengths out or take a model "
            "with a larger window (Llama-3-70B is natively 8K; only Llama 3.1 and 3.3 reach 128K)"
        )


def _check_gold(contexts: Contexts) -> None:
    """Refuse a length below what gold takes; check on the way that the ids may be joined."""
    for index in range(min(COMPARED, len(contexts.questions))):
        contexts.compare(contexts.gold_only(index))
    needed = [contexts.gold_only(index).tokens for index in range(len(contexts.questions))]
    shortest = contexts.lengths[0]
    most = max(needed)
    if most > shortest:
        question = contexts.questions[needed.index(most)]
        many = sum(tokens > shortest for tokens in needed)
        raise ValueError(
            f"ContextSettings.lengths holds {shortest}, but question {question.id!r} needs {most} "
            f"tokens for its gold passages, chat template and answer ({many} of {len(needed)} "
            f"questions need more than {shortest}); begin at {most}, or leave these questions out"
        )


def _check_pool(contexts: Contexts) -> None:
    """Refuse a length that the whole pool does not fill."""
    held = 0
    longest = contexts.lengths[-1]
    tokens = contexts.tokens
    numbers = contexts.fillers.random
    label = len(tokens.labels(1)[1])
    for start in range(0, len(numbers), 1024):
        lines = tokens.lines(numbers[start : start + 1024].tolist())
        held += sum(map(len, lines)) + label * len(lines)
        if held >= longest:
            return
    if held + max(map(len, contexts.frames)) + contexts.answer_tokens < (1 - TOLERANCE) * longest:
        raise ValueError(
            f"ContextSettings.lengths holds {longest}, but the pool's {len(tokens.pool)} passages "
            f"have about {held} tokens together; give a larger corpus, or leave that length out"
        )
