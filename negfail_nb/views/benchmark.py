"""06: the benchmark's tables, for figures and for reading, and its viewers.

Numbers in tables are in percent, with the ends of their intervals beside them. An arm that was not
asked, or that a measure does not fit, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from negfail_nb.benchmarking import (
    Answered,
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
from negfail_nb.views.figures import LONG, arm_title, tokens_title
from negfail_nb.views.pages import Page, folded, page, readable, spans, to_html, turned, written

MEASURE_TITLES = {
    "em": "EM",
    "f1": "F1",
    "sub_em": "Substring EM",
    "sp_em": "Supporting passages, EM",
    "sp_f1": "Supporting passages, F1",
    "joint_em": "Joint EM",
    "joint_f1": "Joint F1",
}
RETRIEVAL_TITLES = {
    "recall": "gold among the first k (R@k)",
    "all_gold": "all gold among them",
    "mrr": "MRR",
}
READ = {  # title and form of what a reading table has besides the measures
    "parse_failure_rate": ("no answer read, %", "{:.1f}"),
    "plain_answers": ("read without the asked form", "{:,.0f}"),
    "failed": ("request failed, %", "{:.1f}"),
    "citation_rate": ("cites, %", "{:.1f}"),
    "gold_found": ("gold shown, %", "{:.1f}"),
    "routed": ("read everything, %", "{:.1f}"),
    "requests": ("requests", "{:.1f}"),
    "prompt_tokens": ("prompt tokens", "{:,.0f}"),
    "cached_tokens": ("of them cached", "{:,.0f}"),
    "completion_tokens": ("completion tokens", "{:,.1f}"),
    "seconds": ("seconds", "{:.2f}"),
    "retrieval_seconds": ("of retrieval, ms", "{:.1f}"),
}
FIRST = ("EM, %", "F1, %", "read everything, %", "prompt tokens", "seconds")  # of its columns
SHARES = ("parse_failure_rate", "citation_rate", "gold_found", "routed", "failed")
LOST = ("crashed", "too_long")  # endings without a reply
NOT_LONG = 'No long context was asked. Put "long_context" among benchmark.arms.'
NO_GOLD = "No question has supporting facts, so what retrieval should find is not known."
_ENDS = ("", "_low", "_high")


def question_table(questions: Sequence[Question]) -> pd.DataFrame:
    """Return one row per type and level of questions: how many, and the mean number of their gold
    passages.
    """
    rows = [(q.type or "-", q.level or "-", len(q.gold)) for q in questions]
    table = pd.DataFrame(rows, columns=["type", "level", "gold"])
    groups = table.groupby(["type", "level"], sort=False)["gold"].agg(["size", "mean"])
    names = {"size": "questions", "mean": "gold passages"}
    return groups.rename(columns=names).reset_index()


@to_html.register(Estimate)
def _(value: Estimate) -> str:
    """What a grid costs at most, one arm per row and their sum in the last."""
    table = value.table.assign(arm=value.table["arm"].map(arm_title))
    sums = table[["requests", "prompt_tokens", "completion_tokens"]].sum().to_dict()
    total = {"arm": "all arms", "questions": table["questions"].max(), **sums}
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    table.columns = table.columns.str.replace("_", " ")
    form = dict.fromkeys(table.columns.drop("arm"), "{:,.0f}")
    return page(f"{value}.", readable(table).format(form)).html


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
        Columns of `negfail_nb.benchmarking.retrieval_metrics`, and ``method`` before them. Empty if
        no question has supporting facts.
    """
    known = [place for place, question in enumerate(questions) if question.gold]
    asked = [questions[place] for place in known]
    parts = []
    for method, hits in searches.items() if known else ():
        found = Hits(hits.numbers[known], hits.scores[known])
        possible = [k for k in ks if k <= found.numbers.shape[1]]
        table = retrieval_metrics(found, asked, pool, possible, settings)
        table[["value", "low", "high"]] *= 100
        parts.append(table.assign(method=method))
    empty = pd.DataFrame(columns=["method", *COLUMNS])
    table = pd.concat(parts, ignore_index=True) if parts else empty
    return table[["method", *table.columns.drop("method")]]


def show_retrieval(
    table: pd.DataFrame, measures: Sequence[str] = ("recall", "all_gold", "mrr")
) -> Page:
    """Return `retrieval_table` for reading: a row per measure and method, a column per number k;
    behind a click the same by type of question.

    Parameters
    ----------
    table
        Of `retrieval_table`.
    measures
        Which of its measures; ``mrr`` has no k and a column of its own.
    """
    if table.empty:
        return page(NO_GOLD)
    part = table[table["measure"].isin(measures)]
    names = [RETRIEVAL_TITLES.get(name, name.replace("_", " ")) for name in part["measure"]]
    cells = part[["group", "questions"]].rename(columns={"group": "type"})
    cells = cells.assign(**{"measure, %": names}, method=part["method"])
    keys = list(cells.columns)
    order = {name: place for name in keys for place, name in enumerate(dict.fromkeys(cells[name]))}
    cells["k"] = ["any k" if pd.isna(k) else f"k = {k}" for k in part["k"]]
    cells["shown"] = spans(part, "value", ends=("low", "high"))
    rows = cells.set_index([*keys, "k"])["shown"].unstack(sort=False).fillna("").reset_index()
    rows = rows.sort_values(keys, key=lambda column: column.map(order), kind="stable")
    first = rows["type"] == rows["type"].iloc[0]
    said = f"{rows['questions'].iloc[0]:,} questions with supporting facts."
    top = readable(rows[first].drop(columns=["type", "questions"]))
    return page(said, top, *([] if first.all() else [folded("by type", readable(rows[~first]))]))


def place_table(bench: Benchmark) -> pd.DataFrame:
    """Return where the gold passages of long contexts stand, from what was shown to the model.

    Returns
    -------
    pandas.DataFrame
        One row per question, length and gold passage: ``question_id``, ``target`` (tokens),
        ``gold`` (its number among the question's gold passages, from 1), ``depth`` (0 to 1),
        ``passages`` of the context, ``fill`` (tokens / target), ``truncated``, and ``nested``:
        whether the next shorter context is inside, in the same order. Empty if no long context was
        asked.
    """
    rows: list[dict[str, Any]] = []
    by_question: dict[str, list[Answered]] = {}
    for answer in bench.answers:
        if answer.arm == LONG:
            by_question.setdefault(answer.question_id, []).append(answer)
    for name, answers in by_question.items():
        answers.sort(key=lambda answer: answer.target)
        inside = (_inside(short.passages, long.passages) for short, long in pairwise(answers))
        for answer, nested in zip(answers, [None, *inside], strict=True):
            for gold, depth in enumerate(answer.gold_depths, 1):
                about = {"question_id": name, "target": answer.target, "gold": gold, "depth": depth}
                about |= {"passages": len(answer.passages), "fill": answer.fill}
                rows.append(about | {"truncated": answer.truncated, "nested": nested})
    columns = ["question_id", "target", "gold", "depth", "passages", "fill", "truncated", "nested"]
    return pd.DataFrame(rows, columns=columns)


def _inside(short: Iterable[int], long: Iterable[int]) -> bool:
    """Whether one row of numbers is in another, in the same order."""
    rest = iter(long)
    return all(number in rest for number in short)


def show_places(table: pd.DataFrame) -> Styler:
    """Return how contexts are filled, one length per row: fill, passages, cuts, and whether they
    are nested.
    """
    if table.empty:
        return readable(pd.DataFrame({"contexts": [NOT_LONG]}))
    rows = []
    for length, golds in table.groupby("target"):
        part = golds.drop_duplicates("question_id")
        known = part["nested"].dropna()
        fill = 100 * part["fill"]
        row = {
            "length": tokens_title(int(length)),
            "contexts": len(part),
            "fill, %": f"{fill.mean():.2f} [{fill.min():.2f}, {fill.max():.2f}]",
            "above the length": int((part["fill"] > 1).sum()),
            "passages": f"{part['passages'].mean():.1f}",
            "last filler cut": f"{(part['truncated'] != '').mean():.0%}",
            "mean depth of gold": f"{golds['depth'].mean():.2f}",
            "holds the shorter one": "" if known.empty else f"{known.astype(bool).mean():.0%}",
        }
        rows.append(row)
    return readable(pd.DataFrame(rows))


def reading_table(
    scores: ReadingScores | Mapping[str, Benchmark],
    *columns: str,
    settings: EvaluateSettings = EvaluateSettings(),
) -> pd.DataFrame:
    """Return how well each arm reads, in percent with intervals over questions.

    Parameters
    ----------
    scores
        Of a benchmark; or the benchmarks of several readers of the same questions by name, the last
        of them the one that other figures show.
    columns
        What to split the arms' questions by, such as ``"type"`` or ``"depth_band"``; none: arms
        only.
    settings
        Resamples, confidence, seed.

    Returns
    -------
    pandas.DataFrame
        One row per arm and group, as `ReadingScores.by` returns them, and ``length`` (0: the arm
        has none), ``failed`` (crashed, or did not fit the window; such questions score 0) and
        ``confidence``. Of several readers, the column ``reader`` stands before the others.
    """
    if isinstance(scores, Mapping):
        return _of_readers(scores, columns, settings)
    table = scores.by("arm", *columns, settings=settings)
    lost = scores.table.assign(failed=scores.table["termination"].isin(LOST))
    groups = lost.groupby(["arm", *columns], sort=False, dropna=False)["failed"].mean()
    table["failed"] = groups.to_numpy()
    table[[*_with_ends(MEASURES), *SHARES]] *= 100
    lengths = [int(arm.partition("@")[2] or 0) for arm in table["arm"]]
    return table.assign(length=lengths, confidence=settings.confidence)


def _of_readers(
    benches: Mapping[str, Benchmark], columns: Sequence[str], settings: EvaluateSettings
) -> pd.DataFrame:
    tables = {
        name: reading_table(bench.scores, *columns, settings=settings)
        for name, bench in benches.items()
    }
    if len(tables) == 1:
        return next(iter(tables.values()))
    parts = [table.assign(reader=name) for name, table in tables.items()]
    table = pd.concat(parts, ignore_index=True)
    return table[["reader", *table.columns.drop("reader")]]


def _with_ends(measures: Iterable[str]) -> list[str]:
    return [f"{measure}{end}" for measure in measures for end in _ENDS]


def show_reading(table: pd.DataFrame) -> Page:
    """Return `reading_table` for reading: measures in percent with intervals, and what a question
    costs; behind a click every number.
    """
    before = [name for name in ("reader",) if name in table]
    columns = [name for name in ("type", "level", "depth_band") if name in table]
    about = table[[*before, "arm", *columns, "questions"]].assign(arm=table["arm"].map(arm_title))
    rows = {f"{title}, %": spans(table, name) for name, title in MEASURE_TITLES.items()}
    for name, (title, form) in READ.items():
        scale = 1000 if name == "retrieval_seconds" else 1
        rows[title] = written(scale * table[name], form)
    every = about.assign(**{title: cells for title, cells in rows.items() if any(cells)})
    first = [n for n in every if n in (*about, *FIRST)]
    rest = folded("every number", turned(every, [*before, "arm", *columns]))
    return page(readable(every[first]), rest)


def depth_table(
    scores: ReadingScores, settings: EvaluateSettings = EvaluateSettings()
) -> pd.DataFrame:
    """Return `reading_table` of the long contexts by the depth of gold, and all lengths together in
    the rows of length 0.

    The depth of a question is the mean over its gold passages, so questions of several hops are
    seldom at an end. Empty if no long context was asked.
    """
    table = scores.table
    long = table[table["arm"].str.startswith(LONG) & (table["depth_band"] != "")]
    if long.empty:
        return pd.DataFrame(columns=["arm", "depth_band", "length"])
    parts = [replace(scores, table=part) for part in (long, long.assign(arm=LONG))]
    found = pd.concat([reading_table(part, "depth_band", settings=settings) for part in parts])
    return found.sort_values(["length", "depth_band"], kind="stable", ignore_index=True)


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
        longest context, or the first arm if there is none.
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
    table[_with_ends(("em", "em_difference", "f1", "f1_difference"))] *= 100
    return table.assign(baseline=baseline)


def show_pairs(table: pd.DataFrame) -> Styler:
    """Return `paired_table` for reading: differences in points with intervals, and McNemar's
    p-value.
    """
    baseline = arm_title(table["baseline"].iloc[0])
    rows = table[["arm", "questions"]].assign(arm=table["arm"].map(arm_title))
    for measure in ("em", "f1"):
        title = f"{MEASURE_TITLES[measure]} minus {baseline}, points"
        rows[title] = spans(table, f"{measure}_difference", "{:+.1f}")
    rows["p (McNemar)"] = written(table["p"], "{:.3g}")
    return readable(rows)
