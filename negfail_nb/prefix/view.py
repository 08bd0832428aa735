"""A picture of an example: what is trained, what is only context, and where the label stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from negfail_nb.prefix.rendered import Example

STYLES = {
    "trained": "text-decoration:underline;background:#d7ecd9;color:#143d1a",
    "masked": "color:#5f6368",
    "label": "font-weight:bold;background:#fde9c8;color:#5b3a00",
}


@dataclass(frozen=True, slots=True)
class ExampleView:
    """An example to look at. ``parts`` are (text, kind), kind one of trained, masked, label."""

    parts: tuple[tuple[str, str], ...]
    example: Example
    label_class: str

    @property
    def counts(self) -> str:
        """The numbers in words."""
        tokens, trained = len(self.example.input_ids), int(self.example.trained.sum())
        cut = (
            f", {self.example.truncated_turns} turns cut off"
            if self.example.truncated_turns
            else ""
        )
        return (
            f"{self.example.id}: class {self.label_class}, {tokens} tokens, {trained} trained{cut}"
        )

    def __repr__(self) -> str:
        marks = {"trained": "[[{}]]", "label": "**{}**", "masked": "{}"}
        return self.counts + "\n" + "".join(marks[kind].format(text) for text, kind in self.parts)

    def _repr_html_(self) -> str:
        """Colours for those who see them; underline and bold say the same."""
        body = "".join(
            f'<span style="{STYLES[kind]}">{escape(text)}</span>' for text, kind in self.parts
        )
        legend = " ".join(f'<span style="{STYLES[kind]}">{kind}</span>' for kind in STYLES)
        return (
            f'<div><div style="font-family:sans-serif">{escape(self.counts)} &nbsp; {legend}</div>'
            f'<pre style="white-space:pre-wrap">{body}</pre></div>'
        )


def view_example(example: Example, tokenizer: Any, label_class: str) -> ExampleView:
    """Return an example as stretches of text, each trained, masked, or part of the label."""
    return ExampleView(tuple(_parts(example, spans(example, tokenizer))), example, label_class)


def spans(example: Example, tokenizer: Any) -> list[tuple[str, bool]]:
    """Return the text in stretches, each with whether it is trained."""
    borders = np.flatnonzero(np.diff(example.trained)) + 1
    edges = [0, *borders.tolist(), len(example.input_ids)]
    ids = example.input_ids.tolist()
    return [
        (
            decode_after(tokenizer, ids[max(0, start - 4) : start], ids[start:end]),
            bool(example.trained[start]),
        )
        for start, end in zip(edges, edges[1:], strict=False)
    ]


def decode_after(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """Return the text of ids that follow others; a tokenizer may drop a space at the start of a
    text.
    """
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    head = tokenizer.decode(before, **options)
    return (
        tokenizer.decode(before + ids, **options)[len(head) :]
        if before
        else tokenizer.decode(ids, **options)
    )


def _parts(example: Example, stretches: list[tuple[str, bool]]) -> Iterator[tuple[str, str]]:
    """Yield (text, kind); the label is what the template put around the question."""
    before, _, behind = example.label.partition(example.question)
    found = False
    for text, trained in stretches:
        at = -1 if trained or found else text.rfind(example.label)
        if at < 0:
            yield text, "trained" if trained else "masked"
            continue
        found = True
        end = at + len(example.label)
        pieces = (
            (text[:at], "masked"),
            (before, "label"),
            (example.question, "masked"),
            (behind, "label"),
        )
        yield from ((piece, kind) for piece, kind in (*pieces, (text[end:], "masked")) if piece)
