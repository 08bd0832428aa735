"""What a server says of its model, so that several servers are one model and not two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from negfail_nb.agents.protocol import ModelError
from negfail_nb.agents.transport import Server

# Tokenizers that are not the same cut this text in other places.
PROBE = "Ångström's 1,234,567 naïve cafés\n\n    日本語 <|eot_id|> un-common \U0001f600"


@dataclass(frozen=True, slots=True)
class Served:
    """What a server says of a model; what it does not say is unknown.

    Attributes
    ----------
    url
        Of the server, as errors may show it.
    names
        The models that it lists.
    root
        The weights behind the model's name, as a hub id or a folder.
    window
        Most tokens of prompt and reply together.
    tokens
        Those of `PROBE`.
    """

    url: str
    names: tuple[str, ...] = ()
    root: str = ""
    window: int | None = None
    tokens: tuple[int, ...] = ()


async def ask_served(server: Server, model: str) -> Served:
    """Ask a server for its list of models, and how it counts; no token is generated.

    Raises
    ------
    TryAgain, ModelError
        If the server cannot be reached, is loading or busy, or wants another key.
    """
    cards = _cards(await server.look("/models"))
    card = next((c for c in cards if c["id"] == model), {})
    said = await server.look("//tokenize", {"model": model, "prompt": PROBE, "content": PROBE})
    window = card.get("max_model_len")
    return Served(
        url=server.url,
        names=tuple(c["id"] for c in cards),
        root=server.short(card["root"]) if isinstance(card.get("root"), str) else "",
        window=window if type(window) is int and window > 0 else None,
        tokens=_tokens(said),
    )


def check_alike(served: Sequence[Served], model: str) -> None:
    """Check that servers serve the same model, as far as they say what they serve.

    Raises
    ------
    ModelError
        If not; the text names two servers and what differs.
    """
    having = [s for s in served if model in s.names]
    lacking = [s for s in served if s.names and model not in s.names]
    if having and lacking:
        listed = ", ".join(lacking[0].names[:5])
        raise _differ(
            having[0], repr(model), lacking[0], listed, "give only servers of the model that is set"
        )
    rooted = [s for s in served if s.root]
    for other in rooted[1:]:
        if _last(rooted[0].root) != _last(other.root):
            raise _differ(rooted[0], rooted[0].root, other, other.root, "ask one of them")
    counting = [s for s in served if s.tokens]
    for other in counting[1:]:
        if counting[0].tokens != other.tokens:
            first = f"a model that cuts a text into {len(counting[0].tokens)} tokens"
            second = f"one that cuts it into {len(other.tokens)}, or into others"
            raise _differ(counting[0], first, other, second, "their tokenizers are not the same")


def smallest_window(served: Sequence[Served]) -> Served | None:
    """Return the server with the smallest window, if they differ in it; else ``None``."""
    known = sorted((s for s in served if s.window), key=lambda s: s.window or 0)
    return known[0] if known and known[0].window != known[-1].window else None


def _differ(one: Served, first: str, other: Served, second: str, advice: str) -> ModelError:
    return ModelError(
        f"EndpointSettings.base_url names servers of different models: {one.url} serves {first}, "
        f"{other.url} serves {second}; {advice}"
    )


def _cards(listed: Any) -> list[dict[str, Any]]:
    cards = listed.get("data") if isinstance(listed, dict) else None
    found = cards if isinstance(cards, list) else []
    return [c for c in found if isinstance(c, dict) and isinstance(c.get("id"), str)]


def _tokens(said: Any) -> tuple[int, ...]:
    tokens = said.get("tokens") if isinstance(said, dict) else None
    whole = isinstance(tokens, list) and all(type(token) is int for token in tokens)
    return tuple(tokens) if whole else ()


def _last(root: str) -> str:
    return PurePosixPath(root.replace("\\", "/")).name.lower()
