"""Turns of any chat API as OpenAI messages: Anthropic's blocks, OpenAI's Responses items, parts of
OpenTelemetry, Gemini, Bedrock and the AI SDK, messages of LangChain, AutoGen and Hugging Face.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from negfail_nb.logs.fields import shown
from negfail_nb.toolcalls import parsed
from negfail_nb.trajectory import Message

Turn = dict[str, Any]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "ai", "agent"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response"), "tool"),
    **dict.fromkeys(("tool_response", "ipython"), "tool"),
    "function_call": "assistant",
}
_OFF = (0, False, "false", "False", "0")
WEIGHTS = ("weight", "loss", "train", "trainable", "loss_mask")
CALLS = frozenset(
    "tool_use server_tool_use mcp_tool_use tool_call toolCall function_call tool-call".split()
)
RESULTS = frozenset(
    "tool_result tool_call_response tool_response function_response tool-result".split()
)
THOUGHTS = frozenset("thinking reasoning reasoning_text redacted_thinking thought".split())
TEXTS = frozenset("text input_text output_text summary_text refusal".split())
# Under which keys a part holds its text, or a tool's result: the first that exists.
_TEXT = ("text", "content", "thinking", "reasoning", "refusal")
_GIVEN = ("content", "output", "response", "result", "errorText")
# Under which keys parts of Gemini's and of Bedrock's API hold a call, a result or a thought.
_CALLED = ("functionCall", "toolUse")
_RETURNED = ("functionResponse", "toolResult")
_SHOWN_TOOL = ("tool-", "dynamic-tool")  # of the AI SDK: a call with its result, in one part
_ARGUMENTS = ("arguments", "input", "args", "parameters")
_CALL_IDS = ("call_id", "tool_call_id", "toolUseId", "toolCallId", "id")
_RESULT_IDS = ("tool_use_id", "tool_call_id", "toolUseId", "toolCallId", "call_id", "id")
_READ = ("role", "content", "tool_calls", "function_call", *WEIGHTS)
_SAID = ("text", "value", "message", "system_prompt")  # if a turn with a role has no content
_AUTOGEN = ("Message", "Event")  # how the types of its turns end
_LANGCHAIN = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_CAMEL = {
    "reasoningContent": "reasoning_content",
    "toolCalls": "tool_calls",
    "toolCallId": "tool_call_id",
}


def as_messages(value: Any, name: str = "messages") -> tuple[Message, ...]:
    """Return chat messages in one form: known roles, text as content, arguments as a JSON string.

    The list may be JSON in a string. An assistant turn that its log keeps out of the loss (one of
    `WEIGHTS` is false or 0) has ``weight`` 0.

    Raises
    ------
    ValueError
        If it is no list of messages; the text names the message and what is wrong with it.
    """
    value = listed(value)
    if not isinstance(value, list):
        raise ValueError(f"the field {name!r} is {shown(value)}, not a list of messages")
    return tuple(_checked(turn, f"{name}[{number}]") for number, turn in _unfold(value))


def listed(value: Any) -> Any:
    """Return a list that is written as JSON in a string; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    found = parsed(value)
    return found if isinstance(found, list) else value


def _checked(item: Any, name: str) -> Message:
    if not isinstance(item, dict):
        raise ValueError(f"{name} is {shown(item)}, not a message")
    role = item.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise ValueError(f"{name} has the role {shown(role)}; known are {', '.join(ROLES)}")
    content = _content(item.get("content"), f"{name}.content")
    kept = {k: v for k, v in item.items() if k not in _READ}
    message = {"role": ROLES[role.lower()], "content": content, **kept}
    if message["role"] == "assistant" and any(item.get(name) in _OFF for name in WEIGHTS):
        message["weight"] = 0
    calls = item.get("tool_calls")
    if not calls and item.get("function_call"):
        calls = [{"function": item["function_call"]}]
    if calls:
        message["tool_calls"] = _checked_calls(calls, f"{name}.tool_calls")
    return message


def _content(value: Any, name: str) -> Any:
    if value is None:
        return ""
    if isinstance(value, list):
        parts = [{"type": "text", "text": p} if isinstance(p, str) else p for p in value]
        if not all(isinstance(p, dict) and isinstance(p.get("text", ""), str) for p in parts):
            raise ValueError(f"{name} has parts that are no objects with text")
        # A template takes text; a part without text (an image) keeps the list.
        return "".join(p["text"] for p in parts) if all("text" in p for p in parts) else parts
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}, not text")
    return value


def _checked_calls(value: Any, name: str) -> list[Turn]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {shown(value)}, not a list of calls")
    found = []
    for number, made in enumerate(value):
        made = _call(made) if isinstance(made, dict) else {}
        function = made.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(f"{name}[{number}] has no function with a name")
        arguments = function.get("arguments", "")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments if arguments is not None else {}, ensure_ascii=False)
        call = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        found.append({"id": str(made["id"]), **call} if made.get("id") is not None else call)
    return found


def _unfold(items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
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
                yield held[0], _without_order(held[1])
            held = (number, turn)
    if held:
        yield held[0], _without_order(held[1])


def _continues(before: Any, turn: Any) -> bool:
    ours, theirs = (t.get("_order") if isinstance(t, dict) else None for t in (before, turn))
    return ours is not None and theirs is not None and theirs >= ours


def _joined(before: Turn, turn: Turn) -> Turn:
    joined = {**before, **turn}
    for name in ("reasoning_content", "content", "tool_calls"):
        found = [value for value in (before.get(name), turn.get(name)) if value]
        if len(found) == 1:
            joined[name] = found[0]
        elif found and name == "reasoning_content":
            joined[name] = "\n".join(found)
        elif found and isinstance(found[0], type(found[1])):
            joined[name] = found[0] + found[1]
        elif found:
            parts = ([part] if isinstance(part, str) else part for part in found)
            joined[name] = [one for part in parts for one in part]
    return joined


def _without_order(turn: Any) -> Any:
    if not isinstance(turn, dict) or "_order" not in turn:
        return turn
    return {key: value for key, value in turn.items() if key != "_order"}


def _turns(item: Any) -> Iterator[Any]:
    if not isinstance(item, dict):
        yield item
        return
    if isinstance(item.get("content"), str) and "role" in item and item.keys().isdisjoint(_CAMEL):
        yield item  # most turns, and there are many
        return
    kind = str(item.get("type") or "")
    item = {_CAMEL.get(key, key): value for key, value in item.items()}
    if "role" not in item and is_langchain(item):
        inner = item["data"] if isinstance(item.get("data"), dict) else item
        item = {**inner, "role": _LANGCHAIN[kind]}
    if is_autogen(item):
        yield _autogen(item, kind)
        return
    if "role" not in item and kind:
        yield from _response_item(item, kind)
        return
    if item.get("content") is None and "parts" not in item:
        item = _with_content(item)
    lists = (item[key] for key in ("parts", "content") if isinstance(item.get(key), list))
    parts = next(lists, None)
    if parts is None or not all(isinstance(part, str | dict) for part in parts):
        yield item
        return
    kinds = [part.get("type") for part in parts if isinstance(part, dict)]
    merges = kind == "message" and "output_text" in kinds
    yield from _message(item, parts, {"_order": 1} if merges else {})


def is_langchain(item: Turn) -> bool:
    """Whether this is a turn of LangChain, as its messages are dumped."""
    return str(item.get("type")) in _LANGCHAIN and ("data" in item or "content" in item)


def is_autogen(item: Turn) -> bool:
    """Whether this is a turn of AutoGen."""
    return isinstance(item.get("source"), str) and str(item.get("type")).endswith(_AUTOGEN)


def _autogen(item: Turn, kind: str) -> Turn:
    content = item.get("content")
    if kind == "ThoughtEvent":
        return {"role": "assistant", "content": "", "reasoning_content": content, "_order": 0}
    if kind == "ToolCallRequestEvent":
        return {"role": "assistant", "content": "", "tool_calls": content, "_order": 2}
    if kind == "ToolCallExecutionEvent" and isinstance(content, list):
        return {"role": "tool", "content": "\n".join(_given(one) for one in content)}
    return {"role": "user" if item["source"] == "user" else "assistant", "content": content}


def _with_content(item: Turn) -> Turn:
    key = next((key for key in _SAID if isinstance(item.get(key), str)), None)
    rest = {name: value for name, value in item.items() if name not in _SAID}
    return item if key is None else {**rest, "content": item[key]}


def _response_item(item: Turn, kind: str) -> Iterator[Turn]:
    """Yield the turn of a Responses item that has no role."""
    if kind == "reasoning":
        lists = (item.get(key) for key in ("summary", "content"))
        parts = (part for value in lists if isinstance(value, list) for part in value)
        texts = (_text(part) for part in parts if isinstance(part, str | dict))
        if thought := "\n".join(filter(None, texts)):
            yield {"role": "assistant", "content": "", "reasoning_content": thought, "_order": 0}
    elif kind.endswith("_call_output"):
        yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": _given(item)}
    elif kind.endswith("_call"):
        if "name" in item:
            call = _call(item)
        else:  # of a tool that the server runs: its name is in the item's type
            beside = ("type", "id", "call_id", "status")
            arguments = {k: v for k, v in item.items() if k not in beside}
            function = {"name": kind.removesuffix("_call"), "arguments": arguments}
            call = {"id": item.get("id"), "function": function}
        yield {"role": "assistant", "content": "", "tool_calls": [call], "_order": 2}
    else:
        yield item  # unknown, so that the check names it


def _message(item: Turn, parts: list[Any], mark: Turn) -> Iterator[Turn]:
    """Yield a message with its parts sorted: said, thoughts, calls, and results as own turns.

    What an agent says after the result of a tool that its server runs is its next turn.
    """
    beside = {k: v for k, v in item.items() if k not in ("parts", "content", "type")} | mark
    parts = [half for part in parts for half in _halves(part)]
    agent = str(item.get("role")).lower() in ("assistant", "model", "ai")
    told = ("tool_calls", "reasoning_content")
    for number, some in enumerate(_stretches(parts) if agent else [parts]):
        first = {k: v for k, v in beside.items() if not (number and k in told)}
        yield from _sorted(first, some, agent)


def _stretches(parts: list[Any]) -> list[list[Any]]:
    """Split parts after each run of results."""
    found: list[list[Any]] = [[]]
    for part in parts:
        if found[-1] and _kind(found[-1][-1]) == "result" != _kind(part):
            found.append([])
        found[-1].append(part)
    return found


def _sorted(beside: Turn, parts: list[Any], agent: bool) -> Iterator[Turn]:
    said = []
    thoughts = []
    calls = []
    results = []
    for part in parts:
        kind = _kind(part)
        if kind == "call":
            calls.append(_call(_inner(part, _CALLED)))
        elif kind == "result":
            results.append(_result(part))
        elif kind == "thought":
            thoughts.append(_text(part))
        elif kind == "text":
            said.append({"type": "text", "text": _text(part)})
        elif part.get("type") != "step-start":
            said.append(part)
    if any(thoughts):
        whole = filter(None, [beside.get("reasoning_content"), *thoughts])
        beside = {**beside, "reasoning_content": "\n".join(whole)}
    if calls:
        beside = {**beside, "tool_calls": [*(beside.get("tool_calls") or ()), *calls]}
    if not agent:
        yield from results
    if agent or said or not results:
        yield {**beside, "content": said}
    if agent:
        yield from results


def _halves(part: Any) -> list[Any]:
    """Return a part, or the call and the result of a part of the AI SDK that holds both."""
    kind = str(part.get("type") or "") if isinstance(part, dict) else ""
    if kind in CALLS | RESULTS or not kind.startswith(_SHOWN_TOOL):
        return [part]
    name = part.get("toolName") or kind.removeprefix("tool-")
    shared = {"toolCallId": part.get("toolCallId"), "toolName": name}
    made = {"type": "tool-call", **shared, "input": part.get("input", part.get("args"))}
    told = {key: part[key] for key in _GIVEN if part.get(key) is not None}
    return [made, {"type": "tool-result", **shared, **told}] if told else [made]


def _inner(part: Turn, keys: tuple[str, ...]) -> Turn:
    return next((part[key] for key in keys if isinstance(part.get(key), dict)), part)


def _kind(part: Any) -> str:
    if isinstance(part, str):
        return "text"
    kind = str(part.get("type") or "")
    if kind in CALLS or any(isinstance(part.get(key), dict) for key in _CALLED):
        return "call"
    returned = any(isinstance(part.get(key), dict) for key in _RETURNED)
    if kind in RESULTS or returned or kind.endswith("_tool_result"):
        return "result"
    if kind in THOUGHTS or part.get("thought") is True or "reasoningContent" in part:
        return "thought"
    return "text" if kind in TEXTS or (not kind and isinstance(part.get("text"), str)) else ""


def _call(part: Turn) -> Turn:
    """Return a call of any API as OpenAI writes it: ``id``, and ``function`` of name and arguments.

    Without a name it comes out as it is.
    """
    function = part.get("function")
    inner = function if isinstance(function, dict) else part
    own = inner.get("name") or inner.get("function_name") or inner.get("toolName")
    name = function if isinstance(function, str) else own
    if not isinstance(name, str):
        return part
    given = (inner[key] for key in _ARGUMENTS if inner.get(key) is not None)
    arguments = next(given, inner.get("arguments", ""))
    ids = (part[key] for key in _CALL_IDS if part.get(key) is not None)
    return {"id": next(ids, None), "function": {"name": name, "arguments": arguments}}


def _result(part: Turn) -> Turn:
    inner = _inner(part, _RETURNED)
    identity = next((inner[name] for name in _RESULT_IDS if inner.get(name)), None)
    turn = {"role": "tool", "content": _given(inner)}
    return turn if identity is None else {**turn, "tool_call_id": identity}


def _given(item: Turn) -> str:
    """Return a tool's result as text."""
    value = next((item[key] for key in _GIVEN if item.get(key) is not None), "")
    if isinstance(value, list) and all(isinstance(p, str | dict) and _text(p) for p in value):
        return "".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    thought = part.get("reasoningContent")  # of Bedrock, one level further down
    if isinstance(thought, dict) and isinstance(thought.get("reasoningText"), dict):
        part = thought["reasoningText"]
    return next((part[key] for key in _TEXT if isinstance(part.get(key), str)), "")
