"""Logs and questions of a project: its own, or made; who plays; and what was played stays."""

import json

import pytest

from negfail_nb import compare_agents, earlier, make_logs, open_model, open_project, open_tasks
from negfail_nb.agents import EndpointModel
from negfail_nb.runs import NotWhole
from negfail_nb.settings import CollectSettings, EvaluateSettings, ModelSettings
from negfail_nb.training import load_model, make_tokenizer
from negfail_nb.trajectory import read_trajectories


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    words = ["Question: Thought: Action: search[who] finish[it] Observation:"] * 3
    tokenizer = make_tokenizer(words, 400)
    shape = ModelSettings(layers=1, width=32, heads=2, vocabulary=400, positions=4096)
    load_model(shape, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_questions_of_ones_own_are_asked_with_ones_own_corpus(tmp_path):
    asked = {"id": "1", "question": "Who?", "answer": "Ada"}
    (tmp_path / "q.jsonl").write_text(json.dumps(asked) + "\n")
    passage = {"title": "Ada", "text": "Ada was a painter."}
    (tmp_path / "p.jsonl").write_text(json.dumps(passage) + "\n")
    project = open_project(
        "pocket", tmp_path, {"evaluate": {"questions": "q.jsonl", "corpus": "p.jsonl"}}
    )
    tasks, tools = open_tasks(project.evaluate, 5, "heldout", results=2)
    assert [t.answer for t in tasks] == ["Ada"]
    assert [t.name for t in tools] == ["search", "calculate"]
    assert tools[0]("painter").startswith("Ada [1]: ") and tools[0].results == 2
    project = open_project("pocket", tmp_path, {"evaluate": {"questions": "q.jsonl"}})
    assert [t.name for t in open_tasks(project.evaluate, 5)[1]] == ["calculate"]


def test_a_corpus_without_questions_is_refused():
    with pytest.raises(ValueError, match="corpus is p.jsonl.*set questions too"):
        open_tasks(CollectSettings(corpus="p.jsonl"), 5)


def test_generated_questions_of_the_two_splits_share_no_passage():
    made = {split: open_tasks(EvaluateSettings(), 12, split) for split in ("train", "heldout")}
    titles = {
        split: {title for title, _ in tools[0].passages} for split, (_, tools) in made.items()
    }
    assert not titles["train"] & titles["heldout"]
    assert all(len(tasks) == 12 for tasks, _ in made.values())


def test_an_endpoint_plays_if_the_settings_say_so(tmp_path):
    project = open_project("pocket", tmp_path, {"endpoint": {"model": "some-model"}})
    player = open_model(project, "endpoint")
    assert isinstance(player, EndpointModel) and player.name == "some-model"
    assert open_model(project).name == "pocket-llama"


@pytest.fixture
def opened(model, tmp_path):
    def opened(**changes):
        live = {"attempts": 2, "max_tokens": 4, "max_calls": 2, "results": 1, "concurrency": 1}
        small = {
            "collect": {"player": "model", "generate": 3},
            "live": live,
            "model": {"name": model},
            "evaluate": {"agent_questions": 3},
        }
        given = {
            stage: {**small.get(stage, {}), **changes.get(stage, {})} for stage in small | changes
        }
        return open_project("pocket", tmp_path, given)

    return opened


def runs_of(project, name):
    return list((project.folder(name).root / project.folder(name).name).iterdir())


def test_live_logs_are_kept_and_nothing_is_asked_twice(opened):
    project = opened()
    logs = make_logs(project)
    assert len(logs) == 6 and {t.source.format for t in logs} == {"live"}
    (run,) = runs_of(project, "collect")
    written = (run / "episodes.jsonl").stat().st_mtime_ns
    again = make_logs(opened(live={"concurrency": 2}))
    assert again.trajectories == logs.trajectories
    assert (run / "episodes.jsonl").stat().st_mtime_ns == written


@pytest.mark.parametrize("budget", [{"episodes": 4}, {"tokens": 250}])
def test_a_spent_budget_leaves_a_collection_open_and_a_larger_one_goes_on(opened, budget):
    project = opened(budget=budget)
    for _ in range(2):
        with pytest.raises(NotWhole, match=r"episodes were not played.*raise budget\.episodes"):
            earlier.report(project)
    (run,) = runs_of(project, "collect")
    assert not (run / "manifest.json").exists()
    kept = {t.id: t for t in read_trajectories(run / "episodes.jsonl")}
    assert 0 < len(kept) < 6
    logs = make_logs(opened())
    assert len(logs) == 6 and runs_of(project, "collect") == [run]
    played = {t.id: t for t in logs if t.id in kept}
    assert played == kept, "what was played is not played again"
    assert len(make_logs(project)) == 6, "what is whole is whole, whatever is left to spend"


def test_a_spent_budget_leaves_an_agents_evaluation_open(opened):
    project = opened(budget={"episodes": 1})
    with pytest.raises(NotWhole, match="2 episodes were not played"):
        earlier.agents(project, ["untuned"])
    scores = earlier.agents(opened(), ["untuned"])["untuned"]
    assert len(scores.table) == 3 and runs_of(project, "agent-untuned") == [scores.run.folder]


def test_another_form_of_chat_asks_anew(opened, tmp_path):
    def folder(**prefix):
        return earlier.agents(opened(prefix=prefix), ["untuned"])["untuned"].run.folder

    own, turn = tmp_path / "own.jinja", "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }}" + turn + "\n{% endfor %}"
    own.write_text(text)
    made = [folder(), folder(thoughts="history"), folder(chat_template="own.jinja")]
    own.write_text(text.replace(": ", " - "))
    made.append(folder(chat_template="own.jinja"))
    assert len(set(made)) == 4 and folder() == made[0]


def test_the_untuned_model_and_every_arm_are_asked_the_same_questions(opened, model):
    train = {"arms": ["vanilla", "dpo"], "budget": "steps", "steps": 1, "batch_tokens": 1024}
    project = opened(
        collect={"player": "teacher", "generate": 24},
        live={"max_calls": 1, "attempts": 3},
        train=train,
        preference={"epochs": 0.01, "batch": 2, "pairs": 1},
        evaluate={"resamples": 100},
    )
    scores = earlier.agents(project)
    assert list(scores) == ["untuned", "vanilla", "dpo"]
    assert len({tuple(sorted(s.table["question_id"])) for s in scores.values()}) == 1
    files = {name: s.run.folder / "episodes.jsonl" for name, s in scores.items()}
    names = {
        name: {t.source.model for t in read_trajectories(file)} for name, file in files.items()
    }
    assert names == {"untuned": {model}, "vanilla": {"vanilla"}, "dpo": {"dpo"}}
    table = compare_agents(scores, project.evaluate, baseline="vanilla")
    assert table["arm"].tolist() == list(scores) and (table["questions"] == 3).all()


def test_logs_of_ones_own_take_no_player(tmp_path):
    (tmp_path / "logs.jsonl").write_text("{}\n")
    changes = {"collect": {"logs": ["logs.jsonl"], "player": "model"}}
    with pytest.raises(ValueError, match="player is 'model', but collect.logs are given too"):
        earlier.logs(open_project("pocket", tmp_path, changes))
