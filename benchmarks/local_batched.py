"""Episodes per second of `LocalModel`, 64 episodes at once, against one-at-a-time `model.generate`.

Both play the same tasks through `negfail_nb.collect`: greedy, same prompts, and the same answers, which is checked turn
by turn. In turns, on the same machine; a ratio is that of one round; ``value`` is the median, ``low`` and ``high`` the
extremes. The peer plays the first few of the 64 tasks, as it has no gain from many.

``python benchmarks/local_batched.py FOLDER`` measures a model of your own, which acts by itself. Without a folder, the
model is a Llama of 3 layers, width 256 and random weights, whose text no environment understands: so each of its
replies of 48 tokens becomes the thought before an action of a script (three searches, then finish).
"""

import dataclasses
import json
import logging
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from negfail_nb.collect.live import collect
from negfail_nb.collect.local import LocalModel
from negfail_nb.collect.protocol import Reply, Task
from negfail_nb.collect.tools import CalculatorTool, SearchTool, instruction
from negfail_nb.pocket import make_questions, make_world, stream_passages
from negfail_nb.profiles import LiveSettings, ModelSettings
from negfail_nb.train import load_model, load_tokenizer

TASKS, PEER_TASKS, ROUNDS, REPLY, SEARCHES = 64, 6, 3, 48, 3
SHAPE = ModelSettings(layers=3, width=256, heads=8, vocabulary=2048)


def main(folder: str = "") -> dict:
    passages = [(passage.title, passage.text) for passage in stream_passages(240, 0)]
    tools = (SearchTool(passages), CalculatorTool())
    questions = make_questions(make_world(240, 0), TASKS, 0)
    tasks = [Task(id=q["_id"], question=q["question"], answer=q["answer"]) for q in questions]
    shape = dataclasses.replace(SHAPE, name=folder)
    tokenizer = load_tokenizer(shape, [instruction(tools), *(f"{title}: {text}" for title, text in passages)])
    model = load_model(shape, tokenizer)
    local = LocalModel(model, tokenizer, "model", concurrency=TASKS)
    many, one = local, OneAtATime(local)
    if not folder:
        many, one = Scripted(many), Scripted(one)
    play(many, tasks[:4], tools, 4)  # imports, and the first pages of memory
    rounds = []
    for _ in range(ROUNDS):
        mine, peer = play(many, tasks, tools, TASKS), play(one, tasks[:PEER_TASKS], tools, 1)
        for ours, theirs in zip(mine[1], peer[1], strict=False):
            assert ours.messages == theirs.messages, f"{ours.id}: {ours.messages[-1]} is not {theirs.messages[-1]}"
        rounds.append((mine[0], peer[0]))
    ratios = sorted(ours / theirs for ours, theirs in rounds)
    speeds = [statistics.median(pair[i] for pair in rounds) for i in (0, 1)]
    return {
        "local_batched_vs_sequential": {
            "value": round(statistics.median(ratios), 2),
            "unit": f"x ({speeds[0]:.2f} against {speeds[1]:.2f} episodes/s)",
            "peer": "transformers, model.generate, one at a time",
            "low": round(ratios[0], 2),
            "high": round(ratios[-1], 2),
            "n": ROUNDS,
            "model": Path(folder).name or "Llama of 3 layers, width 256, random weights",
            "calls": sum(t.usage.calls for t in mine[1]),
            "prompt_tokens": sum(t.usage.prompt_tokens for t in mine[1]),
            "completion_tokens": sum(t.usage.completion_tokens for t in mine[1]),
        }
    }


def play(model, tasks, tools, concurrency) -> tuple[float, list]:
    """Return episodes per second, and the episodes."""
    settings = LiveSettings(attempts=1, temperatures=(0.0,), max_tokens=REPLY, concurrency=concurrency)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        logs = collect(model, tasks, tools, settings, file=Path(folder) / "episodes.jsonl")
        seconds = time.perf_counter() - start
    crashed = [t.error for t in logs.trajectories if t.termination == "crashed"]
    assert not crashed, crashed[0]
    return len(tasks) / seconds, list(logs.trajectories)


class OneAtATime:
    """The peer: each call of the model is one `generate` over the whole prompt."""

    def __init__(self, local: LocalModel) -> None:
        self.local, self.name, self.window = local, local.name, local.window

    async def reply(self, messages, sampling, tools=()) -> Reply:
        import torch

        prompt = torch.tensor([self.local.prompt_ids(messages, tools)])
        ends, tokenizer = [self.local.chat.end_id, self.local.tokenizer.eos_token_id], self.local.tokenizer
        whole = self.local.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=sampling.max_tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        tokens = whole[0, prompt.shape[1] :].tolist()
        content = tokenizer.decode([t for t in tokens if t not in ends], skip_special_tokens=True)
        content = content.split(sampling.stop[0])[0]
        message = {"role": "assistant", "content": content}
        return Reply(message=message, prompt_tokens=prompt.shape[1], completion_tokens=len(tokens))

    async def __aenter__(self):
        self.local.model.eval()
        self.local.model.set_attn_implementation("sdpa")
        return self

    async def __aexit__(self, *error) -> None:
        pass


class Scripted:
    """Puts an action of a script behind what a model wrote."""

    def __init__(self, model) -> None:
        self.model, self.name, self.window = model, model.name, model.window

    async def reply(self, messages, sampling, tools=()) -> Reply:
        reply = await self.model.reply(messages, sampling, tools)
        thought = re.sub(r"\W+", " ", reply.message["content"])
        turn, words = sum(m["role"] == "assistant" for m in messages), messages[1]["content"].split()
        action = f"search[{' '.join(words[turn::2])}]" if turn < SEARCHES else "finish[nothing]"
        content = f"Thought: {thought}\nAction: {action}"
        return dataclasses.replace(reply, message={"role": "assistant", "content": content})

    async def __aenter__(self):
        await self.model.__aenter__()
        return self

    async def __aexit__(self, *error) -> None:
        await self.model.__aexit__(*error)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(main(*sys.argv[1:])))
