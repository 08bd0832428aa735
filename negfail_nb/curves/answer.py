"""Read everything, or retrieve? What each way to an answer takes for one model on some GPUs, beside
the accuracy that others published, or that one's own server reached.

Speeds are predicted (`negfail_nb.speed`), unless one's own server was measured; published accuracy
comes from ``literature.toml``. Which is which stands in every row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from negfail_nb.curves.literature import literature_table
from negfail_nb.speed.architecture import Architecture, get_architecture
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import Hardware, get_hardware
from negfail_nb.speed.ladder import (
    CACHED,
    LENGTHS,
    LONG,
    PIPELINE,
    BreakEven,
    break_even,
    pipeline_workload,
    speed_table,
)
from negfail_nb.speed.roofline import DoesNotFit, Workload

if TYPE_CHECKING:
    import pandas as pd

    from negfail_nb.curves.curve import Curve

PREDICTED, PUBLISHED, MEASURED = "predicted", "published", "measured"
QUESTIONS = 1000  # that money is for
_SPEEDS = {"seconds": "e2e_seconds", "rate": "requests_per_second"}
_FASTER = "reading is faster at every length that can be served"
_SLOWER = "reading is slower from {:,} tokens on, the shortest length looked at"
_ENDS = ("", "_low", "_high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One model on some GPUs, and how questions are put to it.

    Attributes
    ----------
    steps
        Numbers of retrieval steps that are compared; each step is a call.
    passages
        That each step adds.
    answer_tokens
        That every call writes.
    step_seconds
        Of one search, which keeps no GPU busy.
    gpu_hour
        Price of one GPU for an hour, in any currency; 0: not known.
    """

    architecture: Architecture | str
    hardware: Hardware | str
    gpus: int = 1
    weights: str = "bf16"
    steps: tuple[int, ...] = (1, 3)
    passages: int = 5
    answer_tokens: int = 32
    lengths: tuple[int, ...] = LENGTHS
    step_seconds: float = 0.0
    gpu_hour: float = 0.0
    efficiencies: Efficiencies = Efficiencies()

    def pipeline(self, steps: int) -> Workload:
        """Return the calls of so many steps of retrieval."""
        return pipeline_workload(
            steps,
            self.passages,
            output_tokens=self.answer_tokens,
            tensor_parallel=self.gpus,
            weights=self.weights,
            kv="fp8" if self.weights == "fp8" else "bf16",
        )

    def even(self, steps: int) -> BreakEven:
        """Return the length from which reading takes longer than so many steps, asked alone."""
        tools = self.step_seconds * steps
        about = (self.architecture, self.hardware, self.pipeline(steps), self.efficiencies)
        return break_even(*about, tool_seconds=tools)


def answer_table(asked: Asked, curve: Curve | None = None, reader: str = "") -> pd.DataFrame:
    """Return what each way to an answer takes, and every accuracy that is known.

    Parameters
    ----------
    asked
        The model, its GPUs, and how questions are put.
    curve, reader
        Of `negfail_nb.tradeoff`, and the name of the model that answered. If it is the model that
        is asked for, its accuracy and its seconds are in the table; else, only what was published.

    Returns
    -------
    pandas.DataFrame
        Rows whose ``kind`` is `PREDICTED`: ``way`` (`LONG`, `CACHED`, `PIPELINE`), ``calls``,
        ``length`` (tokens); ``seconds`` of one question alone, ``rate`` (questions a second of a
        full server) and ``money`` for `QUESTIONS` questions at that rate, each with the 95 %
        interval of the prediction, ``_low`` and ``_high``; ``note``: why there is none.
        Rows whose ``kind`` is `PUBLISHED` or `MEASURED`: ``accuracy`` (percent), its ``name``,
        ``measure`` and ``source``, and ``seconds``: predicted for what was published. Retrieval was
        published of other readers, too, as their names say.

    Raises
    ------
    ValueError
        For an unknown name, or a length that has no room for the answer.
    """
    import pandas as pd

    ways = _ways(asked).assign(kind=PREDICTED)
    own = [] if curve is None or not _same(reader, asked.architecture) else [_own(curve)]
    return pd.concat([ways, _published(asked, ways), *own], ignore_index=True)


def _same(reader: str, architecture: Architecture | str) -> bool:
    try:
        return get_architecture(reader).name == get_architecture(architecture).name
    except ValueError:  # a model that is not in the table is another one
        return False


def _ways(asked: Asked) -> pd.DataFrame:
    import pandas as pd

    tables = []
    for i, steps in enumerate(asked.steps):
        found = speed_table(
            asked.architecture,
            asked.hardware,
            asked.lengths,
            asked.pipeline(steps),
            asked.efficiencies,
            tool_seconds=asked.step_seconds * steps,
        )
        tables.append(found if not i else found[found["kind"] == PIPELINE])
    every = pd.concat(tables, ignore_index=True)
    table = every[["kind", "calls", "length"]].rename(columns={"kind": "way"})
    for name, theirs in _SPEEDS.items():
        for end in _ENDS:
            table[f"{name}{end}"] = every[f"{theirs}{end}"]
    price = QUESTIONS * asked.gpu_hour * asked.gpus / 3600
    for end, other in zip(_ENDS, ("", "_high", "_low"), strict=True):
        table[f"money{end}"] = price / table[f"rate{other}"] if price else math.nan
    return table.assign(note=every["note"].fillna(""))


def _published(asked: Asked, ways: pd.DataFrame) -> pd.DataFrame:
    """Published accuracy of the model at each length, and of any reader in so many steps."""
    import pandas as pd

    every = literature_table("accuracy").assign(way=LONG).drop(columns="calls")
    every = every[every["model"] == get_architecture(asked.architecture).name]
    retrieved = literature_table("retrieval").assign(way=PIPELINE).drop(columns="length")
    long = every.merge(_seconds(ways, LONG), on="length")
    steps = retrieved.merge(_seconds(ways, PIPELINE), on="calls")
    found = pd.concat([long, steps], ignore_index=True).rename(columns={"value": "accuracy"})
    columns = "name way calls length accuracy measure seconds source".split()
    return found[columns].assign(kind=PUBLISHED)


def _seconds(table: pd.DataFrame, way: str) -> pd.DataFrame:
    rows = table[(table["way"] == way) & table["seconds"].notna()]
    return rows[["calls", "length", "seconds"]]


def _own(curve: Curve) -> pd.DataFrame:
    """One's own arms, with their own seconds: alone, if some questions were asked alone."""
    import pandas as pd

    rows = curve.table[curve.table["sub_em"].notna()]
    alone = rows["alone_p50"] if rows["alone_p50"].notna().any() else rows["seconds_p50"]
    return pd.DataFrame(
        {
            "name": rows["arm"],
            "length": rows["length"],
            "accuracy": 100 * rows["sub_em"],
            "measure": "substring EM, %, own questions",
            "seconds": alone,
            "source": f"{int(rows['questions'].max())} questions, measured here",
            "kind": MEASURED,
        }
    )


def changes_table(
    asked: Asked, gpus: Iterable[str] = ("a100", "h100", "h200", "b200")
) -> pd.DataFrame:
    """Return how the break-even length moves with load, cache, steps, passages, answers and GPU.

    Returns
    -------
    pandas.DataFrame
        ``changed``, ``to``, and ``tokens`` from which on reading is the slower one, with their 95 %
        interval ``low`` and ``high`` (NaN for load and cache: their lengths lie between those of
        a table). ``note``: why there is no length.
    """
    import pandas as pd

    most = max(asked.steps)
    rows = [_change("nothing", "", asked, most)]
    short = replace(asked, steps=(most,), lengths=(512, 1024, 2048, *asked.lengths))
    ways = _ways(short)
    rows += [
        _crossing("load", "full server", ways, LONG, "rate"),
        _crossing("cache", "the prefix is cached", ways, CACHED, "seconds"),
        _crossing("both", "full server, cached", ways, CACHED, "rate"),
    ]
    rows += [_change("steps", str(n), asked, n) for n in (1, 2, 3, 5) if n != most]
    more = {"passages": (2, 10, 20), "answer_tokens": (8, 128, 512)}
    for name, values in more.items():
        rows += [_change(name, str(v), replace(asked, **{name: v}), most) for v in values]
    here = get_hardware(asked.hardware).name
    rows += [_change("gpu", g, replace(asked, hardware=g), most) for g in gpus if g != here]
    return pd.DataFrame(rows)


def _change(changed: str, to: str, asked: Asked, steps: int) -> dict[str, object]:
    row: dict[str, object] = {"changed": changed.replace("_", " "), "to": to}
    try:
        even = asked.even(steps)
    except DoesNotFit as error:
        return row | dict.fromkeys(("tokens", "low", "high"), math.nan) | {"note": str(error)}
    ends = {"tokens": even.tokens, "low": even.low, "high": even.high}
    found = {name: math.nan if end is None else float(end) for name, end in ends.items()}
    return row | found | {"note": "" if even.tokens else _FASTER}


def _crossing(changed: str, to: str, ways: pd.DataFrame, way: str, name: str) -> dict[str, object]:
    """Find where reading takes as long as the steps, between lengths on a log scale."""
    row = {"changed": changed, "to": to, "low": math.nan, "high": math.nan}
    long = ways[(ways["way"] == way) & ways[name].notna()].sort_values("length")
    steps = ways.loc[ways["way"] == PIPELINE, name].dropna()
    if long.empty or steps.empty:
        return row | {"tokens": math.nan, "note": "it does not fit"}
    # As seconds: a rate turned over is the time of the server for a question.
    power = 1 if name == "seconds" else -1
    slower = np.log(long[name].to_numpy() ** power / steps.iloc[0] ** power)
    if slower[0] >= 0:
        return row | {"tokens": math.nan, "note": _SLOWER.format(long["length"].iloc[0])}
    if slower[-1] < 0:
        return row | {"tokens": math.nan, "note": _FASTER}
    lengths = np.log(long["length"].to_numpy(dtype=float))
    return row | {"tokens": float(np.exp(np.interp(0, slower, lengths))), "note": ""}


def answer_text(asked: Asked, table: pd.DataFrame) -> str:
    """Return the answer in words, every number of it from `answer_table`."""
    most = max(asked.steps)
    ways = table[table["kind"] == PREDICTED]
    said = [_times(ways), _rates(ways, most), _even(asked, most)]
    said.append(_heights(table[table["kind"] == PUBLISHED]))
    return " ".join(filter(None, said))


def _times(table: pd.DataFrame) -> str:
    long = table[(table["way"] == LONG) & table["seconds"].notna()]
    steps = table[(table["way"] == PIPELINE) & table["seconds"].notna()]
    if long.empty or steps.empty:
        return "Neither reading nor retrieval fits on these GPUs."
    first, last = long.iloc[0], long.iloc[-1]
    text = (
        f"One question alone takes {_span(first, 'seconds')} s with {first['length']:,} tokens of "
        f"context and {_span(last, 'seconds')} s with {last['length']:,}"
    )
    for row in steps.to_dict("records"):
        name = f"{row['calls']} step{'s' if row['calls'] > 1 else ''}"
        text += f"; with {name} of retrieval {_span(row, 'seconds')} s"
    return text + " (predicted)."


def _rates(table: pd.DataFrame, steps: int) -> str:
    long = table[(table["way"] == LONG) & table["rate"].notna()]
    pipeline = table[(table["way"] == PIPELINE) & (table["calls"] == steps) & table["rate"].notna()]
    if len(long) < 2 or pipeline.empty:
        return ""
    first, last, other = long.iloc[0], long.iloc[-1], pipeline.iloc[0]
    return (
        f"A full server answers {first['rate']:.3g} questions a second at {first['length']:,} "
        f"tokens, {last['rate']:.3g} at {last['length']:,} ({first['rate'] / last['rate']:,.0f} "
        f"times fewer), and {other['rate']:.3g} in {steps} steps."
    )


def _even(asked: Asked, steps: int) -> str:
    try:
        even = asked.even(steps)
    except DoesNotFit:  # `_times` says so
        return ""
    if even.tokens is None:
        return f"Reading takes less time than {steps} steps at every length that can be served."
    high = f"{even.high:,}" if even.high is not None else "no length at all"
    return (
        f"From {even.tokens:,} tokens on (95 %: {even.low:,} to {high}) reading takes longer than "
        f"{steps} steps."
    )


def _heights(points: pd.DataFrame) -> str:
    """How far published accuracy falls along each ladder of lengths."""
    said = []
    for name, rows in points[points["way"] == LONG].groupby("name", sort=False):
        ordered = rows.sort_values("length")
        first, last = ordered.iloc[0], ordered.iloc[-1]
        if len(ordered) > 1:
            said.append(
                f"{name} falls from {first['accuracy']:.1f} at {first['length']:,.0f} tokens to "
                f"{last['accuracy']:.1f} at {last['length']:,.0f}"
            )
    return f"Published accuracy: {'; '.join(said)}." if said else ""


def _span(row: object, name: str) -> str:
    low, value, high = (row[f"{name}{end}"] for end in ("_low", "", "_high"))
    return f"{value:.2g} ({low:.2g} to {high:.2g})"
