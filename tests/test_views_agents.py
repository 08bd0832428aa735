"""Agents in pictures and tables: every number is there, and arms are told apart without colour."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from html_text import text_of

from negfail_nb.agents.live import EPISODES
from negfail_nb.evaluation import agent_scores, compare_agents, join_seeds, seed_table
from negfail_nb.runs import start
from negfail_nb.settings import EvaluateSettings
from negfail_nb.trajectory import Trajectory, write_trajectories
from negfail_nb.views.evaluate import agent_table, compare_episodes, draw_agents, show_agents

ARMS = ("vanilla", "nut", "nat", "nat-k", "dpo", "kto")


def scores(right, seed, questions=40):
    draw = np.random.default_rng([seed, int(100 * right)])
    rows = [
        Trajectory(
            id=f"q{i}",
            question_id=f"q{i}",
            question="?",
            scores={"em": float(em), "f1": float(em)},
            success=em,
        )
        for i, em in enumerate((draw.random(questions) < right).tolist())
    ]
    return agent_scores(rows, seed)


@pytest.fixture(scope="module")
def measured():
    arms = {
        arm: join_seeds([scores(0.3 + 0.1 * i, seed) for seed in range(5)])
        for i, arm in enumerate(ARMS)
    }
    return compare_agents(arms, EvaluateSettings(resamples=200)), seed_table(arms)


def test_the_plotted_table_has_every_arm_and_seed_in_percent(measured):
    comparison, seeds = measured
    table = agent_table(comparison, seeds)
    assert len(table) == 6 + 30 and set(table.baseline) == {"vanilla"}
    assert table.em[:6].tolist() == pytest.approx((100 * comparison.em).tolist())
    assert table[table.seed == "3"].em.tolist() == pytest.approx(
        (100 * seeds[seeds.seed == 3].em).tolist()
    )
    assert len(agent_table(comparison)) == 6


def test_the_figure_shows_intervals_and_one_dot_a_seed(measured):
    table = agent_table(*measured)
    left, right = draw_agents(table).axes
    dots = [line for line in left.lines if line.get_fillstyle() == "none"]
    assert sorted(np.concatenate([d.get_xdata() for d in dots])) == pytest.approx(
        sorted(table.em[6:])
    )
    markers = [
        line.get_marker()
        for line in left.lines
        if line not in dots and line.get_marker() in "os^DvPX"
    ]
    assert markers == ["o", "s", "^", "D", "v", "P"]
    ends = left.collections[1].get_segments()[0][:, 0]
    assert ends == pytest.approx(table.loc[1, ["em_low", "em_high"]].to_list())
    assert "DPO (pairs)" in [label.get_text() for label in left.get_yticklabels()]
    assert right.get_xlabel() == "EM minus vanilla (successes), points"


def test_nothing_is_drawn_over_anything_else(measured):
    figure = draw_agents(agent_table(*measured))
    figure.canvas.draw()
    left, right = figure.axes
    for panel in (left, right):
        boxes = [text.get_window_extent() for text in panel.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    # dots of seeds with equal EM lie side by side, and clear of the arm's own line
    spots = [
        (round(x, 1), round(y, 3))
        for d in left.lines
        if d.get_fillstyle() == "none"
        for x, y in d.get_xydata()
    ]
    assert len(set(spots)) == len(spots) == 30


def test_the_figure_is_drawn_without_seeds_and_without_intervals():
    comparison = compare_agents({"nat": scores(0.5, 0, questions=1)})
    left, _ = draw_agents(agent_table(comparison)).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["NAT (label)"]


def test_the_table_says_intervals_tests_and_costs_also_after_a_file(measured, tmp_path):
    comparison, _ = measured
    comparison.to_csv(tmp_path / "c.csv", index=False)
    for table in (comparison, pd.read_csv(tmp_path / "c.csv")):
        page = text_of(show_agents(table, {"nat": scores(0.5, 0)}))
        row = comparison.iloc[4]
        assert f"{100 * row.em:.1f} {100 * row.em_low:.1f} to {100 * row.em_high:.1f}" in page
        assert (
            "sign flip" in page
            and "EM minus vanilla, points" in page
            and "of 5" in page
            and "nan" not in page
        )
        assert len(agent_table(table)) == 6


def test_two_agents_are_compared_at_one_question(tmp_path):
    def run(agent, n):
        said = ({"role": "assistant", "content": f"{agent} says {n}"},)
        return Trajectory(id=f"q{n}", question_id=f"q{n}", question=f"who {n}?", messages=said)

    scores = {}
    for agent in ("nut", "nat"):
        made = start(tmp_path / agent, EvaluateSettings())
        write_trajectories(made.path(EPISODES), [run(agent, n) for n in range(3)])
        scores[agent] = SimpleNamespace(run=made)
    shown = compare_episodes(scores)
    assert "nut says 0" in shown.children[1].value and "nat says 0" in shown.children[1].value
    left, _, question = shown.children[0].children
    left.value, question.value = "nat", "who 2?"
    assert shown.children[1].value.count("nat says 2") == 2
