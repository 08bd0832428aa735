"""Tables as csv files that a spreadsheet shows and never runs.

A text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return is a formula to a
spreadsheet, and it may come from a log (CWE-1236). Such a text is written with ``'`` before it, and
read without; numbers stay as they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.locks import naming

if TYPE_CHECKING:
    import pandas as pd

# The wide forms too: spreadsheets in Asia read them alike.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_GUARDED = re.compile(r"'+[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-](?:inf|nan)")


def csv_text(table: pd.DataFrame, **options: Any) -> str:
    """Return a table as csv without its index; ``options`` are those of pandas."""
    guarded = _mapped(table, _guard)
    text = guarded.to_csv(index=False, lineterminator="\n", **options)
    if "\r" in text:  # is a line's end to readers, and csv before Python 3.13 does not quote it
        options["quoting"] = csv.QUOTE_NONNUMERIC
        return guarded.to_csv(index=False, lineterminator="\n", **options)
    return text


def write_csv(table: pd.DataFrame, path: str | Path, **options: Any) -> None:
    """Write a table as csv without its index, as `csv_text` gives it."""
    with naming(Path(path)):
        Path(path).write_text(csv_text(table, **options), encoding="utf-8", newline="\n")


def read_csv(path: str | Path, **options: Any) -> pd.DataFrame:
    """Return the table of a file of `write_csv`, texts as they were; ``options`` go to pandas."""
    import pandas as pd

    return _mapped(pd.read_csv(path, **options), _free)


def _mapped(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """Return a table with its texts and column names changed; other columns are not copied."""
    changed = {
        place: [change(cell) if isinstance(cell, str) else cell for cell in column]
        for place, (_, column) in enumerate(table.items())
        if any(isinstance(cell, str) and change(cell) != cell for cell in column)
    }
    table = table.rename(columns=lambda name: change(name) if isinstance(name, str) else name)
    for place, column in changed.items():
        table.isetitem(place, column)
    return table


def _guard(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _free(text: str) -> str:
    return text[1:] if _GUARDED.match(text) else text
