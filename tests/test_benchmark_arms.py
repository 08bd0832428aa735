"""Arms and the grid, with scripted models: what a model is shown, what is read of its replies, and what is kept."""

import asyncio
import json
import logging
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mock_server import MockServer

from negfail_nb.benchmark.arms.answers import Answered, Call, read_answers
from negfail_nb.benchmark.arms.estimate import estimate
from negfail_nb.benchmark.arms.grid import benchmark
from negfail_nb.benchmark.arms.playing import expand_arms, open_arm, play_arm
from negfail_nb.benchmark.arms.prompts import Said, open_prompt
from negfail_nb.benchmark.arms.reading import compare_arms, reading_scores
from negfail_nb.benchmark.arms.sitting import Agent, Setup
from negfail_nb.benchmark.corpora.pool import MemoryPool
from negfail_nb.benchmark.corpora.records import Passage, Question
from negfail_nb.collect import EndpointModel, EpisodeTooLong, ModelError, Reply, ScriptedModel
from negfail_nb.collect.tools import SearchTool
from negfail_nb.pocket.lessons import reading_prompt
from negfail_nb.profiles import BudgetSettings, EndpointSettings, EvaluateSettings, LiveSettings
from negfail_nb.runs import SettingsChanged
from negfail_nb.settings import ARMS, ContextSettings, ReadingSettings, RetrievalSettings
from negfail_nb.steps import text

CITIES = ("Oslo", "Rome", "Lima", "Bern", "Kyiv", "Doha", "Riga", "Male")
PASSAGES = [
    *(Passage(f"Mayor of {c}", (f"The mayor of {c} is Ms {c}son.", " She was elected.")) for c in CITIES),
    *(Passage(f"Ms {c}son", (f"Ms {c}son was born in {1900 + n}.", " She sings.")) for n, c in enumerate(CITIES)),
    *(Passage(f"Notes {n}", (f"Nothing of note happened in the year {n}.",)) for n in range(30)),
]
POOL = MemoryPool(PASSAGES)
QUESTIONS = [
    Question(
        id=f"q{n}",
        question=f"When was the mayor of {city} born?",
        answer=str(1900 + n),
        type="bridge",
        facts=((f"Mayor of {city}", 0), (f"Ms {city}son", 0)),
    )
    for n, city in enumerate(CITIES)
]
FAST = EvaluateSettings(resamples=100)
SMALL = ReadingSettings(passages=2, total=5, steps=3)


class Words:
    """An index that counts shared words, in Python."""

    def __init__(self, fingerprint="one", method="linked"):
        self.fingerprint, self.settings = fingerprint, RetrievalSettings(method=method)

    def search(self, queries, k):
        assert 1 <= k <= len(POOL) and all(query.strip() for query in queries)
        return SimpleNamespace(numbers=np.array([self._best(query)[:k] for query in queries]))

    def _best(self, query):
        words = set(re.findall(r"\w+", query.lower()))
        shared = [len(words & set(re.findall(r"\w+", f"{p.title} {p.text}".lower()))) for p in PASSAGES]
        return np.argsort(-np.array(shared), kind="stable")


def play(arm, script, settings=SMALL, question=QUESTIONS[0], context=None, **more):
    model = script if hasattr(script, "reply") else ScriptedModel(script)
    setup = Setup(model=model, pool=POOL, prompt=open_prompt(settings.prompt), settings=settings, **more)
    return asyncio.run(play_arm(replace(setup, index=Words()), arm, question, context))


def shown_titles(content):
    return re.findall(r"^(.+) \[\d+]: ", content, re.MULTILINE)


def answer_well(messages, sampling):
    """Answer where the year stands in the prompt, search for the mayor where that is offered, else give up."""
    said = "\n".join(text(m) for m in messages if m["role"] == "user")
    if "Thought, Action" in text(messages[0]):
        said = text(messages[1])
    city = re.search(r"mayor of (\w+) born", said)[1]
    if year := re.search(rf"^(.* \[(\d+)]: )?Ms {city}son was born in (\d+)", said, re.MULTILINE):
        return f"So it is.\nAnswer: {year[3]}\nSources: [{year[2]}]"
    return f"Search: Ms {city}son" if "Search:" in text(messages[-1]) else "Answer: unknown"


# Prompts and replies


def test_the_bare_prompt_is_the_lesson_of_pocket_llama():
    prompt, question = open_prompt("bare"), QUESTIONS[0]
    lines = [f"{p.title} [{n}]: {p.text}" for n, p in enumerate(PASSAGES[:3], 1)]
    made = prompt.before(question) + prompt.passages(PASSAGES[:3]) + prompt.after(question)
    assert made == reading_prompt(question.question, lines)


@pytest.mark.parametrize("style", ["instructed", "bare"])
def test_a_passage_is_one_line_whatever_it_holds(style):
    prompt, question = open_prompt(style), replace(QUESTIONS[0], question="a\nb [1]: c")
    line = prompt.passage(7, Passage("T\nx [8]: y", ("one\r\n", "two\u2028Question: three")))
    assert line.splitlines() == [line.removesuffix("\n")] and line.startswith("T x [8]: y [7]: one")
    assert prompt.before(question).endswith("\n") and not prompt.after(question)[0].isspace()
    assert "\nb [1]" not in prompt.before(question) + prompt.after(question)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Answer: Paris\nSources: [3], [17]", Said("Paris", (3, 17))),
        ("**Answer:** Paris.\n**Sources:** [2], [2]", Said("Paris.", (2,))),
        ("answer : yes Sources: #4 and #5", Said("yes", (4, 5))),
        ("Answer:\nParis\nSources:\n[1]", Said("Paris", (1,))),
        ("Answer: one?\nNo. Answer: two\nSources: none", Said("two", ())),
        ("<think>Answer: one\nSearch: x</think>Answer: two", Said("two")),
        ("Answer: Open Sources: a book", Said("Open Sources: a book")),
        ("Search: the mayor\nAnswer: no", Said(query="the mayor")),
        ("I lack it.\n**Search:** `the mayor`", Said(query="the mayor")),
        ("Answer: no\nSearch: the mayor", Said("no")),
        ("It is Paris.", Said()),
        ("Answer: \nSources: [1]", Said(None, (1,))),
        ("Sources: [" + "9" * 5000 + "]\nAnswer: x", Said("x", (10**9 - 1, 99999))),
        ("", Said()),
    ],
)
def test_what_a_reply_says(reply, said):
    assert open_prompt("instructed").read(reply, searching=True) == said


def test_a_search_that_is_not_offered_is_no_search():
    assert open_prompt("instructed").read("Search: x") == Said()
    assert open_prompt("bare").read("It is x.\nAnswer: y") == Said("y")
    assert open_prompt("bare").read("It is x.\nAnswer: y", searching=True) == Said("y", None, "It is x. y")
    assert open_prompt("bare").read("The x of Y [7] is z [7].\nAnswer: z [1]", True) == Said(
        "z [1]", (7,), "The x of Y is z . z"
    )


@given(st.text(max_size=200), st.booleans(), st.sampled_from(["instructed", "bare"]))
def test_no_reply_breaks_the_reading(reply, searching, style):
    said = open_prompt(style).read(reply, searching)
    assert said.answer is None or said.answer.strip() == said.answer != ""


# Arms


@pytest.mark.parametrize(
    ("arm", "count", "gold", "right"),
    [
        ("closed_book", 0, (), False),
        ("oracle", 2, ("Mayor of Oslo", "Ms Osloson"), True),
        ("retrieve_1", 2, ("Mayor of Oslo",), False),
        ("retrieve_3_no_model", 5, ("Mayor of Oslo",), False),
    ],
)
def test_arms_of_one_call(arm, count, gold, right):
    asked = []

    def script(messages, sampling):
        asked.append(messages)
        return answer_well(messages, sampling)

    done = play(arm, script)
    assert len(asked) == 1 and len(asked[0]) == 1 and "Search:" not in asked[0][0]["content"]
    assert [PASSAGES[n].title for n in done.passages] == shown_titles(asked[0][0]["content"])
    assert (len(done.passages), done.gold_found) == (count, gold)
    assert (done.prediction == "1900", done.termination) == (right, "answered")
    assert done.cited == (("Ms Osloson",) if right else None) and done.cites == (count > 0)


def test_three_steps_append_only_repeat_no_passage_and_keep_the_cap():
    calls, queries = [], iter(["Notes of the year 3", "Ms Limason born"])

    def script(messages, sampling):
        calls.append([dict(m) for m in messages])
        return f"Search: {next(queries)}" if "Search:" in messages[-1]["content"] else "Answer: 1902\nSources: [5], [6]"

    done = play("retrieve_3", script, question=QUESTIONS[2])
    assert [len(call) for call in calls] == [1, 3, 5]
    assert all(later[: len(call)] == call for call, later in pairwise(calls))
    shown = [title for message in calls[-1][::2] for title in shown_titles(message["content"])]
    assert shown == [PASSAGES[n].title for n in done.passages] and len(set(shown)) == len(shown) == SMALL.total
    assert re.findall(r" \[(\d)]: ", "\n".join(m["content"] for m in calls[-1][::2]), re.MULTILINE) == list("12345")
    assert done.queries == (QUESTIONS[2].question, "Notes of the year 3", "Ms Limason born")
    assert [len(r.passages) for r in done.retrievals] == [2, 2, 1]
    assert done.cited == (shown[4], "[6]"), "a number that was not shown counts against the citations"
    assert (done.prediction, done.termination) == ("1902", "answered")


def test_three_steps_stop_at_an_answer():
    done = play("retrieve_3", ["Search: the mayor", "Answer: 1900\nSources: [1]", "never asked"])
    assert (len(done.calls), len(done.retrievals), done.prediction) == (2, 2, "1900")


def test_a_search_in_the_last_step_is_not_offered_and_no_answer():
    offered = []

    def script(messages, sampling):
        offered.append("Search:" in messages[-1]["content"])
        return f"Search: {len(messages)}"

    done = play("retrieve_3", script, replace(SMALL, total=30))
    assert offered == [True, True, False] and len(done.passages) == 6
    assert (done.prediction, done.termination, done.parse_failed, len(done.calls)) == (None, "no_answer", True, 3)


def test_bare_steps_search_for_what_the_reply_states_and_stop_when_it_says_the_same():
    bare = replace(SMALL, prompt="bare", steps=9, total=20)
    done = play("retrieve_3", ["It is Ms Osloson.\nAnswer: Ms Osloson", *["It is 1900.\nAnswer: 1900"] * 5], bare)
    assert done.queries == (QUESTIONS[0].question, "It is Ms Osloson. Ms Osloson", "It is 1900. 1900")
    assert (done.prediction, len(done.calls), done.cites) == ("1900", 3, True)


def test_steps_end_when_the_pool_is_used_up():
    done = play("retrieve_3", ["Search: mayor"] * 60, replace(SMALL, steps=60, total=1000, passages=7))
    assert sorted(done.passages) == list(range(len(POOL))) and len(done.calls) == 7


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 20), st.lists(st.text(max_size=20), max_size=4))
def test_three_steps_keep_their_limits_whatever_the_model_says(steps, passages, total, replies):
    calls = []

    def script(messages, sampling):
        calls.append(list(messages))
        return (["Search: " + reply for reply in replies] + ["Answer: x"] * 4)[len(calls) - 1]

    done = play("retrieve_3", script, replace(SMALL, steps=steps, passages=passages, total=total))
    assert 1 <= len(calls) <= steps and len(done.passages) <= min(total, steps * passages)
    assert len(set(done.passages)) == len(done.passages)
    assert all(later[: len(call)] == call for call, later in pairwise(calls))
    assert done.termination in ("answered", "no_answer")


def test_links_are_followed_without_the_model(monkeypatch):
    """The second search gets the hits of the first; its seconds are apart."""
    seen = {}

    def linked_search(index, links, queries, k, settings, first_hits=None):
        seen.update(links=links, queries=queries, k=k, first=first_hits.numbers[0].tolist())
        return SimpleNamespace(numbers=np.array([[8, 0, 30]]))

    monkeypatch.setattr(sys.modules["negfail_nb.benchmark.retrieval.paths"], "linked_search", linked_search)
    done = play("retrieve_3_no_model", ["Answer: x"], links="links")
    assert done.passages == (8, 0, 30) and len(done.retrievals) == 2 and len(done.calls) == 1
    assert (seen["links"], seen["queries"], seen["k"]) == ("links", [QUESTIONS[0].question], SMALL.total)
    assert seen["first"] == list(done.retrievals[0].passages) and seen["first"][0] == 0
    assert done.retrievals[1].passages == done.passages


def test_the_agent_plays_an_episode_over_the_index():
    asked = []

    def script(messages, sampling):
        asked.append(messages[-1]["content"])
        return "Action: search[Ms Osloson]" if len(asked) == 1 else "Action: finish[1900]"

    tuned = ScriptedModel(script, name="tuned")
    live = LiveSettings(attempts=1, temperatures=(0.2,), results=2)
    prompts = []
    agent = Agent(model=tuned, prompt=lambda question: prompts.append(question) or f"{question} Correctly.", live=live)
    done = play("agent", [], agent=agent)
    assert (done.prediction, done.termination, len(done.calls)) == ("1900", "answered", 2)
    assert PASSAGES[done.passages[0]].title == "Ms Osloson" and len(done.passages) == 2, "the very title comes first"
    assert done.queries == ("Ms Osloson",) and prompts == [QUESTIONS[0].question]
    search = SearchTool([(passage.title, passage.text) for passage in PASSAGES])
    assert asked[1] == f"Observation: {search.show(done.passages)}", "as the agent was trained and is tested elsewhere"
    assert done.calls[1].prompt_tokens > done.calls[0].prompt_tokens


@pytest.mark.parametrize(
    ("script", "termination", "error"),
    [
        (["It is Paris."], "no_answer", ""),
        ([""], "no_answer", ""),
        ([Reply(message={"role": "assistant", "content": "I think that"}, finish_reason="length")], "length", ""),
        ([EpisodeTooLong("9 tokens, and the window is 8")], "too_long", "9 tokens, and the window is 8"),
        ([RuntimeError("api_key=sk-0123456789abcdefghijklmn")], "crashed", "RuntimeError: api_key=***"),
        (["Answer: \ud800"], "answered", ""),
    ],
)
def test_every_ending_is_a_record_that_can_be_kept(script, termination, error):
    done = play("oracle", script)
    assert (done.termination, done.error, done.prediction is None) == (termination, error, termination != "answered")
    assert Answered.from_dict(json.loads(json.dumps(done.to_dict()).encode())) == done


def test_an_agent_that_does_not_finish_has_no_answer():
    live = LiveSettings(attempts=1, max_calls=2)
    assert play("agent", ["Action: search[x]"] * 2, agent=Agent(live=live)).termination == "max_steps"
    assert play("agent", ["I do not know"], agent=Agent(live=live)).termination == "no_answer"


def test_a_model_that_is_not_there_stops_everything():
    with pytest.raises(ModelError):
        play("oracle", [ModelError("no key")])


def test_arms_by_name():
    assert expand_arms(("oracle", "long_context", "oracle"), (8, 16)) == ("oracle", "long_context@8", "long_context@16")
    assert expand_arms(("long_context@8",), (16,)) == ("long_context@8",)
    for wrong in (("oracles",), ("oracle@8",), ("long_context@",), ("long_context@0",), (), "oracle"):
        with pytest.raises(ValueError, match="closed_book, oracle"):
            expand_arms(wrong, (8,))
    setup = Setup(model=ScriptedModel(["Answer: x"]), pool=POOL, prompt=open_prompt("bare"))
    assert asyncio.run(open_arm("oracle", setup)(QUESTIONS[0])).prediction == "x"
    with pytest.raises(ValueError, match="needs a context"):
        asyncio.run(open_arm("long_context", setup)(QUESTIONS[0]))


# Scores


def answered(question="q0", arm="oracle", reply="Answer: 1900", **more):
    given = {"prediction": reply.rpartition("Answer: ")[2], "calls": (Call(reply=reply, prompt_tokens=10),), **more}
    return Answered(question_id=question, arm=arm, **given)


def test_scores_are_the_official_ones_best_over_aliases():
    question = Question(
        id="q0", question="?", answer="no", aliases=("the Oslo", "Oslo city"), facts=(("A", 0), ("B", 1))
    )
    rows = [answered(reply="Answer: Oslo"), answered(arm="retrieve_1", reply="Not known. Answer: city Oslo")]
    table = reading_scores(rows, [question]).table
    assert table["em"].tolist() == [1, 0] and table["f1"].tolist() == [1, 1] and table["sub_em"].tolist() == [1, 1]
    assert table["sp_em"].isna().all() and table["joint_f1"].isna().all() and table["cited"].isna().all()


def test_citations_are_scored_by_passage_and_a_missing_one_is_wrong():
    question = Question(id="q0", question="?", answer="x", facts=(("A", 0), ("A", 3), ("B", 1)))
    given = {"reply": "Answer: x", "cites": True}
    rows = [
        answered(arm="oracle", cited=("B", "A"), **given),
        answered(arm="retrieve_1", cited=("A", "[9]"), **given),
        answered(arm="retrieve_3", cited=None, **given),
    ]
    table = reading_scores(rows, [question]).table
    assert table["sp_em"].tolist() == [1, 0, 0] and table["sp_f1"].tolist() == [1, 0.5, 0]
    assert table["joint_em"].tolist() == [1, 0, 0] and table["cited"].tolist() == [1, 1, 0]


def test_failed_questions_stay_in_the_denominator():
    lost = [
        answered("q1", prediction=None, termination="crashed", reply="1901"),
        answered("q2", prediction=None, termination="too_long", calls=()),
        answered("q3", prediction=None, termination="no_answer", reply="It is 1903."),
    ]
    (row,) = reading_scores([answered(), *lost], QUESTIONS).by(settings=FAST).to_dict("records")
    assert (row["questions"], row["em"], row["f1"], row["parse_failure_rate"]) == (4, 0.25, 0.25, 0.25)
    assert row["sub_em"] == 0.5, "what a reply holds counts as in HELMET, though it has not the form"
    assert row["em_low"] <= row["em"] <= row["em_high"] and row["requests"] == 0.75


@pytest.mark.parametrize(
    ("reply", "held"),
    [
        ("Answer: Oslo\nSources: [3], [17]", 0),
        ("Answer: Oslo\n**Sources:**\n3, 17", 0),
        ("Ms A [3] is from Oslo.\nAnswer: Oslo", 0),
        ("Answer: 3 or 4\nSources: [1]", 1),
    ],
)
def test_the_number_of_a_passage_does_not_pass_for_an_answer(reply, held):
    question = replace(QUESTIONS[0], answer="3")
    for cites in (True, False):  # where no citation was asked for, there is none to take out
        table = reading_scores([answered(reply=reply, cites=cites)], [question]).table
        assert table["sub_em"].tolist() == [held if cites else 1]


def test_scores_by_type_length_and_depth():
    rows = [answered("q0", "long_context", target=t, gold_depths=d) for t, d in ((64, (0.1, 0.2)), (128, (0.9, 1.0)))]
    table = reading_scores(rows, QUESTIONS).by("length", "depth_band", settings=FAST)
    assert table[["length", "depth_band"]].values.tolist() == [[64, "0-0.2"], [128, "0.8-1"]]
    with pytest.raises(ValueError, match="no column 'size'"):
        reading_scores(rows, QUESTIONS).by("size")


def test_arms_are_compared_question_by_question(caplog):
    rows = [answered(f"q{n}", "oracle", f"Answer: {1900 + n}") for n in range(7)]
    rows += [answered(f"q{n}", "closed_book", f"Answer: {1900 + n if n < 1 else 'x'}") for n in range(8)]
    with caplog.at_level(logging.WARNING, "negfail_nb"):
        table = compare_arms(reading_scores(rows, QUESTIONS), "closed_book", settings=FAST).set_index("arm")
    assert "1 questions were asked under one only" in caplog.text
    assert table.loc["oracle", "em_difference"] == pytest.approx(6 / 7) and table.loc["oracle", "questions"] == 7
    low, high = table.loc["oracle", ["em_difference_low", "em_difference_high"]]
    assert 0 < low <= 6 / 7 <= high <= 1 and table.loc["oracle", "p"] == pytest.approx(2 / 2**6)
    with pytest.raises(ValueError, match="'agent' is not among the arms"):
        compare_arms(reading_scores(rows, QUESTIONS), "agent")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no answers"),
        ([answered(), answered()], "'oracle/q0' is there twice"),
        ([answered("q99")], "'q99' is not among the questions"),
    ],
)
def test_what_cannot_be_scored(rows, message):
    with pytest.raises(ValueError, match=message):
        reading_scores(rows, QUESTIONS)
    with pytest.raises(ValueError, match="no reference answer"):
        reading_scores([answered()], [replace(QUESTIONS[0], answer="")])


# The grid


def run(folder, script=answer_well, arms=("closed_book", "oracle", "retrieve_3"), settings=SMALL, **more):
    model = script if hasattr(script, "reply") else ScriptedModel(script, name=more.pop("name", "m"))
    given = {"pool": POOL, "index": Words()} | more
    return benchmark(model, given.pop("questions", QUESTIONS), arms, settings, folder=folder, **given)


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
    assert sorted(a.id for a in read_answers(tmp_path / "answers.jsonl")) == sorted(a.id for a in bench.answers)
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
    assert [(a.id, a.prediction) for a in again.answers[:8]] == [(a.id, a.prediction) for a in oracle]


def test_a_budget_stops_the_grid_and_a_larger_one_goes_on(tmp_path, caplog):
    model = Counting()
    part = run(tmp_path, model, budget=BudgetSettings(episodes=5), settings=replace(SMALL, concurrency=3))
    assert len(part.answers) == 5 and "19 questions were not asked" in part.problems[0].reason
    spent = run(tmp_path, model, budget=BudgetSettings(tokens=1))
    assert len(spent.answers) == 5 and "budget of 1 tokens" in spent.problems[0].reason
    assert len(run(tmp_path, model).answers) == 24 and len(model.asked) == 32


KILLED = """
import sys, time
sys.path.insert(0, "tests")
from test_benchmark_arms import *

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
    while not (kept.exists() and kept.read_bytes().count(b"\n") >= 6) and time.monotonic() < deadline:
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
    assert len(both) <= 2 * 3, "only the two questions that were under way are asked again, from their beginning"


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
    run(tmp_path, model, arms=("oracle",), settings=changed, contexts=ContextSettings(lengths=(64,)))
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
        ({"questions": [replace(QUESTIONS[0], facts=(("Berlin", 0),))]}, "'q0': the gold passage 'Berlin' is not in"),
        ({"questions": [replace(QUESTIONS[0], facts=())]}, "'oracle' needs gold passages, and q0 of 1 questions"),
        ({"index": None}, "'retrieve_3' retrieves, but there is no index"),
        ({"arms": ["long_context"]}, "give the model's own: benchmark"),
        ({"arms": ["retrieve_3_no_model"], "index": Words(method="dense")}, "scores words; give an index of method"),
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
    from negfail_nb.train import make_tokenizer  # torch is slow to import, and one test starts Python anew

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
        run(tmp_path, model, **{"contexts": ContextSettings(lengths=(512,)), "tokenizer": tokenizer} | LONG | change)
    assert not model.asked


def test_behind_an_endpoint_cached_tokens_are_counted(tmp_path):
    questions = [replace(question, question=f"What is {n}?", answer=str(n)) for n, question in enumerate(QUESTIONS)]
    live = LiveSettings(attempts=1, temperatures=(0.0,))
    with MockServer(faults=["500"]) as server:
        model = EndpointModel(EndpointSettings(base_url=server.url, model="m"), first_wait=0.01)
        bench = run(tmp_path, model, ["agent", "oracle"], questions=questions, agent=Agent(live=live))
        assert len(server.requests) == 8 * 3 + 1
    table = bench.scores.by(settings=FAST).set_index("arm")
    assert table["em"].to_dict() == {"agent": 1, "oracle": 0}
    assert table["cached_tokens"].to_dict() == {"agent": 1, "oracle": 0}
    assert bench.answers[0].queries == ("What is 0?",) and bench.answers[0].passages


def test_the_estimate_is_near_what_is_spent(tmp_path):
    def script(messages, sampling):
        return ("Search: year " if "Search:" in messages[-1]["content"] else "Answer: ") + "word " * 30

    def words(texts, add_special_tokens):
        return {"input_ids": [text.split() for text in texts]}

    settings, arms = replace(SMALL, answer_tokens=32, steps=2), ("closed_book", "oracle", "retrieve_1", "retrieve_3")
    cost = estimate(arms, QUESTIONS, settings, POOL, tokenizer=words).table.set_index("arm")
    spent = run(tmp_path, script, arms, settings).scores.table.groupby("arm")[list(cost.columns[1:])].sum()
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
    hours = table["prompt_tokens"].sum() / 1000 / 3600 + table["completion_tokens"].sum() / 100 / 3600
    assert cost.gpu_hours(1000, 100, gpus=4) == pytest.approx(4 * hours)
    with pytest.raises(ValueError, match="above 0"):
        cost.gpu_hours(0, 100)
