"""Pictures of rendering (03), training (04) and evaluation (05): the table of numbers, and its
drawing.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from negfail_nb.views.figures import COLORS, LINES, MARKERS, new_figure, paper_style

TITLES = {
    "vanilla": "vanilla (successes)",
    "nut": "NUT (no label)",
    "nat": "NAT (label)",
    "nat-k": "NAT-k (classes)",
    "dpo": "DPO (pairs)",
    "kto": "KTO (runs)",
}


def length_table(rendered: pd.DataFrame, bins: int = 40) -> pd.DataFrame:
    """Return a histogram of tokens a trajectory, one column of counts a class.

    Parameters
    ----------
    rendered
        ``data.table()`` of what was rendered: columns ``class`` and ``tokens``.
    bins
        Number of equal bins from 0 to the longest trajectory.
    """
    edges = np.unique(np.linspace(0, rendered["tokens"].max(), bins + 1).round().astype(int))
    table = pd.DataFrame({"from": edges[:-1], "to": edges[1:]})
    for name in sorted(rendered["class"].unique()):
        table[name] = np.histogram(rendered.loc[rendered["class"] == name, "tokens"], edges)[0]
    return table


@paper_style()
def draw_lengths(table: pd.DataFrame, gain: float) -> Figure:
    """Draw `length_table`, stacked; ``gain`` is how many times more tokens padded batches would
    process.
    """
    figure, axes = new_figure(height=2.3)
    below = np.zeros(len(table))
    looks = zip(cycle(COLORS), cycle(("", "///", "...", "xxx", "--")), strict=True)
    for name, (color, hatch) in zip(table.columns[2:], looks, strict=False):
        width = table["to"] - table["from"]
        axes.bar(
            table["from"],
            table[name],
            width,
            below,
            align="edge",
            color=color,
            hatch=hatch,
            edgecolor="white",
            label=name,
        )
        below = below + table[name].to_numpy()
    axes.set(
        xlabel="tokens of a trajectory",
        ylabel="trajectories",
        title=f"Padded to batches, {gain:.1f} times the tokens",
    )
    axes.legend(title="label")
    return figure


def curve_table(histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the learning curves of all arms below each other, with columns ``arm`` and ``smooth``:
    a running mean.
    """
    return pd.concat(
        [h.assign(arm=arm, smooth=_smooth(h["loss"])) for arm, h in histories.items()],
        ignore_index=True,
    )


@paper_style()
def draw_curves(table: pd.DataFrame) -> Figure:
    """Draw `curve_table`: loss per trained token against tokens seen, each step faint, the running
    mean on top.
    """
    figure, axes = new_figure(height=2.6)
    for (arm, rows), color, line in zip(
        table.groupby("arm", sort=False), COLORS, LINES, strict=False
    ):
        axes.plot(rows["tokens"] / 1e6, rows["loss"], color=color, linewidth=0.5, alpha=0.25)
        axes.plot(
            rows["tokens"] / 1e6,
            rows["smooth"],
            color=color,
            linestyle=line,
            label=TITLES.get(arm, arm),
        )
    axes.set(xlabel="million tokens seen", ylabel="loss per trained token", title="Learning curves")
    axes.legend()
    return figure


def _smooth(loss: pd.Series) -> pd.Series:
    return loss.rolling(max(len(loss) // 12, 1), min_periods=1, center=True).mean()


@paper_style()
def draw_arms(table: pd.DataFrame) -> Figure:
    """Draw the comparison of arms on held-out successes, with intervals.

    Left: perplexity per assistant token. Right: the paired difference in loss to the first arm;
    left of 0 is better.
    """
    figure, (left, right) = new_figure(
        width=6.75, height=0.9 + 0.4 * len(table), columns=2, sharey=True
    )
    rows = list(reversed(range(len(table))))
    for panel, value, low, high in (
        (left, "perplexity", "perplexity_low", "perplexity_high"),
        (right, "difference", "difference_low", "difference_high"),
    ):
        for row, (_, arm), color, marker in zip(
            rows, table.iterrows(), COLORS, MARKERS, strict=False
        ):
            error = [[max(arm[value] - arm[low], 0)], [max(arm[high] - arm[value], 0)]]
            panel.errorbar(arm[value], row, xerr=error, fmt=marker, color=color, capsize=3)
            panel.annotate(
                f"{arm[value]:.3f}",
                (arm[value], row),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
        panel.grid(visible=False, axis="y")
    left.set_yticks(rows, [TITLES.get(a, a) for a in table["arm"]])
    left.set(
        xlabel="perplexity (lower is better)",
        title="Held-out successes",
        ylim=(-0.6, len(table) - 0.2),
    )
    right.axvline(0, color="#888888", linewidth=0.8)
    right.set(xlabel=f"difference in loss to {table['arm'].iloc[0]}", title="Paired, by question")
    return figure
