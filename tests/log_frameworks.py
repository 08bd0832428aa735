"""Small logs as agent frameworks, trainers and proxies write them, of the same runs as
`log_formats`; shared with the benchmark.
"""

import json

from log_formats import LABELLED, RUNS, Case, chat, react

BOTH = tuple(success for _, _, success in LABELLED)
THREE = tuple(success for _, _, success in RUNS)
SYSTEM = "Search with <search>."


def label(success, name="success"):
    """Return the field that labels a run, if it is labelled."""
    return {} if success is None else {name: success}


def langchain(question, answer, success):
    """Return what an AgentExecutor returns; its agent writes its calls as text."""
    said = "I look it up.\nAction: search\nAction Input: leader"
    action = {"tool": "search", "tool_input": "leader", "log": said, "type": "AgentAction"}
    steps = [[action, "Nothing is known."]]
    return {"input": question, "output": f"It is {answer}.", "intermediate_steps": steps} | label(
        success
    )


def smolagents(question, answer, success):
    """Return the memory of a code agent."""
    first = {"step_number": 1, "model_output": "Look.\n<code>\nsearch()\n</code>"}
    last = {"step_number": 2, "model_output": "So.\n<code>\nfinal_answer()\n</code>"}
    steps = [
        {"task": question},
        {**first, "code_action": "search()", "tool_calls": [], "observations": "Nothing."},
        {**last, "code_action": "final_answer()", "is_final_answer": True, "action_output": answer},
    ]
    return {"steps": steps, **label(success, "correct")}


def openhands(question, answer, success):
    """Return a line of ``output.jsonl``, an event an item."""
    made = chat(question, answer)[1]
    reply = {"choices": [{"message": made}]}
    known = {"function_name": "search", "tool_call_id": "c1", "model_response": reply}
    history = [
        {"source": "agent", "action": "system", "args": {"content": "You program."}},
        {"source": "user", "action": "message", "args": {"content": question}},
        {"source": "agent", "action": "recall", "args": {"query": question}},
        {"observation": "recall", "content": "Notes.", "extras": {}},
        {
            "source": "agent",
            "action": "run",
            "args": {"command": "ls", "thought": "I look it up."},
            "tool_call_metadata": known,
        },
        {"source": "agent", "observation": "run", "content": "Nothing is known.", "extras": {}},
        {"source": "agent", "action": "finish", "args": {"outputs": {}, "thought": "Done."}},
    ]
    return {
        "instance_id": f"town__{len(question)}",
        "instruction": question,
        "history": history,
        "test_result": {"git_patch": f"+{answer}"},
        "report": label(success, "resolved"),
        "error": None,
        "metrics": {"accumulated_cost": 1.0},
    }


def toolbench(question, answer):
    """Return the answer of ToolBench to one query."""
    call = {"name": "search", "arguments": '{"query": "leader"}'}
    done = {"name": "Finish", "arguments": json.dumps({"final_answer": answer})}
    turns = [
        {"role": "system", "content": "You are AutoGPT."},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "function_call": call},
        {"role": "function", "name": "search", "content": "Nothing is known."},
        {"role": "assistant", "content": "", "function_call": done},
    ]
    given = {
        "query": question,
        "function": [{"name": "search"}],
        "train_messages": [turns[:3], turns],
    }
    return {"win": True, "trys": [], "answer_generation": given}


def lost_toolbench(question):
    """Return a run of ToolBench that gave no valid answer, so that only its chain is kept."""
    nodes = [
        {"node_type": "Thought", "description": "I look it up.", "observation": ""},
        {"node_type": "Action", "description": "search", "observation": ""},
        {
            "node_type": "Action Input",
            "description": '{"query": "leader"}',
            "observation": "Nothing is known.",
        },
        {"node_type": "Thought", "description": "Not even Firefly.", "observation": ""},
    ]
    given = {"query": question, "valid_data": False, "train_messages": [], "function": []}
    return {"win": False, "trys": [{"chain": nodes, "win": False}], "answer_generation": given}


def nebius(question, answer, success):
    """Return a run of SWE-agent as Nebius published it."""
    turns = [
        {"role": "system", "system_prompt": "You program.", "text": None, "mask": False},
        {"role": "user", "text": question, "system_prompt": None},
        {"role": "ai", "text": "I look.\n```\nls\n```", "system_prompt": None},
        {"role": "user", "text": "a.py", "system_prompt": None},
        {"role": "ai", "text": "```\nsubmit\n```", "system_prompt": None},
    ]
    about = {"instance_id": "a__a-1", "exit_status": "submitted", "generated_patch": answer}
    return {**about, "trajectory": turns, "target": success}


def autogen(question, answer, success):
    """Return a team's result."""
    call = {"id": "c1", "name": "search", "arguments": '{"query": "leader"}'}
    told = {"content": "Nothing is known.", "call_id": "c1", "is_error": False}
    turns = [
        {"source": "user", "content": question, "type": "TextMessage"},
        {"source": "helper", "content": "I should search.", "type": "ThoughtEvent"},
        {"source": "helper", "content": [call], "type": "ToolCallRequestEvent"},
        {"source": "helper", "content": [told], "type": "ToolCallExecutionEvent"},
        {"source": "helper", "content": f"It is {answer}.", "type": "TextMessage"},
    ]
    return {"messages": turns, "stop_reason": "end", **label(success)}


def gemini(question, answer, success):
    """Return a chat as Gemini's API takes it, and its reply."""
    call = {"functionCall": {"name": "search", "args": {"query": "leader"}}}
    told = {"functionResponse": {"name": "search", "response": {"found": "nothing"}}}
    sent = [
        {"role": "user", "parts": [{"text": question}]},
        {"role": "model", "parts": [call]},
        {"role": "user", "parts": [told]},
    ]
    reply = {"role": "model", "parts": [{"text": f"It is {answer}."}]}
    return {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": sent,
        "response": {"candidates": [{"content": reply}]},
        **label(success),
    }


def proxied(question, answer, success):
    """Return a request and a reply, as a proxy logs them."""
    turns = chat(question, answer)
    reply = {"id": "r", "choices": [{"index": 0, "message": turns[-1], "finish_reason": "stop"}]}
    return {
        "request": {"model": "m-7b", "messages": turns[:-1]},
        "response": reply,
        **label(success),
    }


def searched(question, answer):
    """Return the text of a model that searches between tags, as Search-R1's."""
    return (
        f"<think>Who leads?</think>\n<search>leader</search>\n<information>{question} Nobody."
        f"</information>\n<think>So.</think>\n<answer>{answer}</answer>"
    )


def rolled_out(question, answer, success, bare):
    """Return a rollout as verl writes it: prompt and reply of one rendered chat; ``bare``: decoded
    without special tokens.
    """
    turns = [("system", SYSTEM), ("user", question), ("assistant", "")]
    prompt = "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns)
    prompt = prompt.removesuffix("<|im_end|>\n")
    reply = (
        '<tool_call>\n{"name": "search", "arguments": {"query": "leader"}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nNothing.\n</tool_response><|im_end|>\n"
        f"<|im_start|>assistant\n<answer>{answer}</answer><|im_end|>"
    )
    if bare:
        prompt, reply = (
            text.replace("<|im_start|>", "").replace("<|im_end|>", "") for text in (prompt, reply)
        )
    return {"input": prompt, "output": reply, "gts": "Firefly", "score": float(success), "step": 1}


def lm_eval(question, answer, success, n):
    """Return a sample of lm-evaluation-harness."""
    return {
        "doc_id": n,
        "doc": {"question": question, "answer": "Firefly"},
        "target": "Firefly",
        "arguments": {"gen_args_0": {"arg_0": f"Q: {question}\nA:", "arg_1": {"until": []}}},
        "resps": [[f" {answer}"]],
        "filtered_resps": [answer],
        "filter": "strict-match",
        "metrics": ["exact_match"],
        "exact_match": float(success),
    }


def agentbench(question, answer, success):
    """Return a line of AgentBench's ``runs.jsonl``, whose turns lie one level down."""
    turns = [
        {**turn, "role": "agent"} if turn["role"] == "assistant" else turn
        for turn in react(question, answer)
    ]
    output = {"status": "completed", "history": turns, **label(success)}
    return {"index": 1, "error": None, "output": output, "time": {"timestamp": 1}}


def bedrock(question, answer, success):
    """Return a chat of Bedrock's Converse API."""
    call = {"toolUse": {"toolUseId": "c1", "name": "search", "input": {"query": "leader"}}}
    told = {"toolUseId": "c1", "content": [{"text": "Nothing is known."}], "status": "success"}
    thought = {"reasoningContent": {"reasoningText": {"text": "So.", "signature": "x"}}}
    turns = [
        {"role": "user", "content": [{"text": question}]},
        {"role": "assistant", "content": [{"text": "I look it up."}, call]},
        {"role": "user", "content": [{"toolResult": told}]},
        {"role": "assistant", "content": [thought, {"text": f"It is {answer}."}]},
    ]
    return {"system": [{"text": "Be brief."}], "messages": turns, **label(success)}


def ai_sdk(question, answer, success):
    """Return a chat of Vercel's AI SDK: a call and its result in one part of the reply."""
    tool = {"type": "tool-search", "toolCallId": "c1", "state": "output-available"}
    parts = [
        {"type": "step-start"},
        {**tool, "input": {"query": "leader"}, "output": "Nothing is known."},
        {"type": "step-start"},
        {"type": "text", "text": f"It is {answer}."},
    ]
    turns = [
        {"id": "1", "role": "user", "parts": [{"type": "text", "text": question}]},
        {"id": "2", "role": "assistant", "parts": parts},
    ]
    return {"messages": turns, **label(success)}


def server_tool(question, answer, success):
    """Return a reply of Anthropic's API in which the server searched."""
    parts = [
        {"type": "server_tool_use", "id": "c1", "name": "search", "input": {"query": "leader"}},
        {"type": "web_search_tool_result", "tool_use_id": "c1", "content": "Nothing is known."},
        {"type": "text", "text": f"It is {answer}."},
    ]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": parts}]
    return {"messages": turns, **label(success)}


def stepwise(question, answer, success):
    """Return a run as a list of steps."""
    first = {"thought": "I look.", "action": "search[leader]", "observation": "Nothing is known."}
    last = {"thought": "So.", "action": f"finish[{answer}]", "observation": "The end."}
    return {"instruction": question, "steps": [first, last], **label(success, "reward")}


def several(question, answer, success):
    """Return two attempts at a question, as rejection sampling keeps them."""
    said = [f"<think>Hm.</think>\nIt is {answer}.", "Nobody knows."]
    return {"problem": question, "generations": said, "correctness": [success, False]}


def _called(question, answer):
    """Return what was sent in two calls of a model, and what came back."""
    turns = chat(question, answer)
    return (turns[:1], turns[1]), (turns[:3], turns[3])


def langsmith(n, question, answer):
    """Yield the runs of a trace of LangSmith, with LangChain's messages as it dumps them."""
    kinds = {"user": "human", "assistant": "ai", "tool": "tool"}

    def dumped(turn):
        kept = {k: v for k, v in turn.items() if k in ("content", "tool_call_id")}
        calls = [
            {
                "name": c["function"]["name"],
                "args": json.loads(c["function"]["arguments"]),
                "id": c["id"],
            }
            for c in turn.get("tool_calls", ())
        ]
        kept |= {"type": kinds[turn["role"]], **({"tool_calls": calls} if calls else {})}
        return {"lc": 1, "type": "constructor", "id": ["langchain", "schema"], "kwargs": kept}

    yield {
        "id": f"{n}",
        "trace_id": f"t{n}",
        "run_type": "chain",
        "inputs": {"q": 1},
        "outputs": {},
    }
    for m, (sent, received) in enumerate(_called(question, answer)):
        yield {
            "id": f"{n}{m}",
            "trace_id": f"t{n}",
            "run_type": "llm",
            "start_time": f"2026-01-01T00:00:0{m}",
            "inputs": {"messages": [[dumped(turn) for turn in sent]]},
            "outputs": {"generations": [[{"text": "", "message": dumped(received)}]]},
        }


def weave(n, question, answer):
    """Yield the calls of a trace of Weave."""
    for m, (sent, received) in enumerate(_called(question, answer)):
        yield {
            "id": f"{n}{m}",
            "trace_id": f"t{n}",
            "op_name": "weave:///x/op/openai.chat.completions.create:v0",
            "inputs": {"model": "m-7b", "messages": sent},
            "output": {"choices": [{"index": 0, "message": received}]},
        }


def mlflow(n, question, answer):
    """Return a trace of MLflow."""
    spans = [
        {
            "name": "call",
            "trace_id": f"t{n}",
            "start_time_unix_nano": m,
            "attributes": {
                "mlflow.spanType": '"CHAT_MODEL"',
                "mlflow.spanInputs": json.dumps({"messages": sent}),
                "mlflow.spanOutputs": json.dumps({"choices": [{"message": received}]}),
            },
        }
        for m, (sent, received) in enumerate(_called(question, answer))
    ]
    return {"info": {"trace_id": f"t{n}", "state": "OK"}, "data": {"spans": spans}}


def eto(question, answer):
    """Return a pair of ETO: ShareGPT's turns, each side going on behind the prompt."""
    said = [(turn["role"], turn["content"]) for turn in react(question, answer)]
    senders = {"user": "human", "assistant": "gpt"}
    turns = [{"from": senders[role], "value": text} for role, text in said]
    lost = [{"from": "gpt", "value": "Thought: so.\nAction: finish[nobody]"}]
    return {"id": question, "prompt": turns[:1], "chosen": turns[1:], "rejected": lost}


def framework_cases():
    """Return a small log of every shape."""
    return [
        Case("langchain", "executor.jsonl", tuple(langchain(*run) for run in RUNS), THREE),
        Case("smolagents", "memory.jsonl", tuple(smolagents(*run) for run in RUNS), THREE),
        Case("openhands", "output.jsonl", tuple(openhands(*run) for run in RUNS), THREE),
        Case("toolbench", "1_DFS.json", toolbench(*RUNS[0][:2]), (None,)),
        Case("toolbench", "2_CoT.json", lost_toolbench(RUNS[0][0]), (False,)),
        Case("nebius", "runs.jsonl", tuple(nebius(*run) for run in LABELLED), BOTH),
        Case(
            "lm-eval", "samples.jsonl", tuple(lm_eval(*r, n) for n, r in enumerate(LABELLED)), BOTH
        ),
        Case("openai", "team.jsonl", tuple(autogen(*run) for run in RUNS), THREE),
        Case("openai", "gemini.jsonl", tuple(gemini(*run) for run in RUNS), THREE),
        Case("openai", "proxy.jsonl", tuple(proxied(*run) for run in RUNS), THREE),
        Case("openai", "proxy.json", proxied(*RUNS[0]), (True,)),
        Case("openai", "runs.jsonl", tuple(agentbench(*run) for run in RUNS), THREE),
        Case(
            "responses",
            "rollouts.jsonl",
            tuple(rolled_out(*run, bare=False) for run in LABELLED),
            BOTH,
        ),
        Case(
            "responses", "bare.jsonl", tuple(rolled_out(*run, bare=True) for run in LABELLED), BOTH
        ),
        Case(
            "flashrag",
            "search-r1.jsonl",
            tuple(
                {"question": q, "golden_answers": ["Firefly"], "response": searched(q, a)}
                for q, a, _ in LABELLED
            ),
            BOTH,
        ),
        Case("openai", "bedrock.jsonl", tuple(bedrock(*run) for run in RUNS), THREE),
        Case("openai", "ai-sdk.jsonl", tuple(ai_sdk(*run) for run in RUNS), THREE),
        Case("anthropic", "server-tool.jsonl", tuple(server_tool(*run) for run in RUNS), THREE),
        Case(
            "spans",
            "langsmith.jsonl",
            tuple(run for n, (q, a, _) in enumerate(RUNS) for run in langsmith(n, q, a)),
            (None,) * 3,
        ),
        Case(
            "spans",
            "weave.jsonl",
            tuple(call for n, (q, a, _) in enumerate(RUNS) for call in weave(n, q, a)),
            (None,) * 3,
        ),
        Case(
            "spans",
            "mlflow.jsonl",
            tuple(mlflow(n, q, a) for n, (q, a, _) in enumerate(RUNS)),
            (None,) * 3,
        ),
        Case("spans", "mlflow.json", mlflow(0, *RUNS[0][:2]), (None,)),
        Case("steps", "steps.json", [stepwise(*run) for run in RUNS], THREE),
        Case(
            "attempts",
            "sampled.jsonl",
            tuple(several(*run) for run in LABELLED),
            (True, False, False, False),
        ),
        Case("pairs", "eto.json", [eto(q, a) for q, a, _ in RUNS], (True, False) * 3),
    ]
