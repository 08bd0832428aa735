"""A project's agents: who plays, which questions, with which tools; every episode is kept."""

import json

import pytest

from negfail_nb import earlier
from negfail_nb.agents import EndpointModel
from negfail_nb.evaluation import compare_agents
from negfail_nb.prefix import chat_template_text
from negfail_nb.project import open_project
from negfail_nb.runs import NotWhole
from negfail_nb.settings import EvaluateSettings, ModelSettings
from negfail_nb.sources import open_model, open_tasks
from negfail_nb.training import load_model, make_tokenizer
from negfail_nb.trajectory import read_trajectories


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(
        ["Question: Thought: Action: search[who] finish[it] Observation:"] * 3, 400
    )
    shape = ModelSettings(layers=1, width=32, heads=2, vocabulary=400, positions=4096)
    load_model(shape, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_questions_of_ones_own_are_asked_with_ones_own_corpus(tmp_path):
    questions, corpus = tmp_path / "q.jsonl", tmp_path / "p.jsonl"
    questions.write_text(json.dumps({"id": "1", "question": "Who?", "answer": "Ada"}) + "\n")
    corpus.write_text(json.dumps({"title": "Ada", "text": "Ada was a painter."}) + "\n")
    own = EvaluateSettings(questions=str(questions), corpus=str(corpus))
    tasks, tools = open_tasks(own, 5, "heldout", results=2)
    assert [t.answer for t in tasks] == ["Ada"]
    assert [t.name for t in tools] == ["search", "calculate"]
    assert tools[0]("painter").startswith("Ada [1]: ") and tools[0].results == 2
    alone = EvaluateSettings(questions=str(questions))
    assert [t.name for t in open_tasks(alone, 5, "heldout")[1]] == ["calculate"]


def test_a_corpus_without_questions_is_refused():
    with pytest.raises(ValueError, match="corpus is p.jsonl.*set questions too"):
        open_tasks(EvaluateSettings(corpus="p.jsonl"), 5)


def test_generated_questions_of_the_two_splits_share_no_passage():
    made = {split: open_tasks(EvaluateSettings(), 12, split) for split in ("train", "heldout")}
    titles = {
        split: {title for title, _ in tools[0].passages} for split, (_, tools) in made.items()
    }
    assert not titles["train"] & titles["heldout"]
    assert all(len(tasks) == 12 for tasks, _ in made.values())


def test_an_endpoint_plays_if_the_profile_says_so():
    project = open_project("pocket", changes={"endpoint": {"model": "some-model"}})
    player = open_model(project, "endpoint")
    assert isinstance(player, EndpointModel) and player.name == "some-model"


@pytest.fixture
def live(model):
    return {
        "collect": {"player": "model", "generate": 3},
        "live": {"attempts": 2, "max_tokens": 4, "max_calls": 2, "results": 1, "concurrency": 1},
        "model": {"name": model},
        "evaluate": {"agent_questions": 3},
    }


def runs_of(folder, stage):
    return list((folder / "runs" / "pocket" / stage).iterdir())


def test_a_project_collects_live_keeps_every_episode_and_asks_nothing_twice(live, tmp_path):
    logs = earlier.logs(open_project("pocket", tmp_path, live))
    assert len(logs) == 6 and {t.source.format for t in logs} == {"live"}
    written = logs.run.path("episodes.jsonl").stat().st_mtime_ns
    faster = {**live, "live": {**live["live"], "concurrency": 2}}
    again = earlier.logs(open_project("pocket", tmp_path, faster))
    assert again.trajectories == logs.trajectories
    assert again.run.path("episodes.jsonl").stat().st_mtime_ns == written


@pytest.mark.parametrize("budget", [{"episodes": 4}, {"tokens": 250}])
def test_a_spent_budget_leaves_a_collection_open_and_a_larger_one_goes_on(live, tmp_path, budget):
    small = open_project("pocket", tmp_path, {**live, "budget": budget})
    for _ in range(2):
        with pytest.raises(NotWhole, match=r"episodes were not played.*raise budget\.episodes"):
            earlier.report(small)
    (run,) = runs_of(tmp_path, "collect")
    assert not (run / "manifest.json").exists()
    kept = {t.id: t for t in read_trajectories(run / "episodes.jsonl")}
    assert 0 < len(kept) < 6
    whole = earlier.logs(open_project("pocket", tmp_path, live))
    assert len(whole) == 6 and whole.run.folder == run
    assert {t.id: t for t in whole if t.id in kept} == kept, "what is there is not played again"
    assert len(earlier.logs(small)) == 6, "what is whole is whole, whatever is left to spend"


def test_a_spent_budget_leaves_an_agents_evaluation_open(live, tmp_path):
    small = open_project("pocket", tmp_path, {**live, "budget": {"episodes": 1}})
    with pytest.raises(NotWhole, match="2 episodes were not played"):
        earlier.ask(small, "untuned", None)
    scores = earlier.ask(open_project("pocket", tmp_path, live), "untuned", None)
    assert len(scores.table) == 3 and scores.run.done
    assert runs_of(tmp_path, "agent-untuned") == [scores.run.folder]


@pytest.mark.parametrize("stage", ["collect", "agent-untuned"])
def test_another_form_of_chat_asks_anew(live, tmp_path, stage):
    own = tmp_path / "own.jinja"
    own.write_text(chat_template_text("llama-3"))

    def ask(**prefix):
        project = open_project("pocket", tmp_path, {**live, "prefix": prefix})
        if stage == "collect":
            earlier.logs(project)
        else:
            earlier.ask(project, "untuned", None)
        return len(runs_of(tmp_path, stage))

    assert ask() == 1
    assert ask(chat_template="react-plain") == 2
    assert ask(chat_template="own.jinja") == 3
    assert ask(thoughts="history") == 4
    own.write_text(chat_template_text("react-plain"))
    assert ask(chat_template="own.jinja") == 5
    assert ask(chat_template="own.jinja") == 5


def test_the_untuned_model_and_every_arm_are_asked_the_same_questions(model, tmp_path):
    changes = {
        "collect": {"generate": 24, "attempts": 3},
        "live": {"max_tokens": 4, "max_calls": 1},
        "model": {"name": model},
        "train": {"arms": ["vanilla", "dpo"], "budget": "steps", "steps": 1, "batch_tokens": 1024},
        "preference": {"steps": 1, "batch": 2, "pairs": 1},
        "evaluate": {"agent_questions": 3, "resamples": 100},
    }
    scores = earlier.agents(open_project("pocket", tmp_path, changes))
    assert list(scores) == ["untuned", "vanilla", "dpo"]
    assert len({tuple(sorted(s.table["question_id"])) for s in scores.values()}) == 1
    files = {name: score.run.path("episodes.jsonl") for name, score in scores.items()}
    played = {name: list(read_trajectories(file)) for name, file in files.items()}
    names = {name: {t.source.model for t in episodes} for name, episodes in played.items()}
    assert names == {"untuned": {model}, "vanilla": {"vanilla"}, "dpo": {"dpo"}}
    assert {t.source.temperature for episodes in played.values() for t in episodes} == {0.0}
    table = compare_agents(scores, EvaluateSettings(resamples=100))
    assert table["arm"].tolist() == list(scores) and (table["questions"] == 3).all()


def test_generated_failures_of_a_worse_teacher_are_beside_the_usual_successes(tmp_path):
    small = {"generate": 24, "attempts": 3}
    usual, worse = (
        earlier.logs(open_project("pocket", tmp_path, {"collect": {**small, "player": player}}))
        for player in ("teacher", "worse-failures")
    )
    assert [t.id for t in usual if t.success] == [t.id for t in worse if t.success]
    assert {t.source.model for t in worse if not t.success} == {"worse-scripted-teacher"}


def test_real_logs_take_no_other_player(tmp_path):
    (tmp_path / "logs.jsonl").write_text("{}\n")
    changes = {"collect": {"logs": ["logs.jsonl"], "player": "model"}}
    with pytest.raises(ValueError, match="player is 'model', but collect.logs are given too"):
        earlier.logs(open_project("pocket", tmp_path, changes))
