"""What pocket-llama is taught next: settings of the recipe, the curriculum, and lessons as padded
batches.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.utils.data import IterableDataset

from negfail_nb.pocket.world import stream
from negfail_nb.settings import Checked, option
from negfail_nb.training.model import SPECIAL_TOKENS
from negfail_nb.trajectory import Message
from recipes.pocket_llama.lessons import LADDER, as_tool_calls, copying_row, draw_reading, episodes

log = logging.getLogger("negfail_nb")

COPYING, EPISODE = -1, -2  # lessons that are no reading
COPY_MARK = 0.95  # of the tokens
# From the level of whole passages on, a share of the reading lessons is longer than it asks for.
WHOLE, AHEAD = 3, 0.2
CALCULATIONS = 0.35  # share of the episodes; problems of one step are rarer among the tasks
EPISODES_A_BATCH = 600  # of the teacher, made together because they share a world and its search


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainSettings(Checked):
    """How long and how fast pocket-llama is trained; by default, two hours on two cores."""

    steps: int = option(8_000, "optimiser steps", low=1, high=10_000_000)
    batch_tokens: int = option(
        2048, "tokens in one step, padding included", low=256, high=1_048_576
    )
    learning_rate: float = option(3e-3, "peak learning rate of the matrices", low=1e-6, high=1.0)
    background: float = option(0.02, "loss weight of tokens that are no answer", low=0.0, high=1.0)
    pass_mark: float = option(0.5, "EM at which the next level begins", low=0.1, high=1.0)
    whole_mark: float = option(0.7, "the same, from ten whole passages on", low=0.1, high=1.0)
    episode_share: float = option(0.25, "share of the steps that are episodes", low=0.0, high=1.0)
    copy_share: float = option(
        0.05, "share of the steps that are copying, once that is learnt", low=0.0, high=1.0
    )
    review_share: float = option(
        0.25, "share of the reading steps that go back to a lower level", low=0.0, high=1.0
    )
    save_steps: int = option(200, "steps between checkpoints", low=1, high=1_000_000)
    seed: int = option(0, "seed of weights and lessons", low=0, high=2**31 - 1)


class Curriculum:
    """Which lesson comes next, and the reading level reached; -1 while copying is still being
    learnt.

    Its state is plain JSON, kept with each checkpoint.
    """

    def __init__(self, settings: PretrainSettings) -> None:
        self.settings, self.level, self.em, self.entered = settings, COPYING, 0.0, 0

    def draw(self, step: int) -> tuple[str, int]:
        """Return the kind of lesson of a step, and its reading level."""
        rng = stream(self.settings.seed, step, 11)
        share, s = rng.random(), self.settings
        if (
            self.level < 0 and share < 0.9
        ):  # to copy comes before to read: a value is copied, token by token
            return "copy", COPYING
        if share < s.copy_share:
            return "copy", COPYING
        if self.level >= 0 and share < s.copy_share + s.episode_share:
            return "episode", EPISODE
        return "read", self._reading_level(max(self.level, 0), rng)

    def _reading_level(self, level: int, rng: random.Random) -> int:
        """Return the level of a reading lesson: mostly the present one, some go back, later some
        look ahead.
        """
        share, back = rng.random(), self.settings.review_share
        if level and share < back:
            return rng.randrange(level)
        if level >= WHOLE and share < back + AHEAD:
            return rng.randint(min(level + 1, len(LADDER) - 1), min(level + 3, len(LADDER) - 1))
        return level

    def learn(self, level: int, right: float, step: int) -> None:
        """Note how well a reading lesson of the present level went, and move up when it is time."""
        if level != self.level:
            return
        self.em += 0.04 * (right - self.em)
        if self.em > self._mark(level) and self.level + 1 < len(LADDER):
            log.info("step %d: level %d is read with EM %.2f", step, self.level, self.em)
            self.level, self.em, self.entered = self.level + 1, 0.0, step

    def _mark(self, level: int) -> float:
        if level < 0:
            return COPY_MARK
        return self.settings.whole_mark if level > WHOLE else self.settings.pass_mark

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"level": self.level, "em": self.em, "entered": self.entered}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.level, self.em, self.entered = state["level"], state["em"], state["entered"]


class Lessons(IterableDataset):
    """One padded batch a step, all of one kind and level; a function of the seed, the step and the
    curriculum.
    """

    def __init__(self, curriculum: Curriculum, tokenizer: Any, first_step: int = 0) -> None:
        self._curriculum, self._tokenizer, self._first = curriculum, tokenizer, first_step
        self._plain_tokens = range(len(SPECIAL_TOKENS), len(tokenizer))  # special tokens come first

    def __iter__(self) -> Iterator[dict[str, Any]]:
        step = self._first
        while True:
            kind, level = self._curriculum.draw(step)
            yield {**self._batch(kind, level, step), "level": level}
            step += 1

    def _batch(self, kind: str, level: int, step: int) -> dict[str, Any]:
        rows: list[tuple[list[int], list[bool]]] = []
        number, width = 0, 0
        while True:
            row = self._row(kind, level, step * 1000 + number)
            number, wider = number + 1, max(width, len(row[0]))
            if rows and wider * (len(rows) + 1) > self._curriculum.settings.batch_tokens:
                return pad(rows, width)
            rows.append(row)
            width = wider

    def _row(self, kind: str, level: int, number: int) -> tuple[list[int], list[bool]]:
        if kind != "copy":
            return encode(self._tokenizer, self._lesson(kind, level, number))
        ids, known = copying_row(
            self._plain_tokens, stream(self._curriculum.settings.seed, number, 9)
        )
        return [self._tokenizer.bos_token_id, *ids], [False, *known]

    def _lesson(self, kind: str, level: int, number: int) -> Sequence[Message]:
        seed = self._curriculum.settings.seed
        if kind == "read":
            return draw_reading(LADDER[level], seed, number)
        made, rng = teacher_episodes(seed, (number // 1000 // 400) % 40), stream(seed, number, 13)
        searches, calculations = (
            [t for t in made if (t.task == "math") == math] for math in (False, True)
        )
        return _dressed(
            rng.choice(calculations if rng.random() < CALCULATIONS else searches).messages, rng
        )


@lru_cache(maxsize=2)
def teacher_episodes(seed: int, batch: int) -> list[Any]:
    """Return some of the teacher's single-hop episodes; each batch is about a world of its own."""
    return episodes(EPISODES_A_BATCH, 1 + seed + batch, results=1 + batch % 3)


def _dressed(messages: Sequence[Message], rng: random.Random) -> Sequence[Message]:
    """Put an episode into one of the forms in which agents are asked: plain, labelled, instructed,
    tool calls.
    """
    from negfail_nb.agents.tools import CalculatorTool, SearchTool, instruction

    question, *rest = messages
    form = rng.random()
    if form < 0.15:
        return as_tool_calls(messages)
    text = question["content"]
    if form < 0.75:
        text = f"Question: {text}"
    dressed = [{**question, "content": text}, *rest]
    if form < 0.25:
        tools = [
            CalculatorTool()
            if "calculate[" in rest[0]["content"]
            else SearchTool([("Title", "text")])
        ]
        return [{"role": "system", "content": instruction(tools, "react")}, *dressed]
    return dressed


def encode(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Return the ids of a chat, and which of them the assistant writes: its text and the end of its
    turn.
    """
    ids, ours = [tokenizer.bos_token_id], [False]
    texts, roles = _turns(messages)
    for encoded, answer in zip(
        tokenizer.backend_tokenizer.encode_batch(texts, False), roles, strict=True
    ):
        ids += encoded.ids
        ours += [answer] * len(encoded.ids)
    return ids, ours


def _turns(messages: Sequence[Message]) -> tuple[list[str], list[bool]]:
    """Cut the text of a chat at the beginning and end of each turn of the assistant."""
    shown = [plain_call(message) for message in messages]
    texts, roles = [], []
    for message in shown:
        role = {"tool": "ipython"}.get(message["role"], message["role"])
        head = f"<|start_header_id|>{role}<|end_header_id|>\n\n"
        body = f"{message['content'].strip()}<|eot_id|>"
        answer = message["role"] == "assistant"
        texts += [head, body] if answer else [head + body]
        roles += [False, True] if answer else [False]
    return texts, roles


def plain_call(message: Message) -> Message:
    """Return a message whose tool calls are written as the chat template writes them."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [
        {"name": c["function"]["name"], "parameters": json.loads(c["function"]["arguments"])}
        for c in calls
    ]
    lines = "\n".join(json.dumps(call, ensure_ascii=False) for call in written)
    return {
        "role": "assistant",
        "content": f"{message['content']}\n{lines}" if message["content"] else lines,
    }


def pad(rows: Sequence[tuple[list[int], list[bool]]], width: int) -> dict[str, torch.Tensor]:
    """Return ``input_ids``, ``answers`` (1: written by the assistant) and ``real`` (0: padding),
    each rows x width.
    """
    batch = {
        name: torch.zeros(len(rows), width, dtype=torch.long)
        for name in ("input_ids", "answers", "real")
    }
    for number, (ids, ours) in enumerate(rows):
        batch["input_ids"][number, : len(ids)] = torch.tensor(ids)
        batch["answers"][number, : len(ids)] = torch.tensor(ours, dtype=torch.long)
        batch["real"][number, : len(ids)] = 1
    return batch
