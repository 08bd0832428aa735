"""03: what each arm's label says, what was rendered, and, token by token, what is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import cycle

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from negfail_nb.prefix import Example, Rendered
from negfail_nb.prefix.tokens import decode_after
from negfail_nb.training import Arm
from negfail_nb.views.figures import COLORS, arm_title, new_figure, paper_style
from negfail_nb.views.pages import Page, readable
from negfail_nb.views.widgets import Explorer, choices, explore, slider

SHOWN = 2000  # tokens of one page
# Colour, and beside it what is seen without: a line below, a frame, nothing.
WHOLE_WORDS = "white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere"
STYLES = {
    "trained": "border-bottom:2px solid #1b7a2f;background:#d7ecd9;color:#143d1a",
    "label": "border:1px solid #a36a00;background:#fde9c8;color:#5b3a00;font-weight:bold",
    "masked": "border-bottom:2px solid transparent;color:var(--jp-ui-font-color2,#5f6368)",
}
SAYS = {
    "trained": "underlined: carries loss",
    "label": "framed: the label",
    "masked": "plain: context only",
}


def label_table(arms: Iterable[Arm], question: str, task: str = "qa") -> Styler:
    """Return what each arm writes into the user turn: one row per class, best first."""
    rows = [
        (arm_title(arm.name), kind.name, arm.template.text(question, task, index))
        for arm in arms
        for index, kind in enumerate(arm.template.classes)
    ]
    return readable(pd.DataFrame(rows, columns=["arm", "class", "user turn"]))


def rendered_table(
    data: Mapping[str, Rendered], heldout: Mapping[str, Rendered] | None = None
) -> pd.DataFrame:
    """Return one row per arm: trajectories, tokens, share of trained tokens, what was cut or
    skipped.

    Parameters
    ----------
    data, heldout
        What each arm trains on, and the held-out successes under its own prompt.
    """
    rows = []
    for arm, part in data.items():
        table = part.table()
        row = {
            "arm": arm_title(arm),
            "trajectories": len(table),
            "tokens": int(table["tokens"].sum()),
            "trained": f"{table['trained'].sum() / max(table['tokens'].sum(), 1):.0%}",
            "cut at a turn": int((table["truncated_turns"] > 0).sum()),
            "skipped": len(part.skipped),
        }
        rows.append(row | ({"held-out successes": len(heldout[arm])} if heldout else {}))
    return pd.DataFrame(rows)


def length_table(rendered: pd.DataFrame, bins: int = 40) -> pd.DataFrame:
    """Return a histogram of tokens per trajectory, one column of counts per class.

    Parameters
    ----------
    rendered
        ``data.table()`` of what was rendered: columns ``class`` and ``tokens``.
    bins
        Number of equal bins from 0 to the longest trajectory.
    """
    edges = np.unique(np.linspace(0, rendered["tokens"].max(), bins + 1).round().astype(int))
    table = pd.DataFrame({"from": edges[:-1], "to": edges[1:]})
    for name in sorted(rendered["class"].unique()):
        table[name] = np.histogram(rendered.loc[rendered["class"] == name, "tokens"], edges)[0]
    return table


@paper_style
def draw_lengths(table: pd.DataFrame, gain: float) -> Figure:
    """Draw `length_table`, stacked; ``gain`` is how many times more tokens padded batches would
    process.
    """
    figure, axes = new_figure(height=2.3)
    below = np.zeros(len(table))
    hatches = cycle(("", "///", "...", "xxx", "--"))
    for name, color, hatch in zip(table.columns[2:], cycle(COLORS), hatches, strict=False):
        look = {"color": color, "hatch": hatch, "edgecolor": "white", "label": name}
        width = table["to"] - table["from"]
        axes.bar(table["from"], table[name], width, below, align="edge", **look)
        below = below + table[name].to_numpy()
    axes.set(xlabel="tokens of a trajectory", ylabel="trajectories")
    axes.set_title(f"Padded to batches, {gain:.1f} times the tokens")
    axes.legend(title="label")
    return figure


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an example: its place, id, text, ``kind`` (trained, masked or label), and, where
    steps were judged, ``why``.
    """

    place: int
    id: int
    text: str
    kind: str
    why: str = ""


def tokens_of(rendered: Rendered, index: int) -> list[Token]:
    """Return the tokens of an example. A token of the question that also holds a bit of the label
    counts as label.
    """
    example = rendered[index]
    ids = example.input_ids.tolist()
    trained = example.trained
    texts = [
        decode_after(rendered.tokenizer, ids[max(0, i - 4) : i], ids[i : i + 1])
        for i in range(len(ids))
    ]
    # The label stands before what the agent wrote.
    asked = int(trained.argmax()) if trained.any() else len(ids)
    label = _label_places("".join(texts[:asked]), example.label, example.question)
    tokens = []
    begin = 0
    why = [""] * len(ids)
    for first, last, verdict, reason in example.verdicts:
        why[first:last] = [f"{verdict}: {reason}"] * (last - first)
    for place, (number, text) in enumerate(zip(ids, texts, strict=True)):
        inside = any(begin < end and start < begin + len(text) for start, end in label)
        kind = "trained" if trained[place] else "label" if inside and text else "masked"
        tokens.append(Token(place, number, text, kind, why[place]))
        begin += len(text)
    return tokens


def _label_places(text: str, label: str, question: str) -> list[tuple[int, int]]:
    """Where the label's own words stand, as (begin, end) in characters: the labelled question
    without the question.
    """
    at = text.rfind(label) if label else -1
    if at < 0:
        return []
    before, _, behind = label.partition(question)
    end = at + len(label)
    places = ((at, at + len(before)), (end - len(behind), end))
    return [place for place in places if place[0] < place[1]]


def show_tokens(rendered: Rendered, index: int, begin: int = 0) -> Page:
    """Return the tokens of one example, each with its id and place on hover, counts above. Of very
    long examples only a part, from ``begin`` on, is rendered, and the page says so.
    """
    tokens = tokens_of(rendered, index)
    example = rendered[index]
    part = tokens[begin : begin + SHOWN]
    counts = Counter(token.kind for token in tokens)
    legend = " &nbsp; ".join(
        f'<span style="{style}">{kind}</span> {counts[kind]:,} <small>({SAYS[kind]})</small>'
        for kind, style in STYLES.items()
    )
    about = f"class {escape(rendered.classes[example.label_class])}, {len(tokens):,} tokens"
    about += f", loss times {example.weight:.2f}" if example.weight != 1 else ""
    left = f"; shown are {begin:,} to {begin + len(part):,}" if len(part) < len(tokens) else ""
    body = "".join(
        f'<span style="{STYLES[t.kind]}" title="{_title(t)}">{escape(t.text) or "·"}</span>'
        for t in part
    )
    return Page(
        f'<div style="font-family:sans-serif">{escape(example.id)}: {about}{left}<br>{legend}</div>'
        f"{_steps(example)}"
        f'<pre style="{WHOLE_WORDS};line-height:1.7">{body}</pre>'
    )


def _title(token: Token) -> str:
    """What is under the pointer; text of a log stands in it."""
    about = f"{token.kind}, token {token.place}, id {token.id}"
    return f"{about}; {escape(token.why)}" if token.why else about


def _steps(example: Example) -> str:
    """The agent's turns with their verdicts, where steps were judged; else nothing."""
    rows = [
        (number, "trained" if example.trained[first:last].any() else "masked", verdict, reason)
        for number, (first, last, verdict, reason) in enumerate(example.verdicts, 1)
    ]
    if not rows:
        return ""
    table = pd.DataFrame(rows, columns=["turn", "loss", "verdict", "why"])
    return readable(table).to_html()


def browse_masks(data: Mapping[str, Rendered]) -> Explorer:
    """Return a viewer of what each arm is trained on: choose the arm, the run, and the first
    token.
    """
    last = max(max(len(part) for part in data.values()) - 1, 0)
    longest = max((len(e.input_ids) for part in data.values() for e in part.examples), default=1)
    return explore(
        lambda arm, run, token: show_tokens(data[arm], min(run, len(data[arm]) - 1), token),
        arm=choices("arm", list(data), value=list(data)[-1]),
        run=slider("run", 0, 0, last),
        token=widgets.BoundedIntText(max=longest - 1, description="from token"),
    )
