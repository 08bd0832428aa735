"""Our own ``trajectories.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.collect.fields import field, messages, shown
from negfail_nb.collect.reading import LogFile
from negfail_nb.collect.registry import importer
from negfail_nb.trajectory import Problem, Trajectory


@importer("negfail", looks_like=lambda log: log.has("id", "question_id", "question", "termination", "messages"))
def negfail(log: LogFile) -> Iterator[Trajectory | Problem]:
    """What `negfail_nb.trajectory.write_trajectories` wrote, field by field; the first source is kept."""

    def read(record: dict[str, Any], where: str) -> Trajectory:
        for name in ("id", "question_id", "question"):
            field(record, name, str)
        messages(record.get("messages", []))
        if not isinstance(record.get("success"), bool | None):
            raise ValueError(f"the field 'success' is {shown(record['success'])}, not true, false or null")
        if not isinstance(record.get("scores", {}), Mapping):
            raise ValueError(f"the field 'scores' is {shown(record['scores'])}, not an object")
        return Trajectory.from_dict(record)

    return log.convert(read)
