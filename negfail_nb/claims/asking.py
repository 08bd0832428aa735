"""A model as a function from prompt to answer, for extraction and for the roles of a review."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from negfail_nb.agents.protocol import Sampling
from negfail_nb.agents.queue import wait_for
from negfail_nb.runs import fingerprint, write_json
from negfail_nb.steps import text

ANSWER_TOKENS = 1024


def open_ask(
    model: Any, folder: str | Path = "", tokens: int = ANSWER_TOKENS
) -> Callable[[str], str]:
    """Return a function that asks a model one prompt, at temperature 0, and returns its answer; its
    ``name`` is the model's.

    Parameters
    ----------
    model
        As `negfail_nb.agents.Model`: on this machine or behind an endpoint.
    folder
        Where answers are kept, by model and prompt; what was asked before is not asked again.
        Empty: they are not kept.
    tokens
        Of one answer, at most.
    """
    sampling = Sampling(temperature=0.0, max_tokens=tokens, seed=0, stop=())

    async def once(prompt: str, answers: list[str]) -> None:
        async with model:
            reply = await model.reply([{"role": "user", "content": prompt}], sampling)
        answers.append(text(reply.message))

    def ask(prompt: str) -> str:
        key = fingerprint([model.name, prompt, tokens])
        file = Path(folder) / f"answer-{key[:16]}.json" if folder else None
        if file and file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))["answer"]
        answers: list[str] = []
        wait_for(once(prompt, answers))
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"model": model.name, "prompt": prompt, "answer": answers[0]})
        return answers[0]

    ask.name = model.name
    return ask
