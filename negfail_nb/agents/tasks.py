"""Questions to play and passages to search, from files: HotpotQA's, GSM8K's, or plain records."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from negfail_nb.agents.protocol import Task
from negfail_nb.logs.fields import field, shown
from negfail_nb.logs.jsontext import BOM, Record, explain, parse, read_lines
from negfail_nb.logs.questions import question_key
from negfail_nb.logs.reading import UNREADABLE, LogFile
from negfail_nb.trajectory import SPLITS, TASKS, unique_ids

NAMED = 3  # records that an error names
LONGEST_LINE = 1 << 30  # bytes of a passage

logger = logging.getLogger("negfail_nb")


def load_tasks(
    path: str | Path, *, require_answers: bool = True, task: str = "", limit: int = 0
) -> list[Task]:
    """Read a file of questions, JSON or JSON lines.

    Known fields are ``question``; ``answer`` (GSM8K: what follows ``####``) or the first of
    ``golden_answers``; ``_id`` or ``id``; ``supporting_facts`` in HotpotQA's two layouts, or
    ``gold_titles``; ``task``, ``prompt`` and ``split``. Others are ignored. A question without an
    id gets one made from its words; an id that occurs again gets ``~2`` appended.

    Parameters
    ----------
    path
        The file.
    require_answers
        Refuse questions without an answer; their episodes would have no scores and no label.
    task
        How answers are graded; empty: as the record says, else by the answer's form (``####`` and
        numbers are ``"math"``, true and false ``"yes_no"``, all else ``"qa"``).
    limit
        Read only the first ones; 0: all.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it has no question, or records that cannot be used: the text counts them and names the
        first.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of questions")
    log = LogFile(path)
    tasks = []
    for where, record in log.records():
        try:
            tasks.append(_task(record, task, require_answers))
        except UNREADABLE as error:
            log.report(where, explain(error))
    if log.problems:
        named = "; ".join(f"{problem.record}: {problem.reason}" for problem in log.problems[:NAMED])
        more = f"; and {len(log.problems) - NAMED} more" if len(log.problems) > NAMED else ""
        count = f"{len(log.problems)} of {len(log.problems) + len(tasks)}"
        raise ValueError(f"{path}: {count} records cannot be played: {named}{more}")
    if not tasks:
        raise ValueError(f"{path}: the file holds no questions")
    named = [
        replace(task, id=name)
        for task, name in zip(tasks, unique_ids(task.id for task in tasks), strict=True)
    ]
    if copies := sum(a.id != b.id for a, b in zip(tasks, named, strict=True)):
        message = "%d questions had the id of another; they got ~2, ~3 .. behind it"
        logger.warning(message, copies)
    return named[: limit or None]


def _task(record: Any, task: str, require_answers: bool) -> Task:
    if not isinstance(record, Mapping):
        raise ValueError(f"the record is {shown(record)}, not an object")
    question = field(record, "question", str).strip()
    if not question:
        raise ValueError("the field 'question' is empty")
    answers = record.get("golden_answers")
    first = next(iter(answers), None) if isinstance(answers, list) else answers
    answer, form = _answer(record.get("answer", first))
    if require_answers and not answer:
        raise ValueError(
            "the field 'answer' is missing or empty; add it, or load with require_answers=False"
        )
    kind = task or record.get("task") or form
    if kind not in TASKS:
        known = ", ".join(map(repr, TASKS))
        raise ValueError(f"the field 'task' is {shown(kind)}; use one of {known}")
    ids = [record[key] for key in ("_id", "id", "question_id") if record.get(key) not in (None, "")]
    split = record.get("split")
    return Task(
        id=str(ids[0]) if ids else question_key(question),
        question=question,
        answer=answer,
        task=kind,
        prompt=field(record, "prompt", str) if record.get("prompt") else "",
        gold_titles=_titles(record),
        split=split if split in SPLITS else "",  # "dev" and the like say nothing here
    )


def _answer(value: Any) -> tuple[str, str]:
    """Return the reference answer, and the kind of task that its form suggests."""
    if value is None or isinstance(value, str):
        text = (value or "").strip()
        return (text.rsplit("####", 1)[1].strip(), "math") if "####" in text else (text, "qa")
    if isinstance(value, bool):
        return ("yes" if value else "no"), "yes_no"
    if isinstance(value, int | float):
        return str(value), "math"
    raise ValueError(f"the field 'answer' is {shown(value)}, not text")


def _titles(record: Mapping[str, Any]) -> tuple[str, ...]:
    facts = record.get("supporting_facts") or record.get("gold_titles") or ()
    if isinstance(facts, Mapping):
        titles = facts["title"]
    else:
        titles = [f if isinstance(f, str) else f[0] for f in facts]
    return tuple(dict.fromkeys(str(title) for title in titles))


def load_corpus(path: str | Path) -> list[tuple[str, str]]:
    """Read passages for the search tool from a file of JSON lines, or one JSON list.

    A record is a passage with a ``title`` and a ``text``, or a HotpotQA question whose ``context``
    holds passages (native layout, or that of the datasets library). Other fields are ignored.
    Equal passages, as questions share them, are kept once.

    Parameters
    ----------
    path
        The file, in UTF-8.

    Returns
    -------
    list
        ``(title, text)`` pairs in the order of the file.

    Raises
    ------
    ValueError
        If the file cannot be read, or has no passage or a record that is none; the text names file
        and line (in a JSON list: the record).
    """
    path = Path(path)
    found: dict[tuple[str, str], None] = {}
    for where, record, problem in _records(path):
        try:
            if problem:
                raise ValueError(problem)
            for title, text in _passages(record):
                found[_checked("title", title), _checked("text", text)] = None
        except ValueError as error:
            raise ValueError(f"{path}: {where}: {error}") from error
    if not found:
        raise ValueError(
            f"{path}: there are no passages; a corpus has one JSON record per line, with title and "
            "text"
        )
    return list(found)


def _records(path: Path) -> Iterator[Record]:
    try:
        with path.open("rb") as stream:
            is_list = stream.read(1024).removeprefix(BOM).lstrip().startswith(b"[")
        if not is_list:
            for number, text, problem in read_lines(path.open("rb"), LONGEST_LINE):
                where = f"line {number}"
                if problem:
                    yield Record(where, None, problem)
                elif text.strip():
                    yield parse(text, where)
            return
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot read the corpus: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 at byte {error.start + 1}; save the corpus as UTF-8"
        ) from error
    whole = parse(content, "JSON list")
    if whole.problem:
        yield whole
    else:
        yield from (Record(f"record {n}", value) for n, value in enumerate(whole.value, 1))


def _passages(record: Any) -> list[tuple[Any, Any]]:
    if not isinstance(record, Mapping):
        raise ValueError(
            f"the record is {type(record).__name__}, not an object with title and text"
        )
    if "context" not in record:
        return [(record.get("title"), record.get("text"))]
    context = record["context"]
    try:
        if isinstance(context, Mapping):
            context = zip(context["title"], context["sentences"], strict=True)
        return [(title, "".join(sentences)) for title, sentences in context]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("the context is not a list of [title, sentences]") from error


def _checked(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r}; every passage needs a {name}")
    return value.strip()
