"""The importers of the package, each in a file of its own.

They register when they are imported, in this order; the last is asked first about a file.
"""

from negfail_nb.logs.importers import (  # noqa: F401
    atif,
    chat,
    evals,
    fireact,
    frameworks,
    mint,
    pairs,
    react,
    sessions,
    spans,
    swe,
    table,
    tora,
    trajectories,
)
