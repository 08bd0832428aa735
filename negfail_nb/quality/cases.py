"""A trajectory on its way through the filters, and which of them are about one task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from negfail_nb.grading import normalize_answer, parse_number, parse_yes_no
from negfail_nb.quality.duplicates import question_key
from negfail_nb.quality.score import Finding
from negfail_nb.quality.split import rank
from negfail_nb.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Case:
    """A trajectory on its way through the filters.

    Attributes
    ----------
    key
        Its question, normalised; its ``question_id`` where the log has no question text.
    task
        What duplicates and caps go by: the question, and the reference answer where the question alone is several
        tasks ("Fix the failing test." in two repositories).
    digest
        Of what the agent wrote, together with the outcome.
    """

    trajectory: Trajectory
    finding: Finding
    key: str
    task: str
    digest: bytes


def case(trajectory: Trajectory, finding: Finding, written: str) -> Case:
    """Make the case of a trajectory; ``written`` is its `agent_text`. Its task is the question until `by_task`."""
    key = question_key(trajectory.question) or f"id {trajectory.question_id}"
    return Case(trajectory, finding, key, key, rank(0, trajectory.outcome, written.strip()))


def by_task(cases: Sequence[Case]) -> list[Case]:
    """Tell apart the tasks of one question whose reference answers differ beyond normalisation.

    Runs without a reference answer go by the question alone: with the others where those agree on one answer.
    """
    answers: dict[str, set[str]] = defaultdict(set)
    for item in cases:
        answers[item.key].add(answer_key(item.trajectory))
    several = {key for key, found in answers.items() if len(found - {""}) > 1}
    return [
        replace(item, task=f"{item.key}\0{answer_key(item.trajectory)}") if item.key in several else item
        for item in cases
    ]


def answer_key(trajectory: Trajectory) -> str:
    """Return the normalised reference answer, by which two logs mean the same; ``""`` without one.

    Examples
    --------
    >>> about = {"id": "a", "question_id": "q", "question": "How many?", "messages": (), "task": "math"}
    >>> [answer_key(Trajectory(answer=answer, **about)) for answer in ("1,000", "$1000.0")]
    ['1000', '1000']
    """
    answer = trajectory.answer
    value = {"math": parse_number, "yes_no": parse_yes_no}.get(trajectory.task, lambda _: None)(answer)
    return str(value) if value is not None else normalize_answer(answer) or answer.strip()
