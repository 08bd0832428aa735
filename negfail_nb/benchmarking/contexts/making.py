"""Contexts of set lengths, by the model's own tokens: gold passages and filler, the shorter inside
the longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from negfail_nb.benchmarking.contexts.filler import Fillers
from negfail_nb.benchmarking.contexts.ladder import TOLERANCE, Context, Contexts
from negfail_nb.benchmarking.contexts.tokens import PassagePrompt, PromptTokens
from negfail_nb.benchmarking.corpora.records import PassagePool, Question, gold_numbers
from negfail_nb.settings import ContextSettings

__all__ = ["Context", "Contexts", "Hits", "PassagePrompt", "make_contexts"]

COMPARED = 16  # questions whose gold is also tokenised as a whole, to see that ids may be joined


class Hits(Protocol):
    """Passages retrieved for each question: numbers, shape ``(questions, k)``, best first; negative
    ones are none.
    """

    numbers: np.ndarray


def make_contexts(
    questions: Sequence[Question],
    pool: PassagePool,
    tokenizer: Any,
    settings: ContextSettings = ContextSettings(),
    *,
    prompt: PassagePrompt,
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
        What was retrieved for each question, for the fills ``"hard"`` and ``"mixed"``. Where it
        runs out, random passages follow; ``Context.hard`` counts. A context of 131,072 tokens takes
        about 1,000 passages.
    chat_template
        As in `negfail_nb.prefix.chat.open_chat`; empty: the tokenizer's own.

    Raises
    ------
    ValueError
        Where a length is above the window or below what a question's gold takes; the pool cannot
        fill it or lacks a gold passage; a question has no supporting facts; hits are missing or not
        one row a question.
    """
    _check_lengths(settings, answer_tokens, window)
    if not len(questions):
        raise ValueError("there are no questions to make contexts for")
    if hits is None and settings.fill != "random":
        raise ValueError(
            f"ContextSettings.fill is {settings.fill!r}, which needs hits; give them, or fill 'random'"
        )
    if hits is not None and len(hits.numbers) != len(questions):
        raise ValueError(
            f"hits has {len(hits.numbers)} rows for {len(questions)} questions; search them in order"
        )
    tokens = PromptTokens(tokenizer, prompt, pool, chat_template)
    fillers = Fillers(pool, settings, None if hits is None else hits.numbers)
    gold = [_gold(question, pool) for question in questions]
    contexts = Contexts(questions, gold, tokens, fillers, settings, answer_tokens)
    _check_gold(contexts)
    _check_pool(contexts)
    contexts.compare(contexts[len(contexts.lengths) - 1])
    return contexts


def _check_lengths(settings: ContextSettings, answer_tokens: int, window: int | None) -> None:
    if not settings.lengths or min(settings.lengths) < 1 or answer_tokens < 1:
        raise ValueError(
            f"ContextSettings.lengths is {settings.lengths} and answer_tokens {answer_tokens}; both must be above 0"
        )
    above = [length for length in settings.lengths if window is not None and length > window]
    if above:
        raise ValueError(
            f"ContextSettings.lengths holds {', '.join(map(str, above))}, but the model takes {window} tokens, prompt "
            "and answer together; leave these lengths out or take a model with a larger window (Llama-3-70B is "
            "natively 8K; only Llama 3.1 and 3.3 reach 128K)"
        )


def _check_gold(contexts: Contexts) -> None:
    """Refuse a length below what gold takes; see on the way that the tokenizer's ids may be joined."""
    for index in range(min(COMPARED, len(contexts.questions))):
        contexts.compare(contexts.gold_only(index))
    needed = [contexts.gold_only(index).tokens for index in range(len(contexts.questions))]
    shortest, most = contexts.lengths[0], max(needed)
    if most > shortest:
        question, many = (
            contexts.questions[needed.index(most)],
            sum(tokens > shortest for tokens in needed),
        )
        raise ValueError(
            f"ContextSettings.lengths holds {shortest}, but question {question.id!r} needs {most} tokens for its gold "
            f"passages, chat template and answer ({many} of {len(needed)} questions need more than {shortest}); begin "
            f"at {most}, or leave these questions out"
        )


def _check_pool(contexts: Contexts) -> None:
    """Refuse a length that the whole pool does not fill."""
    held, longest, numbers, tokens = (
        0,
        contexts.lengths[-1],
        contexts.fillers.random,
        contexts.tokens,
    )
    label = len(tokens.labels(1)[1])
    for start in range(0, len(numbers), 1024):
        lines = tokens.lines(numbers[start : start + 1024].tolist())
        held += sum(map(len, lines)) + label * len(lines)
        if held >= longest:
            return
    if held + max(map(len, contexts.frames)) + contexts.answer_tokens < (1 - TOLERANCE) * longest:
        raise ValueError(
            f"ContextSettings.lengths holds {longest}, but the pool's {len(tokens.pool)} passages have about {held} "
            "tokens together; give a larger corpus, or leave that length out"
        )


def _gold(question: Question, pool: PassagePool) -> tuple[int, ...]:
    if not question.gold:
        raise ValueError(
            f"question {question.id!r} has no supporting facts: nobody knows what it needs"
        )
    return gold_numbers(question, pool)
