"""Sentence vectors of a model behind an OpenAI-compatible server: ``POST /v1/embeddings``.

Texts go as they are: a model that wants words such as "query:" before them needs a server that puts
them there. Tokens of an encoder are in no budget.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from negfail_nb.agents.protocol import EpisodeTooLong, ModelError, Sampling
from negfail_nb.agents.queue import wait_for
from negfail_nb.agents.refusals import TryAgain
from negfail_nb.agents.servers import Servers
from negfail_nb.agents.transport import EMBEDDINGS
from negfail_nb.benchmarking.dense import Encoder
from negfail_nb.content import fingerprint
from negfail_nb.settings import EndpointSettings
from negfail_nb.settings.addresses import SERVED, served_encoder

BATCH = 32  # texts of one request; text-embeddings-inference takes no more unless it is told
AT_ONCE = 8  # requests
_ASKING = Sampling(temperature=0.0, max_tokens=1)  # by which several servers know a request again
_BEGINNING = 40  # characters of a text that an error shows


class ServedEncoder:
    """A model of a server that gives vectors.

    Retries, several servers and waiting for one that loads are those of a chat model, see
    `negfail_nb.agents.EndpointModel`.

    Parameters
    ----------
    name
        ``endpoint:MODEL`` or ``endpoint:MODEL@http://localhost:8001/v1``.
    endpoint
        The address, if the name has none, the variable of the key, timeout and retries.
    first_wait
        Seconds before a second try.

    Attributes
    ----------
    fingerprint
        Of the model's name: what a server does under it cannot be looked into.
    """

    def __init__(
        self, name: str, endpoint: EndpointSettings = EndpointSettings(), *, first_wait: float = 0.5
    ) -> None:
        named = served_encoder(name)
        if named is None:
            raise ValueError(f"the encoder {name!r} is no server's; write {SERVED}MODEL")
        model, url = named
        base_url = (url,) if url else endpoint.base_url
        self.name = name
        self.settings = replace(endpoint, model=model, base_url=base_url)
        self.fingerprint = fingerprint([SERVED, model])
        self.first_wait = first_wait

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of passages, float32 of length 1, texts x dimensions.

        Raises
        ------
        ModelError
            If no request could succeed: no server, a wrong key, an unknown model.
        RuntimeError
            If one batch could not be had after all retries.
        ValueError
            If a text is too long for the model, or vectors have different dimensions.
        """
        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        found: list[np.ndarray] = []

        async def work() -> None:
            found.extend(await self._all(batches))

        wait_for(work())
        sizes = [part.shape[1] for part in found]
        if other := next((place for place, size in enumerate(sizes) if size != sizes[0]), 0):
            raise ValueError(
                f"{self._of(batches, other)}: vectors of {sizes[other]} numbers, and of {sizes[0]} "
                "before; do several servers serve one model?"
            )
        vectors = np.concatenate(found)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    queries = passages  # the interface knows no difference

    async def _all(self, batches: Sequence[Sequence[str]]) -> list[np.ndarray]:
        servers = Servers(self.settings, self.first_wait)
        gate = asyncio.Semaphore(AT_ONCE)
        tasks: list[asyncio.Task[np.ndarray]] = []
        try:
            await servers.open()
            places = range(len(batches))
            jobs = (self._gated(gate, servers, batches, place) for place in places)
            tasks += [asyncio.create_task(job) for job in jobs]
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await servers.close()

    async def _gated(
        self,
        gate: asyncio.Semaphore,
        servers: Servers,
        batches: Sequence[Sequence[str]],
        place: int,
    ) -> np.ndarray:
        """Return the vectors of one batch; an error names it."""
        try:
            async with gate:
                return await self._batch(servers, batches[place])
        except EpisodeTooLong as error:
            raise ValueError(
                f"{self._of(batches, place)}: a text is longer than the model takes ({error}); "
                "shorten it, or have the server cut it"
            ) from None
        except (ModelError, RuntimeError) as error:
            raise type(error)(f"{self._of(batches, place)}: {error}") from None

    async def _batch(self, servers: Servers, texts: Sequence[str]) -> np.ndarray:
        turn = servers.turn([{"role": "user", "content": texts[0]}], _ASKING)
        body = {"model": self.settings.model, "input": list(texts)}
        while True:
            try:
                async with turn.server() as server:
                    content = await server.post(body, EMBEDDINGS)
                    if (vectors := read_vectors(content, len(texts))) is None:
                        said = server.short(content[:1000].decode("utf-8", "replace"))
                        raise TryAgain(
                            f"{server.url}: the answer is no list of {len(texts)} vectors of "
                            f"numbers: {said}"
                        )
                    return vectors
            except TryAgain as reason:
                await turn.pause(reason)

    def _of(self, batches: Sequence[Sequence[str]], place: int) -> str:
        first = place * BATCH + 1
        last = first + len(batches[place]) - 1
        begins = batches[place][0][:_BEGINNING]
        count = sum(map(len, batches))
        model = self.settings.model
        return f"encoder {model!r}, texts {first} to {last} of {count} ({begins!r} ..)"


AnyEncoder = Encoder | ServedEncoder


def open_encoder(name: str, endpoint: EndpointSettings = EndpointSettings()) -> AnyEncoder:
    """Return a sentence encoder: a server's, or one of this machine.

    Parameters
    ----------
    name
        ``endpoint:MODEL``, also with an address behind ``@``; else as `Encoder` takes it.
    endpoint
        As for `ServedEncoder`.

    Raises
    ------
    ValueError
        If it is of this machine and not there, or names no model of a server.
    """
    return ServedEncoder(name, endpoint) if served_encoder(name) else Encoder(name)


def read_vectors(content: bytes, count: int) -> np.ndarray | None:
    """Return the vectors of a server's answer in the order of the texts, float32, ``count`` x
    dimensions; ``None`` if it does not hold one finite vector for each text, all of one length.
    """
    try:
        items = json.loads(content)["data"]
        places = [item.get("index", place) for place, item in enumerate(items)]
        ordered: list[Any] = [None] * count
        for place, item in zip(places, items, strict=True):
            ordered[place] = item["embedding"]
        vectors = np.array(ordered, dtype=np.float32)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
    whole = len(items) == count and sorted(places) == list(range(count))
    usable = vectors.ndim == 2 and vectors.shape[1] > 0 and bool(np.isfinite(vectors).all())
    return vectors if whole and usable else None
