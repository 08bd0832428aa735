"""Tool calls that a model writes as text become the message's own; its content is what stands
before them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from negfail_nb.actions import read_calls
from negfail_nb.said import as_said
from negfail_nb.toolcalls import Found
from negfail_nb.trajectory import Message


def make_message(text: str, tools: Sequence[dict[str, Any]], turn: int) -> Message:
    """Return the assistant message; calls of tools that were offered, in its text, become its tool
    calls.

    Parameters
    ----------
    text
        What the model wrote. A thought in it becomes ``reasoning_content``; no call is read from
        it.
    tools
        Schemas of the tools that were offered; without any, nothing is taken for a call.
    turn
        Index of the message in its conversation; the ids of the calls are made from it.
    """
    message = as_said({"role": "assistant", "content": text}, aloud=True)
    offered = {
        tool.get("function", tool)["name"].lower(): tool.get("function", tool) for tool in tools
    }
    said = message["content"]
    found = [call for call in read_calls(said) if call.action.name in offered] if offered else []
    found = [call for call in found if isinstance(call.values, dict)]
    if not found:
        return message
    calls = [
        _call(call, offered[call.action.name], f"call_{turn}_{number}")
        for number, call in enumerate(found)
    ]
    return message | {"content": said[: found[0].start].strip(), "tool_calls": calls}


def _call(call: Found, tool: dict[str, Any], name: str) -> dict[str, Any]:
    arguments = json.dumps(call.values, ensure_ascii=False)
    return {
        "id": name,
        "type": "function",
        "function": {"name": tool["name"], "arguments": arguments},
    }
