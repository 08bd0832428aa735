"""How well the arms read: official EM and F1, substring EM, supporting passages, and arms compared.

Every question that was asked counts, also if the request failed, did not fit, or gave nothing that
could be read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from negfail_nb.benchmarking.costs import Estimate
from negfail_nb.benchmarking.prompts import without_citations
from negfail_nb.benchmarking.question_run import Answered
from negfail_nb.benchmarking.records import Question
from negfail_nb.grading import hotpot_scores, normalize_answer
from negfail_nb.intervals import mcnemar, mean_columns
from negfail_nb.runs import Run
from negfail_nb.said import split_thought
from negfail_nb.settings import EvaluateSettings
from negfail_nb.trajectory import Problem

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("em", "f1", "sub_em", "sp_em", "sp_f1", "joint_em", "joint_f1")
_FACTS = MEASURES[3:]
_OF_CALLS = ("prompt_tokens", "completion_tokens", "cached_tokens", "seconds", "first_seconds")
COSTS = ("requests", *_OF_CALLS, "retrieval_seconds")
BANDS = 5  # of the depth of gold, from 0 to 1
NAN = float("nan")

log = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True)
class ReadingScores:
    """How the questions were answered.

    Attributes
    ----------
    table
        One row per answer: ``question_id``, ``arm`` (``long_context@4096``), ``length``, ``type``,
        ``level``, ``depth`` (mean over the gold passages) and its ``depth_band``; the ``MEASURES``,
        0 to 1; ``parse_failed``; ``plain`` (whether the answer was read from a reply without the
        asked form); ``cited`` (of those asked to cite), ``gold_found`` (share of the gold passages
        that were shown), ``routed`` (whether everything was read, of arms that retrieve first),
        ``termination``; the ``COSTS``. NaN if an arm has no such number: without
        passages nothing can be cited.
    """

    table: pd.DataFrame

    def by(self, *columns: str, settings: EvaluateSettings = EvaluateSettings()) -> pd.DataFrame:
        """Return means over the answers of each group, with intervals over its questions.

        Parameters
        ----------
        columns
            Of the table, such as ``"arm", "type"`` or ``"arm", "depth_band"``; none: ``"arm"``.
        settings
            Resamples, confidence, seed.

        Returns
        -------
        pandas.DataFrame
            One row per group, in the order of the table: the columns; ``questions``; each measure,
            with ``_low`` and ``_high``; ``parse_failure_rate``, ``plain_answers`` (how many were
            read from a reply without the asked form), ``citation_rate``, ``gold_found``,
            ``routed``; costs of one question.

        Raises
        ------
        ValueError
            For a column that the table lacks.
        """
        import pandas as pd

        columns = columns or ("arm",)
        if unknown := [column for column in columns if column not in self.table]:
            raise ValueError(
                f"no column {unknown[0]!r}; group by some of {', '.join(self.table.columns)}"
            )
        groups = self.table.groupby(list(columns), sort=False, dropna=False)
        return pd.DataFrame(
            dict(zip(columns, key, strict=True)) | _summary(part, settings) for key, part in groups
        )


@dataclass(frozen=True)
class Benchmark:
    """What `negfail_nb.benchmarking.grid.benchmark` returns.

    Attributes
    ----------
    questions, labels
        What was to be asked, under which arms.
    answers
        In the order of arms, then questions.
    problems
        What was not asked, and why.
    cost
        What was estimated beforehand.
    run
        The run folder with the plan of these answers, if they were kept.
    """

    questions: tuple[Question, ...]
    labels: tuple[str, ...]
    answers: tuple[Answered, ...]
    problems: tuple[Problem, ...]
    cost: Estimate
    run: Run | None = None

    @property
    def missing(self) -> int:
        """How many answers are missing, as the budget was spent."""
        return len(self.questions) * len(self.labels) - len(self.answers)

    @property
    def complete(self) -> bool:
        """Whether every question was asked under every arm."""
        return not self.missing

    @cached_property
    def scores(self) -> ReadingScores:
        """Scores of all answers."""
        return reading_scores(self.answers, self.questions)

    def __repr__(self) -> str:
        return (
            f"Benchmark({len(self.questions)} questions, {len(self.labels)} arms, "
            f"{len(self.answers)} of {len(self.questions) * len(self.labels)} answers)"
        )


def reading_scores(answers: Iterable[Answered], questions: Iterable[Question]) -> ReadingScores:
    """Score answers.

    EM and F1 are HotpotQA's official ones, each the best over the reference answer and its aliases.
    Substring EM is HELMET's: whether the last reply, normalised, holds the normalised answer
    anywhere (a reply with "not" in it holds "no"); thoughts, and numbers of cited passages, are
    taken out before. Supporting facts and joint measures are the official ones over passages, not
    sentences, as the model cites passages, so they are not comparable to published ones.

    Parameters
    ----------
    answers
        Of a benchmark, or of `negfail_nb.benchmarking.arms.play_arm`.
    questions
        With reference answers; those that were asked must be among them.

    Raises
    ------
    ValueError
        If there are no answers, an answer is there twice, or its question is unknown or has no
        reference answer.
    """
    import pandas as pd

    by_id = {question.id: question for question in questions}
    answers = list(answers)
    _check(answers, by_id)
    rows = [_row(answer, by_id[answer.question_id]) for answer in answers]
    numbers = (*MEASURES, *COSTS, "depth", "cited", "gold_found", "routed")
    return ReadingScores(pd.DataFrame(rows).astype(dict.fromkeys(numbers, float)))


def compare_arms(
    scores: ReadingScores,
    baseline: str = "",
    measures: Sequence[str] = ("em", "f1"),
    settings: EvaluateSettings = EvaluateSettings(),
) -> pd.DataFrame:
    """Compare arms with one of them, question by question, and test their differences in EM.

    Intervals are of the paired bootstrap over the questions that both arms were asked, with the
    same draws. The test is McNemar's exact one. p-values are not corrected for the number of arms.

    Parameters
    ----------
    scores
        Of several arms.
    baseline
        The arm that the others are compared with; empty: the first.
    measures
        Some of ``MEASURES``; an arm that lacks one, such as citations, has NaN.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    pandas.DataFrame
        One row per arm: ``arm``; ``questions`` that both were asked; each measure over them and its
        ``_difference`` (minus the baseline's) with ``_low`` and ``_high``; ``p``.

    Raises
    ------
    ValueError
        If the baseline or a measure is unknown, or an arm shares no question with the baseline.
    """
    import pandas as pd

    groups = scores.table.groupby("arm", sort=False)
    arms = {arm: part.set_index("question_id") for arm, part in groups}
    baseline = baseline or next(iter(arms))
    if baseline not in arms:
        raise ValueError(f"baseline {baseline!r} is not among the arms: {', '.join(arms)}")
    if unknown := [measure for measure in measures if measure not in MEASURES]:
        raise ValueError(f"unknown measure {unknown[0]!r}; use some of {', '.join(MEASURES)}")
    return pd.DataFrame([_compared(arm, arms, baseline, measures, settings) for arm in arms])


def _compared(
    arm: str,
    arms: dict[str, pd.DataFrame],
    baseline: str,
    measures: Sequence[str],
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """One row of `compare_arms`."""
    shared = arms[arm].index.intersection(arms[baseline].index)
    if not len(shared):
        raise ValueError(
            f"arms {baseline} and {arm} were asked no question in common; ask both the same ones"
        )
    lacking = max(len(arms[arm]), len(arms[baseline])) - len(shared)
    if lacking:
        message = "arms %s and %s: %d questions were asked under one only and are left out"
        log.warning(message, baseline, arm, lacking)
    ours = arms[arm].loc[shared]
    theirs = arms[baseline].loc[shared]
    row: dict[str, Any] = {"arm": arm, "questions": len(shared)}
    for measure in measures:
        row |= mean_columns(measure, ours[measure], settings)
        row |= mean_columns(f"{measure}_difference", ours[measure] - theirs[measure], settings)
    return row | {"p": NAN if arm == baseline else mcnemar(ours["em"], theirs["em"])}


def _summary(part: pd.DataFrame, settings: EvaluateSettings) -> dict[str, Any]:
    row: dict[str, Any] = {"questions": part["question_id"].nunique()}
    # A group may hold several arms.
    values = part.groupby("question_id", sort=True)[list(MEASURES)].mean()
    for measure in MEASURES:
        row |= mean_columns(measure, values[measure], settings)
    row |= {
        "parse_failure_rate": part["parse_failed"].mean(),
        "plain_answers": int(part["plain"].sum()),
        "citation_rate": part["cited"].mean(),
    }
    return row | part[["gold_found", "routed", *COSTS]].mean().to_dict()


def _check(answers: Sequence[Answered], questions: dict[str, Question]) -> None:
    if not answers:
        raise ValueError("no answers to score: 0 were given")
    seen: set[str] = set()
    for answer in answers:
        question = questions.get(answer.question_id)
        if question is None or not question.answer:
            what = "is not among the questions" if question is None else "has no reference answer"
            raise ValueError(
                f"answer {answer.id!r} cannot be scored: question {answer.question_id!r} {what}"
            )
        if answer.id in seen:
            raise ValueError(f"answer {answer.id!r} is there twice; give each once")
        seen.add(answer.id)


def _row(answer: Answered, question: Question) -> dict[str, Any]:
    depths = answer.gold_depths
    gold = question.gold
    depth = sum(depths) / len(depths) if depths else NAN
    return {
        "question_id": question.id,
        "arm": answer.label,
        "length": answer.target,
        "type": question.type,
        "level": question.level,
        "depth": depth,
        "depth_band": _band(depth) if depths else "",
        **_measures(answer, question),
        "parse_failed": answer.parse_failed,
        "plain": answer.plain,
        "cited": float(answer.cited is not None) if answer.cites else NAN,
        "gold_found": len(answer.gold_found) / len(gold) if gold else NAN,
        "routed": float(answer.route == "everything") if answer.route else NAN,
        "termination": answer.termination,
        **_costs(answer),
    }


def _measures(answer: Answered, question: Question) -> dict[str, float]:
    """All measures, each the best over the reference answers."""
    cited = None if answer.cited is None else [(title,) for title in answer.cited]
    gold = [(title,) for title in question.gold] if answer.cites and question.gold else None
    references = (question.answer, *question.aliases)
    scored = [hotpot_scores(answer.prediction, reference, cited, gold) for reference in references]
    best = {name: max(scores[name] for scores in scored) for name in MEASURES if name in scored[0]}
    found = any(_holds(answer, reference) for reference in references)
    return dict.fromkeys(_FACTS, NAN) | best | {"sub_em": float(found)}


def _holds(answer: Answered, reference: str) -> bool:
    if answer.termination in ("crashed", "too_long") or not answer.calls:
        return False
    said = split_thought(answer.calls[-1].reply)[1]
    # The number of a passage is no answer, and a year may be one.
    reply = normalize_answer(without_citations(said) if answer.cites else said)
    wanted = normalize_answer(reference)
    return wanted in reply if wanted else not reply


def _band(depth: float) -> str:
    """Return the band of a depth: ``"0.2-0.4"``."""
    number = min(int(depth * BANDS), BANDS - 1)
    return f"{number / BANDS:g}-{(number + 1) / BANDS:g}"


def _costs(answer: Answered) -> dict[str, float | None]:
    """Sums over the calls; ``None`` if a call does not say."""
    sums = {name: [getattr(call, name) for call in answer.calls] for name in _OF_CALLS}
    costs = {name: None if None in values else sum(values) for name, values in sums.items()}
    seconds = sum(retrieval.seconds for retrieval in answer.retrievals)
    return {"requests": len(answer.calls), **costs, "retrieval_seconds": seconds}
