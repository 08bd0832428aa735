"""Passages in document order at a token budget, and retrieval that reads all only if it must."""

import asyncio
import json
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pytest
from benchmark_towns import FAST, PASSAGES, POOL, QUESTIONS, SMALL, Words, play, shown_titles
from figure_checks import check_layout
from html_text import text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_benchmark_contexts import ANSWER, Glued, Tallied, pocket_tokenizer, whole
from test_benchmark_contexts import pool as world
from test_benchmark_contexts import questions as world_questions

from negfail_nb import views
from negfail_nb.agents import EpisodeTooLong, ScriptedModel
from negfail_nb.benchmarking import ARMS, benchmark, estimate
from negfail_nb.benchmarking.arms import expand_arms, play_arm
from negfail_nb.benchmarking.budgets import make_budgets
from negfail_nb.benchmarking.contexts import make_contexts
from negfail_nb.benchmarking.prompts import open_prompt
from negfail_nb.benchmarking.question_run import Answered, Setup
from negfail_nb.curves import tradeoff
from negfail_nb.settings import BudgetSettings, ContextSettings, EvaluateSettings
from negfail_nb.steps import text
from negfail_nb.views.benchmark_viewers import show_answers
from negfail_nb.views.figures import arm_title

BOTH = ("dos_rag", "self_route", "long_context")
LENGTHS = ContextSettings(lengths=(512, 640, 768), fill="random")

# What a model says of passages that do not answer


@pytest.mark.parametrize(
    ("reply", "declined"),
    [
        ("Answer: unanswerable", True),
        ("**Answer:** `UNANSWERABLE`.\nSources: none", True),
        ("Unanswerable", True),
        ("The passages name no mayor, so it is un-answerable from them.", True),
        ("The question cannot be answered from the passages.", True),
        ("<think>Oslo? Answer: Oslo</think>\nAnswer: Unanswerable (no passage says so)", True),
        ("Is it unanswerable? No.\nAnswer: Oslo\nSources: [1]", False),
        ("<think>unanswerable, I think</think>Answer: Oslo", False),
        ("It is not unanswerable: Oslo", False),
        ("<think>Answer: unanswerable", False),
        ("Answer: unanswerable\nWait, passage 2 says it.\nAnswer: Oslo", False),
        ("Answer: Oslo", False),
        ("", False),
    ],
)
def test_a_reply_that_declines_is_known(reply, declined):
    for style in ("instructed", "bare"):
        assert open_prompt(style).declines(reply) == declined


def test_strict_reading_wants_the_asked_form():
    prompt = open_prompt("instructed")
    assert prompt.declines("Answer: unanswerable", strict=True)
    assert not prompt.declines("The question is unanswerable.", strict=True)


WORD = "unanswerable"
AROUND = st.text(" \t.,;:!?*`\"'()[]", max_size=4)
THOUGHT = st.text(st.characters(exclude_characters="<>[\u25c1|"), max_size=30)


@given(AROUND, AROUND, st.lists(st.booleans(), min_size=12, max_size=12), THOUGHT, st.booleans())
def test_case_punctuation_and_thoughts_do_not_matter(before, behind, upper, thought, form):
    word = "".join(c.upper() if up else c for c, up in zip(WORD, upper, strict=True))
    reply = f"<think>{thought}</think>\n{'Answer: ' if form else ''}{before}{word}{behind}"
    assert open_prompt("instructed").declines(reply)


@given(st.text(max_size=200), st.text(max_size=40))
def test_an_answer_that_does_not_hold_the_word_never_declines(said, answer):
    prompt = open_prompt("instructed")
    assert prompt.declines(said) in (True, False)
    assert not prompt.declines(f"It may be {WORD}.\nAnswer: x {answer.replace('<', '')}") or (
        "answer" in answer.casefold()
    )


# Retrieve first, read everything only then


@cache
def towns():
    """The contexts of all questions about towns."""
    how = {"prompt": open_prompt("instructed"), "answer_tokens": SMALL.answer_tokens}
    return make_contexts(QUESTIONS, POOL, pocket_tokenizer(), LENGTHS, **how)


def declining(messages, sampling):
    """Answer from a long prompt only, and cite its first passage."""
    shown = shown_titles(text(messages[-1]))
    return "Answer: 1900\nSources: [1]" if len(shown) > 5 else "Hm.\n**Answer:** Unanswerable."


def test_passages_that_suffice_are_all_that_is_read():
    asked = []

    def script(messages, sampling):
        asked.append(messages)
        return "Answer: 1900\nSources: [2]"

    context = towns()[0]
    done = play("self_route", script, context=context)
    (only,) = asked
    assert len(only) == 1 and "Answer: unanswerable" in only[0]["content"]
    assert shown_titles(only[0]["content"]) == [PASSAGES[n].title for n in done.passages]
    assert len(done.passages) == SMALL.passages and len(done.retrievals) == 1
    assert (done.route, done.target, done.fill) == ("passages", context.target, None)
    assert (done.prediction, done.gold_depths, len(done.cited)) == ("1900", (), 1)


def test_a_model_that_declines_is_shown_everything_in_a_conversation_of_its_own():
    asked = []

    def script(messages, sampling):
        asked.append(messages)
        return declining(messages, sampling)

    context = towns()[0]
    done = play("self_route", script, context=context)
    assert len(asked) == 2 and asked[1] == context.messages, "as the arm long_context is asked"
    assert (done.route, done.prediction, done.passages) == ("everything", "1900", context.passages)
    assert done.fill == pytest.approx(context.fill) and done.gold_depths
    assert done.gold_found == QUESTIONS[0].gold and len(done.retrievals) == 1
    assert done.cited == (POOL[context.passages[0]].title,), "a citation is one of the last prompt"
    assert [call.prompt_tokens > 0 for call in done.calls] == [True, True]
    assert Answered.from_dict(json.loads(json.dumps(done.to_dict()))) == done
    old = {name: value for name, value in done.to_dict().items() if name != "route"}
    assert Answered.from_dict(old).route == ""


def test_what_does_not_fit_the_window_is_a_record_that_says_the_route():
    replies = iter(["Answer: unanswerable", EpisodeTooLong("9 tokens, and the window is 8")])
    done = play("self_route", lambda *given: next(replies), context=towns()[0])
    assert (done.route, done.termination, done.prediction) == ("everything", "too_long", None)


# A budget


@settings(max_examples=15, deadline=None)
@given(st.integers(300, 2500), st.integers(0, 2**31), st.sampled_from(["bare", "glued", "tallied"]))
def test_a_budget_holds_the_best_whole_passages_and_never_more(target, seed, prompt):
    prompt = {"glued": Glued(), "tallied": Tallied()}.get(prompt) or open_prompt(prompt)
    budgets, question = made(prompt), world_questions()[seed % 12]
    ranked = np.random.default_rng(seed).permutation(len(world()))[:40].tolist()
    packed = budgets.pack(question, ranked, target)
    count = len(packed.taken)
    assert list(packed.taken) == ranked[:count] and packed.passages == tuple(sorted(packed.taken))

    def size(numbers):
        message = budgets.tokens.message(question, [world()[n] for n in sorted(numbers)])
        asked = SimpleNamespace(messages=[{"role": "user", "content": message}])
        return len(whole(pocket_tokenizer(), asked)) + ANSWER

    assert packed.tokens == size(packed.taken) <= target and packed.fill == packed.tokens / target
    assert packed.full == (count < len(ranked))
    assert not packed.full or size(ranked[: count + 1]) > target


@cache
def made(prompt):
    how = {"prompt": prompt, "answer_tokens": ANSWER}
    return make_budgets(world_questions(), world(), pocket_tokenizer(), (300,), **how)


def budgets():
    how = {"prompt": open_prompt("instructed"), "answer_tokens": SMALL.answer_tokens}
    return make_budgets(QUESTIONS, POOL, pocket_tokenizer(), (512,), **how)


def test_passages_stand_in_the_order_of_the_pool_and_one_call_is_made():
    asked = []
    given = {"question": QUESTIONS[5], "budgets": budgets()}
    done = play("dos_rag@512", lambda m, s: asked.append(m) or "Answer: 1900", **given)
    (only,) = asked
    assert shown_titles(text(only[0])) == [PASSAGES[n].title for n in done.passages]
    best = Words()._best(QUESTIONS[5].question).tolist()
    assert list(done.passages) == sorted(done.passages) == sorted(best[: len(done.passages)])
    assert list(done.retrievals[-1].passages) == best[: len(done.passages)] != list(done.passages)
    assert (done.arm, done.target, done.label) == ("dos_rag", 512, "dos_rag@512")
    assert 0.9 < done.fill <= 1 and (done.route, done.gold_depths) == ("", ())


def test_a_search_is_repeated_until_the_budget_is_full_or_the_pool_used_up(monkeypatch):
    few = budgets()
    monkeypatch.setattr(few, "guess", lambda target: 3)
    done = play("dos_rag@512", ["Answer: x"], budgets=few)
    once = play("dos_rag@512", ["Answer: x"], budgets=budgets())
    assert len(done.retrievals) > 1 == len(once.retrievals) and done.passages == once.passages
    everything = play("dos_rag@100000", ["Answer: x"], budgets=few)
    assert everything.passages == tuple(range(len(POOL))) and everything.fill < 0.1


# Both in the grid


def run(script=declining, arms=BOTH, folder=None, **more):
    model = ScriptedModel(script, name="m") if callable(script) else script
    given = {"pool": POOL, "index": Words(), "tokenizer": pocket_tokenizer(), "contexts": LENGTHS}
    return benchmark(model, QUESTIONS, arms, SMALL, folder=folder, **given | more)


class Counting(ScriptedModel):
    def __init__(self):
        super().__init__(declining, name="m")
        self.asked = 0

    async def reply(self, messages, sampling, tools=()):
        self.asked += 1
        return await super().reply(messages, sampling, tools)


def test_a_bare_name_stands_for_the_lengths_that_one_expects():
    assert expand_arms(("dos_rag", "self_route"), (16, 8, 32)) == (
        *("dos_rag@8", "dos_rag@16"),
        "self_route@32",
    )
    assert expand_arms(("dos_rag", "self_route@8"), (32,)) == ("dos_rag@32", "self_route@8")
    with pytest.raises(ValueError, match="unknown arm 'dos_rag@x'"):
        expand_arms(("dos_rag@x",), (8,))


def test_costs_answers_scores_and_a_second_call(tmp_path):
    model = Counting()
    part = run(model, folder=tmp_path, budget=BudgetSettings(episodes=13))
    assert len(part.answers) == 13 and part.problems
    bench = run(model, folder=tmp_path)
    count = len(QUESTIONS)
    assert bench.labels == (
        *("dos_rag@512", "dos_rag@640", "self_route@768"),
        *(f"long_context@{length}" for length in LENGTHS.lengths),
    )
    assert model.asked == sum(len(answer.calls) for answer in bench.answers) == count * 7
    assert run(model, folder=tmp_path).answers == bench.answers and model.asked == count * 7
    cost = estimate(BOTH, QUESTIONS, SMALL, POOL, contexts=LENGTHS, tokenizer=pocket_tokenizer())
    most = cost.table.set_index("arm")["prompt_tokens"]
    tokens = bench.scores.table.groupby("arm")["prompt_tokens"].sum()  # as words
    assert cost.requests == count * 7 and (tokens <= most[tokens.index]).all()
    assert most["dos_rag@512"] == count * (512 - SMALL.answer_tokens)
    nested = {(a.question_id, a.target): a.passages for a in bench.answers if a.arm == "dos_rag"}
    assert all(set(nested[q.id, 512]) < set(nested[q.id, 640]) for q in QUESTIONS)


def test_the_share_that_read_everything_stands_in_the_tables():
    def script(messages, sampling):
        enough = any(city in text(messages[0]) for city in ("mayor of Oslo b", "mayor of Rome b"))
        return "Answer: 1900" if enough else declining(messages, sampling)

    bench = run(script)
    table = views.reading_table(bench.scores, settings=FAST).set_index("arm")
    assert table["routed"]["self_route@768"] == pytest.approx(100 * 6 / 8)
    assert table["routed"].drop("self_route@768").isna().all()
    page = text_of(views.show_reading(table.reset_index()))
    assert "read everything, %" in page and "75.0" in page
    assert "retrieval, else all, 768 (read everything)" in text_of(show_answers(bench, "q5"))
    curve = tradeoff(bench, EvaluateSettings(resamples=100))
    seconds = [answer for answer in bench.answers if answer.arm == "self_route"]
    assert {len(answer.calls) for answer in seconds} == {1, 2}
    assert set(curve.table["arm"]) == set(bench.labels)


@pytest.mark.parametrize(
    ("arms", "more", "said"),
    [
        (("dos_rag",), {"index": None}, "'dos_rag' retrieves, but there is no index"),
        (("dos_rag",), {"tokenizer": None}, "the arm 'dos_rag' counts tokens"),
        (("self_route",), {"tokenizer": None}, "the arm 'self_route' counts tokens"),
        (("dos_rag@640",), {"window": 600}, "holds 640, but the model takes 600 tokens"),
        (("dos_rag@128",), {}, "128 tokens holds no passage: question 'q0' takes"),
        (("self_route@100000",), {}, "holds 100000, but the pool's 46 passages"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_first_request(arms, more, said):
    model = Counting()
    with pytest.raises(ValueError, match=said):
        run(model, arms, **more)
    assert not model.asked


def test_an_arm_alone_says_what_it_lacks():
    setup = Setup(model=ScriptedModel(["x"]), pool=POOL, prompt=open_prompt("bare"), index=Words())
    ask = partial(play_arm, setup, question=QUESTIONS[0])
    with pytest.raises(ValueError, match="needs a budget, such as dos_rag@4096"):
        asyncio.run(ask("dos_rag"))
    with pytest.raises(ValueError, match="self_route needs a context"):
        asyncio.run(ask("self_route"))
    setup = replace(setup, budgets=budgets())
    assert asyncio.run(play_arm(setup, "dos_rag@512", QUESTIONS[0])).prediction == "x"


# Figures


def test_every_arm_with_lengths_is_a_line_of_its_own_look():
    bench = run(lambda messages, sampling: "Answer: 1900")
    table = views.reading_table(bench.scores, settings=FAST)
    figure = views.draw_accuracy(table)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["long context", "passages in order", "retrieval, else all"]
    looks = {(h.get_color(), h.get_marker()) for h in figure.legends[0].legend_handles}
    assert len(looks) == 3
    found = views.tradeoff_table(tradeoff(bench, FAST), "em", ("tokens",))
    drawn = views.draw_tradeoff(found)
    shown = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert shown == ["frontier", "long context", "passages in order", "retrieval, else all"]
    assert "no arm beats: retrieval, else all, 768" in drawn.caption
    check_layout(figure)
    check_layout(drawn)
    published = views.published_table(tradeoff(bench, FAST))
    own = published[published["name"] == "own long contexts"]
    assert own["length"].tolist() == [512, 640, 768]


def test_no_two_arms_look_alike():
    looks = [tuple(map(str, views.figures.look_of(arm).values())) for arm in ARMS]
    assert len(set(looks)) == len(ARMS)
    assert arm_title("dos_rag@4096") == "passages in order, 4K"
