"""Studies of a sweep in pictures and tables: right numbers, honest intervals, every seed."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from html_text import text_of
from matplotlib.text import Text

from negfail_nb.conditions import paper_studies
from negfail_nb.evaluation import COMPARED, AgentScores, compare_agents
from negfail_nb.intervals import holm, mean_interval, power_table
from negfail_nb.settings import EvaluateSettings
from negfail_nb.swept import Swept
from negfail_nb.trajectory import Trajectory
from negfail_nb.views import (
    agent_table,
    compare_episodes,
    draw_agents,
    draw_study,
    show_agents,
    show_study,
    study_table,
)

QUICK = EvaluateSettings(resamples=400)
EASE = {"vanilla": 0.3, "nut": 0.2, "nat": 0.4, "nat-steps": 0.4, "weighted": 0.3}


def cell(condition, seed, questions=40, spread=0.05):
    """One training run: questions differ in difficulty, seeds in luck."""
    draw, hard = (
        np.random.default_rng([seed, len(condition.name)]),
        np.random.default_rng(1).normal(0, 0.2, questions),
    )
    right = draw.random(questions) < EASE[condition.arm] + hard + spread * draw.normal()
    turns = draw.integers(1, 6, questions)
    keys = {
        "study": condition.study,
        "condition": condition.name,
        "arm": condition.arm,
        "seed": seed,
    }
    values = {"em": right.astype(float), "turns": turns, "action_errors": draw.binomial(turns, 0.1)}
    return pd.DataFrame({**keys, "question_id": [f"q{i}" for i in range(questions)], **values})


def swept(seeds=5, **given):
    return Swept(
        pd.concat([cell(c, s, **given) for s in range(seeds) for c in paper_studies()]),
        pd.DataFrame(),
    )


@pytest.fixture(scope="module")
def results():
    return swept()


def texts(figure):
    return [t.get_text() for axes in figure.axes for t in axes.get_yticklabels()]


def test_numbers_are_those_of_the_episodes_in_percent(results):
    table = study_table(results, "arms", QUICK)
    rows = results.episodes[
        (results.episodes.study == "arms") & (results.episodes.condition == "nat")
    ]
    nat, seeds = (
        table[(table.condition == "nat") & (table.seed == "")].iloc[0],
        table[table.seed != ""],
    )
    assert nat.em == pytest.approx(100 * rows.em.mean())
    assert nat.action_error_rate == pytest.approx(100 * rows.action_errors.sum() / rows.turns.sum())
    assert seeds[(seeds.condition == "nat") & (seeds.seed == "3")].em.item() == pytest.approx(
        100 * rows[rows.seed == 3].em.mean()
    )
    assert (len(table), nat.questions, nat.seeds, nat.baseline) == (3 + 15, 40, 5, "vanilla")
    assert nat.em_difference == pytest.approx(nat.em - table.em[0])
    assert table.em_difference_low[0] == table.em_difference_high[0] == 0  # the baseline, to itself


def test_each_difference_has_its_p_value_as_it_is_and_corrected(results):
    table = study_table(results, "wordings", QUICK)
    p, corrected = table.em_difference_p, table.em_difference_p_holm
    assert p.notna().tolist() == [False, *[True] * 4, *[False] * (len(table) - 5)]
    assert corrected[1:5].tolist() == pytest.approx(holm(p[1:5]).tolist())
    assert (corrected[1:5] >= p[1:5]).all() and corrected[1:5].max() > p[1:5].max()
    apart = (table.em_difference_low > 0) | (table.em_difference_high < 0)
    clear = p[(p < 0.04) | (p > 0.06)]  # at the edge a draw decides
    assert (clear < 0.05).tolist() == apart[clear.index].tolist()
    page = show_study(table).html
    assert (
        "p, Holm" in page and page.count("target-aware") == 5
    )  # itself, and four compared with it


def test_conditions_are_compared_with_those_that_they_name():
    conditions = [c for c in paper_studies() if c.study == "successes"]
    rows = pd.concat([cell(c, s) for s in (0, 1) for c in conditions])
    cells = pd.DataFrame(
        [{"study": c.study, "condition": c.name, "against": c.against} for c in conditions]
    )
    table = study_table(Swept(rows, cells), "successes", QUICK)
    means = table[table.seed == ""].set_index("condition")
    assert means.baseline["nat 250"] == "vanilla 250"
    assert means.em_difference["nat 250"] == pytest.approx(
        means.em["nat 250"] - means.em["vanilla 250"]
    )
    assert means.em_difference_p.notna().sum() == 8, "four numbers, two arms against vanilla"


def test_with_one_seed_the_interval_is_the_bootstrap_over_questions():
    one = swept(seeds=1, questions=200)
    table, rows = study_table(one, "arms", EvaluateSettings(resamples=4000)), one.episodes
    expected = mean_interval(rows[(rows.study == "arms") & (rows.condition == "nut")].em.to_numpy())
    assert table[["em_low", "em_high"]].iloc[1].tolist() == pytest.approx(
        [100 * e for e in expected], abs=1.01
    )


def test_seeds_that_differ_widen_the_interval():
    steady, shaky = (study_table(swept(spread=s, questions=160), "arms", QUICK) for s in (0.0, 0.3))
    width = [(t.em_high - t.em_low)[:3].mean() for t in (steady, shaky)]
    assert width[1] > 1.5 * width[0]


def test_the_interval_of_two_crossed_sources_covers_what_it_says():
    """Of the mean of seed effects + question effects, about as often as the level; fewer seeds,
    less often.
    """
    draw, hits = np.random.default_rng(0), 0
    for _ in range(100):
        em = draw.normal(0, 1, (8, 1)) + draw.normal(0, 1, (1, 30))
        rows = (
            pd.DataFrame(em).stack().rename_axis(["seed", "question_id"]).rename("em").reset_index()
        )
        keys = {"study": "s", "condition": "c", "arm": "nat", "turns": 1, "action_errors": 0}
        table = study_table(Swept(rows.assign(**keys), pd.DataFrame()), "s", QUICK)
        hits += table.em_low[0] <= 0 <= table.em_high[0]
    assert 80 <= hits <= 99


@pytest.mark.parametrize("study", ["arms", "wordings", "quality"])
def test_conditions_without_a_number_are_rows_with_differences(results, study):
    table = study_table(results, study, QUICK)
    left, right = draw_study(table).axes
    assert len([t for t in left.get_yticklabels() if t.get_text()]) == (table.seed == "").sum()
    dots = [line for line in left.lines if line.get_fillstyle() == "none"]
    assert sorted(np.concatenate([d.get_xdata() for d in dots])) == pytest.approx(
        sorted(table.em[table.seed != ""])
    )
    assert left.get_title(loc="left") == "40 held-out questions, 5 seeds"
    assert right.get_xlabel().startswith("EM minus ") and table.x.isna().all()


@pytest.mark.parametrize(
    ("study", "numbers", "scale"),
    [("failures", [0, 240, 480], "linear"), ("successes", [60, 120, 250, 500], "log")],
)
def test_conditions_with_a_number_are_lines_along_it(results, study, numbers, scale):
    table = study_table(results, study, QUICK)
    (axes,) = draw_study(table, "action_error_rate").axes
    assert axes.get_xscale() == scale and axes.get_xticks().tolist() == numbers
    lines = [
        line for line in axes.lines if line.get_marker() in "os^" and line.get_fillstyle() != "none"
    ]
    looks = {(line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == table.arm.nunique(), "told apart without colour"
    dots = np.concatenate(
        [line.get_ydata() for line in axes.lines if line.get_fillstyle() == "none"]
    )
    assert sorted(dots) == pytest.approx(sorted(table.action_error_rate[table.seed != ""]))
    assert axes.get_xlabel() == f"{study} in training"


def test_an_arm_looks_the_same_in_every_study(results):
    colors = []
    for study in ("failures", "successes"):
        handles, labels = (
            draw_study(study_table(results, study, QUICK)).axes[0].get_legend_handles_labels()
        )
        colors.append(dict(zip(labels, (h.lines[0].get_color() for h in handles), strict=True)))
    assert (
        colors[0]["NAT (label)"] == colors[1]["NAT (label)"] and len(set(colors[1].values())) == 3
    )


def test_no_turns_and_one_question_are_drawn_without_an_interval():
    rows = cell(paper_studies()[0], 0, questions=1).assign(turns=0, action_errors=0)
    table = study_table(Swept(rows, pd.DataFrame()), "arms", QUICK)
    assert table[["em_low", "action_error_rate"]].isna().all(axis=None)
    assert texts(draw_study(table, "action_error_rate"))


def test_figures_name_the_model_that_was_tuned(results):
    named = replace(results, made=({"model": "HuggingFaceTB/SmolLM2-135M-Instruct"},))
    for study in ("arms", "failures"):
        table = study_table(named, study, QUICK)
        axes = draw_study(table).axes[0]
        title = axes.get_title(loc="left") or axes.get_title()
        assert title == "SmolLM2-135M-Instruct\n40 held-out questions, 5 seeds"


def test_what_could_be_seen_is_shown_in_points():
    table = power_table((300,), (1, 5), rate=0.3, discordant=0.21, seed_sd=0.0)
    seen = table[["cautious, points", "hopeful, points"]].to_numpy().tolist()
    assert seen == [[7.4, 7.4], [7.4, 3.3]], "the same with one seed"


def test_bad_input_is_named(results):
    with pytest.raises(
        ValueError, match="no study 'arm' in this sweep; there are arms, epochs, failures"
    ):
        study_table(results, "arm")
    cut = results.episodes.query("not (condition == 'nat' and seed == 4 and question_id == 'q7')")
    with pytest.raises(
        ValueError, match="condition 'nat' lacks 1 of 200 episodes, first seed 4, question q7"
    ):
        study_table(Swept(cut, results.cells), "arms")
    with pytest.raises(ValueError, match="value is 'f1'; use one of em, action_error_rate"):
        draw_study(study_table(results, "arms", QUICK), "f1")


def test_if_no_agent_was_asked_it_says_what_to_set():
    nobody = pd.DataFrame(columns=list(COMPARED))
    table = agent_table(nobody)
    assert table.empty and "em_low" in table
    for page in (show_agents(nobody, {}), compare_episodes({})):
        assert "agent_questions" in page.html
    assert "agent_questions" in draw_agents(table).axes[0].texts[0].get_text()


def test_an_empty_comparison_has_the_columns_of_a_full_one():
    from negfail_nb.evaluation import agent_scores

    runs = [
        Trajectory(id=f"q{i}", question_id=f"q{i}", question="?", scores={"em": 1.0, "f1": 1.0})
        for i in (0, 1)
    ]
    scores = {"vanilla": agent_scores(runs)}
    comparison = compare_agents(scores)
    assert list(comparison.columns) == list(COMPARED)
    assert "ended: finished" in show_agents(comparison, scores).html


def test_a_study_that_was_not_swept_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["negfail_nb.swept"], "PACKAGED", tmp_path / "none")
    assert "make experiment" in Swept.load().about
    table = study_table(Swept.load(), "wordings")
    assert "make experiment" in show_study(table).html
    assert "make experiment" in table["note"].item()
    assert any("make experiment" in text.get_text() for text in draw_study(table).findobj(Text))


def test_agents_asked_from_several_data_sets_are_shown_on_each():
    def agent(rights):
        rows = [(f"{name}-{n}", name) for name in ("svamp", "addsub") for n in range(4)]
        table = pd.DataFrame(
            {"id": [i for i, _ in rows], "question_id": [i for i, _ in rows], "attempt": 0}
        )
        table = table.assign(seed=0, em=[float(right) for right in rights], success=None, f1=0.0)
        table = table.assign(turns=2, action_errors=0, termination="finished", calls=2)
        return AgentScores(table.assign(prompt_tokens=9.0, completion_tokens=9.0, seconds=1.0))

    scores = {"vanilla": agent([1, 1, 0, 0, 0, 0, 0, 0]), "nat": agent([1, 1, 1, 0, 1, 0, 0, 0])}
    shown = text_of(show_agents(compare_agents(scores), scores))
    assert "EM, %, SVAMP (4)" in shown and "EM, %, AddSub (4)" in shown
    assert "75.0 25.0 to 100.0" in shown and "25.0 0.0 to" in shown
    one = {
        name: AgentScores(s.table[s.table["id"].str.startswith("svamp")])
        for name, s in scores.items()
    }
    assert "SVAMP" not in show_agents(compare_agents(one), one).html
