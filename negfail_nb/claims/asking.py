"""A model of the project as a function from prompt to answer, for extraction and for the roles of a
review.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from negfail_nb.settings import Profile

ANSWER_TOKENS = 1024


def make_ask(model: Any, tokens: int = ANSWER_TOKENS) -> Callable[[str], str]:
    """Return a function that asks a model one prompt and returns its answer, at temperature 0.

    Parameters
    ----------
    model
        As `negfail_nb.agents.protocol.Model`: on this machine or behind an endpoint.
    tokens
        Of one answer, at most.
    """
    from negfail_nb.agents.protocol import Sampling
    from negfail_nb.agents.queue import wait_for
    from negfail_nb.steps import text

    sampling = Sampling(temperature=0.0, max_tokens=tokens, seed=0, stop=())

    def ask(prompt: str) -> str:
        answers: list[str] = []

        async def once() -> None:
            async with model:
                reply = await model.reply([{"role": "user", "content": prompt}], sampling)
            answers.append(text(reply.message))

        wait_for(once())
        return answers[0]

    return ask


def open_ask(
    profile: Profile, player: str, tokens: int = ANSWER_TOKENS
) -> tuple[Callable[[str], str] | None, str]:
    """Return who plays, and its name: the profile's model, untuned, or its endpoint; ``None`` for
    rules.

    Parameters
    ----------
    player
        ``"rules"``, ``"model"`` or ``"endpoint"``.
    tokens
        Of one answer, at most.

    Raises
    ------
    ValueError
        Where the profile names no model.
    """
    if player == "rules":
        return None, player
    if player == "model" and not profile.model.name:
        raise ValueError(
            "claims asks a model, but model.name is empty; name one, or use rules or the endpoint"
        )
    from negfail_nb.agents.opening import open_player

    wanted = "endpoint" if player == "endpoint" else "model"
    model = open_player(profile.change(collect={"player": wanted}))
    return make_ask(model, tokens), model.name


def player_name(profile: Profile, player: str) -> str:
    """Return the name of who plays without opening it."""
    return {"rules": "", "model": profile.model.name, "endpoint": profile.endpoint.model}[player]
