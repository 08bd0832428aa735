"""Token by token, what is trained: trained, masked and label tokens, told apart by colour and
without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from negfail_nb.prefix.tokens import decode_after
from negfail_nb.views.browse import Explorer, Page, explore

if TYPE_CHECKING:
    from negfail_nb.prefix import Rendered

SHOWN = 2000  # tokens of one page
# Colour, and beside it what is seen without: a line below, a frame, nothing.
STYLES = {
    "trained": "border-bottom:2px solid #1b7a2f;background:#d7ecd9;color:#143d1a",
    "label": "border:1px solid #a36a00;background:#fde9c8;color:#5b3a00;font-weight:bold",
    "masked": "border-bottom:2px solid transparent;color:#5f6368",
}
SAYS = {
    "trained": "underlined: carries loss",
    "label": "framed: the label",
    "masked": "plain: context only",
}


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an example: its place, id, text, and ``kind``: trained, masked or label."""

    place: int
    id: int
    text: str
    kind: str


def tokens_of(rendered: Rendered, index: int) -> list[Token]:
    """Return the tokens of an example. A token of the question that also holds a bit of the label
    counts as label.
    """
    example = rendered[index]
    ids, trained = example.input_ids.tolist(), example.trained
    texts = [
        decode_after(rendered.tokenizer, ids[max(0, i - 4) : i], ids[i : i + 1])
        for i in range(len(ids))
    ]
    asked = (
        int(trained.argmax()) if trained.any() else len(ids)
    )  # the label stands before what the agent wrote
    label = _label_places("".join(texts[:asked]), example.label, example.question)
    tokens, begin = [], 0
    for place, (number, text) in enumerate(zip(ids, texts, strict=True)):
        inside = any(begin < end and start < begin + len(text) for start, end in label)
        kind = "trained" if trained[place] else "label" if inside and text else "masked"
        tokens.append(Token(place, number, text, kind))
        begin += len(text)
    return tokens


def show_tokens(rendered: Rendered, index: int, begin: int = 0) -> Page:
    """Return the tokens of one example as a page: each with its id and place on hover, counts
    above.

    Parameters
    ----------
    rendered
        Of `negfail_nb.render`.
    index
        Which example.
    begin
        First token shown; of very long examples one page of tokens is rendered, and the page says
        so.
    """
    tokens = tokens_of(rendered, index)
    part = tokens[begin : begin + SHOWN]
    counts = Counter(token.kind for token in tokens)
    legend = " &nbsp; ".join(
        f'<span style="{STYLES[kind]}">{kind}</span> {counts[kind]:,} <small>({SAYS[kind]})</small>'
        for kind in STYLES
    )
    example = rendered[index]
    head = f"{escape(example.id)}: class {escape(rendered.classes[example.label_class])}, {len(tokens):,} tokens"
    cut = f"; shown are {begin:,} to {begin + len(part):,}" if len(part) < len(tokens) else ""
    body = "".join(map(_span, part))
    return Page(
        f'<div style="font-family:sans-serif">{head}{cut}<br>{legend}</div>'
        f'<pre style="white-space:pre-wrap;line-height:1.7">{body}</pre>'
    )


def browse_masks(data: Mapping[str, Any]) -> Explorer:
    """Return a viewer of what each arm is trained on: choose the arm, the run, and the first token.

    Parameters
    ----------
    data
        Of `negfail_nb.walk.Walk.prefix`: the rendered runs of each arm, as ``train``.
    """
    most = max(len(part.train) for part in data.values())
    longest = max(
        (len(e.input_ids) for part in data.values() for e in part.train.examples), default=1
    )
    return explore(
        lambda arm, run, token: show_tokens(
            data[arm].train, min(run, len(data[arm].train) - 1), token
        ),
        arm=widgets.Dropdown(options=list(data), value=list(data)[-1], description="arm"),
        run=widgets.IntSlider(
            value=0, min=0, max=max(most - 1, 0), description="run", continuous_update=False
        ),
        token=widgets.BoundedIntText(value=0, min=0, max=longest - 1, description="from token"),
    )


def _label_places(text: str, label: str, question: str) -> list[tuple[int, int]]:
    """Where the label's own words stand, as (begin, end) in characters: the labelled question
    without the question.
    """
    at = text.rfind(label) if label else -1
    if at < 0:
        return []
    before, _, behind = label.partition(question)
    end = at + len(label)
    return [
        span for span in ((at, at + len(before)), (end - len(behind), end)) if span[0] < span[1]
    ]


def _span(token: Token) -> str:
    text = escape(token.text) if token.text else "·"
    about = f"{token.kind}, token {token.place}, id {token.id}"
    return f'<span style="{STYLES[token.kind]}" title="{about}">{text}</span>'
