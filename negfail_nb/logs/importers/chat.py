"""Chats as JSON: OpenAI messages, Anthropic's blocks, Responses items, ShareGPT, and the NAT
repository's records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.beside import labelled, reference
from negfail_nb.logs.blocks import CALLS, RESULTS, THOUGHTS
from negfail_nb.logs.fields import ROLES, field, listed, messages, unit_scores
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Problem, Source, Trajectory

TURNS = (
    *(
        "messages",
        "conversations",
        "conversation",
        "traj",
        "trajectory",
        "history",
        "dialogue",
        "dialog",
        "chat",
    ),
    "turns",
)
# Where a record holds its turns in two lists: what was sent, and what came back.
HALVES = (("input", "output"), ("prompt", "completion"), ("prompt", "response"))
_SYSTEM = ("system", "system_prompt", "instructions")
_BLOCKS = CALLS | RESULTS | THOUGHTS
_ITEMS = (
    "function_call",
    "function_call_output",
    "reasoning",
    "custom_tool_call",
    "custom_tool_call_output",
)


@importer(
    "openai",
    looks_like=lambda log: _any(log, "openai"),
    fields='`messages` (or `conversations`, `traj` ..): `[{"role", "content"}]`, also as JSON text or a bare list',
)
def openai(log: LogFile) -> Iterator[Trajectory | Problem]:
    """OpenAI chat messages, with or without ``tool_calls``: one record a line, one array, or an
    array under a key.

    The label is the first verdict under the names `LABELS`, beside the messages or one object below
    (`BESIDE`): 1 is a success, a number from 0 on a failure, a number above 1 no verdict. The
    question is the record's own field or guessed from the turns of all records. Without a finishing
    action the prediction is what the agent said last.
    """
    return log.convert(lambda record, where: chat(log, record, where))


@importer(
    "anthropic",
    looks_like=lambda log: _any(log, "anthropic"),
    fields='`messages`: `[{"role", "content": [{"type": "tool_use" ..}]}]`',
)
def anthropic(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Anthropic's messages: ``tool_use``, ``tool_result`` and ``thinking`` blocks; else as the
    OpenAI form.
    """
    return log.convert(lambda record, where: chat(log, record, where))


@importer(
    "responses",
    looks_like=lambda log: _any(log, "responses"),
    fields='`input` and `output`, or `messages`: `[{"type": "function_call" ..}]`',
)
def responses(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Items of OpenAI's Responses API: messages, ``function_call``, ``function_call_output``,
    ``reasoning``.
    """
    return log.convert(lambda record, where: chat(log, record, where))


@importer(
    "sharegpt",
    looks_like=lambda log: _any(log, "sharegpt"),
    fields='`conversations`: `[{"from", "value"}]`',
)
def sharegpt(log: LogFile) -> Iterator[Trajectory | Problem]:
    """ShareGPT: ``conversations`` of ``from`` and ``value``; the label is found as in the OpenAI
    form.
    """
    return log.convert(lambda record, where: chat(log, record, where))


@importer(
    "nat",
    looks_like=lambda log: (
        log.has("conversations", "info") and any("role" in t for t in _first_turns(log))
    ),
    fields='`conversations`: `[{"role", "content"}]`, `info`, `id`; the questions in a file of their own',
)
def nat(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Records of the NAT repository (Reason-Wang/NAT): ``conversations``, ``info``, ``id``,
    temperature as ``source``.

    The question is not in them; it is joined by id from the file ``settings.questions``.
    """

    def read(record: dict[str, Any], where: str) -> Trajectory:
        key, info = str(field(record, "id", (str, int))), field(record, "info", dict)
        asked = _question_of(log, key)
        answers, task = reference({"answer": info["gt"]} if info.get("gt") is not None else asked)
        temperature = record.get("source")
        turns = messages(field(record, "conversations", list), "conversations")
        question = str(field(asked, "question", str)).strip()
        prediction = info.get("pred")
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
            source=Source(
                temperature=float(temperature) if temperature not in (None, "") else None
            ),
        )

    return log.convert(read)


def chat(log: LogFile, record: dict[str, Any], where: str) -> Trajectory:
    """Return the trajectory of a record that holds a chat of any dialect."""
    name, turns = found_turns(record) or ("messages", field(record, "messages", list))
    return labelled(log, record, where, with_system(record, messages(_named(turns, name), name)))


def found_turns(record: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
    """Return the turns of a record and the name of their field; ``None`` where it has none."""
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


def is_turn(item: Any) -> bool:
    """Whether this is a turn of a chat, in any dialect."""
    if not isinstance(item, dict):
        return False
    return (
        isinstance(item.get("role"), str)
        or ("from" in item and "value" in item)
        or item.get("type") in _ITEMS
    )


def with_system(record: Mapping[str, Any], turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put the system prompt that stands beside the turns before them, where they have none."""
    if any(turn["role"] == "system" for turn in turns):
        return turns
    prompt = next((record[name] for name in _SYSTEM if record.get(name)), "")
    prompt = text({"content": prompt}) if isinstance(prompt, str | list) else ""
    return ({"role": "system", "content": prompt}, *turns) if prompt.strip() else turns


def _half(value: Any, role: str) -> list[Any]:
    """Return one half of a record as turns: a list of them, one of them, or a text."""
    value = listed(value)
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value.strip() else []
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def _named(turns: list[Any], name: str) -> list[Any]:
    return [
        _said(turn, f"{name}[{n}]") if _is_sharegpt(turn) else turn for n, turn in enumerate(turns)
    ]


def _is_sharegpt(turn: Any) -> bool:
    return isinstance(turn, dict) and "from" in turn and "role" not in turn


def _said(turn: dict[str, Any], name: str) -> dict[str, Any]:
    sender = field(turn, "from", str)
    if sender.lower() not in ROLES:
        raise ValueError(f"{name} is from {sender!r}; known are {', '.join(ROLES)}")
    said = {k: v for k, v in turn.items() if k not in ("from", "value")} | {"role": sender}
    value = field(turn, "value", str)
    calls = _written_calls(value) if sender.lower() in ("function_call", "tool_call") else []
    return said | ({"content": "", "tool_calls": calls} if calls else {"content": value})


def _written_calls(value: str) -> list[dict[str, Any]]:
    """Return calls that are written as JSON; none where it is something else, which then stays
    text.
    """
    found = listed(value if value.lstrip().startswith("[") else f"[{value}]")
    is_call = (
        isinstance(found, list)
        and found
        and all(isinstance(c, dict) and "name" in c for c in found)
    )
    return found if is_call else []


def _question_of(log: LogFile, key: str) -> dict[str, Any]:
    if key not in log.questions:
        raise ValueError(
            f"the id {key!r} is not in the file with the questions ({len(log.questions)} ids)"
        )
    return log.questions[key]


def _first_turns(log: LogFile) -> list[dict[str, Any]]:
    turns = [sample.get("conversations") for sample in log.samples]
    return [t[0] for t in turns if isinstance(t, list) and t and isinstance(t[0], dict)]


def _any(log: LogFile, dialect: str) -> bool:
    return any(_dialect(sample) == dialect for sample in log.samples)


def _dialect(sample: Mapping[str, Any]) -> str:
    """Return which of these formats a record is written in, ``""`` where in none."""
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
