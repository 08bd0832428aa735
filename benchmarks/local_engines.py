"""Whole episodes a second of `LocalModel`, and of other ways to play them on the same weights.

The peers: one request after the other by ``generate``; all that wait at one time by one
``generate``, left-padded; transformers' continuous batching as it comes; and vLLM behind
`EndpointModel`, where ``NEGFAIL_NB_VLLM`` names an environment with it. All play the same tasks
greedily through `negfail_nb.agents`, in turns, in one process; a ratio is that of one round.

Two measures. ``local_replies_equal``: of all replies of `LocalModel`, with every question asked by
three attempts at once, the share that equals ``model.generate`` with the same prompt alone, token
for token (float32). ``local_vs_best_engine``: the median ratio of `LocalModel` to the quickest of
the others.

Models: pocket-llama, which acts by itself, and a Llama of 135 million parameters, whose replies
become the thought before an action of a script (three searches, then finish). ``NEGFAIL_NB_LLAMA``
names a folder with such a model (SmolLM2-135M-Instruct, say); without it, one of that shape with
random weights is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from fidelity_vllm import served
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from negfail_nb.agents import CalculatorTool, EndpointModel, LocalModel, Reply, SearchTool, collect
from negfail_nb.agents.tools import make_message
from negfail_nb.pocket import make_tasks
from negfail_nb.settings import EndpointSettings, LiveSettings

POCKET = Path(__file__).parents[1] / "negfail_nb" / "pocket" / "llama"
THREADS, SEARCHES = 2, 3
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Case:
    """A model, and what is played with it."""

    name: str
    dtype: str
    tasks: int
    attempts: int
    rounds: int
    max_tokens: int
    scripted: bool
    alone: bool  # whether one request after the other is a peer, too


CASES = (
    Case("pocket", "float32", 64, 1, 3, 96, scripted=False, alone=True),
    Case("llama-135m", "bfloat16", 16, 1, 2, 32, scripted=True, alone=False),
    Case("llama-135m", "float32", 16, 1, 2, 32, scripted=True, alone=False),
)


class Peer:
    """A `Model` with the prompts and the message of `LocalModel`, and a way of its own to the
    tokens.
    """

    def __init__(self, local: LocalModel) -> None:
        self.local, self.name, self.window = local, local.name, local.window
        known = local.model.generation_config.eos_token_id
        known = known if isinstance(known, list) else [known]
        self.ends = sorted(
            {i for i in (local.chat.end_id, local.tokenizer.eos_token_id, *known) if i is not None}
        )

    async def reply(self, messages, sampling, tools=()) -> Reply:
        prompt = self.local.prompt_ids(messages, tools)
        tokens = await self.tokens(prompt, min(sampling.max_tokens, self.window - len(prompt)))
        text = self.local.tokenizer.decode(
            [t for t in tokens if t not in self.ends], skip_special_tokens=True
        )
        cut = text[: min((text.find(s) for s in sampling.stop if s in text), default=len(text))]
        message = make_message(cut, tools, len(messages))
        return Reply(message=message, prompt_tokens=len(prompt), completion_tokens=len(tokens))

    async def tokens(self, prompt: list[int], limit: int) -> list[int]:
        raise NotImplementedError

    async def __aenter__(self):
        self.before = self.local.model.config._attn_implementation
        self.local.model.set_attn_implementation("sdpa")
        self.local.model.eval()
        return self

    async def __aexit__(self, *error) -> None:
        self.local.model.set_attn_implementation(self.before)


def generate(
    model, prompts: list[list[int]], limits: list[int], ends: list[int]
) -> list[list[int]]:
    """Return the replies of one `generate` over left-padded prompts."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[ends[0]] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    whole = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=max(limits),
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    return [
        until(row[:limit], ends)
        for row, limit in zip(whole[:, longest:].tolist(), limits, strict=True)
    ]


def until(tokens: list[int], ends: list[int]) -> list[int]:
    """Return the tokens to the first end token, and that."""
    return tokens[: next((i + 1 for i, t in enumerate(tokens) if t in ends), len(tokens))]


class Alone(Peer):
    """One request after the other."""

    async def tokens(self, prompt, limit):
        return generate(self.local.model, [prompt], [limit], self.ends)[0]


class Waves(Peer):
    """All that wait at one time, left-padded."""

    async def __aenter__(self):
        self.waiting: list = []
        self.thread = ThreadPoolExecutor(1)
        self.task = asyncio.create_task(self.run())
        return await super().__aenter__()

    async def tokens(self, prompt, limit):
        done = asyncio.get_running_loop().create_future()
        self.waiting.append((prompt, limit, done))
        return await done

    async def run(self) -> None:
        while True:
            before = len(self.waiting)
            await asyncio.sleep(0.01)
            if not before or before < len(self.waiting):
                continue  # until no more come
            wave, self.waiting = self.waiting, []
            prompts, limits, futures = zip(*wave, strict=True)
            asked = generate, self.local.model, prompts, limits, self.ends
            found = await asyncio.get_running_loop().run_in_executor(self.thread, *asked)
            for future, tokens in zip(futures, found, strict=True):
                future.set_result(tokens)

    async def __aexit__(self, *error) -> None:
        self.task.cancel()
        self.thread.shutdown()
        await super().__aexit__(*error)


class Continuous(Peer):
    """Transformers' continuous batching as it comes; only the size of its cache is given, as on a
    CPU it must be.
    """

    async def __aenter__(self):
        from transformers.generation import ContinuousBatchingConfig

        await super().__aenter__()
        config = ContinuousBatchingConfig(
            page_size=32,
            num_blocks=3000,
            max_batch_tokens=2048,
            max_requests_per_batch=64,
            auto_switch_to_flash=False,
        )
        generation = GenerationConfig(do_sample=False, eos_token_id=self.ends, max_new_tokens=96)
        self.engine = self.local.model.init_continuous_batching(generation, config)
        self.engine.warmup()
        self.engine.start()
        self.count = 0
        return self

    async def tokens(self, prompt, limit):
        done = asyncio.get_running_loop().create_future()
        self.count += 1
        name = str(self.count)
        self.engine.register_result_handler(
            name, lambda output: done.set_result(list(output.generated_tokens))
        )
        self.engine.add_request(prompt, name, limit, eos_token_id=self.ends)
        return await done

    async def __aexit__(self, *error) -> None:
        self.engine.stop(block=True)
        self.engine.destroy()
        await super().__aexit__(*error)


class Scripted:
    """Puts an action of a script behind what a model wrote."""

    def __init__(self, model) -> None:
        self.model, self.name, self.window = model, model.name, model.window

    async def reply(self, messages, sampling, tools=()) -> Reply:
        reply = await self.model.reply(messages, sampling, tools)
        thought = re.sub(r"\W+", " ", reply.message["content"])
        turn, words = (
            sum(m["role"] == "assistant" for m in messages),
            messages[1]["content"].split(),
        )
        action = f"search[{' '.join(words[turn::2])}]" if turn < SEARCHES else "finish[nothing]"
        content = f"Thought: {thought}\nAction: {action}"
        return replace(reply, message={"role": "assistant", "content": content})

    async def __aenter__(self):
        await self.model.__aenter__()
        return self

    async def __aexit__(self, *error) -> None:
        await self.model.__aexit__(*error)


def used() -> float:
    """Return the CPU seconds of this process and of a server that it started."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def play(model, case: Case, attempts: int = 1):
    """Return episodes a second, CPU seconds an episode, and the episodes."""
    tasks, passages = make_tasks(case.tasks, seed=5)
    tools = [SearchTool(passages), CalculatorTool()]
    protocol = LiveSettings(
        attempts=attempts,
        temperatures=(0.0,),
        max_tokens=case.max_tokens,
        concurrency=64,
        instruction=case.scripted,
    )
    model = Scripted(model) if case.scripted else model
    with tempfile.TemporaryDirectory() as folder:
        start, computing = time.perf_counter(), used()
        episodes = collect(
            model, tasks, tools, protocol, file=Path(folder) / "e.jsonl"
        ).trajectories
        seconds, computed = time.perf_counter() - start, used() - computing
    crashed = [t.error for t in episodes if t.termination == "crashed"]
    assert not crashed, crashed[0]
    return len(episodes) / seconds, computed / len(episodes), episodes


def folder_of(case: Case, made: str) -> Path:
    """Return where the weights are; a random Llama is made where none is named."""
    if case.name == "pocket":
        return POCKET
    named = os.environ.get("NEGFAIL_NB_LLAMA", "")
    if named or (Path(made) / "config.json").exists():
        return Path(named or made)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    shape = SMOLLM2 | {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return Path(made)


def measured(case: Case, folder: Path) -> dict:
    """Return the speeds of a case, all in turns."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, case.dtype))
    local = LocalModel(model, tokenizer, "model")
    with contextlib.ExitStack() as stack:
        players = {
            "LocalModel": local,
            "generate, left-padded": Waves(local),
            "continuous batching": Continuous(local),
        }
        if case.alone:
            players["generate, one by one"] = Alone(local)
        if os.environ.get("NEGFAIL_NB_VLLM"):
            length = str(min(local.window, 4096))
            url = stack.enter_context(
                served(folder, case.dtype, length, ("--enable-prefix-caching",))
            )
            served_by = EndpointSettings(base_url=url, model="pocket", timeout=600.0)
            players["vllm-cpu"] = EndpointModel(served_by)
        short = replace(case, tasks=1)
        for player in players.values():
            play(player, short)  # imports, compiled parts, the first pages of memory
        speeds, costs, first = {name: [] for name in players}, {name: [] for name in players}, {}
        for _ in range(case.rounds):
            for name, player in players.items():
                speed, cost, episodes = play(player, case)
                speeds[name].append(speed)
                costs[name].append(cost)
                first.setdefault(name, episodes)
                logging.warning(
                    "%s %s %s %.3f/s, CPU %.2f s", case.name, case.dtype, name, speed, cost
                )
        equal = {}
        for name, episodes in first.items():
            pairs = zip(episodes, first["generate, left-padded"], strict=True)
            equal[name] = sum(a.messages == b.messages for a, b in pairs) / len(episodes)
    others = [name for name in players if name != "LocalModel"]
    best = max(others, key=lambda name: statistics.median(speeds[name]))
    ratios = sorted(a / b for a, b in zip(speeds["LocalModel"], speeds[best], strict=True))
    return {
        "model": folder.name,
        "dtype": case.dtype,
        "episodes": case.tasks,
        "ratio": round(statistics.median(ratios), 2),
        "low": round(ratios[0], 2),
        "high": round(ratios[-1], 2),
        "best": best,
        "episodes_per_second": {
            name: [round(v, 3) for v in values] for name, values in speeds.items()
        },
        "cpu_seconds_per_episode": {
            name: [round(v, 3) for v in values] for name, values in costs.items()
        },
        "episodes_equal_to_left_padded": {name: round(share, 3) for name, share in equal.items()},
        "tokens": [
            sum(t.usage.prompt_tokens for t in first["LocalModel"]),
            sum(t.usage.completion_tokens for t in first["LocalModel"]),
        ],
    }


class Noted:
    """Notes what was asked and answered."""

    def __init__(self, local: LocalModel) -> None:
        self.local, self.name, self.window, self.seen = local, local.name, local.window, []

    async def reply(self, messages, sampling, tools=()) -> Reply:
        reply = await self.local.reply(messages, sampling, tools)
        self.seen.append((self.local.prompt_ids(messages, tools), reply))
        return reply

    async def __aenter__(self):
        await self.local.__aenter__()
        return self

    async def __aexit__(self, *error) -> None:
        await self.local.__aexit__(*error)


def equal_replies() -> dict:
    """Return the share of replies that equal those of `generate` alone; each question is asked
    three times at once.
    """
    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    model = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32)
    noted = Noted(LocalModel(model, tokenizer, "model"))
    play(noted, CASES[0], attempts=3)
    peer, right = Alone(noted.local), 0
    for prompt, reply in noted.seen:
        limit = min(CASES[0].max_tokens, noted.window - len(prompt))
        tokens = generate(model.eval(), [prompt], [limit], peer.ends)[0]
        text = tokenizer.decode([t for t in tokens if t not in peer.ends], skip_special_tokens=True)
        right += reply.message["content"] == text.split("\nObservation:")[0]
    return {
        "value": round(right / len(noted.seen), 4),
        "unit": "of the replies",
        "n": len(noted.seen),
    }


def main() -> None:
    """Print one JSON object."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    torch.set_num_threads(THREADS)
    named = os.environ.get("NEGFAIL_NB_CASES", "")
    with tempfile.TemporaryDirectory() as made:
        cases = [case for case in CASES if not named or f"{case.name}-{case.dtype}" in named]
        found = [measured(case, folder_of(case, made)) for case in cases]
    worst = min(found, key=lambda case: case["ratio"])
    entry = {
        "value": worst["ratio"],
        "unit": f"x ({worst['model']}, {worst['dtype']})",
        "peer": worst["best"],
        "low": worst["low"],
        "high": worst["high"],
        "n": len(worst["episodes_per_second"]["LocalModel"]),
        "cases": found,
        "load": [round(value, 1) for value in os.getloadavg()],
    }
    print(json.dumps({"local_vs_best_engine": entry, "local_replies_equal": equal_replies()}))


if __name__ == "__main__":
    main()
