"""The one record that passes between all stages: a trajectory, and how it is kept on disk.

A trajectory is one attempt of one agent at one question. Its messages are OpenAI chat messages,
because chat templates, trainers and viewers all take them; a message may carry ``tool_calls``
(arguments as a JSON string, as the API sends them). Nothing is dropped silently: an attempt that
crashed is a record with an error.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

Message = dict[str, Any]
Record = TypeVar("Record")

TERMINATIONS = ("finished", "max_steps", "parse_error", "tool_error", "refused", "empty", "crashed")
TASKS = ("qa", "math", "yes_no")
SPLITS = ("", "train", "heldout")
# Terminals obey these; marks of direction reverse text, and lone surrogates cannot be printed.
_CONTROL = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a trajectory comes from: who made it, and in which record of which file it stands."""

    model: str = ""
    temperature: float | None = None
    seed: int | None = None
    attempt: int = 0
    file: str = ""
    record: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an attempt cost. ``None`` means that the log does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    calls: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One attempt of one agent at one question.

    Attributes
    ----------
    id
        Unique in a collection.
    question_id, question, answer
        The task and its reference answer. Attempts at one question share ``question_id``.
    task
        One of ``TASKS``; it decides how the answer is graded and how a label is worded.
    messages
        OpenAI chat messages, in order. Observations are ``user`` turns, or ``tool`` turns after
        ``tool_calls``.
    prediction
        The final answer that the agent gave; ``None`` if it gave none.
    scores
        ``em``, ``f1`` and what else was measured, each between 0 and 1.
    success
        ``None`` if unknown: the log has neither a label nor a reference answer.
    termination
        One of ``TERMINATIONS``.
    gold_titles
        Titles of the passages that hold the evidence, if they are known.
    tools
        JSON schemas of the tools that the agent was offered, if they are known.
    error
        The text of the exception that ended a crashed attempt, or why no action could be read in
        its last reply.
    """

    id: str
    question_id: str
    question: str
    answer: str = ""
    task: str = "qa"
    messages: tuple[Message, ...] = ()
    prediction: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    success: bool | None = None
    termination: str = "finished"
    source: Source = Source()
    usage: Usage = Usage()
    split: str = ""
    gold_titles: tuple[str, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    error: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (("termination", TERMINATIONS), ("task", TASKS), ("split", SPLITS)):
            value = getattr(self, name)
            if value not in allowed:
                known = ", ".join(map(repr, allowed))
                raise ValueError(f"trajectory {self.id!r}: {name} is {value!r}; use one of {known}")

    @property
    def outcome(self) -> str:
        """``"success"``, ``"failure"`` or ``"unlabelled"``."""
        return {True: "success", False: "failure", None: "unlabelled"}[self.success]

    def replace(self, **changes: Any) -> Trajectory:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Trajectory:
        """Build a trajectory from JSON values.

        Raises
        ------
        ValueError
            If a field is missing, unknown, or holds what it must not; the text names it.
        """
        unknown = sorted(set(record) - {f.name for f in fields(cls)})
        missing = sorted({"id", "question_id", "question"} - set(record))
        if unknown or missing:
            reason = f"missing fields {missing}, unknown fields {unknown}"
            raise ValueError(f"trajectory {record.get('id', '?')!r}: {reason}")
        values = dict(record)
        for name in ("messages", "gold_titles", "tools"):
            values[name] = tuple(values.get(name) or ())
        values["source"] = Source(**values.get("source") or {})
        values["usage"] = Usage(**values.get("usage") or {})
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read: which file, which record or line of it, and why."""

    file: str
    record: str
    reason: str

    def __post_init__(self) -> None:
        """Text of logs goes into terminals from here: control characters are shown, not obeyed."""
        for name in ("file", "record", "reason"):
            object.__setattr__(self, name, printable(str(getattr(self, name))))

    def __str__(self) -> str:
        place = f"{self.file}:{self.record}" if self.record else self.file
        return f"{place}: {self.reason}"


def printable(text: str) -> str:
    r"""Return a text that no terminal obeys: control characters as ``\x1b``, ``\r``, ``\u202e``.

    Line breaks and tabs stay.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def replace_surrogates(value: Any) -> Any:
    """Return a JSON value with U+FFFD for lone surrogates, which no file can hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list | tuple):
        return type(value)(map(replace_surrogates, value))
    if isinstance(value, dict):
        return {replace_surrogates(key): replace_surrogates(item) for key, item in value.items()}
    return value


def unique_ids(ids: Iterable[str]) -> Iterator[str]:
    """Yield ids; one that was there already gets ``~2``, ``~3`` and so on behind it."""
    seen: set[str] = set()
    copies: Counter[str] = Counter()
    for given in ids:
        name = given
        while name in seen:
            copies[given] += 1
            name = f"{given}~{copies[given] + 1}"
        seen.add(name)
        yield name


class UnreadableLog(ValueError):
    """A log, or a record of it, that cannot be read. Raised in strict mode; counted otherwise."""


def jsonable(record: Any) -> dict[str, Any]:
    """Return the fields of one of our records, as JSON's encoder asks for them."""
    return {name: getattr(record, name) for name in record.__slots__}


def write_trajectories(path: str | Path, trajectories: Iterable[Trajectory]) -> Path:
    """Write one JSON line per trajectory; the file appears whole or not at all. Return its path."""
    return write_lines(path, (trajectory.to_dict() for trajectory in trajectories))


def write_lines(path: str | Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON line per record; the file appears whole or not at all. Return its path.

    Raises
    ------
    ValueError
        If a record holds NaN or an infinite number; the text names record and field.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(map(line_of, records))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def line_of(record: Mapping[str, Any]) -> str:
    """Return a record as a JSON line, with its end.

    Raises
    ------
    ValueError
        If a field is NaN or infinite, which is no JSON; the text names record and field.
    """
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        name = find_endless(record)
        if name is None:
            raise
        reason = f"its field {name!r} is NaN or infinite"
        raise ValueError(
            f"the record {record.get('id', '?')!r} cannot be written: {reason}"
        ) from error


def find_endless(value: Any, name: str = "") -> str | None:
    """Return the name of the first field that is NaN or infinite, or ``None``."""
    if isinstance(value, float):
        return None if math.isfinite(value) else name
    if isinstance(value, Mapping):
        parts = ((f"{name}.{key}" if name else str(key), item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        parts = ((f"{name}[{number}]", item) for number, item in enumerate(value))
    else:
        return None
    found = (find_endless(item, key) for key, item in parts)
    return next((key for key in found if key is not None), None)


def read_trajectories(path: str | Path) -> Iterator[Trajectory]:
    """Yield what `write_trajectories` wrote.

    Raises
    ------
    UnreadableLog
        At the first line that is not a trajectory; the text names file and line. For foreign or
        damaged logs use `negfail_nb.load_trajectories`, which counts what it cannot read.
    """
    return read_records(path, Trajectory.from_dict)


def read_records(path: str | Path, make: Callable[[dict[str, Any]], Record]) -> Iterator[Record]:
    """Yield ``make(values)`` for each JSON line of a file of our own.

    Raises
    ------
    UnreadableLog
        At the first line for which it fails; the text names file and line.
    """
    with Path(path).open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                values = json.loads(line)
                if not isinstance(values, dict):
                    raise ValueError(f"the line is {type(values).__name__}, not an object")
                record = make(values)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                problem = Problem(str(path), f"line {number}", str(error))
                raise UnreadableLog(str(problem)) from error
            yield record
