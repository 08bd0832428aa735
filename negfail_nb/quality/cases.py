"""The cases of quality control: a trajectory, what was found in it, which question it is of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tqdm.auto import tqdm

from negfail_nb.duplicates import connected, question_key, rank
from negfail_nb.quality.answers import answer_key
from negfail_nb.quality.failures import Finding, examine, read
from negfail_nb.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Case:
    """A trajectory on its way through the filters.

    Attributes
    ----------
    text
        Its question, normalised; its ``question_id`` if the log has no question text.
    key
        Its question: one for all runs that share an id or a text. The first of their texts.
    task
        What duplicates and caps go by: the question, and the reference answer if the question alone
        is several tasks ("Fix the failing test." in two repositories).
    digest
        Of what the agent wrote, together with the outcome.
    """

    trajectory: Trajectory
    finding: Finding
    text: str
    key: str
    task: str
    digest: bytes


def make_cases(trajectories: Iterable[Trajectory]) -> list[Case]:
    """Examine each trajectory, and tell which of them are about one question and one task.

    Runs are about one question if they share its id or its text, directly or through others: a log
    may word one task differently in each attempt, as users do in a chat, and two logs may name one
    text by two ids. Reference answers that differ beyond normalisation make several tasks of one
    question; runs without one go by the question alone.
    """
    cases = []
    for trajectory in tqdm(
        trajectories, desc="kinds of failure", unit="trajectory", leave=False, delay=1
    ):
        # A run's steps are let go at once: all of them would not fit beside the trajectories.
        run = read(trajectory)
        text = asked_text(trajectory.question, trajectory.question_id)
        digest = rank(0, trajectory.outcome, run.written.strip())
        cases.append(Case(trajectory, examine(run), text, text, text, digest))
    keys = _question_keys(cases)
    answers: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        answers[keys[case.text]].add(answer_key(case.trajectory))
    several = {key for key, found in answers.items() if len(found - {""}) > 1}
    made = []
    for case in cases:
        key = keys[case.text]
        task = f"{key}\0{answer_key(case.trajectory)}" if key in several else key
        made.append(replace(case, key=key, task=task))
    return made


def asked_text(question: str, question_id: str) -> str:
    """Return a question's normalised text; its id if it has none."""
    return question_key(question) or f"id {question_id}"


def _question_keys(cases: Sequence[Case]) -> dict[str, str]:
    """For each text, the first of the texts that are the same question."""
    texts = sorted({case.text for case in cases})
    number = {text: i for i, text in enumerate(texts)}
    first: dict[str, int] = {}
    pairs = []
    for case in cases:
        name = case.trajectory.question_id or f"text {case.text}"
        pairs.append((number[case.text], first.setdefault(name, number[case.text])))
    names: dict[int, str] = {}
    groups = connected(len(texts), pairs)
    return {text: names.setdefault(group, text) for text, group in zip(texts, groups, strict=True)}
