"""Tool calls that models write as text: the forms of Hermes, Llama, Mistral, DeepSeek etc., and
actions between tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from negfail_nb.trajectory import replace_surrogates

FINISH = frozenset({"finish", "final_answer", "answer", "submit"})
# Under which of its arguments a finishing call holds the answer: the first that exists.
ANSWER_KEYS = ("answer", "final_answer", "result", "response", "output", "value", "text")
# A text without one of these, in lower case, has no such call.
HINTS = (
    *("tool_c", "toolcall", "tool\u2581call", "<function", "<invoke"),
    *("functions.", "<|python_tag|>", "<|start_action|>", "functools["),
)

_NAMES = ("name", "tool_name", "tool", "action", "function")
_ARGUMENTS = ("arguments", "parameters", "action_input", "tool_input", "args", "input", "kwargs")
_JSON = json.JSONDecoder(strict=False)  # models write line breaks into strings
# What may stand around all calls.
_OPENING = (
    r"(?:(?:<(?:\w+:)?(?:tool_calls?|function_calls?)>|<\uff5ctool\u2581calls\u2581begin\uff5c>"
    r"|<\|tool_calls_section_begin\|>)\s*)?"
)
# A mark behind which one call, or a list of calls, stands as JSON ..
_MARK = re.compile(
    r"(?:<\|?tool_?calls?\|?>|\[TOOL_CALLS\]|<\|python_tag\|>|<\|START_ACTION\|>"
    r"|<function_?calls?>|functools(?=\[)|```tool_(?:call|code))\s*(?:json\s*)?(?=[{\[])",
    re.IGNORECASE,
)
# .. or a name, and then its arguments as JSON ..
_NAMED = re.compile(
    rf"{_OPENING}"
    r"(?:\[TOOL_CALLS\]\s*(?P<a>[\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?"
    r"|<function=(?P<b>[\w.-]+)>"
    r"|<\|tool_call_begin\|>\s*(?P<c>[\w.:-]+)\s*<\|tool_call_argument_begin\|>"
    r"|<\uff5ctool\u2581call\u2581begin\uff5c>(?:function<\uff5ctool\u2581sep\uff5c>)?"
    r"(?P<d>[\w.-]+)(?:<\uff5ctool\u2581sep\uff5c>|\s*```json)"
    r"|(?:(?:<\|start\|>assistant)?<\|channel\|>commentary\s*)?to=(?P<e>functions\.[\w.-]+)"
    r"[^{\n]{0,80}<\|message\|>)\s*(?=\{)",
    re.IGNORECASE,
)
# .. or a name, and each argument between tags of its own ..
_TAGGED = re.compile(
    rf"{_OPENING}<(?:function|invoke)(?:=|[ ]name=)[\"']?([\w.-]+)[\"']?[ ]*>"
    r"(?=\s*(?:<parameter|</))"
)
_PARAMETER = re.compile(
    r"\s*<parameter(?:=|[ ]name=)[\"']?([\w.-]+)[\"']?[^<>]*>(.*?)</parameter>", re.DOTALL
)
_GLM = re.compile(r"<tool_call>\s*([\w.-]+)\s*(?=<arg_key>)")
_GLM_PAIR = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
# .. or a call as Python writes it.
_PYTHON = re.compile(
    r"(?:<\|python_tag\|>|```tool_code)\s*(?:print\()?([\w.-]+?)(?:\.call)?\(([^()]*)\)\)?\s*"
    r"(?:\Z|\n|;|```|<)"
)
_KEYWORD = re.compile(
    r"(?<![\w\s])\s*([A-Za-z_]\w*)\s*=\s*(\"[^\"]*\"|'[^']*'|[^,\"']+)\s*(?:,|\Z)"
)
_CLOSING = re.compile(
    r"(?:\s*(?:```|</(?:tool_?calls?|function_?calls?|function|invoke)>|<\|/tool_call\|>"
    r"|<\|END_ACTION\|>|<\|tool_call_end\|>|<\uff5ctool\u2581call\u2581end\uff5c>"
    r"|<\|(?:call|eom_id|eot_id|im_end)\|>))+",
    re.IGNORECASE,
)

# The innermost tag counts: "<solution> The answer is <solution> 140 </solution>" answers 140.
_TAGS = re.compile(r"<(execute|solution)>((?:(?!<\1>).)*?)(?:</\1>|(\Z))", re.DOTALL)
# Of models that learnt to search (Search-R1, ReSearch, Search-o1): a call that begins a line or
# stands behind a sentence, and is closed. Tags that are only mentioned are none.
_SEARCHES = re.compile(
    r"(?:\A|(?<=[\n>.!?:]))[ \t]*(?:<(search|answer)>((?:(?!<\1>).)*?)</\1>"
    r"|<\|begin_search_query\|>((?:(?!<\|begin_search_q).)*?)<\|end_search_query\|>)",
    re.DOTALL,
)
_SEARCH_HINTS = ("</search>", "</answer>", "<|end_search_query|>")


@dataclass(frozen=True, slots=True)
class Action:
    """One call of a tool: its name in lower case, and its argument as text."""

    name: str
    argument: str

    @property
    def is_finish(self) -> bool:
        """Whether the call ends the episode with an answer."""
        return self.name in FINISH


class Found(NamedTuple):
    """An action and the place where it is written.

    Attributes
    ----------
    start, end
        Its first character, and the one behind its last.
    closed
        Whether it is written where it ends; else it ends with its line or part.
    values
        The arguments of a tool call, as they are written.
    explicit
        Whether what is written can only be a call, also with nothing around it.
    """

    action: Action
    start: int
    end: int
    closed: bool
    values: Any = None
    explicit: bool = True


def written_calls(said: str) -> list[Found]:
    """Return the tool calls that a text spells out, in order."""
    found: list[Found] = []
    for call in sorted(_spelled(said), key=lambda call: call.start):
        if not found or call.start >= found[-1].end or (call.start, call.end) == found[-1][1:3]:
            found.append(call)
    return found


def tagged_actions(said: str) -> list[Found]:
    """Return what stands in ``<execute>`` and ``<solution>`` tags; the last may be open."""
    found = []
    for tag in _TAGS.finditer(said):
        action = Action("finish" if tag[1] == "solution" else tag[1], tag[2].strip())
        found.append(Found(action, tag.start(), tag.end(), tag[3] is None))
    return found


def searches(said: str) -> list[Found]:
    """Return what stands in ``<search>`` and ``<answer>`` tags, or between Search-o1's marks."""
    if not any(hint in said for hint in _SEARCH_HINTS):
        return []
    found = []
    for tag in _SEARCHES.finditer(said):
        action = Action(tag[1] or "search", (tag[3] if tag[1] is None else tag[2]).strip())
        found.append(Found(action, tag.start(), tag.end(), True))
    return found


def first_json(text: str, start: int) -> tuple[Any, int] | None:
    """Return the JSON value at a place, and the place behind it; ``None`` if there is none."""
    try:
        return _JSON.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None


def _closed_json(text: str, start: int) -> tuple[Any, int] | None:
    """As `first_json`; a brace that is missing at the end, or before a closing tag, is added."""
    if whole := first_json(text, start):
        return whole
    tag = text.find("</", start)
    end = tag if tag >= 0 else len(text.rstrip())
    closed = first_json(text[:end] + "}", start)
    return closed and (closed[0], end)


def call_of(value: Any) -> tuple[str, Any] | None:
    """Return name and arguments of a call as JSON holds it; ``None`` if it is no call."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        return call_of(value["function"])
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), "")
    if not name.strip():
        return None
    key = next((key for key in _ARGUMENTS if key in value), None)
    rest = {k: v for k, v in value.items() if k not in (*_NAMES, "id", "type", "tool_call_id")}
    given = rest if key is None else value[key]
    return name_of(name), parsed(given) if isinstance(given, str) else given


def name_of(written: str) -> str:
    """Return a tool's name in lower case; "Final Answer" is the finishing action of that name."""
    name = re.sub(r":\d+$", "", written.strip().removeprefix("functions.")).lower()
    folded = re.sub("[ -]", "_", name)
    return folded if folded in FINISH else name


def parsed(arguments: str) -> Any:
    """Return what a JSON text holds, or the text if it is none."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def argument_of(name: str, values: Any) -> str:
    """Return arguments as text: a finishing call's answer, the only argument, or all as JSON."""
    if isinstance(values, dict):
        keys = ANSWER_KEYS if name in FINISH else ()
        only = next(iter(values.values())) if len(values) == 1 else values
        values = next((values[key] for key in keys if key in values), only)
    argument = values if isinstance(values, str) else json.dumps(values, ensure_ascii=False)
    return replace_surrogates(argument)  # an escaped one comes to light only here


def _spelled(said: str) -> Iterator[Found]:
    for mark in _MARK.finditer(said):
        value, end = _closed_json(said, mark.end()) or ([], 0)
        for one in value if isinstance(value, list) else [value]:
            if call := call_of(one):
                yield _found(said, mark.start(), end, *call)
    for named in _NAMED.finditer(said):
        if value := first_json(said, named.end()):
            name = name_of(next(filter(None, named.groups())))
            yield _found(said, named.start(), value[1], name, value[0])
    for pattern, pair in ((_TAGGED, _PARAMETER), (_GLM, _GLM_PAIR)):
        for tagged in pattern.finditer(said):
            values, end = _pairs(said, tagged.end(), pair)
            yield _found(said, tagged.start(), end, name_of(tagged[1]), values)
    for call in _PYTHON.finditer(said):
        keywords = {key: value.strip().strip("\"'") for key, value in _KEYWORD.findall(call[2])}
        values = keywords or call[2].strip().strip("\"'")
        yield _found(said, call.start(), call.end(2) + 1, name_of(call[1]), values)


def _pairs(said: str, position: int, pattern: re.Pattern[str]) -> tuple[dict[str, str], int]:
    values = {}
    while pair := pattern.match(said, position):
        values[pair[1].strip()] = pair[2].strip()
        position = pair.end()
    return values, position


def _found(said: str, start: int, end: int, name: str, values: Any) -> Found:
    closing = _CLOSING.match(said, end)
    behind = closing.end() if closing else end
    return Found(Action(name, argument_of(name, values)), start, behind, True, values)
