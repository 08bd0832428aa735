"""Examples in Arrow files: how they are kept, counted, and given to a trainer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from negfail_nb.prefix.example import IGNORED, Example
from negfail_nb.stored import Codec, Stored

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

TRAINED_ON = ["input_ids", "labels", "id", "question_id"]
NUMBERS = ("label_class", "truncated_turns", "unshown")
TEXTS = ("label", "question", "turns", "thoughts", "verdicts")
WEIGHT = "weight"  # of an example


def as_dataset(examples: Stored) -> datasets.Dataset:
    """Return stored examples as TRL's trainers take them, memory-mapped.

    What a trainer makes of them (packed rows) goes into the hidden folder ``.dataset`` beside
    them, for `datasets` keeps it beside the files that it has read.
    """
    import datasets

    if not examples.files:
        schema = _schema()
        return datasets.Dataset(schema.empty_table().select(TRAINED_ON))
    folder = examples.folder.parent / ".dataset"
    folder.mkdir(exist_ok=True)
    parts = []
    for path in examples.files:
        linked = folder / path.name
        if not linked.is_file():
            _link(path, linked)
        parts.append(datasets.Dataset.from_file(str(linked)).select_columns([*TRAINED_ON, WEIGHT]))
    whole = datasets.concatenate_datasets(parts)
    whole = whole if examples.rows is None else whole.select(examples.rows)
    return _with_weights(whole) if _weighed(examples) else whole.remove_columns(WEIGHT)


def _weighed(examples: Stored) -> bool:
    return any((b.column(WEIGHT).to_numpy() != 1).any() for b in examples.batches(WEIGHT))


def _with_weights(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows with a weight for each token in place of one for each example."""
    import datasets

    features = datasets.Features(
        {**rows.features, "weights": datasets.List(datasets.Value("float32"))}
    )
    del features[WEIGHT]
    return rows.map(_spread, batched=True, remove_columns=WEIGHT, features=features)


def _spread(rows: dict[str, list]) -> dict[str, list]:
    pairs = zip(rows["input_ids"], rows[WEIGHT], strict=True)
    return {"weights": [[weight] * len(ids) for ids, weight in pairs]}


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, place)


def numbers(examples: Stored) -> dict[str, np.ndarray]:
    """Return tokens, trained tokens and the other numbers of each example, by name."""
    import pyarrow.compute as pc

    found: dict[str, list[np.ndarray]] = {name: [] for name in ("tokens", "trained", *NUMBERS)}
    for batch in examples.batches("labels", *NUMBERS):
        labels = batch.column("labels")
        found["tokens"].append(pc.list_value_length(labels).to_numpy())
        sums = np.concatenate([[0], np.cumsum(pc.list_flatten(labels).to_numpy() != IGNORED)])
        ends = np.concatenate([[0], np.cumsum(found["tokens"][-1])])
        found["trained"].append(np.diff(sums[ends]))
        for name in NUMBERS:
            found[name].append(batch.column(name).to_numpy())
    none = np.zeros(0, dtype=np.int64)
    return {n: np.concatenate([none, *parts]) for n, parts in found.items()}


def _schema() -> pa.Schema:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    numbers = ((name, pa.int32()) for name in NUMBERS)
    named = (("id", pa.string()), ("question_id", pa.string()))
    return pa.schema(
        [
            ("input_ids", ids),
            ("labels", ids),
            *named,
            *numbers,
            (WEIGHT, pa.float64()),
            ("texts", pa.binary()),
        ]
    )


def _values(e: Example) -> tuple:
    texts = json.dumps([getattr(e, name) for name in TEXTS]).encode()
    numbers = (getattr(e, name) for name in NUMBERS)
    return e.input_ids, e.labels, e.id, e.question_id, *numbers, e.weight, texts


def _records(batch: pa.RecordBatch) -> Iterator[Example]:
    ids = batch.column("input_ids")
    edges = ids.offsets.to_numpy()
    every = ids.values.to_numpy()
    labels = batch.column("labels")
    starts = labels.offsets.to_numpy()
    marks = labels.values.to_numpy()
    others = (batch.column(n).to_pylist() for n in ("id", "question_id", *NUMBERS, WEIGHT, "texts"))
    for place, (name, question, *known, weight, told) in enumerate(zip(*others, strict=True)):
        label, asked, turns, thoughts, verdicts = json.loads(told)
        yield Example(
            id=name,
            question_id=question,
            input_ids=every[edges[place] : edges[place + 1]].copy(),
            trained=marks[starts[place] : starts[place + 1]] != IGNORED,
            label=label,
            question=asked,
            turns=tuple(map(tuple, turns)),
            thoughts=tuple(thoughts),
            verdicts=tuple(map(tuple, verdicts)),
            weight=weight,
            **dict(zip(NUMBERS, known, strict=True)),
        )


EXAMPLES = Codec(_schema, _values, _records)
