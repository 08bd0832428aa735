"""Live collection with wrong settings and wrong questions: each a clear error that says what to
change.
"""

import json
import logging
import traceback

import pytest
from mock_server import MockServer
from test_live_endpoint import Answering, Search, ask, endpoint, no_key, play  # noqa: F401

from negfail_nb.agents.endpoint import EndpointModel
from negfail_nb.agents.live import collect
from negfail_nb.agents.protocol import ModelError, Task
from negfail_nb.agents.scripted import ScriptedModel
from negfail_nb.agents.tasks import load_tasks
from negfail_nb.settings import BudgetSettings, EndpointSettings, LiveSettings

KEY = "plain-words-7391"
HOTPOT = {
    "_id": "5a7",
    "question": "Were they of one nationality?",
    "answer": "yes",
    "supporting_facts": [["Scott", 0], ["Ed Wood", 0], ["Scott", 2]],
    "context": [["Scott", ["He is.", "A man."]]],
    "type": "comparison",
}


def stopped(server, folder, **settings):
    with pytest.raises(ModelError) as caught:
        play(server, folder, **settings)
    return str(caught.value), "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("given", ["", KEY])
def test_wrong_or_missing_key(tmp_path, monkeypatch, caplog, given):
    monkeypatch.setenv("MY_KEY", given)
    with MockServer(key="another") as server, caplog.at_level(logging.DEBUG):
        text, trace = stopped(server, tmp_path, key_variable="MY_KEY")
        assert len(server.requests) <= 12, "it is not tried again"
    assert "401" in text and "MY_KEY" in text and ("is not set" in text) == (not given)
    assert KEY not in trace + caplog.text + "".join(path.read_text() for path in tmp_path.iterdir())


def test_a_key_that_no_header_can_hold(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "plain words\nsecond line")
    with MockServer() as server:
        text, trace = stopped(server, tmp_path)
    assert "OPENAI_API_KEY" in text and "second line" not in trace


def test_a_key_is_stripped(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    with MockServer(key=KEY) as server:
        ask(endpoint(server))


def test_a_model_that_the_server_lacks(tmp_path):
    with MockServer(model="llama") as server:
        text, _ = stopped(server, tmp_path, model="lama")
    assert "`lama` does not exist" in text and "EndpointSettings.model" in text


def test_an_address_without_v1(tmp_path):
    with MockServer() as server:
        text, _ = stopped(server, tmp_path, base_url=server.url.removesuffix("/v1"))
    assert "404" in text and "EndpointSettings.base_url" in text


def test_a_web_page(tmp_path):
    with MockServer(faults=["html"] * 99) as server:
        text, _ = stopped(server, tmp_path)
        assert len(server.requests) <= 12
    assert "web page" in text and "It works!" in text and "base_url" in text


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/v1", "http://127.0.0.1:9/v1"])
def test_a_host_that_is_not_there_is_not_tried_again(url):
    model = EndpointModel(EndpointSettings(base_url=url, model="m", retries=100), first_wait=60.0)
    with pytest.raises(ModelError, match="cannot reach .*base_url"):
        ask(model)


@pytest.mark.parametrize("fault", ["hang", "drop"])
def test_a_host_that_never_answers(fault):
    with (
        MockServer(always={"": fault}) as server,
        pytest.raises(ModelError, match="no reply in 2 tries"),
    ):
        ask(endpoint(server, retries=1, timeout=0.2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": ""}, "EndpointSettings.model is empty"),
        ({"base_url": "localhost:8000/v1"}, "must begin with http"),
        ({"base_url": ""}, "OPENAI_API_KEY"),
    ],
)
def test_settings_that_cannot_be_right(tmp_path, settings, words):
    with MockServer() as server:
        text, trace = stopped(server, tmp_path, **settings)
    assert words in text and "secret" not in trace


@pytest.mark.parametrize(
    ("answer", "style", "words"),
    [
        (
            (400, {"error": {"message": "'temperature' must be 1", "param": "temperature"}}),
            "react",
            "temperatures",
        ),
        (
            (400, {"error": {"message": '"auto" tool choice requires --enable-auto-tool-choice'}}),
            "tools",
            "style",
        ),
        (
            (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}),
            "react",
            "credit",
        ),
        ((402, {"error": "Payment required"}), "react", "Payment required"),
    ],
)
def test_refusals_that_stop_everything(tmp_path, answer, style, words):
    with Answering(*[answer] * 99) as server:
        text, _ = stopped(server, tmp_path, settings=LiveSettings(style=style))
        assert len(server.requests) <= 12
    assert words in text


def test_a_server_that_is_gone_stops_everything(tmp_path):
    with MockServer(always={"": "500"}) as server:
        text, _ = stopped(
            server, tmp_path, count=20, retries=0, settings=LiveSettings(concurrency=1)
        )
        assert len(server.requests) == 16
    assert "16 replies in a row were lost" in text


@pytest.mark.parametrize(
    ("tasks", "settings", "budget", "words"),
    [
        ([], {}, {}, "no questions to play"),
        (
            [Task(id="a", question="x"), Task(id="a", question="y")],
            {},
            {},
            "two tasks have the id 'a'",
        ),
        ([Task(id="a", question=" ")], {}, {}, "needs a question"),
        ([Task(id="a", question="x", task="chess")], {}, {}, "chess"),
        ([Task(id="a", question="x")], {"temperatures": ()}, {}, "temperatures is empty"),
        ([Task(id="a", question="x")], {}, {"money": 1.0}, "prompt_price"),
    ],
)
def test_tasks_and_settings_that_cannot_be_played(tmp_path, tasks, settings, budget, words):
    with pytest.raises(ValueError, match=words):
        model = ScriptedModel(["Action: finish[x]"])
        collect(
            model,
            tasks,
            [],
            LiveSettings(**settings),
            file=tmp_path / "a.jsonl",
            budget=BudgetSettings(**budget),
        )
    assert not list(tmp_path.iterdir()), "nothing is written before the arguments are checked"


def test_two_tools_of_one_name(tmp_path):
    with pytest.raises(ValueError, match="'search'"):
        collect(
            ScriptedModel([]),
            [Task(id="a", question="x")],
            [Search(), Search()],
            file=tmp_path / "a.jsonl",
        )


def test_a_damaged_file_of_episodes_is_not_written_to(tmp_path):
    def again():
        return collect(
            ScriptedModel(["Action: finish[x]"]),
            [Task(id="a", question="x")],
            file=tmp_path / "a.jsonl",
        )

    again()
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    damaged = lines[0] + "{damage\n" + lines[1]
    (tmp_path / "a.jsonl").write_text(damaged)
    with pytest.raises(ValueError, match="line 2"):
        again()
    assert (tmp_path / "a.jsonl").read_text() == damaged


def questions(folder, records, lines=True):
    path = folder / "questions.json"
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    return path


@pytest.mark.parametrize("lines", [True, False])
def test_questions_of_three_layouts(tmp_path, lines):
    hub = HOTPOT | {"_id": "6", "supporting_facts": {"title": ["A", "B"], "sent_id": [0, 1]}}
    gsm8k = {"question": "How many?", "answer": "3 * 13 = <<3*13=39>>39\n#### 39"}
    plain = {
        "id": 7,
        "question": " Q? ",
        "answer": 2.5,
        "prompt": "Q? Be brief.",
        "split": "heldout",
    }
    found = load_tasks(questions(tmp_path, [HOTPOT, hub, gsm8k, plain], lines))
    assert found[0] == Task(
        id="5a7",
        question=HOTPOT["question"],
        answer="yes",
        gold_titles=("Scott", "Ed Wood"),
        split="",
    )
    assert found[1].gold_titles == ("A", "B")
    assert (found[2].answer, found[2].task, found[2].id[0]) == ("39", "math", "q")
    assert found[3] == Task(
        id="7", question="Q?", answer="2.5", task="math", prompt="Q? Be brief.", split="heldout"
    )
    assert [t.task for t in load_tasks(tmp_path / "questions.json", task="qa", limit=3)] == [
        "qa"
    ] * 3


def test_missing_answers_are_an_error_unless_allowed(tmp_path):
    path = questions(tmp_path, [HOTPOT, {"question": "a?"}, {"question": "b?", "answer": " "}])
    with pytest.raises(
        ValueError,
        match=r"questions\.json: 2 of 3 records .*line 2: .*require_answers=False.*line 3",
    ):
        load_tasks(path)
    tasks = load_tasks(path, require_answers=False)
    logs = collect(ScriptedModel(["Action: finish[yes]"]), tasks, file=tmp_path / "a.jsonl")
    assert [t.success for t in logs] == [True] * 3 + [None] * 6


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"id": 1, "answer": "x"}, "'question' is missing"),
        ({"question": "", "answer": "x"}, "'question' is empty"),
        ({"question": 5, "answer": "x"}, "'question' is a number"),
        ({"question": "a?", "answer": ["x"]}, "'answer' is a list"),
        ({"question": "a?", "answer": "x", "task": "chess"}, "'task' is text .chess"),
        (5, "not an object"),
    ],
)
def test_a_record_that_cannot_be_played_is_named(tmp_path, record, words):
    with pytest.raises(ValueError, match=f"1 of 2 records cannot be played: line 2: .*{words}"):
        load_tasks(questions(tmp_path, [HOTPOT, record]))


@pytest.mark.parametrize("content", ["", "[]", "\n\n"])
def test_no_questions(tmp_path, content):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(ValueError, match=r"q\.json.*no questions"):
        load_tasks(tmp_path / "q.json")
    with pytest.raises(FileNotFoundError, match="none.json"):
        load_tasks(tmp_path / "none.json")


def test_damage_in_a_file_of_questions_is_named(tmp_path):
    (tmp_path / "q.jsonl").write_text(json.dumps(HOTPOT) + '\n{"question": "a')
    with pytest.raises(ValueError, match="1 of 2 records cannot be played: line 2: not valid JSON"):
        load_tasks(tmp_path / "q.jsonl")


def test_an_id_that_occurs_again_gets_a_number(tmp_path, caplog):
    found = load_tasks(questions(tmp_path, [HOTPOT, HOTPOT, HOTPOT]))
    assert [t.id for t in found] == ["5a7", "5a7~2", "5a7~3"] and "2 questions" in caplog.text
