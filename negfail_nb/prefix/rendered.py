"""What rendering gives: examples, what was skipped, and a check of the mask."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from negfail_nb.prefix.tokens import vocabulary_hash
from negfail_nb.prefix.view import ExampleView, decode_after, view_example
from negfail_nb.trajectory import Problem

if TYPE_CHECKING:
    import datasets
    import pandas as pd

ABOUT = ("template", "classes", "end_token", "inference", "thoughts", "chat_template", "chat_name")
PLAIN = {
    "id": "string",
    "question_id": "string",
    "label_class": "int32",
    "truncated_turns": "int32",
    "unshown": "int32",
    "label": "string",
    "question": "string",
}
EMPTY_THOUGHT = re.compile(r"<(\w+)>\s*</\1>")
VARYING = re.compile(
    r"(?<=^message) -?\d+|; it has \d+$"
)  # what differs in one reason from record to record
SHOWN, LONGEST_REASON = 2, 160  # reasons in a summary, and their characters
IGNORED = -100  # the label that PyTorch's cross-entropy leaves out


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One trajectory as it is trained on.

    Attributes
    ----------
    id, question_id
        The trajectory's.
    input_ids
        Token ids, int32, shape (tokens,).
    trained
        Which tokens carry loss, bool, shape (tokens,).
    label_class
        Index of its class in the template; 0 is the best.
    truncated_turns
        Assistant turns cut off to keep within ``max_tokens``.
    label, question
        The labelled text in the question turn, and the question within it.
    turns
        What the assistant wrote in each trained turn: its content, then the names of the tools
        called.
    thoughts
        The thought of each trained turn, if thoughts are trained; empty for turns without one.
    unshown
        How many of its turns had a thought that was left out.
    """

    id: str
    question_id: str
    input_ids: np.ndarray
    trained: np.ndarray
    label_class: int
    truncated_turns: int
    label: str
    question: str
    turns: tuple[tuple[str, ...], ...]
    thoughts: tuple[str, ...] = ()
    unshown: int = 0

    def __repr__(self) -> str:
        """Return the counts; `Rendered.show` shows the text."""
        tokens, trained = len(self.input_ids), int(self.trained.sum())
        return f"Example({self.id!r}: {tokens} tokens, {trained} of them trained in {len(self.turns)} turns)"

    @property
    def labels(self) -> np.ndarray:
        """The ids of tokens that carry loss and -100 elsewhere, int32, shape (tokens,)."""
        return np.where(self.trained, self.input_ids, IGNORED).astype(np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Rendered trajectories.

    Attributes
    ----------
    examples
        In the order of the trajectories.
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

    examples: tuple[Example, ...]
    skipped: tuple[Problem, ...] = ()
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
        tokens = sum(len(e.input_ids) for e in self.examples)
        trained = sum(int(e.trained.sum()) for e in self.examples)
        reasons = [f"{count} times: {reason}" for reason, count in self.skip_reasons().items()]
        more = f"; and {len(reasons) - SHOWN} more reasons" if len(reasons) > SHOWN else ""
        classes = ", ".join(self.classes) or "none"
        lines = [
            f"Rendered({len(self)} examples, {tokens:,} tokens, {trained:,} of them trained)",
            f"  label template {self.template!r}, classes {classes}; thoughts: {self.thoughts}",
        ]
        if unshown := [e.unshown for e in self.examples if e.unshown]:
            lines.append(
                f"  {sum(unshown)} turns of {len(unshown)} examples had a thought, which is left out"
            )
        if self.skipped:
            why = "; ".join(reason[:LONGEST_REASON] for reason in reasons[:SHOWN])
            lines.append(f"  {len(self.skipped)} skipped; {why}{more}")
        return "\n".join(lines)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def dataset(self) -> datasets.Dataset:
        """Return the examples as TRL's trainers take them: input_ids, labels, id, question_id."""
        import datasets
        import pyarrow as pa

        table = pa.table(
            {
                "input_ids": _column([e.input_ids for e in self.examples], pa.int32()),
                "labels": _column([e.labels for e in self.examples], pa.int32()),
                "id": pa.array([e.id for e in self.examples], pa.string()),
                "question_id": pa.array([e.question_id for e in self.examples], pa.string()),
            }
        )
        return datasets.Dataset(table)

    def table(self) -> pd.DataFrame:
        """Return a row an example: id, question_id, class, tokens, trained, truncated_turns."""
        import pandas as pd

        rows = [
            (
                e.id,
                e.question_id,
                self._class(e),
                len(e.input_ids),
                int(e.trained.sum()),
                e.truncated_turns,
            )
            for e in self.examples
        ]
        return pd.DataFrame(
            rows, columns=["id", "question_id", "class", "tokens", "trained", "truncated_turns"]
        )

    def skip_reasons(self) -> dict[str, int]:
        """Return why trajectories gave no example, with counts, most frequent first.

        The index of a message and the length of a trajectory are left out, so that one reason is
        counted as one.
        """
        return dict(
            Counter(VARYING.sub("", problem.reason) for problem in self.skipped).most_common()
        )

    def show(self, index: int) -> ExampleView:
        """Return one example as it looks in a notebook: what is trained underlined, the label bold."""
        example = self.examples[index]
        return view_example(example, self.tokenizer, self._class(example))

    def save(self, folder: str | Path) -> Path:
        """Write ``examples.parquet``, then ``rendered.json``; without the second a folder is not
        whole.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rendered.json").unlink(missing_ok=True)
        columns = {name: [getattr(e, name) for e in self.examples] for name in PLAIN}
        table = pa.table(
            {
                "input_ids": _column([e.input_ids for e in self.examples], pa.int32()),
                "trained": _column([e.trained for e in self.examples], pa.bool_()),
                "turns": pa.array(
                    [e.turns for e in self.examples], pa.list_(pa.list_(pa.string()))
                ),
                "thoughts": pa.array([e.thoughts for e in self.examples], pa.list_(pa.string())),
                **{
                    name: pa.array(values, pa.type_for_alias(PLAIN[name]))
                    for name, values in columns.items()
                },
            }
        )
        pq.write_table(table, folder / "examples.parquet")
        about = {name: getattr(self, name) for name in ABOUT} | {
            "skipped": [asdict(p) for p in self.skipped]
        }
        about |= {
            "tokenizer": self.tokenizer.name_or_path,
            "end_id": self._end_id,
            "examples": len(self),
        }
        about["vocabulary_sha256"] = vocabulary_hash(self.tokenizer)
        part = folder / "rendered.json.part"
        part.write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        part.replace(folder / "rendered.json")
        return folder

    @classmethod
    def load(cls, folder: str | Path, tokenizer: Any) -> Rendered:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            Where the folder is not whole, or the tokenizer is not the one that made the ids.
        """
        import pyarrow.parquet as pq

        folder = Path(folder)
        if not (folder / "rendered.json").is_file():
            raise ValueError(
                f"{folder}: has no rendered.json; it was not written to its end, render again"
            )
        about = json.loads((folder / "rendered.json").read_text(encoding="utf-8"))
        made_by, end_id = about.pop("tokenizer"), about.pop("end_id")
        vocabulary = about.pop("vocabulary_sha256", "")
        if tokenizer.convert_tokens_to_ids(about["end_token"]) != end_id:
            raise ValueError(
                f"{folder}: was rendered with tokenizer {made_by!r}, where {about['end_token']!r} has the id {end_id}; "
                f"{tokenizer.name_or_path!r} is another one, render again"
            )
        if vocabulary and vocabulary != vocabulary_hash(tokenizer):
            raise ValueError(
                f"{folder}: was rendered with tokenizer {made_by!r}; {tokenizer.name_or_path!r} has other tokens, so "
                "it is another one, render again"
            )
        count = about.pop("examples")
        columns = pq.read_table(folder / "examples.parquet")
        if columns.num_rows != count:
            raise ValueError(
                f"{folder}: examples.parquet has {columns.num_rows} rows, not {count}; render again"
            )
        about |= {
            "skipped": tuple(Problem(**p) for p in about["skipped"]),
            "classes": tuple(about["classes"]),
        }
        return cls(examples=tuple(_examples(columns)), tokenizer=tokenizer, **about)

    @property
    def _end_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.end_token)

    def _class(self, example: Example) -> str:
        return self.classes[example.label_class] if self.classes else str(example.label_class)


def check_mask(rendered: Rendered, index: int) -> tuple[str, ...]:
    """Decode what carries loss and compare it with what the assistant wrote.

    Parameters
    ----------
    rendered, index
        Which example to check.

    Returns
    -------
    tuple of str
        What differs, in words; empty where the mask is right.

    Notes
    -----
    Only the ids and the mask are read; what was written is the record's. White space at the ends of
    a turn may differ, for many templates trim it. Any other text of the template with loss is a
    difference, but for what makes a call of a tool, or surrounds a thought that is trained. What
    the tokenizer itself does not keep (an unknown character) shows up here.
    """
    example, tokenizer = rendered.examples[index], rendered.tokenizer
    stretches = _stretches(example, rendered._end_id)
    whole = [
        stretch for stretch in stretches if example.input_ids[stretch[1] - 1] == rendered._end_id
    ]
    ids = example.input_ids.tolist()
    texts = {
        s: decode_after(tokenizer, ids[max(0, s[0] - 4) : s[0]], ids[slice(*s)]) for s in stretches
    }
    differences = [
        f"{example.id}: trained without an end token: {texts[stretch]!r}"
        for stretch in stretches
        if stretch not in whole
    ]
    if len(whole) != len(example.turns):
        turns = (
            f"{len(whole)} trained turns with an end token, {len(example.turns)} in the trajectory"
        )
        return (f"{example.id}: {turns}", *differences)
    thoughts = example.thoughts or ("",) * len(whole)
    for stretch, turn, thought in zip(whole, example.turns, thoughts, strict=True):
        text = texts[stretch].removesuffix(rendered.end_token)
        if not _matches(text, thought, *turn):
            written = " ".join(filter(None, (thought, *turn)))
            differences.append(f"{example.id}: trained {text!r}, written {written!r}")
    return tuple(differences)


def _stretches(example: Example, end_id: int) -> list[tuple[int, int]]:
    """Return start and end of each stretch of trained tokens, cut behind each end token."""
    trained = np.concatenate([[False], example.trained, [False]])
    edges = np.flatnonzero(np.diff(trained)).reshape(-1, 2).tolist()
    ends = [int(i) + 1 for i in np.flatnonzero(example.trained & (example.input_ids == end_id))]
    found = []
    for first, last in edges:
        cuts = [first, *(i for i in ends if first < i < last), last]
        found += list(zip(cuts, cuts[1:], strict=False))
    return found


MARK = r"(?:<[^<>\n]{1,40}>|\[[^\[\]\n]{1,40}\])?"  # what may surround a thought: <think>, [THINK], <|START_THINKING|>


def _matches(text: str, thought: str, content: str, *calls: str) -> bool:
    """Whether a trained text is what was written: the thought in its marks, the content, then the
    calls.
    """
    parts = [rf"{MARK}\s*{re.escape(thought.strip())}\s*{MARK}"] if thought.strip() else []
    parts += [re.escape(content.strip())] if content.strip() else []
    called = "".join(f".*?{re.escape(name)}" for name in calls) + (".*" if calls else "")
    found = re.fullmatch(r"\s*".join([*parts, called]), text.strip(), re.DOTALL)
    return found is not None and not (
        EMPTY_THOUGHT.match(text.strip()) and not EMPTY_THOUGHT.match(content.strip())
    )


def _column(arrays: Sequence[np.ndarray], kind: Any) -> Any:
    """Return arrays of any lengths as one Arrow list column, without a Python number a token."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays], dtype=np.int64)])
    values = pa.array(
        np.concatenate(arrays) if len(arrays) else np.array([], dtype=np.int32), type=kind
    )
    if offsets[-1] < 2**31:
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


def _examples(columns: Any) -> list[Example]:
    rows = columns.num_rows
    names = [name for name in columns.column_names if name in PLAIN]
    plain = {name: columns[name].to_pylist() for name in names}
    ids, trained = _arrays(columns["input_ids"], np.int32), _arrays(columns["trained"], bool)
    turns = columns["turns"].to_pylist()
    thoughts = (
        columns["thoughts"].to_pylist() if "thoughts" in columns.column_names else [()] * rows
    )
    return [
        Example(
            input_ids=ids[i],
            trained=trained[i],
            turns=tuple(tuple(turn) for turn in turns[i]),
            thoughts=tuple(thoughts[i]),
            **{name: plain[name][i] for name in names},
        )
        for i in range(rows)
    ]


def _arrays(column: Any, kind: Any) -> list[np.ndarray]:
    arrays = []
    for chunk in column.chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False).astype(kind)
        arrays += (
            np.split(values, np.cumsum(chunk.value_lengths().to_numpy())[:-1]) if len(chunk) else []
        )
    return arrays
