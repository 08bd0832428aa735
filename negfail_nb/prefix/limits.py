"""Bounds on chat templates: they are somebody else's programs, and may run or write without end."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_CHARACTERS = 1_000_000  # of a template; the longest of well-known models has under 50,000
# In a template only good for making texts without end.
HUGE_NUMBER = re.compile(r"(?<![\w.\"'])\d{8,}|\*\*")


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
    thread, lock, over = threading.get_ident(), threading.Lock(), False

    def interrupt() -> None:
        with lock:
            if not over:
                number, kind = ctypes.c_ulong(thread), ctypes.py_object(TooSlow)
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
