"""Multi-hop questions with their records' passages: data sets by name, files, or generated."""

from __future__ import annotations

import html
import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.benchmarking.layouts import open_records, read_question
from negfail_nb.benchmarking.records import Passage, Question
from negfail_nb.content import fingerprint
from negfail_nb.data_sets import DataSet, data_home, data_sets, hub_rows, local_files, read_data_set
from negfail_nb.logs.jsontext import explain
from negfail_nb.logs.reading import UNREADABLE
from negfail_nb.trajectory import Problem

if TYPE_CHECKING:
    import pandas as pd

CONFIGS = ("distractor", "fullwiki")
PARTS = {"train": "train", "validation": "test", "dev": "test", "test": "test"}  # by split
POCKET = "pocket"
_POCKET_QUESTIONS = 200
_POCKET_SPLITS = {s: "heldout" for s in ("validation", "test", "heldout")} | {"train": "train"}
# Half of one hop: what the small model can read. No comparisons: it answers none, even with the
# gold passages alone, so one could see nothing in them.
_POCKET_FORMS = ("single", "bridge-2")
_NAMED, _SHOWN = 3, 20  # problems that an error and a notebook show

logger = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True, repr=False)
class Questions(Sequence[Question]):
    """A sequence of questions, with the passages of their records, and what could not be read.

    Attributes
    ----------
    items
        The questions.
    passages
        Those of all records, each (title, text) once, in the order of their first occurrence.
    contexts
        For each question, the numbers of its own passages among ``passages``, in its record's
        order.
    problems
        Records that could not be read, or that repeat the id of another.
    """

    items: tuple[Question, ...]
    passages: tuple[Passage, ...] = ()
    contexts: tuple[tuple[int, ...], ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def content(self) -> str:
        """SHA-256 over the questions and their passages."""
        return fingerprint(
            [q.to_dict() for q in self.items] + [[p.title, p.sentences] for p in self.passages]
        )

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Question]:
        return iter(self.items)

    def __getitem__(self, index):
        """Return one question, or for a slice `Questions` with the passages of their own."""
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return self.items[index]

    def select(self, numbers: Iterable[int]) -> Questions:
        """Return some of the questions, in the order given, with the passages of their own."""
        numbers = list(numbers)
        rows = [(self.items[n], tuple(self.passages[p] for p in self.contexts[n])) for n in numbers]
        return _joined(rows, self.problems)

    def table(self) -> pd.DataFrame:
        """Return one row per question: id, type, level, question, answer, titles of gold, and the
        number of passages of its own.
        """
        import pandas as pd

        rows = [
            (q.id, q.type, q.level, q.question, q.answer, ", ".join(q.gold), len(own))
            for q, own in zip(self.items, self.contexts, strict=True)
        ]
        names = ["id", "type", "level", "question", "answer", "gold", "passages"]
        return pd.DataFrame(rows, columns=names)

    def __repr__(self) -> str:
        return (
            f"Questions({len(self)} questions, {len(self.passages)} passages, "
            f"{len(self.problems)} problems)"
        )

    def _repr_html_(self) -> str:
        table = self.table().head(_SHOWN).to_html(index=False, escape=True)
        listed = "".join(f"<li>{html.escape(str(p))}</li>" for p in self.problems[:_SHOWN])
        problems = f"<ul>{listed}</ul>" if listed else ""
        return f"<div>{html.escape(repr(self))}{table}{problems}</div>"


def load_questions(
    source: str | Path,
    *,
    split: str = "validation",
    config: str = "distractor",
    limit: int = 0,
    seed: int = 0,
    size: int = 0,
    data: str | Path = "",
) -> Questions:
    """Load questions with the passages of their records.

    Parameters
    ----------
    source
        ``"hotpotqa"``, ``"2wikimultihopqa"`` or ``"musique"`` (from local files if they are there,
        else from the Hugging Face hub), ``"pocket"`` (generated), or a file: JSON, JSON lines or
        parquet in the layout of one of these data sets, their own or the hub's.
    split
        Of a data set: ``"train"`` or ``"validation"``; on the hub also others, and slices such as
        ``"train[:10%]"`` (of local files the whole part is read). Where one local file is all there
        is, it is divided; see `negfail_nb.data_sets.read_data_set`. Of pocket,
        ``"train"``, or else names and wordings never trained on.
    config
        Of HotpotQA: ``"distractor"`` (gold is among the passages) or ``"fullwiki"`` (the ten that a
        search returned).
    limit
        At most so many questions, drawn by the seed as `draw` does; 0: all, of pocket 200.
    seed
        Of the draw; of pocket, of the whole world.
    size
        Passages of the pocket world; 0: twice as many as questions.
    data
        The folder of local files; see `negfail_nb.data_sets.data_home`.

    Returns
    -------
    Questions
        With the records that could not be read under ``problems``; a warning counts them.

    Raises
    ------
    ValueError
        If the source is unknown, cannot be reached, or has no question that can be read; the text
        says why.
    """
    if limit < 0 or size < 0:
        raise ValueError(f"limit is {limit} and size is {size}; give 0 or more")
    if source == POCKET:
        return _from_pocket(split, limit or _POCKET_QUESTIONS, seed, size)
    if source in multi_hop():
        found = _collected(str(source), *_named_records(multi_hop()[source], split, config, data))
    elif Path(source).is_file():
        found = _collected(Path(source).name, *open_records(Path(source)))
    else:
        known = ", ".join(map(repr, (*multi_hop(), POCKET)))
        raise ValueError(
            f"{source} is no file of questions and no data set's name; known are {known}"
        )
    return draw(found, limit, seed) if 0 < limit < len(found) else found


def draw(questions: Questions, count: int, seed: int) -> Questions:
    """Draw ``count`` questions at random, in the order they had, with the passages of their own.

    Equal seeds draw the same questions on every machine, and a smaller draw is part of a larger
    one.

    Raises
    ------
    ValueError
        If there are not so many questions.
    """
    if not 1 <= count <= len(questions):
        raise ValueError(f"count is {count}; there are {len(questions)} questions to draw from")
    order = list(range(len(questions)))
    random.Random(seed).shuffle(order)
    return questions.select(sorted(order[:count]))


def _from_pocket(split: str, count: int, seed: int, size: int) -> Questions:
    from negfail_nb.pocket import make_questions, make_world
    from negfail_nb.pocket.world import BLOCK

    if split not in _POCKET_SPLITS:
        raise ValueError(f"split is {split!r}; pocket has {', '.join(map(repr, _POCKET_SPLITS))}")
    half = _POCKET_SPLITS[split]
    world = make_world(size or max(2 * count, 10 * BLOCK), seed, half)
    records = make_questions(world, count, seed, _POCKET_FORMS, half)
    return _collected(POCKET, ((str(number), record) for number, record in enumerate(records, 1)))


def multi_hop() -> dict[str, DataSet]:
    """Return the data sets whose questions come with passages, by name."""
    return {name: one for name, one in data_sets().items() if one.task == "qa"}


def _named_records(
    data_set: DataSet, split: str, config: str, data: str | Path
) -> tuple[Iterator[tuple[str, Any]], Sequence[Problem]]:
    if data_set.config and config not in CONFIGS:
        known = ", ".join(map(repr, CONFIGS))
        raise ValueError(f"config is {config!r}; {data_set.name} has {known}")
    part = PARTS.get(split.partition("[")[0], "")  # a local file is read whole
    wanted = replace(data_set, config=config) if data_set.config else data_set
    if part and wanted == data_set and local_files(data_set, part, data)[0]:
        found = read_data_set(data_set.name, part, data)
        return iter(found.items), found.problems
    rows = hub_rows(wanted, split, data_home(data) / data_set.files[part or "test"])
    return ((f"row {number}", row) for number, row in enumerate(rows, 1)), ()


def _collected(
    name: str, records: Iterable[tuple[str, Any]], damaged: Sequence[Problem] = ()
) -> Questions:
    """Read records; ``damaged`` is a list that grows meanwhile."""
    from tqdm.auto import tqdm

    rows = []
    places = {}
    problems = []
    for where, record in tqdm(records, desc="questions", unit="question", leave=False):
        try:
            question, passages = read_question(record)
            if question.id in places:
                raise ValueError(f"the id {question.id!r} is that of {places[question.id]} already")
        except UNREADABLE as error:
            problems.append(Problem(name, where, explain(error)))
        else:
            places[question.id] = where
            rows.append((question, passages))
    found = _joined(rows, (*damaged, *problems))
    named = "; ".join(f"{problem.record}: {problem.reason}" for problem in found.problems[:_NAMED])
    if not rows:
        why = f": {named}" if named else ""
        raise ValueError(f"{name}: there is no question that can be read{why}")
    if found.problems:
        logger.warning("%s: %d records are left out: %s ..", name, len(found.problems), named)
    apart = sum(bool(own) and None in question.evidence for question, own in rows)
    if apart:
        logger.warning(
            "%s: of %d questions a gold passage is not among their own; give a corpus", name, apart
        )
    return found


def _joined(
    rows: Iterable[tuple[Question, tuple[Passage, ...]]], problems: tuple[Problem, ...]
) -> Questions:
    numbers: dict[tuple[str, str], int] = {}
    items = []
    passages = []
    contexts = []
    for question, own in rows:
        keys = [(passage.title, passage.text) for passage in own]
        for key, passage in zip(keys, own, strict=True):
            if numbers.setdefault(key, len(passages)) == len(passages):
                passages.append(passage)
        items.append(question)
        contexts.append(tuple(numbers[key] for key in keys))
    return Questions(tuple(items), tuple(passages), tuple(contexts), problems)
