"""A project: what is done is not done again, and what depends on a changed setting is."""

import json
import sys

import pandas as pd
import pytest

from negfail_nb import earlier, open_project, perplexity, runs
from negfail_nb.benchmarking.questions import POCKET, multi_hop
from negfail_nb.settings import profiles
from negfail_nb.trajectory import UnreadableLog, write_trajectories
from negfail_nb.views import save_figure
from negfail_nb.views.figures import new_figure

SMALL = {
    "collect": {"generate": 24},
    "live": {"results": 1},
    "model": {"name": "", "layers": 1, "width": 32, "heads": 2, "vocabulary": 600},
    "prefix": {"max_tokens": 1024},
    "train": {"arms": ["vanilla", "nat"], "budget": "steps", "steps": 2, "batch_tokens": 1024},
    "evaluate": {"resamples": 100, "agent_questions": 0},
}


def opened(home, **stages):
    changes = {
        stage: {**SMALL.get(stage, {}), **stages.get(stage, {})} for stage in {*SMALL, *stages}
    }
    return open_project("pocket", home, changes)


def perplexities(project):
    """What notebook 05 does."""
    heldout = earlier.data(project).heldout
    return {
        arm: perplexity(
            run, heldout[arm], project.evaluate, folder=project.folder(f"perplexity-{arm}")
        )
        for arm, run in earlier.trained(project).items()
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    perplexities(opened(folder))
    return folder


def folders(home):
    return {p.parent.name + "/" + p.name for p in (home / "runs" / "pocket").glob("*/*")}


def made(home, before):
    return sorted(name.split("/")[0] for name in folders(home) - before)


def test_the_same_again_makes_nothing_new(home):
    before = folders(home)
    scores = perplexities(opened(home))
    assert folders(home) == before
    assert list(scores) == ["vanilla", "nat"] and all(s.perplexity > 1 for s in scores.values())


def test_another_learning_rate_trains_anew_and_going_back_finds_the_old_model(home):
    old, before = earlier.trained(opened(home))["vanilla"], folders(home)
    earlier.trained(opened(home, train={"learning_rate": 5e-4, "arms": ["vanilla"]}))
    assert made(home, before) == ["train-vanilla"]
    assert earlier.trained(opened(home))["vanilla"].folder == old.folder


def test_what_is_only_faster_or_saved_more_often_trains_nothing(home):
    before = folders(home)
    earlier.trained(opened(home, train={"save_steps": 1}, live={"concurrency": 3}))
    assert made(home, before) == []


def test_other_records_with_equal_tokens_train_nothing(home):
    """Quality control has other settings, and keeps the same records."""
    before = folders(home)
    earlier.trained(opened(home, quality={"cap_question": 1000}))
    assert made(home, before) == []


def test_an_arm_that_is_added_trains_alone(home):
    before = folders(home)
    earlier.trained(opened(home, train={"arms": ["vanilla", "nut", "nat"]}))
    assert made(home, before) == ["train-nut"]


@pytest.mark.parametrize(
    ("setting", "value", "anew"),
    [
        ("agent_questions", 5, []),
        ("temperature", 0.7, []),
        ("confidence", 0.9, []),
        ("max_questions", 2, ["perplexity-nat", "perplexity-vanilla"]),
    ],
)
def test_perplexity_is_measured_anew_only_for_the_settings_that_it_reads(
    home, setting, value, anew
):
    before = folders(home)
    perplexities(opened(home, evaluate={setting: value}))
    assert made(home, before) == anew


def test_evaluation_questions_are_found_from_home_and_their_content_counts(home):
    asked = earlier.logs(opened(home))[0].question
    (home / "eval.jsonl").write_text(json.dumps({"question": asked}) + "\n")
    project = opened(home, quality={"evaluation": ["eval.jsonl"]})
    assert asked not in {t.question for t in earlier.report(project).kept}
    other = {"question": "Is this another question altogether?"}
    (home / "eval.jsonl").write_text(json.dumps(other) + "\n")
    assert asked in {t.question for t in earlier.report(project).kept}


def test_settings_name_files_as_seen_from_the_project_folder(home, tmp_path):
    (tmp_path / "logs").mkdir()
    project = open_project("pocket", tmp_path, {"collect": {"logs": ["logs", "missing"]}})
    assert project.logs[0] == tmp_path / "logs" and str(project.logs[1]) == "missing"
    assert project.model.name == "pocket-llama"
    assert project.using(project.collect).logs == project.logs
    with pytest.raises(AttributeError, match="no stage 'trane'; it has collect, live"):
        _ = project.trane


def test_a_data_set_keeps_its_name_though_a_folder_is_called_so(tmp_path):
    for name in (*multi_hop(), POCKET):
        (tmp_path / name).mkdir()
        project = open_project("pocket", tmp_path, {"benchmark": {"data": name}})
        assert project.benchmark.data == name
    (tmp_path / "mine.jsonl").write_text("")
    project = open_project("pocket", tmp_path, {"benchmark": {"data": "mine.jsonl"}})
    assert project.benchmark.data == str(tmp_path / "mine.jsonl")


def test_a_figure_says_what_it_came_from(home, tmp_path, monkeypatch):
    project = opened(home)
    trained = earlier.trained(project)
    of_run = trained["nat"].run.manifest["environment"]
    of_today = {**of_run, "git": {"commit": "today", "dirty": False}}
    monkeypatch.setattr(sys.modules["negfail_nb.views.papers"], "environment", lambda: of_today)
    written = json.loads(saved(tmp_path, trained["nat"].run))
    assert (
        written["provenance"]["settings"]["model"]["width"] == 32
        and written["provenance"]["results"]["steps"] == 2
    )
    for origin in (trained["nat"].run, trained):
        written = json.loads(saved(tmp_path, origin))
        assert written["environment"]["git"] == of_run["git"]
        assert written["drawn_with"]["git"] == of_today["git"]
    assert json.loads(saved(tmp_path, {"note": "of no run"}))["environment"] == of_today
    logs = earlier.logs(project)
    written = json.loads(saved(tmp_path, project.origin("collect", logs=logs)))
    assert written["provenance"]["inputs"] == {"logs": logs.content}
    assert written["provenance"]["settings"]["collect"]["generate"] == 24


def saved(folder, origin):
    figure, _ = new_figure()
    path = save_figure(figure, pd.DataFrame({"n": [1]}), "f", folder, origin)
    return path.with_suffix(".json").read_text()


def test_a_run_that_was_cut_short_is_finished_in_its_own_folder(home):
    run = earlier.trained(opened(home))["vanilla"].run
    run.path(runs.MANIFEST).unlink()
    assert earlier.trained(opened(home))["vanilla"].folder == run.folder and run.done


def test_a_window_too_short_for_any_success_says_what_to_change(home):
    with pytest.raises(ValueError, match=r"held-out successes is whole.*raise prefix\.max_tokens"):
        earlier.data(opened(home, prefix={"max_tokens": 200}))


def test_profiles_of_real_models_differ_in_settings_only():
    named = profiles()
    assert named["llama-8b"].model.name and named["llama-8b"].lora.rank
    assert named["pocket"].model.name == "pocket-llama"


def logs_of(home, name, keep):
    write_trajectories(home / name, [t for t in earlier.logs(opened(home)) if keep(t)])
    return opened(home, collect={"logs": [name]})


def test_logs_without_failures_or_successes_say_what_to_do(home):
    said = r"arm nat needs failed trajectories.*Leave this arm out of train\.arms"
    with pytest.raises(ValueError, match=said):
        earlier.data(logs_of(home, "solved.jsonl", lambda t: t.success))
    said = "arm vanilla needs successful trajectories.*Add solved runs"
    with pytest.raises(ValueError, match=said):
        earlier.data(logs_of(home, "failed.jsonl", lambda t: not t.success))


def test_one_question_leaves_nothing_to_evaluate_on(home):
    logs = list(earlier.logs(opened(home)))
    failed = {t.question_id for t in logs if t.success is False}
    one = next(t.question_id for t in logs if t.success and t.question_id in failed)
    with pytest.raises(ValueError, match="no successful run is held out for evaluation"):
        earlier.data(logs_of(home, "one.jsonl", lambda t: t.question_id == one))


def test_logs_that_hold_nothing_readable_say_why(home):
    (home / "empty.jsonl").write_text("")
    said = r"none of .*empty\.jsonl holds a run that can be read: .*empty\.jsonl"
    with pytest.raises(UnreadableLog, match=said):
        earlier.logs(opened(home, collect={"logs": ["empty.jsonl"]}))
