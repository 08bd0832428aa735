"""ToRA's worked solutions with programs, and samples of its inference (microsoft/ToRA)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.fields import field, labelled, truth
from negfail_nb.logs.messages import as_messages
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.trajectory import Problem, Trajectory

_CORPUS = "tora-corpus"


@importer(
    "tora",
    looks_like=lambda log: (
        log.has("gt", "gt_cot", "messages") or any(map(_is_sampled, log.samples))
    ),
    fields="`gt`; `messages` with `gt_cot`, or `question` and `code` (with `pred`, `score`)",
)
def tora(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Worked solutions, which the corpus keeps only if they are right (arXiv 2309.17452, section
    3.1); and samples.

    Samples have several texts a record under ``code``, each a run with its own ``pred`` and
    ``score``.
    """
    for where, record in log.records():
        if isinstance(record, dict) and _is_sampled(record):
            codes = record["code"] if isinstance(record["code"], list) else [record["code"]]
            for number, code in enumerate(c for c in codes if isinstance(c, str)):
                yield from log.attempt(
                    where, lambda r=record, w=where, n=number, c=code: _sample(log, r, w, n, c)
                )
        else:
            yield from log.attempt(where, lambda r=record, w=where: _worked(log, r, w))


def _is_worked(sample: Mapping[str, Any]) -> bool:
    return "gt" in sample and "gt_cot" in sample and isinstance(sample.get("messages"), list)


def _is_sampled(sample: Mapping[str, Any]) -> bool:
    return "gt" in sample and "question" in sample and isinstance(sample.get("code"), str | list)


def _worked(log: LogFile, record: Any, where: str) -> Trajectory:
    turns = as_messages(field(record, "messages", list))
    kept = str(record.get("dataset", "")).startswith(_CORPUS)
    kept = kept and record.keys().isdisjoint(("success", "score", "reward", "correct"))
    given = {"success": True} if kept else {}
    return labelled(log, record, where, turns, task="math", **given)


def _sample(log: LogFile, record: dict[str, Any], where: str, number: int, code: str) -> Trajectory:
    predicted, score = (_of(record.get(name), number) for name in ("pred", "score"))
    asked = field(record, "question", str)
    return labelled(
        log,
        {k: v for k, v in record.items() if k not in ("pred", "score", "report")},
        where,
        as_messages([{"role": "user", "content": asked}, {"role": "assistant", "content": code}]),
        id=f"tora:{log.name}:{record.get('idx', where)}:{number}",
        question=asked,
        prediction=str(predicted) if predicted not in (None, "") else None,
        success=truth(score),
        task="math",
    )


def _of(value: Any, number: int) -> Any:
    """Return the entry of one sample; a single value holds for the only one."""
    if isinstance(value, list):
        return value[number] if number < len(value) else None
    return value if number == 0 else None
