"""Passages at a budget of tokens: the best of a search, each whole, until the next does not fit.

They are shown in the order of the pool, which is that of their documents, as in DOS RAG (arXiv
2506.03989). A larger budget holds the passages of a smaller one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from negfail_nb.benchmarking.contexts import check_lengths
from negfail_nb.benchmarking.passage_tokens import Frame, PromptTokens
from negfail_nb.benchmarking.prompts import Prompt
from negfail_nb.benchmarking.records import PassagePool, Question

log = logging.getLogger("negfail_nb")

SAMPLE = 200  # passages whose mean length says how many to search for
MORE = 1.25  # times as many are searched for, as the best may be short


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What fills a budget.

    Attributes
    ----------
    target, tokens
        The budget, and the tokens of the whole prompt, chat template and room for the answer
        included; never above it.
    taken
        Numbers of the passages in the pool, best first.
    full
        Whether the search found a passage that did not fit any more.
    """

    target: int
    tokens: int
    taken: tuple[int, ...]
    full: bool
    gold_depths: tuple[float, ...] = ()
    truncated: str = ""

    @property
    def passages(self) -> tuple[int, ...]:
        """The numbers in the order of the pool."""
        return tuple(sorted(self.taken))

    @property
    def fill(self) -> float:
        """Tokens as a share of the budget."""
        return self.tokens / self.target


class Budgets:
    """Fills budgets of tokens; made by `make_budgets`."""

    def __init__(self, tokens: PromptTokens, answer_tokens: int) -> None:
        self.tokens = tokens
        self.answer_tokens = answer_tokens
        count = min(len(tokens.pool), SAMPLE)
        lines = tokens.lines([n * len(tokens.pool) // count for n in range(count)])
        label = len(tokens.labels(1)[1])
        self._mean = label + sum(map(len, lines)) / len(lines)

    def guess(self, target: int) -> int:
        """Return how many passages to search for: probably more than the budget takes."""
        return min(len(self.tokens.pool), int(MORE * target / self._mean) + 8)

    def pack(self, question: Question, ranked: Sequence[int], target: int) -> Packed:
        """Return the best passages that fit into ``target`` tokens together.

        Parameters
        ----------
        question
            What is asked about them.
        ranked
            Numbers of passages, best first.
        target
            Tokens of the whole prompt and of the answer.
        """
        frame = self.tokens.frames([question])[0]
        sums = self._sums(frame, ranked)
        count = max(0, int(np.searchsorted(sums, target, side="right")) - 1)
        tokens = int(sums[count])
        if self.tokens.is_loose(frame, ranked[: count + 1]):
            count, tokens = self._counted(question, ranked, target, count)
        if not count:
            log.warning("budgets: question %r: no passage fits %d tokens", question.id, target)
        full = count < len(ranked)
        return Packed(target=target, tokens=tokens, taken=tuple(ranked[:count]), full=full)

    def _sums(self, frame: Frame, ranked: Sequence[int]) -> np.ndarray:
        """Return the tokens of a prompt with the first 0, 1, .. passages, by the sum of parts."""
        sizes = [len(line) for line in self.tokens.lines(ranked)]
        sums = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return sums + self.tokens.label_sums(len(sizes)) + len(frame) + self.answer_tokens

    def _counted(
        self, question: Question, ranked: Sequence[int], target: int, count: int
    ) -> tuple[int, int]:
        """Return how many passages fit, and their tokens, if a sum of parts is only a guess."""
        while count and self._whole(question, ranked[:count]) > target:
            count -= 1
        while count < len(ranked) and self._whole(question, ranked[: count + 1]) <= target:
            count += 1
        return count, self._whole(question, ranked[:count])

    def _whole(self, question: Question, numbers: Sequence[int]) -> int:
        passages = [self.tokens.pool[number] for number in sorted(numbers)]
        message = self.tokens.message(question, passages)
        return len(self.tokens.whole(message)) + self.answer_tokens


def make_budgets(
    questions: Sequence[Question],
    pool: PassagePool,
    tokenizer: Any,
    lengths: Sequence[int],
    *,
    prompt: Prompt,
    answer_tokens: int,
    window: int | None = None,
    chat_template: str = "",
) -> Budgets:
    """Return what fills budgets of tokens for some questions.

    Parameters
    ----------
    questions, pool, tokenizer, prompt, answer_tokens, window, chat_template
        As for `negfail_nb.benchmarking.contexts.make_contexts`; gold need not be known.
    lengths
        The budgets, in tokens: whole prompt and answer.

    Raises
    ------
    ValueError
        If a budget is above the window, or does not hold a question without any passage.
    """
    check_lengths(lengths, answer_tokens, window)
    tokens = PromptTokens(tokenizer, prompt, pool, chat_template)
    frames = tokens.frames(questions)
    needed = [len(frame) + answer_tokens for frame in frames]
    if max(needed) >= min(lengths):
        question = questions[needed.index(max(needed))]
        raise ValueError(
            f"the budget of {min(lengths)} tokens holds no passage: question {question.id!r} takes "
            f"{max(needed)} with chat template and answer; give a larger one"
        )
    numbers = range(min(len(pool), 16))
    message = tokens.message(questions[0], [pool[number] for number in numbers])
    loose = tokens.is_loose(frames[0], numbers)
    joined = None if loose else tokens.join(frames[0], tokens.lines(numbers))
    tokens.check(message, joined)
    return Budgets(tokens, answer_tokens)
