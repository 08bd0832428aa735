"""Runs as agent frameworks keep them: LangChain, smolagents, OpenHands, ToolBench, and the
SWE-agent runs that Nebius published; lists of steps, and several attempts in one record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.fields import LABELS, field, labelled, truth
from negfail_nb.logs.importers.chat import joined, openai_turns, replied
from negfail_nb.logs.messages import ROLES, as_messages, listed
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.steps import parse_actions
from negfail_nb.trajectory import Message, Problem, Source, Trajectory

_ASKED = tuple("input question query task instruction intent problem goal".split())
_PROMPTS = ("messages", "prompt")
_STEPS = ("steps", "trajectory", "traj", "history", "trace")
_INPUTS = ("action_input", "action_args", "arguments", "args", "input")
# Lists of attempts; and aligned lists of labels, with the name of a single label.
_ATTEMPTS = tuple("responses completions generations outputs samples attempts choices".split())
_ALIGNED = {
    **dict.fromkeys(
        "rewards scores labels correctness is_correct correct successes".split(), "reward"
    ),
    **dict.fromkeys("reward score success accs acc".split(), "reward"),
    "correctness_math_verify": "reward",
    "predictions": "prediction",
    "preds": "prediction",
}
# Events of OpenHands that are no turns, and what its actions hold beside their arguments.
_NO_TURNS = tuple(
    "recall condensation condensation_request change_agent_state agent_state_changed null".split()
) + ("",)
_OWN = ("thought", "hidden", "is_input", "blocking", "confirmation_state", "security_risk")


@importer(
    "steps",
    looks_like=lambda log: any(_steps(sample) for sample in log.samples),
    fields="`steps` (or `trajectory` ..): `[{thought, action, action_input, observation}]`",
)
def steps(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Runs as lists of steps, each with its action and, mostly, thought and observation.

    The task stands under ``question``, ``task``, ``instruction`` or the like.
    """

    def read(record: dict[str, Any], where: str) -> Trajectory:
        question = next((record[k] for k in _ASKED if isinstance(record.get(k), str)), "")
        turns = [{"role": "user", "content": question}]
        turns += [turn for step in _steps(record) for turn in _step(step)]
        beside = {k: v for k, v in record.items() if k not in ("task", "steps", "trajectory")}
        return labelled(log, beside, where, as_messages(turns), question=question)

    return log.convert(read)


def _steps(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the steps of a run whose every step has an action."""
    found = (record[name] for name in _STEPS if isinstance(record.get(name), list) and record[name])
    lists = (
        steps for steps in found if all(isinstance(s, dict) and s.get("action") for s in steps)
    )
    return next((steps for steps in lists if not any("source" in s for s in steps)), [])


def _step(step: Mapping[str, Any]) -> Iterator[Message]:
    """Yield the turns of a step; an observation that it names before its action came before it."""
    thought, action = str(step.get("thought") or "").strip(), step["action"]
    given = next((step[key] for key in _INPUTS if step.get(key) is not None), None)
    if isinstance(action, str) and given is None:
        said = [f"Thought: {thought}"] if thought else []
        done = {"role": "assistant", "content": "\n".join([*said, f"Action: {action}"])}
        seen = {"role": "user", "content": f"Observation: {step.get('observation')}"}
    else:
        call = action if isinstance(action, dict) else {"name": action, "arguments": given}
        call = call if "name" in call else {"name": call.get("tool"), **call}
        done = {"role": "assistant", "content": thought, "tool_calls": [call]}
        seen = {"role": "tool", "content": str(step.get("observation"))}
    turns = [done] if step.get("observation") is None else [done, seen]
    names = list(step)
    before = len(turns) > 1 and names.index("observation") < names.index("action")
    yield from reversed(turns) if before else turns


@importer(
    "attempts",
    looks_like=lambda log: any(_replies(sample) for sample in log.samples),
    fields="a question or `prompt`; `responses` (or `completions` ..): `[text]`; `rewards`: a list",
)
def attempts(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Several attempts at a question in one record, as rejection sampling keeps them; each is a
    run.

    Labels are an aligned list under ``rewards``, ``scores`` or the like, or a field of each
    attempt.
    """
    for where, record in log.records():
        replies = _replies(record) if isinstance(record, dict) else []
        if not replies:
            log.report(where, "the record holds no list of attempts beside a question")
        for number, reply in enumerate(replies):
            yield from log.attempt(
                where, lambda r=record, w=where, n=number, said=reply: _attempt(log, r, w, n, said)
            )


def _attempt(log: LogFile, record: dict[str, Any], where: str, n: int, reply: Any) -> Trajectory:
    asked = next((record[k] for k in (*_PROMPTS, *_ASKED) if record.get(k)), "")
    turns = openai_turns(joined(_before(asked), _said(reply)), "attempts")
    count = len(_replies(record))
    beside = {k: v for k, v in record.items() if not isinstance(v, list | dict) or k == "answer"}
    aligned = {
        ours: record[theirs][n]
        for theirs, ours in _ALIGNED.items()
        if isinstance(record.get(theirs), list) and len(record[theirs]) == count
    }
    own = {k: v for k, v in reply.items() if k in LABELS} if isinstance(reply, dict) else {}
    number = record.get("id", where)
    return labelled(
        log,
        {**beside, **aligned, **own},
        where,
        turns,
        id=f"attempts:{log.name}:{number}:{n}",
        source=Source(attempt=n),
    )


def _before(asked: Any) -> Any:
    """Return a prompt without a reply that stands there already, as one of the attempts."""
    turns = listed(asked)
    if not isinstance(turns, list):
        return asked
    users = [n for n, turn in enumerate(turns) if isinstance(turn, dict) and _asks(turn)]
    return turns[: users[-1] + 1] if users else turns


def _asks(turn: Mapping[str, Any]) -> bool:
    return ROLES.get(str(turn.get("role", turn.get("from"))).lower()) != "assistant"


def _said(reply: Any) -> Any:
    return reply if isinstance(reply, str | list) else replied(reply)


def _replies(record: Mapping[str, Any]) -> list[Any]:
    """Return the attempts of a record at what it asks."""
    if not any(record.get(name) for name in (*_PROMPTS, *_ASKED)):
        return []
    lists = ((name, record[name]) for name in _ATTEMPTS if isinstance(record.get(name), list))
    return next(
        (found for name, found in lists if found and all(_is_reply(one, name) for one in found)), []
    )


def _is_reply(value: Any, name: str) -> bool:
    """Whether this is an attempt; texts under "choices" are options of a question."""
    if isinstance(value, dict):
        return "role" not in value and "from" not in value and bool(replied(value))
    return isinstance(value, str) and name != "choices"


@importer(
    "langchain",
    looks_like=lambda log: log.has("intermediate_steps", "output"),
    fields="`input`, `output`, `intermediate_steps`: `[[action, observation]]`",
)
def langchain(log: LogFile) -> Iterator[Trajectory | Problem]:
    """What LangChain's ``AgentExecutor`` returns: the steps between a question and its answer."""

    def read(record: dict[str, Any], where: str) -> Trajectory:
        asked = record.get("input")
        fields = asked if isinstance(asked, dict) else record
        question = next((fields[k] for k in _ASKED if isinstance(fields.get(k), str)), "")
        turns = [{"role": "user", "content": question}]
        for number, step in enumerate(field(record, "intermediate_steps", list)):
            if not isinstance(step, list) or len(step) != 2 or not isinstance(step[0], dict):
                raise ValueError(f"intermediate_steps[{number}] is no action and its observation")
            turns += _langchaaligned(*step)
        turns.append({"role": "assistant", "content": str(record["output"])})
        beside = {k: v for k, v in record.items() if k not in ("output", "input")}
        return labelled(log, beside, where, as_messages(turns), question=question)

    return log.convert(read)


def _langchaaligned(action: Mapping[str, Any], observation: Any) -> list[Message]:
    said = {"role": "assistant", "content": str(action.get("log") or "").strip()}
    if parse_actions(said):  # the agent writes its calls as text
        return [said, {"role": "user", "content": f"Observation: {observation}"}]
    call = {"name": field(action, "tool", str), "arguments": action.get("tool_input")}
    return [{**said, "tool_calls": [call]}, {"role": "tool", "content": str(observation)}]


@importer(
    "smolagents",
    looks_like=lambda log: any(map(_smol_steps, log.samples)),
    fields="`steps`: `[{step_number, model_output, observations}]`; `task` or `question`",
)
def smolagents(log: LogFile) -> Iterator[Trajectory | Problem]:
    """The memory of a smolagents agent; ``true_answer`` is the reference of its benchmarks."""

    def read(record: dict[str, Any], where: str) -> Trajectory:
        steps = [*_first_steps(record), *(_smol_steps(record) or ())]
        turns = [turn for step in steps for turn in _smol_turns(step)]
        answered = next((step["action_output"] for step in steps if _is_final(step)), None)
        answered = record.get("answer") if "true_answer" in record else answered
        beside = {k: v for k, v in record.items() if k not in ("answer", "output", "task")}
        prediction = None if answered is None else str(answered)
        return labelled(log, beside, where, as_messages(turns), prediction=prediction)

    return log.convert(read)


def _smol_steps(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    for name in ("steps", "intermediate_steps", "memory"):
        steps = record.get(name)
        if isinstance(steps, list) and any(
            isinstance(s, dict) and "step_number" in s for s in steps
        ):
            return [step for step in steps if isinstance(step, dict)]
    return None


def _first_steps(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the task as a step, if no step tells it."""
    told = any("task" in step for step in _smol_steps(record) or ())
    task = next((record[k] for k in ("task", "question") if isinstance(record.get(k), str)), "")
    return [] if told or not task else [{"task": task}]


def _is_final(step: Mapping[str, Any]) -> bool:
    return bool(step.get("is_final_answer")) and "action_output" in step


def _smol_turns(step: Mapping[str, Any]) -> Iterator[Message]:
    if step.get("system_prompt"):
        yield {"role": "system", "content": step["system_prompt"]}
    if step.get("task"):
        yield {"role": "user", "content": step["task"]}
    said = step.get("model_output") or step.get("plan")
    calls = step.get("tool_calls") or []
    written = isinstance(said, str) and "code_action" in step and step["code_action"]
    if said or calls:
        turn = {"role": "assistant", "content": said or ""}
        yield turn if written or not calls else {**turn, "tool_calls": calls}
    error = step.get("error")
    error = error.get("message") if isinstance(error, dict) else error
    told = "\n".join(str(part) for part in (step.get("observations"), error) if part)
    if told:
        role = "user" if written or not calls else "tool"
        yield {"role": role, "content": f"Observation:\n{told}" if role == "user" else told}


@importer(
    "openhands",
    looks_like=lambda log: any(_events(sample) for sample in log.samples),
    fields="`history`: `[{source, action, args}]` and `[{observation, content}]`; `instruction`",
)
def openhands(log: LogFile) -> Iterator[Trajectory | Problem]:
    """OpenHands' ``output.jsonl``: a run is a list of events; ``report.resolved`` labels it.

    What its own memory notes (``recall``, condensations) is no turn.
    """

    def read(record: dict[str, Any], where: str) -> Trajectory:
        turns = as_messages([t for event in _events(record) for t in _event(event)], "history")
        tested = record["test_result"] if isinstance(record.get("test_result"), dict) else {}
        report = next((r for r in (record.get("report"), tested.get("report")) if r), {})
        given = {k: v for k, v in record.items() if k not in ("history", "error", "metrics")}
        asked, patch = record.get("instruction"), tested.get("git_patch")
        return labelled(
            log,
            given,
            where,
            turns,
            question=asked if isinstance(asked, str) else "",
            prediction=patch if isinstance(patch, str) and patch else None,
            success=truth(report.get("resolved")) if isinstance(report, dict) else None,
        )

    return log.convert(read)


def _events(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a run; older files pair an action with its observation."""
    history = record.get("history")
    history = history if isinstance(history, list) else []
    pairs = [one if isinstance(one, list) else [one] for one in history]
    events = [event for pair in pairs for event in pair if isinstance(event, dict)]
    known = any("args" in e and "action" in e for e in events)
    return events if known else []


def _event(event: Mapping[str, Any]) -> Iterator[Message]:
    args = event["args"] if isinstance(event.get("args"), dict) else {}
    action = str(event.get("action") or "")
    if "observation" in event:
        if event["observation"] not in _NO_TURNS:
            yield {"role": "tool", "content": str(event.get("content") or "")}
    elif action in ("message", "system"):
        sender = "system" if action == "system" else event.get("source")
        role = sender if sender in ("system", "user") else "assistant"
        yield {"role": role, "content": str(args.get("content") or event.get("message") or "")}
    elif action not in _NO_TURNS:
        known = event["tool_call_metadata"] if event.get("tool_call_metadata") else {}
        call = _made(known) or {
            "name": action,
            "arguments": {k: v for k, v in args.items() if k not in _OWN},
        }
        yield {"role": "assistant", "content": str(args.get("thought") or ""), "tool_calls": [call]}


def _made(known: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the call that the model made, word for word, if the event holds its reply."""
    reply = replied(known.get("model_response"))
    calls = (reply[0].get("tool_calls") or []) if reply else []
    same = (call for call in calls if call.get("id") == known.get("tool_call_id"))
    return next(same, None)


@importer(
    "toolbench",
    looks_like=lambda log: log.has("answer_generation"),
    fields="`answer_generation`: `query`, `train_messages`",
)
def toolbench(log: LogFile) -> Iterator[Trajectory | Problem]:
    """ToolBench's answers: the last of ``train_messages`` is the whole run; without one, the chain
    of its last try.

    Without a valid answer a run failed. With one it has no label: ``win`` says no more than that.
    """

    def read(record: dict[str, Any], where: str) -> Trajectory:
        given = field(record, "answer_generation", dict)
        chats = field(given, "train_messages", list)
        tried = record["trys"] if isinstance(record.get("trys"), list) else []
        chain = tried[-1].get("chain") if tried and isinstance(tried[-1], dict) else None
        turns = chats[-1] if chats else _chained(given.get("query"), chain)
        if len(turns) < 2:
            raise ValueError("neither answer_generation.train_messages nor trys holds a run")
        tools = [{"type": "function", "function": f} for f in given.get("function") or ()]
        beside = {"question": given.get("query"), "tools": tools}
        success = False if record.get("win") is False else None
        return labelled(log, beside, where, as_messages(turns, "turns"), success=success)

    return log.convert(read)


def _chained(query: Any, chain: Any) -> list[Message]:
    """Return the turns of a chain of nodes: thought, action, its input with what came back."""
    turns: list[Message] = [{"role": "user", "content": str(query or "")}]
    thought = name = ""
    for node in chain if isinstance(chain, list) else []:
        kind, said = str(node.get("node_type")), str(node.get("description") or "")
        if kind == "Thought":
            thought = said
        elif kind == "Action":
            name = said
        elif kind == "Action Input":
            call = {"name": name, "arguments": said}
            turns.append({"role": "assistant", "content": thought, "tool_calls": [call]})
            turns.append({"role": "tool", "content": str(node.get("observation") or "")})
            thought = ""
    return [*turns, {"role": "assistant", "content": thought}] if thought else turns


@importer(
    "nebius",
    looks_like=lambda log: log.has("trajectory", "target", "exit_status"),
    fields="`trajectory`: `[{role, text}]`, `target`, `exit_status`",
)
def nebius(log: LogFile) -> Iterator[Trajectory | Problem]:
    """SWE-agent's runs as Nebius published them; ``target`` says whether the tests pass."""

    def read(record: dict[str, Any], where: str) -> Trajectory:
        turns = as_messages(field(record, "trajectory", list), "trajectory")
        beside = {k: v for k, v in record.items() if k != "target"}
        patch = record.get("generated_patch")
        return labelled(
            log,
            beside,
            where,
            turns,
            prediction=patch if isinstance(patch, str) and patch else None,
            success=truth(record["target"]),
            termination="finished" if record["exit_status"] == "submitted" else "",
        )

    return log.convert(read)
