"""How the world is worded: the tables of ``wordings.toml``, and which wordings a split uses."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def words(table: str) -> Any:
    """Return a table: ``"sentences"``, ``"asides"``, ``"ask"``, ``"the"`` and ``"stories"`` as
    written, ``"compare"`` and ``"same"`` by (kind, relation).
    """
    found = _tables()[table]
    if table in ("compare", "same"):
        return {(kind, name): given for kind, of in found.items() for name, given in of.items()}
    return found


@cache
def _tables() -> Mapping[str, Any]:
    text = files("negfail_nb.pocket").joinpath("wordings.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def of_split(wordings: Sequence[str], split: str) -> Sequence[str]:
    """Return the wordings of a split: the last one for ``"heldout"``, the others for ``"train"``,
    all for ``""``.
    """
    return {"": wordings, "train": wordings[:-1], "heldout": wordings[-1:]}[split]
