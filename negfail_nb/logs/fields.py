"""Reading fields of foreign records: what is missing or of the wrong type is said by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from negfail_nb.logs.blocks import call, unfold
from negfail_nb.trajectory import Message, printable

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "agent": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
    "function_call": "assistant",
}
WEIGHTS = ("weight", "loss", "train", "trainable", "loss_mask")
_READ = ("role", "content", "tool_calls", "function_call", *WEIGHTS)
_WORDS = {
    True: {
        "c",
        "true",
        "yes",
        "success",
        "succeeded",
        "correct",
        "pass",
        "passed",
        "solved",
        "resolved",
        "positive",
    },
    False: {
        "i",
        "n",
        "p",
        "false",
        "no",
        "failure",
        "failed",
        "fail",
        "incorrect",
        "wrong",
        "unsolved",
        "unresolved",
        "negative",
    },
}
_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def field(record: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """Return a field that must be there and of a type.

    Raises
    ------
    ValueError
        Otherwise; the text names the field and what it holds.
    """
    if name not in record:
        raise ValueError(
            f"the field {name!r} is missing; the record has {', '.join(map(str, record)) or 'no fields'}"
        )
    value, kinds = record[name], kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(dict.fromkeys(_KINDS[k] for k in kinds))
        raise ValueError(f"the field {name!r} is {shown(value)}, not {wanted}")
    return value


def shown(value: Any) -> str:
    """Return a value in words, shortened, for an error."""
    if value is None:
        return "null"
    text = printable(str(value))
    return f"{_KINDS.get(type(value), type(value).__name__)} ({text[:40]}{'..' if len(text) > 40 else ''})"


def messages(value: Any, name: str = "messages") -> tuple[Message, ...]:
    """Return chat messages in one form: known roles, text as content, arguments as a JSON string.

    Messages of other APIs are read as well (`negfail_nb.logs.blocks`), also where the list is JSON
    in a string. An assistant turn that its log keeps out of the loss (one of `WEIGHTS` is false or
    0) has ``weight`` 0.

    Raises
    ------
    ValueError
        Where it is no list of messages; the text names the message and what is wrong with it.
    """
    value = listed(value)
    if not isinstance(value, list):
        raise ValueError(f"the field {name!r} is {shown(value)}, not a list of messages")
    return tuple(_message(turn, f"{name}[{number}]") for number, turn in unfold(value))


def listed(value: Any) -> Any:
    """Return a list that is written as JSON in a string; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, list) else value


def first_user_text(turns: tuple[Message, ...]) -> str:
    """Return the text of the first user turn, or ``""``."""
    return next(
        (m["content"] for m in turns if m["role"] == "user" and isinstance(m["content"], str)), ""
    )


def truth(value: Any) -> bool | None:
    """Return what a label or a score says: full marks, which are 1, are a success, anything less is
    a failure.

    ``None`` where the value is no verdict, such as 45: whether that is much nobody knows. -1 is the
    failure of those who reward with 1 and -1. Follows inspect-ai for the letters: C is right, I, P
    and N are not.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        for verdict, words in _WORDS.items():
            if word in words:
                return verdict
        try:
            value = float(word)
        except ValueError:
            return None
    if isinstance(value, int | float) and (0 <= value <= 1 or value == -1):
        return value == 1
    return None


def unit_scores(values: Mapping[str, Any]) -> dict[str, float]:
    """Return those values that are numbers between 0 and 1."""
    return {
        str(k): float(v)
        for k, v in values.items()
        if isinstance(v, bool | int | float) and 0 <= v <= 1
    }


def deciding_score(scores: Mapping[str, Any], wanted: str) -> Any:
    """Return the score that decides success: the one asked for, or the only one; ``None`` where
    there is none.

    Raises
    ------
    ValueError
        Where the one asked for is missing, or none is asked for and there are several.
    """
    if wanted:
        if wanted not in scores:
            raise ValueError(
                f"there is no score {wanted!r}; the record has {', '.join(scores) or 'none'}"
            )
        return scores[wanted]
    if len(scores) > 1:
        raise ValueError(
            f"there are several scores ({', '.join(scores)}); say which one decides: score='{next(iter(scores))}'"
        )
    return next(iter(scores.values()), None)


def _message(item: Any, name: str) -> Message:
    if not isinstance(item, dict):
        raise ValueError(f"{name} is {shown(item)}, not a message")
    role = item.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise ValueError(f"{name} has the role {shown(role)}; known are {', '.join(ROLES)}")
    content = _content(item.get("content"), f"{name}.content")
    kept = {k: v for k, v in item.items() if k not in _READ}
    message = {"role": ROLES[role.lower()], "content": content, **kept}
    if message["role"] == "assistant" and any(_is_off(item.get(n)) for n in WEIGHTS):
        message["weight"] = 0
    calls = item.get("tool_calls") or (
        [{"function": item["function_call"]}] if item.get("function_call") else []
    )
    if calls:
        message["tool_calls"] = _calls(calls, f"{name}.tool_calls")
    return message


def _is_off(value: Any) -> bool:
    """Whether a weight says that a turn carries no loss; that of one without a weight, or with
    another, does.
    """
    return value is False or value in (0, "false", "False", "0")


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


def _calls(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {shown(value)}, not a list of calls")
    found = []
    for number, made in enumerate(value):
        made = call(made) if isinstance(made, dict) else {}
        function = made.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(f"{name}[{number}] has no function with a name")
        arguments = function.get("arguments", "")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments if arguments is not None else {}, ensure_ascii=False)
        identity = {"id": str(made["id"])} if made.get("id") is not None else {}
        found.append(
            {
                **identity,
                "type": "function",
                "function": {"name": function["name"], "arguments": arguments},
            }
        )
    return found
