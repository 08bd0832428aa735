"""Pictures of rendering (03), training (04) and evaluation (05): the table of numbers, and its drawing."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from negfail_nb.views.figures import COLORS, LINES, MARKERS, new_figure

TITLES = {"vanilla": "vanilla (successes)", "nut": "NUT (no label)", "nat": "NAT (label)", "nat-k": "NAT-k (classes)"}


def length_table(lengths: Mapping[str, pd.Series], bins: int = 40) -> pd.DataFrame:
    """Return a histogram of tokens a trajectory, one column of counts an arm.

    Parameters
    ----------
    lengths
        Tokens of each trajectory, by arm.
    bins
        Number of equal bins from 0 to the longest trajectory.
    """
    longest = max((int(s.max()) for s in lengths.values() if len(s)), default=1)
    edges = [round(i * longest / bins) for i in range(bins + 1)]
    table = pd.DataFrame({"from": edges[:-1], "to": edges[1:]})
    for arm, series in lengths.items():
        table[arm] = pd.cut(series, sorted(set(edges)), include_lowest=True).value_counts(sort=False).to_numpy()
    return table


def draw_lengths(table: pd.DataFrame, note: str = "") -> Figure:
    """Draw `length_table`; ``note`` says what packing gains."""
    figure, axes = new_figure(height=2.3)
    for arm, color, line in zip(table.columns[2:], COLORS, LINES, strict=False):
        axes.stairs(table[arm], [*table["from"], table["to"].iloc[-1]], color=color, linestyle=line, label=arm)
    axes.set(xlabel="tokens of a trajectory", ylabel="trajectories", title="Lengths differ: packing saves the padding")
    axes.legend(title=note or None, loc="upper right", alignment="right")
    return figure


def curve_table(histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the learning curves of all arms below each other, with a column ``arm``."""
    return pd.concat([h.assign(arm=arm) for arm, h in histories.items()], ignore_index=True)


def draw_curves(table: pd.DataFrame) -> Figure:
    """Draw `curve_table`: loss per trained token against tokens seen."""
    figure, axes = new_figure(height=2.6)
    for (arm, rows), color, line in zip(table.groupby("arm", sort=False), COLORS, LINES, strict=False):
        axes.plot(rows["tokens"] / 1e6, rows["loss"], color=color, linestyle=line, label=TITLES.get(arm, arm))
    axes.set(xlabel="million tokens seen", ylabel="loss per trained token", title="Learning curves")
    axes.legend()
    return figure


def draw_arms(table: pd.DataFrame) -> Figure:
    """Draw the comparison of arms on held-out successes, with intervals.

    Left: perplexity per assistant token. Right: the paired difference in loss to the first arm; left of 0 is better.
    """
    figure, (left, right) = new_figure(width=6.75, height=0.9 + 0.4 * len(table), columns=2, sharey=True)
    rows = list(reversed(range(len(table))))
    for panel, value, low, high in (
        (left, "perplexity", "perplexity_low", "perplexity_high"),
        (right, "difference", "difference_low", "difference_high"),
    ):
        for row, (_, arm), color, marker in zip(rows, table.iterrows(), COLORS, MARKERS, strict=False):
            error = [[max(arm[value] - arm[low], 0)], [max(arm[high] - arm[value], 0)]]
            panel.errorbar(arm[value], row, xerr=error, fmt=marker, color=color, capsize=3)
            panel.annotate(f"{arm[value]:.3f}", (arm[value], row), (0, 6), textcoords="offset points", ha="center", fontsize=7)
        panel.grid(visible=False, axis="y")
    left.set_yticks(rows, [TITLES.get(a, a) for a in table["arm"]])
    left.set(xlabel="perplexity per assistant token (lower is better)", title="Held-out successes", ylim=(-0.6, len(table) - 0.2))
    right.axvline(0, color="#888888", linewidth=0.8)
    right.set(xlabel=f"difference in loss to {table['arm'].iloc[0]}", title="Paired, by question")
    return figure
