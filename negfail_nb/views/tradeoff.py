"""Tables and sentences of the trade-off (07): accuracy against cost, where the time goes, speed
against length.

Measures are in percent, times in seconds. Every number of a figure is in its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from html import escape

import pandas as pd
from pandas.io.formats.style import Styler

from negfail_nb.curves import Curve
from negfail_nb.speed import BreakEven
from negfail_nb.speed.ladder import CACHED, LONG, PIPELINE
from negfail_nb.views.benchmark import MEASURE_TITLES, arm_title, tokens_title
from negfail_nb.views.benchmark_pages import _left, _spans
from negfail_nb.views.browse import Page

COST_TITLES: Mapping[str, str] = {
    "seconds_p50": "seconds a question, p50",
    "seconds_p95": "seconds a question, p95",
    "tokens": "tokens a question",
    "prompt_tokens": "prompt tokens a question",
    "completion_tokens": "completion tokens a question",
    "money": "money a question",
}
SPEED_TITLES: Mapping[str, str] = {
    "ttft_seconds": "time to first token, s",
    "e2e_seconds": "time to last token, s",
    "requests_per_second": "questions a second",
    "output_tokens_per_second": "output tokens a second",
    "input_tokens_per_second": "prompt tokens a second",
}
KIND_TITLES = {LONG: "long context", CACHED: "long context, cached", PIPELINE: "retrieval"}
_POINT = ("arm", "length", "control", "questions", "on_frontier", "dominated_by", "share")


def tradeoff_table(
    curve: Curve, measure: str = "em", costs: Sequence[str] = ("seconds_p50", "tokens")
) -> pd.DataFrame:
    """Return the numbers of `draw_tradeoff`: every arm, and the frontier as a line with its band.

    Parameters
    ----------
    curve
        Of `negfail_nb.curves.tradeoff`.
    measure, costs
        What is drawn against what, a panel a cost. A cost that no arm has, such as tokens of a
        server that does not count them, is left out as long as another one is there.

    Returns
    -------
    pandas.DataFrame
        ``against`` (the cost), ``what`` (``"arm"`` or ``"frontier"``), the columns of
        `Curve.frontier` with ``value`` (percent) and ``cost`` and their ends ``_low`` and
        ``_high``, ``measure``, ``confidence``.

    Raises
    ------
    ValueError
        For an unknown measure or cost, and where no arm has the measure or any of the costs.
    """
    known = [
        cost for cost in costs if cost not in curve.table or curve.table[cost].notna().any()
    ] or list(costs)
    parts = [
        part
        for cost in known
        for part in (_points(curve, measure, cost), _line(curve, measure, cost))
    ]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    table[["value", "value_low", "value_high"]] *= 100
    return table.assign(measure=measure, confidence=curve.settings.confidence)


def _points(curve: Curve, measure: str, cost: str) -> pd.DataFrame:
    rows = curve.frontier(measure, cost)
    names = {
        f"{old}{end}": f"{new}{end}"
        for old, new in ((measure, "value"), (cost, "cost"))
        for end in _ENDS
    }
    return rows.rename(columns=names)[[*_POINT, *names.values()]].assign(against=cost, what="arm")


def _line(curve: Curve, measure: str, cost: str) -> pd.DataFrame:
    if curve.table["control"].all():
        return pd.DataFrame()
    rows = curve.band(measure, cost).rename(columns={"low": "value_low", "high": "value_high"})
    return rows.assign(against=cost, what="frontier")


_ENDS = ("", "_low", "_high")


def split_table(curve: Curve) -> pd.DataFrame:
    """Return where the time of a question goes, an arm a row: means of the seconds of each stage.

    ``retrieval_seconds``; ``model_seconds`` and, where the model says when its first token came,
    its parts ``prefill_seconds`` (waiting and reading) and ``decode_seconds`` (writing); each with
    its interval.
    """
    stages = ("retrieval_seconds", "model_seconds", "prefill_seconds", "decode_seconds")
    names = [f"{name}{end}" for name in stages for end in _ENDS]
    return curve.table[["arm", "length", "questions", "timed", *names]]


def own_table(curve: Curve, measure: str = "sub_em") -> pd.DataFrame:
    """Return one's own long contexts as `draw_published` takes them; no seconds, which are of
    another model.
    """
    long = curve.table[(curve.table["length"] > 0) & curve.table[measure].notna()]
    return pd.DataFrame(
        {"kind": "accuracy", "length": long["length"], "value": 100 * long[measure]}
    )


def show_curve(curve: Curve) -> Styler:
    """Return a curve for reading: measures in percent and costs, each with its interval; columns
    that are empty go.
    """
    table, percent = curve.table, {}
    for measure, title in MEASURE_TITLES.items():
        if measure in ("em", "f1", "joint_em", "joint_f1"):
            percent[f"{title}, %"] = _spans(*(100 * table[f"{measure}{end}"] for end in _ENDS))
    rows = pd.DataFrame(
        {"arm": table["arm"].map(arm_title), "questions": table["questions"], **percent}
    )
    rows["no reply"] = table["questions"] - table["timed"]
    for name, title, form in (
        ("seconds_p50", "seconds, p50", "{:.3g}"),
        ("seconds_p95", "seconds, p95", "{:.3g}"),
        ("prompt_tokens", "prompt tokens", "{:,.0f}"),
        ("cached_tokens", "of them cached", "{:,.0f}"),
        ("completion_tokens", "completion tokens", "{:,.1f}"),
        (
            "money",
            f"{curve.prices.currency if curve.prices else 'money'} for 1,000 questions",
            "{:,.3g}",
        ),
    ):
        scale = 1000 if name == "money" else 1
        rows[title] = _spans(*(scale * table[f"{name}{end}"] for end in _ENDS), form=form)
    return _left(rows.loc[:, [not (rows[name] == "").all() for name in rows]])


def show_speed(table: pd.DataFrame) -> Styler:
    """Return `speed_table` for reading; where a length does not fit, the row says why."""
    rows = pd.DataFrame({"kind": table["kind"].map(KIND_TITLES), "source": table["source"]})
    rows["length"] = [tokens_title(int(length)) for length in table["length"]]
    rows["calls"] = table["calls"]
    rows["at a time"] = ["" if pd.isna(batch) else f"{batch:.0f}" for batch in table["batch"]]
    for name, title in SPEED_TITLES.items():
        rows[title] = _spans(*(table[f"{name}{end}"] for end in _ENDS), form="{:.3g}")
    return _left(rows.assign(note=table["note"]))


def say_tradeoff(table: pd.DataFrame) -> Page:
    """Return what `draw_tradeoff` shows in words: from how many questions, and which arms are on
    the frontier.
    """
    arms, said = table[table["what"] == "arm"], []
    for cost, part in arms.groupby("against", sort=False):
        best = [
            f"{arm_title(r.arm)} ({r.share:.0%} of the draws)"
            for r in part[part["on_frontier"]].itertuples()
        ]
        said.append(f"Against {COST_TITLES[str(cost)]}, no arm beats: {'; '.join(best) or 'none'}.")
    title, level = MEASURE_TITLES[table["measure"].iloc[0]], table["confidence"].iloc[0]
    head = f"{title} of {int(arms['questions'].max()):,} questions, the same ones for every arm, {level:.0%} intervals."
    control = (
        " Hollow: controls, which nobody can have." if arms["control"].astype(bool).any() else ""
    )
    return _said(f"{head} {' '.join(said)} Faint: beaten by another arm.{control}")


def say_split(table: pd.DataFrame) -> Page:
    """Return what `draw_split` shows in words."""
    share = table["retrieval_seconds"] / (table["retrieval_seconds"] + table["model_seconds"])
    if not share.notna().any() or not share.max() > 0:
        return _said(
            f"Mean seconds of {int(table['questions'].max()):,} questions; no arm retrieves.{_reads(table)}"
        )
    most = table.loc[share.idxmax()]
    asked = int(table["questions"].max())
    return _said(
        f"Mean seconds of {asked:,} questions. Retrieval takes at most {share.max():.2%} of the time "
        f"({arm_title(most['arm'])}, {1000 * most['retrieval_seconds']:.1f} ms); the rest is the model's."
        f"{_reads(table)}"
    )


def _reads(table: pd.DataFrame) -> str:
    """What part of the model's time passes before its first tokens, the extremes."""
    share = table["prefill_seconds"] / table["model_seconds"]
    if not share.notna().any():
        return " When first tokens came is not known."
    low, high = table.loc[share.idxmin()], table.loc[share.idxmax()]
    return (
        f" Of it, waiting and reading the prompt take {share.min():.0%} ({arm_title(low['arm'])}) to {share.max():.0%} "
        f"({arm_title(high['arm'])})."
    )


def say_speed(table: pd.DataFrame, even: BreakEven | None = None) -> Page:
    """Return what `draw_speed` shows in words: the break-even length, what was measured, and what
    does not fit.
    """
    predicted, measured = (table[table["source"] == source] for source in ("predicted", "measured"))
    lost = predicted[predicted["note"].fillna("") != ""]
    points = f"{len(measured)} point{'' if len(measured) == 1 else 's'}"
    words = [f"Lines are predicted, from 0 questions; {points} measured."]
    if even and even.tokens is not None:
        ends = " to ".join(
            "longer than any that can be served" if n is None else f"{n:,}"
            for n in (even.low, even.high)
        )
        words.append(
            f"From {even.tokens:,} prompt tokens on ({ends}), one long call takes longer than the pipeline."
        )
    elif even:
        words.append(
            "One long call takes less time than the pipeline at every length that can be served."
        )
    words.append("Bands: what the efficiencies leave open, 95 %.")
    for kind, rows in lost[lost["kind"] != CACHED].groupby("kind", sort=False):
        lengths = ", ".join(tokens_title(int(length)) for length in rows["length"])
        words.append(
            f"{KIND_TITLES[str(kind)].capitalize()} of {lengths} does not fit: {rows['note'].iloc[0]}."
        )
    return _said(" ".join(words))


def say_published(table: pd.DataFrame, own: Sized = ()) -> Page:
    """Return the sources of published points, how each came here, and of how many ``own`` questions
    the others are.
    """
    rows = table.drop_duplicates("name")
    lines = [
        f"<li>{escape(f'{r.name}: {r.measure}. {r.source}; {r.read}.')}</li>"
        for r in rows.itertuples(index=False)
    ]
    ours = f"<p>Own points: {len(own):,} questions.</p>" if len(own) else ""
    return Page(f"{ours}<ul>{''.join(lines)}</ul>")


def _said(words: str) -> Page:
    return Page(f"<p>{escape(words)}</p>")
