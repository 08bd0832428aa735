"""A profile's agents: who plays, at which questions, with which tools; and the walk that keeps what
they did.
"""

import json

import pytest
from negfail_nb.agents.opening import find_tasks, open_player
from negfail_nb.plans import PLANS
from negfail_nb.walk import open_walk

from negfail_nb import runs
from negfail_nb.agents import EndpointModel
from negfail_nb.runs import NotWhole
from negfail_nb.settings import ModelSettings, get_profile
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
    (tmp_path / "q.jsonl").write_text(
        json.dumps({"id": "1", "question": "Who?", "answer": "Ada"}) + "\n"
    )
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"title": "Ada", "text": "Ada was a painter."}) + "\n"
    )
    tasks, tools = find_tasks("q.jsonl", "p.jsonl", 5, 0, "heldout", tmp_path, results=2)
    assert [t.answer for t in tasks] == ["Ada"] and [t.name for t in tools] == [
        "search",
        "calculate",
    ]
    assert tools[0]("painter").startswith("Ada [1]: ") and tools[0].results == 2
    assert [t.name for t in find_tasks("q.jsonl", "", 5, 0, "heldout", tmp_path)[1]] == [
        "calculate"
    ]


def test_a_corpus_without_questions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="corpus is p.jsonl.*set questions too"):
        find_tasks("", "p.jsonl", 5, 0, "train", tmp_path)


def test_generated_questions_of_the_two_splits_share_no_passage(tmp_path):
    made = {split: find_tasks("", "", 12, 0, split, tmp_path) for split in ("train", "heldout")}
    titles = {
        split: {title for title, _ in tools[0].passages} for split, (_, tools) in made.items()
    }
    assert not titles["train"] & titles["heldout"]
    assert all(len(tasks) == 12 for tasks, _ in made.values())


def test_an_endpoint_plays_where_the_profile_says_so():
    profile = get_profile("pocket").change(
        collect={"player": "endpoint"}, endpoint={"model": "some-model"}
    )
    player = open_player(profile)
    assert isinstance(player, EndpointModel) and player.name == "some-model"


def test_a_walk_collects_live_keeps_every_episode_and_asks_nothing_twice(model, tmp_path):
    changes = {
        "collect": {"player": "model", "generate": 3},
        "live": {"attempts": 2, "max_tokens": 4, "max_calls": 2, "results": 1},
        "model": {"name": model},
    }
    walk = open_walk("pocket", tmp_path, changes)
    logs = walk.collect()
    assert len(logs) == 6 and {t.source.format for t in logs} == {"live"}
    episodes = walk.run("collect").path("episodes.jsonl")
    written = episodes.stat().st_mtime_ns
    faster = open_walk(
        "pocket", tmp_path, {**changes, "live": {**changes["live"], "concurrency": 2}}
    )
    assert (
        faster.collect().trajectories == logs.trajectories
        and episodes.stat().st_mtime_ns == written
    )


@pytest.fixture
def live(model):
    return {
        "collect": {"player": "model", "generate": 3},
        "live": {"attempts": 2, "max_tokens": 4, "max_calls": 2, "results": 1, "concurrency": 1},
        "model": {"name": model},
        "evaluate": {"agent_questions": 3},
    }


@pytest.mark.parametrize("budget", [{"episodes": 4}, {"tokens": 250}])
def test_a_spent_budget_leaves_a_collection_open_and_a_larger_one_goes_on(live, tmp_path, budget):
    walk = open_walk("pocket", tmp_path, {**live, "budget": budget})
    for _ in range(2):
        with pytest.raises(NotWhole, match=r"episodes were not played.*raise budget\.episodes"):
            walk.quality()
    (run,) = (tmp_path / "runs" / "pocket" / "collect").iterdir()
    assert (
        not (run / "manifest.json").exists()
        and not (tmp_path / "runs" / "pocket" / "quality").exists()
    )
    kept = {t.id: t for t in read_trajectories(run / "episodes.jsonl")}
    assert 0 < len(kept) < 6
    whole = open_walk("pocket", tmp_path, live)
    assert len(whole.collect()) == 6 and whole.run("collect").folder == run
    assert {t.id: t for t in whole.collect() if t.id in kept} == kept, (
        "what was played is not played again"
    )
    assert len(walk.collect()) == 6, "what is whole is whole, whatever is left to spend"


def test_a_spent_budget_leaves_an_agents_evaluation_open(live, tmp_path):
    small = open_walk("pocket", tmp_path, {**live, "budget": {"episodes": 1}})
    with pytest.raises(NotWhole, match="2 episodes were not played"):
        small.run("agent-untuned")
    assert (
        len(
            open_walk("pocket", tmp_path, live)
            .run("agent-untuned")
            .path("episodes.jsonl")
            .open()
            .readlines()
        )
        == 3
    )
    assert len(list((tmp_path / "runs" / "pocket" / "agent-untuned").iterdir())) == 1


@pytest.mark.parametrize("stage", ["collect", "agent-untuned", "benchmark"])
def test_another_form_of_chat_asks_anew(live, tmp_path, stage):
    (tmp_path / "own.jinja").write_text("{{ messages }}")

    def plan(**prefix):
        settings, files = PLANS[stage.partition("-")[0]](
            open_walk(
                "pocket", tmp_path, {**live, "prefix": prefix, "benchmark": {"arms": ["oracle"]}}
            ),
            "untuned",
        )
        return runs.make_plan(stage, settings, files)["fingerprint"]

    made = [
        plan(),
        plan(chat_template="chatml"),
        plan(chat_template="own.jinja"),
        plan(thoughts="history"),
    ]
    (tmp_path / "own.jinja").write_text("{{ bos_token }}{{ messages }}")
    made.append(plan(chat_template="own.jinja"))
    assert len(set(made)) == 5


def test_the_untuned_model_and_every_arm_are_asked_the_same_questions(model, tmp_path):
    walk = open_walk(
        "pocket",
        tmp_path,
        {
            "collect": {"generate": 24, "attempts": 3},
            "live": {"max_tokens": 4, "max_calls": 1},
            "model": {"name": model},
            "train": {
                "arms": ["vanilla", "dpo"],
                "budget": "steps",
                "steps": 1,
                "batch_tokens": 1024,
            },
            "preference": {"steps": 1, "batch": 2, "pairs": 1},
            "evaluate": {"agent_questions": 3, "resamples": 100},
        },
    )
    scores = walk.agents()
    assert list(scores) == ["untuned", "vanilla", "dpo"]
    assert len({tuple(sorted(s.table["question_id"])) for s in scores.values()}) == 1
    files = {name: walk.run(f"agent-{name}").path("episodes.jsonl") for name in scores}
    names = {
        name: {t.source.model for t in read_trajectories(file)} for name, file in files.items()
    }
    assert names == {"untuned": {model}, "vanilla": {"vanilla"}, "dpo": {"dpo"}}
    table = walk.compare_agents()
    assert table["arm"].tolist() == list(scores) and (table["questions"] == 3).all()


def test_generated_failures_of_a_worse_teacher_stand_beside_the_usual_successes(tmp_path):
    small = {"collect": {"generate": 24, "attempts": 3}}
    usual = open_walk("pocket", tmp_path, small).collect()
    worse = open_walk(
        "pocket", tmp_path, {"collect": {**small["collect"], "player": "worse-failures"}}
    ).collect()
    assert [t.id for t in usual if t.success] == [t.id for t in worse if t.success]
    assert {t.source.model for t in worse if not t.success} == {"worse-scripted-teacher"}


def test_real_logs_take_no_other_teachers_failures(tmp_path):
    (tmp_path / "logs.jsonl").write_text("{}\n")
    walk = open_walk("pocket", tmp_path, {"collect": {"logs": ["logs.jsonl"], "player": "model"}})
    with pytest.raises(ValueError, match="player is 'model', but collect.logs are given too"):
        walk.collect()
