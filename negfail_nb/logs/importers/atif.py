"""ATIF, the agent trajectory interchange format (Harbor's RFC 0001), both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from negfail_nb.environment import package_version
from negfail_nb.logs.fields import field, labelled, shown, truth, usage
from negfail_nb.logs.messages import as_messages
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.steps import text
from negfail_nb.toolcalls import parsed
from negfail_nb.trajectory import Message, Problem, Source, Trajectory

VERSION = "ATIF-v1.6"
_ROLES = {"system": "system", "user": "user", "agent": "assistant"}
_EXTRA = "question_id question answer task prediction success termination error split".split()
_RESULT = "result.json"  # of Harbor's trial, in the folder of the agent's folder


@importer(
    "atif",
    looks_like=lambda log: any(_is_atif(sample) for sample in log.samples),
    fields='`schema_version`, `steps`: `[{"source", "message"}]`',
)
def atif(log: LogFile) -> Iterator[Trajectory | Problem]:
    """ATIF of all versions: steps of system, user and agent, with their tool calls, observations
    and reasoning.

    The core has no label: it is looked for under ``extra``, then in the ``result.json`` of a Harbor
    trial. Steps that were copied from another trajectory, or made by no model, carry no loss.
    """
    return log.convert(lambda record, where: _run(log, record, where))


def to_atif(run: Trajectory) -> dict[str, Any]:
    """Return a run as an ATIF trajectory; what its core has no field for goes to ``extra``.

    Observations of tools go to the step of the agent that called them, in order.
    """
    steps: list[dict[str, Any]] = []
    for message in run.messages:
        if message["role"] == "tool" and steps and steps[-1]["source"] == "agent":
            result = {"source_call_id": message.get("tool_call_id"), "content": text(message)}
            steps[-1].setdefault("observation", {"results": []})["results"].append(result)
        else:
            steps.append(_step(message, len(steps) + 1))
    agent: dict[str, Any] = {"name": "negfail_nb", "version": package_version("negfail_nb") or "0"}
    if run.source.model:
        agent["model_name"] = run.source.model
    if run.tools:
        agent["tool_definitions"] = list(run.tools)
    metrics = {
        "total_prompt_tokens": run.usage.prompt_tokens,
        "total_completion_tokens": run.usage.completion_tokens,
        "total_steps": len(steps),
    }
    extra = {name: getattr(run, name) for name in _EXTRA if getattr(run, name) not in (None, "")}
    extra["attempt"] = run.source.attempt
    extra["scores_given"] = dict(run.scores)
    extra["gold_titles"] = list(run.gold_titles)
    return {
        "schema_version": VERSION,
        "session_id": run.id,
        "agent": agent,
        "steps": steps,
        "final_metrics": {name: value for name, value in metrics.items() if value is not None},
        "extra": {name: value for name, value in extra.items() if value not in ({}, [])},
    }


def _step(message: Message, number: int) -> dict[str, Any]:
    source = {"system": "system", "assistant": "agent"}.get(message["role"], "user")
    step: dict[str, Any] = {"step_id": number, "source": source, "message": text(message)}
    if message.get("reasoning_content"):
        step["reasoning_content"] = message["reasoning_content"]
    if calls := message.get("tool_calls"):
        step["tool_calls"] = [_call(call, f"call_{number}_{n}") for n, call in enumerate(calls, 1)]
    if kept := {key: message[key] for key in ("weight", "name") if key in message}:
        step["extra"] = kept
    return step


def _call(call: Mapping[str, Any], name: str) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = parsed(arguments or "{}")
    if not isinstance(arguments, dict):  # ATIF wants an object; this is what the model wrote
        arguments = {"arguments": arguments}
    identity = call.get("id") or name
    return {"tool_call_id": identity, "function_name": function["name"], "arguments": arguments}


def _is_atif(sample: Mapping[str, Any]) -> bool:
    steps = sample.get("steps")
    versioned = str(sample.get("schema_version", "")).upper().startswith("ATIF")
    return isinstance(steps, list) and (
        versioned or any(isinstance(s, dict) and s.get("source") in _ROLES for s in steps)
    )


def _run(log: LogFile, record: dict[str, Any], where: str) -> Trajectory:
    agent = record["agent"] if isinstance(record.get("agent"), dict) else {}
    extra = record["extra"] if isinstance(record.get("extra"), dict) else {}
    steps = enumerate(field(record, "steps", list))
    turns = [turn for n, step in steps for turn in _turns(step, f"steps[{n}]")]
    own = record.get("session_id") or record.get("trajectory_id")
    termination = extra.get("termination")
    told = {**extra, "tools": agent.get("tool_definitions")}
    if truth(extra.get("success")) is None and (success := _harbor(log.path)) is not None:
        told["success"] = success
    known: dict[str, Any] = {}
    if isinstance(extra.get("question_id"), str):
        known["question_id"] = extra["question_id"]
    if extra.get("task") in ("qa", "math", "yes_no"):
        known["task"] = extra["task"]
    return labelled(
        log,
        told,
        where,
        as_messages(turns, "steps"),
        id=f"atif:{own}" if own else "",
        termination=termination if isinstance(termination, str) else "",
        source=Source(model=str(agent.get("model_name") or ""), attempt=extra.get("attempt") or 0),
        usage=usage(
            record.get("final_metrics"),
            prompt_tokens="total_prompt_tokens",
            completion_tokens="total_completion_tokens",
        ),
        **known,
    )


def _turns(step: Any, name: str) -> Iterator[Message]:
    """Yield the turns of one step: what was said, and what the environment answered."""
    if not isinstance(step, dict) or step.get("source") not in _ROLES:
        raise ValueError(f"{name} is {shown(step)}, not a step of {', '.join(_ROLES)}")
    turn: Message = {"role": _ROLES[step["source"]], "content": step.get("message")}
    kept = {k: step[k] for k in ("reasoning_content", "tool_calls") if step.get(k)}
    extra = step["extra"] if isinstance(step.get("extra"), dict) else {}
    foreign = step.get("is_copied_context") is True or step.get("llm_call_count") == 0
    weight = {"weight": 0} if foreign and turn["role"] == "assistant" else {}
    yield turn | kept | weight | {k: extra[k] for k in ("weight", "name") if k in extra}
    observation = step.get("observation")
    for result in observation.get("results") or () if isinstance(observation, dict) else ():
        if not isinstance(result, dict):
            raise ValueError(f"{name}.observation has a result that is {shown(result)}")
        source = result.get("source_call_id")
        content = result.get("content")
        if content is None and result.get("subagent_trajectory_ref"):
            content = json.dumps(result["subagent_trajectory_ref"], ensure_ascii=False)
        called = source is not None or step.get("tool_calls")
        identity = {"tool_call_id": str(source)} if source is not None else {}
        yield {"role": "tool" if called else "user", "content": content, **identity}


def _harbor(path: Path) -> bool | None:
    """Return what the result of a Harbor trial says of the run in its folder."""
    for folder in (path.parent, path.parent.parent):
        try:
            result = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        found = result.get("verifier_result") if isinstance(result, dict) else None
        rewards = found.get("rewards") if isinstance(found, dict) else None
        if isinstance(rewards, dict) and rewards:
            return truth(rewards.get("reward", next(iter(rewards.values()))))
    return None
