"""How far a failed run got, between 0 and 1, and the finding that the report keeps of each
trajectory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from negfail_nb.grading import normalize_answer, parse_number
from negfail_nb.quality.failures import Run, kinds
from negfail_nb.steps import text

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What each part of the quality score counts. Parts that cannot be known are left out, the rest
    is rescaled.

    Attributes
    ----------
    answer
        F1 of the answer.
    evidence
        Share of the gold titles seen in observations; without titles, share of the reference
        answer's words. Unknown for yes/no questions without titles: "yes" in an observation proves
        nothing.
    actions
        Share of valid actions.
    finished
        1 where it finished with an answer.
    """

    answer: float = 0.4
    evidence: float = 0.3
    actions: float = 0.2
    finished: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found in one trajectory.

    Attributes
    ----------
    kinds, primary
        Kinds of failure, and the most telling one (``""`` for a success).
    turns, calls
        Turns of the agent; calls of tools among its actions, finishing aside.
    actions, errors
        Turns that act, or fail to; those among them that are errors.
    characters
        Of all messages: the length from which tokens are estimated.
    score
        The quality score: 1 for a success, ``None`` for an unlabelled run.
    """

    id: str
    question: str
    answer: str
    prediction: str | None
    model: str
    outcome: str
    termination: str
    kinds: tuple[str, ...]
    turns: int
    calls: int
    actions: int
    errors: int
    characters: int
    score: float | None

    @property
    def primary(self) -> str:
        """The most telling kind of failure; ``""`` for a success."""
        return self.kinds[0] if self.kinds and self.outcome != "success" else ""

    @property
    def action_errors(self) -> float | None:
        """Share of actions that are errors (arXiv 2402.11651, Table 6); ``None`` where nothing was
        tried.
        """
        return self.errors / self.actions if self.actions else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Finding:
        """Build a finding from JSON values."""
        return cls(**{**record, "kinds": tuple(record["kinds"])})


def examine(run: Run, weights: Weights = Weights()) -> Finding:
    """Return what was found in one run."""
    trajectory = run.trajectory
    acting = [step for step in run.steps if step.actions or step.error]
    return Finding(
        id=trajectory.id,
        question=trajectory.question,
        answer=trajectory.answer,
        prediction=trajectory.prediction,
        model=trajectory.source.model,
        outcome=trajectory.outcome,
        termination=trajectory.termination,
        kinds=kinds(run),
        turns=len(run.steps),
        calls=sum(not action.is_finish for step in run.steps for action in step.actions),
        actions=len(acting),
        errors=sum(bool(step.error) for step in acting),
        characters=len(run.written)
        + sum(len(text(m)) for m in trajectory.messages if m["role"] != "assistant"),
        score=quality(run, weights),
    )


def quality(run: Run, weights: Weights = Weights()) -> float | None:
    """Return how far a run got, between 0 and 1: 1 for a success, ``None`` for an unlabelled run.

    The weighted mean of the parts that `Weights` describes. That the quality of failures matters is
    arXiv 2402.11651, Table 5; the score itself is ours.
    """
    if run.trajectory.success is not False:
        return 1.0 if run.trajectory.success else None
    parts = (
        (weights.answer, run.f1),
        (weights.evidence, evidence(run)),
        (weights.actions, _valid_share(run)),
        (
            weights.finished,
            float(
                run.trajectory.termination == "finished" and run.trajectory.prediction is not None
            ),
        ),
    )
    known = [(weight, value) for weight, value in parts if value is not None]
    total = sum(weight for weight, _ in known)
    return min(1.0, sum(weight * value for weight, value in known) / total) if total else 0.0


def evidence(run: Run) -> float | None:
    """Return the share of the evidence that the agent saw, between 0 and 1; ``None`` where that
    cannot be known.

    Gold titles where they are known (compared without case), else the words of the reference
    answer, else, for numbers, whether the number was seen.
    """
    trajectory = run.trajectory
    seen = "\n".join(step.observation for step in run.steps)
    lowered = seen.lower()
    if trajectory.gold_titles:
        return sum(title.lower() in lowered for title in trajectory.gold_titles) / len(
            trajectory.gold_titles
        )
    if trajectory.task == "math":
        number = parse_number(trajectory.answer)
        return (
            None
            if number is None
            else float(any(parse_number(n) == number for n in set(_NUMBER.findall(seen))))
        )
    words = normalize_answer(trajectory.answer).split()
    if trajectory.task == "yes_no" or not words or words[0] in ("yes", "no"):
        return None
    return sum(_has_word(lowered, word) for word in words) / len(words)


def _valid_share(run: Run) -> float:
    acting = [step for step in run.steps if step.actions or step.error]
    return sum(not step.error for step in acting) / len(acting) if acting else 0.0


def _has_word(seen: str, word: str) -> bool:
    start = seen.find(word)
    while start >= 0:
        end = start + len(word)
        if not (seen[start - 1 : start].isalnum() or seen[end : end + 1].isalnum()):
            return True
        start = seen.find(word, start + 1)
    return False
