"""One request to an OpenAI-compatible server, and what its failure means.

The ``openai`` client carries the request, over aiohttp. Servers word their refusals differently, so here they are told
apart: trying again helps, the request must leave a field out, one episode is lost, or a setting is wrong and nothing
can succeed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from negfail_nb.collect.protocol import EpisodeTooLong, ModelError
from negfail_nb.environment import redact
from negfail_nb.profiles import EndpointSettings

if TYPE_CHECKING:
    import httpx2
    import openai

CONNECT = 30.0  # seconds that a connection may take
OPTIONAL = ("seed", "stop")  # fields that we can do without
SHOWN = 300  # characters of a server's message in an error
_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|window|size)|(?:prompt|input) is too long|max_model_len|reduce the length",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"pinned to|\b(?:invalid|unknown|no such|valid) model\b|\bmodel\b.{0,200}\bnot\b.{0,9}\b(?:exist|found|available)",
    re.IGNORECASE,
)


class TryAgain(Exception):
    """A try failed, another may not. ``wait`` is how many seconds the server asks for."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


class FieldRefused(Exception):
    """The server refuses a ``field`` of the request that need not be sent, or not by this name."""

    def __init__(self, field: str, said: str) -> None:
        super().__init__(said)
        self.field = field


class Server:
    """A server, asked for chat completions.

    One client with one pool of connections serves all requests. Of replies that come at once, each is handed on in a
    turn of the event loop of its own, so that the request that follows from it leaves before the next reply is read.
    Handed on together, requests would leave together, behind the work on all replies, and come back together for good.

    Parameters
    ----------
    settings
        Which server. The key is read here, and stands in no error.

    Raises
    ------
    ModelError
        Where a setting or the key is missing or cannot be right.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        import httpx2
        import openai

        self.settings, self.answered = settings, False
        self._key = os.environ.get(settings.key_variable, "").strip()
        url = settings.base_url or os.environ.get("OPENAI_BASE_URL", "")
        self._check(url)
        timeout = httpx2.Timeout(settings.timeout, connect=min(settings.timeout, CONNECT))
        # How many run at once is decided elsewhere; aiohttp reads 0 as no limit, and None as 100.
        limits = httpx2.Limits(max_connections=0)
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none",  # a server of one's own mostly wants none, the client always
            base_url=url or None,
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAioHttpClient(timeout=timeout, limits=limits),
        )
        self._turn = asyncio.Lock()
        self.url = redact(str(self._client.base_url))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def post(self, body: dict[str, Any]) -> bytes:
        """Send a request, and return the answer.

        Raises
        ------
        TryAgain
            After a timeout, a lost connection, or where the server says that it is busy or broken.
        FieldRefused
            Where the request must be sent without a field.
        EpisodeTooLong
            Where the conversation does not fit the model's window.
        ModelError
            Where no request could succeed.
        RuntimeError
            Where the server refuses this request for another reason.
        """
        import openai
        from httpx2 import Response

        try:
            async with asyncio.timeout(self.settings.timeout):
                # `post` spares the client's own copy of request and answer as objects: a third of the time a call.
                response = await self._client.post("/chat/completions", cast_to=Response, body=body)
        except openai.APIStatusError as error:
            self.answered = True
            raise self._meaning(error, body) from None
        except (TimeoutError, openai.APIConnectionError) as error:
            raise self._unreachable(error) from None
        async with self._turn:
            await asyncio.sleep(0)
        self.answered = True
        self._refuse_html(response)
        return response.content

    def short(self, text: str) -> str:
        """Return a server's text as errors may show it: one line, not long, without the key."""
        text = text.replace(self._key, "***") if self._key else text  # servers quote the key that they refuse
        return redact(" ".join(text.split()))[:SHOWN]

    def _meaning(self, error: openai.APIStatusError, body: dict[str, Any]) -> Exception:
        """Return what an error status stands for, as the exception to raise."""
        status, said = error.status_code, self._said(error)
        text = f"{self.url} answered {status}: {said.rstrip('.')}"
        if status == 402 or error.code == "insufficient_quota":
            return ModelError(f"{text}. The account has no credit left; no try can succeed.")
        if status in (408, 409, 429) or status >= 500:
            return TryAgain(text, _asked_wait(error.response.headers))
        self._refuse_html(error.response)
        if error.code == "model_not_found" or error.param == "model":
            return self._no_model(text)
        if status in (401, 403):
            state = "holds a key that the server does not take" if self._key else "is not set"
            return ModelError(f"{text}. The environment variable {self.settings.key_variable} {state}.")
        if status == 413 or error.code == "context_length_exceeded" or _TOO_LONG.search(said):
            return EpisodeTooLong(f"the conversation does not fit the model's window: {said}")
        if status in (404, 405):
            return self._no_model(text)
        refused = self._field_refused(said, str(error.param), body)
        return refused or (self._no_model(text) if _NO_MODEL.search(said) else RuntimeError(text))

    def _no_model(self, text: str) -> ModelError:
        return ModelError(
            f"{text}. Does the server know the model {self.settings.model!r} (EndpointSettings.model), and does "
            "EndpointSettings.base_url end as the server's documentation says, mostly in /v1?"
        )

    def _field_refused(self, said: str, param: str, body: dict[str, Any]) -> Exception | None:
        if "max_completion_tokens" in said and "max_tokens" in body:
            return FieldRefused("max_tokens", said)
        named = [f for f in body if f == param or _names(said, f)]
        optional = [f for f in OPTIONAL if f in named]
        if optional:
            return FieldRefused(optional[0], said)
        if "temperature" in named:
            return ModelError(f"{self.url} refuses the temperature: {said}. Set LiveSettings.temperatures.")
        # Before any tool was called, it is not this conversation that the server minds.
        if "tools" in body and "tool" in said.lower() and not any(m["role"] == "tool" for m in body["messages"]):
            return ModelError(f"{self.url} takes no tools: {said}. Set LiveSettings.style to 'react'.")
        return None

    def _unreachable(self, error: Exception) -> Exception:
        import aiohttp

        causes = list(_causes(error))
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return TryAgain(f"timeout: no reply within {self.settings.timeout:g} s (EndpointSettings.timeout)")
        # The client's own names are of little help: it calls a refused connection a timeout.
        told = next((cause for cause in causes if isinstance(cause, aiohttp.ClientError)), causes[-1])
        text = f"{type(told).__name__}: {self.short(str(told))}"
        # Once it has answered, it may be starting anew; before that it is most likely not there.
        if not self.answered and isinstance(told, aiohttp.ClientConnectorError | aiohttp.InvalidURL):
            return ModelError(
                f"cannot reach {self.url} ({text}). Is the server up, and EndpointSettings.base_url right?"
            )
        return TryAgain(f"lost connection to {self.url} ({text})")

    def _refuse_html(self, response: httpx2.Response) -> None:
        if "text/html" in response.headers.get("content-type", "") or response.content.lstrip()[:1] == b"<":
            raise ModelError(
                f"{self.url} answered {response.status_code} with a web page ({self.short(response.text)}). "
                "EndpointSettings.base_url must be the address of the API, mostly ending in /v1."
            )

    def _check(self, url: str) -> None:
        if not self.settings.model:
            raise ModelError("EndpointSettings.model is empty; name the model as the server knows it")
        if url and not re.match(r"https?://[^/]", url):
            raise ModelError(f"EndpointSettings.base_url is {redact(url)!r}; it must begin with http:// or https://")
        variable = self.settings.key_variable
        if redact(variable) != variable or not variable.isidentifier():
            raise ModelError(
                "EndpointSettings.key_variable is the name of an environment variable, not the key itself: put the key "
                "into OPENAI_API_KEY, leave the setting, and make a new key if this one was shown to anybody"
            )
        if not url and not self._key:
            raise ModelError(
                f"no key for OpenAI: set the environment variable {self.settings.key_variable}, or name a server of "
                "your own in EndpointSettings.base_url"
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise ModelError(f"the key in the environment variable {self.settings.key_variable} holds odd characters")

    def _said(self, error: openai.APIStatusError) -> str:
        body = error.body
        if isinstance(body, dict):
            body = next((body[k] for k in ("message", "detail", "error") if body.get(k)), body)
        return self.short(body if isinstance(body, str) else json.dumps(body, ensure_ascii=False))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _names(said: str, field: str) -> bool:
    """Whether a server's message speaks of a field of the request, and not just uses the word."""
    after = r"(?:arg|argument|param|parameter|field|propert(?:y|ie)|input|key)s?\b[^.]*?"
    return re.search(rf"['\"`]{field}['\"`]|{after}\b{field}\b", said, re.IGNORECASE) is not None


def _asked_wait(headers: Any) -> float:
    """Return the seconds that ``Retry-After`` asks for, given as seconds or as a date; 0 where it asks for none."""
    asked = headers.get("retry-after", "")
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        return float(asked)
    try:
        return max(parsedate_to_datetime(asked).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return 0.0
