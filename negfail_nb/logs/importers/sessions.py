"""Files in which each record is one turn: lists of messages, and sessions of coding agents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.fields import labelled, shown
from negfail_nb.logs.importers.chat import found_turns, is_turn
from negfail_nb.logs.messages import ROLES, as_messages
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.trajectory import Problem, Trajectory

_SESSION = ("sessionId", "session_id")
# Lines of a session that are no turns, by their ``type``: what a harness notes for itself.
_NOTES = tuple(
    "session session_meta turn_context event_msg summary compacted file-history-snapshot system"
    " progress queue-operation custom-title model_change thinking_level_change result".split()
)
_SAID = ("content", "parts", "tool_calls", "toolCalls", "function_call")
_KEPT = frozenset("role content type parts tool_calls tool_call_id name reasoning_content".split())


@importer(
    "session",
    looks_like=lambda log: (
        not log.is_record and any(_turn(sample) is not None for sample in log.samples)
    ),
    fields='`{"role", "content"}`, one a record: a file is one run',
)
def session(log: LogFile) -> Iterator[Trajectory | Problem]:
    """A file that is one run, a turn a record: a list of messages, or a session of Claude Code,
    Codex or the Hub.

    A session's turns may stand under ``message`` or ``payload``; runs of several sessions are told
    apart by their id. The label stands in the head of the session.
    """
    runs: dict[str, list[tuple[str, Any]]] = {}
    heads: dict[str, dict[str, Any]] = {}
    for where, record in log.records():
        key = _key(record)
        turn = _turn(record)
        if turn is not None:
            runs.setdefault(key, []).append((where, turn))
        elif isinstance(record, dict) and record.get("type") in _NOTES:
            heads[key] = {**heads.get(key, {}), **record, **_inner(record)}
        else:
            log.report(where, f"the record is {shown(record)}, not a turn")
    for key, turns in runs.items():
        head = heads.get(key) or heads.get("", {})
        yield from log.attempt(turns[0][0], lambda t=turns, h=head: _run(log, t, h))


def _run(log: LogFile, turns: list[tuple[str, Any]], head: Mapping[str, Any]) -> Trajectory:
    others = ("type", "payload", "message", "system", "instructions")
    beside = {k: v for k, v in head.items() if k not in others}
    return labelled(log, beside, turns[0][0], as_messages(_whole([turn for _, turn in turns])))


def _turn(record: Any) -> dict[str, Any] | None:
    """Return the turn that a record is or wraps, if it is one."""
    if not isinstance(record, dict) or found_turns(record):
        return None
    turn = _inner(record) or record
    if "role" not in turn:
        return turn if is_turn(turn) and "from" not in turn else None
    known = isinstance(turn["role"], str) and turn["role"].lower() in ROLES
    known = known and not isinstance(turn.get("id"), dict)
    return turn if known and any(key in turn for key in _SAID) else None


def _inner(record: Mapping[str, Any]) -> dict[str, Any]:
    inner = (record.get(key) for key in ("message", "payload"))
    return next((part for part in inner if isinstance(part, dict)), {})


def _key(record: Any) -> str:
    """Return which run a record belongs to: its session, or the side chain of another agent."""
    if not isinstance(record, dict):
        return ""
    found = next((str(record[key]) for key in _SESSION if record.get(key)), "")
    return f"{found}/side" if record.get("isSidechain") is True else found


def _whole(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join the blocks of one reply: Claude Code writes each on a line, with the reply's id."""
    whole: list[dict[str, Any]] = []
    for turn in turns:
        last = whole[-1] if whole else {}
        ours, theirs = ((t.get("id"), t.get("role")) for t in (turn, last))
        blocks = [t.get("content") for t in (last, turn)]
        if ours == theirs and ours[0] is not None and all(isinstance(b, list) for b in blocks):
            whole[-1] = {**last, "content": [*blocks[0], *blocks[1]]}
        else:
            whole.append(turn)
    return [{k: v for k, v in t.items() if k in _KEPT or t.get("type") != "message"} for t in whole]
