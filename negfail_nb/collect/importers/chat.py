"""Chats as JSON: OpenAI messages, ShareGPT, and the NAT repository's records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.collect.fields import (
    ROLES,
    deciding_score,
    field,
    first_user_text,
    messages,
    shown,
    truth,
    unit_scores,
)
from negfail_nb.collect.reading import LogFile
from negfail_nb.collect.registry import importer
from negfail_nb.steps import final_answer
from negfail_nb.trajectory import Message, Problem, Source, Trajectory

TURNS = ("messages", "traj", "trajectory", "conversation", "history")
LABELS = ("success", "resolved", "solved", "correct", "is_correct", "passed", "label", "reward", "score", "acc")
ANSWERS = ("answer", "reference", "reference_answer", "target", "gt", "gold", "expected")
PREDICTIONS = ("prediction", "pred", "predicted_answer")
BESIDE = ("info", "reward_info", "metadata", "result", "evaluation")


@importer("openai", looks_like=lambda log: any(_is_chat(sample) for sample in log.samples))
def openai(log: LogFile) -> Iterator[Trajectory | Problem]:
    """OpenAI chat messages, with or without ``tool_calls``: one record a line, one array, or an array under a key.

    The label is the first verdict under the names `LABELS`, beside the messages or one object below (`BESIDE`): 1 is a
    success, a number from 0 on a failure, a number above 1 no verdict. The question is the record's own field or the
    first user turn. Without a finishing action the prediction is the last thing that the agent said.
    """

    def read(record: dict[str, Any], where: str) -> Trajectory:
        name = next((n for n in TURNS if n in record), "messages")
        return _labelled(log, record, where, messages(field(record, name, list), name))

    return log.convert(read)


@importer("sharegpt", looks_like=lambda log: any("from" in turn for turn in _first_turns(log)))
def sharegpt(log: LogFile) -> Iterator[Trajectory | Problem]:
    """ShareGPT: ``conversations`` of ``from`` and ``value``; the label is found as in the OpenAI form."""

    def read(record: dict[str, Any], where: str) -> Trajectory:
        turns = [_said(turn, n) for n, turn in enumerate(field(record, "conversations", list))]
        return _labelled(log, record, where, messages(turns, "conversations"))

    return log.convert(read)


@importer(
    "nat", looks_like=lambda log: log.has("conversations", "info") and any("role" in t for t in _first_turns(log))
)
def nat(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Records of the NAT repository (Reason-Wang/NAT): ``conversations``, ``info``, ``id``, temperature as ``source``.

    The question is not in them; it is joined by id from the file ``settings.questions``.
    """

    def read(record: dict[str, Any], where: str) -> Trajectory:
        key, info = str(field(record, "id", (str, int))), field(record, "info", dict)
        asked = _question_of(log, key)
        answer, task = _reference(info.get("gt"), asked.get("answer"))
        temperature = record.get("source")
        turns = messages(field(record, "conversations", list), "conversations")
        question = str(field(asked, "question", str)).strip()
        prediction = info.get("pred")
        return log.trajectory(
            where,
            id=f"nat:{log.path.stem}:{key}:{temperature or 0}",
            question=question,
            answer=answer,
            task=task,
            messages=[{"role": "user", "content": question}, *turns],
            prediction=None if prediction is None else str(prediction),
            success=field(info, "reward", bool),
            scores=unit_scores({k: info[k] for k in ("em", "f1") if k in info}),
            source=Source(temperature=float(temperature) if temperature not in (None, "") else None),
        )

    return log.convert(read)


def _labelled(log: LogFile, record: dict[str, Any], where: str, turns: tuple[Message, ...]) -> Trajectory:
    fields = _beside(record)
    answer, task = _reference(next((fields[n] for n in ANSWERS if fields.get(n) is not None), None), None)
    given = next((fields[n] for n in PREDICTIONS if fields.get(n) is not None), None)
    question = fields.get("question") or first_user_text(turns)
    if not isinstance(question, str):
        raise ValueError(f"the field 'question' is {shown(question)}, not text")
    said = final_answer(turns)
    closing = turns[-1] if turns and turns[-1]["role"] == "assistant" and not turns[-1].get("tool_calls") else None
    spoken = closing["content"] if said is None and closing and isinstance(closing["content"], str) else said
    label, scores = _label(fields, log.settings.score)
    own = record.get("id") or record.get("trajectory_id")
    return log.trajectory(
        where,
        id=f"{log.format}:{log.name}:{own}" if isinstance(own, str | int) else "",
        question_id=str(fields.get("question_id") or ""),
        question=question,
        answer=answer,
        task=task,
        messages=turns,
        prediction=str(given) if given is not None else spoken or None,
        success=label,
        scores=scores,
        tools=tuple(t for t in fields.get("tools") or () if isinstance(t, dict))
        if isinstance(fields.get("tools"), list)
        else (),
        source=Source(
            model=str(fields.get("model") or ""), attempt=_integer(fields.get("trial", fields.get("attempt")))
        ),
    )


def _beside(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record's fields, and those of the objects beside its messages where it lacks them itself."""
    nested = [record[name] for name in BESIDE if isinstance(record.get(name), dict)]
    return {k: v for part in [*reversed(nested), record] for k, v in part.items()}


def _label(fields: Mapping[str, Any], wanted: str) -> tuple[bool | None, dict[str, float]]:
    several = fields.get("scores") or fields.get("score")
    if isinstance(several, dict) and several:
        return _verdict("scores", deciding_score(several, wanted)), unit_scores(several)
    if wanted:
        return _verdict(wanted, deciding_score(fields, wanted)), unit_scores({wanted: fields[wanted]})
    given = [n for n in LABELS if fields.get(n) is not None]
    # A class under "label" must not hide the reward; only where there is no verdict at all its lack is damage.
    name = next((n for n in given if truth(fields[n]) is not None), next((n for n in given if n != "label"), None))
    label = None if name is None else _verdict(name, fields[name])
    return label, unit_scores({n: fields[n] for n in ("reward", "score") if n in fields})


def _verdict(name: str, value: Any) -> bool | None:
    said = truth(value)
    # Many data sets keep a class under "label"; only there is a foreign word no damage.
    if said is None and value is not None and name != "label":
        raise ValueError(
            f"the field {name!r} is {shown(value)}; a verdict is true, false, a number between 0 and 1 or a word "
            "such as 'correct'. If another field is the label, name it: score='..'"
        )
    return said


def _reference(*values: Any) -> tuple[str, str]:
    """Return the first reference answer that there is, and the task that its form speaks for."""
    value = next((v for v in values if v is not None), "")
    if isinstance(value, list):
        value = value[0] if value else ""
    if isinstance(value, bool):
        return ("yes" if value else "no"), "yes_no"
    if isinstance(value, int | float):
        return str(value), "math"
    if not isinstance(value, str):
        raise ValueError(f"the reference answer is {shown(value)}, not text")
    return (value.rsplit("####", 1)[1].strip(), "math") if "####" in value else (value.strip(), "qa")


def _question_of(log: LogFile, key: str) -> dict[str, Any]:
    if key not in log.questions:
        raise ValueError(f"the id {key!r} is not in the file with the questions ({len(log.questions)} ids)")
    return log.questions[key]


def _said(turn: Any, number: int) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise ValueError(f"conversations[{number}] is {shown(turn)}, not a turn")
    sender = field(turn, "from", str)
    if sender.lower() not in ROLES:
        raise ValueError(f"conversations[{number}] is from {sender!r}; known are {', '.join(ROLES)}")
    return {"role": sender, "content": field(turn, "value", str)}


def _first_turns(log: LogFile) -> list[dict[str, Any]]:
    turns = [sample.get("conversations") for sample in log.samples]
    return [t[0] for t in turns if isinstance(t, list) and t and isinstance(t[0], dict)]


def _is_chat(sample: Mapping[str, Any]) -> bool:
    found = next((sample[name] for name in TURNS if name in sample), None)
    return isinstance(found, list) and any(isinstance(turn, dict) and "role" in turn for turn in found)


def _integer(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
