"""Tool calls in the text of a model: Llama 3 and Qwen write them as lines of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from negfail_nb.trajectory import Message

_WRAPPER = re.compile(r"</?tool_call>")


def make_message(text: str, tools: Sequence[dict[str, Any]], turn: int) -> Message:
    """Return the assistant message; lines that are JSON calls of tools that were offered become its tool calls.

    Parameters
    ----------
    text
        What the model wrote.
    tools
        Schemas of the tools that were offered; without any, nothing is taken for a call.
    turn
        Index of the message in its conversation; the ids of the calls are made from it.
    """
    offered = {tool.get("function", tool)["name"] for tool in tools}
    lines = [(line, _call(line, offered)) for line in (text.splitlines() if offered else ())]
    calls = [
        {
            "id": f"call_{turn}_{number}",
            "type": "function",
            "function": {"name": call[0], "arguments": json.dumps(call[1], ensure_ascii=False)},
        }
        for number, call in enumerate(call for _, call in lines if call)
    ]
    if not calls:
        return {"role": "assistant", "content": text}
    content = "\n".join(line for line, call in lines if not call and not _WRAPPER.fullmatch(line.strip())).strip()
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _call(line: str, offered: set[str]) -> tuple[str, dict[str, Any]] | None:
    """Read one call as Llama 3 ("parameters") and Qwen ("arguments") write it."""
    try:
        call = json.loads(_WRAPPER.sub("", line))
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or call.get("name") not in offered:
        return None
    arguments = call.get("parameters", call.get("arguments"))
    return (call["name"], arguments) if isinstance(arguments, dict) else None
