"""Small tables for the notebooks: what an arm's label says, what was rendered, planned and trained,
who is ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.io.formats.style import Styler

from negfail_nb.settings import Profile, describe
from negfail_nb.views.training import TITLES

if TYPE_CHECKING:
    from negfail_nb.training import Arm, Plan, TrainedRun


def settings_table(profile: Profile, stages: str | Sequence[str] = ()) -> Styler:
    """Return the settings of a profile's stages with their help texts, whole."""
    return _left(describe(profile, stages))


def arms_table(table: pd.DataFrame) -> Styler:
    """Return the comparison of arms with intervals in brackets."""
    rows = pd.DataFrame({"arm": [TITLES.get(arm, arm) for arm in table["arm"]]})
    for name, form in (("perplexity", "{:.2f}"), ("loss", "{:.4f}"), ("difference", "{:+.4f}")):
        spans = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        rows[name] = [
            f"{form.format(v)} [{form.format(low)}, {form.format(high)}]" for v, low, high in spans
        ]
    return _left(rows.join(table[["questions", "examples", "tokens"]]))


def _left(table: pd.DataFrame) -> Styler:
    style = table.style.hide(axis="index").set_properties(
        **{"text-align": "left", "white-space": "pre-wrap"}
    )
    return style.format(escape="html")


def label_table(arms: Iterable[Arm], question: str, task: str = "qa") -> Styler:
    """Return what each arm writes into the user turn: one row a class, best first."""
    rows = [
        (TITLES.get(arm.name, arm.name), name, arm.template.text(question, task, index))
        for arm in arms
        for index, name in enumerate(c.name for c in arm.template.classes)
    ]
    return _left(pd.DataFrame(rows, columns=["arm", "class", "user turn"]))


def rendered_table(data: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row an arm: trajectories, tokens, share of trained tokens, what was cut or
    skipped.
    """
    rows = []
    for arm, part in data.items():
        table = part.train.table()
        rows.append(
            {
                "arm": TITLES.get(arm, arm),
                "trajectories": len(table),
                "tokens": int(table["tokens"].sum()),
                "trained": f"{table['trained'].sum() / max(table['tokens'].sum(), 1):.0%}",
                "cut at a turn": int((table["truncated_turns"] > 0).sum()),
                "skipped": len(part.train.skipped),
                "held-out successes": len(part.heldout),
            }
        )
    return pd.DataFrame(rows)


def plan_table(plans: Mapping[str, Plan]) -> pd.DataFrame:
    """Return one row an arm: what training it will take."""
    rows = [
        {
            "arm": TITLES.get(arm, arm),
            "trajectories": plan.examples,
            "tokens": plan.tokens,
            "packed rows": plan.rows,
            "fill": f"{plan.fill:.0%}",
            "padding saved": f"{1 - plan.tokens / max(plan.padded_tokens, 1):.0%}",
            "steps": plan.steps,
        }
        for arm, plan in plans.items()
    ]
    return pd.DataFrame(rows)


def trained_table(trained: Mapping[str, TrainedRun]) -> pd.DataFrame:
    """Return one row an arm: what training it took."""
    rows = [
        {
            "arm": TITLES.get(arm, arm),
            "steps": run.steps,
            "tokens": run.tokens,
            "seconds": round(run.seconds),
            "tokens a second": round(run.tokens / max(run.seconds, 1e-9)),
            "last loss": round(float(run.history["loss"].iloc[-1]), 3),
        }
        for arm, run in trained.items()
    ]
    return pd.DataFrame(rows)


def verdict(table: pd.DataFrame) -> str:
    """Say which arm models held-out successes best, and whether the difference to the first arm is
    more than noise.
    """
    best, base = table.loc[table["perplexity"].idxmin()], table.iloc[0]
    name, first = TITLES.get(best["arm"], best["arm"]), TITLES.get(base["arm"], base["arm"])
    text = (
        f"On {best['examples']} held-out successes of {best['questions']} questions, {name} has the lowest perplexity: "
        f"{best['perplexity']:.3f} [{best['perplexity_low']:.3f}, {best['perplexity_high']:.3f}]."
    )
    if best["arm"] == base["arm"]:
        return text
    clear = (
        "does not include"
        if best["difference_low"] > 0 or best["difference_high"] < 0
        else "includes"
    )
    return text + (
        f" Its loss differs from {first} by {best['difference']:+.4f} "
        f"[{best['difference_low']:+.4f}, {best['difference_high']:+.4f}]; the interval {clear} 0."
    )
