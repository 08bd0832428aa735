"""Arms with scripted models: what a model is shown, and what is read of its replies."""

import asyncio
import json
import re
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from benchmark_towns import PASSAGES, POOL, QUESTIONS, SMALL, Words, answer_well, play, shown_titles
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.agents import EpisodeTooLong, ModelError, Reply, ScriptedModel
from negfail_nb.agents.tools import SearchTool
from negfail_nb.benchmarking import benchmark, open_benchmark
from negfail_nb.benchmarking.arms import ARMS, Arm, expand_arms, play_arm
from negfail_nb.benchmarking.prompts import Said, open_prompt
from negfail_nb.benchmarking.question_run import Agent, Answered, Setup
from negfail_nb.benchmarking.records import Passage
from negfail_nb.settings import LiveSettings
from negfail_nb.views.benchmark import arm_title, reading_table
from recipes.pocket_llama.lessons import reading_prompt

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
        ("It is Paris.", Said("It is Paris", plain=True)),
        ("Name Surname [3]", Said("Name Surname", (3,), plain=True)),
        ("Yes, the answer is yes.", Said("yes", plain=True)),
        ("The answer to the question is: Paris [2].\nIt is old.", Said("Paris", (2,), plain=True)),
        ("Final answer is Paris\nSources: [1]", Said("Paris", (1,), plain=True)),
        ("Answer\uff1aParis", Said("Paris")),
        ("<thinking>Answer: one</thinking>two", Said("two", plain=True)),
        ("Answer: one</think>The answer is two.", Said("two", plain=True)),
        ("<think>Answer: one", Said(reason="the reply ends within its thought")),
        ("Answer: \nSources: [1]", Said(None, (1,))),
        ("Sources: [" + "9" * 5000 + "]\nAnswer: x", Said("x", (10**9 - 1, 99999))),
        ("", Said()),
    ],
)
def test_what_a_reply_says(reply, said):
    assert open_prompt("instructed").read(reply, searching=True) == said


def test_a_search_that_is_not_offered_is_no_search():
    assert open_prompt("instructed").read("Search: x") == Said()
    assert open_prompt("bare").read("It is y [2].") == Said("It is y", (2,), plain=True)
    assert open_prompt("bare").read("It is x.\nAnswer: y") == Said("y")
    assert open_prompt("bare").read("It is x.\nAnswer: y", searching=True) == Said(
        "y", None, "It is x. y"
    )
    assert open_prompt("bare").read("The x of Y [7] is z [7].\nAnswer: z [1]", True) == Said(
        "z [1]", (7,), "The x of Y is z . z"
    )


@pytest.mark.parametrize("style", ["instructed", "bare"])
def test_strict_reading_takes_the_asked_form_only(style):
    for reply in ("It is Paris.", "Yes, the answer is yes.", "Name Surname"):
        assert open_prompt(style).read(reply, strict=True).answer is None
    assert open_prompt(style).read("Answer: yes", strict=True) == Said("yes")


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
        return (
            f"Search: {next(queries)}"
            if "Search:" in messages[-1]["content"]
            else "Answer: 1902\nSources: [5], [6]"
        )

    done = play("retrieve_3", script, question=QUESTIONS[2])
    assert [len(call) for call in calls] == [1, 3, 5]
    assert all(later[: len(call)] == call for call, later in pairwise(calls))
    shown = [title for message in calls[-1][::2] for title in shown_titles(message["content"])]
    assert (
        shown == [PASSAGES[n].title for n in done.passages]
        and len(set(shown)) == len(shown) == SMALL.total
    )
    assert re.findall(
        r" \[(\d)]: ", "\n".join(m["content"] for m in calls[-1][::2]), re.MULTILINE
    ) == list("12345")
    assert done.queries == (QUESTIONS[2].question, "Notes of the year 3", "Ms Limason born")
    assert [len(r.passages) for r in done.retrievals] == [2, 2, 1]
    assert done.cited == (shown[4], "[6]"), (
        "a number that was not shown counts against the citations"
    )
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
    assert (done.prediction, done.termination, done.parse_failed, len(done.calls)) == (
        None,
        "no_answer",
        True,
        3,
    )


def test_bare_steps_search_for_what_the_reply_states_and_stop_when_it_says_the_same():
    bare = replace(SMALL, prompt="bare", steps=9, total=20)
    done = play(
        "retrieve_3",
        ["It is Ms Osloson.\nAnswer: Ms Osloson", *["It is 1900.\nAnswer: 1900"] * 5],
        bare,
    )
    assert done.queries == (
        QUESTIONS[0].question,
        "It is Ms Osloson. Ms Osloson",
        "It is 1900. 1900",
    )
    assert (done.prediction, len(done.calls), done.cites) == ("1900", 3, True)


def test_steps_end_when_the_pool_is_used_up():
    done = play(
        "retrieve_3", ["Search: mayor"] * 60, replace(SMALL, steps=60, total=1000, passages=7)
    )
    assert sorted(done.passages) == list(range(len(POOL))) and len(done.calls) == 7


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 20),
    st.lists(st.text(max_size=20), max_size=4),
)
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

    monkeypatch.setattr(sys.modules["negfail_nb.benchmarking.arms"], "linked_search", linked_search)
    done = play("retrieve_3_no_model", ["Answer: x"], links="links")
    assert done.passages == (8, 0, 30) and len(done.retrievals) == 2 and len(done.calls) == 1
    assert (seen["links"], seen["queries"], seen["k"]) == (
        "links",
        [QUESTIONS[0].question],
        SMALL.total,
    )
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
    agent = Agent(
        model=tuned,
        prompt=lambda question: prompts.append(question) or f"{question} Correctly.",
        live=live,
    )
    done = play("agent", [], agent=agent)
    assert (done.prediction, done.termination, len(done.calls)) == ("1900", "answered", 2)
    assert PASSAGES[done.passages[0]].title == "Ms Osloson" and len(done.passages) == 2, (
        "the very title comes first"
    )
    assert done.queries == ("Ms Osloson",) and prompts == [QUESTIONS[0].question]
    search = SearchTool([(passage.title, passage.text) for passage in PASSAGES])
    assert asked[1] == f"Observation: {search.show(done.passages)}", (
        "as the agent was trained and is tested elsewhere"
    )
    assert done.calls[1].prompt_tokens > done.calls[0].prompt_tokens


def cut(content):
    return Reply(message={"role": "assistant", "content": content}, finish_reason="length")


def test_a_plain_answer_is_marked_and_strict_reading_is_a_setting():
    done = play("oracle", ["Yes, the answer is 1900."])
    assert (done.prediction, done.plain, done.termination) == ("1900", True, "answered")
    done = play("oracle", ["Yes, the answer is 1900."], replace(SMALL, strict=True))
    assert (done.prediction, done.plain, done.termination) == (None, False, "no_answer")


def test_a_thought_is_kept_in_the_record_and_in_no_later_prompt():
    asked = []

    def script(messages, sampling):
        asked.append(messages)
        return (
            "<think>hm\nAnswer: 1\n</think>Search: the mayor"
            if len(messages) == 1
            else "Answer: 1900"
        )

    done = play("retrieve_3", script)
    assert asked[1][1]["content"] == "Search: the mayor" and done.calls[0].reply.startswith(
        "<think>hm"
    )
    assert done.prediction == "1900"


@pytest.mark.parametrize(
    ("script", "termination", "error"),
    [
        (["It is Paris."], "answered", ""),
        ([""], "no_answer", ""),
        (
            [cut("I think that")],
            "length",
            "the reply was cut after 96 tokens; raise ReadingSettings.answer_tokens",
        ),
        ([cut("Paris\nIt lies in")], "answered", ""),
        (["<think>Answer: Norway"], "no_answer", "the reply ends within its thought"),
        (
            [cut("<think>Answer: Norway")],
            "length",
            "the reply ends within its thought; the reply was cut after 96 tokens; raise "
            "ReadingSettings.answer_tokens",
        ),
        (
            [EpisodeTooLong("9 tokens, and the window is 8")],
            "too_long",
            "9 tokens, and the window is 8",
        ),
        (
            [RuntimeError("api_key=sk-0123456789abcdefghijklmn")],
            "crashed",
            "RuntimeError: api_key=***",
        ),
        (["Answer: \ud800"], "answered", ""),
    ],
)
def test_every_ending_is_a_record_that_can_be_kept(script, termination, error):
    done = play("oracle", script)
    assert (done.termination, done.error, done.prediction is None) == (
        termination,
        error,
        termination != "answered",
    )
    assert Answered.from_dict(json.loads(json.dumps(done.to_dict()).encode())) == done


def test_an_agent_that_does_not_finish_has_no_answer():
    live = LiveSettings(attempts=1, max_calls=2)
    assert (
        play("agent", ["Action: search[x]"] * 2, agent=Agent(live=live)).termination == "max_steps"
    )
    assert play("agent", ["I do not know"], agent=Agent(live=live)).termination == "no_answer"


def test_a_model_that_is_not_there_stops_everything():
    with pytest.raises(ModelError):
        play("oracle", [ModelError("no key")])


def test_arms_by_name():
    assert expand_arms(("oracle", "long_context", "oracle"), (8, 16)) == (
        "oracle",
        "long_context@8",
        "long_context@16",
    )
    assert expand_arms(("long_context@8",), (16,)) == ("long_context@8",)
    for wrong in (
        ("oracles",),
        ("oracle@8",),
        ("long_context@",),
        ("long_context@0",),
        (),
        "oracle",
    ):
        with pytest.raises(ValueError, match="closed_book, oracle"):
            expand_arms(wrong, (8,))
    setup = Setup(model=ScriptedModel(["Answer: x"]), pool=POOL, prompt=open_prompt("bare"))
    assert asyncio.run(play_arm(setup, "oracle", QUESTIONS[0])).prediction == "x"
    with pytest.raises(ValueError, match="needs a context"):
        asyncio.run(play_arm(setup, "long_context", QUESTIONS[0]))


def test_an_arm_is_one_entry_that_estimate_checks_and_tables_take(monkeypatch, tmp_path):
    async def twice(run):
        await run.ask_about(await run.search(run.question.question, 1))
        await run.ask(run.setup.prompt.closed_book(run.question))

    arm = Arm(
        name="twice",
        title="asked twice",
        play=twice,
        prompts=lambda sizes: [sizes.frame + sizes.passage, 2 * sizes.frame],
        needs=("index",),
    )
    monkeypatch.setitem(ARMS, arm.name, arm)
    model = ScriptedModel(lambda messages, sampling: f"Answer: {len(messages)}")
    with pytest.raises(ValueError, match="the arm 'twice' retrieves, but there is no index"):
        benchmark(model, QUESTIONS, ["twice"], pool=POOL)
    made = benchmark(model, QUESTIONS, ["twice"], pool=POOL, index=Words(), folder=tmp_path)
    assert {answer.prediction for answer in made.answers} == {"3"}
    assert made.cost.requests == 2 * len(QUESTIONS) == made.scores.table["requests"].sum()
    assert reading_table(made.scores)["arm"].tolist() == ["twice"]
    assert arm_title("twice") == "asked twice"
    assert open_benchmark(tmp_path).answers == made.answers
