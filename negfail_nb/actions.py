"""Actions in what a model said: which tools it calls, however it writes that. Nothing is executed.

ReAct text (``Action: search[..]``, numbered or not, in Markdown, with round brackets, or as
LangChain writes it: ``Action: search``, ``Action Input: ..``, a JSON blob, ``Final Answer: ..``),
tags (``<execute>``, ``<solution>``; ``<search>``, ``<answer>``) and the tool calls that models
write as text (see `negfail_nb.toolcalls`). Prose is no action.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from negfail_nb.toolcalls import (
    HINTS,
    Action,
    Found,
    argument_of,
    call_of,
    first_json,
    name_of,
    searches,
    tagged_actions,
    written_calls,
)

# What may stand before a word that opens a part: white space, quotes, bullets, numbers of a list,
# emphasis.
_LINE = r"^(?:[ \t>*_#`\u2022\u2013-]|\d{1,2}[.)][ \t])*"
_NUMBERED = r"[ \t]*(?:[#(]?[ \t]*\d+\)?)?[*_`]*[ \t]*"
_ACTION = re.compile(
    rf"{_LINE}(?:next[ \t]+)?(?:Action{_NUMBERED}|(Final[ \t]+Answer)[ \t]*[*_`]*[ \t]*)"
    r"(?::[ \t*_`]*|$)",
    re.MULTILINE | re.IGNORECASE,
)
_PLAIN_LEAD = re.compile(r"[ \t]*(?:Action[ \t]*\d*|Final[ \t]Answer)[ \t]*:", re.IGNORECASE)
_WITHIN_LINE = re.compile(
    r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)[ \t]+Action[ \t]*\d*[ \t]*:[ \t]*(?=\w)"
)
_NEXT_PART = re.compile(
    rf"{_LINE}(?:(?:Thought|Observation|Action){_NUMBERED}|Final[ \t]+Answer[ \t]*[*_`]*[ \t]*)"
    r"(?::|$)|^[ \t]*<(?:observation|tool_response|tool_result)\b",
    re.MULTILINE | re.IGNORECASE,
)
# An answer of the environment that the model wrote itself: _OBSERVED counts anywhere, _ANSWERED
# behind an action.
_OWN = (
    rf"{_LINE}(?:Observation|Obs){_NUMBERED}:"
    r"|<\|?(?:observation|tool_response|tool_result|function_results?)\|?>"
    r"|<\|im_start\|>(?:user|tool)"
)
_OWN_HINTS = ("obs", "<tool_res", "<function_result", "<|im_start|>")  # much quicker
_OBSERVED = re.compile(_OWN, re.MULTILINE | re.IGNORECASE)
_ANSWERED = re.compile(
    rf"{_OWN}|\bObservation{_NUMBERED}:"
    r"|^[ \t]*<(?:result|output|search_results?|information|documents?)>"
    rf"|{_LINE}(?:(?:(?:tool|function|search|api)[ \t]+)?(?:results?|response|output)"
    rf"|user|human|environment|system|tool){_NUMBERED}:",
    re.MULTILINE | re.IGNORECASE,
)
_WITH_INPUT = re.compile(
    r"[ \t\n]*[\[*`\"]*([A-Za-z][\w -]{0,63}?)[\]*`\"]*[ \t.,;]*\n?"
    rf"{_LINE[1:]}Action[ \t]Input[ \t]*\d*[*_`]*[ \t]*:[ \t*_]*(.*)",
    re.DOTALL | re.IGNORECASE,
)
_FENCED = re.compile(r"\s*```\w*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_NAME_LENGTH = 64
_NAME_WORDS = 3
# A name ends where its bracket opens; a digit or a hyphen belongs to it only inside of a word.
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z_ ]|(?<=[\w-])\d|(?<=\w)-(?=\w))*\Z", re.ASCII)
_ROUND = re.compile(r"\s*(?:(?:,|;|and|then)\s+)?[`*]*([A-Za-z_][\w.-]{0,63})[`*]*\(")
_BEHIND_CALL = re.compile(r"[ \t`*.;]*(?:\n|\Z|(?=(?:,|;|and|then)\s+[`*]*[A-Za-z_][\w.-]*\())")
_COLON = re.compile(
    r"\s*[`*]*(?!action\b)([A-Za-z_][\w-]{0,63})[`*]*[ \t]*"
    r"(?:(?::|->|=>)[ \t*`]*|(?=\"[^\"\n]+\"[ \t.]*(?:\n|\Z)))([^\s*`][^\n]*)",
    re.IGNORECASE,
)
_BARE = re.compile(
    r"^[ \t>*`-]*(?:([A-Za-z][A-Za-z_-]{2,})\[.*\]|([A-Za-z_]\w{2,})\((?:\w+=)?[\"'].*[\"']\))"
    r"[ \t*`.]*$",
    re.MULTILINE,
)
_WIDE = str.maketrans("\uff1a\uff3b\uff3d\u3010\u3011\uff08\uff09\u201c\u201d\uff0c", ':[][]()"",')
_LONE_JSON = re.compile(r"^[ \t]*(?:```\w*\s*)?(?=[{\[]\s*[{\"])", re.MULTILINE)
_LISTED = re.compile(r"\s*\[(?=\w+\()(.*)\]\s*", re.DOTALL)
_EMPHASIS = " \t\r\n*`"
_SHOWN = 80


class Text(NamedTuple):
    """A text to match on, in which wide signs are plain, and the same text as it is written."""

    plain: str
    written: str


def read_actions(said: str) -> list[Found]:
    """Return the actions of what was said, up to an observation that the model wrote itself."""
    if "<execute>" in said or "<solution>" in said:
        return _before_answers(said, tagged_actions(said))
    lowered = said.lower()
    if any(hint in lowered for hint in HINTS) and (found := written_calls(said)):
        return _before_answers(said, found)
    text = Text(_plain(said), said)
    return (
        _react(text, lowered)
        or _before_answers(said, searches(said))
        or _without_lead(text, lowered)
    )


def read_calls(said: str) -> list[Found]:
    """Return the tool calls that a text spells out, in a family's marks or as JSON on its own."""
    return written_calls(said) or _lone_json(Text(said, said))


def as_played(said: str) -> str:
    r"""Return what was said up to the end of its first action, or to an observation of its own.

    What follows never happened: the environment has not answered yet.

    Examples
    --------
    >>> as_played("Action 1: search[x]\nObservation 1: Sweden\nAction 2: finish[Sweden]")
    'Action 1: search[x]'
    """
    ends = [first.end for first in read_actions(said)[:1]]
    lowered = said.lower()
    if any(hint in lowered for hint in _OWN_HINTS) and (own := _OBSERVED.search(said)):
        ends.append(own.start())
    end = min(ends, default=len(said))
    return said[:end].rstrip() if end < len(said) else said


def is_open(said: str) -> bool:
    """Whether the first action runs to the end of the text, so that a cut may have cost some."""
    found = read_actions(said)
    return bool(found) and not found[0].closed and found[0].end >= len(said.rstrip())


def why_no_action(said: str) -> str:
    """Return why no action can be read in what was said; ``""`` if one can be read.

    Examples
    --------
    >>> why_no_action("Action: search[Oslo")
    "the bracket of 'search[Oslo' is never closed"
    """
    if read_actions(said):
        return ""
    if not said.strip():
        return "nothing was said"
    if lead := _lead(said, said.lower()):
        rest = said[lead.end() :].strip().partition("\n")[0]
        if re.match(r"[\w ]{1,64}[\[(]", rest):
            return f"the bracket of {_shown(rest)} is never closed"
        return f"what follows {lead[0].strip()!r} is no call such as search[query]: {_shown(rest)}"
    if any(hint in said.lower() for hint in HINTS):
        return f"the tool call is no JSON with a name and arguments: {_shown(said)}"
    if (own := _OBSERVED.search(said)) and not said[: own.start()].strip():
        return f"it begins with an observation of its own: {_shown(said)}"
    return f"there is neither a line 'Action: tool[argument]' nor a tool call: {_shown(said)}"


def find_lead(said: str) -> tuple[int, bool] | None:
    """Return where the first line that announces an action begins, and if it is plain ReAct."""
    lead = _lead(said, said.lower())
    return (lead.start(), _PLAIN_LEAD.match(lead[0]) is not None) if lead else None


def _lead(said: str, lowered: str) -> re.Match[str] | None:
    return _ACTION.search(_plain(said)) if "action" in lowered or "answer" in lowered else None


def _plain(said: str) -> str:
    return said if said.isascii() else said.translate(_WIDE)


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..")


def _before_answers(said: str, found: list[Found]) -> list[Found]:
    """Return the actions before the first observation that stands behind one of them."""
    for number, (one, following) in enumerate(zip(found, found[1:], strict=False), 1):
        if _ANSWERED.search(said, one.end, following.start):
            return found[:number]
    return found


def _react(text: Text, lowered: str) -> list[Found]:
    if "action" not in lowered and "answer" not in lowered:
        return []
    found: list[Found] = []
    for lead in _ACTION.finditer(text.plain):
        done = found[-1].end if found else 0
        if lead.start() < done:
            continue
        if found and _ANSWERED.search(text.plain, done, lead.start()):
            break
        following = _NEXT_PART.search(text.plain, lead.end())
        stop = following.start() if following else len(text.plain)
        if lead[1]:
            written = text.written[lead.end() : stop].rstrip()
            action = Action("final_answer", written.strip(_EMPHASIS))
            calls = [Found(action, lead.start(), lead.end() + len(written), False)]
        else:
            calls = _part(text, lead.end(), stop)
        found += [call._replace(start=lead.start()) for call in calls[:1]] + calls[1:]
    return found


def _part(text: Text, start: int, stop: int) -> list[Found]:
    """Return the calls of what follows one ``Action:``."""
    return (
        _blob(text, start)
        or _with_input(text, start, stop)
        or list(_round_calls(text, start, stop))
        or _colon_call(text, start, stop)
        or list(_square_calls(text, start, stop))
    )


def _blob(text: Text, start: int) -> list[Found]:
    """Return a JSON call, or a list of them, at a place, in a fence or not."""
    opening = re.compile(r"\s*(?:```\w*\s*)?(?=[{\[]\s*[{\"])").match(text.written, start)
    if not opening or (parsed := first_json(text.written, opening.end())) is None:
        return []
    value, end = parsed
    fence = re.compile(r"\s*```").match(text.written, end) if "```" in opening[0] else None
    end = fence.end() if fence else end
    found = []
    for one in value if isinstance(value, list) else [value]:
        if call := call_of(one):
            action = Action(call[0], argument_of(*call))
            found.append(Found(action, start, end, True, call[1], _is_explicit(one)))
    return found


def _with_input(text: Text, start: int, stop: int) -> list[Found]:
    call = _WITH_INPUT.match(text.plain, start, stop)
    if not call:
        return []
    own = None if "```" in call[2] else _ANSWERED.search(text.plain, call.start(2), stop)
    written = text.written[call.start(2) : own.start() if own else call.end(2)]
    begin = call.start(2)
    end = call.start(2) + len(written.rstrip())
    closed = False
    if fenced := _FENCED.match(written):
        begin, end, closed = begin + fenced.start(1), begin + fenced.end(), True
        written = fenced[1]
    value: Any = written.strip().strip("`").strip()
    offset = len(written) - len(written.lstrip())
    if value[:1] in ("{", '"') and (parsed := first_json(text.written, begin + offset)):
        rest = text.written[parsed[1] : stop].strip()
        if value[:1] == "{" or not rest:  # a quoted text with more behind it is taken word for word
            value = parsed[0]
            closed = True
            end = end if fenced else parsed[1]
    name = name_of(call[1])
    return [Found(Action(name, argument_of(name, value)), start, end, closed)]


def _round_calls(text: Text, start: int, stop: int) -> Iterator[Found]:
    """Yield ``search("x")``: a name, and round brackets to the end of the line."""
    while opening := _ROUND.match(text.plain, start, stop):
        end = _closing(text.plain, opening.end(), stop, "()", quotes=True)
        behind = _BEHIND_CALL.match(text.plain, end + 1, stop) if end >= 0 else None
        if not behind:
            return
        name = name_of(opening[1])
        given = _keywords(text.written[opening.end() : end])
        yield Found(Action(name, argument_of(name, given)), start, end + 1, True)
        start = end + 1


def _closing(plain: str, start: int, stop: int, brackets: str, quotes: bool = False) -> int:
    """Return where a bracket that is open is closed, -1 if it is not; ``quotes`` hide brackets."""
    depth = 1
    quote = ""
    signs = re.compile(rf"\\.|[{re.escape(brackets)}\"']" if quotes else f"[{re.escape(brackets)}]")
    for match in signs.finditer(plain, start, stop):
        sign = match[0]
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            # An apostrophe within a word quotes nothing.
            quote = sign if sign == '"' or not plain[match.start() - 1].isalnum() else ""
        elif sign in brackets:
            depth += 1 if sign == brackets[0] else -1
            if depth == 0:
                return match.start()
    return -1


def _keywords(written: str) -> Any:
    """Return arguments as Python writes them: by keyword, or a quoted one without its quotes."""
    pattern = r"\s*([A-Za-z_]\w*)\s*[=:]\s*(\"[^\"]*\"|'[^']*'|[^,\"'=]+)\s*(?:,|\Z)"
    pairs = re.findall(pattern, written)
    if pairs and not re.sub(pattern, "", written).strip() and "=" in written:
        return {key: _unquoted(value) for key, value in pairs}
    return _unquoted(written)


def _unquoted(written: str) -> str:
    r"""Return a text without the quotes around the whole of it and the keyword before them.

    Examples
    --------
    >>> _unquoted(' query="Ida Holm" '), _unquoted("'A' or 'B'")
    ('Ida Holm', "'A' or 'B'")
    """
    written = written.strip()
    keyword = re.match(r"[A-Za-z_]\w*\s*[=:]\s*(?=[\"'\u201c])", written)
    inner = written[keyword.end() :] if keyword else written
    if len(inner) < 2 or inner[0] + inner[-1] not in ('""', "''", "\u201c\u201d"):
        return written
    escaped = "\\" + inner[0]
    rest = inner[1:-1].replace(escaped, "")
    if inner[0] in rest or inner[-1] in rest:
        return written
    return inner[1:-1].replace(escaped, inner[0])


def _colon_call(text: Text, start: int, stop: int) -> list[Found]:
    """Return ``search: x``."""
    call = _COLON.match(text.plain, start, stop)
    if not call or re.search(r"\w\[", call[2]):
        return []
    written = text.written[call.start(2) : call.end(2)].rstrip()
    action = Action(name_of(call[1]), _unquoted(written.strip(_EMPHASIS)))
    return [Found(action, start, call.start(2) + len(written), False)]


def _square_calls(text: Text, start: int, stop: int) -> Iterator[Found]:
    position = start
    while 0 <= (opening := text.plain.find("[", position, stop)):
        # Looked for backwards and in a window, as degenerate output may be one word of megabytes.
        before = text.plain[max(position, opening - 2 * _NAME_LENGTH) : opening]
        match = _NAME.search(before.rstrip(" \t*`"))
        begin = position
        position = opening + 1
        if not match or len(match[0]) > _NAME_LENGTH:
            continue
        if _ANSWERED.search(text.plain, begin, opening):
            continue
        end = _closing(text.plain, position, stop, "[]")
        if end < 0:
            return
        # "Search[a] and Search[b]": the word between the calls is not part of the second name.
        name = re.sub(r"^(?:and|then|or)\s+", "", match[0].lower())
        argument = text.written[position:end].strip()
        is_citation = before[-1:] == " " and " " in name and argument.isdecimal()
        if len(name.split()) > _NAME_WORDS or is_citation:
            continue  # prose, and the number of a source
        yield Found(Action(name_of(name), _unquoted(argument)), begin, end + 1, True)
        position = end + 1


def _without_lead(text: Text, lowered: str) -> list[Found]:
    """Return a call that no line announces: JSON, a line that is a call, ``Action:`` in a line."""
    if "{" in text.plain and (found := _lone_json(text)):
        return found
    if "action" in lowered and (lead := _WITHIN_LINE.search(text.plain)):
        stop = _NEXT_PART.search(text.plain, lead.end())
        place = lead.end(), stop.start() if stop else len(text.plain)
        return (list(_round_calls(text, *place)) or list(_square_calls(text, *place)))[:1]
    if "[" not in text.plain and "(" not in text.plain:
        return []
    if listed := _LISTED.fullmatch(text.plain):
        return list(_round_calls(text, listed.start(1), listed.end(1)))
    lines = [m for m in _BARE.finditer(text.plain) if m[2] != "print"]
    lines = [m for m in lines if text.plain.count("```", 0, m.start()) % 2 == 0]
    if not lines:
        return []
    first = lines[0]
    if lines[1:] and not _ANSWERED.search(text.plain, first.end(), lines[1].start()):
        return []
    read = _round_calls if first[2] else _square_calls
    found = list(read(text, first.start(first.lastindex or 1), first.end()))
    return [] if not found or found[0].action.argument.isdecimal() else found[:1]


def _lone_json(text: Text) -> list[Found]:
    found: list[Found] = []
    for opening in _LONE_JSON.finditer(text.written):
        if not found or opening.start() >= found[-1].end:
            found += [call for call in _blob(text, opening.start()) if call.explicit]
    return _before_answers(text.plain, found)


def _is_explicit(value: dict[str, Any]) -> bool:
    """Whether an object can only be a call: it has a name and arguments."""
    if ("action" in value and "action_input" in value) or isinstance(value.get("function"), dict):
        return True
    names = (value.get(key) for key in ("name", "tool", "tool_name", "function"))
    given = any(key in value for key in ("arguments", "parameters", "tool_input", "args"))
    return given and any(isinstance(name, str | dict) for name in names)
