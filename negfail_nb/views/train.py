"""04: what training will take and took, its curves, and an arm trained once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from negfail_nb.prefix import Rendered
from negfail_nb.runs import Place
from negfail_nb.settings import LoraSettings, ModelSettings, Profile, TrainSettings, describe
from negfail_nb.training import PREFERENCE_ARMS, Plan, TrainedRun, plan, train
from negfail_nb.views.figures import arm_title, look_of_model, new_figure, paper_style
from negfail_nb.views.forms import form
from negfail_nb.views.pages import readable
from negfail_nb.views.widgets import Cost, StartButton

# What leaves an arm's data as they are.
RETRAINED = ("budget", "epochs", "steps", "batch_tokens", "learning_rate")


def settings_table(profile: Profile, stages: str | Sequence[str] = ()) -> Styler:
    """Return the settings of a profile's stages with their whole help texts."""
    return readable(describe(profile, stages))


def plan_table(plans: Mapping[str, Plan]) -> pd.DataFrame:
    """Return one row per arm: what training it will take."""
    rows = [
        {
            "arm": arm_title(arm),
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
    """Return one row per arm: what training it took."""
    rows = [
        {
            "arm": arm_title(arm),
            "steps": run.steps,
            "tokens": run.tokens,
            "seconds": round(run.seconds),
            "tokens per second": round(_speed(run)),
            "loss, last tenth": _last(run.history["loss"]),
        }
        for arm, run in trained.items()
    ]
    return pd.DataFrame(rows)


def _last(loss: pd.Series) -> str:
    """Mean and standard deviation over the last tenth of the steps: one batch is noisy."""
    part = loss.tail(max(len(loss) // 10, 1))
    return f"{part.mean():.3f}" + (f" ± {part.std():.3f}" if len(part) > 1 else "")


def _speed(run: TrainedRun) -> float:
    return run.tokens / max(run.seconds, 1e-9)


def curve_table(histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the learning curves of all arms below each other, with columns ``arm`` and ``smooth``:
    a running mean.
    """
    parts = []
    for arm, history in histories.items():
        loss = history["loss"]
        window = max(len(history) // 12, 1)
        smooth = loss.rolling(window, min_periods=1, center=True).mean()
        parts.append(history.assign(arm=arm, smooth=smooth))
    return pd.concat(parts, ignore_index=True)


@paper_style
def draw_curves(table: pd.DataFrame) -> Figure:
    """Draw `curve_table`: loss per trained token against tokens seen, each step faint, the running
    mean on top.
    """
    figure, axes = new_figure(height=2.6)
    arms = table.groupby("arm", sort=False)
    for arm, rows in arms:
        look = look_of_model(str(arm))
        color, line = look["color"], look["linestyle"]
        seen = rows["tokens"] / 1e6
        axes.plot(seen, rows["loss"], color=color, linewidth=0.5, alpha=0.25)
        axes.plot(seen, rows["smooth"], color=color, linestyle=line, label=arm_title(arm))
    axes.set(xlabel="million tokens seen", ylabel="loss per trained token", title="Learning curves")
    axes.legend()
    return figure


def try_training(
    data: Mapping[str, Rendered],
    trained: Mapping[str, TrainedRun],
    settings: TrainSettings,
    model: ModelSettings,
    lora: LoraSettings,
    place: str | Path | Place,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> StartButton:
    """Return a form and a button that train the last arm once more with other settings, beside the
    curve it had.

    The estimate comes from the plan's tokens and from how fast the arm was trained before.

    Parameters
    ----------
    data, trained
        What the arms were trained on, and what came out. Arms that learn by preference are left
        out.
    settings, model, lora
        What the knobs show at first, and what is tuned how.
    place
        Where it is trained, as `negfail_nb.train` takes its ``folder``: best a place, where each
        plan has a folder of its own.
    changes
        What the parameters cell sets already; the line below the knobs keeps it.
    """
    arm = [name for name in trained if name in data and name not in PREFERENCE_ARMS][-1]
    before = trained[arm]

    def cost(chosen: TrainSettings) -> Cost:
        tokens = plan(data[arm], chosen).steps * chosen.batch_tokens
        around = max((before.run.manifest["seconds"] or 0.0) - before.seconds, 0.0)
        minutes = (tokens / _speed(before) + around) / 60
        note = "at the speed of the run above, its loading and saving included"
        return Cost(minutes=minutes, tokens=tokens, money=0.0, note=note)

    def again(chosen: TrainSettings) -> Figure:
        run = train(data[arm], chosen, model=model, lora=lora, folder=place)
        return draw_curves(curve_table({arm: before.history, f"{arm}, now": run.history}))

    return StartButton(
        again, cost, form(settings, names=RETRAINED, changes=changes), f"Train {arm}"
    )
