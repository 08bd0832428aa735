"""What a server can do, found out by asking it once."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from negfail_nb.agents.protocol import ModelError
from negfail_nb.agents.queue import wait_for
from negfail_nb.agents.refusals import FieldRefused, TryAgain
from negfail_nb.settings import EndpointSettings
from negfail_nb.speed.client import Answer, Client

# What servers call themselves in /models.
OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp"}
# Not transformers' /reset, which unloads the model.
RESETS = {"vllm": "//reset_prefix_cache", "sglang": "//flush_cache"}
LENGTHS: Mapping[str, dict[str, Any]] = {
    "ignore_eos": {"ignore_eos": True},
    # transformers refuses every field that it does not know; its own way to say that no token ends
    # the reply.
    "generation_config": {"generation_config": json.dumps({"eos_token_id": -1})},
}
ASKED = 12  # tokens of a reply to the probe
SHORT = "Count from one to a hundred."
LONG = "Here are the numbers of this list, one after the other: " + " ".join(map(str, range(200)))

logger = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What was found out about a server."""

    kind: str = ""  # vllm, sglang, llama.cpp or transformers, if it shows
    models: tuple[str, ...] = ()  # those that it lists
    role_first: bool = False  # a chunk without text comes first, which is no first token
    merged_chunks: bool = False  # a chunk may hold several tokens
    stream_options: bool = False  # it takes this field
    # Where tokens are told: "apart" in a last chunk of its own, "finish" in the last with text.
    usage: str = ""
    every_chunk: bool = False  # each chunk tells the tokens so far, if that is asked for
    fixed_length: str = ""  # which of `LENGTHS` keeps the end token from ending a reply, if any
    cached_tokens: bool = False  # it tells how many tokens came from its prefix cache
    reset: str = ""  # the path that empties the prefix cache, if its kind has one; it is not tried

    def fields(self, fixed_length: bool = True) -> dict[str, Any]:
        """Return the fields of a request that this server takes beside those that all do."""
        fields: dict[str, Any] = {}
        if self.stream_options:
            every = {"continuous_usage_stats": True} if self.every_chunk else {}
            fields["stream_options"] = {"include_usage": True} | every
        if fixed_length and self.fixed_length:
            fields |= LENGTHS[self.fixed_length]
        return fields


def probe_server(settings: EndpointSettings) -> ServerFacts:
    """Return what a server can do. It is asked for a few short replies.

    Raises
    ------
    ModelError
        No server, another model, a wrong key, a web page, or a server that streams nothing; the
        text says which.
    """
    found: list[ServerFacts] = []

    async def ask() -> None:
        async with Client(settings) as client:
            found.append(await probe(client))

    wait_for(ask())
    return found[0]


async def probe(client: Client) -> ServerFacts:
    """Return what the server of a client can do; see `probe_server`."""
    models, kind = await _listed(client)
    await _must_answer(client, models)
    plain = await _stream(client)
    if reason := client.server.short(plain.failure):
        raise ModelError(
            f"{client.server.url} answers, but not with a stream of text: {reason}. Only if a "
            'server streams ("stream": true) can the times of its tokens be measured.'
        )
    facts = await _explore(client, models, kind, plain)
    logger.info("%s: %s", client.server.url, facts)
    return facts


async def _explore(
    client: Client, models: tuple[str, ...], kind: str, plain: Answer
) -> ServerFacts:
    """Ask for one thing at a time: who refuses one field may take another."""
    usage = {"include_usage": True}
    options = await _stream(client, stream_options=usage)
    every = await _stream(client, stream_options={**usage, "continuous_usage_stats": True})
    takes_options = not options.failure
    telling = {"stream_options": usage} if takes_options else {}
    lengths = {name: await _stream(client, **telling, **fields) for name, fields in LENGTHS.items()}
    refused = lengths["ignore_eos"]
    if refused.status == 422 and b"Unexpected fields" in refused.body:
        kind = "transformers"
    best = options if takes_options else plain
    for _ in range(2):  # the second time, its prefix may lie in the cache
        again = await _stream(client, LONG, **telling)
    counts = sum(chunk.tokens is not None for chunk in every.chunks)
    told = ""
    if _tokens(best) is not None:
        told = "finish" if best.chunks[-1].choices else "apart"
    details = again.usage.get("prompt_tokens_details")
    return ServerFacts(
        kind=kind,
        models=models,
        role_first=not plain.chunks[0].spoken,
        merged_chunks=any(_merged(answer) for answer in (best, *lengths.values())),
        stream_options=takes_options,
        usage=told,
        every_chunk=not every.failure and counts > 1,
        fixed_length=next((name for name, answer in lengths.items() if _exact(answer)), ""),
        cached_tokens=isinstance(details, dict) and details.get("cached_tokens") is not None,
        reset=RESETS.get(kind, ""),
    )


async def _listed(client: Client) -> tuple[tuple[str, ...], str]:
    """Return the models that a server lists, and its kind; some list none, or fail."""
    answer = await client.ask("/models", method="GET")
    try:
        rows = json.loads(answer.body)["data"]
        owners = [str(row.get("owned_by", "")).lower() for row in rows]
        kind = next((OWNERS[owner] for owner in owners if owner in OWNERS), "")
        return tuple(str(row["id"]) for row in rows), kind
    except (ValueError, TypeError, KeyError, AttributeError):
        return (), ""


async def _must_answer(client: Client, models: tuple[str, ...]) -> None:
    """Ask for one token without a stream: the agents' client knows what refusals mean."""
    try:
        await client.server.post(_body(client, "Say yes.", max_tokens=1))
    except ModelError as error:
        known = f" It lists {', '.join(map(repr, models[:8]))}." if models else ""
        raise ModelError(f"{error}{known}") from None
    except (TryAgain, FieldRefused, RuntimeError) as error:
        raise ModelError(f"{client.server.url} does not answer a short request: {error}") from None


def _body(client: Client, text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    about = {"model": client.settings.model, "messages": messages}
    return about | {"temperature": 0.0, "max_tokens": ASKED, **fields}


async def _stream(client: Client, text: str = SHORT, **fields: Any) -> Answer:
    body = _body(client, text, stream=True, **fields)
    return await client.ask("/chat/completions", json.dumps(body).encode())


def _tokens(answer: Answer) -> int | None:
    count = answer.usage.get("completion_tokens")
    return count if type(count) is int and count > 0 else None


def _exact(answer: Answer) -> bool:
    full = answer.finish == "length" and _tokens(answer) in (ASKED, None)
    return full and not answer.failure


def _merged(answer: Answer) -> bool:
    silent = answer.finish != "length"  # the end token counts, and says nothing
    return (_tokens(answer) or 0) > sum(chunk.spoken for chunk in answer.chunks) + silent
