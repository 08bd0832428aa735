"""FireAct's dictionaries of trajectories (anchen1011/FireAct)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from negfail_nb.logs.fields import field, unit_scores
from negfail_nb.logs.messages import as_messages
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.logs.written import split_turns
from negfail_nb.trajectory import Message, Problem, Source, Trajectory

_ALPACA = re.compile(
    r"\A.*?### Instruction:\n(?P<question>.*?)\n### Response:\n?(?P<turns>.*)\Z", re.DOTALL
)
_MODEL = re.compile(r"hotpotqa_dev_\d+_\d+_(?P<model>.+)$")


@importer("fireact", looks_like=lambda log: log.has("traj", "gt", "reward"))
def fireact(log: LogFile) -> Iterator[Trajectory | Problem]:
    """A dict keyed by question index: ``reward`` is the label, ``traj`` alpaca text or OpenAI
    messages.

    The file name tells the model.
    """
    named = _MODEL.search(log.path.stem)
    model = named["model"] if named else ""

    def read(record: dict[str, Any], where: str) -> Trajectory:
        question, turns = _turns(field(record, "traj", (str, list)))
        prediction = record.get("pred")
        return log.trajectory(
            where,
            id=f"fireact:{model or log.name}:{where}",
            question=question,
            answer=str(field(record, "gt", (str, int, float, bool))),
            messages=turns,
            prediction=None if prediction is None else str(prediction),
            success=field(record, "reward", bool),
            scores=unit_scores({k: record[k] for k in ("em", "f1") if k in record}),
            source=Source(model=model),
        )

    return log.convert(read)


def _turns(traj: str | list) -> tuple[str, list[Message]]:
    if isinstance(traj, list):
        turns = list(as_messages(traj, "traj"))
        asked = next((m["content"] for m in turns if m["role"] == "user"), "")
        return asked, turns
    parts = _ALPACA.match(traj)
    if not parts:
        raise ValueError("the field 'traj' has no '### Instruction:' and '### Response:'")
    question = parts["question"].strip()
    _, turns = split_turns(parts["turns"].split("\n"))
    return question, [{"role": "user", "content": question}, *turns]
