"""Which question, which agent, which length: controls above the pages of rooms 05 and 06."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ipywidgets as widgets

from negfail_nb.benchmarking import Benchmark, PassagePool
from negfail_nb.trajectory import read_trajectories
from negfail_nb.views.agents import NOT_ASKED
from negfail_nb.views.benchmark_pages import show_answers, show_context
from negfail_nb.views.browse import Explorer, Page, explore, note, show_trajectory, side_by_side

if TYPE_CHECKING:
    from negfail_nb.walk import Walk

LISTED = 200  # questions that a list offers
NO_LONG_CONTEXT = "No long context was asked; put long_context among benchmark.arms."
_WIDE = {"width": "95%"}


def compare_episodes(walk: Walk) -> Explorer | Page:
    """Return two agents (05) at one question, side by side; where no agent was asked, what to set."""
    names = walk.agent_names()
    if not names:
        return note(NOT_ASKED)
    files = {name: walk.run(f"agent-{name}").path("episodes.jsonl") for name in names}
    episodes = {
        name: {t.question: t for t in read_trajectories(file)} for name, file in files.items()
    }
    return explore(
        lambda left, right, question: side_by_side(
            *(show_trajectory(episodes[agent][question]) for agent in (left, right))
        ),
        left=widgets.Dropdown(options=names, value=names[0], description="left"),
        right=widgets.Dropdown(options=names, value=names[-1], description="right"),
        question=widgets.Dropdown(
            options=list(episodes[names[0]])[:LISTED], description="question", layout=_WIDE
        ),
    )


def browse_contexts(bench: Benchmark, pool: PassagePool) -> Explorer | Page:
    """Return the passages of a long context (06): choose the question and the length."""
    long = {(a.question_id, a.target): a for a in bench.answers if a.arm == "long_context"}
    if not long:
        return note(NO_LONG_CONTEXT)
    by_id = {q.id: q for q in bench.questions}
    listed = {q.question: q.id for q in bench.questions[:LISTED]}
    return explore(
        lambda question, length: show_context(long[question, length], by_id[question], pool),
        question=widgets.Dropdown(options=listed, description="question", layout=_WIDE),
        length=widgets.Dropdown(
            options=sorted({target for _, target in long}), description="tokens"
        ),
    )


def browse_answers(bench: Benchmark) -> Explorer:
    """Return one question under every arm (06); questions on which the arms disagree come first in
    the list.
    """
    spread = bench.scores.table.groupby("question_id")["em"].std().fillna(0)
    order = spread.sort_values(ascending=False, kind="stable").index[:LISTED]
    by_id = {q.id: q.question for q in bench.questions}
    return explore(
        lambda question: show_answers(bench, question),
        question=widgets.Dropdown(
            options={by_id[i]: i for i in order}, description="question", layout=_WIDE
        ),
    )
