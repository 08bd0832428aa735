"""Addresses of servers: one, or several that serve the same model."""

from __future__ import annotations

import re
from typing import Any

from negfail_nb.secrets import check_address, check_no_secret

SERVED = "endpoint:"  # how the name of an encoder behind a server begins


def served_encoder(name: str) -> tuple[str, str] | None:
    """Return model and address of an encoder behind a server, ``None`` if it is none.

    It is written ``endpoint:MODEL`` or ``endpoint:MODEL@http://localhost:8001/v1``; without an
    address, it is that of the endpoint's settings.

    Raises
    ------
    ValueError
        If it names no model, or the address holds a secret.

    Examples
    --------
    >>> served_encoder("endpoint:BAAI/bge-m3@http://localhost:8001/v1"), served_encoder("minilm")
    (('BAAI/bge-m3', 'http://localhost:8001/v1'), None)
    """
    if not name.startswith(SERVED):
        return None
    check_no_secret("the encoder", name)
    found = re.fullmatch(r"(?P<model>.+?)(?:@(?P<url>https?://.*))?", name.removeprefix(SERVED))
    if found is None or not found["model"].strip():
        raise ValueError(
            f"the encoder {name!r} names no model; write endpoint:MODEL, or "
            "endpoint:MODEL@http://localhost:8001/v1"
        )
    if found["url"]:
        check_addresses("the encoder", [found["url"]])
    return found["model"].strip(), found["url"] or ""


def split_addresses(text: str) -> tuple[str, ...]:
    """Return the addresses that a text holds between commas; none if it is empty."""
    return tuple(part.strip() for part in text.split(",")) if text.strip() else ()


def check_addresses(name: str, urls: Any) -> None:
    """Check that addresses hold no secret, and that none is empty or given twice.

    Whether each begins with http:// is checked when a server is asked.

    Raises
    ------
    ValueError
        If not; the text shows no address that holds a secret.
    """
    given = [str(url) for url in urls] if isinstance(urls, list | tuple) else [str(urls)]
    for url in given:
        check_no_secret(name, url)
        check_address(name, url)
    if not all(url.strip() for url in given):
        raise ValueError(
            f"{name} holds an empty address among {given}; leave it out, or a comma too many"
        )
    same = [url.strip().rstrip("/").lower() for url in given]
    twice = [url for n, url in enumerate(given) if same[n] in same[:n]]
    if twice:
        raise ValueError(f"{name} names {twice[0]} twice; give each server once")
