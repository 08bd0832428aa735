"""06: what a server can do, found out by asking it, once: servers take different fields and tell
different things.
"""

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
from negfail_nb.speed.server.client import Client
from negfail_nb.speed.server.events import Answer

OWNERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama.cpp",
}  # what servers call themselves in /models
# Not transformers' /reset, which unloads the model.
RESETS = {"vllm": "//reset_prefix_cache", "sglang": "//flush_cache"}
# transformers refuses every field that it does not know; its own way to say that no token ends the
# reply.
NO_END = json.dumps({"eos_token_id": -1})
LENGTHS: Mapping[str, dict[str, Any]] = {
    "ignore_eos": {"ignore_eos": True},
    "generation_config": {"generation_config": NO_END},
}
ASKED = 12  # tokens of a reply to the probe
LONG = "Here are the numbers of this list, one after the other: " + " ".join(map(str, range(200)))

logger = logging.getLogger("negfail_nb")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What was found out about a server.

    Attributes
    ----------
    kind
        ``"vllm"``, ``"sglang"``, ``"llama.cpp"``, ``"transformers"``, or empty where it does not
        show.
    models
        The models that it lists; empty where it lists none.
    role_first
        Whether a chunk without text comes first, which is no first token.
    merged_chunks
        Whether a chunk may hold several tokens, so that gaps between chunks are not gaps between
        tokens.
    stream_options
        Whether it takes this field.
    usage
        Where tokens are told: ``"apart"`` in a last chunk of its own, ``"finish"`` in the last with
        text, or empty.
    every_chunk
        Whether each chunk tells the tokens so far, where that is asked for.
    fixed_length
        Which field keeps the end token from ending a reply: one of ``LENGTHS``, or empty where none
        does.
    cached_tokens
        Whether it tells how many tokens came from its prefix cache.
    reset
        The path that empties the prefix cache, where its kind has one. It is not tried.
    """

    kind: str = ""
    models: tuple[str, ...] = ()
    role_first: bool = False
    merged_chunks: bool = False
    stream_options: bool = False
    usage: str = ""
    every_chunk: bool = False
    fixed_length: str = ""
    cached_tokens: bool = False
    reset: str = ""

    def fields(self, fixed_length: bool = True) -> dict[str, Any]:
        """Return the fields of a request that this server takes beside those that all do."""
        options = {"include_usage": True} | (
            {"continuous_usage_stats": True} if self.every_chunk else {}
        )
        streaming = {"stream_options": options} if self.stream_options else {}
        return streaming | (
            LENGTHS[self.fixed_length] if fixed_length and self.fixed_length else {}
        )


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
    if reason := client.server.short(why_failed(plain)):
        raise ModelError(
            f"{client.server.url} answers, but not with a stream of text: {reason}. Only of a server that streams "
            '("stream": true) can the times of tokens be measured.'
        )
    facts = await _explore(client, models, kind, plain)
    logger.info("%s: %s", client.server.url, facts)
    return facts


async def _explore(
    client: Client, models: tuple[str, ...], kind: str, plain: Answer
) -> ServerFacts:
    """Ask for one thing at a time: who refuses one field may take another."""
    options = await _stream(client, stream_options={"include_usage": True})
    every = await _stream(
        client, stream_options={"include_usage": True, "continuous_usage_stats": True}
    )
    takes_options = not why_failed(options)
    telling = {"stream_options": {"include_usage": True}} if takes_options else {}
    lengths = {name: await _stream(client, **telling, **fields) for name, fields in LENGTHS.items()}
    refused = lengths["ignore_eos"]
    if refused.status == 422 and b"Unexpected fields" in refused.body:
        kind = "transformers"
    best = options if takes_options else plain
    again = [await _stream(client, LONG, **telling) for _ in range(2)][-1]
    return ServerFacts(
        kind=kind,
        models=models,
        role_first=not plain.chunks[0].spoken,
        merged_chunks=any(_merged(answer) for answer in (best, *lengths.values())),
        stream_options=takes_options,
        usage=_where_usage(best),
        every_chunk=not why_failed(every)
        and sum(chunk.tokens is not None for chunk in every.chunks) > 1,
        fixed_length=next((name for name, answer in lengths.items() if _exact(answer)), ""),
        cached_tokens=_cached(again) is not None,
        reset=RESETS.get(kind, ""),
    )


def why_failed(answer: Answer) -> str:
    """Return why an answer is no success, or an empty text."""
    if answer.error:
        return answer.error
    if 300 <= answer.status < 400:
        return f"status {answer.status}: it sends requests on to {answer.location}, and redirects are not followed"
    if answer.status != 200:
        return f"status {answer.status}: {' '.join(answer.body.decode('utf-8', 'replace').split())}"
    if not answer.streamed:
        return f"the answer is no stream, but {answer.kind or 'without a content type'}"
    if not any(chunk.spoken for chunk in answer.chunks):
        return "the stream held no text" + (
            f" (finish_reason {answer.finish!r})" if answer.finish else ""
        )
    return "" if answer.done or answer.finish else "the stream broke off"


async def _listed(client: Client) -> tuple[tuple[str, ...], str]:
    """Return the models that a server lists, and its kind. Some list none, or fail: it is no reason
    to give up.
    """
    answer = await client.ask("/models", method="GET")
    try:
        rows = json.loads(answer.body)["data"]
        owners = [str(row.get("owned_by", "")).lower() for row in rows]
        return tuple(str(row["id"]) for row in rows), next(
            (OWNERS[o] for o in owners if o in OWNERS), ""
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return (), ""


async def _must_answer(client: Client, models: tuple[str, ...]) -> None:
    """Ask for one token without a stream: the client of live collection knows what each refusal
    means.
    """
    try:
        await client.server.post(_body(client, "Say yes.", max_tokens=1))
    except ModelError as error:
        known = f" It lists {', '.join(map(repr, models[:8]))}." if models else ""
        raise ModelError(f"{error}{known}") from None
    except (TryAgain, FieldRefused, RuntimeError) as error:
        raise ModelError(f"{client.server.url} does not answer a short request: {error}") from None


def _body(client: Client, text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {
        "model": client.settings.model,
        "messages": messages,
        "temperature": 0.0,
        "max_tokens": ASKED,
        **fields,
    }


async def _stream(
    client: Client, text: str = "Count from one to a hundred.", **fields: Any
) -> Answer:
    body = _body(client, text, stream=True, **fields)
    return await client.ask("/chat/completions", json.dumps(body).encode())


def _tokens(answer: Answer) -> int | None:
    count = answer.usage.get("completion_tokens")
    return count if type(count) is int and count > 0 else None


def _exact(answer: Answer) -> bool:
    return not why_failed(answer) and _tokens(answer) in (ASKED, None) and answer.finish == "length"


def _merged(answer: Answer) -> bool:
    silent = answer.finish != "length"  # the end token counts, and says nothing
    return (_tokens(answer) or 0) > sum(chunk.spoken for chunk in answer.chunks) + silent


def _where_usage(answer: Answer) -> str:
    if _tokens(answer) is None:
        return ""
    return "finish" if answer.chunks[-1].choices else "apart"


def _cached(answer: Answer) -> int | None:
    details = answer.usage.get("prompt_tokens_details")
    return details.get("cached_tokens") if isinstance(details, dict) else None
