"""What a grid needs is looked at before its first request, not in the middle of the night."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from negfail_nb.benchmarking.corpora.records import PassagePool, Question, gold_copies

RETRIEVING = ("retrieve_1", "retrieve_3", "retrieve_3_no_model", "agent")
NAMED = 3  # questions that an error names


def check_grid(
    questions: Sequence[Question], labels: Sequence[str], pool: PassagePool, index: Any
) -> None:
    """Check that the questions can be asked under these arms.

    Raises
    ------
    ValueError
        For no questions, an empty one, two of one id, a gold passage that the pool lacks, or an arm
        that lacks gold passages or an index; the text names them.
    """
    check_questions(questions)
    arms = {label.partition("@")[0]: label for label in labels}
    retrieving = [arm for arm in RETRIEVING if arm in arms]
    if retrieving and index is None:
        raise ValueError(
            f"the arm {retrieving[0]!r} retrieves, but there is no index; give one: build_index(pool, ..)"
        )
    check_gold(questions, pool)
    given = [arm for arm in ("oracle", "long_context") if arm in arms]
    without = [question.id for question in questions if not question.gold]
    if given and without:
        raise ValueError(
            f"the arm {given[0]!r} needs gold passages, and {_some(without)} of {len(questions)} questions name none "
            "(supporting facts); leave these questions or this arm out"
        )


def check_questions(questions: Sequence[Question]) -> None:
    """Check that there are questions, none of them empty, and no two of one id.

    Raises
    ------
    ValueError
        Where that is not so; the text names the question.
    """
    if not questions:
        raise ValueError("there are no questions to ask; give at least one (see load_questions)")
    seen: set[str] = set()
    for question in questions:
        if not question.question.strip():
            raise ValueError(f"question {question.id!r} is empty; leave it out, or give its text")
        if question.id in seen:
            raise ValueError(f"two questions have the id {question.id!r}; give each its own")
        seen.add(question.id)


def check_gold(questions: Iterable[Question], pool: PassagePool) -> None:
    """Check that the pool has every gold passage.

    Raises
    ------
    ValueError
        Where it lacks one; the text names question and title, and counts the questions.
    """
    lacking = []
    for question in questions:
        try:
            gold_copies(question, pool)
        except ValueError as error:
            lacking.append(str(error))
    if lacking:
        raise ValueError(f"{lacking[0]} ({len(lacking)} questions lack gold passages in all)")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
