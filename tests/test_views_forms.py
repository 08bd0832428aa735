"""Forms: every settings class of the package round-trips, bad values are named, and nothing starts
by itself.
"""

import ast
import importlib
import json
import math
import pkgutil

import ipywidgets as widgets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import negfail_nb
from negfail_nb.project import open_project
from negfail_nb.settings import (
    CollectSettings,
    EvaluateSettings,
    PrefixSettings,
    Profile,
    QualitySettings,
    TrainSettings,
    get_profile,
    stage_of,
)
from negfail_nb.settings.checked import Checked
from negfail_nb.views import form
from negfail_nb.views.forms import Ticks
from negfail_nb.views.forms import _known as offered
from negfail_nb.views.widgets import Cost, StartButton
from recipes.pocket_llama.curriculum import PretrainSettings


def all_settings():
    for module in pkgutil.walk_packages(negfail_nb.__path__, "negfail_nb."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return sorted(Checked.__subclasses__(), key=lambda kind: kind.__name__)


SETTINGS = all_settings()


def values(field, settings):
    bounds, kind = field.metadata, type(field.default)
    if known := offered(field, settings):
        one = st.sampled_from(known)
        return st.lists(one, max_size=3, unique=True).map(tuple) if kind is tuple else one
    if bounds.get("choices") is not None:
        return st.sampled_from(bounds["choices"])
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    if kind is tuple:
        items = {str: texts, int: st.integers(1, 10**6), float: st.floats(0.001, 1e6)}
        return (
            st.lists(items[bounds["items"]], max_size=4).map(tuple)
            if bounds["items"] in items
            else st.just(())
        )
    low, high = bounds.get("low"), bounds.get("high")
    if kind is float:
        return st.floats(low, min(high, 1e300), allow_nan=False)
    return {bool: st.booleans(), int: st.integers(low, high), str: texts}[kind]


@st.composite
def objects(draw):
    """Any settings object that its class takes; rules over several fields are tried, and dropped
    where they refuse.
    """
    kind = draw(st.sampled_from(SETTINGS))
    fields = kind.__dataclass_fields__
    chosen = draw(
        st.fixed_dictionaries({}, optional={name: values(f, kind()) for name, f in fields.items()})
    )
    try:
        return kind(**chosen)
    except ValueError:
        return kind()


@settings(max_examples=150, deadline=None)
@given(objects())
def test_every_settings_object_comes_back_from_its_form(given):
    assert form(given).value == given


@settings(max_examples=40, deadline=None)
@given(objects())
def test_the_line_is_code_that_makes_the_same_settings(given):
    stage = stage_of(given)
    default = getattr(Profile(name="x"), stage) if stage else type(given)()  # a profile has its own
    knobs = form(default)
    for name, knob in form(given).knobs.items():
        knobs.knobs[name].value = knob.value
    if stage:
        changes = ast.literal_eval(knobs.code.removeprefix("changes = "))
        assert getattr(Profile(name="x").change(**changes), stage) == given
    elif math.inf not in [getattr(given, name) for name in given.__dataclass_fields__]:
        assert eval(knobs.code, {type(given).__name__: type(given)}) == given


def test_there_is_one_form_for_all_settings():
    assert len(SETTINGS) >= 20 and {stage_of(kind()) for kind in SETTINGS} >= {
        "collect",
        "train",
        "retrieval",
    }


def test_the_line_keeps_what_the_parameters_cell_sets():
    changes = {"train": {"epochs": 3.0}, "collect": {"generate": 50}}
    knobs = form(get_profile("pocket").change(**changes).train, changes=changes)
    assert ast.literal_eval(knobs.code.removeprefix("changes = ")) == changes
    knobs.knobs["seed"].value = 7
    assert ast.literal_eval(knobs.code.removeprefix("changes = ")) == {
        "train": {"epochs": 3.0, "seed": 7},
        "collect": {"generate": 50},
    }
    assert "&quot;seed&quot;: 7" in knobs.message.value


def test_a_project_goes_on_with_what_the_form_says(tmp_path):
    project = open_project("pocket", tmp_path)
    knobs = form(project.profile.quality)
    knobs.knobs["min_score"].value = 0.25
    changed = project.using(knobs.value, TrainSettings(seed=4))
    assert (changed.quality.min_score, changed.train.seed) == (0.25, 4)
    assert changed.collect == project.collect and project.quality.min_score == 0.0
    with pytest.raises(ValueError, match="a profile has no PretrainSettings"):
        project.using(PretrainSettings())


def test_knobs_suit_their_fields():
    knobs = form(TrainSettings()).knobs
    assert (
        isinstance(knobs["budget"], widgets.Dropdown)
        and list(knobs["budget"].options)[1][1] == "steps"
    )
    assert isinstance(knobs["epochs"], widgets.FloatText) and isinstance(knobs["arms"], Ticks)
    assert isinstance(form(QualitySettings()).knobs["check_labels"], widgets.Checkbox)
    slider = form(QualitySettings()).knobs["near_duplicate"]
    assert isinstance(slider, widgets.FloatSlider) and (slider.min, slider.max) == (0.0, 1.0)
    assert not slider.continuous_update
    assert isinstance(knobs["learning_rate"], widgets.FloatText), (
        "steps of a slider are too coarse for it"
    )


def test_a_list_is_written_as_json_or_between_commas():
    knobs = form(EvaluateSettings())
    knobs.knobs["questions"].value = "svamp, addsub"
    assert knobs.value.questions == ("svamp", "addsub")
    knobs.knobs["questions"].value = json.dumps(["a, b"])
    assert knobs.value.questions == ("a, b",)


def test_what_can_only_be_some_names_is_ticked_and_keeps_its_order():
    knobs = form(TrainSettings(arms=("nat", "vanilla", "mine")))
    boxes = knobs.knobs["arms"].boxes
    assert [name for name, box in boxes.items() if box.value] == ["vanilla", "nat", "mine"]
    boxes["kto"].value = True
    boxes["vanilla"].value = False
    assert knobs.value.arms == ("nat", "mine", "kto")
    knobs.knobs["arms"].value = '["nut"]'
    assert [name for name, box in boxes.items() if box.value] == ["nut"]
    assert knobs.value.arms == ("nut",)


def test_label_templates_are_chosen_and_those_of_a_file_of_ones_own_are_there(tmp_path):
    known = [value for _, value in form(PrefixSettings()).knobs["template"].options]
    assert "target-aware" in known and "random-sentence" in known
    own = tmp_path / "own.toml"
    asked = 'text = { default = "Well: {question}" }'
    own.write_text(f'[templates.mine]\nclasses = [{{ name = "any", {asked} }}]\n')
    other = PrefixSettings(template_file=str(own))
    assert "mine" in [value for _, value in form(other).knobs["template"].options]
    lost = PrefixSettings(template_file="nowhere.toml", template="lost")
    assert {"lost", "target-aware"} <= {v for _, v in form(lost).knobs["template"].options}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("epochs", -1.0, r"TrainSettings\.epochs is -1\.0; use 0\.01 to 1000"),
        ("questions", '["svamp"', r"questions is '\[\"svamp\"'; give items between commas"),
        ("questions", "[1]", r"EvaluateSettings\.questions is \(1,\); each item must be a str"),
    ],
)
def test_a_bad_value_is_named_in_the_form_and_never_read_as_something_else(name, value, text):
    from html import unescape

    default = EvaluateSettings() if name == "questions" else TrainSettings()
    knobs = form(default)
    knobs.knobs[name].value = value
    with pytest.raises(ValueError, match=text) as refused:
        _ = knobs.value
    assert str(refused.value) in unescape(knobs.message.value)
    knobs.knobs[name].value = form(default).knobs[name].value
    assert knobs.value == default and "changes = {}" in knobs.message.value


def test_only_some_knobs_where_only_some_are_named():
    knobs = form(EvaluateSettings(seed=3), names=("resamples",))
    knobs.knobs["resamples"].value = 500
    assert list(knobs.knobs) == ["resamples"] and knobs.value == EvaluateSettings(
        seed=3, resamples=500
    )
    with pytest.raises(
        ValueError, match="EvaluateSettings has no resample; it has agent_questions"
    ):
        form(EvaluateSettings(), names=("resample",))


def test_text_of_settings_is_escaped():
    knobs = form(CollectSettings(questions="<script>x</script>"))
    knobs.knobs["corpus"].value = "<script>y</script>"
    page = knobs._repr_mimebundle_()["text/html"] + knobs.message.value
    assert (
        "<script" not in page
        and "&lt;script&gt;x" in page
        and "&lt;script&gt;y" in knobs.message.value
    )


def test_without_widgets_there_is_a_table():
    page = form(TrainSettings(epochs=3.0))._repr_mimebundle_()["text/html"]
    assert "epochs" in page and "3.0" in page and "passes over an arm" in page


@pytest.fixture
def counted():
    calls = []

    def run(chosen):
        calls.append(chosen)
        if chosen.seed == 13:
            raise RuntimeError("planted <b>")
        return f"trained {chosen.seed}"

    knobs = form(TrainSettings())
    return (
        calls,
        knobs,
        StartButton(run, lambda chosen: Cost(minutes=3, tokens=1200, money=0.0), knobs, "Train"),
    )


def test_nothing_starts_but_by_a_second_press_after_the_estimate(counted):
    calls, knobs, starter = counted
    knobs.knobs["seed"].value = 1
    assert not calls and "estimate first" in starter.button.description
    starter.button.click()
    assert not calls and "about 3 minutes, 1,200 tokens, 0.00 USD" in starter.cost.value
    starter.button.click()
    assert (
        calls == [TrainSettings(seed=1)]
        and starter.result == "trained 1"
        and "trained 1" in starter.pane.value
    )


def test_a_knob_takes_the_estimate_back(counted):
    calls, knobs, starter = counted
    starter.button.click()
    knobs.knobs["seed"].value = 2
    assert starter.cost.value == "" and "estimate first" in starter.button.description
    starter.button.click()
    starter.button.click()
    assert calls == [TrainSettings(seed=2)]


def test_an_error_behind_the_button_is_shown_and_leaves_the_callback(counted, caplog):
    _, knobs, starter = counted
    knobs.knobs["seed"].value = 13
    starter.button.click()
    starter.button.click()
    assert "RuntimeError: planted &lt;b&gt;" in starter.pane.value and not starter.button.disabled
    assert (
        "planted" in caplog.text
    )  # ipywidgets' own report; in a kernel it is an error among the outputs
    knobs.knobs["epochs"].value = -1.0
    starter.button.click()
    assert "TrainSettings.epochs" in starter.pane.value


def test_what_is_not_known_is_said():
    assert (
        str(Cost(tokens=5, note="guess")) == "minutes not known, 5 tokens, money not known (guess)"
    )
    assert "20 seconds" in str(Cost(minutes=1 / 3)) and "2.5 hours" in str(Cost(minutes=150))
