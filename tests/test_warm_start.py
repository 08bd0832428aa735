"""A model learns the form of the logs from worked solutions, and then plays other questions."""

import json
import re

import pytest
from mock_server import MockServer

from negfail_nb import earlier, make_logs, open_project, open_tasks
from negfail_nb.agents import overlaps
from negfail_nb.outlook import outlook
from negfail_nb.settings import EvaluateSettings, ModelSettings
from negfail_nb.sources import warm_start
from negfail_nb.start import start_project
from negfail_nb.training import load_model, make_tokenizer

NAMES = "Ada Bela Cora Dora Edda Fynn Gita Hugo Ines Jost Kira Lena Mona Nils Olga Pina".split()
THINGS = "apples books coins dolls eggs flags gloves hats jars keys".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(["Thought: Action: calculate[1 + 2] finish[3] how many"] * 3, 400)
    shape = ModelSettings(layers=1, width=32, heads=2, vocabulary=400, positions=1024)
    load_model(shape, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def asked(number, wrong=False):
    """A record in SVAMP's layout; each has words of its own, as near copies are one question."""
    name, thing = NAMES[number % len(NAMES)], THINGS[number // len(NAMES) % len(THINGS)]
    first, second = 11 + number, 3 + number % 7
    return {
        "ID": f"chal-{number}",
        "Body": f"{name} keeps {first} {thing} and finds {second} more",
        "Question": f"How many {thing} does {name} have?",
        "Equation": f"( {first}.0 + {second}.0 )",
        "Answer": first + second + wrong,
    }


@pytest.fixture
def project(model, tmp_path, monkeypatch):
    monkeypatch.delenv("NEGFAIL_NB_DATA", raising=False)
    (tmp_path / "data" / "svamp").mkdir(parents=True)
    records = [asked(number, wrong=number == 5) for number in range(150)]
    (tmp_path / "data" / "svamp" / "SVAMP.json").write_text(json.dumps(records))

    def project(**changes):
        small = {
            "collect": {"demonstrations": 6, "generate": 4},
            "live": {"attempts": 2, "temperatures": [0.5, 1.0], "max_tokens": 4, "max_calls": 2},
            "model": {"name": model},
            "train": {"batch_tokens": 1024, "epochs": 1.0, "dtype": "float32"},
            "evaluate": {"questions": ["svamp"], "agent_questions": 3},
            "quality": {"leak_similarity": 0.99},
        }
        given = {stage: small.get(stage, {}) | changes.get(stage, {}) for stage in small | changes}
        return open_project("smollm", tmp_path, given)

    return project


def test_worked_played_and_held_out_questions_are_disjoint(project):
    warm = warm_start(project())
    heldout, _ = open_tasks(project().evaluate, 3, "heldout", data=project().data)
    worked = {t.question_id for t in warm.demonstrations}
    assert len(warm.demonstrations) == 6 and len(warm.tasks) == 4
    assert all(t.success and "Action: calculate[" in str(t.messages) for t in warm.demonstrations)
    learnt = [task for task in open_tasks(project().collect, 0, data=project().data)[0]]
    learnt = [task for task in learnt if task.id in worked]
    parts = {"held out": heldout, "worked": learnt, "played": warm.tasks}
    assert [tool.name for tool in warm.tools] == ["calculate"]
    assert overlaps(parts, 0.99) == () and len(learnt) == 6


def test_a_solution_that_contradicts_its_answer_is_counted_and_not_learnt(project):
    warm = warm_start(project())
    (told,) = warm.demonstrations.problems
    assert told.record == "item 6" and "calculate[16 + 8] gives 24, not 25" in told.reason
    assert "svamp-chal-5" not in {t.question_id for t in warm.demonstrations}


def test_the_tuned_model_plays_and_is_not_tuned_twice(project):
    logs = make_logs(project())
    assert len(logs) == 8 and {t.source.model for t in logs} == {"warm-start"}
    assert {t.source.temperature for t in logs} == {0.5, 1.0}
    trained = warm_start(project()).train()
    written = (trained.folder / "manifest.json").stat().st_mtime_ns
    assert earlier.logs(project()).trajectories == logs.trajectories
    assert (trained.folder / "manifest.json").stat().st_mtime_ns == written


def test_an_endpoint_plays_the_same_questions_by_one_setting(project):
    with MockServer() as server:
        server_of = {"base_url": server.url, "model": "mock"}
        asked = {"collect": {"player": "endpoint"}, "endpoint": server_of}
        logs = make_logs(project(**asked, live={"attempts": 1}))
    assert {t.question_id for t in logs} == {task.id for task in warm_start(project()).tasks}
    first = server.requests[0]["messages"][0]["content"]
    assert "calculate[" in first and "Thought:" in first  # it is told the form
    assert not list(project().home.rglob("warm-start"))  # and nothing is tuned


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"demonstrations": 500}, r"demonstrations.*500"),
        ({"generate": 500}, r"played.*500"),
        ({"player": "teacher"}, r"collect\.player 'teacher'.*needs the player \"model\" or"),
        ({"questions": []}, r"collect\.questions \[\].*such as svamp/train"),
        ({"questions": ["multiarith/train"]}, "mawps/multiarith.jsonl|could not be"),
    ],
)
def test_what_cannot_be_a_warm_start_is_refused(project, changes, said):
    with pytest.raises(ValueError, match=said):
        make_logs(project(collect=changes))


def test_several_sources_are_asked_in_equal_shares_and_in_the_same_order(tmp_path):
    for name, count in (("a", 3), ("b", 5)):
        rows = [
            {"id": f"{name}{n}", "question": f"{name} {n}?", "answer": "1"} for n in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    tasks, _ = open_tasks(EvaluateSettings(questions=given), 0)
    assert [task.id[0] for task in tasks] == list("ababab") + ["b", "b"]
    again, _ = open_tasks(EvaluateSettings(questions=given[1:]), 0)
    assert [task.id for task in again] == [task.id for task in tasks if task.id[0] == "b"]


def test_what_takes_long_is_foretold(project, monkeypatch):
    monkeypatch.setattr("negfail_nb.outlook.multiply_rates", lambda: {"float32": 50.0})
    quiet = {"player": "endpoint", "model": "", "data": "pocket"}
    table = outlook(project(benchmark=quiet, train={"successes": 10, "failures": 20}))
    assert table["notebook"].tolist() == ["01", "01", "04", "05"]
    assert table["what"].tolist()[1:] == ["8 episodes", "training 3 arms", "12 episodes"]
    assert (table["seconds"] > 0).all()
    more = outlook(project(benchmark=quiet, train={"successes": 20, "failures": 40}))
    assert more["tokens"][2] == pytest.approx(2 * table["tokens"][2])
    assert more["seconds"][2] > table["seconds"][2]


def test_a_run_says_first_what_takes_long_and_how_long(project, monkeypatch, capsys):
    from negfail_nb import __main__ as cli
    from negfail_nb import notebooks

    home = project().home
    walked = notebooks.Walked(8, 0, (home,))
    start_project(home)
    monkeypatch.setattr(notebooks, "walk_notebooks", lambda *given, **named: walked)
    monkeypatch.setattr("negfail_nb.outlook.multiply_rates", lambda: {"float32": 50.0})
    changed = {
        "model.name": project().model.name,
        "train.dtype": "float32",
        "collect.demonstrations": 6,
        "collect.generate": 4,
        "benchmark.player": "endpoint",
        "evaluate.questions": "svamp",
        "quality.leak_similarity": 0.99,
    }
    sets = [part for k, v in changed.items() for part in ("--set", f"{k}={v}")]
    assert cli.main(["run", "--profile", "smollm", "--home", str(home), *sets]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"profile smollm, results in {home / 'runs' / 'smollm-own'}"
    assert lines[1].startswith("set here: model.name=")
    assert lines[2].split() == ["notebook", "what", "tokens", "minutes"]
    said = "\n".join(lines[3:])
    assert "04_train        training 3 arms" in said and "08_claims       reads and draws" in said
    assert re.search(
        r"about \d+ minutes on this machine, half to twice as long\nnotebooks: 8", said
    )
