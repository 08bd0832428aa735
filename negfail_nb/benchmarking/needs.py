"""What arms need, checked before the first request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from negfail_nb.benchmarking.arms import get_arm
from negfail_nb.benchmarking.records import PassagePool, Question, gold_copies

NAMED = 3  # questions that an error names


def needing(what: str, labels: Sequence[str]) -> list[str]:
    """Return the labels whose arm needs something, such as ``"context"``; see `Arm.needs`."""
    return [label for label in labels if what in get_arm(label).needs]


def check_grid(
    questions: Sequence[Question], labels: Sequence[str], pool: PassagePool, index: Any
) -> None:
    """Check, before the first request, that the questions can be asked under these arms."""
    if not questions:
        raise ValueError("there are no questions to ask; give at least one (see load_questions)")
    seen: set[str] = set()
    for question in questions:
        if not question.question.strip():
            raise ValueError(f"question {question.id!r} is empty; leave it out, or give its text")
        if question.id in seen:
            raise ValueError(f"two questions have the id {question.id!r}; give each its own")
        seen.add(question.id)
    arms = [get_arm(label) for label in labels]
    retrieving = [arm.name for arm in arms if "index" in arm.needs]
    if retrieving and index is None:
        raise ValueError(
            f"the arm {retrieving[0]!r} retrieves, but there is no index; give one: "
            "build_index(pool, ..)"
        )
    lacking = []
    for question in questions:
        try:
            gold_copies(question, pool)
        except ValueError as error:
            lacking.append(str(error))
    if lacking:
        raise ValueError(f"{lacking[0]} ({len(lacking)} questions lack gold passages in all)")
    given = [arm.name for arm in arms if "gold" in arm.needs]
    without = [question.id for question in questions if not question.gold]
    if given and without:
        more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
        raise ValueError(
            f"the arm {given[0]!r} needs gold passages, and {', '.join(without[:NAMED])}{more} of "
            f"{len(questions)} questions name none (supporting facts); leave these questions or "
            "this arm out"
        )
