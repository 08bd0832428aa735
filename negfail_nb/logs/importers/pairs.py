"""Preference pairs, answers of FlashRAG, and Alpaca's instructions: records that hold runs as texts
or halves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.beside import labelled
from negfail_nb.logs.fields import field, listed, messages, shown
from negfail_nb.logs.importers.chat import found_turns, is_turn, with_system
from negfail_nb.logs.importers.react import split_turns
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.trajectory import Message, Problem, Trajectory

SIDES = {"chosen": True, "rejected": False}
# "\n\nHuman: .. \n\nAssistant: .." in one text, as Anthropic's hh-rlhf has it.
_SPOKEN = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
_ACTS = re.compile(r"^[ \t]*(?:Thought|Action)[ \t]*\d*[ \t]*:", re.MULTILINE)
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
    """FlashRAG's results: each of ``golden_answers`` counts; the label is the EM of
    ``metric_score``, or judged.
    """

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
        before = (
            prompt
            if isinstance(prompt, list) and all(map(is_turn, prompt))
            else _user(prompt or asked)
        )
        turns = messages([*before, {"role": "assistant", "content": said}])
        return labelled(log, record, where, turns, question=asked, prediction=None, said=said)

    return log.convert(read)


@importer(
    "alpaca",
    looks_like=lambda log: any(_is_alpaca(sample) for sample in log.samples),
    fields="`instruction`, `output`: texts; mostly `input`",
)
def alpaca(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Alpaca's records, as FireAct has them for training: ``output`` is a reply, or a whole run as
    ReAct text.
    """

    def read(record: dict[str, Any], where: str) -> Trajectory:
        asked = "\n".join(
            filter(None, (field(record, "instruction", str), str(record.get("input") or "")))
        )
        reply = field(record, "output", str)
        turns = (
            split_turns(reply.split("\n"))[1]
            if _ACTS.search(reply)
            else [{"role": "assistant", "content": reply}]
        )
        given = {k: v for k, v in record.items() if k not in ("input", "output", "instruction")}
        return labelled(log, given, where, with_system(given, messages([*_user(asked), *turns])))

    return log.convert(read)


def _is_alpaca(sample: Mapping[str, Any]) -> bool:
    return all(
        isinstance(sample.get(name), str) for name in ("instruction", "output")
    ) and not found_turns(sample)


def _side(log: LogFile, record: Any, where: str, side: str) -> Trajectory:
    if not isinstance(record, dict):
        raise ValueError(f"the record is {shown(record)}, not an object")
    before = _before(record)
    turns = _half(field(record, side, (list, dict, str)))
    whole = len(turns) > 1 and any(
        turn.get("role", turn.get("from")) in ("user", "human") for turn in turns[:2]
    )
    read = messages(_roles([*([] if whole else before), *turns]), side)
    given = {
        k: v for k, v in record.items() if k not in SIDES and k not in ("score", "label", "reward")
    }
    return labelled(
        log,
        given,
        where,
        with_system(given, read),
        id=f"pairs:{log.name}:{record.get('id') or record.get('prompt_id') or where}:{side}",
        success=SIDES[side],
        said=None,
    )


def _before(record: Mapping[str, Any]) -> list[Any]:
    """Return the turns before the two sides."""
    found = found_turns(record)
    prompt = listed(record.get("prompt", record.get("question", record.get("instruction"))))
    if isinstance(prompt, list):
        return prompt
    return found[1] if found else _half(prompt, "user") if prompt else []


def _half(value: Any, role: str = "assistant") -> list[dict[str, Any]]:
    value = listed(value)
    if isinstance(value, dict):
        return [value]
    if isinstance(value, list):
        return value
    parts = _SPOKEN.split(str(value))
    if len(parts) > 2 and not parts[0].strip():
        names = {"Human": "user", "Assistant": "assistant"}
        return [
            {"role": names[n], "content": t.strip()}
            for n, t in zip(parts[1::2], parts[2::2], strict=True)
        ]
    return [{"role": role, "content": str(value)}]


def _roles(turns: list[Any]) -> list[Any]:
    """Return turns with ShareGPT's names made OpenAI's."""
    return [
        {"role": turn["from"], "content": turn.get("value")}
        if isinstance(turn, dict) and "from" in turn
        else turn
        for turn in turns
    ]


def _user(text: Any) -> list[Message]:
    return [{"role": "user", "content": str(text)}]
