"""What others published on long contexts against retrieval: ``literature.toml``."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("accuracy", "seconds", "retrieval")


def literature_table(kind: str = "") -> pd.DataFrame:
    """Return published points, one row each.

    Parameters
    ----------
    kind
        ``"accuracy"`` (percent) or ``"seconds"`` (of one question) against the length, or
        ``"retrieval"`` (percent, of so many steps); empty: all.

    Returns
    -------
    pandas.DataFrame
        ``name`` (suite and model), ``model``, ``kind``, ``measure``, ``length`` (tokens),
        ``calls`` (steps of retrieval; 1: none or one), ``value``, ``source``, and ``read``: how the
        number came here.
    """
    import pandas as pd

    if kind and kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; use one of {', '.join(KINDS)}, or none for all")
    text = files("negfail_nb.curves").joinpath("literature.toml").read_text(encoding="utf-8")
    rows = [
        {name: series[name] for name in ("name", "model", "kind", "measure")}
        | {"calls": series.get("calls", 1)}
        | {"length": length, "value": value, "source": series["source"], "read": series["read"]}
        for series in tomllib.loads(text)["series"]
        if kind in ("", series["kind"])
        for length, value in zip(series["lengths"], series["values"], strict=True)
    ]
    return pd.DataFrame(rows)
