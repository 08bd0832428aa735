"""Chats as JSON: OpenAI messages, Anthropic's blocks, Responses items, ShareGPT, NAT's records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.fields import field, labelled, reference, unit_scores
from negfail_nb.logs.messages import (
    CALLS,
    RESULTS,
    ROLES,
    THOUGHTS,
    as_messages,
    is_autogen,
    is_langchain,
    listed,
)
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.logs.written import rendered_turns, said_turns
from negfail_nb.steps import text
from negfail_nb.toolcalls import parsed
from negfail_nb.trajectory import Message, Problem, Source, Trajectory

TURNS = tuple(
    "messages conversations conversation traj trajectory history dialogue dialog chat turns"
    " contents".split()
)
# If a record holds its turns in two fields: what was sent, and what came back.
HALVES = (("input", "output"), ("prompt", "completion"), ("prompt", "response"))
# Under which keys a record holds the reply to turns that end before it, and where in a server's
# reply the turn is.
REPLIES = tuple("response completion reply generation output message choices candidates".split())
_WITHIN = ("body", "message", "choices", "candidates", "content", "output", "text")
# Objects in which a record may hold its turns.
_NESTED = ("output", "result", "data", "request", "body")
_SYSTEM = ("system", "system_prompt", "instructions", "systemInstruction", "system_instruction")
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
    return labelled(log, record, where, with_system(record, openai_turns(turns, name)))


def openai_turns(turns: list[Any], name: str) -> tuple[Message, ...]:
    """Return turns of any API, ShareGPT's too, as messages; ``name`` is their field, for errors."""
    numbered = enumerate(turns)
    said = [_said(t, f"{name}[{n}]") if _is_sharegpt(t) else t for n, t in numbered]
    return as_messages(said, name)


def found_turns(record: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
    """Return the turns of a record and the name of their field, or ``None``."""
    for name in TURNS:
        turns = listed(record.get(name))
        if isinstance(turns, list) and any(map(is_turn, turns)):
            return name, [*turns, *_reply(record, turns)]
    named = next((name for name in TURNS if isinstance(record.get(name), list)), None)
    for sent, received in () if named else HALVES:
        halves = joined(record.get(sent), record.get(received))
        if halves:
            return f"{sent} and {received}", halves
    if named:
        return named, record[named]
    for name in _NESTED:
        inner = record[name] if isinstance(record.get(name), dict) else {}
        if inner.keys().isdisjoint(TURNS):
            continue
        if found := found_turns(inner):
            return f"{name}.{found[0]}", [*found[1], *_reply(record, found[1])]
    return None


def _reply(record: Mapping[str, Any], turns: list[Any]) -> list[Any]:
    """Return the reply that stands beside turns, if they end before it."""
    last = turns[-1] if isinstance(turns[-1], dict) else {}
    sender = str(last.get("role") or last.get("from") or "assistant").lower()
    if ROLES.get(sender, "assistant") == "assistant":
        return []
    given = {name: record[name] for name in REPLIES if record.get(name)}
    if isinstance(given.get("message"), str):  # mostly what went wrong
        del given["message"]
    return next(filter(None, map(replied, given.values())), [])


def replied(value: Any) -> list[Any]:
    """Return the turns of a reply: a text, or what the server of any API sent; else none."""
    if isinstance(value, str):
        told = parsed(value) if value.lstrip().startswith(("{", "[")) else value
        return (not isinstance(told, str) and replied(told)) or half(value, "assistant")
    if isinstance(value, list):
        whole = bool(value) and all(map(is_turn, value))
        return value if whole else replied(value[0]) if value else []
    if not isinstance(value, dict):
        return []
    if is_turn(value):
        return [value]
    return next(filter(None, (replied(value[k]) for k in _WITHIN if value.get(k))), [])


def joined(sent: Any, received: Any) -> list[Any]:
    """Return the turns of a prompt and a reply, see `half`; none if one of them is missing.

    If the prompt is a rendered chat, both are read as one text: it may end within a turn.
    """
    if isinstance(sent, str) and isinstance(received, str) and rendered_turns(sent):
        return rendered_turns(sent + received)
    halves = half(sent, "user"), half(received, "assistant")
    whole = all(part and all(map(is_turn, part)) for part in halves)
    return halves[0] + halves[1] if whole else []


def half(value: Any, role: str) -> list[Any]:
    """Return the turns of a list, one turn, or a text: a rendered chat, or said by ``role``."""
    value = listed(value)
    if isinstance(value, str):
        if not value.strip():
            return []
        said = said_turns(value) if role == "assistant" else [{"role": role, "content": value}]
        return rendered_turns(value) or said
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def is_turn(item: Any) -> bool:
    """Whether this is a turn of a chat, of any API."""
    if not isinstance(item, dict):
        return False
    is_shared = "from" in item and "value" in item
    known = item.get("type") in _ITEMS or is_autogen(item) or is_langchain(item)
    return isinstance(item.get("role"), str) or is_shared or known


def with_system(record: Mapping[str, Any], turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put the system prompt that stands beside the turns before them, if they have none."""
    if any(turn["role"] == "system" for turn in turns):
        return turns
    prompt = next((record[name] for name in _SYSTEM if record.get(name)), "")
    prompt = prompt.get("parts", "") if isinstance(prompt, dict) else prompt
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
