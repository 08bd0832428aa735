"""ATIF, the agent trajectory interchange format (Harbor's RFC 0001), both ways."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from negfail_nb.environment import package_version
from negfail_nb.logs.beside import labelled
from negfail_nb.logs.fields import field, messages, shown, truth
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Problem, Source, Trajectory, Usage, write_lines

VERSION = "ATIF-v1.6"
_ROLES = {"system": "system", "user": "user", "agent": "assistant"}
_EXTRA = (
    "question_id",
    "question",
    "answer",
    "task",
    "prediction",
    "success",
    "termination",
    "error",
    "split",
)
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
    trial. Steps that were copied from another trajectory, or that no model made, carry no loss.
    """
    return log.convert(lambda record, where: _run(log, record, where))


def to_atif(run: Trajectory) -> dict[str, Any]:
    """Return a run as an ATIF trajectory; what its core has no field for stands under ``extra``.

    Parameters
    ----------
    run
        A trajectory. Observations of tools go to the step of the agent that called them, in order.
    """
    steps: list[dict[str, Any]] = []
    for message in run.messages:
        if message["role"] == "tool" and steps and steps[-1]["source"] == "agent":
            results = steps[-1].setdefault("observation", {"results": []})["results"]
            results.append(
                {"source_call_id": message.get("tool_call_id"), "content": text(message)}
            )
        else:
            steps.append(_step(message, len(steps) + 1))
    model = {"model_name": run.source.model} if run.source.model else {}
    tools = {"tool_definitions": list(run.tools)} if run.tools else {}
    extra = {name: getattr(run, name) for name in _EXTRA if getattr(run, name) not in (None, "")}
    extra |= {
        "attempt": run.source.attempt,
        "scores_given": dict(run.scores),
        "gold_titles": list(run.gold_titles),
    }
    return {
        "schema_version": VERSION,
        "session_id": run.id,
        "agent": {
            "name": "negfail_nb",
            "version": package_version("negfail_nb") or "0",
            **model,
            **tools,
        },
        "steps": steps,
        "final_metrics": _metrics(run.usage, len(steps)),
        "extra": {name: value for name, value in extra.items() if value not in ({}, [])},
    }


def write_atif(path: str | Path, runs: Iterable[Trajectory]) -> Path:
    """Write runs as ATIF, one JSON line a trajectory; the file appears whole or not at all.

    Returns
    -------
    Path
        The file written; `negfail_nb.load_trajectories` reads it.
    """
    return write_lines(path, map(to_atif, runs))


def _is_atif(sample: Mapping[str, Any]) -> bool:
    steps = sample.get("steps")
    versioned = str(sample.get("schema_version", "")).upper().startswith("ATIF")
    return isinstance(steps, list) and (
        versioned or any(isinstance(s, dict) and s.get("source") in _ROLES for s in steps)
    )


def _run(log: LogFile, record: dict[str, Any], where: str) -> Trajectory:
    agent = record["agent"] if isinstance(record.get("agent"), dict) else {}
    extra = record["extra"] if isinstance(record.get("extra"), dict) else {}
    turns = [
        t
        for n, step in enumerate(field(record, "steps", list))
        for t in _turns(step, f"steps[{n}]")
    ]
    own = record.get("session_id") or record.get("trajectory_id")
    termination = extra.get("termination")
    given = {"success": _harbor(log.path)} if truth(extra.get("success")) is None else {}
    return labelled(
        log,
        {
            **extra,
            "tools": agent.get("tool_definitions"),
            **{k: v for k, v in given.items() if v is not None},
        },
        where,
        messages(turns, "steps"),
        id=f"atif:{own}" if own else "",
        **(
            {"question_id": extra["question_id"]}
            if isinstance(extra.get("question_id"), str)
            else {}
        ),
        **({"task": extra["task"]} if extra.get("task") in ("qa", "math", "yes_no") else {}),
        termination=termination if isinstance(termination, str) else "",
        source=Source(model=str(agent.get("model_name") or ""), attempt=extra.get("attempt") or 0),
        usage=_usage(record.get("final_metrics")),
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
        yield _observed(result, bool(step.get("tool_calls")), name)


def _observed(result: Any, called: bool, name: str) -> Message:
    if not isinstance(result, dict):
        raise ValueError(f"{name}.observation has a result that is {shown(result)}")
    source = result.get("source_call_id")
    content = result.get("content")
    if content is None and result.get("subagent_trajectory_ref"):
        content = json.dumps(result["subagent_trajectory_ref"], ensure_ascii=False)
    identity = {"tool_call_id": str(source)} if source is not None else {}
    return {
        "role": "tool" if source is not None or called else "user",
        "content": content,
        **identity,
    }


def _harbor(path: Path) -> bool | None:
    """Return what the result of a Harbor trial says of the run in its folder; ``None`` where there
    is none.
    """
    for folder in (path.parent, path.parent.parent):
        try:
            result = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        verdict = result.get("verifier_result") if isinstance(result, dict) else None
        rewards = verdict.get("rewards") if isinstance(verdict, dict) else None
        if isinstance(rewards, dict) and rewards:
            return truth(rewards.get("reward", next(iter(rewards.values()))))
    return None


def _step(message: Message, number: int) -> dict[str, Any]:
    source = {"system": "system", "assistant": "agent"}.get(message["role"], "user")
    step: dict[str, Any] = {"step_id": number, "source": source, "message": text(message)}
    if message.get("reasoning_content"):
        step["reasoning_content"] = message["reasoning_content"]
    if message.get("tool_calls"):
        step["tool_calls"] = [
            _call(call, f"call_{number}_{n}") for n, call in enumerate(message["tool_calls"], 1)
        ]
    kept = {key: message[key] for key in ("weight", "name") if key in message}
    return {**step, "extra": kept} if kept else step


def _call(call: Mapping[str, Any], name: str) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            arguments = {
                "arguments": arguments
            }  # ATIF wants an object; this is what the model wrote
    if not isinstance(arguments, dict):
        arguments = {"arguments": arguments}
    return {
        "tool_call_id": call.get("id") or name,
        "function_name": function["name"],
        "arguments": arguments,
    }


def _metrics(usage: Usage, steps: int) -> dict[str, Any]:
    known = {
        "total_prompt_tokens": usage.prompt_tokens,
        "total_completion_tokens": usage.completion_tokens,
    }
    return {
        **{name: value for name, value in known.items() if value is not None},
        "total_steps": steps,
    }


def _usage(value: Any) -> Usage:
    metrics = value if isinstance(value, dict) else {}
    names = {"prompt_tokens": "total_prompt_tokens", "completion_tokens": "total_completion_tokens"}
    return Usage(
        **{
            ours: metrics[theirs]
            for ours, theirs in names.items()
            if isinstance(metrics.get(theirs), int)
        }
    )
