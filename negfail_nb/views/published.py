"""07: what others published about long contexts, and one's own beside it.

Accuracy is in percent, times in seconds. Every number of the figure is in its table.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from negfail_nb.curves import Curve, literature_table
from negfail_nb.views.figures import (
    FULL_WIDTH,
    LONG,
    arm_name,
    length_axis,
    look_of,
    looks,
    new_figure,
    paper_style,
    plain_ticks,
)

OWN = "own long contexts"


def published_table(curve: Curve | None = None, measure: str = "sub_em") -> pd.DataFrame:
    """Return published points with their sources, and below them one's own long contexts, of which
    only the accuracy compares: seconds would be of another model.

    Parameters
    ----------
    curve, measure
        Of `negfail_nb.curves.tradeoff`, and what is taken of it; ``None``: published points alone.
    """
    every = literature_table()
    published = every[every["kind"] != "retrieval"].drop(columns="calls")
    if curve is None:
        return published
    long = curve.table[(curve.table["arm"].map(arm_name) == LONG) & curve.table[measure].notna()]
    own = pd.DataFrame({"kind": "accuracy", "length": long["length"], "value": 100 * long[measure]})
    own = own.assign(name=OWN)
    return pd.concat([published, own], ignore_index=True) if len(own) else published


@paper_style
def draw_published(table: pd.DataFrame, questions: int = 0) -> Figure:
    """Draw `published_table` against the length, a panel per kind, one's own long contexts on top.

    Parameters
    ----------
    table
        Of `published_table`.
    questions
        Of how many questions one's own points are; for the caption.
    """
    ours = table["name"] == OWN
    published = table[~ours]
    kinds = list(dict.fromkeys(table["kind"]))
    figure, panels = new_figure(FULL_WIDTH, 3.0, len(kinds), squeeze=False)
    for panel, kind in zip(panels[0], kinds, strict=True):
        part = published[published["kind"] == kind]
        for (name, rows), look in zip(part.groupby("name", sort=False), looks(), strict=False):
            look |= {"color": "#666666", "alpha": 0.9, "label": name}
            panel.plot(rows["length"], rows["value"], **look)
        own = table[ours & (table["kind"] == kind)].sort_values("length")
        if len(own):
            panel.plot(own["length"], own["value"], label=OWN, **look_of(LONG), markersize=6)
        lengths = set(part["length"]) if kind == "accuracy" else {16_384, 32_768, 65_536, 131_072}
        length_axis(panel, sorted(lengths | set(own["length"])))
        panel.set_ylabel("accuracy, %" if kind == "accuracy" else "seconds a question")
        if kind == "seconds":
            panel.set_yscale("log")
            plain_ticks(panel.yaxis)
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=7, handlelength=2.8)
    lines = [f"Own points: {questions:,} questions."] if questions else []
    for row in published.drop_duplicates("name").itertuples(index=False):
        lines.append(f"{row.name}: {row.measure}. {row.source}; {row.read}.")
    figure.caption = "\n".join(lines)
    return figure
