"""Public data sets by name: their questions, from local files where they are, else from the hub.

The table ``data_sets.toml`` says where each one is and how its fields are called.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from negfail_nb.duplicates import question_groups, question_key, rank
from negfail_nb.logs.reading import LogFile
from negfail_nb.settings import DATA, CollectSettings
from negfail_nb.trajectory import Problem

PARTS = ("train", "test")
SIMILAR = 0.8  # questions from which on two are the same, as in QualitySettings.leak_similarity
PATIENCE = 5.0  # seconds for the hub to answer
_LARGEST_MB = 64.0  # of one record
_NOT_WHOLE = re.compile(r"\s*(-?\d+)\.0*\s*")

logger = logging.getLogger("negfail_nb")

Located = tuple[str, Any]  # where a record stands, and its JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Where a data set is, and how it is read: an entry of ``data_sets.toml``.

    Attributes
    ----------
    name, title, licence
        What it is called here, by its authors, and under which terms it may be used.
    task
        How its answers are graded, as in `negfail_nb.trajectory.TASKS`.
    hub, config, revision, folder
        Id on the Hugging Face hub, and which of its files.
    splits, files
        For each part, the hub's split, and the pattern of local files in the data folder.
    share
        Share of questions that are the test part, where both parts are in the same records; 0:
        they never are.
    id, question, answer
        Names of the fields; several of a question are joined.
    hub_fields
        Other names of these in the hub's copy.
    """

    name: str
    title: str
    task: str
    licence: str
    hub: str
    config: str = ""
    revision: str = ""
    folder: str = ""
    splits: Mapping[str, str]
    files: Mapping[str, str]
    share: float = 0.0
    id: str = ""
    question: tuple[str, ...]
    answer: str
    hub_fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Records:
    """What was read of a data set or a file.

    Attributes
    ----------
    items
        Place and record, in order. A record has the fields ``question``, ``answer``, ``task`` and,
        if its data set names one, ``id``, besides its own.
    origin
        The local files, or the id and split on the hub.
    problems
        What could not be read.
    name
        Of the data set; empty for a file of one's own.
    """

    items: tuple[Located, ...]
    origin: str
    problems: tuple[Problem, ...] = ()
    name: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (record for _, record in self.items)


@cache
def data_sets() -> dict[str, DataSet]:
    """Return the known data sets, by name."""
    text = files("negfail_nb").joinpath("data_sets.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    return {
        name: DataSet(name=name, **{**entry, "question": tuple(entry["question"])})
        for name, entry in table.items()
    }


def named_part(source: str | Path, part: str = "") -> tuple[DataSet, str] | None:
    """Return the data set and the part that a name means, or ``None`` for what is no such name.

    Parameters
    ----------
    source
        ``"svamp"``, or with a part ``"svamp/train"``. A file of that name goes before.
    part
        ``"train"`` or ``"test"``; empty: what the name says, else ``"test"``.

    Raises
    ------
    ValueError
        For a part that there is not.
    """
    name, _, said = str(source).partition("/")
    if name not in data_sets() or Path(source).is_file():
        return None
    part = part or said or "test"
    if part not in PARTS:
        known = " and ".join(map(repr, PARTS))
        raise ValueError(
            f"{source}: there is no such file, and {name} has no part {part!r}, only {known}"
        )
    return data_sets()[name], part


def data_home(data: str | Path = "") -> Path:
    """Return the folder of data: the one given, else what ``NEGFAIL_NB_DATA`` names, else
    ``data`` in the working directory.
    """
    return Path(data or os.environ.get(DATA) or "data")


def read_data_set(name: str, part: str = "", data: str | Path = "") -> Records:
    """Read the questions of a data set, from local files if they are there, else from the hub.

    Parameters
    ----------
    name, part
        As for `named_part`.
    data
        As for `data_home`.

    Returns
    -------
    Records
        Where the two parts of a data set are the same records, they are divided by a hash of the
        question, near-duplicates together: on every machine alike, and alike for local files and
        the hub as far as these agree.

    Raises
    ------
    ValueError
        If the name or the part is unknown, or neither files nor hub have a question; the text names
        both places.
    """
    found = named_part(name, part)
    if found is None:
        known = ", ".join(data_sets())
        raise ValueError(f"there is no data set of the name {name!r}; known are {known}")
    data_set, part = found
    whole, divided = _local(data_set, part, data_home(data)) or _remote(data_set, part, data)
    if not len(whole):
        named = "; ".join(map(str, whole.problems[:3]))
        raise ValueError(f"{whole.origin}: there is no question of {data_set.title}: {named}")
    if whole.problems:
        logger.warning("%s: %d records are left out", whole.origin, len(whole.problems))
    return _part(whole, part, data_set.share) if divided else whole


def read_asked(source: str | Path, part: str = "", data: str | Path = "") -> Records:
    """Read the questions of a data set by its name, or of a file.

    Records of a file keep their fields. One without a ``question`` that has the fields of a known
    data set, such as SVAMP's ``Body`` and ``Question``, gets it from them.

    Raises
    ------
    FileNotFoundError
        If the source is neither a name nor a file.
    ValueError
        As `read_data_set`.
    """
    if named_part(source, part):
        return read_data_set(str(source), part, data)
    path = Path(source)
    if not path.is_file():
        known = ", ".join(data_sets())
        raise FileNotFoundError(
            f"{path}: there is no such file of questions, and no data set of that name; known are "
            f"{known}"
        )
    log = LogFile(path, settings=CollectSettings(max_record_mb=_LARGEST_MB))
    items = tuple((where, _known(record)) for where, record in log.records())
    return Records(items, str(path), tuple(log.problems))


def _known(record: Any) -> Any:
    """Return a record with the fields of our own names, if it has those of a data set."""
    if not isinstance(record, Mapping) or "question" in record:
        return record
    for one in data_sets().values():
        names = {"id": one.id, "question": one.question, "answer": one.answer}
        if all(isinstance(record.get(name), str) for name in one.question):
            return _record(record, names, one.task)
    return record


def local_files(data_set: DataSet, part: str, data: str | Path = "") -> tuple[list[Path], bool]:
    """Return the local files of a part, and whether they hold the other part too."""
    home = data_home(data)
    found = {name: sorted(home.glob(pattern)) for name, pattern in data_set.files.items()}
    if not data_set.share:
        return found[part], False
    if not all(found.values()):  # the one that is there is divided
        found = dict.fromkeys(found, [path for paths in found.values() for path in paths])
    return found[part], found["train"] == found["test"]


def _local(data_set: DataSet, part: str, home: Path) -> tuple[Records, bool] | None:
    paths, divided = local_files(data_set, part, home)
    if not paths:
        return None
    items: list[Located] = []
    problems: list[Problem] = []
    for path in paths:
        log = LogFile(path, settings=CollectSettings(max_record_mb=_LARGEST_MB))
        found, bad = _normal(log.records(), data_set, path.name, {})
        items += found
        problems += [*log.problems, *bad]
    origin = ", ".join(map(str, paths))
    return Records(tuple(items), origin, tuple(problems), data_set.name), divided


def _remote(data_set: DataSet, part: str, data: str | Path) -> tuple[Records, bool]:
    split = data_set.splits[part]
    origin = f"{data_set.hub}, split {split}"
    rows = enumerate(hub_rows(data_set, split, data_home(data) / data_set.files[part]), 1)
    located = ((f"row {number}", row) for number, row in rows)
    items, problems = _normal(located, data_set, origin, data_set.hub_fields)
    divided = len(set(data_set.splits.values())) == 1
    return Records(tuple(items), origin, tuple(problems), data_set.name), divided


def hub_rows(data_set: DataSet, split: str, file: str | Path) -> Iterable[dict[str, Any]]:
    """Return the rows of a split as the hub has them.

    Parameters
    ----------
    data_set, split
        What is loaded, by the library ``datasets``: plain files only, no scripts.
    file
        The local file that is not there, for the error.

    Raises
    ------
    ValueError
        If the hub cannot be reached, or has no such split.
    """
    from datasets import load_dataset

    more = {"data_dir": data_set.folder, "revision": data_set.revision}
    given = {name: value for name, value in more.items() if value}
    try:
        _check_hub(data_set.hub)
        return load_dataset(data_set.hub, data_set.config or None, split=split, **given)
    except Exception as error:  # the library raises dozens, of several packages
        raise ValueError(
            f"the split {split!r} of {data_set.name} ({data_set.hub} on the Hugging Face hub) "
            f"could not be loaded: {error}. There is no local file {file} either; without a "
            f"network put it there, or let {DATA} name the folder that has it"
        ) from error


def _check_hub(name: str) -> None:
    """Raise what keeps the hub from answering, unless the data set is in the cache or a folder of
    that name. The library would try for half a minute.
    """
    from datasets import config
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub import HfApi

    owner, _, rest = name.rpartition("/")
    kept = Path(config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(rest)}"
    if not (kept.is_dir() or Path(name).is_dir()):
        HfApi().dataset_info(name, timeout=PATIENCE)


def _normal(
    located: Iterable[Located], data_set: DataSet, file: str, other: Mapping[str, Any]
) -> tuple[list[Located], list[Problem]]:
    """Return the records with fields of our own names, and those that have no question."""
    names = {"id": data_set.id, "question": data_set.question, "answer": data_set.answer, **other}
    items = []
    problems = []
    for where, record in located:
        try:
            items.append((where, _record(record, names, data_set.task)))
        except ValueError as error:
            problems.append(Problem(file, where, str(error)))
    return items, problems


def _record(record: Any, names: Mapping[str, Any], task: str) -> dict[str, Any]:
    if not isinstance(record, Mapping):
        raise ValueError(f"the record is {type(record).__name__}, not an object")
    parts = [_text(record, name) for name in names["question"]]
    made = {**record, "question": _join(parts), "task": task}
    if names["answer"] in record:
        made["answer"] = _plain(record[names["answer"]])
    if names["id"] and record.get(names["id"]):
        made["id"] = str(record[names["id"]])
    return made


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the field {name!r} has no text; it is part of the question")
    return value.strip()


def _join(parts: Sequence[str]) -> str:
    """Join the story and the question of it; a story that lacks its full stop gets one."""
    *story, question = parts
    ended = [part if part.endswith((".", "!", "?", ",")) else f"{part}." for part in story]
    return " ".join((*ended, question))


def _plain(answer: Any) -> Any:
    """Return an answer with whole numbers written as such: 51, not 51.0."""
    if isinstance(answer, float) and answer.is_integer():
        return int(answer)
    if isinstance(answer, str) and (whole := _NOT_WHOLE.fullmatch(answer)):
        return int(whole[1])
    return answer


def _part(whole: Records, part: str, share: float) -> Records:
    texts = {question_key(record["question"]): record["question"] for record in whole}
    first = {
        key: group[0] for group in question_groups(texts, SIMILAR) for key in group
    }  # the group decides, so that near-duplicates stay together

    def part_of(record: Mapping[str, Any]) -> str:
        drawn = rank(0, first[question_key(record["question"])])
        return "test" if int.from_bytes(drawn[:8], "big") / 2**64 < share else "train"

    kept = tuple(item for item in whole.items if part_of(item[1]) == part)
    return replace(whole, items=kept)
