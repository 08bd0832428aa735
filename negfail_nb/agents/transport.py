"""One request to an OpenAI-compatible server: sent over aiohttp, its answer read up to a bound."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from negfail_nb.agents.protocol import ModelError
from negfail_nb.agents.refusals import (
    Absent,
    Refusal,
    StillLoading,
    TooSlow,
    TryAgain,
    explain_refusal,
)
from negfail_nb.secrets import redact
from negfail_nb.settings import EndpointSettings
from negfail_nb.settings.addresses import check_addresses, split_addresses

if TYPE_CHECKING:
    import aiohttp

OPENAI = "https://api.openai.com/v1"
MOST_BYTES = 16_000_000  # of one reply; no answer needs more, and a faulty server may not stop
CONNECT = 30.0  # seconds that a connection may take
PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds between two looks at a server that loads its model
SHOWN = 300  # characters of a server's message in an error
BLOCK = 1 << 16
COMPLETIONS = "/chat/completions"
EMBEDDINGS = "/embeddings"
UNDER_WAY = (401, 429, 502, 503, 504)  # what says no to every page, or not yet


class ReplyTooLarge(RuntimeError):
    """A reply is larger than any can be; the rest of it is not read."""


class Server:
    """A server, asked for chat completions or embeddings over one pool of connections.

    Redirects are not followed: neither key nor questions go to an address that nobody named.

    Parameters
    ----------
    settings
        What to ask for, and how long to wait. The key is read here, and is in no error.
    url
        Its address, one of `addresses`; empty: OpenAI's own.
    alone
        There is no other server, so one that loads its model is waited for.

    Raises
    ------
    ModelError
        If a setting or the key is missing or cannot be right.
    """

    def __init__(self, settings: EndpointSettings, url: str, *, alone: bool = True) -> None:
        self.settings = settings
        self.alone = alone
        self.answered = False
        self._key = os.environ.get(settings.key_variable, "").strip()
        self._check(url)
        self.address, mark, query = (url or OPENAI).partition("?")
        self.address = self.address.rstrip("/")
        self.query = mark + query
        self.url = redact(self.address)
        self._session: aiohttp.ClientSession | None = None
        self._turn = asyncio.Lock()
        self._talked = False

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        return {
            # A server of one's own mostly wants no key; one that wants any takes this.
            "Authorization": f"Bearer {self._key or 'none'}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def post(self, body: dict[str, Any], path: str = COMPLETIONS) -> bytes:
        """Send a request and return the answer; one that loads its model is waited for, if alone.

        ``path`` is behind the address: `COMPLETIONS` or `EMBEDDINGS`.

        Raises
        ------
        TryAgain
            After a timeout or a lost connection, or if the server says that it is busy or broken.
            It is `Absent` if the server cannot be reached, `TooSlow` if it does not answer in time.
        FieldRefused
            If the request must be sent without a field.
        EpisodeTooLong
            If the conversation does not fit the model's window.
        ModelError
            If no request could succeed.
        RuntimeError
            If the server refuses this request for another reason, or its reply is too long.
        """
        begun = time.monotonic()
        pause = PAUSE
        while True:
            try:
                return await self._post(body, path)
            except StillLoading as reason:
                if not self.alone:
                    raise
                pause = max(pause, reason.wait)
                longest = self.settings.start_timeout
                if time.monotonic() - begun + pause > longest:
                    raise ModelError(
                        f"{reason}. It was waited for as long as EndpointSettings.start_timeout "
                        f"says, {longest:g} s"
                    ) from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _post(self, body: dict[str, Any], path: str) -> bytes:
        try:
            async with asyncio.timeout(self.settings.timeout):
                status, headers, content = await self._exchange(self._url(path), body)
        except ReplyTooLarge:
            self.answered = True
            raise
        except Exception as error:  # noqa: BLE001 - no list has all that a broken server can cause
            raise self._unreachable(error, self.settings.timeout) from None
        # Replies that come at once are handed on one per turn of the event loop, so that the next
        # request of each leaves before the next reply is read. Handed on together, requests would
        # leave together, after the work on all replies, and come back together for good.
        async with self._turn:
            await asyncio.sleep(0)
        self.answered = True
        text = content[:BLOCK].decode("utf-8", "replace")
        if not 200 <= status < 300:
            raise self._refused(status, headers, content, {"messages": []} | body)
        if not _is_page(headers, text):
            self._talked = True
            return content
        shown = f"{self.url} answered 200 with a web page ({self.short(text)})"
        if self._talked:  # good answers came before: a proxy has a bad moment
            raise TryAgain(shown)
        raise ModelError(
            f"{shown}. EndpointSettings.base_url must be the address of the API, mostly ending in "
            "/v1."
        )

    async def look(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return what a page of the server says, as JSON; ``None`` if it has no such page.

        ``path`` is behind the address, or, with ``//`` before it, behind the address without
        ``/v1``. Raises what `post` does, if the server is absent, busy, loading or wants a key.
        """
        seconds = min(self.settings.timeout, CONNECT)
        try:
            async with asyncio.timeout(seconds):
                status, headers, content = await self._exchange(self._url(path), body)
        except ReplyTooLarge:
            return None
        except Exception as error:  # noqa: BLE001 - as above
            raise self._unreachable(error, seconds) from None
        if status in UNDER_WAY:
            raise self._refused(status, headers, content, {"messages": []} | (body or {}))
        try:
            return json.loads(content) if status == 200 else None
        except (ValueError, RecursionError):
            return None

    def _url(self, path: str) -> str:
        before = self.address.removesuffix("/v1") if path.startswith("//") else self.address
        return f"{before}/{path.lstrip('/')}{self.query}"

    async def _exchange(
        self, url: str, body: dict[str, Any] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and content of the answer to one request."""
        session = self._session = self._session or self._open()
        method = "GET" if body is None else "POST"
        data = None if body is None else json.dumps(body).encode()
        async with session.request(
            method, url, data=data, headers=self.headers, allow_redirects=False
        ) as response:
            content = bytearray()
            async for block in response.content.iter_chunked(BLOCK):
                content += block
                if len(content) > MOST_BYTES:
                    response.close()
                    raise ReplyTooLarge(
                        f"{self.url} answered {response.status} with over {MOST_BYTES / 1e6:g} MB, "
                        "which no reply needs"
                    )
            return response.status, response.headers, bytes(content)

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        # How many run at once is decided elsewhere; 0 is no limit.
        secure = {"ssl": secure_context()} if self.address.startswith("https") else {}
        connect = min(self.settings.timeout, CONNECT)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, **secure),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,
        )

    def short(self, text: str) -> str:
        """Return a server's text as errors may show it: one short line without the key."""
        text = text[: 100 * SHOWN]
        if self._key:  # servers quote the key that they refuse
            text = text.replace(self._key, "***")
        return redact(" ".join(text.split()))[:SHOWN]

    def meaning(self, refusal: Refusal, body: Mapping[str, Any]) -> Exception:
        """Return what a refusal stands for, as the exception to raise."""
        key = self.settings.key_variable, bool(self._key)
        return explain_refusal(refusal, body, self.url, key)

    def refusal(self, error: Any, status: int, wait: float = 0.0) -> Refusal:
        """Return the error of an answer in one form."""
        outer = error if isinstance(error, Mapping) else {}
        inner = outer.get("error", error)
        told = inner if isinstance(inner, Mapping) else {}
        names = ("message", "detail", "error", "error_msg")
        said = next((told[name] for name in names if told.get(name)), inner)
        said = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        code = str(told.get("code") or "")
        kind = str(told.get("type") or outer.get("error_type") or "")
        return Refusal(
            status=status,
            said=self.short(said),
            code=kind if code.isdigit() or not code else code,
            param=str(told.get("param") or ""),
            wait=wait,
        )

    def _refused(
        self, status: int, headers: Mapping[str, str], content: bytes, body: Mapping[str, Any]
    ) -> Exception:
        text = content.decode("utf-8", "replace")
        wait = _asked_wait(headers)
        if 300 <= status < 400:
            to = self.short(headers.get("location", "nowhere"))
            return ModelError(
                f"{self.url} answered {status}: it sends requests on to {to}. Redirects are not "
                "followed; if that address is right, put it into EndpointSettings.base_url "
                "(without /chat/completions)."
            )
        if _is_page(headers, text):
            page = Refusal(status=status, said=self.short(text), wait=wait, page=True)
            return self.meaning(page, body)
        try:
            error = json.loads(text)
        except (ValueError, RecursionError):
            error = text
        return self.meaning(self.refusal(error, status, wait), body)

    def _unreachable(self, error: Exception, longest: float) -> Exception:
        import aiohttp

        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, TimeoutError):
                named = " (EndpointSettings.timeout)" if longest == self.settings.timeout else ""
                return TooSlow(f"timeout: no reply within {longest:g} s{named}")
            cause = cause.__cause__
        told = f"{type(error).__name__}: {self.short(str(error))}"
        # A server that answered before may be restarting; else it is most likely not there.
        absent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL)
        if absent and not self.answered:
            said = f"cannot reach {self.url} ({told})"
            asked = "Is the server up, and EndpointSettings.base_url right?"
            return ModelError(f"{said}. {asked}") if self.alone else Absent(said)
        lost = Absent if absent else TryAgain
        return lost(f"lost connection to {self.url} ({told})")

    def _check(self, url: str) -> None:
        variable = self.settings.key_variable
        if not self.settings.model:
            raise ModelError(
                "EndpointSettings.model is empty; name the model as the server knows it"
            )
        if url and not re.match(r"https?://[^/]", url):
            raise ModelError(
                f"EndpointSettings.base_url is {redact(url)!r}; it must begin with http:// or "
                "https://"
            )
        if not url and not self._key:
            raise ModelError(
                f"no key for OpenAI: set the environment variable {variable}, or name a server of "
                "your own in EndpointSettings.base_url"
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise ModelError(f"the key in the environment variable {variable} holds odd characters")


def addresses(settings: EndpointSettings) -> tuple[str, ...]:
    """Return the addresses of the servers: the settings' own, else those of ``OPENAI_BASE_URL``,
    else an empty one, which stands for OpenAI.

    Raises
    ------
    ModelError
        If those of the environment hold a secret, or one is empty or given twice.
    """
    if settings.base_url:
        return settings.base_url  # checked when the settings were made
    urls = split_addresses(os.environ.get("OPENAI_BASE_URL", ""))
    try:
        check_addresses("OPENAI_BASE_URL", urls)
    except ValueError as error:
        raise ModelError(str(error)) from None
    return urls or ("",)


def secure_context() -> Any:
    """Return an SSL context with the certificates that the machine or its owner trusts."""
    import httpx2

    return httpx2.create_ssl_context()


def _is_page(headers: Mapping[str, str], text: str) -> bool:
    return "text/html" in headers.get("content-type", "") or text.lstrip()[:1] == "<"


def _asked_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that ``Retry-After`` asks for, as seconds or as a date, or 0."""
    asked = headers.get("retry-after", "")
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        return float(asked)
    try:
        return max(parsedate_to_datetime(asked).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return 0.0
