"""The walk: what is done is not done again, and what depends on a changed setting is."""

import json
import sys

import pandas as pd
import pytest

from negfail_nb import runs, source
from negfail_nb.settings import profiles
from negfail_nb.stages import in_all
from negfail_nb.trajectory import UnreadableLog, write_trajectories
from negfail_nb.views import new_figure, save_figure
from negfail_nb.walk import open_walk

SMALL = {
    "collect": {"generate": 24, "attempts": 4},
    "live": {"results": 1},
    "model": {"name": "", "layers": 1, "width": 32, "heads": 2, "vocabulary": 600},
    "prefix": {"max_tokens": 1024},
    "train": {"arms": ["vanilla", "nat"], "budget": "steps", "steps": 2, "batch_tokens": 1024},
    "evaluate": {"resamples": 100, "agent_questions": 0},
}


def changed(**stages):
    return {stage: {**SMALL.get(stage, {}), **stages.get(stage, {})} for stage in {*SMALL, *stages}}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    open_walk("pocket", folder, SMALL).evaluate()
    return folder


def folders(home):
    return {p.parent.name + "/" + p.name for p in (home / "runs" / "pocket").glob("*/*")}


def test_the_same_walk_again_makes_nothing_new(home):
    before = folders(home)
    table = open_walk("pocket", home, SMALL).evaluate()
    assert folders(home) == before
    assert table["arm"].tolist() == ["vanilla", "nat"] and (table["perplexity"] > 1).all()


def test_going_back_to_old_settings_finds_the_old_result(home):
    other = open_walk("pocket", home, changed(quality={"heldout": 0.5})).quality()
    again = open_walk("pocket", home, SMALL).quality()
    assert sum(t.split == "heldout" for t in other.kept) > sum(
        t.split == "heldout" for t in again.kept
    )


def test_another_learning_rate_trains_anew_and_renders_nothing(home):
    before = folders(home)
    open_walk("pocket", home, changed(train={"learning_rate": 5e-4, "arms": ["vanilla"]})).run(
        "train-vanilla"
    )
    assert sorted(name.split("/")[0] for name in folders(home) - before) == [
        "prefix",
        "train-vanilla",
    ]
    before = folders(home)
    open_walk("pocket", home, changed(train={"learning_rate": 6e-4, "arms": ["vanilla"]})).run(
        "train-vanilla"
    )
    assert [name.split("/")[0] for name in folders(home) - before] == ["train-vanilla"]


@pytest.fixture
def change(monkeypatch):
    """Let the source of a module be another one, as after a commit."""

    def changed(module):
        def of(entry):
            texts, used = source._cut(entry.partition(":")[2], source.PACKAGE)
            files = {
                path.relative_to(source.PACKAGE).as_posix()
                for path in source._files(used, source.PACKAGE)
            }
            return source.source_hash(entry) + (module if module in files else "")

        monkeypatch.setattr(sys.modules["negfail_nb.walk"], "source_hash", of)

    return changed


def test_generated_logs_are_made_anew_after_a_change_of_what_generates_them(home, change):
    before = open_walk("pocket", home, SMALL).run("collect")
    change("pocket/wordings.py")
    assert open_walk("pocket", home, SMALL).run("collect").folder != before.folder


def test_own_logs_do_not_depend_on_the_generated_world(home, change):
    logs_of(home, "world.jsonl", lambda t: t.success).collect()
    walk, before = (
        open_walk("pocket", home, changed(collect={"logs": ["world.jsonl"]})),
        folders(home),
    )
    change("pocket/wordings.py")
    walk.collect()
    assert folders(home) == before


def test_a_stage_whose_source_changed_is_computed_anew_and_what_follows_only_where_its_results_did(
    home, change
):
    """The source of quality control is another, its results are not: nothing is trained again."""
    walk, before = open_walk("pocket", home, SMALL), folders(home)
    old = walk.run("quality")
    change("quality/duplicates.py")
    walk.evaluate()
    assert [name.split("/")[0] for name in folders(home) - before] == ["quality"]
    new = walk.run("quality")
    assert new.content == old.content and new.plan["source"] != old.plan["source"]


def test_what_another_source_began_is_not_gone_on_with(home, change):
    walk = open_walk("pocket", home, changed(collect={"seed": 5}))
    begun = walk.run("collect")
    begun.path(runs.MANIFEST).unlink()
    change("pocket/teacher.py")
    assert walk.run("collect").folder != begun.folder


def test_an_arm_that_is_added_trains_alone(home):
    before = folders(home)
    open_walk("pocket", home, changed(train={"arms": ["vanilla", "nut", "nat"]})).train()
    assert sorted(name.split("/")[0] for name in folders(home) - before) == ["prefix", "train-nut"]


@pytest.mark.parametrize(
    ("setting", "value", "anew"),
    [
        ("agent_questions", 5, []),
        ("temperature", 0.7, []),
        ("confidence", 0.9, ["evaluate"]),
        ("seed", 1, ["evaluate"]),
    ],
)
def test_perplexity_is_computed_anew_only_for_the_settings_that_it_reads(
    home, setting, value, anew
):
    before = folders(home)
    open_walk("pocket", home, changed(evaluate={setting: value})).evaluate()
    assert [name.split("/")[0] for name in folders(home) - before] == anew


def test_evaluation_questions_are_found_from_home_and_their_content_counts(home):
    asked = open_walk("pocket", home, SMALL).collect()[0].question
    (home / "eval.jsonl").write_text(json.dumps({"question": asked}) + "\n")
    walk = open_walk("pocket", home, changed(quality={"evaluation": ["eval.jsonl"]}))
    assert asked not in {t.question for t in walk.quality().kept}
    (home / "eval.jsonl").write_text(
        json.dumps({"question": "Is this another question altogether?"}) + "\n"
    )
    assert asked in {t.question for t in walk.quality().kept}


def test_a_figure_says_what_it_came_from(home):
    origin = open_walk("pocket", home, SMALL).provenance("train-nat")
    assert origin["profile"] == "pocket" and origin["results"]["steps"] == 2
    assert origin["settings"]["model"]["width"] == 32


def test_a_figure_of_an_old_run_names_the_commit_of_the_run(home, tmp_path, monkeypatch):
    of_run = open_walk("pocket", home, SMALL).run("quality").manifest["environment"]
    of_today = {**of_run, "git": {"commit": "today", "dirty": False}}
    monkeypatch.setattr(sys.modules["negfail_nb.views.figures"], "environment", lambda: of_today)
    walk = open_walk("pocket", home, SMALL)
    each = {arm: walk.provenance(f"train-{arm}") for arm in walk.profile.train.arms}
    for origin in (walk.provenance("quality"), each):
        written = json.loads(saved(tmp_path, origin))
        assert (
            written["environment"]["git"] == of_run["git"]
            and written["drawn_with"]["git"] == of_today["git"]
        )
    assert json.loads(saved(tmp_path, {"note": "of no run"}))["environment"] == of_today


def test_a_figure_of_runs_that_differ_names_the_commit_of_each(tmp_path):
    origin = {arm: {"environment": {"git": {"commit": arm}}} for arm in ("nat", "nut")}
    written = json.loads(saved(tmp_path, origin))
    assert written["environment"] == {arm: origin[arm]["environment"] for arm in origin}


def saved(folder, origin):
    figure, _ = new_figure()
    return (
        save_figure(figure, pd.DataFrame({"n": [1]}), "f", folder, origin)
        .with_suffix(".json")
        .read_text()
    )


def test_a_run_that_was_cut_short_is_finished_in_its_own_folder(home):
    walk = open_walk("pocket", home, changed(collect={"seed": 3}))
    run = walk.run("collect")
    run.path(runs.MANIFEST).unlink()
    run.path("trajectories.jsonl").write_text("half a li")
    assert walk.run("collect").folder == run.folder and len(walk.collect()) == 96


def test_an_unknown_stage_lists_those_there_are(home):
    with pytest.raises(
        ValueError, match="no stage 'trane'; there are collect, quality, prefix, train, evaluate"
    ):
        open_walk("pocket", home).run("trane")


def test_a_window_too_short_for_any_success_says_what_to_change(home):
    with pytest.raises(ValueError, match=r"held-out successes is whole.*raise prefix\.max_tokens"):
        open_walk("pocket", home, changed(prefix={"max_tokens": 200})).prefix()


def test_arms_are_scored_on_what_all_of_them_have_whole(home):
    data = {arm: part.heldout for arm, part in open_walk("pocket", home, SMALL).prefix().items()}
    short = dict(
        data,
        nat=type(data["nat"])(
            **{f: getattr(data["nat"], f) for f in ("skipped", "tokenizer")},
            examples=data["nat"].examples[1:],
        ),
    )
    kept = in_all(short)
    assert [len(r) for r in kept.values()] == [len(data["nat"]) - 1] * 2
    assert kept["vanilla"].skipped[-1].reason == "not whole under every arm's prompt"


def test_profiles_of_real_models_differ_in_settings_only():
    named = profiles()
    assert (
        named["llama-8b"].model.name
        and named["llama-8b"].lora.rank
        and named["pocket"].model.name == "pocket-llama"
    )


def logs_of(home, name, keep):
    found = [t for t in open_walk("pocket", home, SMALL).collect() if keep(t)]
    write_trajectories(home / name, found)
    return open_walk("pocket", home, changed(collect={"logs": [name]}))


def test_logs_without_failures_or_successes_say_what_to_do(home):
    with pytest.raises(
        ValueError, match=r"arm nat needs failed trajectories.*Leave this arm out of train\.arms"
    ):
        logs_of(home, "solved.jsonl", lambda t: t.success).evaluate()
    with pytest.raises(
        ValueError, match="arm vanilla needs successful trajectories.*Add solved runs"
    ):
        logs_of(home, "failed.jsonl", lambda t: not t.success).evaluate()


def test_one_question_leaves_nothing_to_evaluate_on(home):
    both = {t.question_id for t in open_walk("pocket", home, SMALL).collect() if t.success is False}
    solved = next(
        t.question_id
        for t in open_walk("pocket", home, SMALL).collect()
        if t.success and t.question_id in both
    )
    with pytest.raises(ValueError, match="no successful run is held out for evaluation"):
        logs_of(home, "one.jsonl", lambda t: t.question_id == solved).evaluate()


def test_logs_that_hold_nothing_readable_say_why(home):
    (home / "empty.jsonl").write_text("")
    with pytest.raises(
        UnreadableLog, match=r"none of empty\.jsonl holds a run that can be read: empty\.jsonl"
    ):
        open_walk("pocket", home, changed(collect={"logs": ["empty.jsonl"]})).collect()
