"""What `render` returns: examples of token ids and a loss mask, and what was skipped."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from negfail_nb.prefix.example import Example
from negfail_nb.prefix.example_files import NUMBERS, as_dataset, numbers
from negfail_nb.prefix.tokens import decode_after, vocabulary_hash
from negfail_nb.stored import Stored
from negfail_nb.trajectory import Problem

if TYPE_CHECKING:
    import datasets
    import pandas as pd

ABOUT = ("template", "classes", "end_token", "inference", "thoughts", "chat_template", "chat_name")
# What differs in one reason from record to record.
VARYING = re.compile(r"(?<=^message) -?\d+|; it has \d+$")
SHOWN, LONGEST_REASON = 2, 160  # reasons in a summary, and their characters
STYLES = {
    "trained": "text-decoration:underline;background:#d7ecd9;color:#143d1a",
    "masked": "color:#5f6368",
    "label": "font-weight:bold;background:#fde9c8;color:#5b3a00",
}


@dataclass(frozen=True, slots=True)
class ExampleView:
    """An example to look at: how it is introduced, and ``parts`` of (text, kind).

    The kinds are ``trained``, ``masked`` and ``label``.
    """

    head: str
    parts: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        marks = {"trained": "[[{}]]", "label": "**{}**", "masked": "{}"}
        return self.head + "\n" + "".join(marks[kind].format(text) for text, kind in self.parts)

    def _repr_html_(self) -> str:
        """Colours for those who see them; underline and bold say the same."""
        spans = [f'<span style="{STYLES[kind]}">{escape(text)}</span>' for text, kind in self.parts]
        legend = " ".join(f'<span style="{style}">{kind}</span>' for kind, style in STYLES.items())
        return (
            f'<div><div style="font-family:sans-serif">{escape(self.head)} &nbsp; {legend}</div>'
            f'<pre style="white-space:pre-wrap">{"".join(spans)}</pre></div>'
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Rendered trajectories.

    Attributes
    ----------
    examples
        In the order of the trajectories: a tuple, or read from files if `render` was given a
        folder.
    skipped
        Trajectories that gave no example, with the reason.
    tokenizer
        The one that made the ids.
    template, classes
        Name of the label template, and of its classes from best to worst.
    end_token
        What ends an assistant turn, and must end generation.
    inference
        Whether every example has the prompt of inference.
    thoughts
        Where the runs' private thoughts went, as in `PrefixSettings`.
    chat_template, chat_name
        The text of the chat template that made them, and the name that it was set by; empty: the
        tokenizer's own.
    """

    examples: Sequence[Example]
    skipped: Sequence[Problem] = ()
    tokenizer: Any = field(repr=False)
    template: str = ""
    classes: tuple[str, ...] = ()
    end_token: str = ""
    inference: bool = False
    thoughts: str = "neither"
    chat_template: str = ""
    chat_name: str = ""

    def __repr__(self) -> str:
        """Return the counts, in at most five lines."""
        known = self._numbers()
        tokens, trained = int(known["tokens"].sum()), int(known["trained"].sum())
        classes = ", ".join(self.classes) or "none"
        lines = [
            f"Rendered({len(self)} examples, {tokens:,} tokens, {trained:,} of them trained)",
            f"  label template {self.template!r}, classes {classes}; thoughts: {self.thoughts}",
        ]
        if (unshown := known["unshown"]).any():
            turns = f"{unshown.sum()} turns of {np.count_nonzero(unshown)} examples"
            lines.append(f"  {turns} had a thought, which is left out")
        if len(self.skipped):
            reasons = [f"{count} times: {reason}" for reason, count in self.skip_reasons().items()]
            why = "; ".join(reason[:LONGEST_REASON] for reason in reasons[:SHOWN])
            more = f"; and {len(reasons) - SHOWN} more reasons" if len(reasons) > SHOWN else ""
            lines.append(f"  {len(self.skipped)} skipped; {why}{more}")
        return "\n".join(lines)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    @property
    def content(self) -> str:
        """SHA-256 over what training and evaluation see: examples in order, tokenizer and chat."""
        about = [getattr(self, name) for name in ABOUT] + [vocabulary_hash(self.tokenizer)]
        digest = hashlib.sha256(json.dumps(about).encode())
        for e in self.examples:
            digest.update(f"{e.id}\0{e.question_id}\0{len(e.input_ids)}\0".encode())
            digest.update(e.input_ids.astype("<i4").tobytes() + np.packbits(e.trained).tobytes())
            if e.weight != 1:
                digest.update(f"times {e.weight!r}".encode())
        return digest.hexdigest()

    def dataset(self) -> datasets.Dataset:
        """Return the examples as TRL's trainers take them: input_ids, labels, id, question_id.

        If any counts for less than 1, also ``weights``: what the loss of each token is multiplied
        by.
        """
        import datasets
        import pyarrow as pa

        if isinstance(self.examples, Stored):
            return as_dataset(self.examples)
        columns = {
            "input_ids": _column([e.input_ids for e in self.examples], pa.int32()),
            "labels": _column([e.labels for e in self.examples], pa.int32()),
            "id": pa.array([e.id for e in self.examples], pa.string()),
            "question_id": pa.array([e.question_id for e in self.examples], pa.string()),
        }
        if any(e.weight != 1 for e in self.examples):
            columns["weights"] = _column([e.weights for e in self.examples], pa.float32())
        return datasets.Dataset(pa.table(columns))

    def table(self) -> pd.DataFrame:
        """Return a row per example: id, question_id, class, tokens, trained, truncated_turns."""
        import pandas as pd

        known = self._numbers()
        classes = [self._class(number) for number in known["label_class"].tolist()]
        numbers = {name: known[name] for name in ("tokens", "trained", "truncated_turns")}
        names = {name: self._names(name) for name in ("id", "question_id")}
        return pd.DataFrame({**names, "class": classes, **numbers})

    def skip_reasons(self) -> dict[str, int]:
        """Return why trajectories gave no example, with counts, most frequent first.

        The index of a message and the length of a trajectory are left out, so that one reason is
        counted as one.
        """
        reasons = Counter(VARYING.sub("", problem.reason) for problem in self.skipped)
        return dict(reasons.most_common())

    def show(self, index: int) -> ExampleView:
        """Return one example to look at: what is trained underlined, the label bold."""
        e = self.examples[index]
        ids = e.input_ids.tolist()
        edges = np.flatnonzero(np.diff(e.trained)) + 1
        borders = [0, *edges.tolist(), len(ids)]
        parts: list[tuple[str, str]] = []
        label_before, _, label_behind = e.label.partition(e.question or e.label)
        for start, end in zip(borders, borders[1:], strict=False):
            text = decode_after(self.tokenizer, ids[max(0, start - 4) : start], ids[start:end])
            # The label is what the template put around the question; it stands in one prompt.
            first = not any(kind == "label" for _, kind in parts)
            before, found, behind = text.rpartition(e.label or "\0") if first else (text, "", "")
            if e.trained[start] or not found:
                parts.append((text, "trained" if e.trained[start] else "masked"))
                continue
            parts += [(before, "masked"), (label_before, "label"), (e.question, "masked")]
            parts += [(label_behind, "label"), (behind, "masked")]
        cut = f", {e.truncated_turns} turns cut off" if e.truncated_turns else ""
        counts = f"{len(ids)} tokens, {e.trained.sum()} trained{cut}"
        head = f"{e.id}: class {self._class(e.label_class)}, {counts}"
        return ExampleView(head, tuple(part for part in parts if part[0]))

    @property
    def end_id(self) -> int:
        """Id of the end token."""
        return self.tokenizer.convert_tokens_to_ids(self.end_token)

    def _class(self, number: int) -> str:
        return self.classes[number] if self.classes else str(number)

    def _names(self, column: str) -> list[str]:
        if isinstance(self.examples, Stored):
            return list(self.examples.column(column))
        return [getattr(example, column) for example in self.examples]

    def _numbers(self) -> dict[str, np.ndarray]:
        """Numbers of each example, by name."""
        if isinstance(self.examples, Stored):
            return numbers(self.examples)
        counts = [(len(e.input_ids), int(e.trained.sum())) for e in self.examples]
        tokens, trained = np.array(counts, dtype=np.int64).reshape(-1, 2).T
        others = {n: [getattr(e, n) for e in self.examples] for n in NUMBERS}
        arrays = {name: np.array(column, dtype=np.int64) for name, column in others.items()}
        return {"tokens": tokens, "trained": trained, **arrays}


def _column(arrays: Sequence[np.ndarray], kind: Any) -> Any:
    """Arrays of any lengths as one Arrow list column, without a Python number per token."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays], dtype=np.int64)])
    joined = np.concatenate(arrays) if len(arrays) else np.array([], dtype=np.int32)
    values = pa.array(joined, type=kind)
    if offsets[-1] < 2**31:
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)
