"""The contexts of a question at rising lengths: what one is, and how it is laid out and tokenised."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from negfail_nb.benchmarking.contexts.filler import REASONS, Fillers, question_stream
from negfail_nb.benchmarking.contexts.places import Cut, Plan, depths, fill_up, gold_places
from negfail_nb.benchmarking.contexts.tokens import PromptTokens
from negfail_nb.benchmarking.corpora.records import Passage, Question
from negfail_nb.settings import ContextSettings
from negfail_nb.trajectory import Message

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("negfail_nb")

TOLERANCE = 0.01  # share of the target that may stay empty
_ROUNDS = 8  # corrections of a context that has to be tokenised as a whole; below the tolerance, the log says so


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
        The last filler is whole (``""``), or cut behind a ``"sentence"`` or a ``"token"``. What is
        left of it, by its index among ``passages``; of the filler before it too, where there was no
        room for the last one's title.
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
        """Token ids of the prompt, chat template included, answer not. int32; joined anew each
        time.
        """
        return self.made.ids(self)


class Contexts(Sequence[Context]):
    """Contexts of all questions at all lengths, each made when it is asked for. `make_contexts`
    makes one.

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
        self.questions, self.tokens, self.fillers = questions, tokens, fillers
        self.settings, self.answer_tokens = settings, answer_tokens
        self.lengths = tuple(sorted(set(settings.lengths)))
        self.gold, self.frames = gold, tokens.frames(questions)
        tokens.lines(
            [number for numbers in gold for number in numbers]
        )  # in one batch, which is faster
        self.of_question = lru_cache(maxsize=1)(self._of_question)

    def __len__(self) -> int:
        return len(self.questions) * len(self.lengths)

    def __getitem__(self, item: int) -> Context:
        if not -len(self) <= item < len(self):
            raise IndexError(f"there are {len(self)} contexts; {item} was asked for")
        question, length = divmod(item % len(self), len(self.lengths))
        return self.of_question(question)[length]

    def of_length(self, length: int) -> Iterator[Context]:
        """Yield the contexts of one length, question by question, each made when it is asked for."""
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
        """Return the token ids of the prompt. int32, one-dimensional."""
        if self._is_loose(context):
            return self.tokens.whole(self.text(context))
        lines = self.tokens.lines(context.passages)
        for position, passage in context.cuts.items():
            lines[position] = self.tokens.lines_of([passage])[0]
        return self.tokens.join(self.frames[context.index], lines)

    def table(self) -> pd.DataFrame:
        """Return one row a context, without its text. This makes all of them."""
        import pandas as pd

        names = (
            "question_id",
            "target",
            "tokens",
            "fill",
            "gold_depths",
            "truncated",
            "hard",
            "with_answer",
        )
        return pd.DataFrame(
            {name: getattr(c, name) for name in names} | {"passages": len(c.passages)} | _dropped(c)
            for c in self
        )

    def _of_question(self, question: int) -> tuple[Context, ...]:
        """Return the contexts of one question, by its index, the shortest first."""
        plan = self._plan(question)
        return tuple(self._context(question, plan, length) for length in self.lengths)

    def _plan(self, index: int) -> Plan:
        """Choose filler for the longest length."""
        question, gold = self.questions[index], self.gold[index]
        rng = question_stream(self.settings.seed, question)
        plan = Plan(gold, gold_places(self.settings.depth, len(gold), rng), [], [], rng.random())
        stream, missing, mean = self.fillers.of(index, question, gold, rng), self.lengths[-1], 128.0
        while missing > 0 and (block := list(islice(stream, int(missing / mean) + 8))):
            plan.filler.extend(block)
            plan.sizes.extend(map(len, self.tokens.lines([chosen.number for chosen in block])))
            missing = self.lengths[-1] - sum(plan.sizes)
            mean = max(1.0, sum(plan.sizes) / len(plan.sizes))
        return plan

    def _context(self, index: int, plan: Plan, length: int) -> Context:
        """Return the context; one that is tokenised as a whole is laid out again until that fits."""
        room, best = length, None
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
            log.warning(
                "contexts: question %r at %d tokens: %.1f %% full",
                best.question_id,
                length,
                100 * best.fill,
            )
        return best

    def _measured(self, context: Context) -> Context:
        """Return the context with its tokens counted anew where their sum is only a guess."""
        if not self._is_loose(context):
            return context
        return replace(context, tokens=len(self.ids(context)) + self.answer_tokens)

    def _lay_out(self, index: int, plan: Plan, length: int, room: int) -> Context:
        """Return a context of at most ``room`` tokens, by the sum of its parts."""
        fixed, spare = len(plan.gold), int(TOLERANCE * length)
        labels = self.tokens.label_sums(fixed + len(plan.sizes) + 1)
        free = (
            room
            - self.answer_tokens
            - len(self.frames[index])
            - sum(map(len, self.tokens.lines(plan.gold)))
        )
        count, cuts = plan.take(labels[fixed:], free), []
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
        fixed, order, numbers = len(plan.gold), plan.order(taken), plan.numbers(taken)
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


def _dropped(context: Context) -> dict[str, int]:
    return {f"dropped_{reason}": context.dropped.get(reason, 0) for reason in REASONS}
