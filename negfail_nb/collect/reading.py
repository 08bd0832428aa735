"""A log file, opened for an importer: its lines, its records, and what could not be read of it."""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from negfail_nb.collect.jsontext import Member, Record, Walk, explain, find_endless, mend, parse, read_whole
from negfail_nb.collect.lines import BOM, Line, read_lines
from negfail_nb.collect.tables import is_table, read_table
from negfail_nb.grading import grade
from negfail_nb.profiles import CollectSettings
from negfail_nb.steps import FINISH, final_answer, parse_actions
from negfail_nb.trajectory import Message, Problem, Source, Trajectory, UnreadableLog

HEAD_BYTES = 65_536
GUESSED_FROM = 8  # records; a file is recognised although its first one is damaged
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, ArithmeticError)
UNKNOWN = Source()
_NO_UTF8 = re.compile("[\udc80-\udcff]")
GZIP = b"\x1f\x8b"
MAX_RATIO = 200  # of unpacked to packed size; JSON logs pack 5 to 40 times

logger = logging.getLogger("negfail_nb")


class LogFile:
    """A file that an importer reads.

    Parameters
    ----------
    path
        The file.
    name
        Its name relative to what the user asked for; it goes into records and problems.
    settings
        The settings of the stage.

    Attributes
    ----------
    format
        Name of the importer at work.
    problems
        What could not be read so far.
    """

    def __init__(self, path: Path, name: str = "", settings: CollectSettings | None = None) -> None:
        self.path = Path(path)
        self.name = shown_path(name or self.path.name)
        self.settings = settings or CollectSettings()
        self.format = ""
        self.problems: list[Problem] = []
        self._one = False

    @property
    def limit(self) -> int:
        """Largest record in bytes."""
        return int(self.settings.max_record_mb * 1e6)

    def open(self) -> BinaryIO:
        """Open the file for reading bytes; what is packed with gzip is unpacked as it is read."""
        stream = self.path.open("rb")
        packed = stream.read(len(GZIP)) == GZIP
        stream.seek(0)
        return _Gunzip(stream, max(MAX_RATIO * self.path.stat().st_size, self.limit)) if packed else stream

    @cached_property
    def head(self) -> bytes:
        """The first bytes, for guessing the format."""
        with self.open() as stream:
            return stream.read(HEAD_BYTES).removeprefix(BOM)

    @cached_property
    def text(self) -> str:
        """The start of the file as text, for guessing the format."""
        return self.head.decode("utf-8", "replace").replace("\r\n", "\n")

    @cached_property
    def samples(self) -> tuple[dict[str, Any], ...]:
        """The first few records that are JSON objects, of each list of the file, for guessing the format."""
        found = (record for record in self._parsed() if isinstance(record.value, dict))
        if self._json_lines or self.is_table:
            return tuple(record.value for record in islice(found, GUESSED_FROM))
        taken: Counter[str] = Counter()
        first = []
        for record in found:
            name = record.where.rpartition(" ")[0]
            taken[name] += 1
            if taken[name] <= GUESSED_FROM:
                first.append(record.value)
            elif not self.is_object:  # the items of an array are all of one list
                break
        return tuple(first)

    def has(self, *keys: str) -> bool:
        """Whether one of the first records has all these keys."""
        return any(set(keys) <= sample.keys() for sample in self.samples)

    def lines(self) -> Iterator[Line]:
        """Yield the lines of the file. One that is too long or not UTF-8 carries a problem."""
        return read_lines(self.open(), self.limit)

    @cached_property
    def is_table(self) -> bool:
        """Whether the file is a table: CSV, TSV or Parquet."""
        return is_table(self.path, self.head)

    @property
    def is_object(self) -> bool:
        """Whether the file is one JSON object: of records, or a record itself."""
        return not self.is_table and not self._json_lines and self.head.lstrip().startswith(b"{")

    def members(self, *, lenient: bool = False) -> Iterator[Member]:
        """Yield the members of a file that is one JSON text, whatever they are.

        Parameters
        ----------
        lenient
            Take NaN and Infinity, which are no JSON, for null.
        """
        with self.open() as stream:
            yield from Walk(stream, self.limit, lenient=lenient)

    def joined(self) -> LogFile:
        """Return this file, a JSON object, read as one record although it may hold lists of objects."""
        log = LogFile(self.path, self.name, self.settings)
        log.problems = self.problems
        log._one = True
        return log

    def records(self) -> Iterator[tuple[str, Any]]:
        """Yield where a record stands and its JSON value; what is no JSON goes to `problems`."""
        for where, value, problem in self._parsed():
            if problem:
                self.report(where, problem)
            else:
                yield where, value

    def damage(self) -> Iterator[Record]:
        """Yield the records that are no JSON, without noting them."""
        return (record for record in self._parsed() if record.problem)

    def convert(self, read: Callable[[dict[str, Any], str], Trajectory]) -> Iterator[Trajectory]:
        """Yield ``read(record, where)`` for each record; a record that makes it fail goes to `problems`."""
        for where, record in self.records():
            yield from self.attempt(where, lambda record=record, where=where: read(_object(record), where))

    def attempt(self, where: str, read: Callable[[], Trajectory]) -> Iterator[Trajectory]:
        """Yield ``read()``, or nothing where it fails; the reason goes to `problems`."""
        try:
            trajectory = read()
            check_numbers(trajectory)
        except UnreadableLog:
            raise
        except Exception as error:  # noqa: BLE001 - an importer may raise anything; the others are read
            self.report(where, explain(error))
        else:
            yield trajectory

    def report(self, where: str, reason: str) -> None:
        """Note what could not be read.

        Raises
        ------
        UnreadableLog
            In strict mode.
        """
        problem = Problem(self.name, shown_path(where), mend(reason))
        if self.settings.strict:
            raise UnreadableLog(f"{problem}. Without strict=True it would be counted and left out.")
        self.problems.append(problem)

    def trajectory(
        self,
        where: str,
        *,
        question: str,
        messages: Iterable[Message],
        answer: str = "",
        prediction: str | None = None,
        success: bool | None = None,
        task: str = "",
        id: str = "",
        question_id: str = "",
        termination: str = "",
        scores: dict[str, float] | None = None,
        source: Source = UNKNOWN,
        **more: Any,
    ) -> Trajectory:
        """Build a trajectory; what is not given is worked out.

        The question's id is made from its text, so that a question has one id in all logs. The prediction is the last
        finishing action. Scores come from `negfail_nb.grading.grade`, over those given; ``success`` is the exact match
        where the log has no label of its own but a reference answer.

        Parameters
        ----------
        where
            Line or key of the record.
        question, messages, answer, prediction, success, task, id, question_id, termination, scores, more
            Fields of `Trajectory`.
        source
            What the log says of its origin; file, record and format are filled in.

        Raises
        ------
        ValueError
            Where there is no question.
        """
        messages, question = tuple(messages), question.strip()
        if not question:
            raise ValueError("the question is empty")
        prediction = final_answer(messages) if prediction is None else prediction
        task = self.settings.task or task or "qa"
        graded = grade(prediction, answer, task) if answer else {}
        if success is None and answer:
            success = graded["em"] == 1.0
        return Trajectory(
            id=id or f"{self.format}:{self.name}:{where}",
            question_id=question_id or question_key(question),
            question=question,
            answer=answer,
            task=task,
            messages=messages,
            prediction=prediction,
            success=success,
            termination=termination or ending(messages, prediction),
            scores={**(scores or {}), **graded},
            source=_placed(source, self, where),
            **more,
        )

    @cached_property
    def questions(self) -> dict[str, dict[str, Any]]:
        """The records of the file with the questions (``settings.questions``), by id.

        Raises
        ------
        ValueError
            Where no such file is given, or it does not exist.
        """
        path = self.settings.questions
        if not path:
            raise ValueError("the record holds no question; name the file that does: questions='...'")
        if not Path(path).is_file():
            raise ValueError(f"the file with the questions does not exist: {Path(path).name}")
        records = (value for _, value in LogFile(Path(path)).records() if isinstance(value, dict))
        return {str(r[key]): r for r in records for key in ("id", "_id", "qid") if key in r}

    def _parsed(self) -> Iterator[Record]:
        if self.is_table:
            yield from read_table(self)
            return
        if not self._json_lines:
            yield from read_whole(self.open, self.limit, one=self._one)
            return
        for number, text, problem in self.lines():
            where = f"line {number}"
            if problem:
                yield Record(where, None, problem)
            elif text and not text.isspace():
                yield parse(text, where)

    @cached_property
    def _json_lines(self) -> bool:
        """Whether each line is a record; else the file is one JSON text. A damaged first line does not decide."""
        start = list(islice((line for line in self.lines() if line.problem or line.text.strip()), 2))
        opening, first = self.head.lstrip()[:1], start[0].text.strip() if start else ""
        if opening not in (b"{", b"["):
            return True
        if len(start) == 1 or first.endswith(("[", "{", ",", ":")):
            return False
        return opening == b"{" or _is_object(start[1])


class _Gunzip(gzip.GzipFile):
    """A packed file that refuses to grow beyond ``most`` bytes."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        super().__init__(fileobj=stream, mode="rb")
        self._packed, self._most = stream, most

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._checked(super().readline(size))

    def close(self) -> None:
        super().close()
        self._packed.close()

    def _checked(self, raw: bytes) -> bytes:
        if self.tell() > self._most:
            raise ValueError(f"it unpacks to more than {self._most} bytes, {MAX_RATIO} times its size; not read on")
        return raw


def shown_path(name: str) -> str:
    """Return a name that any file can hold: bytes of it that are no UTF-8 are written as ``\\xff``."""
    return mend(_NO_UTF8.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", name))


def check_numbers(trajectory: Trajectory) -> None:
    """Raise where a record holds a number that no JSON file can: NaN, or an infinite one.

    Raises
    ------
    ValueError
        The text names the field.
    """
    for name in ("scores", "usage", "source"):
        value = getattr(trajectory, name)
        found = find_endless(dict(value) if name == "scores" else asdict(value), name)
        if found:
            raise ValueError(f"the field {found!r} is NaN or infinite; a record holds finite numbers")


def question_key(question: str) -> str:
    """Return the id of a question: a hash of its words, whatever their case and spacing."""
    return "q" + hashlib.sha256(" ".join(question.casefold().split()).encode()).hexdigest()[:12]


def ending(messages: tuple[Message, ...], prediction: str | None) -> str:
    """Guess the termination of an attempt from its last turn, where the log does not tell it."""
    said = [m for m in messages if m["role"] == "assistant"]
    if not said:
        return "empty"
    if prediction is not None:
        return "finished"
    actions = parse_actions(said[-1])
    return "max_steps" if actions and actions[-1].name not in FINISH else "parse_error"


def _is_object(line: Line) -> bool:
    return not line.problem and isinstance(parse(line.text, "").value, dict)


def _object(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError(f"the record is {type(record).__name__} ({str(record)[:40]!r}), not an object")
    return record


def _placed(source: Source, log: LogFile, where: str) -> Source:
    return replace(source, file=log.name, record=where, format=log.format)
