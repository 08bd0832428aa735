"""The importers that come with the package; to import them registers them."""

from negfail_nb.collect.importers import chat, evals, fireact, mint, own, react, table

__all__ = ["chat", "evals", "fireact", "mint", "own", "react", "table"]
