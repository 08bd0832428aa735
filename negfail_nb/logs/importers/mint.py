"""MINT's runs of many models (xingyaoww/mint-bench), as published and flattened."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from negfail_nb.logs.fields import field, usage
from negfail_nb.logs.messages import as_messages
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.trajectory import Message, Problem, Source, Trajectory

# An attempt without proposals left is finished: the agent did give its answers.
ENDINGS = {
    "task_success": "finished",
    "max_propose_steps": "finished",
    "max_steps": "max_steps",
    "error": "crashed",
}
TASKS = {**dict.fromkeys(("gsm8k", "math", "theoremqa", "svamp"), "math"), "strategyqa": "yes_no"}
_SOLUTION = re.compile(r"<solution>((?:(?!<solution>).)*?)</solution>", re.DOTALL)
# Folders of the published tree say who played what:
# MODEL/F=None/max2_p2+tool+cd/reasoning/gsm8k/results.jsonl.
_TREE = re.compile(
    r"(?:^|/)(?P<model>[^/]+)/F=[^/]+/(?:[^/]+/)?max\d+_p\d+[^/]*/[^/]+/(?P<data>[^/]+)/[^/]+$"
)
_FILE = re.compile(r"(?P<model>.+?)_(?P<data>[a-z0-9]+)(?:_max\d+)?$")


@importer(
    "mint",
    looks_like=lambda log: (
        log.has("terminate_reason", "messages", "success") or bool(_published(log))
    ),
    fields="`state`: `history`, `success`; `task`; or `messages`, `success`, `terminate_reason` ..",
)
def mint(log: LogFile) -> Iterator[Trajectory | Problem]:
    """One JSON line an attempt; the label is ``success``, the prediction the last ``<solution>``
    proposed.

    Of the published files, names of folders or file tell model and data set. They keep no turn
    after an answer that was right, and put the prompt with its examples into the first turn.
    """
    published = _published(log)
    read = _of_state if published else _flattened
    return log.convert(lambda record, where: read(log, record, where))


def _flattened(log: LogFile, record: dict[str, Any], where: str) -> Trajectory:
    reason = field(record, "terminate_reason", str)
    if reason not in ENDINGS:
        raise ValueError(f"terminate_reason is {reason!r}; known are {', '.join(ENDINGS)}")
    turns = as_messages(field(record, "messages", list))
    model = field(record, "model", str)
    data = field(record, "dataset", str)
    return log.trajectory(
        where,
        id=f"mint:{data}:{model}:{field(record, 'task_id', (int, str))}",
        question=field(record, "question", str),
        answer=str(field(record, "reference", (str, int, float))),
        task=TASKS.get(data, "qa"),
        messages=turns,
        prediction=_proposed(turns),
        said="",
        success=field(record, "success", bool),
        termination=ENDINGS[reason],
        error=_last_line(record.get("error")) if reason == "error" else "",
        source=Source(model=model),
    )


def _of_state(log: LogFile, record: dict[str, Any], where: str) -> Trajectory:
    """Read a published record; all but its label and its turns may be missing."""
    state = field(record, "state", dict)
    task = field(record, "task", dict)
    turns = as_messages(field(state, "history", list), "state.history")
    model, data = _played(log, task)
    error = state.get("error")
    key = next((task[k] for k in ("task_id", "id") if task.get(k) is not None), where)
    ending = "crashed" if error else ENDINGS.get(str(state.get("terminate_reason")), "")
    return log.trajectory(
        where,
        id=f"mint:{data}:{model or log.name}:{key}",
        question=field(task, "prompt", str),
        answer=_answer(task.get("reference")),
        task=TASKS.get(data, "qa"),
        messages=turns,
        prediction=_proposed(turns),
        said="",
        success=field(state, "success", bool),
        termination=ending,
        error=_last_line(error) if error else "",
        source=Source(model=model),
        usage=usage(
            state.get("token_counter"),
            prompt_tokens="prompt_tokens",
            completion_tokens="completion_tokens",
        ),
    )


def _published(log: LogFile) -> bool:
    return any(
        isinstance(sample.get("task"), dict) and "history" in sample["state"]
        for sample in log.samples
        if isinstance(sample.get("state"), dict)
    )


def _played(log: LogFile, task: dict[str, Any]) -> tuple[str, str]:
    """Return model and data set by the names of folders or file."""
    named = _TREE.search(log.path.resolve().as_posix()) or _FILE.match(log.path.stem)
    return (named["model"], named["data"]) if named else ("", str(task.get("task_name") or ""))


def _answer(value: Any) -> str:
    """Return a reference as text: an answer, or what judges a task of another kind."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _proposed(turns: tuple[Message, ...]) -> str | None:
    """Return the last proposal; of several in one turn MINT judges the first."""
    for turn in reversed(turns):
        if turn["role"] == "assistant" and "<solution>" in turn["content"]:
            closed = _SOLUTION.search(turn["content"])
            return closed[1].strip() if closed else None  # then the last finishing action counts
    return None


def _last_line(error: Any) -> str:
    """Return the last line of a traceback, which says what went wrong."""
    lines = [line for line in str(error or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "the log gives no reason"
