"""Tables of questions and what was answered: CSV, TSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.fields import label_name, labelled, shown, truth
from negfail_nb.logs.importers.chat import joined
from negfail_nb.logs.messages import as_messages
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.logs.written import rendered_turns, said_turns, split_turns
from negfail_nb.trajectory import Problem, Source, Trajectory

QUESTIONS = ("question", "query", "prompt", "problem", "instruction", "input")
RESPONSES = ("messages", "trajectory", "response", "output", "completion")


@importer(
    "table",
    looks_like=lambda log: log.table and any(_is_run(sample) for sample in log.samples),
    fields="columns `question` and `response`; a column `messages` of JSON reads as `openai`",
)
def table(log: LogFile) -> Iterator[Trajectory | Problem]:
    """A CSV, TSV or Parquet table with a question and the text of a run in each row.

    The label is the first verdict under the names `LABELS`, the reference stands under ``answer``.
    """

    def read(record: dict[str, Any], where: str) -> Trajectory:
        if not _is_run(record):
            raise ValueError(
                f"the row needs a question and a response; it has {', '.join(record) or 'no cells'}"
            )
        asked = str(record[_name(record, QUESTIONS)])
        said = str(record[_name(record, RESPONSES)])
        if rendered_turns(asked):
            return labelled(log, record, where, as_messages(joined(asked, said)))
        before, turns = split_turns(said.split("\n"))
        if not turns[1:]:
            before, turns = "", rendered_turns(said) or said_turns(said)
        prompt = f"{asked}\n{before}".strip()
        given = record.get("prediction")
        return log.trajectory(
            where,
            question=asked,
            answer=str(record.get("answer", "")),
            messages=[{"role": "user", "content": prompt}, *turns],
            prediction=None if given is None else str(given),
            success=_verdict(record),
            id=f"table:{log.name}:{record['id']}" if "id" in record else "",
            source=Source(model=str(record.get("model", ""))),
        )

    return log.convert(read)


def _name(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if isinstance(record.get(name), str)), "")


def _is_run(record: Mapping[str, Any]) -> bool:
    return bool(_name(record, QUESTIONS) and _name(record, RESPONSES))


def _verdict(record: Mapping[str, Any]) -> bool | None:
    name = label_name(record)
    said = truth(record.get(name))
    if name and said is None:
        wrong = f"the column {name!r} is {shown(record[name])}"
        raise ValueError(f"{wrong}; a verdict is true, false, or a number 0 to 1")
    return said
