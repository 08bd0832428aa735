"""Small logs of each format, for the tests of 01 logs."""

import json
from pathlib import Path

# towns.eval: three samples answered by the mockllm/model of inspect-ai 0.3.285 (custom_outputs: a
# call of a lookup tool and a right answer, a wrong answer, a call and a right answer), scorer
# includes(); repacked from zstd to deflate. towns_two_scores_zstd.eval: the same with the scorers
# includes() and match(), as inspect wrote it.
FIXTURES = Path(__file__).parent / "fixtures"

MINT = {
    "model": "m-7b",
    "dataset": "gsm8k",
    "task_id": 3,
    "question": "How much is 2 + 2?",
    "reference": "4",
    "success": True,
    "terminate_reason": "task_success",
    "error": None,
    "messages": [
        {"role": "user", "content": "How much is 2 + 2?\n"},
        {"role": "assistant", "content": "<solution> 5 </solution>"},
        {"role": "user", "content": "Observation:\nYour answer is wrong."},
        {"role": "assistant", "content": "<solution> 4 </solution>"},
    ],
}
CHAT = {
    "messages": [
        {"role": "system", "content": "Use the tools."},
        {"role": "user", "content": "Where is Sylvania?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "search", "arguments": '{"query": "Sylvania"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "In Freedonia."},
        {"role": "assistant", "content": "Freedonia"},
    ],
    "reward": 1.0,
}
REFLEXION = """
########################################
BEGIN TRIAL 1
Trial summary: Correct: 1, Incorrect: 1, Halted: 1
#######################################
------------- BEGIN CORRECT AGENTS -------------

Question: Who leads Freedonia?
Thought 1: Search.
Action 1: Search[Freedonia [state]]
Observation 1: Freedonia is a state.
Its leader is Firefly.

Thought 1 is how the next paragraph begins.
Thought 2: Firefly.
Action 2: Finish[Firefly]
Observation 2: Answer is CORRECT
Correct answer: Firefly

------------- BEGIN INCORRECT AGENTS -----------

Question: Who leads Sylvania? You have attempted to answer following question before and failed. \
The following reflection(s) give a plan. Use them.
Reflections:
- I should have looked longer.
Thought 1: Trentino?
Action 1: Finish[Firefly]
Observation 1: Answer is INCORRECT
Correct answer: Trentino

------------- BEGIN HALTED AGENTS --------------

Question: How old is Freedonia?
Thought 1: Search.
Action 1: Search[age]
Observation 1: Could not find [age].
Correct answer: 33

########################################
BEGIN TRIAL 2
Trial summary: Correct: 1, Incorrect: 0, Halted: 0
#######################################
------------- BEGIN CORRECT AGENTS -------------

Question:  Who leads  Freedonia?
Correct answer: Firefly
"""
ALPACA = "Below is an instruction.\n\n### Instruction:\n{q}\n\n### Response:\n{turns}"
FIREACT = {
    "17": {
        "reward": False,
        "em": False,
        "f1": 0.5,
        "gt": "rufus firefly",
        "pred": "firefly",
        "prompt": "",
        "traj": ALPACA.format(
            q="Who leads Freedonia?",
            turns="Thought: I search.\nAction: search[leader]\nObservation: Firefly.\n"
            "Thought: So.\nAction: finish[Firefly]\n"
            "Observation: Episode finished, reward = False\n",
        ),
    },
    "18": {
        "reward": True,
        "em": True,
        "f1": 1.0,
        "gt": "trentino",
        "pred": "trentino",
        "prompt": [],
        "traj": [
            {"role": "user", "content": "Who leads Sylvania?"},
            {"role": "assistant", "content": "Thought: Known.\nAction: finish[Trentino]"},
            {"role": "user", "content": "Observation: Episode finished, reward = True"},
        ],
    },
}
NAT = {
    "conversations": [
        {"role": "assistant", "content": "Thought: hm\n\nAction: search[x]", "loss": True},
        {"role": "user", "content": "Observation:  #1: y", "loss": False},
        {"role": "assistant", "content": "Thought: so\n\nAction: finish[No]", "loss": True},
    ],
    "info": {"reward": False, "gt": True, "pred": "No", "acc": False},
    "id": "q7",
    "source": "0.7",
}
REACT = """Question: Who leads Freedonia?
Thought: Two things to look up.
Action: Search[Freedonia [state]], Lookup[leader]
Observation: Firefly.

Question: Who leads Sylvania?
Thought 1: Known.
Action 1: Finish[Trentino]
Observation 1: Answer is INCORRECT
"""


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
