"""Our own ``trajectories.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.fields import field, shown
from negfail_nb.logs.messages import as_messages
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.trajectory import Problem, Trajectory

NULL = type(None)
NUMBER = (int, float)
FIELDS = {
    **dict.fromkeys(
        ("id", "question_id", "question", "answer", "task", "termination", "split", "error"), str
    ),
    "prediction": (str, NULL),
    "success": (bool, NULL),
    **dict.fromkeys(("messages", "gold_titles", "tools"), list),
    **dict.fromkeys(("scores", "source", "usage"), dict),
}
SOURCE = {
    **dict.fromkeys(("model", "file", "record", "format"), str),
    "temperature": (*NUMBER, NULL),
    "seed": (int, NULL),
    "attempt": int,
}
USAGE = {
    **dict.fromkeys(("prompt_tokens", "completion_tokens", "calls"), (int, NULL)),
    "seconds": (*NUMBER, NULL),
}


@importer(
    "negfail",
    looks_like=lambda log: log.has("id", "question_id", "question", "termination", "messages"),
    fields="`id`, `question_id`, `question`; to be recognised also `messages`, `termination`",
)
def negfail(log: LogFile) -> Iterator[Trajectory | Problem]:
    """What `trajectory.write_trajectories` wrote, field by field; the first source is kept."""
    return log.convert(lambda record, where: _read(record))


def _read(record: dict[str, Any]) -> Trajectory:
    _check_fields(record, FIELDS)
    _check_fields(record.get("source", {}), SOURCE)
    _check_fields(record.get("usage", {}), USAGE)
    scores = record.get("scores", {})
    _check_fields(scores, dict.fromkeys(scores, (*NUMBER, bool)))
    _check_items(record, "gold_titles", str, "text")
    _check_items(record, "tools", dict, "an object")
    given = record.get("messages", [])
    for number, (ours, turn) in enumerate(zip(as_messages(given), given, strict=True)):
        if turn["role"] != ours["role"]:
            known = "in our own files it is one of system, user, assistant and tool"
            raise ValueError(f"messages[{number}] has the role {turn['role']!r}; {known}")
    return Trajectory.from_dict(record)


def _check_fields(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for name in kinds:
        if name not in values:
            continue
        value = field(values, name, kinds[name])
        # isfinite raises if an int is too large for it.
        if isinstance(value, int | float) and not math.isfinite(value):
            raise ValueError(f"the field {name!r} is {value}, not a finite number")


def _check_items(record: Mapping[str, Any], name: str, kind: type, wanted: str) -> None:
    for number, item in enumerate(record.get(name, [])):
        if not isinstance(item, kind):
            raise ValueError(f"{name}[{number}] is {shown(item)}, not {wanted}")
