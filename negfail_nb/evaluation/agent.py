"""How well an agent does: EM and F1, action errors, endings and costs.

The measures are the paper's (arXiv 2402.11651, tables 2, 3 and 6). Every question has the same
weight, however often it was tried; an episode that crashed counts as answered wrongly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.agents.live import collect
from negfail_nb.agents.protocol import Model, Task
from negfail_nb.agents.tools import Tool
from negfail_nb.grading import grade
from negfail_nb.intervals import choose_questions
from negfail_nb.prefix.templates import Template
from negfail_nb.runs import NotWhole, Place, Run
from negfail_nb.settings import BudgetSettings, EvaluateSettings, LiveSettings
from negfail_nb.steps import read_steps
from negfail_nb.trajectory import Trajectory

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("negfail_nb")

COSTS = ("calls", "prompt_tokens", "completion_tokens", "seconds")


@dataclass(frozen=True, slots=True)
class AgentScores:
    """How an agent did on some questions.

    Attributes
    ----------
    table
        One row per episode: ``id``, ``question_id``, ``attempt``, ``seed`` (of the training run),
        ``em``, ``f1``, ``success``, ``termination``, ``turns``, ``action_errors`` (in how many of
        the turns), ``calls``, ``prompt_tokens``, ``completion_tokens``, ``seconds`` (NaN if the log
        does not say).
    missing
        Episodes that were not played, as the budget was spent.
    run
        The run folder that holds the episodes, if they have one.
    """

    table: pd.DataFrame
    missing: int = 0
    run: Run | None = None

    @property
    def complete(self) -> bool:
        """Whether all episodes are there."""
        return not self.missing

    @property
    def questions(self) -> pd.DataFrame:
        """One row per question, by id: mean ``em``, ``f1`` and costs of its episodes."""
        return self.table.groupby("question_id")[["em", "f1", *COSTS]].mean().sort_index()

    @property
    def em(self) -> float:
        """Exact match, 0 to 1: the mean over questions of the mean over their episodes."""
        return float(self.questions["em"].mean())

    @property
    def f1(self) -> float:
        """Token F1, 0 to 1, averaged like `em`; NaN if an episode has none."""
        return float(self.questions["f1"].mean(skipna=False))

    @property
    def success(self) -> float:
        """Share of the episodes that succeeded, among those whose outcome is known."""
        return float(self.table["success"].dropna().astype(float).mean())

    @property
    def action_error_rate(self) -> float:
        """Share of turns whose action did not parse, named no tool, or made its tool fail."""
        turns = self.table["turns"].sum()
        return float(self.table["action_errors"].sum() / turns) if turns else float("nan")

    @property
    def terminations(self) -> pd.Series:
        """Share of the episodes that ended in each way, most frequent first."""
        return self.table["termination"].value_counts(normalize=True)

    @property
    def costs(self) -> pd.Series:
        """Calls, tokens and seconds per episode, averaged like `em`; unknown costs do not count."""
        return self.questions[list(COSTS)].mean()

    def __repr__(self) -> str:
        t = self.table
        return (
            f"AgentScores(em={self.em:.3f}, f1={self.f1:.3f}, "
            f"action_error_rate={self.action_error_rate:.3f}, "
            f"questions={t['question_id'].nunique()}, episodes={len(t)}, "
            f"seeds={t['seed'].nunique()})"
        )


def agent_scores(trajectories: Iterable[Trajectory], seed: int = 0) -> AgentScores:
    """Score episodes, live or read from logs.

    Parameters
    ----------
    trajectories
        Episodes of one agent. EM and F1 are those of the log if it has them, else our grade of the
        answer, else (EM only) whether the log calls it a success.
    seed
        Of the training run that made the agent; `negfail_nb.evaluation.join_seeds` joins several.

    Raises
    ------
    ValueError
        If there are none, or an episode cannot be scored; the text names some.
    """
    import pandas as pd

    rows = [_row(trajectory, seed) for trajectory in trajectories]
    if not rows:
        raise ValueError(
            "no episodes to score: 0 were given; collect some, or check which logs were read"
        )
    unknown = [row["id"] for row in rows if row["em"] is None]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(rows)} episodes cannot be scored ({', '.join(unknown[:3])}): "
            "no reference answer, no EM and no success is known; give the questions' answers, or "
            "leave these episodes out"
        )
    table = pd.DataFrame(rows).astype(dict.fromkeys(("em", "f1", *COSTS), float))
    return AgentScores(table)


def evaluate(
    model: Model,
    tasks: Iterable[Task],
    tools: Sequence[Tool] = (),
    settings: EvaluateSettings = EvaluateSettings(),
    live: LiveSettings = LiveSettings(),
    *,
    template: Template | None = None,
    folder: str | Path | Place | None = None,
    file: str | Path | None = None,
    budget: BudgetSettings = BudgetSettings(),
    seed: int = 0,
    thoughts: str = "neither",
) -> AgentScores:
    """Let an agent answer held-out questions, live, and score it. Called again, it goes on.

    Parameters
    ----------
    model, tasks, tools, live, folder, file, budget, thoughts
        As for `negfail_nb.agents.live.collect`. Tasks need answers.
    settings
        ``max_questions`` chooses the same tasks for every arm.
    template
        The label template of an arm. Each question is then asked once, at
        ``settings.temperature``, under the arm's prompt of inference; else ``live`` decides.
    seed
        Of the training run that made the model.

    Raises
    ------
    ValueError
        If there are no tasks, or some have no answer; the text names them.
    SettingsChanged
        If the file or folder holds episodes that were played with other settings.
    NotWhole
        If the budget did not suffice for a single episode, or for all of a folder.
    """
    tasks = list(tasks)
    chosen = choose_questions((task.id for task in tasks), settings)
    asked = [task for task in tasks if task.id in chosen]
    if not asked:
        raise ValueError("no questions to evaluate on: 0 tasks were given")
    without = [task.id for task in asked if not task.answer]
    if without:
        raise ValueError(
            f"{len(without)} of {len(asked)} tasks have no answer ({', '.join(without[:3])}), so "
            "nothing can be graded"
        )
    if template is not None:
        asked = [replace(t, prompt=template.inference(t.question, t.task)) for t in asked]
        live = replace(live, attempts=1, temperatures=(settings.temperature,))
    places = {"folder": folder, "file": file}
    logs = collect(model, asked, tools, live, **places, budget=budget, thoughts=thoughts)
    reasons = "; ".join(problem.reason for problem in logs.problems) or "no reason is known"
    if not logs.trajectories:
        raise NotWhole(f"none of {logs.missing} episodes was played: {reasons}")
    if not logs.complete:
        counts = len(logs), len(logs) + logs.missing
        log.warning(
            "%d of %d episodes were played, and only these are scored: %s", *counts, reasons
        )
    return replace(agent_scores(logs, seed), missing=logs.missing, run=logs.run)


def _row(trajectory: Trajectory, seed: int) -> dict[str, Any]:
    ours = {}
    if trajectory.answer:
        ours = grade(trajectory.prediction, trajectory.answer, trajectory.task)
    success = None if trajectory.success is None else float(trajectory.success)
    # The log's own scores count, then our grade, then what the log calls a success.
    scores = {"em": success, "f1": None} | ours | dict(trajectory.scores)
    turns, errors = _actions(trajectory)
    usage = trajectory.usage
    return {
        "id": trajectory.id,
        "question_id": trajectory.question_id,
        "attempt": trajectory.source.attempt,
        "seed": seed,
        "em": scores["em"],
        "f1": scores["f1"],
        "success": trajectory.success,
        "termination": trajectory.termination,
        "turns": turns,
        "action_errors": errors,
        "calls": turns if usage.calls is None else usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "seconds": usage.seconds,
    }


def _actions(trajectory: Trajectory) -> tuple[int, int]:
    """Return how many turns the agent had, and how many of them hold an action error.

    The ending may show an error that no message does: some logs leave out a turn that did not
    parse.
    """
    found = read_steps(trajectory)
    turns = len(found)
    errors = sum(bool(step.error) for step in found)
    last = found[-1] if found else None
    if trajectory.termination not in ("parse_error", "tool_error") or (last and last.error):
        return turns, errors
    left_out = last is None or (trajectory.termination == "parse_error" and bool(last.actions))
    return turns + left_out, errors + 1
