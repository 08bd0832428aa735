"""Trying out behind a button: a model that plays, an arm that is trained once more; the estimate
comes first.
"""

import pytest

from negfail_nb import views
from negfail_nb.views.trajectories import Browser
from negfail_nb.walk import open_walk

TINY = {
    "collect": {"generate": 8, "attempts": 3},
    "model": {"name": "", "layers": 1, "width": 32, "heads": 2, "vocabulary": 400},
    "train": {
        "arms": ["vanilla", "nat"],
        "budget": "steps",
        "steps": 2,
        "batch_tokens": 512,
        "failures": 0,
    },
}


def test_the_model_plays_at_the_second_press_and_its_runs_are_browsed(tmp_path):
    starter = views.watch_live(open_walk("pocket", tmp_path))
    starter.knobs.knobs["max_calls"].value, starter.knobs.knobs["max_tokens"].value = 1, 8
    starter.button.click()
    assert "tokens, 0.00 USD" in starter.cost.value and starter.result is None
    starter.button.click()
    (browser,) = starter.shown.children
    assert isinstance(browser, Browser) and len(browser.runs) == 3
    assert all(len(t.messages) and t.source.model for t in browser.runs)
    assert not (tmp_path / "runs").exists(), "what is only watched leaves no run"


@pytest.mark.parametrize(
    ("name", "text"), [("", "made from nothing"), ("some/model", "some/model comes from the hub")]
)
def test_without_a_model_here_it_says_what_to_choose(tmp_path, name, text):
    page = views.watch_live(open_walk("pocket", tmp_path, {"model": {"name": name}}))
    assert text in page.html and "choose profile" in page.html


def test_an_arm_is_trained_once_more_beside_its_first_curve(tmp_path):
    walk = open_walk("pocket", tmp_path, TINY)
    trained = walk.train()
    starter = views.try_training(walk, trained, TINY)
    knobs = starter.knobs.knobs
    assert "data" not in knobs and "successes" not in knobs, "the arm's data stay"
    knobs["steps"].value = 3
    assert (
        "&quot;steps&quot;: 3" in starter.knobs.message.value
        and "&quot;generate&quot;: 8" in starter.knobs.message.value
    )
    starter.button.click()
    assert (
        "1,536 tokens" in starter.cost.value
        and "at the speed of the run above" in starter.cost.value
    )
    runs = tmp_path / "runs" / "pocket" / "train-nat"
    assert len(list(runs.iterdir())) == 1, "an estimate trains nothing"
    starter.button.click()
    assert len(list(runs.iterdir())) == 2
    labels = [t.get_text() for t in starter.result.axes[0].get_legend().get_texts()]
    assert labels == ["NAT (label)", "nat, now"]
