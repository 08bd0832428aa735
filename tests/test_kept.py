"""Choices that stick: kept for the next notebook and the command line, shown, and taken back."""

import json

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb import open_project, views
from negfail_nb.kept import FILE, forget, keep, kept, merged
from negfail_nb.notebooks import plan_notebooks, read_parameters
from negfail_nb.start import start_project


def test_a_knob_that_was_turned_holds_in_the_next_notebook(tmp_path):
    first = open_project("pocket", tmp_path)
    views.form(first.profile.train, first).knobs["epochs"].value = 3.0
    then = open_project("pocket", tmp_path)
    assert then.train.epochs == 3.0 and then.kept == {"train": {"epochs": 3.0}}
    assert "kept in settings.json: train.epochs=3.0" in repr(then)
    assert open_project("logs", tmp_path).kept == {}, "another profile has its own"
    knobs = views.form(then.profile.quality, then)
    knobs.knobs["min_score"].value = 0.25
    assert '"epochs": 3.0' in knobs.code and '"min_score": 0.25' in knobs.code
    both = {"train": {"epochs": 3.0}, "quality": {"min_score": 0.25}}
    assert json.loads((tmp_path / FILE).read_text()) == {"pocket": both}


def test_reset_takes_back_what_a_form_kept_and_nothing_else(tmp_path):
    keep(tmp_path, "pocket", {"train": {"epochs": 3.0, "arms": ["nat"]}, "live": {"attempts": 2}})
    project = open_project("pocket", tmp_path)
    knobs = views.form(project.profile.train, project)
    assert "profile: 2.0" in knobs.notes["epochs"].value
    assert "profile: " not in knobs.notes["seed"].value
    knobs.reset()
    assert knobs.value == project.named.train and "profile: " not in knobs.notes["epochs"].value
    assert kept(tmp_path, "pocket") == {"live": {"attempts": 2}}
    knobs.knobs["seed"].value = 5
    forget(tmp_path, "pocket", "live")
    assert kept(tmp_path, "pocket") == {"train": {"seed": 5}}
    forget(tmp_path, "pocket")
    assert not (tmp_path / FILE).exists()


def test_the_parameters_cell_counts_more_and_the_form_says_so(tmp_path):
    keep(tmp_path, "pocket", {"train": {"epochs": 3.0, "seed": 4}})
    project = open_project("pocket", tmp_path, {"train": {"epochs": 5.0}})
    assert (project.train.epochs, project.train.seed) == (5.0, 4)
    knobs = views.form(project.profile.train, project)
    assert "the parameters cell sets" not in knobs.message.value
    knobs.knobs["seed"].value = 6
    assert kept(tmp_path, "pocket")["train"] == {"epochs": 3.0, "seed": 6}, "not the cell's 5"
    knobs.knobs["epochs"].value = 7.0
    assert "the parameters cell sets epochs" in knobs.message.value


def test_results_of_ones_own_have_their_own_name(tmp_path):
    plain = open_project("pocket", tmp_path)
    own = plain.using(plain.profile.change(train={"epochs": 3.0}).train)
    assert plain.figures == tmp_path / "runs" / "pocket" / "figures"
    assert own.figures == tmp_path / "runs" / "pocket-own" / "figures"
    assert own.folder("train-nat") == plain.folder("train-nat"), "run folders have fingerprints"


def test_a_value_that_cannot_be_is_not_kept_and_shown(tmp_path):
    project = open_project("pocket", tmp_path)
    knobs = views.form(project.profile.train, project)
    knobs.knobs["epochs"].value = -1.0
    assert not (tmp_path / FILE).exists() and "use 0.01 to 1000" in knobs.message.value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"settings\.json is no JSON"),
        ("[]", r"settings\.json is not of the form"),
        ('{"pocket": {"train": 3}}', r"settings\.json is not of the form"),
        ('{"pocket": {"train": {"epoch": 3}}}', r"settings\.json, profile pocket: train has no"),
        ('{"pokcet": {"train": {"epochs": 3}}}', r"settings\.json, profile pokcet: .*pocket"),
        ('{"pocket": {"train": {"epochs": "x"}}}', r"profile pocket: .*epochs is 'x'"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, said):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=said):
        open_project("pocket", tmp_path)


def test_a_secret_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match="looks like a key"):
        keep(tmp_path, "pocket", {"endpoint": {"model": "sk-" + "a1B2" * 12}})
    assert not (tmp_path / FILE).exists()


changed = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.dictionaries(st.sampled_from("xyz"), st.integers())
)


@given(st.lists(changed, max_size=4))
def test_of_several_changes_the_last_counts(parts):
    found = merged(*parts)
    for stage in "abc":
        for name in "xyz":
            said = [p[stage][name] for p in parts if name in p.get(stage, {})]
            assert found.get(stage, {}).get(name) == (said[-1] if said else None)


def edit(home, source):
    path = home / "notebooks" / "04_train.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].source = source
    nbformat.write(notebook, path)
    return path


def test_headless_the_parameters_cell_counts_and_the_command_line_more(tmp_path):
    start_project(tmp_path)
    edit(tmp_path, 'profile = "logs"\nhome = ".."\nchanges = {"train": {"epochs": 5, "seed": 1}}')
    keep(tmp_path, "logs", {"train": {"steps": 7}})
    given = {"train": {"seed": 2}}
    projects = {p.name[:2]: project for p, project in plan_notebooks("", tmp_path, given)}
    assert projects["03"].profile.name == "pocket" and projects["03"].train.seed == 2
    train = projects["04"].train
    assert projects["04"].profile.name == "logs" and train.steps == 7
    assert (train.epochs, train.seed) == (5.0, 2)
    ((_, project),) = plan_notebooks("pocket", tmp_path, {}, ["04"])
    assert project.profile.name == "pocket" and project.train.epochs == 5.0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("changes = dict(train={})", r"04_train.ipynb, parameters cell: changes = dict\(train"),
        ("changes = {", r"04_train.ipynb, parameters cell: .*was never closed"),
    ],
)
def test_a_parameters_cell_that_is_not_written_out_is_named(tmp_path, source, said):
    start_project(tmp_path)
    with pytest.raises(ValueError, match=said):
        read_parameters(edit(tmp_path, source))
