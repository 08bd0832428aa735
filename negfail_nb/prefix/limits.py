"""Bounds on chat templates: they are programs of somebody else, and one may run for ever or write
without end.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_CHARACTERS = 1_000_000  # of a template; the longest of well-known models has under 50,000
HUGE_NUMBER = re.compile(
    r"(?<![\w.\"'])\d{8,}|\*\*"
)  # in a template only good for making texts without end


class TooSlow(Exception):
    """A template ran longer than it may."""


def check_template(text: str, name: str) -> None:
    """Raise `ValueError` where a template is too large, or holds numbers that only serve to write
    without end.
    """
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
    """Raise `TooSlow` in this thread where what is within takes longer; Python code is interrupted,
    no single call is.

    Signals reach the main thread only, so an exception is put into the thread that is here.
    """
    thread, lock, over = threading.get_ident(), threading.Lock(), False

    def interrupt() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(TooSlow)
                )

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
