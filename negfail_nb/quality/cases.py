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
    text
        Its question, normalised; its ``question_id`` where the log has no question text.
    key
        Its question: one for all runs that share an id or a text. The first of their texts.
    task
        What duplicates and caps go by: the question, and the reference answer where the question
        alone is several tasks ("Fix the failing test." in two repositories).
    digest
        Of what the agent wrote, together with the outcome.
    """

    trajectory: Trajectory
    finding: Finding
    text: str
    key: str
    task: str
    digest: bytes


def case(trajectory: Trajectory, finding: Finding, written: str) -> Case:
    """Make the case of a trajectory; ``written`` is its `agent_text`. Its question is its text
    until `by_question`.
    """
    key = question_key(trajectory.question) or f"id {trajectory.question_id}"
    return Case(trajectory, finding, key, key, key, rank(0, trajectory.outcome, written.strip()))


def by_question(cases: Sequence[Case]) -> list[Case]:
    """Give runs that share a question's id, or its text, one key, directly or through others; then
    their tasks.

    A log may word one task differently in each attempt, as users do in a chat; and two logs may
    name one text by two ids.
    """
    keys = _questions(cases)
    return by_task([replace(item, key=keys[item.text], task=keys[item.text]) for item in cases])


def _questions(cases: Sequence[Case]) -> dict[str, str]:
    """Return for each text the first of the texts that are the same question."""
    texts: dict[str, set[str]] = defaultdict(set)
    for item in cases:
        texts[item.trajectory.question_id or f"text {item.text}"].add(item.text)
    first = {item.text: item.text for item in cases}

    def top(text: str) -> str:
        while first[text] != text:
            first[text] = first[first[text]]
            text = first[text]
        return text

    for same in texts.values():
        tops = sorted(set(map(top, same)))
        first.update(dict.fromkeys(tops[1:], tops[0]))
    return {text: top(text) for text in first}


def by_task(cases: Sequence[Case]) -> list[Case]:
    """Tell apart the tasks of one question whose reference answers differ beyond normalisation.

    Runs without a reference answer go by the question alone: with the others where those agree on
    one answer.
    """
    answers: dict[str, set[str]] = defaultdict(set)
    for item in cases:
        answers[item.key].add(answer_key(item.trajectory))
    several = {key for key, found in answers.items() if len(found - {""}) > 1}
    return [
        replace(item, task=f"{item.key}\0{answer_key(item.trajectory)}")
        if item.key in several
        else item
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
    value = {"math": parse_number, "yes_no": parse_yes_no}.get(trajectory.task, lambda _: None)(
        answer
    )
    return str(value) if value is not None else normalize_answer(answer) or answer.strip()
