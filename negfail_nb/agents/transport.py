"""One request to an OpenAI-compatible server: sent over aiohttp, its answer read up to a bound."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from negfail_nb.agents.protocol import ModelError
from negfail_nb.agents.refusals import Refusal, StillLoading, TryAgain, explain_refusal
from negfail_nb.secrets import check_address, check_no_secret, redact
from negfail_nb.settings import EndpointSettings

if TYPE_CHECKING:
    import aiohttp

OPENAI = "https://api.openai.com/v1"
MOST_BYTES = 16_000_000  # of one reply; no answer needs more, and a faulty server may not stop
CONNECT = 30.0  # seconds that a connection may take
PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds between two looks at a server that is loading its model
SHOWN = 300  # characters of a server's message in an error
BLOCK = 1 << 16


class Server:
    """A server, asked for chat completions.

    One client with one pool of connections serves all requests. Of replies that come at once, each
    is handed on in a turn of the event loop of its own, so that the request that follows from it
    leaves before the next reply is read. Handed on together, requests would leave together, behind
    the work on all replies, and come back together for good. Redirects are not followed: neither
    key nor questions go to an address that nobody named.

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
        self.settings, self.answered = settings, False
        self._key = os.environ.get(settings.key_variable, "").strip()
        url = settings.base_url or os.environ.get("OPENAI_BASE_URL", "")
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
        # A server of one's own mostly wants no key; one that wants any takes this.
        return {
            "Authorization": f"Bearer {self._key or 'none'}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def post(self, body: dict[str, Any]) -> bytes:
        """Send a request, and return the answer. A server that is loading its model is waited for.

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
            Where the server refuses this request for another reason, or its reply is too long.
        """
        begun, pause = time.monotonic(), PAUSE
        while True:
            try:
                return await self._post(body)
            except StillLoading as reason:
                pause = max(pause, reason.wait)
                if time.monotonic() - begun + pause > self.settings.start_timeout:
                    raise ModelError(
                        f"{reason}. It was waited for as long as EndpointSettings.start_timeout says, "
                        f"{self.settings.start_timeout:g} s"
                    ) from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _post(self, body: dict[str, Any]) -> bytes:
        try:
            async with asyncio.timeout(self.settings.timeout):
                status, headers, content = await self._exchange(body)
        except ReplyTooLarge:
            self.answered = True
            raise
        except Exception as error:  # noqa: BLE001 - what a broken server can do to a client is not in one list
            raise self._unreachable(error) from None
        async with self._turn:
            await asyncio.sleep(0)
        self.answered = True
        if not 200 <= status < 300:
            raise self._refused(status, headers, content, body)
        self._refuse_page(headers, content)
        return content

    async def _exchange(self, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and content of the answer to one request."""
        session = self._session = self._session or self._open()
        url = f"{self.address}/chat/completions{self.query}"
        data = json.dumps(body).encode()
        async with session.post(
            url, data=data, headers=self.headers, allow_redirects=False
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
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, **secure),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=min(self.settings.timeout, CONNECT)
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,
        )

    def short(self, text: str) -> str:
        """Return a server's text as errors may show it: one line, not long, without the key."""
        text = text[: 100 * SHOWN]
        text = (
            text.replace(self._key, "***") if self._key else text
        )  # servers quote the key that they refuse
        return redact(" ".join(text.split()))[:SHOWN]

    def meaning(self, refusal: Refusal, body: Mapping[str, Any]) -> Exception:
        """Return what a refusal stands for, as the exception to raise."""
        return explain_refusal(
            refusal, body, self.url, (self.settings.key_variable, bool(self._key))
        )

    def refusal(self, error: Any, status: int, wait: float = 0.0) -> Refusal:
        """Return the error of an answer in one form."""
        inner = error.get("error", error) if isinstance(error, Mapping) else error
        told = inner if isinstance(inner, Mapping) else {}
        said = next(
            (told[k] for k in ("message", "detail", "error", "error_msg") if told.get(k)), inner
        )
        said = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        code = str(told.get("code") or "")
        kind = str(
            told.get("type")
            or (error.get("error_type") if isinstance(error, Mapping) else "")
            or ""
        )
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
        text, wait = content.decode("utf-8", "replace"), _asked_wait(headers)
        if 300 <= status < 400:
            to = self.short(headers.get("location", "nowhere"))
            return ModelError(
                f"{self.url} answered {status}: it sends requests on to {to}. Redirects are not followed; if that "
                "address is right, put it into EndpointSettings.base_url (without /chat/completions)."
            )
        if _is_page(headers, text):
            return self.meaning(
                Refusal(status=status, said=self.short(text), wait=wait, page=True), body
            )
        try:
            error = json.loads(text)
        except (ValueError, RecursionError):
            error = text
        return self.meaning(self.refusal(error, status, wait), body)

    def _unreachable(self, error: Exception) -> Exception:
        import aiohttp

        causes = list(_causes(error))
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return TryAgain(
                f"timeout: no reply within {self.settings.timeout:g} s (EndpointSettings.timeout)"
            )
        told = f"{type(error).__name__}: {self.short(str(error))}"
        # Once it has answered, it may be starting anew; before that it is most likely not there.
        if not self.answered and isinstance(
            error, aiohttp.ClientConnectorError | aiohttp.InvalidURL
        ):
            return ModelError(
                f"cannot reach {self.url} ({told}). Is the server up, and EndpointSettings.base_url right?"
            )
        return TryAgain(f"lost connection to {self.url} ({told})")

    def _refuse_page(self, headers: Mapping[str, str], content: bytes) -> None:
        """A page instead of an answer: of a wrong address; after good answers, of a proxy that has
        a bad moment.
        """
        if not _is_page(headers, content[:BLOCK].decode("utf-8", "replace")):
            self._talked = True
            return
        text = f"{self.url} answered 200 with a web page ({self.short(content.decode('utf-8', 'replace'))})"
        if self._talked:
            raise TryAgain(text)
        raise ModelError(
            f"{text}. EndpointSettings.base_url must be the address of the API, mostly ending in /v1."
        )

    def _check(self, url: str) -> None:
        variable = self.settings.key_variable
        if not self.settings.model:
            raise ModelError(
                "EndpointSettings.model is empty; name the model as the server knows it"
            )
        if url and not re.match(r"https?://[^/]", url):
            raise ModelError(
                f"EndpointSettings.base_url is {redact(url)!r}; it must begin with http:// or https://"
            )
        try:  # the settings' own was checked when they were made
            check_address("OPENAI_BASE_URL", url)
            check_no_secret("OPENAI_BASE_URL", url)
        except ValueError as error:
            raise ModelError(str(error)) from None
        if not url and not self._key:
            raise ModelError(
                f"no key for OpenAI: set the environment variable {variable}, or name a server of your own in "
                "EndpointSettings.base_url"
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise ModelError(f"the key in the environment variable {variable} holds odd characters")


class ReplyTooLarge(RuntimeError):
    """A reply is larger than any can be; the rest of it is not read."""


def secure_context() -> Any:
    """Return how connections are secured: with the certificates that the machine or its owner
    trusts.
    """
    import httpx2

    return httpx2.create_ssl_context()


def _is_page(headers: Mapping[str, str], text: str) -> bool:
    return "text/html" in headers.get("content-type", "") or text.lstrip()[:1] == "<"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _asked_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that ``Retry-After`` asks for, given as seconds or as a date; 0 where it
    asks for none.
    """
    asked = headers.get("retry-after", "")
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        return float(asked)
    try:
        return max(parsedate_to_datetime(asked).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return 0.0
