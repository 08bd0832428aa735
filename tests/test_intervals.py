"""p-values, their correction, and which difference could be seen: against simulated data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.intervals import bootstrap_p, detectable, holm, mcnemar

PROBABILITIES = st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=12)


@given(PROBABILITIES)
def test_holm_is_never_below_the_p_value_nor_above_bonferronis(p):
    p = np.array(p, dtype=float)
    known = ~np.isnan(p)
    corrected = holm(p)
    assert (np.isnan(corrected) == ~known).all()
    assert (corrected[known] >= p[known]).all() and (corrected[known] <= 1).all()
    assert (corrected[known] <= known.sum() * p[known] + 1e-12).all()
    ranks = np.argsort(p[known], kind="stable")
    assert (np.diff(corrected[known][ranks]) >= 0).all(), "the order of the p-values stays"


def test_holm_as_in_its_paper():
    """The smallest times four, the next times three, ..; never less than the one before."""
    assert holm([0.01, 0.02, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.04, 0.04, 0.02])


def test_holm_calls_no_more_differences_than_it_says_where_there_are_none():
    draw = np.random.default_rng(0)
    wrong = sum(holm(draw.random(8)).min() <= 0.05 for _ in range(2000))
    assert 0.03 < wrong / 2000 < 0.065


def test_a_bootstrap_p_value_is_the_share_on_the_other_side_of_0_twice():
    assert bootstrap_p(np.array([-1.0] * 10 + [1.0] * 989)) == pytest.approx(2 * 11 / 1000)
    assert bootstrap_p(np.ones(999)) == pytest.approx(2 / 1000), "never 0: it was drawn so often"
    assert bootstrap_p(np.zeros(999)) == 1.0
    assert bootstrap_p(np.array([-1.0, np.nan, 1.0, 2.0])) == 1.0
    assert np.isnan(bootstrap_p(np.array([np.nan, 1.0])))


def answered(draw, questions, discordant, difference):
    """Which questions each of two arms answers, drawn with this discordance and difference."""
    only = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    kind = draw.choice(3, questions, p=only)
    both = draw.random(questions) < 0.3
    return (kind == 0) | ((kind == 2) & both), (kind == 1) | ((kind == 2) & both)


def test_the_difference_that_is_seen_in_four_of_five_studies():
    """300 questions, one seed: McNemar's exact test sees it about so often."""
    draw = np.random.default_rng(0)
    difference = detectable(300, rate=0.3, discordant=0.25)
    seen = [mcnemar(*answered(draw, 300, 0.25, difference)) < 0.05 for _ in range(600)]
    assert 0.74 <= np.mean(seen) <= 0.85
    none = [mcnemar(*answered(draw, 300, 0.25, 0.0)) < 0.05 for _ in range(600)]
    assert np.mean(none) <= 0.06


@pytest.mark.parametrize("repeated", [1.0, 0.0])
def test_seeds_and_their_spread_count_as_simulated(repeated):
    """Five runs per arm: the difference is seen about so often by a test that knows the spread."""
    draw = np.random.default_rng(1)
    questions, seeds, discordant, spread = 200, 5, 0.2, 0.02
    difference = detectable(questions, seeds, 0.3, discordant, spread, repeated)

    def measured(truth):
        runs = draw.normal(0, spread, (seeds, 2)) @ [1, -1]
        asked = [answered(draw, questions, discordant, truth) for _ in range(seeds)]
        if repeated:
            asked = asked[:1] * seeds
        ours, theirs = np.array(asked, dtype=float).mean(axis=(0, 2))
        return ours - theirs + runs.mean()

    edge = np.quantile([abs(measured(0.0)) for _ in range(2000)], 0.95)
    seen = np.mean([abs(measured(difference)) > edge for _ in range(2000)])
    assert 0.76 <= seen <= 0.84


def test_more_questions_and_seeds_see_smaller_differences_and_bad_input_is_named():
    assert detectable(1200, discordant=0.2) == pytest.approx(detectable(300, discordant=0.2) / 2)
    assert detectable(300, 5, 0.3, 0.2, 0.02, 0.0) < detectable(300, 1, 0.3, 0.2, 0.02, 0.0)
    assert detectable(300, rate=0.3) > detectable(300, rate=0.3, discordant=0.25)
    with pytest.raises(ValueError, match="0 questions and 1 seeds"):
        detectable(0)
    with pytest.raises(ValueError, match="discordant is 0.5: two arms that answer 0.2 .* 0 to 0.4"):
        detectable(300, rate=0.2, discordant=0.5)
