"""Questions to play, from a file: HotpotQA's own records, GSM8K's, or plain ones."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from negfail_nb.agents.protocol import Task
from negfail_nb.logs.fields import field, shown
from negfail_nb.logs.jsontext import explain
from negfail_nb.logs.questions import question_key
from negfail_nb.logs.reading import UNREADABLE, LogFile
from negfail_nb.trajectory import SPLITS, TASKS

NAMED = 3  # records that an error names

logger = logging.getLogger("negfail_nb")


def load_tasks(
    path: str | Path, *, require_answers: bool = True, task: str = "", limit: int = 0
) -> list[Task]:
    """Read a file of questions, JSON or JSON lines.

    Known fields are ``question``; ``answer`` (of GSM8K what stands behind ``####``) or the first of
    ``golden_answers``; ``_id`` or ``id``; ``supporting_facts`` in HotpotQA's two layouts, or
    ``gold_titles``; ``task``, ``prompt`` and ``split``. Others are left alone. A question without
    an id gets one made from its words; an id that occurs again gets ``~2`` behind it.

    Parameters
    ----------
    path
        The file.
    require_answers
        Whether each question must have an answer. Without one an episode has no scores and no
        label.
    task
        How answers are graded; empty: as the record says, else by the answer's form (``####`` and
        numbers are ``"math"``, true and false ``"yes_no"``, all else ``"qa"``).
    limit
        So many questions at most, the first ones; 0: all.

    Raises
    ------
    FileNotFoundError
        Where the file does not exist.
    ValueError
        Where it has no question, or records that cannot be used: the text counts them and names the
        first.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of questions")
    log, tasks = LogFile(path), []
    for where, record in log.records():
        try:
            tasks.append(_task(record, task, require_answers))
        except UNREADABLE as error:
            log.report(where, explain(error))
    if log.problems:
        named = "; ".join(f"{problem.record}: {problem.reason}" for problem in log.problems[:NAMED])
        more = f"; and {len(log.problems) - NAMED} more" if len(log.problems) > NAMED else ""
        count = len(log.problems) + len(tasks)
        raise ValueError(
            f"{path}: {len(log.problems)} of {count} records cannot be played: {named}{more}"
        )
    if not tasks:
        raise ValueError(f"{path}: the file holds no questions")
    return list(_with_own_ids(tasks))[: limit or None]


def _task(record: Any, task: str, require_answers: bool) -> Task:
    if not isinstance(record, Mapping):
        raise ValueError(f"the record is {shown(record)}, not an object")
    question = field(record, "question", str).strip()
    if not question:
        raise ValueError("the field 'question' is empty")
    answer, kind = _answer(record.get("answer", _first(record.get("golden_answers"))))
    if require_answers and not answer:
        raise ValueError(
            "the field 'answer' is missing or empty; add it, or load with require_answers=False"
        )
    name = next(
        (record[key] for key in ("_id", "id", "question_id") if record.get(key) not in (None, "")),
        None,
    )
    return Task(
        id=question_key(question) if name is None else str(name),
        question=question,
        answer=answer,
        task=_one_of("task", task or record.get("task") or kind, TASKS),
        prompt=field(record, "prompt", str) if record.get("prompt") else "",
        gold_titles=_titles(record),
        split=record["split"]
        if record.get("split") in SPLITS
        else "",  # "dev" and the like say nothing here
    )


def _answer(value: Any) -> tuple[str, str]:
    """Return the reference answer, and the task that its form speaks for."""
    if value is None or isinstance(value, str):
        text = (value or "").strip()
        return (text.rsplit("####", 1)[1].strip(), "math") if "####" in text else (text, "qa")
    if isinstance(value, bool):
        return ("yes" if value else "no"), "yes_no"
    if isinstance(value, int | float):
        return str(value), "math"
    raise ValueError(f"the field 'answer' is {shown(value)}, not text")


def _first(value: Any) -> Any:
    """Return the first of FlashRAG's ``golden_answers``; an episode has one reference."""
    return next(iter(value), None) if isinstance(value, list) else value


def _titles(record: Mapping[str, Any]) -> tuple[str, ...]:
    facts = record.get("supporting_facts") or record.get("gold_titles") or ()
    titles = (
        facts["title"]
        if isinstance(facts, Mapping)
        else [f if isinstance(f, str) else f[0] for f in facts]
    )
    return tuple(dict.fromkeys(str(title) for title in titles))


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(
            f"the field {name!r} is {shown(value)}; use one of {', '.join(map(repr, allowed))}"
        )
    return value


def _with_own_ids(tasks: list[Task]) -> Iterator[Task]:
    seen: set[str] = set()
    copies: Counter[str] = Counter()
    for task in tasks:
        name = task.id
        while name in seen:
            copies[task.id] += 1
            name = f"{task.id}~{copies[task.id] + 1}"
        seen.add(name)
        yield replace(task, id=name)
    if copies:
        logger.warning(
            "%d questions had the id of another; they got ~2, ~3 .. behind it", copies.total()
        )
