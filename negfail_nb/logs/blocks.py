"""Turns of other chat APIs as OpenAI messages: Anthropic's blocks, OpenAI's Responses items,
OpenTelemetry's parts.

Gemini's parts, LangChain's and Hugging Face's messages are read on the way. Nothing is checked
here; `fields.messages` does that with what comes out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

Turn = dict[str, Any]

CALLS = frozenset(
    {"tool_use", "server_tool_use", "mcp_tool_use", "tool_call", "toolCall", "function_call"}
)
RESULTS = frozenset({"tool_result", "tool_call_response", "tool_response", "function_response"})
THOUGHTS = frozenset({"thinking", "reasoning", "reasoning_text", "redacted_thinking", "thought"})
TEXTS = frozenset({"text", "input_text", "output_text", "summary_text", "refusal"})
# Under which keys a part holds its text, or what a tool gave, the first that there is.
_TEXT = ("text", "content", "thinking", "reasoning", "refusal")
_GIVEN = ("content", "output", "response", "result")
_ARGUMENTS = ("arguments", "input", "args", "parameters")
_LANGCHAIN = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_CAMEL = {
    "reasoningContent": "reasoning_content",
    "toolCalls": "tool_calls",
    "toolCallId": "tool_call_id",
}


def unfold(items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Yield turns as OpenAI messages, each with the number of the item that it came from.

    Items that are no objects come out as they are. Of the Responses API, reasoning, a message and
    calls that follow each other are one assistant turn.
    """
    held: tuple[int, Turn] | None = None
    for number, item in enumerate(items):
        for turn in _turns(item):
            if held and _continues(held[1], turn):
                held = (held[0], _joined(held[1], turn))
                continue
            if held:
                yield held[0], _closed(held[1])
            held = (number, turn)
    if held:
        yield held[0], _closed(held[1])


def call(part: Turn) -> Turn:
    """Return a call of any dialect as OpenAI writes it: ``id`` where there is one, ``function`` of
    name and arguments.

    Without a name it comes out as it is.
    """
    function = part.get("function")
    inner = function if isinstance(function, dict) else part
    name = (
        function if isinstance(function, str) else inner.get("name") or inner.get("function_name")
    )
    if not isinstance(name, str):
        return part
    arguments = next((inner[key] for key in _ARGUMENTS if inner.get(key) is not None), None)
    if arguments is None:
        arguments = inner.get("arguments", "")
    identity = next(
        (part[key] for key in ("call_id", "tool_call_id", "id") if part.get(key) is not None), None
    )
    return {"id": identity, "function": {"name": name, "arguments": arguments}}


def _turns(item: Any) -> Iterator[Any]:
    if not isinstance(item, dict):
        yield item
        return
    if isinstance(item.get("content"), str) and "role" in item and item.keys().isdisjoint(_CAMEL):
        yield item  # most turns, and there are many
        return
    kind = str(item.get("type") or "")
    item = {_CAMEL.get(key, key): value for key, value in item.items()}
    if "role" not in item and kind in _LANGCHAIN:
        inner = item["data"] if isinstance(item.get("data"), dict) else item
        item = {**inner, "role": _LANGCHAIN[kind]}
    if "role" not in item and kind:
        yield from _item(item, kind)
        return
    parts = next(
        (item[key] for key in ("parts", "content") if isinstance(item.get(key), list)), None
    )
    if parts is None or not all(isinstance(part, str | dict) for part in parts):
        yield item
        return
    merges = kind == "message" and "output_text" in {
        part.get("type") for part in parts if isinstance(part, dict)
    }
    yield from _message(item, parts, {"_order": 1} if merges else {})


def _item(item: Turn, kind: str) -> Iterator[Turn]:
    """Yield the turn of a Responses item that has no role."""
    if kind == "reasoning":
        parts = [*_listed(item.get("summary")), *_listed(item.get("content"))]
        thought = "\n".join(text for part in parts if (text := _text(part)))
        if thought:
            yield {"role": "assistant", "content": "", "reasoning_content": thought, "_order": 0}
    elif kind.endswith("_call_output"):
        yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": _given(item)}
    elif kind.endswith("_call"):
        made = (
            call(item)
            if "name" in item
            else {"id": item.get("id"), "function": _builtin(item, kind)}
        )
        yield {"role": "assistant", "content": "", "tool_calls": [made], "_order": 2}
    else:
        yield item  # unknown, so that the check names it


def _builtin(item: Turn, kind: str) -> Turn:
    """Return a call of a tool that the server runs: its name is in the item's type."""
    beside = ("type", "id", "call_id", "status")
    return {
        "name": kind.removesuffix("_call"),
        "arguments": {k: v for k, v in item.items() if k not in beside},
    }


def _message(item: Turn, parts: list[Any], mark: Turn) -> Iterator[Turn]:
    """Yield a message with its parts sorted: what was said, thoughts, calls, and results as turns
    of their own.
    """
    said, thoughts, calls, results = [], [], [], []
    for part in parts:
        kind = _kind(part)
        if kind == "call":
            calls.append(call(part.get("functionCall", part)))
        elif kind == "result":
            results.append(_result(part))
        elif kind == "thought":
            thoughts.append(_text(part))
        else:
            said.append({"type": "text", "text": _text(part)} if kind == "text" else part)
    beside = {
        key: value for key, value in item.items() if key not in ("parts", "content", "type")
    } | mark
    if thoughts and any(thoughts):
        beside["reasoning_content"] = "\n".join(
            filter(None, [beside.get("reasoning_content"), *thoughts])
        )
    if calls:
        beside["tool_calls"] = [*(beside.get("tool_calls") or ()), *calls]
    agent = str(item.get("role")).lower() in ("assistant", "model", "ai")
    if not agent:
        yield from results
    if agent or said or not results:
        yield {**beside, "content": said}
    if agent:
        yield from results


def _kind(part: Any) -> str:
    if isinstance(part, str):
        return "text"
    kind = str(part.get("type") or "")
    if kind in CALLS or "functionCall" in part:
        return "call"
    if kind in RESULTS or "functionResponse" in part or kind.endswith("_tool_result"):
        return "result"
    if kind in THOUGHTS or part.get("thought") is True:
        return "thought"
    return "text" if kind in TEXTS or (not kind and isinstance(part.get("text"), str)) else ""


def _result(part: Turn) -> Turn:
    inner = part.get("functionResponse", part)
    identity = next(
        (inner[k] for k in ("tool_use_id", "tool_call_id", "call_id", "id") if inner.get(k)), None
    )
    turn = {"role": "tool", "content": _given(inner)}
    return turn if identity is None else {**turn, "tool_call_id": identity}


def _given(item: Turn) -> str:
    """Return what a tool gave, as text."""
    value = next((item[key] for key in _GIVEN if item.get(key) is not None), "")
    if isinstance(value, list) and all(
        isinstance(part, str | dict) and _text(part) for part in value
    ):
        return "".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    return next((part[key] for key in _TEXT if isinstance(part.get(key), str)), "")


def _listed(value: Any) -> list[Any]:
    return (
        [part for part in value if isinstance(part, str | dict)] if isinstance(value, list) else []
    )


def _continues(before: Turn, turn: Any) -> bool:
    ours = before.get("_order") if isinstance(before, dict) else None
    theirs = turn.get("_order") if isinstance(turn, dict) else None
    return ours is not None and theirs is not None and theirs >= ours


def _joined(before: Turn, turn: Turn) -> Turn:
    joined = {**before, **turn}
    for name, between in (("reasoning_content", "\n"), ("content", None), ("tool_calls", None)):
        found = [value for value in (before.get(name), turn.get(name)) if value]
        if len(found) == 2:
            joined[name] = between.join(found) if between else _together(*found)
        elif found:
            joined[name] = found[0]
    return joined


def _together(ours: Any, theirs: Any) -> Any:
    return ours + theirs if isinstance(ours, type(theirs)) else [*_parts(ours), *_parts(theirs)]


def _parts(content: Any) -> list[Any]:
    return [content] if isinstance(content, str) else list(content)


def _closed(turn: Any) -> Any:
    if not isinstance(turn, dict) or "_order" not in turn:
        return turn
    return {key: value for key, value in turn.items() if key != "_order"}
