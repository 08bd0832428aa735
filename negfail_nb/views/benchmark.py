"""Tables and pictures of the benchmark (06): retrieval, how contexts are filled, and how well each
arm reads.

Numbers in tables are in percent, with the ends of their intervals beside them; figures draw these
tables and nothing else. An arm that was not asked, or that a measure does not fit, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd

from negfail_nb.benchmarking import (
    ARMS,
    Benchmark,
    Hits,
    PassagePool,
    Question,
    ReadingScores,
    compare_arms,
    retrieval_metrics,
)
from negfail_nb.benchmarking.costs import Estimate
from negfail_nb.benchmarking.recall import COLUMNS
from negfail_nb.benchmarking.scores import MEASURES
from negfail_nb.settings import EvaluateSettings

LONG = "long_context"
MEASURE_TITLES = {
    "em": "EM",
    "f1": "F1",
    "sub_em": "Substring EM",
    "sp_em": "Supporting passages, EM",
    "sp_f1": "Supporting passages, F1",
    "joint_em": "Joint EM",
    "joint_f1": "Joint F1",
}
SHARES = ("parse_failure_rate", "citation_rate", "gold_found", "failed")
LOST = ("crashed", "too_long")  # endings without a reply


def arm_title(label: str) -> str:
    """Return what an arm is called in figures: ``"long context, 4K"`` for ``long_context@4096``."""
    name, _, length = label.partition("@")
    title = ARMS[name].title if name in ARMS else name
    return f"{title}, {tokens_title(int(length))}" if length else title


def tokens_title(tokens: int) -> str:
    """Return a number of tokens as it is said: ``"4K"`` for 4096, ``"5,000"`` for 5000."""
    return f"{tokens // 1024}K" if tokens and tokens % 1024 == 0 else f"{tokens:,}"


def question_table(questions: Sequence[Question]) -> pd.DataFrame:
    """Return one row a type and level of questions: how many, and the mean number of their gold
    passages.
    """
    rows = [(q.type or "-", q.level or "-", len(q.gold)) for q in questions]
    table = pd.DataFrame(rows, columns=["type", "level", "gold passages"])
    groups = table.groupby(["type", "level"], sort=False)["gold passages"]
    return (
        groups.agg(["size", "mean"])
        .rename(columns={"size": "questions", "mean": "gold passages"})
        .reset_index()
    )


def estimate_table(cost: Estimate) -> pd.DataFrame:
    """Return what a grid costs at most, an arm a row and their sum in the last."""
    table = cost.table.assign(arm=cost.table["arm"].map(arm_title))
    sums = {name: table[name].sum() for name in ("requests", "prompt_tokens", "completion_tokens")}
    total = pd.DataFrame([{"arm": "all arms", "questions": table["questions"].max(), **sums}])
    return pd.concat([table, total], ignore_index=True)


def retrieval_table(
    searches: Mapping[str, Hits],
    questions: Sequence[Question],
    pool: PassagePool,
    ks: Sequence[int] = (1, 2, 5, 10, 20),
    settings: EvaluateSettings = EvaluateSettings(),
) -> pd.DataFrame:
    """Return how well each method of retrieval finds gold, in percent.

    Parameters
    ----------
    searches
        What each method found for the questions, in order.
    questions, pool
        What was asked, and the passages that were searched. A question without supporting facts is
        left out, as nobody knows what it should find; ``questions`` counts the others.
    ks
        How many of the first passages count; those above what was searched for are left out.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    pandas.DataFrame
        Columns of `negfail_nb.benchmarking.retrieval_metrics`, and ``method`` before them. Empty
        where no question has supporting facts.
    """
    known = [place for place, question in enumerate(questions) if question.gold]
    asked, parts = [questions[place] for place in known], []
    for method, hits in searches.items() if known else ():
        numbers = hits.numbers[known]
        possible = [k for k in ks if k <= numbers.shape[1]]
        found = retrieval_metrics(
            Hits(numbers, hits.scores[known]), asked, pool, possible, settings
        )
        found[["value", "low", "high"]] *= 100
        parts.append(found.assign(method=method))
    table = (
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["method", *COLUMNS])
    )
    return table[["method", *table.columns.drop("method")]]


def place_table(bench: Benchmark) -> pd.DataFrame:
    """Return where the gold passages of long contexts stand, from what was shown to the model.

    Returns
    -------
    pandas.DataFrame
        One row a question, length and gold passage: ``question_id``, ``target`` (tokens), ``gold``
        (its number among the question's gold passages, from 1), ``depth`` (0 to 1), ``passages`` of
        the context, ``fill`` (tokens / target), ``truncated``, and ``nested``: whether the next
        shorter context is inside, in the same order. Empty where no long context was asked.
    """
    rows: list[dict[str, Any]] = []
    by_question: dict[str, list[Any]] = {}
    for answer in bench.answers:
        if answer.arm == LONG:
            by_question.setdefault(answer.question_id, []).append(answer)
    for name, answers in by_question.items():
        answers.sort(key=lambda answer: answer.target)
        inside = [
            None,
            *(_inside(short.passages, long.passages) for short, long in pairwise(answers)),
        ]
        for answer, nested in zip(answers, inside, strict=True):
            about = {"question_id": name, "target": answer.target, "passages": len(answer.passages)}
            about |= {"fill": answer.fill, "truncated": answer.truncated, "nested": nested}
            rows += [
                about | {"gold": n, "depth": depth} for n, depth in enumerate(answer.gold_depths, 1)
            ]
    columns = ["question_id", "target", "gold", "depth", "passages", "fill", "truncated", "nested"]
    return pd.DataFrame(rows, columns=columns)


def _inside(short: Iterable[int], long: Iterable[int]) -> bool:
    """Whether one row of numbers is in another, in the same order."""
    rest = iter(long)
    return all(number in rest for number in short)


def reading_table(
    scores: ReadingScores, *columns: str, settings: EvaluateSettings = EvaluateSettings()
) -> pd.DataFrame:
    """Return how well each arm reads, in percent with intervals over questions.

    Parameters
    ----------
    scores
        Of a benchmark.
    columns
        What to split the arms' questions by, such as ``"type"`` or ``"depth_band"``; none: arms
        only.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    pandas.DataFrame
        One row an arm and group, as `ReadingScores.by` returns them, and ``length`` (0: the arm has
        none), ``failed`` (crashed, or did not fit the window; such questions score 0) and
        ``confidence``.
    """
    table = scores.by("arm", *columns, settings=settings)
    lost = scores.table.assign(failed=scores.table["termination"].isin(LOST))
    groups = lost.groupby(["arm", *columns], sort=False, dropna=False)["failed"].mean()
    table["failed"] = groups.to_numpy()
    table[[*_measured(MEASURES), *SHARES]] *= 100
    lengths = [int(arm.partition("@")[2] or 0) for arm in table["arm"]]
    return table.assign(length=lengths, confidence=settings.confidence)


def _measured(measures: Iterable[str]) -> list[str]:
    return [f"{measure}{end}" for measure in measures for end in ("", "_low", "_high")]


def depth_table(
    scores: ReadingScores, settings: EvaluateSettings = EvaluateSettings()
) -> pd.DataFrame:
    """Return `reading_table` of the long contexts by the depth of gold, and all lengths together in
    the last rows.

    The depth of a question is the mean over its gold passages, so questions of several hops are
    seldom at an end. Empty where no long context was asked.
    """
    long = scores.table[
        scores.table["arm"].str.startswith(LONG) & (scores.table["depth_band"] != "")
    ]
    if long.empty:
        return pd.DataFrame(columns=["arm", "depth_band", "length"])
    parts = (long, long.assign(arm=LONG))
    table = pd.concat(
        [reading_table(replace(scores, table=p), "depth_band", settings=settings) for p in parts]
    )
    return table.sort_values(["length", "depth_band"], kind="stable", ignore_index=True)


def paired_table(
    scores: ReadingScores, baseline: str = "", settings: EvaluateSettings = EvaluateSettings()
) -> pd.DataFrame:
    """Return EM and F1 of each arm and their paired differences to one of them, in percent and
    points.

    Parameters
    ----------
    scores
        Of a benchmark.
    baseline
        The arm that the others are compared with, such as ``"long_context@4096"``; empty: the
        longest context, or the first arm where there is none.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    pandas.DataFrame
        As `negfail_nb.benchmarking.compare_arms` returns it, and ``baseline``.
    """
    arms = list(dict.fromkeys(scores.table["arm"]))
    long = [arm for arm in arms if arm.startswith(f"{LONG}@")]
    baseline = baseline or max(long, key=lambda arm: int(arm.partition("@")[2]), default=arms[0])
    table = compare_arms(scores, baseline, ("em", "f1"), settings)
    table[_measured(("em", "em_difference", "f1", "f1_difference"))] *= 100
    return table.assign(baseline=baseline)
