"""The stage benchmark of a walk: a model on this machine or a server plays the grid, and nothing is
asked twice.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import fields, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from mock_server import MockServer
from negfail_nb.walk import open_walk

from negfail_nb.agents import ScriptedModel
from negfail_nb.benchmarking import (
    MemoryPool,
    Passage,
    Question,
    benchmark,
    load_questions,
    opening,
    read_answers,
)
from negfail_nb.runs import SettingsChanged
from negfail_nb.settings import ContextSettings, ModelSettings, ReadingSettings, get_profile
from negfail_nb.training import load_model, make_tokenizer
from negfail_nb.views.benchmark_viewers import show_context

COUNT = 6
ARMS = ["closed_book", "oracle", "long_context", "retrieve_1", "retrieve_3", "retrieve_3_no_model"]
WINDOW = 1024
NOTES = [
    (f"Note {n}", [f"Note {n} tells of the weather in village {n}.", " It rained all day."])
    for n in range(60)
]


def question_record(n):
    gold = [
        (f"Number {n}", [f"Number {n} is the house of Ada{n}."]),
        (f"Ada{n}", [f"Ada{n} is {n}.", " She sings."]),
    ]
    context = [*gold, *NOTES[10 * n : 10 * n + 10]]
    facts = [[title, 0] for title, _ in gold]
    asked = {"_id": f"q{n}", "question": f"What is {n}?", "answer": str(n), "type": "bridge"}
    return {**asked, "supporting_facts": facts, "context": context}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A project folder with questions and a model that has learnt nothing."""
    folder = tmp_path_factory.mktemp("home")
    records = [question_record(n) for n in range(COUNT)]
    (folder / "q.json").write_text(json.dumps(records))
    texts = [
        f"{title} [3]: {''.join(sentences)}" for r in records for title, sentences in r["context"]
    ]
    tokenizer = make_tokenizer([*texts, "Question: What is 1?\nAnswer: Search: Sources:"] * 3, 600)
    shape = ModelSettings(layers=1, width=32, heads=2, vocabulary=600, positions=WINDOW)
    load_model(shape, tokenizer).save_pretrained(folder / "reader")
    tokenizer.save_pretrained(folder / "reader")
    return folder


def changes(*, server=None, arms=ARMS, questions=0, lengths=(384, 512), seed=0, **asked):
    asked = {
        "data": "q.json",
        "questions": questions,
        "arms": arms,
        "answer_tokens": 8,
        "total": 6,
        **asked,
    }
    asked = {"passages": 2, "model": "reader", "prompt": "instructed", **asked}
    if server:
        asked |= {"player": "endpoint", "concurrency": asked.get("concurrency", 2)}
    how = {f.name for f in fields(ReadingSettings)} - {"seed"}
    found = {
        "contexts": {"lengths": list(lengths), "seed": seed, "fill": "random"},
        "evaluate": {"resamples": 100},
    }
    found["benchmark"] = {k: v for k, v in asked.items() if k not in how}
    found["reading"] = {k: v for k, v in asked.items() if k in how}
    if server:
        found["endpoint"] = {"base_url": server.url, "model": "m", "timeout": 20.0, "retries": 0}
    return found


def opened(home, place, **more):
    """Return a walk whose runs lie in a place of their own, with the questions and the model of
    ``home``.
    """
    for name in ("q.json", "reader"):
        if not (place / name).exists():
            (place / name).symlink_to(home / name)
    return open_walk("pocket", place, changes(**more))


class Reader(MockServer):
    """Searches once where that is offered, then answers."""

    def _reply(self, path, authorization, body):
        status, answer = super()._reply(path, authorization, body)
        last = body["messages"][-1]["content"]
        number = re.search(r"What is (\d+)", last)[1]
        searching = "Search:" in last and len(body["messages"]) < 3
        said = f"Search: Ada{number}" if searching else f"Answer: {number}\nSources: [1]"
        answer["choices"][0]["message"]["content"] = said
        return status, answer


def sent(server):
    return Counter(json.dumps(body["messages"]) for body in server.requests)


def folders(place):
    return sorted((place / "runs" / "pocket" / "benchmark").glob("*"))


# A model on this machine


def test_every_arm_is_played_by_a_model_here_the_tuned_agent_too_and_read_again(
    home, tmp_path, monkeypatch
):
    tuned = {"collect": {"generate": 24, "attempts": 4}, "model": {"name": "reader"}}
    tuned |= {"train": {"arms": ["nat"], "budget": "steps", "steps": 1, "batch_tokens": 1024}}
    tuned |= {
        "live": {"max_calls": 2, "max_tokens": 4, "results": 1},
        "prefix": {"max_tokens": 1024},
    }
    walk = opened(home, tmp_path, arms=[*ARMS, "agent"], questions=3, prompt="bare", model="")
    walk = replace(walk, profile=walk.profile.change(**tuned))
    made = walk.benchmark()
    labels = ["closed_book", "oracle", "long_context@384", "long_context@512", *ARMS[3:], "agent"]
    assert list(made.labels) == labels
    assert [a.id for a in made.answers] == [
        f"{label}/{q.id}" for label in labels for q in made.questions
    ]
    assert not [a.error for a in made.answers if a.termination in ("crashed", "too_long")]
    table = made.scores.by(settings=walk.profile.evaluate).set_index("arm")
    assert (table.loc[["oracle", "long_context@384", "long_context@512"], "gold_found"] == 1).all()
    assert (table["requests"] >= 1).all() and (table["prompt_tokens"] > 0).all()
    for answer in made.answers:
        if (
            answer.arm == "long_context"
        ):  # what the contexts were counted to is what the engine was given
            assert answer.calls[0].prompt_tokens + 8 == round(answer.fill * answer.target)
    cost = made.cost.table.set_index("arm")["prompt_tokens"]
    assert cost.index.tolist() == labels
    spent = made.scores.table.groupby("arm")["prompt_tokens"].sum()
    assert spent["closed_book"] <= cost["closed_book"] <= 1.2 * spent["closed_book"], (
        "the chat template is counted"
    )
    monkeypatch.setattr(
        opening, "open_reader", None
    )  # would fail, were anything opened to be asked
    again = walk.benchmark()
    assert again.answers == made.answers and len(folders(tmp_path)) == 1


# A server


@pytest.fixture
def server():
    with Reader() as server:
        yield server


def test_a_server_plays_and_its_cached_tokens_are_counted(home, tmp_path, server):
    walk = opened(home, tmp_path, server=server)
    made = walk.benchmark()
    table = made.scores.by(settings=walk.profile.evaluate).set_index("arm")
    assert (table["em"] == 1).all() and (table["questions"] == COUNT).all()
    assert table["cached_tokens"].to_dict() == {**dict.fromkeys(table.index, 0), "retrieve_3": 1}
    assert sum(sent(server).values()) == sum(len(a.calls) for a in made.answers) == COUNT * 8
    assert {body["model"] for body in server.requests} == {"m"}
    asked = len(server.requests)
    assert opened(home, tmp_path, server=server, concurrency=7).benchmark().answers == made.answers
    assert len(server.requests) == asked and len(folders(tmp_path)) == 1


def test_later_steps_of_retrieval_only_add_to_what_was_sent(home, tmp_path, server):
    made = opened(home, tmp_path, server=server, arms=["retrieve_3"]).benchmark()
    conversations = defaultdict(list)
    for body in server.requests:
        conversations[body["messages"][0]["content"]].append(body["messages"])
    assert len(conversations) == COUNT and all(len(steps) == 2 for steps in conversations.values())
    for steps in conversations.values():
        for before, after in pairwise(sorted(steps, key=len)):
            assert json.dumps(after).startswith(json.dumps(before)[:-1])
    assert all(len(set(a.passages)) == len(a.passages) == 4 for a in made.answers)


def test_other_settings_are_another_run_and_the_first_one_stays(home, tmp_path, server):
    first = opened(home, tmp_path, server=server, arms=["long_context"])
    answers, asked = first.benchmark().answers, len(server.requests)
    opened(home, tmp_path, server=server, arms=["long_context"], seed=5).benchmark()
    assert len(server.requests) == 2 * asked and len(folders(tmp_path)) == 2
    assert first.benchmark().answers == answers and len(server.requests) == 2 * asked


def test_a_folder_of_other_settings_is_refused(home, tmp_path, server):
    walk = opened(home, tmp_path, server=server, arms=["oracle"])
    opening.play_grid(walk.profile, home, tmp_path / "grid")
    asked = len(server.requests)
    changed = walk.profile.change(reading={"temperature": 0.5})
    with pytest.raises(SettingsChanged, match=r"reading\.temperature: 0\.0 -> 0\.5"):
        opening.play_grid(changed, home, tmp_path / "grid")
    assert len(server.requests) == asked


def test_a_budget_that_is_spent_leaves_the_run_open_and_a_larger_one_goes_on(
    home, tmp_path, server
):
    walk = opened(home, tmp_path, server=server, arms=["oracle", "closed_book"])
    small = replace(walk, profile=walk.profile.change(budget={"episodes": 5}))
    with pytest.raises(
        RuntimeError, match="not whole; its answers are kept.*7 questions were not asked.*raise it"
    ):
        small.benchmark()
    assert len(server.requests) == 5
    assert len(walk.benchmark().answers) == 2 * COUNT and len(folders(tmp_path)) == 1
    assert set(sent(server).values()) == {1} and len(server.requests) == 2 * COUNT


KILLED = """
import json, sys
from negfail_nb.walk import open_walk
open_walk("pocket", sys.argv[1], json.loads(sys.argv[2])).benchmark()
"""


def test_a_killed_walk_goes_on_without_repeating_a_request(home, tmp_path):
    with Reader(delay=0.1) as server:
        given = {"server": server, "arms": ["long_context", "retrieve_3"]}
        walk = opened(home, tmp_path, **given)
        command = [sys.executable, "-c", KILLED, str(tmp_path), json.dumps(changes(**given))]
        killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(server.requests) < 9 and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        (run,) = folders(tmp_path)
        kept = list(read_answers(run / "grid" / "answers.jsonl"))
        before = sent(server)
        assert 4 <= len(kept) < 3 * COUNT and not (run / "manifest.json").exists()
        server.requests.clear()
        made = walk.benchmark()
        assert folders(tmp_path) == [run] and len(made.answers) == 3 * COUNT
        assert made.scores.table["em"].mean() == 1
        assert set(sent(server).values()) == {1}
        spent = sum(len(a.calls) for a in made.answers) - sum(len(a.calls) for a in kept)
        assert len(server.requests) == spent, "what is kept is not asked again"
        assert len(before & sent(server)) <= 2, (
            "only the two questions that were under way begin again"
        )


def test_what_is_missing_is_said_before_anything_is_asked(home, tmp_path, server):
    walk = opened(home, tmp_path, server=server, model="")
    nameless = replace(walk, profile=walk.profile.change(model={"name": ""}))
    with pytest.raises(ValueError, match="name the model whose tokenizer counts the tokens of m"):
        nameless.benchmark()
    assert not server.requests


# A corpus of one's own


@pytest.fixture
def corpus(home, tmp_path):
    """Return a profile whose passages come from a file, and a function that writes that file with
    other notes.
    """
    records = [question_record(n) for n in range(COUNT)]
    gold = {title: "".join(sentences) for r in records for title, sentences in r["context"][:2]}

    def write(note):
        rows = [*gold.items(), *((f"Note {n}", f"{note} in village {n}.") for n in range(40))]
        (tmp_path / "corpus.jsonl").write_text(
            "\n".join(json.dumps({"title": a, "text": b}) for a, b in rows)
        )

    write("It rained")
    asked = {
        "data": str(home / "q.json"),
        "corpus": "corpus.jsonl",
        "arms": ["retrieve_1"],
        "player": "endpoint",
    }
    return get_profile("pocket").change(benchmark=asked, model={"name": ""}), write


def test_a_corpus_is_kept_memory_mapped_and_built_once(corpus, tmp_path, server, monkeypatch):
    profile, _ = corpus
    profile = profile.change(endpoint={"base_url": server.url, "model": "m"})
    made = opening.play_grid(profile, tmp_path, tmp_path / "grid")
    assert made.scores.table["gold_found"].mean() == 1 and len(made.answers) == COUNT
    monkeypatch.setattr(opening.Pool, "build", lambda *_: pytest.fail("built again"))
    assert opening.play_grid(profile, tmp_path, tmp_path / "grid").answers == made.answers
    assert len(server.requests) == COUNT


def test_a_grid_does_not_go_on_with_another_corpus(corpus, tmp_path, server):
    profile, write = corpus
    profile = profile.change(endpoint={"base_url": server.url, "model": "m"})
    opening.play_grid(profile, tmp_path, tmp_path / "grid")
    write("It snowed, and froze,")
    with pytest.raises(SettingsChanged, match="pool: "):
        opening.play_grid(profile, tmp_path, tmp_path / "grid")
    write("It rained")
    assert (
        len(opening.play_grid(profile, tmp_path, tmp_path / "grid").answers)
        == len(server.requests)
        == COUNT
    )


@pytest.mark.parametrize("left", ["text.part", "text"])
def test_a_pool_whose_build_was_stopped_or_that_is_damaged_is_built_again(corpus, tmp_path, left):
    profile, _ = corpus
    questions = opening.open_questions(profile, tmp_path)
    whole = opening.open_pool(profile, questions, tmp_path, tmp_path)
    passages = list(whole)
    if left.endswith(".part"):
        (whole.folder / "manifest.json").unlink()
    (whole.folder / left).write_bytes(b"half of it")
    again = opening.open_pool(profile, questions, tmp_path, tmp_path)
    assert list(again) == passages and again.content == whole.content


# Who reads, and with which tokens


def test_without_long_contexts_a_server_needs_no_tokenizer(home, tmp_path, server):
    walk = opened(home, tmp_path, server=server, model="", arms=["oracle", "retrieve_1"])
    walk = replace(walk, profile=walk.profile.change(model={"name": ""}))
    assert len(walk.benchmark().answers) == 2 * COUNT


@pytest.mark.parametrize(
    ("player", "arms", "message"),
    [
        (
            "endpoint",
            ["long_context"],
            "benchmark.model is empty, and so is model.name.*counts the tokens of the-model",
        ),
        ("endpoint", ["long_context@512"], "counts the tokens of the-model: a hub id or a folder"),
        (
            "model",
            ["oracle"],
            "benchmark.model is empty, and so is model.name; name which model reads",
        ),
    ],
)
def test_a_model_that_nothing_names_is_asked_for_before_the_index_is_built(
    home, tmp_path, player, arms, message
):
    asked = {"player": player, "arms": arms, "model": "", "data": "q.json"}
    profile = get_profile("pocket").change(
        benchmark=asked, model={"name": ""}, endpoint={"model": "the-model"}
    )
    with pytest.raises(ValueError, match=message):
        opening.play_grid(profile, home, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_length_above_the_window_of_a_served_model_is_refused_before_it_is_asked(
    home, tmp_path, server
):
    walk = opened(home, tmp_path, server=server, lengths=(512, 2 * WINDOW))
    with pytest.raises(
        ValueError, match=f"lengths holds {2 * WINDOW}, but the model takes {WINDOW} tokens"
    ):
        walk.benchmark()
    assert not server.requests


def test_a_folder_with_a_tokenizer_alone_counts_tokens_and_says_nothing_of_a_window(
    home, tmp_path, caplog
):
    opening.open_tokenizer(
        get_profile("pocket").change(benchmark={"model": "reader"}), home
    ).save_pretrained(tmp_path)
    profile = get_profile("pocket").change(benchmark={"player": "endpoint", "model": str(tmp_path)})
    assert opening.open_tokenizer(profile) and opening.open_window(profile) is None
    assert "lengths are not checked" in caplog.text
    assert opening.open_window(profile.change(benchmark={"model": "reader"}), home) == WINDOW


def test_of_two_passages_with_one_title_every_arm_takes_and_counts_the_one_that_supports(
    home, tmp_path
):
    """By MuSiQue's layout: both paragraphs are called The Firm, and the second supports."""
    film, firm = (
        "The Firm is a film by Sydney Pollack.",
        "The Firm is a company that Ada Bell founded.",
    )
    rows = [
        ("The Firm", film, False),
        ("Ada Bell", "Ada Bell was born in Kamin.", True),
        ("The Firm", firm, True),
    ]
    keys = ("idx", "title", "paragraph_text", "is_supporting")
    record = {
        "id": "q",
        "question": "Where was the founder of The Firm born?",
        "answer": "Kamin",
        "paragraphs": [
            dict(zip(keys, (number, *row), strict=True)) for number, row in enumerate(rows)
        ],
        "question_decomposition": [{"paragraph_support_idx": 2}, {"paragraph_support_idx": 1}],
    }
    (tmp_path / "q.jsonl").write_text(json.dumps(record))
    questions = load_questions(tmp_path / "q.jsonl")
    pool = MemoryPool(
        [*questions.passages, *(Passage(title, tuple(sentences)) for title, sentences in NOTES)]
    )
    tokenizer = opening.open_tokenizer(
        get_profile("pocket").change(benchmark={"model": "reader"}), home
    )
    made = benchmark(
        ScriptedModel(lambda messages, sampling: "Answer: Kamin\nSources: [1], [2]"),
        *(
            questions,
            ["oracle", "long_context", "retrieve_1"],
            ReadingSettings(answer_tokens=32, passages=2),
        ),
        pool=pool,
        index=SimpleNamespace(
            search=lambda queries, k: SimpleNamespace(numbers=np.array([[0, 1]]))
        ),
        tokenizer=tokenizer,
        contexts=ContextSettings(lengths=(768,), fill="random", answers="keep"),
    )
    oracle, long, retrieved = made.answers
    assert oracle.passages == (2, 1) and oracle.gold_found == oracle.cited == (
        "The Firm",
        "Ada Bell",
    )
    assert {1, 2} < set(long.passages) and len(long.gold_depths) == 2
    assert retrieved.passages == (0, 1) and retrieved.gold_found == ("Ada Bell",)
    assert retrieved.cited == ("The Firm [1]", "Ada Bell")
    scores = made.scores.table.set_index("arm")
    assert scores["gold_found"].to_dict() == {"oracle": 1, "long_context@768": 1, "retrieve_1": 0.5}
    assert scores["sp_em"]["oracle"] == 1 and scores["sp_em"]["retrieve_1"] == 0
    page = show_context(retrieved, made.questions[0], pool).html
    assert page.count("<b>gold</b>") == 1 and page.index("film") < page.index("<b>gold</b>")


def test_a_title_alone_that_two_passages_have_is_refused_before_anything_is_asked(home):
    twins = [Passage("Ada", ("Ada is 7.",)), Passage("Ada", ("Ada is a river.",))]
    question = Question(id="q", question="What is Ada?", answer="7", facts=(("Ada", 0),))
    model = ScriptedModel(lambda messages, sampling: "Answer: 7")
    with pytest.raises(ValueError, match="'q': the pool has 2 passages titled 'Ada', .* not known"):
        benchmark(model, [question], ["oracle"], pool=MemoryPool(twins))
