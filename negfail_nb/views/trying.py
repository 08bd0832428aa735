"""Trying out behind a button (01, 04): the profile's model plays a few questions; an arm is trained
once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from negfail_nb.settings import LiveSettings, TrainSettings
from negfail_nb.views.browse import Page, note
from negfail_nb.views.forms import form
from negfail_nb.views.starting import Cost, Starter, start_button
from negfail_nb.views.training import curve_table, draw_curves
from negfail_nb.views.trajectories import Browser, browse

if TYPE_CHECKING:
    from negfail_nb.training import TrainedRun
    from negfail_nb.walk import Walk

WATCHED = 3  # questions that are played to be watched
CALL_TOKENS = 400  # prompt of one call, at a guess; only for the estimate
NO_MODEL = "This profile's model is made from nothing, so it has nothing to play yet; choose profile = 'pocket'."
FROM_HUB = "{} comes from the hub and is not loaded just to watch it; choose profile = 'pocket', or a model's folder."
RETRAINED = (
    "budget",
    "epochs",
    "steps",
    "batch_tokens",
    "learning_rate",
)  # what leaves an arm's data as they are


def watch_live(walk: Walk) -> Starter | Page:
    """Return a button with which the profile's own model plays a few generated questions, to be
    browsed below.

    Where there is no model on this machine, a sentence says what to choose.
    """
    name = walk.profile.model.name
    if name not in walk.files():
        return note(FROM_HUB.format(name) if name else NO_MODEL)
    brief = replace(
        walk.profile.live, attempts=1, max_tokens=min(walk.profile.live.max_tokens, 128)
    )
    knobs = form(brief, names=("max_calls", "max_tokens", "results", "seed"))
    return start_button(
        lambda settings: _play(walk, settings), _playing_cost, knobs, f"Let {name} play"
    )


def _playing_cost(settings: LiveSettings) -> Cost:
    tokens = WATCHED * settings.max_calls * (CALL_TOKENS + settings.max_tokens)
    return Cost(minutes=1, tokens=tokens, money=0.0, note="at most, at a guess; on this machine")


def _play(walk: Walk, settings: LiveSettings) -> Browser:
    from negfail_nb.agents import collect
    from negfail_nb.agents import opening as agents

    tasks, tools = agents.find_tasks(
        "", "", WATCHED + 1, walk.profile.collect.seed, "heldout", walk.home
    )
    with TemporaryDirectory() as folder:
        model = agents.open_agent(walk.resolved())
        return browse(
            collect(model, tasks[1:], tools, settings, file=Path(folder) / "episodes.jsonl")
        )


def try_training(
    walk: Walk,
    trained: Mapping[str, TrainedRun],
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Starter:
    """Return a form and a button that train the last arm once more with other settings, beside the
    curve it had.

    The estimate comes from the tokens of the plan and from how fast the arm was trained here
    before.

    Parameters
    ----------
    walk, trained
        The walk, and what its ``train`` returned.
    changes
        What the parameters cell sets already; the line below the knobs keeps it.
    """
    arm = list(trained)[-1]
    knobs = form(walk.profile.train, changes, RETRAINED)

    def cost(settings: TrainSettings) -> Cost:
        from negfail_nb.training import plan

        planned = plan(walk.using(settings).arm_data(arm).train, settings)
        tokens = planned.steps * settings.batch_tokens
        speed = trained[arm].tokens / max(trained[arm].seconds, 1e-9)
        return Cost(
            minutes=tokens / speed / 60,
            tokens=tokens,
            money=0.0,
            note="at the speed of the run above",
        )

    return start_button(
        lambda settings: _train(walk, trained, arm, settings), cost, knobs, f"Train {arm}"
    )


def _train(walk: Walk, trained: Mapping[str, TrainedRun], arm: str, settings: TrainSettings) -> Any:
    from negfail_nb.training import TrainedRun

    again = TrainedRun.open(walk.using(settings).run(f"train-{arm}").path("model"))
    return draw_curves(curve_table({arm: trained[arm].history, f"{arm}, now": again.history}))
