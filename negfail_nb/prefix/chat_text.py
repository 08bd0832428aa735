"""Chat templates as text: where they are, and bounds on what they may do.

They are somebody else's programs, and may run or write without end.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE_TEMPLATES = Path(__file__).with_name("chat_templates")
MOST_CHARACTERS = 1_000_000  # of a template; the longest of well-known models has under 50,000
# In a template only good for making texts without end.
HUGE_NUMBER = re.compile(r"(?<![\w.\"'])\d{8,}|\*\*")


def chat_template_text(name: str) -> str:
    """Return a chat template by the name of one of the package's, or from a file.

    Raises
    ------
    ValueError
        If there is neither; the text lists the package's.
    """
    for path in (PACKAGE_TEMPLATES / f"{name}.jinja", Path(name)):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ValueError(
        f"chat template {name!r}: there is no such file, and the package's are "
        f"{', '.join(package_names())}"
    )


def own_template(tokenizer: Any) -> str:
    """Return a tokenizer's own chat template, the default one of several, ``""`` if none."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return template.get("default", "") if isinstance(template, dict) else template


def package_names() -> list[str]:
    """Return the names of the chat templates that come with the package."""
    return sorted(path.stem for path in PACKAGE_TEMPLATES.glob("*.jinja"))


class TooSlow(Exception):
    """A template ran longer than it may."""


def check_template(text: str, name: str) -> None:
    """Raise `ValueError` if a template is too large, or computes with huge numbers."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(
            f"{name} has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read"
        )
    for code in re.findall(r"\{[{%].*?[%}]\}", text, re.DOTALL):
        if found := HUGE_NUMBER.search(re.sub(r"\"[^\"]*\"|'[^']*'", "''", code)):
            raise ValueError(
                f"{name} computes with {found[0]!r}, which no chat needs; use another template"
            )


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` in this thread if the block takes longer; only Python code is interrupted.

    Signals reach the main thread only, so an exception is put into this thread.
    """
    thread = threading.get_ident()
    lock = threading.Lock()
    over = False

    def interrupt() -> None:
        with lock:
            if not over:
                number = ctypes.c_ulong(thread)
                kind = ctypes.py_object(TooSlow)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(number, kind)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
