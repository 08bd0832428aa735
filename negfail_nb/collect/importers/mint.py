"""MINT's JSON lines: many models with a Python or search tool (xingyaoww/mint-bench)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from negfail_nb.collect.fields import field, messages
from negfail_nb.collect.reading import LogFile
from negfail_nb.collect.registry import importer
from negfail_nb.trajectory import Message, Problem, Source, Trajectory

# Out of proposals is a finished attempt: the agent did give its answers.
ENDINGS = {"task_success": "finished", "max_propose_steps": "finished", "max_steps": "max_steps", "error": "crashed"}
TASKS = {"gsm8k": "math", "math": "math", "theoremqa": "math", "svamp": "math", "strategyqa": "yes_no"}
_SOLUTION = re.compile(r"<solution>((?:(?!<solution>).)*?)</solution>", re.DOTALL)


@importer("mint", looks_like=lambda log: log.has("terminate_reason", "messages", "success"))
def mint(log: LogFile) -> Iterator[Trajectory | Problem]:
    """One JSON line an attempt; the label is ``success``, the prediction the last ``<solution>`` proposed."""

    def read(record: dict[str, Any], where: str) -> Trajectory:
        reason = field(record, "terminate_reason", str)
        if reason not in ENDINGS:
            raise ValueError(f"terminate_reason is {reason!r}; known are {', '.join(ENDINGS)}")
        turns = messages(field(record, "messages", list))
        model, data = field(record, "model", str), field(record, "dataset", str)
        return log.trajectory(
            where,
            id=f"mint:{data}:{model}:{field(record, 'task_id', (int, str))}",
            question=field(record, "question", str),
            answer=str(field(record, "reference", (str, int, float))),
            task=TASKS.get(data, "qa"),
            messages=turns,
            prediction=_proposed(turns),
            success=field(record, "success", bool),
            termination=ENDINGS[reason],
            error=_last_line(record.get("error")) if reason == "error" else "",
            source=Source(model=model),
        )

    return log.convert(read)


def _proposed(turns: tuple[Message, ...]) -> str | None:
    """Return the last proposal. Of several in one turn MINT judges the first; an opening tag may be repeated."""
    for turn in reversed(turns):
        if turn["role"] == "assistant" and "<solution>" in turn["content"]:
            closed = _SOLUTION.search(turn["content"])
            return closed[1].strip() if closed else None  # None: as any agent's last finishing action
    return None


def _last_line(error: Any) -> str:
    """Return the last line of a traceback, which says what went wrong."""
    lines = [line for line in str(error or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "the log gives no reason"
