"""The grid with scripted models: nothing is asked twice, nothing is lost, and what it will cost."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from benchmark_towns import FAST, PASSAGES, POOL, QUESTIONS, SMALL, Words, answer_well, shown_titles
from mock_server import MockServer

from negfail_nb.agents import EndpointModel, ModelError, ScriptedModel
from negfail_nb.benchmarking.arms import ARMS, expand_arms
from negfail_nb.benchmarking.costs import estimate
from negfail_nb.benchmarking.grid import benchmark
from negfail_nb.benchmarking.pools import MemoryPool
from negfail_nb.benchmarking.question_run import Agent, read_answers
from negfail_nb.runs import SettingsChanged
from negfail_nb.settings import (
    BudgetSettings,
    ContextSettings,
    EndpointSettings,
    LiveSettings,
    ReadingSettings,
)

# The grid


def run(
    folder, script=answer_well, arms=("closed_book", "oracle", "retrieve_3"), settings=SMALL, **more
):
    model = (
        script if hasattr(script, "reply") else ScriptedModel(script, name=more.pop("name", "m"))
    )
    given = {"pool": POOL, "index": Words()} | more
    return benchmark(
        model, given.pop("questions", QUESTIONS), arms, settings, folder=folder, **given
    )


class Counting(ScriptedModel):
    """Counts the conversations that it was asked to go on with."""

    def __init__(self, script=answer_well, **more):
        super().__init__(script, **more)
        self.name, self.asked = "m", []

    async def reply(self, messages, sampling, tools=()):
        self.asked.append(json.dumps(messages))
        return await super().reply(messages, sampling, tools)


def test_a_grid_has_every_arm_on_the_same_questions(tmp_path):
    bench = run(tmp_path)
    assert [a.id for a in bench.answers] == [
        f"{arm}/{q.id}" for arm in ("closed_book", "oracle", "retrieve_3") for q in QUESTIONS
    ]
    table = bench.scores.by(settings=FAST).set_index("arm")
    assert table["em"].to_dict() == {"closed_book": 0, "oracle": 1, "retrieve_3": 1}
    assert table["requests"].to_dict() == {"closed_book": 1, "oracle": 1, "retrieve_3": 2}
    assert table["gold_found"].to_dict() == {"closed_book": 0, "oracle": 1, "retrieve_3": 1}
    assert sorted(a.id for a in read_answers(tmp_path / "answers.jsonl")) == sorted(
        a.id for a in bench.answers
    )
    assert not bench.problems and bench.cost.requests >= sum(len(a.calls) for a in bench.answers)


def test_a_grid_runs_where_an_event_loop_runs_already(tmp_path):
    async def cell():
        return run(tmp_path, arms=["oracle"])

    assert len(asyncio.run(cell()).answers) == 8


@pytest.mark.parametrize("folder", [True, False])
def test_nothing_is_asked_twice(tmp_path, folder):
    model = Counting()
    first = run(tmp_path if folder else None, model)
    asked = len(model.asked)
    assert asked == len(set(model.asked)) == 8 * 4
    again = run(tmp_path if folder else None, model, arms=("oracle", "retrieve_1", "closed_book"))
    assert len(model.asked) - asked == (8 if folder else 24), "one arm is new"
    oracle = [a for a in first.answers if a.arm == "oracle"]
    assert [(a.id, a.prediction) for a in again.answers[:8]] == [
        (a.id, a.prediction) for a in oracle
    ]


def test_a_budget_stops_the_grid_and_a_larger_one_goes_on(tmp_path, caplog):
    model = Counting()
    part = run(
        tmp_path, model, budget=BudgetSettings(episodes=5), settings=replace(SMALL, concurrency=3)
    )
    assert len(part.answers) == 5 and "19 questions were not asked" in part.problems[0].reason
    spent = run(tmp_path, model, budget=BudgetSettings(tokens=1))
    assert len(spent.answers) == 5 and "budget of 1 tokens" in spent.problems[0].reason
    assert len(run(tmp_path, model).answers) == 24 and len(model.asked) == 32


KILLED = """
import sys, time
sys.path.insert(0, "tests")
from test_benchmark_grid import *

class Slow(Counting):
    async def reply(self, *given):
        reply = await super().reply(*given)
        with open(sys.argv[2], "a") as stream:
            stream.write(self.asked[-1] + "\\n")
        await asyncio.sleep(0.02)
        return reply

run(sys.argv[1], Slow(), settings=replace(SMALL, concurrency=2))
"""


def test_a_killed_grid_goes_on_without_repeating_what_it_has(tmp_path):
    log = tmp_path / "asked"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run"), str(log)]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    kept = tmp_path / "run" / "answers.jsonl"
    deadline = time.monotonic() + 60
    while (
        not (kept.exists() and kept.read_bytes().count(b"\n") >= 6) and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    whole = kept.read_bytes().rpartition(b"\n")[0].count(b"\n") + 1
    assert 6 <= whole < 24
    with kept.open("ab") as stream:
        stream.write(b'{"question_id": "q7", "ar')  # as a kill in the middle of a line leaves it
    model = Counting()
    bench = run(tmp_path / "run", model)
    assert len(bench.answers) == 24 and bench.scores.table["em"].mean() == 2 / 3
    both = set(log.read_text().splitlines()) & set(model.asked)
    assert len(both) <= 2 * 3, (
        "only the two questions that were under way are asked again, from their beginning"
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": replace(SMALL, passages=3)}, "reading.passages: 2 -> 3"),
        ({"contexts": ContextSettings(seed=3)}, "contexts.seed: 0 -> 3"),
        ({"index": Words("two")}, "index: 'one' -> 'two'"),
        ({"pool": MemoryPool(PASSAGES[:-1])}, "pool: "),
        ({"questions": QUESTIONS[:3]}, "questions.count: 8 -> 3"),
        ({"name": "n"}, "model: 'm' -> 'n'"),
        ({"agent": Agent(prompt=str.upper)}, "agent.prompt: 'question' -> 'QUESTION'"),
    ],
)
def test_changed_settings_are_refused_by_name(tmp_path, change, named):
    run(tmp_path, arms=["oracle"])
    with pytest.raises(SettingsChanged, match=re.escape(named)):
        run(tmp_path, arms=["oracle"], **change)


def test_what_may_change(tmp_path):
    run(tmp_path, arms=["oracle"])
    model = Counting()
    changed = replace(SMALL, concurrency=1)
    run(
        tmp_path, model, arms=("oracle",), settings=changed, contexts=ContextSettings(lengths=(64,))
    )
    assert not model.asked


def test_crashes_stay_unless_they_are_tried_again(tmp_path):
    def script(messages, sampling):
        return RuntimeError("lost") if "Rome" in str(messages) else answer_well(messages, sampling)

    bench = run(tmp_path, script, arms=["oracle"])
    assert [a.termination for a in bench.answers].count("crashed") == 1
    assert bench.scores.table["em"].mean() == 7 / 8
    assert run(tmp_path, arms=["oracle"]).scores.table["em"].mean() == 7 / 8
    model = Counting()
    assert run(tmp_path, model, arms=["oracle"], retry_crashed=True).scores.table["em"].mean() == 1
    assert len(model.asked) == 1


@pytest.mark.parametrize("error", [ModelError("no such host"), KeyboardInterrupt()])
def test_an_abort_keeps_what_is_finished(tmp_path, error):
    def script(messages, sampling):
        if "Bern" in str(messages):
            raise error
        return answer_well(messages, sampling)

    with pytest.raises(type(error)):
        run(tmp_path, script, arms=["oracle"], settings=replace(SMALL, concurrency=1))
    assert [a.question_id for a in read_answers(tmp_path / "answers.jsonl")] == ["q0", "q1", "q2"]
    assert len(run(tmp_path, arms=["oracle"]).answers) == 8


def test_no_more_questions_at_once_than_the_setting_says(tmp_path):
    class Busy(Counting):
        now = most = 0

        async def reply(self, *given):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.005)
            self.now -= 1
            return await super().reply(*given)

    model = Busy()
    run(tmp_path, model, settings=replace(SMALL, concurrency=3))
    assert model.most == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ["retrieval"]}, "unknown arm 'retrieval'"),
        ({"questions": []}, "no questions"),
        ({"questions": [replace(QUESTIONS[0], question=" ")]}, "question 'q0' is empty"),
        ({"questions": [QUESTIONS[0]] * 2}, "two questions have the id 'q0'"),
        (
            {"questions": [replace(QUESTIONS[0], facts=(("Berlin", 0),))]},
            "'q0': the pool has no passage titled 'Berlin'",
        ),
        (
            {"questions": [replace(QUESTIONS[0], facts=())]},
            "'oracle' needs gold passages, and q0 of 1 questions",
        ),
        ({"index": None}, "'retrieve_3' retrieves, but there is no index"),
        ({"arms": ["long_context"]}, "give the model's own: benchmark"),
        (
            {"arms": ["retrieve_3_no_model"], "index": Words(method="dense")},
            "scores words; give an index of method",
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_request(tmp_path, change, message):
    model = Counting()
    with pytest.raises(ValueError, match=message):
        run(tmp_path, model, **change)
    assert not model.asked


# Long contexts, endpoints, costs


@pytest.fixture(scope="module")
def tokenizer():
    from negfail_nb.training import (
        make_tokenizer,  # torch is slow to import, and one test starts Python anew
    )

    return make_tokenizer([f"{p.title}: {p.text}" for p in PASSAGES] * 3, 400)


LONG = {"arms": ["long_context"], "settings": replace(SMALL, prompt="bare", answer_tokens=16)}


def test_long_contexts_are_asked_as_they_were_made(tmp_path, tokenizer):
    model, lengths = Counting(), ContextSettings(lengths=(256, 512))
    bench = run(tmp_path, model, contexts=lengths, tokenizer=tokenizer, **LONG)
    assert [a.label for a in bench.answers] == ["long_context@256"] * 8 + ["long_context@512"] * 8
    for answer, longer in zip(bench.answers[:8], bench.answers[8:], strict=True):
        assert 0.95 <= answer.fill <= 1 and len(answer.gold_found) == len(answer.gold_depths) == 2
        assert set(answer.passages[:-1]) < set(longer.passages)
    contents = [json.loads(asked)[0]["content"] for asked in model.asked]
    lines = sorted([shown_titles(content) for content in contents])
    assert lines == sorted([PASSAGES[n].title for n in a.passages] for a in bench.answers)
    assert all(len(tokenizer(content)["input_ids"]) < 512 for content in contents)
    more = ContextSettings(lengths=(256, 512, 768))
    assert len(run(tmp_path, model, contexts=more, tokenizer=tokenizer, **LONG).answers) == 24
    assert len(model.asked) == len(set(model.asked)) == 24, "only the new length is asked"
    table = bench.scores.by("length", settings=FAST)
    assert table["length"].tolist() == [256, 512] and table["em"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 300}, "300"),
        ({"index": None}, "fill is 'mixed', but there is no index"),
        ({"contexts": ContextSettings(lengths=(32,))}, "begin at"),
    ],
)
def test_contexts_that_cannot_be_made(tmp_path, tokenizer, change, message):
    model = Counting()
    with pytest.raises(ValueError, match=message):
        run(
            tmp_path,
            model,
            **{"contexts": ContextSettings(lengths=(512,)), "tokenizer": tokenizer} | LONG | change,
        )
    assert not model.asked


def test_behind_an_endpoint_cached_tokens_are_counted(tmp_path):
    questions = [
        replace(question, question=f"What is {n}?", answer=str(n))
        for n, question in enumerate(QUESTIONS)
    ]
    live = LiveSettings(attempts=1, temperatures=(0.0,))
    with MockServer(faults=["500"]) as server:
        model = EndpointModel(EndpointSettings(base_url=server.url, model="m"), first_wait=0.01)
        bench = run(
            tmp_path, model, ["agent", "oracle"], questions=questions, agent=Agent(live=live)
        )
        assert len(server.requests) == 8 * 3 + 1
    table = bench.scores.by(settings=FAST).set_index("arm")
    assert table["em"].to_dict() == {"agent": 1, "oracle": 0}
    assert table["cached_tokens"].to_dict() == {"agent": 1, "oracle": 0}
    assert bench.answers[0].queries == ("What is 0?",) and bench.answers[0].passages


def test_the_estimate_is_near_what_is_spent(tmp_path):
    def script(messages, sampling):
        return (
            "Search: year " if "Search:" in messages[-1]["content"] else "Answer: "
        ) + "word " * 30

    def words(texts, add_special_tokens):
        return {"input_ids": [text.split() for text in texts]}

    settings, arms = (
        replace(SMALL, answer_tokens=32, steps=2),
        ("closed_book", "oracle", "retrieve_1", "retrieve_3"),
    )
    cost = estimate(arms, QUESTIONS, settings, POOL, tokenizer=words).table.set_index("arm")
    spent = (
        run(tmp_path, script, arms, settings)
        .scores.table.groupby("arm")[list(cost.columns[1:])]
        .sum()
    )
    assert cost["requests"].to_dict() == spent["requests"].to_dict()
    for column in ("prompt_tokens", "completion_tokens"):
        assert (cost[column] / spent[column]).between(0.8, 1.6).all(), column


def test_the_estimate_counts_every_arm_and_the_hours():
    labels = expand_arms(ARMS, (4096, 8192))
    cost = estimate(labels, QUESTIONS, ReadingSettings(), POOL)
    table = cost.table.set_index("arm")
    assert list(table.index) == list(labels) and (table["prompt_tokens"] > 0).all()
    assert table.loc["long_context@4096", "prompt_tokens"] == 8 * (4096 - 96)
    assert table.loc["agent", "requests"] == 8 * 7
    hours = (
        table["prompt_tokens"].sum() / 1000 / 3600 + table["completion_tokens"].sum() / 100 / 3600
    )
    assert cost.gpu_hours(1000, 100, gpus=4) == pytest.approx(4 * hours)
    with pytest.raises(ValueError, match="above 0"):
        cost.gpu_hours(0, 100)
