"""Viewers: filters find what they say, only what is shown is rendered, every number is under the
pointer.
"""

import re

import ipywidgets as widgets
import pandas as pd
import pytest
from test_curves import ARMS, FAST, made
from test_views_studies import cell

from negfail_nb import views
from negfail_nb.conditions import paper_studies
from negfail_nb.curves import tradeoff
from negfail_nb.pocket import generate_logs
from negfail_nb.prefix import load_templates, render
from negfail_nb.quality import assess
from negfail_nb.settings import EvaluateSettings, ModelSettings, QualitySettings
from negfail_nb.swept import Swept
from negfail_nb.training import load_tokenizer
from negfail_nb.trajectory import Source, Trajectory
from negfail_nb.views.collect import NOTHING, PAGE
from negfail_nb.views.figures import arm_title, new_figure
from negfail_nb.views.pages import Spot, with_hover
from negfail_nb.views.prefix import show_tokens, tokens_of
from negfail_nb.views.tradeoff import NO_ARM, only_arms

SCRIPT = "<img src=x onerror=\"alert('x')\">"


@pytest.fixture(scope="module")
def logs():
    return generate_logs(24, 4, 0)


@pytest.fixture(scope="module")
def report(logs):
    return assess(logs, QualitySettings(cap_question=2))


def places(browser):
    return [value for _, value in browser.list.options]


def test_filters_find_what_they_say(logs, report):
    kind = next(k for k in report.kinds()["kind"] if report.examples(k, 1)["id"].size)
    browser = views.browse(logs, report, outcome="failure", kind=kind)
    wanted = {f.id for f in report.findings if kind in f.kinds and f.outcome == "failure"}
    assert {logs[i].id for i in browser.found} == wanted
    browser.controls["kind"].value = "any"
    assert len(browser.found) == sum(t.success is False for t in logs)
    word = logs[browser.found[0]].question.split()[-1]
    browser.controls["words"].value = word.upper()
    assert browser.found and all(word.lower() in logs[i].question.lower() for i in browser.found)


def test_the_funnel_is_a_filter_with_its_reasons(logs, report):
    removal = report.removed[0]
    browser = views.browse(logs, report, fate=removal.filter)
    assert {logs[i].id for i in browser.found} == {
        r.id for r in report.removed if r.filter == removal.filter
    }
    assert f"removed by {removal.filter}: " in browser.pane.value
    browser.controls["fate"].value = "kept"
    assert len(browser.found) == len(report.kept) and "removed by" not in browser.pane.value


def test_a_success_and_a_failure_of_one_question_stand_side_by_side(logs):
    browser = views.browse(logs, pairs=True)
    outcomes = {}
    for t in logs:
        outcomes.setdefault(t.question_id, set()).add(t.success)
    assert {logs[i].question_id for i in browser.found} == {
        q for q, found in outcomes.items() if {True, False} <= found
    }
    page = browser.pane.value
    assert page.count("<td") == 2 and page.index("<b>success</b>") < page.index("<b>failure</b>")


def test_the_field_steps_through_what_fits_and_the_list_follows(logs):
    browser = views.browse(logs, outcome="failure")
    shown = []
    for number in range(1, len(browser.found) + 1):
        browser.at.value = number
        shown.append(browser.list.value)
        assert logs[shown[-1]].question.split()[0] in browser.pane.value
    assert shown == browser.found
    browser.controls["outcome"].value = "success"
    assert browser.at.value == 1 and browser.list.value == browser.found[0]


def test_no_match_says_so(logs):
    browser = views.browse(logs, words="no such word anywhere")
    assert (
        browser.pane.value == NOTHING
        and browser.list.options == ()
        and "of 0;" in browser.count.value
    )


def test_thousands_of_runs_render_one_page_and_one_run():
    runs = [
        Trajectory(id=str(i), question_id=str(i % 700), question=f"who is {i}?", success=i % 3 == 0)
        for i in range(9_000)
    ]
    browser = views.browse(runs)
    assert len(browser.list.options) == PAGE and browser.at.max == 9_000
    browser.at.value = 8_951
    assert places(browser)[-1] == 8_999 and "who is 8950?" in browser.pane.value
    browser.list.value = 8_999
    assert (
        browser.at.value == 9_000
        and "who is 8999?" in browser.pane.value
        and len(browser.pane.value) < 2_000
    )
    assert len(str(browser.get_state())) < 20_000


def test_text_of_logs_is_text_in_the_browser_and_in_the_exported_page():
    run = Trajectory(
        id="a",
        question_id="a",
        question=SCRIPT,
        success=False,
        messages=({"role": "user", "content": SCRIPT},),
        source=Source(model=SCRIPT),
    )
    browser = views.browse([run])
    page = browser.pane.value + browser.count.value + browser._repr_mimebundle_()["text/html"]
    assert "<img" not in page and "&lt;img" in page


def test_an_error_while_browsing_is_shown_and_raised(logs, monkeypatch):
    browser = views.browse(logs)

    def fail(*_):
        raise RuntimeError("planted")

    monkeypatch.setattr("negfail_nb.views.collect.show_trajectory", fail)
    with pytest.raises(RuntimeError, match="planted"):
        browser.list.value = places(browser)[1]
    assert "RuntimeError: planted" in browser.pane.value


@pytest.fixture(scope="module")
def rendered(logs):
    tokenizer = load_tokenizer(
        ModelSettings(vocabulary=600), [m["content"] for t in logs for m in t.messages]
    )
    return render(logs[:4], load_templates()["target-aware"], tokenizer)


def test_every_token_is_shown_with_its_kind_and_counted(rendered):
    for index in range(len(rendered)):
        tokens, example = tokens_of(rendered, index), rendered[index]
        assert [t.id for t in tokens] == example.input_ids.tolist()
        assert [t.kind == "trained" for t in tokens] == example.trained.tolist()
        before, _, behind = example.label.partition(example.question)
        label = "".join(t.text for t in tokens if t.kind == "label")
        assert before.strip() in label and behind.strip() in label and example.question not in label
        page = show_tokens(rendered, index).html
        assert page.count("title=") == len(tokens)
        assert f">trained</span> {example.trained.sum():,} " in page


def test_tokens_are_told_apart_without_colour(rendered):
    page = show_tokens(rendered, 0).html
    looks = {
        kind: set(re.findall(rf'<span style="([^"]+)" title="{kind}', page))
        for kind in ("trained", "label", "masked")
    }
    plain = {
        kind: re.sub(r"(color|background):[^;]+;?|#\w+", "", "".join(found))
        for kind, found in looks.items()
    }
    assert (
        len(set(plain.values())) == 3 and "solid" in plain["trained"] and "bold" in plain["label"]
    )


def test_masks_of_every_arm_and_run_can_be_chosen(rendered):
    viewer = views.browse_masks({"nat": rendered})
    arm, run, token = viewer.children[0].children
    before = viewer.children[1].value
    run.value = 2
    assert viewer.children[1].value != before and rendered[2].id in viewer.children[1].value
    token.value = 50
    assert "shown are 50 to" in viewer.children[1].value and arm.value == "nat"


def test_a_sweep_is_explored_by_study_measure_and_seed():
    swept = Swept(
        pd.concat([cell(c, seed) for c in paper_studies() for seed in (0, 1)]), pd.DataFrame()
    )
    viewer = views.explore_studies(swept, EvaluateSettings(resamples=100))
    study, measure, *seeds = viewer.children[0].children
    first = viewer.children[1].value
    study.value = "failures"
    second = viewer.children[1].value
    assert first.startswith("<img") and second.startswith("<img") and first != second
    measure.value = "action_error_rate"
    assert viewer.children[1].value != second
    for seed in seeds:
        seed.value = False
    assert len(seeds) == 2 and "No seed is on" in viewer.children[1].value


def test_a_sweep_that_was_not_made_says_how_to_make_it():
    empty = Swept(pd.DataFrame(columns=["study", "condition", "arm", "seed"]), pd.DataFrame())
    assert views.explore_studies(empty).children[1].value.startswith("<img")


@pytest.fixture(scope="module")
def curve():
    arms = ARMS | {"long_context@4096": (14, 5.0, 4000)}
    return tradeoff(
        made({"retrieve_3" if arm == "best" else arm: numbers for arm, numbers in arms.items()}),
        FAST,
    )


def test_an_arm_that_is_off_is_gone_and_the_frontier_is_drawn_anew(curve):
    viewer = views.explore_tradeoff(curve)
    ticks = {
        c.description: c for c in viewer.children[0].children if isinstance(c, widgets.Checkbox)
    }
    pane = viewer.children[1]
    best = arm_title("retrieve_3")
    assert len(ticks) == len(curve.table) and f"<title>{best}\n" in pane.value
    assert f"beaten by {best}" in pane.value
    ticks[best].value = False
    assert f"<title>{best}\n" not in pane.value and f"beaten by {best}" not in pane.value
    rest = only_arms(curve, [a for a in curve.table["arm"] if a != "retrieve_3"]).frontier()
    assert rest.set_index("arm").on_frontier["long_context@4096"], "nothing beats it any more"
    for tick in ticks.values():
        tick.value = False
    assert NO_ARM in pane.value


def test_intervals_stay_when_arms_go(curve):
    alone = (
        only_arms(curve, ["cheap"]).frontier().set_index("arm").loc["cheap", ["em_low", "em_high"]]
    )
    among = curve.frontier().set_index("arm").loc["cheap", ["em_low", "em_high"]]
    assert alone.tolist() == among.tolist()
    with pytest.raises(ValueError, match="no arm x; it has oracle, cheap"):
        only_arms(curve, ["x"])


def test_what_stands_under_the_pointer_is_text(curve):
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1])
    page = with_hover(figure, [Spot(axes, 0.5, 0.5, SCRIPT)]).html
    assert "<img" not in page and "<title>&lt;img" in page and axes.get_xlim() == (-0.05, 1.05)
