"""What is read of the benchmark (06) in a notebook: tables for people, one context, one question
under all arms.

All text of passages and replies is escaped: HTML in it shows as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import pandas as pd
from pandas.io.formats.style import Styler

from negfail_nb.benchmarking import Answered, Benchmark, PassagePool, Question
from negfail_nb.benchmarking.costs import Estimate
from negfail_nb.benchmarking.records import gold_copies
from negfail_nb.views.benchmark import MEASURE_TITLES, arm_title, estimate_table, tokens_title
from negfail_nb.views.benchmark_figures import NO_GOLD, NOT_LONG
from negfail_nb.views.browse import Page
from negfail_nb.views.figures import FAILURE, SUCCESS, UNLABELLED

RETRIEVAL_TITLES = {
    "recall": "gold among the first k (R@k)",
    "all_gold": "all gold among them",
    "mrr": "MRR",
}
ENDING_TITLES = {
    "no_answer": "no answer read",
    "length": "reply cut",
    "max_steps": "no calls left",
    "too_long": "did not fit the window",
    "crashed": "request failed",
}
FILLER_SHOWN = 6  # filler passages that are shown between two gold ones; the others are counted
_CELL = "text-align:left;vertical-align:top;padding:4px 8px;border-top:1px solid #DDDDDD;white-space:pre-wrap"
_LINE = "margin:2px 0;padding:2px 8px;border-left:4px solid {};white-space:pre-wrap;font:12px/1.4 monospace"


def show_estimate(cost: Estimate) -> Styler:
    """Return what a grid costs at most, an arm a row."""
    table = estimate_table(cost)
    named = {name: name.replace("_", " ") for name in table.columns}
    numbers = {named[name]: "{:,.0f}" for name in table.columns if name != "arm"}
    return _left(table.rename(columns=named)).format(numbers)


def show_retrieval(
    table: pd.DataFrame, measures: Sequence[str] = ("recall", "all_gold", "mrr")
) -> Styler:
    """Return `retrieval_table` for reading: a row a type of question, measure and method, a column
    a number k.

    Parameters
    ----------
    table
        Of `negfail_nb.views.retrieval_table`.
    measures
        Which of its measures; ``mrr`` has no k and a column of its own.
    """
    if table.empty:
        return _left(pd.DataFrame({"retrieval": [NO_GOLD]}))
    part = table[table["measure"].isin(measures)]
    cells = pd.DataFrame(
        {
            "type": part["group"],
            "questions": part["questions"],
            "measure, %": [
                RETRIEVAL_TITLES.get(name, name.replace("_", " ")) for name in part["measure"]
            ],
            "method": part["method"],
            "k": ["any k" if pd.isna(k) else f"k = {k}" for k in part["k"]],
            "shown": _spans(part["value"], part["low"], part["high"]),
        }
    )
    keys = list(cells.columns[:4])
    rows = cells.set_index([*keys, "k"])["shown"].unstack(sort=False).fillna("").reset_index()
    order = {name: place for name in keys for place, name in enumerate(dict.fromkeys(cells[name]))}
    return _left(rows.sort_values(keys, key=lambda column: column.map(order), kind="stable"))


def show_places(table: pd.DataFrame) -> Styler:
    """Return how contexts are filled, a length a row: fill, passages, cuts, and whether they are
    nested.
    """
    if table.empty:
        return _left(pd.DataFrame({"contexts": [NOT_LONG]}))
    contexts = table.drop_duplicates(["question_id", "target"])
    rows = []
    for length, part in contexts.groupby("target"):
        known, fill = part["nested"].dropna(), 100 * part["fill"]
        row = {
            "length": tokens_title(int(length)),
            "contexts": len(part),
            "fill, %": f"{fill.mean():.2f} [{fill.min():.2f}, {fill.max():.2f}]",
            "above the length": int((part["fill"] > 1).sum()),
            "passages": f"{part['passages'].mean():.1f}",
            "last filler cut": f"{(part['truncated'] != '').mean():.0%}",
            "mean depth of gold": f"{table.loc[table['target'] == length, 'depth'].mean():.2f}",
            "holds the shorter one": "" if known.empty else f"{known.astype(bool).mean():.0%}",
        }
        rows.append(row)
    return _left(pd.DataFrame(rows))


def show_reading(table: pd.DataFrame) -> Styler:
    """Return `reading_table` for reading: measures in percent with intervals, shares, and what a
    question costs.
    """
    columns = [name for name in ("type", "level", "depth_band") if name in table]
    rows = pd.DataFrame(
        {"arm": table["arm"].map(arm_title), **{name: table[name] for name in columns}}
    )
    rows["questions"] = table["questions"]
    for measure, title in MEASURE_TITLES.items():
        rows[f"{title}, %"] = _spans(
            table[measure], table[f"{measure}_low"], table[f"{measure}_high"]
        )
    for name, title, form in (
        ("parse_failure_rate", "no answer read, %", "{:.1f}"),
        ("plain_answers", "read without the asked form", "{:,.0f}"),
        ("failed", "request failed, %", "{:.1f}"),
        ("citation_rate", "cites, %", "{:.1f}"),
        ("gold_found", "gold shown, %", "{:.1f}"),
        ("requests", "requests", "{:.1f}"),
        ("prompt_tokens", "prompt tokens", "{:,.0f}"),
        ("cached_tokens", "of them cached", "{:,.0f}"),
        ("completion_tokens", "completion tokens", "{:,.1f}"),
        ("seconds", "seconds", "{:.2f}"),
        ("retrieval_seconds", "of retrieval, ms", "{:.1f}"),
    ):
        values = table[name] * (1000 if name == "retrieval_seconds" else 1)
        rows[title] = ["" if pd.isna(value) else form.format(value) for value in values]
    return _left(
        rows.loc[:, [name in ("arm", *columns) or not (rows[name] == "").all() for name in rows]]
    )


def show_pairs(table: pd.DataFrame) -> Styler:
    """Return `paired_table` for reading: differences in points with intervals, and McNemar's p."""
    baseline = arm_title(table["baseline"].iloc[0])
    rows = pd.DataFrame({"arm": table["arm"].map(arm_title), "questions": table["questions"]})
    for measure, title in (("em", "EM"), ("f1", "F1")):
        values = [table[f"{measure}_difference{end}"] for end in ("", "_low", "_high")]
        rows[f"{title} minus {baseline}, points"] = _spans(*values, form="{:+.1f}")
    rows["p (McNemar)"] = ["" if pd.isna(p) else f"{p:.3g}" for p in table["p"]]
    return _left(rows)


def show_context(answer: Answered, question: Question, pool: PassagePool, limit: int = 400) -> Page:
    """Return the passages of a context in their order, gold ones marked; long rows of filler are
    counted, not shown.

    The last filler stands here whole, also where the model saw only its beginning.

    Parameters
    ----------
    answer
        What came of the question under any arm that shows passages.
    question, pool
        The question, and where the passages come from.
    limit
        Longer passages are cut after so many characters, and say so.
    """
    gold = {number for copies in gold_copies(question, pool) for number in copies}
    fill = "" if answer.fill is None else f", filled to {answer.fill:.2%}"
    head = (
        f"<p><b>{escape(arm_title(answer.label))}</b>{fill}, {len(answer.passages):,} passages<br>"
        f"<b>Question</b> {escape(question.question)}<br><b>Reference</b> {escape(question.answer)}</p>"
    )
    return Page(head + "".join(_lines(answer, gold, pool, limit)))


def _lines(answer: Answered, gold: set[int], pool: PassagePool, limit: int) -> Iterator[str]:
    skipped = shown = 0
    for place, number in enumerate(answer.passages, 1):
        passage = pool[number]
        marked = number in gold
        shown = 0 if marked else shown + 1
        if not marked and shown > FILLER_SHOWN:
            skipped += 1
            continue
        yield from _count(skipped)
        skipped = 0
        color, note = (SUCCESS, "<b>gold</b> ") if marked else (UNLABELLED, "")
        text = escape(f"{passage.title} [{place}]: {_cut(passage.text, limit)}")
        yield f'<div style="{_LINE.format(color)}">{note}{text}</div>'
    yield from _count(skipped)


def _count(skipped: int) -> Iterator[str]:
    if skipped:
        yield f'<div style="{_LINE.format(UNLABELLED)}">{skipped:,} more passages</div>'


def show_answers(bench: Benchmark, question_id: str, limit: int = 300) -> Page:
    """Return one question under every arm: answer, score, what was cited and found, replies and
    queries.

    Parameters
    ----------
    bench
        Of `negfail_nb.walk.Walk.benchmark`.
    question_id
        Of one of its questions.
    limit
        Longer replies are cut after so many characters, and say so.

    Raises
    ------
    ValueError
        Where there is no such question.
    """
    question = next((q for q in bench.questions if q.id == question_id), None)
    if question is None:
        raise ValueError(f"no question {question_id!r} in this benchmark")
    scores = bench.scores.table[bench.scores.table["question_id"] == question_id].set_index("arm")
    names = (
        "arm",
        "answer",
        "EM",
        "F1",
        "cited",
        "gold shown",
        "tokens",
        "searched for",
        "replies",
    )
    head = "".join(f'<th style="{_CELL}">{name}</th>' for name in names)
    given = [answer for answer in bench.answers if answer.question_id == question_id]
    rows = [_row(answer, question, scores.loc[answer.label], limit) for answer in given]
    about = f"{question.type} {question.level}".strip()
    return Page(
        f"<p><b>Question</b> {escape(question.question)} {escape(f'({about})' if about else '')}<br>"
        f"<b>Reference</b> {escape(' / '.join((question.answer, *question.aliases)))}<br>"
        f"<b>Gold</b> {escape(', '.join(question.gold))}</p>"
        f'<table style="width:100%"><tr>{head}</tr>{"".join(rows)}</table>'
    )


def _row(answer: Answered, question: Question, scores: pd.Series, limit: int) -> str:
    said = (
        answer.prediction
        if answer.prediction is not None
        else f"({ENDING_TITLES[answer.termination]})"
    )
    cited = (
        ""
        if not answer.cites
        else "(not in the form)"
        if answer.cited is None
        else ", ".join(answer.cited)
    )
    found = f"{len(answer.gold_found)} of {len(question.gold)}" if answer.passages else ""
    tokens = scores["prompt_tokens"] + scores["completion_tokens"]
    texts = [_cut(call.reply, limit) for call in answer.calls] + (
        [_cut(answer.error, limit)] if answer.error else []
    )
    cells = (
        arm_title(answer.label),
        said,
        f"{scores['em']:.0f}",
        f"{scores['f1']:.2f}",
        cited,
        found,
        "" if pd.isna(tokens) else f"{tokens:,.0f}",
        "\n".join(answer.queries),
        "\n---\n".join(texts),
    )
    first = f"{_CELL};border-left:6px solid {SUCCESS if scores['em'] else FAILURE}"
    styles = [first] + [_CELL] * (len(cells) - 1)
    shown = (
        f'<td style="{style}">{escape(cell)}</td>'
        for style, cell in zip(styles, cells, strict=True)
    )
    return f"<tr>{''.join(shown)}</tr>"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]} [{len(text) - limit:,} more characters]"


def _spans(values: pd.Series, lows: pd.Series, highs: pd.Series, form: str = "{:.1f}") -> list[str]:
    """Numbers with their intervals in brackets; empty where there is none."""
    shown = []
    for value, low, high in zip(values, lows, highs, strict=True):
        ends = "" if pd.isna(low) else f" [{form.format(low)}, {form.format(high)}]"
        shown.append("" if pd.isna(value) else f"{form.format(value)}{ends}")
    return shown


def _left(table: pd.DataFrame) -> Styler:
    style = table.style.hide(axis="index").set_properties(
        **{"text-align": "left", "white-space": "pre-wrap"}
    )
    return style.format(escape="html")
