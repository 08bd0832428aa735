"""How well retrieval finds gold: recall, all-gold recall and reciprocal rank, by type and by hop,
with intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from negfail_nb.benchmarking.hits import Hits
from negfail_nb.benchmarking.records import PassagePool, Question, gold_copies
from negfail_nb.intervals import mean_interval
from negfail_nb.settings import EvaluateSettings

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("group", "measure", "k", "value", "low", "high", "questions")
ALL = "all"


def retrieval_metrics(
    hits: Hits | Sequence[Sequence[int]],
    questions: Sequence[Question],
    pool: PassagePool,
    ks: Sequence[int] = (2, 5, 10, 20),
    settings: EvaluateSettings = EvaluateSettings(),
) -> pd.DataFrame:
    """Measure what a search found for each question.

    Parameters
    ----------
    hits
        For each question, in order: numbers of passages, best first. Rows may differ in length;
        what a shorter one lacks was not found. A gold passage that the pool holds several times is
        found with any of them.
    questions
        Their gold passages are looked up in the pool, by title and text.
    pool
        The passages that were searched.
    ks
        How many of the first passages count.
    settings
        Resamples, confidence and seed of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row per ``group`` (``all``, and each type of question), ``measure`` and ``k``: ``value``
        with the ends of its bootstrap interval over questions, ``low`` and ``high`` (shares, 0 to
        1), and the number of ``questions``. Measures: ``recall``, the mean share of the gold
        passages among the first k; ``all_gold``, how often all of them are; ``mrr``, the mean of
        1 / rank of the first gold passage, which has no k; and ``hop_1``, ``hop_2`` .., how often
        the first, second .. gold passage of the supporting facts is among the first k.

    Raises
    ------
    ValueError
        If there is no question, a row is missing, a k is below 1 or above what `Hits` hold, a
        question has no gold, or the pool lacks a gold passage; the text names question and title.
    """
    import pandas as pd

    complete = isinstance(hits, Hits)
    rows = hits.numbers.tolist() if complete else [list(map(int, row)) for row in hits]
    _check(rows, questions, ks, complete)
    ranks = [gold_ranks(row, question, pool) for row, question in zip(rows, questions, strict=True)]
    groups = {ALL: list(range(len(questions)))}
    for at, question in enumerate(questions):
        if question.type:
            groups.setdefault(question.type, []).append(at)
    table = [
        (group, measure, k, float(values.mean()), *mean_interval(values, settings), len(values))
        for group, members in groups.items()
        for (measure, k), values in _measures([ranks[at] for at in members], ks).items()
    ]
    return pd.DataFrame(table, columns=list(COLUMNS)).astype({"k": "Int64"})


def gold_ranks(found: Sequence[int], question: Question, pool: PassagePool) -> list[float]:
    """Return the rank of each gold passage of a question, from 1; infinite if it was not found."""
    if not question.gold:
        raise ValueError(
            f"question {question.id!r} has no supporting facts, so what it should find is not known"
        )
    places: dict[int, int] = {}
    for rank, number in enumerate(found, 1):
        places.setdefault(number, rank)
    return [
        min(places.get(number, float("inf")) for number in copies)
        for copies in gold_copies(question, pool)
    ]


def _measures(
    ranks: Sequence[Sequence[float]], ks: Sequence[int]
) -> dict[tuple[str, int | None], np.ndarray]:
    """Return the values of each measure, one per question (of a hop, per question that has it)."""
    hops = range(max(map(len, ranks)))
    found = {k: [[rank <= k for rank in row] for row in ranks] for k in ks}
    measures = {("recall", k): [np.mean(row) for row in found[k]] for k in ks}
    measures |= {("all_gold", k): [all(row) for row in found[k]] for k in ks}
    measures |= {("mrr", None): [1 / min(row) for row in ranks]}
    measures |= {
        (f"hop_{hop + 1}", k): [row[hop] for row in found[k] if hop < len(row)]
        for hop in hops
        for k in ks
    }
    return {name: np.array(values, dtype=float) for name, values in measures.items()}


def _check(
    rows: Sequence[Sequence[int]], questions: Sequence[Question], ks: Sequence[int], complete: bool
) -> None:
    if len(questions) == 0:
        raise ValueError("there are no questions; nothing can be measured")
    if len(rows) != len(questions):
        raise ValueError(
            f"there are hits for {len(rows)} of {len(questions)} questions; give one row per "
            "question, in order"
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; give numbers from 1")
    if complete and max(ks) > len(rows[0]):
        raise ValueError(
            f"ks has {max(ks)}, but only {len(rows[0])} passages per question were searched; "
            "search for more"
        )
