"""Preference pairs, FlashRAG's answers, Alpaca's instructions: runs as texts or halves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.fields import field, labelled, shown
from negfail_nb.logs.importers.chat import (
    found_turns,
    half,
    is_turn,
    joined,
    openai_turns,
    with_system,
)
from negfail_nb.logs.messages import ROLES, as_messages, listed
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.logs.written import said_turns
from negfail_nb.trajectory import Message, Problem, Trajectory

SIDES = {"chosen": True, "rejected": False}
_REPLIES = ("pred", "prediction", "response", "raw_pred", "answer_text")


@importer(
    "pairs",
    looks_like=lambda log: log.has("chosen", "rejected"),
    fields="`chosen`, `rejected`: messages or texts; mostly `prompt`",
)
def pairs(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Preference pairs (DPO): two runs a record at one question, the chosen a success, the rejected
    a failure.

    Each side is a whole chat, its last turns or a text; the turns before it may stand under
    ``prompt``.
    """
    for where, record in log.records():
        for side in SIDES:
            yield from log.attempt(where, lambda r=record, w=where, s=side: _side(log, r, w, s))


@importer(
    "flashrag",
    looks_like=lambda log: (
        log.has("question", "golden_answers") and not any(map(found_turns, log.samples))
    ),
    fields="`question`, `golden_answers`, and `pred` in the record or under `output`",
)
def flashrag(log: LogFile) -> Iterator[Trajectory | Problem]:
    """FlashRAG's results: each of ``golden_answers`` counts; the label is the EM, or judged."""

    def read(record: dict[str, Any], where: str) -> Trajectory:
        output = record["output"] if isinstance(record.get("output"), dict) else {}
        told = {**record, **output}
        said = next((told[name] for name in _REPLIES if isinstance(told.get(name), str)), None)
        if said is None:
            raise ValueError(
                "a question without a run; give a file of questions as questions='...'"
            )
        asked = field(record, "question", str)
        prompt = listed(told.get("prompt"))
        is_chat = isinstance(prompt, list) and all(map(is_turn, prompt))
        before = prompt if is_chat else half(prompt or asked, "user")
        turns = as_messages([*before, *said_turns(said)])
        return labelled(log, record, where, turns, question=asked, prediction=None)

    return log.convert(read)


@importer(
    "alpaca",
    looks_like=lambda log: any(_is_alpaca(sample) for sample in log.samples),
    fields="`instruction`, `output`: texts; mostly `input`",
)
def alpaca(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Alpaca's records, as of FireAct: ``output`` is a reply, or a whole run as ReAct text."""

    def read(record: dict[str, Any], where: str) -> Trajectory:
        texts = (field(record, "instruction", str), str(record.get("input") or ""))
        asked = "\n".join(filter(None, texts))
        reply = field(record, "output", str)
        turns = said_turns(reply)
        given = {k: v for k, v in record.items() if k not in ("input", "output", "instruction")}
        return labelled(log, given, where, with_system(given, as_messages([*_user(asked), *turns])))

    return log.convert(read)


def _is_alpaca(sample: Mapping[str, Any]) -> bool:
    texts = all(isinstance(sample.get(name), str) for name in ("instruction", "output"))
    return texts and not found_turns(sample)


def _side(log: LogFile, record: Any, where: str, side: str) -> Trajectory:
    if not isinstance(record, dict):
        raise ValueError(f"the record is {shown(record)}, not an object")
    before = _before(record)
    given = field(record, side, (list, dict, str))
    turns = half(given, "assistant")
    if not _is_whole(turns, before):
        turns = joined(before, given)
    read = openai_turns(turns, side)
    others = (*SIDES, "score", "label", "reward")
    given = {k: v for k, v in record.items() if k not in others}
    return labelled(
        log,
        given,
        where,
        with_system(given, read),
        id=f"pairs:{log.name}:{record.get('id') or record.get('prompt_id') or where}:{side}",
        success=SIDES[side],
        said=None,
    )


def _is_whole(turns: list[Any], before: Any) -> bool:
    """Whether a side begins as its chat does, and not behind what stands before the two sides."""
    before = half(before, "user")
    first = next((turn for turn in turns if _sender(turn) != "system"), None)
    if not before or first is None or first in before:
        return True
    return _sender(first) == "user" and _sender(before[-1]) != "assistant"


def _sender(turn: Any) -> str:
    role = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
    return ROLES.get(str(role).lower(), "")


def _before(record: Mapping[str, Any]) -> Any:
    """Return what stands before the two sides: turns, or a text."""
    prompt = listed(record.get("prompt", record.get("question", record.get("instruction"))))
    if isinstance(prompt, list):
        return prompt
    found = found_turns(record)
    return found[1] if found else prompt


def _user(text: Any) -> list[Message]:
    return [{"role": "user", "content": str(text)}]
