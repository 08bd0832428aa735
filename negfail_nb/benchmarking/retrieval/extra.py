"""Libraries that only the search by vectors needs."""

from __future__ import annotations

import importlib
from typing import Any


def installed(name: str) -> Any:
    """Import a library of the extra ``dense``.

    Raises
    ------
    ValueError
        Where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"searching by vectors needs {name}, which is not installed ({error}): "
            "pip install 'negfail_nb[dense]', or use the method 'bm25' or 'linked'"
        ) from error
