"""A log file, opened for an importer: its lines, its records, and what could not be read of it."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from negfail_nb.grading import Judged, grade, judge_free_text
from negfail_nb.logs.jsontext import (
    BOM,
    Line,
    Member,
    Record,
    Walk,
    explain,
    parse,
    read_lines,
    read_whole,
)
from negfail_nb.logs.questions import first_user, question_key
from negfail_nb.logs.stretches import GZIP, MAX_RATIO, Gunzip, Stretch, cut
from negfail_nb.logs.tables import DELIMITERS, PARQUET, Table
from negfail_nb.said import as_said
from negfail_nb.settings import CollectSettings
from negfail_nb.steps import FINISH, final_answer, parse_actions, text
from negfail_nb.trajectory import (
    Message,
    Problem,
    Source,
    Trajectory,
    UnreadableLog,
    find_endless,
    jsonable,
    replace_surrogates,
)

HEAD_BYTES = 65_536
GUESSED_FROM = 8  # records; a file is recognised although its first one is damaged
UNREADABLE = (
    *(ValueError, KeyError, TypeError, AttributeError),
    *(IndexError, RecursionError, ArithmeticError),
)
_PARTS = re.compile(r"\s*(?:Thought|Action|Observation)[ \t]*\d*[ \t]*:", re.IGNORECASE)
_NO_UTF8 = re.compile("[\udc80-\udcff]")

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
    columns
        Of a table: the column that holds a field.

    Attributes
    ----------
    format
        Name of the importer at work.
    problems
        What could not be read so far.
    guessed
        Records that name no question.
    notes
        What a reader should know of what was read.
    """

    def __init__(
        self,
        path: Path,
        name: str = "",
        settings: CollectSettings | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = shown_path(name or self.path.name)
        self.settings = settings or CollectSettings()
        self.columns = columns or {}
        self.format = ""
        self.problems: list[Problem] = []
        self.guessed: set[str] = set()
        self.notes: list[str] = []
        self._one = False
        self._stretch: Stretch | None = None

    @property
    def limit(self) -> int:
        """Largest record in bytes."""
        return int(self.settings.max_record_mb * 1e6)

    def open(self) -> BinaryIO:
        """Open the file for reading bytes; gzip is unpacked on the way."""
        stream = self.path.open("rb")
        packed = stream.read(len(GZIP)) == GZIP
        stream.seek(0)
        if not packed:
            return stream
        return Gunzip(stream, max(MAX_RATIO * self.path.stat().st_size, self.limit))

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
        """The first records that are JSON objects, of each list of the file."""
        every = (record._replace(value=as_record(record.value)) for record in self._parsed())
        found = (record for record in every if isinstance(record.value, dict))
        if self._json_lines or self.table:
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
        if self._stretch is None:
            return read_lines(self.open(), self.limit)
        start, end, number = self._stretch
        stream = self.open()
        stream.seek(start)
        return read_lines(stream, self.limit, number, end - start)

    def stretch(self, part: Stretch) -> LogFile:
        """Return a stretch of this file, whose lines are records, as a file of its own."""
        log = LogFile(self.path, self.name, self.settings, self.columns)
        log.format = self.format
        log._stretch = part
        log.__dict__.update(_json_lines=True, table=None)
        return log

    def stretches(self, size: int) -> list[Stretch]:
        """Return the stretches of about ``size`` bytes, cut between lines; none if the records of
        the file are not its lines.
        """
        with self.path.open("rb") as stream:
            if self.table or not self._json_lines or stream.read(len(GZIP)) == GZIP:
                return []
            stream.seek(0)
            return list(cut(stream, size))

    @cached_property
    def table(self) -> Table | None:
        """The table that the file is: Parquet by its content, CSV and TSV by its name."""
        if not self.head.startswith(PARQUET):
            ending = Path(self.path.name.lower().removesuffix(".gz")).suffix
            if ending not in DELIMITERS or self.head.lstrip()[:1] in (b"{", b"["):
                return None
        return Table(self.path, self.head, self.lines, self.limit, self.columns)

    @property
    def is_object(self) -> bool:
        """Whether the file is one JSON object: of records, or a record itself."""
        return not self.table and not self._json_lines and self.head.lstrip().startswith(b"{")

    def members(self, *, lenient: bool = False) -> Iterator[Member]:
        """Yield the members of one JSON text; ``lenient`` reads NaN and Infinity as null."""
        with self.open() as stream:
            yield from Walk(stream, self.limit, lenient=lenient)

    @property
    def is_record(self) -> bool:
        """Whether the file is one JSON object that holds more than lists, so rather a record."""
        found = self.joined().samples if self.is_object else ()
        return bool(found) and any(not isinstance(value, list) for value in found[0].values())

    def joined(self) -> LogFile:
        """Return this file, a JSON object, as one record although it may hold lists of objects."""
        log = LogFile(self.path, self.name, self.settings, self.columns)
        log.problems = self.problems
        log.notes = self.notes
        log._one = True
        return log

    def records(self) -> Iterator[tuple[str, Any]]:
        """Yield place and JSON value of each record; what is no JSON goes to `problems`."""
        for where, value, problem in self._parsed():
            if problem:
                self.report(where, problem)
            else:
                yield where, value

    def damage(self) -> Iterator[Record]:
        """Yield the records that are no JSON, without noting them."""
        return (record for record in self._parsed() if record.problem)

    def convert(self, read: Callable[[dict[str, Any], str], Trajectory]) -> OneByOne:
        """Yield ``read(record, where)`` of each record; if it fails, it goes to `problems`."""
        return OneByOne(self._convert(read))

    def _convert(self, read: Callable[[dict[str, Any], str], Trajectory]) -> Iterator[Trajectory]:
        for where, record in self.records():
            yield from self.attempt(where, lambda r=record, w=where: read(_object(r), w))

    def attempt(self, where: str, read: Callable[[], Trajectory]) -> Iterator[Trajectory]:
        """Yield ``read()``; if it fails, yield nothing and note the reason in `problems`."""
        try:
            trajectory = read()
            _check_numbers(trajectory)
        except UnreadableLog:
            raise
        except Exception as error:  # noqa: BLE001 - importers may raise anything
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
        problem = Problem(self.name, shown_path(where), replace_surrogates(reason))
        if self.settings.strict:
            raise UnreadableLog(f"{problem}. Without strict=True it would be counted and left out.")
        self.problems.append(problem)

    def trajectory(
        self,
        where: str,
        *,
        messages: Iterable[Message],
        question: str = "",
        answer: str | Sequence[str] = "",
        prediction: str | None = None,
        success: bool | None = None,
        task: str = "",
        id: str = "",
        question_id: str = "",
        termination: str = "",
        scores: dict[str, float] | None = None,
        source: Source = Source(),
        said: str | None = None,
        **more: Any,
    ) -> Trajectory:
        """Build a trajectory; what is not given is worked out.

        The question's id is made from its text, so a question has the same id in all logs. The
        prediction is the last finishing action, or the agent's last words if it wrote no actions.
        Scores come from `negfail_nb.grading.grade` and replace those given. A log without a label
        but with a reference answer is judged: an answer in the form that was asked for by exact
        match, free text by `judge_free_text`, which may leave it unknown.

        Parameters
        ----------
        where
            Line or key of the record.
        question
            If it is not given, it is guessed: the first user turn, until all runs of the file are
            known.
        answer
            The reference answer, or several of which each counts; the first is kept.
        messages, prediction, success, task, id, question_id, termination, scores, more
            Fields of `Trajectory`.
        source
            What the log says of its origin; file, record and format are filled in.
        said
            The agent's last words, if they are its answer. ``""``: the prompt sets a form of tags,
            in which thoughts are said aloud and only a finishing action is an answer.

        Raises
        ------
        ValueError
            If there is no question.
        """
        messages = tuple(messages if said == "" else map(as_said, messages))
        question = question.strip()
        if not question:
            self.guessed.add(where)
            first = first_user(messages)
            question = text(messages[first]).strip() if first >= 0 else ""
        if not question:
            raise ValueError("the question is empty")
        stated = final_answer(messages) if prediction is None else prediction
        task = self.settings.task or task or "qa"
        answers = tuple(filter(None, [answer] if isinstance(answer, str) else answer))
        if stated is not None or said == "":
            judged = _graded(stated, answers, task)
        else:
            judged = _judged(said or _last_words(messages) or "", answers, task)
        return Trajectory(
            id=id or f"{self.format}:{self.name}:{where}",
            question_id=question_id or question_key(question),
            question=question,
            answer=answers[0] if answers else "",
            task=task,
            messages=messages,
            prediction=judged.prediction,
            success=judged.success if success is None else success,
            termination=termination or _ending(messages, judged.prediction),
            scores={**(scores or {}), **judged.scores},
            source=replace(source, file=self.name, record=where, format=self.format),
            **more,
        )

    @cached_property
    def questions(self) -> dict[str, dict[str, Any]]:
        """The records of the files with the questions (``settings.questions``), by id.

        Raises
        ------
        ValueError
            If no such file is given, or one does not exist.
        """
        paths = [Path(name) for name in self.settings.questions]
        if not paths:
            raise ValueError(
                "the record holds no question; name the file that does: questions='...'"
            )
        if missing := next((path for path in paths if not path.is_file()), None):
            raise ValueError(f"the file with the questions does not exist: {missing.name}")
        records = (value for path in paths for _, value in LogFile(path).records())
        found = [value for value in records if isinstance(value, dict)]
        return {str(r[key]): r for r in found for key in ("id", "_id", "qid") if key in r}

    def _parsed(self) -> Iterator[Record]:
        if self.table:
            yield from self.table.records()
            return
        if not self._json_lines:
            yield from read_whole(self.open, self.limit, one=self._one)
            return
        for number, line, problem in self.lines():
            where = f"line {number}"
            if problem:
                yield Record(where, None, problem)
            elif line and not line.isspace():
                yield parse(line, where)

    @cached_property
    def _json_lines(self) -> bool:
        """Whether each line is a record, or the file one JSON text; the first may be damaged."""
        filled = (line for line in self.lines() if line.problem or line.text.strip())
        start = list(islice(filled, 2))
        opening = self.head.lstrip()[:1]
        first = start[0].text.strip() if start else ""
        if opening not in (b"{", b"["):
            return True
        if len(start) == 1 or first.endswith(("[", "{", ",", ":")):
            return False
        if opening == b"{":
            return True
        second = None if start[1].problem else as_record(parse(start[1].text, "").value)
        return isinstance(second, dict)


class OneByOne(Iterator[Trajectory]):
    """Trajectories that are read record by record, none of which depends on another."""

    def __init__(self, found: Iterator[Trajectory]) -> None:
        self._found = found

    def __next__(self) -> Trajectory:
        return next(self._found)


def shown_path(name: str) -> str:
    r"""Return a name that any file can hold; bytes that are not UTF-8 are written as ``\xff``."""
    return replace_surrogates(_NO_UTF8.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", name))


def as_record(value: Any) -> Any:
    """Return a bare list of messages as a record of them; anything else as it is."""
    bare = isinstance(value, list) and value
    if bare and all(isinstance(item, dict) and "role" in item for item in value):
        return {"messages": value}
    return value


def _object(record: Any) -> dict[str, Any]:
    record = as_record(record)
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise ValueError(f"the record is {kind} ({str(record)[:40]!r}), not an object")
    return record


def _check_numbers(trajectory: Trajectory) -> None:
    about = ("scores", trajectory.scores), ("usage", trajectory.usage)
    for name, value in (*about, ("source", trajectory.source)):
        values = value if name == "scores" else jsonable(value)
        # Most are no floats; what is, is rarely wrong.
        if any(isinstance(one, float | Mapping | list | tuple) for one in values.values()):
            if found := find_endless(values, name):
                raise ValueError(
                    f"the field {found!r} is NaN or infinite; a record holds finite numbers"
                )


def _ending(messages: tuple[Message, ...], prediction: str | None) -> str:
    """Guess the termination of an attempt from its last turn."""
    said = [m for m in messages if m["role"] == "assistant"]
    if not said:
        return "empty"
    if prediction is not None:
        return "finished"
    actions = parse_actions(said[-1])
    return "max_steps" if actions and actions[-1].name not in FINISH else "parse_error"


def _last_words(messages: Sequence[Message]) -> str | None:
    """Return what an agent said last, unless it called a tool, or writes its actions as text."""
    turns = [m for m in messages if m["role"] == "assistant"]
    if any(not m.get("tool_calls") and (_PARTS.match(text(m)) or parse_actions(m)) for m in turns):
        return None
    return text(turns[-1]).strip() or None if turns and not turns[-1].get("tool_calls") else None


def _graded(stated: str | None, answers: Sequence[str], task: str) -> Judged:
    """Grade a stated answer: exactly, against the best of the references."""
    graded = [grade(stated, reference, task) for reference in answers]
    scores = {name: max(one[name] for one in graded) for name in graded[0]} if graded else {}
    return Judged(stated, scores["em"] == 1.0 if graded else None, scores)


def _judged(said: str, answers: Sequence[str], task: str) -> Judged:
    """Judge last words: right if they are by one reference, wrong if by all, else unknown."""
    if not said or not answers:
        return _graded(said or None, answers, task)
    verdicts = [judge_free_text(said, reference, task) for reference in answers]
    right = next((one for one in verdicts if one.success), None)
    unknown = next((one for one in verdicts if one.success is None), verdicts[0])
    return right or unknown
