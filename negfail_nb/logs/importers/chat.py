"""Chats as JSON: OpenAI messages, Anthropic's blocks, Responses items, ShareGPT, NAT's records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.fields import field, labelled, reference, unit_scores
from negfail_nb.logs.messages import CALLS, RESULTS, ROLES, THOUGHTS, as_messages, listed
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Problem, Source, Trajectory

TURNS = tuple(
    "messages conversations conversation traj trajectory history dialogue dialog chat turns".split()
)
# If a record holds its turns in two lists: what was sent, and what came back.
HALVES = (("input", "output"), ("prompt", "completion"), ("prompt", "response"))
_SYSTEM = ("system", "system_prompt", "instructions")
_BLOCKS = CALLS | RESULTS | THOUGHTS
_ITEMS = tuple(
    "function_call function_call_output reasoning custom_tool_call custom_tool_call_output".split()
)


@importer(
    "openai",
    looks_like=lambda log: _any(log, "openai"),
    fields='`messages` (or `conversations` ..): `[{"role", "content"}]`, also as JSON text',
)
def openai(log: LogFile) -> Iterator[Trajectory | Problem]:
    """OpenAI chat messages, with or without ``tool_calls``: one record a line, one array, or an
    array under a key.

    The label is the first verdict under the names `LABELS`, beside the messages or in an object of
    `BESIDE`: 1 is a success, a number from 0 on a failure, a number above 1 no verdict. The
    question is the record's own field or guessed from the turns of all records. Without a finishing
    action the prediction is what the agent said last.
    """
    return log.convert(lambda record, where: _chat(log, record, where))


@importer(
    "anthropic",
    looks_like=lambda log: _any(log, "anthropic"),
    fields='`messages`: `[{"role", "content": [{"type": "tool_use" ..}]}]`',
)
def anthropic(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Anthropic's messages with ``tool_use``, ``tool_result`` and ``thinking`` blocks."""
    return openai(log)


@importer(
    "responses",
    looks_like=lambda log: _any(log, "responses"),
    fields='`input` and `output`, or `messages`: `[{"type": "function_call" ..}]`',
)
def responses(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Items of OpenAI's Responses API: messages, ``function_call``, its output, ``reasoning``."""
    return openai(log)


@importer(
    "sharegpt",
    looks_like=lambda log: _any(log, "sharegpt"),
    fields='`conversations`: `[{"from", "value"}]`',
)
def sharegpt(log: LogFile) -> Iterator[Trajectory | Problem]:
    """ShareGPT: ``conversations`` of ``from`` and ``value``; labelled as the OpenAI form."""
    return openai(log)


@importer(
    "nat",
    looks_like=lambda log: log.has("conversations", "info") and any(map(_is_nat, log.samples)),
    fields='`conversations`: `[{"role", "content"}]`, `info`, `id`; the questions in a file',
)
def nat(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Records of the NAT repository (Reason-Wang/NAT): ``conversations``, ``info``, ``id``,
    temperature as ``source``.

    The question is not in them; it is joined by id from the file ``settings.questions``.
    """

    def read(record: dict[str, Any], where: str) -> Trajectory:
        key = str(field(record, "id", (str, int)))
        info = field(record, "info", dict)
        if key not in log.questions:
            known = f"{len(log.questions)} ids"
            raise ValueError(f"the id {key!r} is not in the file with the questions ({known})")
        asked = log.questions[key]
        answers, task = reference({"answer": info["gt"]} if info.get("gt") is not None else asked)
        temperature = record.get("source")
        turns = as_messages(field(record, "conversations", list), "conversations")
        question = str(field(asked, "question", str)).strip()
        prediction = info.get("pred")
        known = temperature not in (None, "")
        return log.trajectory(
            where,
            id=f"nat:{log.path.stem}:{key}:{temperature or 0}",
            question=question,
            answer=answers,
            task=task,
            messages=[{"role": "user", "content": question}, *turns],
            prediction=None if prediction is None else str(prediction),
            success=field(info, "reward", bool),
            scores=unit_scores({k: info[k] for k in ("em", "f1") if k in info}),
            source=Source(temperature=float(temperature) if known else None),
        )

    return log.convert(read)


def _is_nat(sample: Mapping[str, Any]) -> bool:
    turns = sample.get("conversations")
    return isinstance(turns, list) and any(isinstance(t, dict) and "role" in t for t in turns[:1])


def _any(log: LogFile, dialect: str) -> bool:
    return any(_dialect(sample) == dialect for sample in log.samples)


def _dialect(sample: Mapping[str, Any]) -> str:
    """Return which of these formats a record is written in, ``""`` if in none."""
    found = found_turns(sample)
    if not found or not any(map(is_turn, found[1])) or "traceId" in sample or "trace_id" in sample:
        return ""
    turns = [turn for turn in found[1] if isinstance(turn, dict)]
    if any(map(_is_sharegpt, turns)):
        return "sharegpt"
    if any(turn.get("type") in _ITEMS for turn in turns) or found[0] == "input and output":
        return "responses"
    contents = [turn["content"] for turn in turns if isinstance(turn.get("content"), list)]
    kinds = {part.get("type") for parts in contents for part in parts if isinstance(part, dict)}
    return "anthropic" if kinds & _BLOCKS else "openai"


def _chat(log: LogFile, record: dict[str, Any], where: str) -> Trajectory:
    name, turns = found_turns(record) or ("messages", field(record, "messages", list))
    named = enumerate(turns)
    said = [_said(t, f"{name}[{n}]") if _is_sharegpt(t) else t for n, t in named]
    return labelled(log, record, where, with_system(record, as_messages(said, name)))


def found_turns(record: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
    """Return the turns of a record and the name of their field, or ``None``."""
    for name in TURNS:
        turns = listed(record.get(name))
        if isinstance(turns, list) and any(map(is_turn, turns)):
            return name, turns
    named = next((name for name in TURNS if isinstance(record.get(name), list)), None)
    for sent, received in () if named else HALVES:
        halves = [_half(record.get(sent), "user"), _half(record.get(received), "assistant")]
        if all(half and all(map(is_turn, half)) for half in halves):
            return f"{sent} and {received}", halves[0] + halves[1]
    return (named, record[named]) if named else None


def _half(value: Any, role: str) -> list[Any]:
    value = listed(value)
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value.strip() else []
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def is_turn(item: Any) -> bool:
    """Whether this is a turn of a chat, of any API."""
    if not isinstance(item, dict):
        return False
    is_shared = "from" in item and "value" in item
    return isinstance(item.get("role"), str) or is_shared or item.get("type") in _ITEMS


def with_system(record: Mapping[str, Any], turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put the system prompt that stands beside the turns before them, if they have none."""
    if any(turn["role"] == "system" for turn in turns):
        return turns
    prompt = next((record[name] for name in _SYSTEM if record.get(name)), "")
    prompt = text({"content": prompt}) if isinstance(prompt, str | list) else ""
    return ({"role": "system", "content": prompt}, *turns) if prompt.strip() else turns


def _is_sharegpt(turn: Any) -> bool:
    return isinstance(turn, dict) and "from" in turn and "role" not in turn


def _said(turn: dict[str, Any], name: str) -> dict[str, Any]:
    sender = field(turn, "from", str)
    if sender.lower() not in ROLES:
        raise ValueError(f"{name} is from {sender!r}; known are {', '.join(ROLES)}")
    said = {k: v for k, v in turn.items() if k not in ("from", "value")} | {"role": sender}
    value = field(turn, "value", str)
    if sender.lower() in ("function_call", "tool_call"):
        calls = listed(value if value.lstrip().startswith("[") else f"[{value}]")
        is_list = isinstance(calls, list) and calls
        if is_list and all(isinstance(c, dict) and "name" in c for c in calls):
            return said | {"content": "", "tool_calls": calls}
    return said | {"content": value}
