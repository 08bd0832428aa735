"""Logs of every format with the counts that reading them must give, from their own labels; shared
with the benchmark.

The small logs are made here, of the same three or so runs; their labels are what the counts come
from. The counts of real files are taken from their labels by code that knows nothing of the
package.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

LABELLED = (("Who leads Freedonia?", "Firefly", True), ("Who leads Sylvania?", "Trentino", False))
RUNS = (*LABELLED, ("Who leads Osterlich?", "Gloria", None))


@dataclass(frozen=True)
class Case:
    """A log in a format: its file's name and content, and the outcomes of its runs."""

    format: str
    file: str
    content: object
    outcomes: tuple[bool | None, ...]

    @property
    def counts(self):
        """Records, successes, failures, unlabelled, problems."""
        return counts(self.outcomes)

    def write(self, folder):
        """Write the log, and return its path: JSON lines for a tuple, one JSON text for anything
        else but text.
        """
        path = Path(folder) / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.content, tuple):
            text = "".join(json.dumps(record) + "\n" for record in self.content)
        else:
            text = (
                self.content
                if isinstance(self.content, str)
                else json.dumps(self.content, indent=1)
            )
        path.write_text(text, encoding="utf-8")
        return path


def counts(outcomes):
    """Return records, successes, failures, unlabelled and problems (none) of runs with these
    labels.
    """
    outcomes = list(outcomes)
    return (len(outcomes), outcomes.count(True), outcomes.count(False), outcomes.count(None), 0)


def chat(question, answer):
    """Return a chat with a call of a tool, as OpenAI has it."""
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "search", "arguments": '{"query": "leader"}'},
    }
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "I look it up.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Nothing is known."},
        {"role": "assistant", "content": f"It is {answer}."},
    ]


def react(question, answer):
    """Return a run as ReAct turns."""
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "Thought: I search.\nAction: search[leader]"},
        {"role": "user", "content": "Observation: nothing"},
        {"role": "assistant", "content": f"Thought: so.\nAction: finish[{answer}]"},
    ]


def anthropic(question, answer):
    """Return the chat in Anthropic's blocks."""
    use = {"type": "tool_use", "id": "t1", "name": "search", "input": {"query": "leader"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "content": [{"type": "text", "text": "Nothing is known."}],
    }
    thought = {"type": "thinking", "thinking": "I should search.", "signature": "x"}
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "I look it up."}, use]},
        {"role": "user", "content": [result]},
        {"role": "assistant", "content": [{"type": "text", "text": f"It is {answer}."}]},
    ]


def responses(question, answer):
    """Return the chat as items of the Responses API."""
    say = {"type": "message", "role": "assistant"}
    return [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": question}]},
        {
            "type": "reasoning",
            "id": "r1",
            "summary": [{"type": "summary_text", "text": "I should search."}],
        },
        {**say, "content": [{"type": "output_text", "text": "I look it up."}]},
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "search",
            "arguments": '{"query": "leader"}',
        },
        {"type": "function_call_output", "call_id": "c1", "output": "Nothing is known."},
        {**say, "content": [{"type": "output_text", "text": f"It is {answer}."}]},
    ]


def parts(question, answer):
    """Return what was sent and what came back as OpenTelemetry's messages."""
    call = {"type": "tool_call", "id": "c1", "name": "search", "arguments": {"query": "leader"}}
    given = {"type": "tool_call_response", "id": "c1", "response": "Nothing is known."}
    sent = [
        {"role": "user", "parts": [{"type": "text", "content": question}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "I look it up."}, call]},
        {"role": "tool", "parts": [given]},
    ]
    text = {"type": "text", "content": f"It is {answer}."}
    return sent, [{"role": "assistant", "parts": [text], "finish_reason": "stop"}]


def flat(prefix, turns):
    """Return messages as OpenInference's attributes."""
    found = {}
    for n, turn in enumerate(turns):
        found |= {
            f"{prefix}.{n}.message.role": turn["role"],
            f"{prefix}.{n}.message.content": turn["content"],
        }
        for m, call in enumerate(turn.get("tool_calls", ())):
            at = f"{prefix}.{n}.message.tool_calls.{m}.tool_call"
            found |= {f"{at}.id": call["id"], f"{at}.function.name": call["function"]["name"]}
            found |= {f"{at}.function.arguments": call["function"]["arguments"]}
        if "tool_call_id" in turn:
            found[f"{prefix}.{n}.message.tool_call_id"] = turn["tool_call_id"]
    return found


def otlp(value):
    """Return a value as OTLP's JSON types it."""
    if isinstance(value, list):
        return {"arrayValue": {"values": [otlp(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": [{"key": k, "value": otlp(v)} for k, v in value.items()]}}
    return {"stringValue": value}


def _otlp_file():
    spans = []
    for n, (question, answer, _) in enumerate(RUNS):
        sent, received = parts(question, answer)
        about = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m-7b"}
        first = about | {"gen_ai.input.messages": sent[:1], "gen_ai.output.messages": sent[1:2]}
        last = about | {
            "gen_ai.input.messages": json.dumps(sent),
            "gen_ai.output.messages": json.dumps(received),
        }
        for m, attributes in enumerate((first, last, {"gen_ai.operation.name": "execute_tool"})):
            listed = [{"key": key, "value": otlp(value)} for key, value in attributes.items()]
            spans.append(
                {
                    "traceId": f"t{n}",
                    "spanId": f"s{m}",
                    "startTimeUnixNano": str(m),
                    "attributes": listed,
                }
            )
    return {
        "resourceSpans": [
            {"resource": {}, "scopeSpans": [{"scope": {"name": "x"}, "spans": spans}]}
        ]
    }


def _phoenix():
    for n, (question, answer, success) in enumerate(RUNS):
        turns = chat(question, answer)
        attributes = {"openinference.span.kind": "LLM", "llm.model_name": "m-7b"}
        attributes |= flat("llm.input_messages", turns[:-1]) | flat(
            "llm.output_messages", turns[-1:]
        )
        span = {
            "name": "ChatCompletion",
            "context": {"trace_id": f"t{n}", "span_id": "b"},
            "parent_id": "a",
        }
        yield {**span, "start_time": "2026-01-01T00:00:01Z", "attributes": attributes}
        root = {"openinference.span.kind": "AGENT", "input.value": question}
        root |= {} if success is None else {"eval.correctness.score": float(success)}
        yield {
            **span,
            "context": {"trace_id": f"t{n}", "span_id": "a"},
            "parent_id": None,
            "attributes": root,
        }


def _langfuse():
    for n, (question, answer, success) in enumerate(RUNS):
        turns = chat(question, answer)
        about = {"traceId": f"t{n}", "type": "GENERATION", "model": "m-7b"}
        scores = (
            []
            if success is None
            else [{"name": "correct", "value": int(success), "dataType": "BOOLEAN"}]
        )
        calls = [
            {"id": "a", **about, "startTime": "1", "input": turns[:1], "output": turns[1]},
            {
                "id": "b",
                **about,
                "startTime": "2",
                "input": {"messages": turns[:-1]},
                "output": turns[-1],
            },
            {"id": "c", "traceId": f"t{n}", "type": "SPAN", "input": {"q": 1}, "output": None},
        ]
        yield {
            "id": f"t{n}",
            "name": "agent",
            "input": question,
            "observations": calls,
            "scores": scores,
        }


def _atif(question, answer, success):
    call = {"tool_call_id": "c1", "function_name": "search", "arguments": {"query": "leader"}}
    seen = {"results": [{"source_call_id": "c1", "content": "Nothing is known."}]}
    agent = {"source": "agent", "model_name": "m-7b"}
    steps = [
        {"step_id": 1, "source": "user", "message": question},
        {
            "step_id": 2,
            **agent,
            "message": "I look it up.",
            "tool_calls": [call],
            "observation": seen,
        },
        {"step_id": 3, **agent, "message": f"It is {answer}.", "reasoning_content": "Hm."},
    ]
    about = {"name": "harbor-agent", "version": "1.0", "model_name": "m-7b"}
    return {
        "schema_version": "ATIF-v1.4",
        "session_id": question,
        "agent": about,
        "steps": steps,
    } | ({} if success is None else {"extra": {"reward": float(success)}})


def _traj(question, answer):
    history = [
        {"role": "system", "content": "You program.", "agent": "primary"},
        {
            "role": "user",
            "content": "Here is a demonstration.\nISSUE:\nOld.\n\nINSTRUCTIONS:\n",
            "is_demo": True,
        },
        {
            "role": "user",
            "content": f"We solve this.\nISSUE:\n{question}\n\nINSTRUCTIONS:\nGo.",
            "agent": "primary",
        },
        {
            "role": "assistant",
            "content": "I look.\n```\nls\n```",
            "thought": "I look.",
            "action": "ls",
            "agent": "primary",
        },
        {"role": "user", "content": "a.py\nbash-$", "agent": "primary"},
        {
            "role": "assistant",
            "content": f"{answer}.\n```\nsubmit\n```",
            "thought": answer,
            "action": "submit",
        },
    ]
    steps = [
        {
            "action": "ls",
            "observation": "a.py",
            "response": "I look.",
            "thought": "I look.",
            "state": "{}",
        }
    ]
    info = {
        "exit_status": "submitted",
        "submission": "diff",
        "model_stats": {"tokens_sent": 0, "api_calls": 2},
    }
    return {"environment": "swe_main", "trajectory": steps, "history": history, "info": info}


def _state(question, answer, success, n):
    turns = [{"role": "user", "content": f"Solve it with a tool.\n---\nTask:\n{question}\n"}]
    turns.append({"role": "assistant", "content": f"Assistant:\n<solution> {answer} </solution>\n"})
    reason = "task_success" if success else "max_propose_steps"
    state = {
        "history": turns,
        "finished": True,
        "success": success,
        "terminate_reason": reason,
        "error": None,
    }
    task = {
        "task_name": "reasoning",
        "task_id": n,
        "prompt": question,
        "reference": "Firefly",
        "metadata": {},
    }
    return {"state": state, "task": task}


def _label(success, name="success"):
    return {} if success is None else {name: success}


def _sharegpt(turns):
    names = {"user": "human", "assistant": "gpt", "tool": "observation"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


def _calls_sharegpt(question, answer):
    call = json.dumps({"name": "search", "arguments": {"query": "leader"}})
    told = (
        ("human", question),
        ("function_call", call),
        ("observation", "Nothing."),
        ("gpt", f"It is {answer}."),
    )
    return [{"from": sender, "value": value} for sender, value in told]


def _outcomes(runs=RUNS):
    return tuple(success for _, _, success in runs)


def _noted(question, answer, success):
    told = [("human", "You may search.", None), ("gpt", "OK", False)]
    told += [("human", question, None), ("gpt", f"Thought: so.\nAction: finish[{answer}]", True)]
    turns = [{"from": sender, "value": value, "loss": loss} for sender, value, loss in told]
    return {"conversations": turns, "item_id": f"town_{question}", **_label(success, "reward")}


def small_cases():
    """Return a small log of every shape that is read."""
    both, three = _outcomes(LABELLED), _outcomes()
    made = [
        Case(
            "openai",
            "messages.jsonl",
            tuple({"messages": chat(q, a), **_label(s)} for q, a, s in RUNS),
            three,
        ),
        Case(
            "openai",
            "text.jsonl",
            tuple({"messages": json.dumps(chat(q, a)), **_label(s)} for q, a, s in RUNS),
            three,
        ),
        Case(
            "openai",
            "conv.json",
            [{"conversations": chat(q, a), **_label(s)} for q, a, s in RUNS],
            three,
        ),
        Case("openai", "lists.jsonl", tuple(chat(q, a) for q, a, _ in RUNS), (None,) * 3),
        Case("openai", "lists.json", [chat(q, a) for q, a, _ in RUNS], (None,) * 3),
        Case(
            "openai",
            "tau.json",
            [
                {
                    "task_id": n,
                    "trial": 0,
                    "reward": float(bool(s)),
                    "info": {"task": {"user_id": "u"}},
                    "traj": chat(q, a),
                }
                for n, (q, a, s) in enumerate(LABELLED)
            ],
            both,
        ),
        Case(
            "openai",
            "kto.jsonl",
            tuple(
                {"prompt": chat(q, a)[:1], "completion": chat(q, a)[1:], "label": s}
                for q, a, s in LABELLED
            ),
            both,
        ),
        Case("session", "one.json", chat(*RUNS[0][:2]), (None,)),
        Case("session", "one.jsonl", tuple(chat(*RUNS[0][:2])), (None,)),
        Case(
            "session",
            "hub.jsonl",
            (
                {"type": "session", "harness": "x", "id": "s1", "success": True},
                *({"type": "message", "message": turn} for turn in chat(*RUNS[0][:2])),
            ),
            (True,),
        ),
        Case(
            "session",
            "claude.jsonl",
            tuple(
                {"type": turn["role"], "sessionId": f"s{n}", "message": turn, "uuid": f"{n}{m}"}
                for n, (q, a, _) in enumerate(RUNS)
                for m, turn in enumerate(anthropic(q, a))
            ),
            (None,) * 3,
        ),
        Case(
            "session",
            "codex.jsonl",
            (
                {"type": "session_meta", "payload": {"id": "s"}},
                *({"type": "response_item", "payload": item} for item in responses(*RUNS[0][:2])),
            ),
            (None,),
        ),
        Case(
            "anthropic",
            "blocks.jsonl",
            tuple(
                {"system": "Be brief.", "messages": anthropic(q, a), **_label(s)}
                for q, a, s in RUNS
            ),
            three,
        ),
        Case(
            "responses",
            "items.jsonl",
            tuple({"messages": responses(q, a), **_label(s)} for q, a, s in RUNS),
            three,
        ),
        Case(
            "responses",
            "io.jsonl",
            tuple({"input": q, "output": responses(q, a)[1:], **_label(s)} for q, a, s in RUNS),
            three,
        ),
        Case(
            "sharegpt",
            "from.json",
            [{"conversations": _sharegpt(react(q, a)), **_label(s, "reward")} for q, a, s in RUNS],
            three,
        ),
        Case(
            "sharegpt",
            "calls.json",
            [
                {"conversations": _calls_sharegpt(q, a), "tools": "[]", **_label(s)}
                for q, a, s in RUNS
            ],
            three,
        ),
        Case("sharegpt", "noted.json", [_noted(q, a, s) for q, a, s in RUNS], three),
        Case(
            "pairs",
            "dpo.jsonl",
            tuple(
                {"prompt": q, "chosen": f"It is {a}.", "rejected": "Unknown."} for q, a, _ in RUNS
            ),
            (True, False) * 3,
        ),
        Case(
            "pairs",
            "dpo_chats.json",
            [{"chosen": react(q, a), "rejected": react(q, "nobody")} for q, a, _ in RUNS],
            (True, False) * 3,
        ),
        Case(
            "flashrag",
            "flashrag.json",
            [
                {
                    "id": f"test_{n}",
                    "question": q,
                    "golden_answers": ["Rufus Firefly", "Firefly"],
                    "output": {
                        "prompt": f"Answer: {q}",
                        "pred": a,
                        "metric_score": {"em": float(a == "Firefly"), "f1": 0.0},
                    },
                }
                for n, (q, a, _) in enumerate(LABELLED)
            ],
            both,
        ),
        Case(
            "alpaca",
            "alpaca.json",
            [
                {
                    "instruction": q,
                    "input": "",
                    "output": f"Thought: so.\nAction: finish[{a}]",
                    **_label(s),
                }
                for q, a, s in RUNS
            ],
            three,
        ),
        Case("atif", "atif.jsonl", tuple(_atif(q, a, s) for q, a, s in RUNS), three),
        Case("atif", "trajectory.json", _atif(*RUNS[0]), (True,)),
        Case("swe-agent", "a__a-1.traj", _traj(*RUNS[0][:2]), (None,)),
        Case(
            "mint",
            "m-7b_hotpotqa_max2.jsonl",
            tuple(_state(q, a, s, n) for n, (q, a, s) in enumerate(LABELLED)),
            both,
        ),
        Case(
            "tora",
            "tora.jsonl",
            tuple(
                {
                    "dataset": "tora-corpus-math",
                    "id": q,
                    "gt": "2",
                    "gt_cot": "So 2.",
                    "messages": [
                        {"role": "user", "content": q},
                        {"role": "assistant", "content": r"So $\boxed{2}$."},
                    ],
                }
                for q, _, _ in RUNS
            ),
            (True,) * 3,
        ),
        Case(
            "tora",
            "samples.jsonl",
            tuple(
                {
                    "idx": n,
                    "question": q,
                    "gt": "2",
                    "gt_cot": "",
                    "code": [r"So $\boxed{2}$.", r"So $\boxed{3}$."],
                    "pred": ["2", "3"],
                    "report": [None, None],
                    "score": [True, False],
                }
                for n, (q, _, _) in enumerate(RUNS)
            ),
            (True, False) * 3,
        ),
        Case("spans", "otlp.json", _otlp_file(), (None,) * 3),
        Case("spans", "phoenix.jsonl", tuple(_phoenix()), three),
        Case("spans", "langfuse.jsonl", tuple(_langfuse()), three),
        Case("spans", "trace.json", next(_langfuse()), (True,)),
    ]
    return made


def real_cases(root):
    """Yield path, format and counts of the real files, from their own labels."""
    for path in sorted((root / "trajectories" / "mint").glob("*.jsonl")):
        yield path, "mint", counts(record["success"] for record in _lines(path))
    for path in sorted((root / "trajectories" / "fireact").glob("*.json")):
        records = json.loads(path.read_text(encoding="utf-8"))
        yield path, "fireact", counts(record["reward"] for record in records.values())
    for path in sorted((root / "trajectories" / "reflexion").glob("*.txt")):
        yield path, "reflexion", _sections(path)
    for path in sorted((root / "more_logs" / "mint-published").glob("*.jsonl")):
        yield path, "mint", counts(record["state"]["success"] for record in _lines(path))
    for path in sorted((root / "more_logs" / "swe-agent").glob("*.traj")):
        yield path, "swe-agent", counts([None])
    for path in sorted((root / "more_logs" / "inspect").glob("*.json")):
        samples = json.loads(path.read_text(encoding="utf-8"))["samples"]
        yield (
            path,
            "inspect",
            counts(sample["scores"]["match"]["value"] == "C" for sample in samples),
        )
    for path in sorted((root / "more_logs" / "reflexion-last").glob("*.txt")):
        yield path, "reflexion", _summaries(path)
    for path in sorted((root / "more_logs" / "tora").glob("*.jsonl")):
        yield path, "tora", counts(True for _ in _lines(path))


def _lines(path):
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def _summaries(path):
    """Add up what a Reflexion log says of each trial."""
    found = re.findall(
        r"^Trial summary: Correct: (\d+), Incorrect: (\d+)",
        path.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    right, wrong = (sum(map(int, column)) for column in zip(*found, strict=True))
    return (right + wrong, right, wrong, 0, 0)


def _sections(path):
    """Count the reference answers below each heading of a Reflexion log: each attempt ends with
    one.
    """
    found, section = Counter(), ""
    for line in path.read_text(encoding="utf-8").splitlines():
        heading = re.match(r"-+ BEGIN (CORRECT|INCORRECT|HALTED) AGENTS", line)
        section = heading[1] if heading else section
        found[section] += line.startswith("Correct answer:")
    right, wrong = found["CORRECT"], found["INCORRECT"] + found["HALTED"]
    return (right + wrong, right, wrong, 0, 0)
