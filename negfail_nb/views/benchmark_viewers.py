"""06: the benchmark to look through: a context, a question under every arm, how well arms read."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import pandas as pd
from matplotlib.figure import Figure

from negfail_nb.benchmarking import Answered, Benchmark, PassagePool, Question, ReadingScores
from negfail_nb.benchmarking.records import gold_copies
from negfail_nb.settings import EvaluateSettings
from negfail_nb.views.benchmark import MEASURE_TITLES, NOT_LONG, reading_table
from negfail_nb.views.benchmark_figures import draw_accuracy, draw_groups
from negfail_nb.views.figures import FAILURE, LONG, SUCCESS, UNLABELLED, arm_title
from negfail_nb.views.pages import LINE, MONO, Page, cut, html_table, page
from negfail_nb.views.widgets import Explorer, choices, explore

ENDING_TITLES = {
    "no_answer": "no answer read",
    "length": "reply cut",
    "max_steps": "no calls left",
    "too_long": "did not fit the window",
    "crashed": "request failed",
}
ROUTE_TITLES = {"": "", "passages": " (not needed)", "everything": " (read everything)"}
LISTED = 200  # questions that a list offers
FILLER_SHOWN = 6  # filler passages that are shown between two gold ones; the others are counted


def show_context(answer: Answered, question: Question, pool: PassagePool, limit: int = 400) -> Page:
    """Return the passages of a context in their order, gold ones marked; long rows of filler are
    counted, not shown. The last filler is shown whole, even if the model saw only its beginning.
    """
    gold = {number for copies in gold_copies(question, pool) for number in copies}
    fill = "" if answer.fill is None else f", filled to {answer.fill:.2%}"
    head = (
        f"<p><b>{escape(arm_title(answer.label))}</b>{fill}, {len(answer.passages):,} passages<br>"
        f"<b>Question</b> {escape(question.question)}<br>"
        f"<b>Reference</b> {escape(question.answer)}</p>"
    )
    return Page(head + "".join(_passages(answer, gold, pool, limit)))


def _passages(answer: Answered, gold: set[int], pool: PassagePool, limit: int) -> Iterator[str]:
    line = f'<div style="{LINE}{MONO}">{{}}</div>'
    shown = skipped = 0
    for place, number in enumerate((*answer.passages, None), 1):
        marked = number in gold
        shown = 0 if marked else shown + 1
        if number is not None and shown > FILLER_SHOWN:
            skipped += 1
            continue
        if skipped:
            yield line.format(UNLABELLED, f"{skipped:,} more passages")
        skipped = 0
        if number is not None:
            text = escape(f"{pool[number].title} [{place}]: {cut(pool[number].text, limit)}")
            yield line.format(*((SUCCESS, f"<b>gold</b> {text}") if marked else (UNLABELLED, text)))


def browse_contexts(bench: Benchmark, pool: PassagePool) -> Explorer | Page:
    """Return the passages of a long context: choose the question and the length."""
    long = {(a.question_id, a.target): a for a in bench.answers if a.arm == LONG}
    if not long:
        return page(NOT_LONG)
    by_id = {q.id: q for q in bench.questions}
    listed = {q.question: q.id for q in bench.questions[:LISTED]}
    return explore(
        lambda question, length: show_context(long[question, length], by_id[question], pool),
        question=choices("question", listed, wide=True),
        length=choices("tokens", sorted({target for _, target in long})),
    )


def show_answers(bench: Benchmark, question_id: str, limit: int = 300) -> Page:
    """Return one question under every arm: answer, score, what was cited and found, replies and
    queries.
    """
    question = next((q for q in bench.questions if q.id == question_id), None)
    if question is None:
        raise ValueError(f"no question {question_id!r} in this benchmark")
    scores = bench.scores.table[bench.scores.table["question_id"] == question_id].set_index("arm")
    given = [answer for answer in bench.answers if answer.question_id == question_id]
    about = f"{question.type} {question.level}".strip()
    head = (
        f"<p><b>Question</b> {escape(question.question)} {escape(f'({about})' if about else '')}"
        f"<br><b>Reference</b> {escape(' / '.join((question.answer, *question.aliases)))}<br>"
        f"<b>Gold</b> {escape(', '.join(question.gold))}</p>"
    )
    names = "arm,answer,EM,F1,cited,gold shown,tokens,searched for,replies".split(",")
    given = [(answer, scores.loc[answer.label]) for answer in given]
    cells = [map(escape, _answer_cells(*one, question, limit)) for one in given]
    colors = [SUCCESS if score["em"] else FAILURE for _, score in given]
    return Page(head + html_table(names, cells, colors=colors))


def _answer_cells(
    answer: Answered, scores: pd.Series, question: Question, limit: int
) -> tuple[str, ...]:
    ended = f"({ENDING_TITLES.get(answer.termination, answer.termination)})"
    cited = "(not in the form)" if answer.cited is None else ", ".join(answer.cited)
    tokens = scores["prompt_tokens"] + scores["completion_tokens"]
    texts = [call.reply for call in answer.calls] + ([answer.error] if answer.error else [])
    return (
        f"{arm_title(answer.label)}{ROUTE_TITLES[answer.route]}",
        ended if answer.prediction is None else answer.prediction,
        f"{scores['em']:.0f}",
        f"{scores['f1']:.2f}",
        cited if answer.cites else "",
        f"{len(answer.gold_found)} of {len(question.gold)}" if answer.passages else "",
        "" if pd.isna(tokens) else f"{tokens:,.0f}",
        "\n".join(answer.queries),
        "\n---\n".join(cut(text, limit) for text in texts),
    )


def browse_answers(bench: Benchmark) -> Explorer:
    """Return one question under every arm; questions on which the arms disagree come first in the
    list.
    """
    spread = bench.scores.table.groupby("question_id")["em"].std().fillna(0)
    order = spread.sort_values(ascending=False, kind="stable").index[:LISTED]
    by_id = {q.id: q.question for q in bench.questions}
    listed = {by_id[i]: i for i in order}
    return explore(
        lambda question: show_answers(bench, question),
        question=choices("question", listed, wide=True),
    )


def explore_reading(
    scores: ReadingScores, settings: EvaluateSettings = EvaluateSettings()
) -> Explorer:
    """Return how well arms read, to look through: choose the measure, and what to split by."""
    tables = {
        by: reading_table(scores, *([by] if by else []), settings=settings)
        for by in ("", "type", "level")
    }

    def show(by: str, measure: str) -> Figure:
        table = tables[by]
        return draw_groups(table, measure, by) if by else draw_accuracy(table, measure)

    split = {"arm": "", "arm and type": "type", "arm and level": "level"}
    measures = {title: name for name, title in MEASURE_TITLES.items()}
    return explore(show, by=choices("by", split), measure=choices("measure", measures))
