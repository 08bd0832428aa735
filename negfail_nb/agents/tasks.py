"""Questions to play and passages to search: of files in the layouts of HotpotQA and GSM8K or plain
records, and of data sets by name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from negfail_nb.agents.protocol import Task
from negfail_nb.data_sets import Located, Records, named_part, read_asked, read_data_set
from negfail_nb.logs.fields import field, shown
from negfail_nb.logs.jsontext import BOM, Record, explain, parse, read_lines
from negfail_nb.logs.questions import question_key
from negfail_nb.logs.reading import UNREADABLE
from negfail_nb.trajectory import SPLITS, TASKS, Problem, unique_ids

NAMED = 3  # records that an error names
LONGEST_LINE = 1 << 30  # bytes of a passage

logger = logging.getLogger("negfail_nb")


def load_tasks(
    path: str | Path,
    *,
    require_answers: bool = True,
    task: str = "",
    limit: int = 0,
    part: str = "",
    data: str | Path = "",
) -> list[Task]:
    """Read the questions of a file, JSON or JSON lines, or of a data set by its name.

    Known fields are ``question``; ``answer`` (GSM8K: what follows ``####``) or the first of
    ``golden_answers``; ``_id`` or ``id``; ``supporting_facts`` in HotpotQA's two layouts, or
    ``gold_titles``; ``task``, ``prompt`` and ``split``. Others are ignored. A question without an
    id gets one made from its words; an id that occurs again gets ``~2`` appended.

    Parameters
    ----------
    path
        The file; or the name of one of `negfail_nb.data_sets.data_sets`, such as ``"svamp"``
        (its test part) or ``"svamp/train"``. The ids of its questions begin with the name.
    require_answers
        Refuse questions without an answer; their episodes would have no scores and no label.
    task
        How answers are graded; empty: as the record says, else by the answer's form (``####`` and
        numbers are ``"math"``, true and false ``"yes_no"``, all else ``"qa"``).
    limit
        Read only the first ones; 0: all.
    part, data
        Of a data set: ``"train"`` or ``"test"``, and the folder of its files; see
        `negfail_nb.data_sets.read_data_set`.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it has no question, or records that cannot be used: the text counts them and names the
        first.
    """
    asked = read_asked(path, part, data)
    found, problems = read_tasks(asked, task, require_answers)
    if problems:
        named = "; ".join(f"{problem.record}: {problem.reason}" for problem in problems[:NAMED])
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        count = f"{len(problems)} of {len(problems) + len(found)}"
        raise ValueError(f"{asked.origin}: {count} records cannot be played: {named}{more}")
    if not found:
        raise ValueError(f"{asked.origin}: the file holds no questions")
    return [task for task, _ in found[: limit or None]]


def read_tasks(
    asked: Records, task: str = "", require_answers: bool = True
) -> tuple[list[tuple[Task, Located]], list[Problem]]:
    """Return the tasks of records, each with place and record, and what cannot be played.

    Arguments are those of `load_tasks`.
    """
    found = []
    problems = list(asked.problems)
    for where, record in asked.items:
        try:
            found.append((_task(record, task, require_answers, asked.name), (where, record)))
        except UNREADABLE as error:
            problems.append(Problem(asked.origin, where, explain(error)))
    names = list(unique_ids(task.id for task, _ in found))
    if copies := sum(task.id != name for (task, _), name in zip(found, names, strict=True)):
        message = "%d questions had the id of another; they got ~2, ~3 .. behind it"
        logger.warning(message, copies)
    named = zip(found, names, strict=True)
    return [(replace(task, id=name), located) for (task, located), name in named], problems


def _task(record: Any, task: str, require_answers: bool, name: str) -> Task:
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
    own = str(ids[0]) if ids else question_key(question)
    split = record.get("split")
    return Task(
        id=f"{name}-{own}" if name else own,
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


def load_corpus(
    path: str | Path, *, part: str = "", data: str | Path = ""
) -> list[tuple[str, str]]:
    """Read passages for the search tool from a file of JSON lines, or one JSON list.

    A record is a passage with a ``title`` and a ``text``, or a HotpotQA question whose ``context``
    holds passages (native layout, or that of the datasets library). Other fields are ignored.
    Equal passages, as questions share them, are kept once.

    Parameters
    ----------
    path
        The file, in UTF-8; or a data set whose questions have passages, as for `load_tasks`.
    part, data
        As for `load_tasks`.

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
    if named := named_part(path, part):
        asked = read_data_set(str(path), part, data)
        if not any("context" in record for record in asked):
            title = named[0].title
            raise ValueError(f"{asked.origin}: the questions of {title} come without passages")
        path = Path(asked.origin)
        records = (Record(where, record) for where, record in asked.items)
    else:
        path = Path(path)
        records = _records(path)
    found: dict[tuple[str, str], None] = {}
    for where, record, problem in records:
        try:
            if problem:
                raise ValueError(problem)
            found.update(dict.fromkeys(read_passages(record)))
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


def read_passages(record: Any) -> list[tuple[str, str]]:
    """Return title and text of the passages of a record, as for `load_corpus`."""
    return [(_checked("title", title), _checked("text", text)) for title, text in _passages(record)]


def _passages(record: Any) -> list[tuple[Any, Any]]:
    if not isinstance(record, Mapping):
        raise ValueError(
            f"the record is {type(record).__name__}, not an object with title and text"
        )
    if "context" not in record:
        return [(record.get("title"), record.get("text"))]
    return [(title, "".join(sentences)) for title, sentences in read_context(record)]


def read_context(record: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return title and sentences of each passage of a HotpotQA record, native or the hub's."""
    context = record["context"]
    try:
        if isinstance(context, Mapping):
            context = zip(context["title"], context["sentences"], strict=True)
        found = [(title, list(sentences)) for title, sentences in context]
        if not all(isinstance(sentence, str) for _, sentences in found for sentence in sentences):
            raise TypeError
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("the context is not a list of [title, sentences]") from error


def _checked(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r}; every passage needs a {name}")
    return value.strip()
