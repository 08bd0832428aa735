"""SWE-agent's ``.traj`` files (SWE-agent/SWE-agent), of text actions and of function calling."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from negfail_nb.logs.beside import labelled
from negfail_nb.logs.fields import field, listed, messages, truth
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Problem, Source, Trajectory, Usage

# What the prompts of SWE-agent put around the text of an issue.
_ISSUE = re.compile(
    r"(?:\bISSUE:|<(?P<tag>pr_description|issue)>)\s*\n(?P<text>.*?)\n\s*(?:INSTRUCTIONS:|</(?P=tag)>|\Z)",
    re.DOTALL,
)
_REPORTS = ("results.json", "report.json", "results/results.json", "evaluation/results.json")
_RESOLVED, _OTHERS = (
    ("resolved", "resolved_ids"),
    ("unresolved_ids", "applied", "generated", "submitted_ids"),
)
_LIMITS = re.compile(
    r"exit_(?:cost|context|format|total|command_timeout)|max_(?:steps|step)|\blimit\b",
    re.IGNORECASE,
)


@importer(
    "swe-agent",
    looks_like=lambda log: any(_is_run(sample) for sample in log.samples),
    fields='`history`: `[{"role", "content"}]`, `trajectory` of `action` and `observation`',
)
def swe_agent(log: LogFile) -> Iterator[Trajectory | Problem]:
    """A run a file: ``history`` is the chat, demonstrations in it are context; the issue's text is
    the question.

    That a patch was submitted says nothing of whether it is right, so a run is unlabelled but where
    a report of the evaluation lies beside it (``results.json`` with ``resolved``, or
    ``report.json`` by instance).
    """
    return log.convert(lambda record, where: _run(log, record, where))


def _is_run(sample: Mapping[str, Any]) -> bool:
    steps = sample.get("trajectory")
    acts = isinstance(steps, list) and all(
        isinstance(step, dict) and "action" in step for step in steps
    )
    return acts and isinstance(sample.get("history"), list)


def _run(log: LogFile, record: dict[str, Any], where: str) -> Trajectory:
    info = record["info"] if isinstance(record.get("info"), dict) else {}
    history = [turn for turn in field(record, "history", list) if isinstance(turn, dict)]
    turns = messages([_turn(turn) for turn in history], "history")
    asked = next(
        (turn for turn in history if turn.get("role") == "user" and not turn.get("is_demo")), {}
    )
    first = text(messages([asked])[0]) if asked else ""
    issue = _ISSUE.search(first)
    instance, settings = _instance(log, record), _settings(record)
    status = str(info.get("exit_status") or "")
    found = {key: value for key, value in record.items() if key not in ("info", "environment")}
    return labelled(
        log,
        {**found, "success": _resolved(log.path, instance)},
        where,
        turns,
        id=f"swe-agent:{log.name}",
        question_id=instance,
        question=issue["text"].strip() if issue else first,
        prediction=info.get("submission") if isinstance(info.get("submission"), str) else None,
        termination="finished"
        if "submitted" == status
        else "max_steps"
        if _LIMITS.search(status)
        else "",
        source=Source(model=settings.get("name", ""), temperature=settings.get("temperature")),
        usage=_usage(info.get("model_stats")),
    )


def _turn(turn: dict[str, Any]) -> Message:
    """Return a turn without what SWE-agent notes beside it: thought and action stand in the content
    already.
    """
    kept: Message = {
        k: turn[k] for k in ("role", "content", "tool_calls") if turn.get(k) is not None
    }
    identity = listed(turn.get("tool_call_ids"))
    if isinstance(identity, list) and identity:
        kept["tool_call_id"] = str(identity[0])
    thoughts = turn.get("thinking_blocks") or turn.get("reasoning_content")
    if thoughts:
        blocks = thoughts if isinstance(thoughts, list) else [{"thinking": thoughts}]
        kept["reasoning_content"] = "\n".join(
            str(b.get("thinking", "")) for b in blocks if isinstance(b, dict)
        )
    return (
        {**kept, "weight": 0} if turn.get("is_demo") and turn.get("role") == "assistant" else kept
    )


def _instance(log: LogFile, record: Mapping[str, Any]) -> str:
    """Return the id of the task: the record's, else the file's name, which SWE-agent gives after
    it.
    """
    named = _config(record).get("agent", {}).get("name") or record.get("instance_id")
    stem = log.path.stem
    return (
        str(named)
        if isinstance(named, str) and named not in ("", "main")
        else stem
        if "__" in stem
        else ""
    )


def _config(record: Mapping[str, Any]) -> dict[str, Any]:
    config = record.get("replay_config")
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except (ValueError, RecursionError):
            config = {}
    agent = config.get("agent") if isinstance(config, dict) else None
    return {"agent": agent} if isinstance(agent, dict) else {}


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    model = _config(record).get("agent", {}).get("model")
    model = model if isinstance(model, dict) else {}
    name, temperature = model.get("name"), model.get("temperature")
    known = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    return {
        "name": name if isinstance(name, str) else "",
        "temperature": float(temperature) if known else None,
    }


def _usage(stats: Any) -> Usage:
    """Return what a run cost; zeros are what SWE-agent writes where it does not know."""
    stats = stats if isinstance(stats, dict) else {}
    names = {
        "prompt_tokens": "tokens_sent",
        "completion_tokens": "tokens_received",
        "calls": "api_calls",
    }
    return Usage(**{ours: stats[theirs] for ours, theirs in names.items() if isinstance(stats.get(theirs), int)
                    and stats[theirs] > 0})  # fmt: skip


def _resolved(path: Path, instance: str) -> bool | None:
    """Return what a report of the evaluation beside the file says of its instance; ``None`` where
    there is none.
    """
    for folder in (path.parent, path.parent.parent):
        for name in _REPORTS if instance else ():
            try:
                report = json.loads((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                continue
            if (verdict := _verdict(report, instance)) is not None:
                return verdict
    return None


def _verdict(report: Any, instance: str) -> bool | None:
    if not isinstance(report, dict):
        return None
    if isinstance(report.get(instance), dict):
        return truth(report[instance].get("resolved"))
    if any(
        instance in report.get(name, ()) for name in _RESOLVED if isinstance(report.get(name), list)
    ):
        return True
    known = any(instance in report[name] for name in _OTHERS if isinstance(report.get(name), list))
    return (
        False if known and any(isinstance(report.get(name), list) for name in _RESOLVED) else None
    )
