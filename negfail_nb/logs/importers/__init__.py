"""The importers that come with the package; to import them registers them."""

from negfail_nb.logs.importers import (
    atif,
    chat,
    evals,
    fireact,
    mint,
    own,
    pairs,
    react,
    sessions,
    spans,
    swe,
    table,
    tora,
)

__all__ = [
    "atif",
    "chat",
    "evals",
    "fireact",
    "mint",
    "own",
    "pairs",
    "react",
    "sessions",
    "spans",
    "swe",
    "table",
    "tora",
]
