"""SWE-agent's ``.traj`` files (SWE-agent/SWE-agent), of text actions and of function calling."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from negfail_nb.logs.fields import field, labelled, truth, usage
from negfail_nb.logs.messages import as_messages, listed
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.steps import text
from negfail_nb.toolcalls import parsed
from negfail_nb.trajectory import Message, Problem, Source, Trajectory

# What the prompts of SWE-agent put around the text of an issue.
_ISSUE = re.compile(
    r"(?:\bISSUE:|<(?P<tag>pr_description|issue)>)\s*\n(?P<text>.*?)\n\s*(?:INSTRUCTIONS:"
    r"|</(?P=tag)>|\Z)",
    re.DOTALL,
)
_REPORTS = ("results.json", "report.json", "results/results.json", "evaluation/results.json")
_RESOLVED = ("resolved", "resolved_ids")
_OTHERS = ("unresolved_ids", "applied", "generated", "submitted_ids")
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

    A submitted patch may be wrong, so a run is unlabelled unless a report of the evaluation lies
    beside it (``results.json`` with ``resolved``, or ``report.json`` by instance).
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
    turns = as_messages([_turn(turn) for turn in history], "history")
    users = (t for t in history if t.get("role") == "user" and not t.get("is_demo"))
    asked = next(users, None)
    first = text(as_messages([asked])[0]) if asked else ""
    issue = _ISSUE.search(first)
    agent = _agent(record)
    instance = _instance(log, record, agent)
    model = agent["model"] if isinstance(agent.get("model"), dict) else {}
    temperature = model.get("temperature")
    known = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    status = str(info.get("exit_status") or "")
    limited = "max_steps" if _LIMITS.search(status) else ""
    found = {key: value for key, value in record.items() if key not in ("info", "environment")}
    stats = info["model_stats"] if isinstance(info.get("model_stats"), dict) else {}
    return labelled(
        log,
        {**found, "success": _resolved(log.path, instance)},
        where,
        turns,
        id=f"swe-agent:{log.name}",
        question_id=instance,
        question=issue["text"].strip() if issue else first,
        prediction=info.get("submission") if isinstance(info.get("submission"), str) else None,
        termination="finished" if status == "submitted" else limited,
        source=Source(
            model=model["name"] if isinstance(model.get("name"), str) else "",
            temperature=float(temperature) if known else None,
        ),
        usage=usage(
            # SWE-agent writes 0 for what it does not know.
            {k: v for k, v in stats.items() if isinstance(v, int) and v > 0},
            prompt_tokens="tokens_sent",
            completion_tokens="tokens_received",
            calls="api_calls",
        ),
    )


def _turn(turn: dict[str, Any]) -> Message:
    """Return a turn without SWE-agent's notes: thought and action are in its content."""
    known = ("role", "content", "tool_calls")
    kept: Message = {k: turn[k] for k in known if turn.get(k) is not None}
    identity = listed(turn.get("tool_call_ids"))
    if isinstance(identity, list) and identity:
        kept["tool_call_id"] = str(identity[0])
    if thoughts := turn.get("thinking_blocks") or turn.get("reasoning_content"):
        blocks = thoughts if isinstance(thoughts, list) else [{"thinking": thoughts}]
        texts = (str(b.get("thinking", "")) for b in blocks if isinstance(b, dict))
        kept["reasoning_content"] = "\n".join(texts)
    if turn.get("is_demo") and turn.get("role") == "assistant":
        kept["weight"] = 0
    return kept


def _agent(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the agent."""
    config = record.get("replay_config")
    config = parsed(config) if isinstance(config, str) else config
    agent = config.get("agent") if isinstance(config, dict) else None
    return agent if isinstance(agent, dict) else {}


def _instance(log: LogFile, record: Mapping[str, Any], agent: Mapping[str, Any]) -> str:
    """Return the id of the task: the record's, else that in the file's name."""
    named = agent.get("name") or record.get("instance_id")
    if isinstance(named, str) and named not in ("", "main"):
        return named
    return log.path.stem if "__" in log.path.stem else ""


def _resolved(path: Path, instance: str) -> bool | None:
    """Return what a report of the evaluation beside the file says of its instance."""
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
    lists = {name: value for name, value in report.items() if isinstance(value, list)}
    if any(instance in lists.get(name, ()) for name in _RESOLVED):
        return True
    known = any(instance in lists.get(name, ()) for name in _OTHERS)
    return False if known and any(name in lists for name in _RESOLVED) else None
