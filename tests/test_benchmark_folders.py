"""A benchmark in a run folder: a model on this machine or a server answers, and nothing is asked
twice.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from mock_server import MockServer

from negfail_nb.agents import EndpointModel, LocalModel, ScriptedModel
from negfail_nb.benchmarking import (
    Agent,
    MemoryPool,
    Passage,
    Pool,
    Question,
    benchmark,
    build_index,
    load_questions,
    open_benchmark,
    open_pool,
    read_answers,
    served_window,
)
from negfail_nb.runs import NotWhole, Place, SettingsChanged
from negfail_nb.settings import (
    BudgetSettings,
    ContextSettings,
    EndpointSettings,
    EvaluateSettings,
    LiveSettings,
    ModelSettings,
    ReadingSettings,
    RetrievalSettings,
)
from negfail_nb.training import load_model, load_tokenizer, make_tokenizer
from negfail_nb.views.benchmark_viewers import show_context

COUNT = 6
ARMS = ("closed_book", "oracle", "long_context", "retrieve_1", "retrieve_3", "retrieve_3_no_model")
WINDOW = 1024
FAST = EvaluateSettings(resamples=100)
READING = ReadingSettings(answer_tokens=8, total=6, passages=2, concurrency=2)
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


def place(folder):
    return Place(folder / "runs", "pocket/benchmark")


def folders(folder):
    return sorted((folder / "runs" / "pocket" / "benchmark").glob("*"))


def played(home, base, server, arms=ARMS, reading=READING, *, lengths=(384, 512), seed=0, **more):
    """Let a server answer the questions of a project folder."""
    questions = load_questions(home / "q.json")
    pool = open_pool(questions)
    model = EndpointModel(EndpointSettings(base_url=server.url, model="m", timeout=20.0, retries=0))
    given = {
        "pool": pool,
        "index": build_index(pool),
        "tokenizer": load_tokenizer(ModelSettings(name=str(home / "reader"))),
        "window": served_window(str(home / "reader")),
        "contexts": ContextSettings(lengths=lengths, seed=seed, fill="random"),
        "folder": place(base),
    }
    return benchmark(model, questions, arms, reading, **given | more)


# A model on this machine


def test_every_arm_is_played_by_a_model_here_another_agent_too_and_read_again(home, tmp_path):
    settings = ModelSettings(name=str(home / "reader"))
    tokenizer = load_tokenizer(settings)
    reader, tuned = (
        LocalModel(load_model(settings, tokenizer), tokenizer, name) for name in ("reader", "tuned")
    )
    questions = load_questions(home / "q.json", limit=3)
    pool = open_pool(questions)
    live = LiveSettings(max_calls=2, max_tokens=4, results=1, temperatures=(0.0,))
    given = {
        "pool": pool,
        "index": build_index(pool, RetrievalSettings(), Place(tmp_path / "runs", "pocket/index")),
        "agent": Agent(model=tuned, prompt=lambda q: f"{q} Correctly.", live=live),
        "contexts": ContextSettings(lengths=(384, 512), fill="random"),
        "folder": place(tmp_path),
    }
    settings = replace(READING, prompt="bare")
    made = benchmark(reader, questions, [*ARMS, "agent"], settings, **given)
    labels = ["closed_book", "oracle", "long_context@384", "long_context@512", *ARMS[3:], "agent"]
    assert list(made.labels) == labels and made.run.done
    assert [a.id for a in made.answers] == [
        f"{label}/{q.id}" for label in labels for q in questions
    ]
    assert not [a.error for a in made.answers if a.termination in ("crashed", "too_long")]
    table = made.scores.by(settings=FAST).set_index("arm")
    assert (table.loc[["oracle", "long_context@384", "long_context@512"], "gold_found"] == 1).all()
    assert (table["requests"] >= 1).all() and (table["prompt_tokens"] > 0).all()
    for answer in made.answers:
        if answer.arm == "long_context":  # contexts were counted to what the engine was given
            assert answer.calls[0].prompt_tokens + 8 == round(answer.fill * answer.target)
    cost = made.cost.table.set_index("arm")["prompt_tokens"]
    assert cost.index.tolist() == labels
    spent = made.scores.table.groupby("arm")["prompt_tokens"].sum()
    assert spent["closed_book"] <= cost["closed_book"] <= 1.2 * spent["closed_book"], (
        "the chat template is counted"
    )
    reader.reply = None  # would fail, if anything were asked
    again = benchmark(reader, questions, [*ARMS, "agent"], settings, **given)
    assert again.answers == made.answers and len(folders(tmp_path)) == 1
    opened = open_benchmark(made.run.folder)
    assert (opened.answers, opened.questions, opened.labels) == (
        made.answers,
        made.questions,
        made.labels,
    )
    assert opened.cost.table.equals(made.cost.table) and opened.run == again.run
    other = {**given, "agent": replace(given["agent"], prompt=str)}
    benchmark(reader, questions, [*ARMS, "agent"], settings, **other)
    assert len(folders(tmp_path)) == 2, "another agent's prompt is another run"


# A server


@pytest.fixture
def server():
    with Reader() as server:
        yield server


def test_a_server_plays_and_its_cached_tokens_are_counted(home, tmp_path, server):
    made = played(home, tmp_path, server)
    table = made.scores.by(settings=FAST).set_index("arm")
    assert (table["em"] == 1).all() and (table["questions"] == COUNT).all()
    assert table["cached_tokens"].to_dict() == {**dict.fromkeys(table.index, 0), "retrieve_3": 1}
    assert sum(sent(server).values()) == sum(len(a.calls) for a in made.answers) == COUNT * 8
    assert {body["model"] for body in server.requests} == {"m"}
    asked = len(server.requests)
    again = played(home, tmp_path, server, reading=replace(READING, concurrency=7))
    assert again.answers == made.answers
    assert len(server.requests) == asked and len(folders(tmp_path)) == 1


def test_later_steps_of_retrieval_only_add_to_what_was_sent(home, tmp_path, server):
    made = played(home, tmp_path, server, ["retrieve_3"])
    conversations = defaultdict(list)
    for body in server.requests:
        conversations[body["messages"][0]["content"]].append(body["messages"])
    assert len(conversations) == COUNT and all(len(steps) == 2 for steps in conversations.values())
    for steps in conversations.values():
        for before, after in pairwise(sorted(steps, key=len)):
            assert json.dumps(after).startswith(json.dumps(before)[:-1])
    assert all(len(set(a.passages)) == len(a.passages) == 4 for a in made.answers)


def test_other_settings_are_another_run_and_the_first_one_stays(home, tmp_path, server):
    answers = played(home, tmp_path, server, ["long_context"]).answers
    asked = len(server.requests)
    played(home, tmp_path, server, ["long_context"], seed=5)
    assert len(server.requests) == 2 * asked and len(folders(tmp_path)) == 2
    assert played(home, tmp_path, server, ["long_context"]).answers == answers
    assert len(server.requests) == 2 * asked


def test_a_plain_folder_of_other_settings_is_refused_and_one_of_more_arms_grows(
    home, tmp_path, server
):
    played(home, tmp_path, server, ["oracle"], folder=tmp_path / "grid")
    asked = len(server.requests)
    changed = replace(READING, temperature=0.5)
    with pytest.raises(SettingsChanged, match=r"reading\.temperature: 0\.0 -> 0\.5"):
        played(home, tmp_path, server, ["oracle"], changed, folder=tmp_path / "grid")
    assert len(server.requests) == asked
    made = played(home, tmp_path, server, ["oracle", "closed_book"], folder=tmp_path / "grid")
    assert len(server.requests) == 2 * asked and made.run.done
    assert open_benchmark(tmp_path / "grid").answers == made.answers


def test_a_budget_that_is_spent_leaves_the_run_open_and_a_larger_one_goes_on(
    home, tmp_path, server
):
    arms = ["oracle", "closed_book"]
    message = "not whole; its answers are kept.*7 questions were not asked.*raise it"
    with pytest.raises(NotWhole, match=message):
        played(home, tmp_path, server, arms, budget=BudgetSettings(episodes=5))
    assert len(server.requests) == 5
    with pytest.raises(ValueError, match="was not finished"):
        open_benchmark(folders(tmp_path)[0])
    assert len(played(home, tmp_path, server, arms).answers) == 2 * COUNT
    assert len(folders(tmp_path)) == 1
    assert set(sent(server).values()) == {1} and len(server.requests) == 2 * COUNT


KILLED = """
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, "tests")
from test_benchmark_folders import played

home, folder, url = sys.argv[1:]
played(Path(home), Path(folder), SimpleNamespace(url=url), ["long_context", "retrieve_3"])
"""


def test_a_killed_benchmark_goes_on_without_repeating_a_request(home, tmp_path):
    with Reader(delay=0.1) as server:
        command = [sys.executable, "-c", KILLED, str(home), str(tmp_path), server.url]
        killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(server.requests) < 9 and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        (run,) = folders(tmp_path)
        kept = list(read_answers(run / "answers.jsonl"))
        before = sent(server)
        assert 4 <= len(kept) < 3 * COUNT and not (run / "manifest.json").exists()
        server.requests.clear()
        made = played(home, tmp_path, server, ["long_context", "retrieve_3"])
        assert folders(tmp_path) == [run] and len(made.answers) == 3 * COUNT
        assert made.scores.table["em"].mean() == 1
        assert set(sent(server).values()) == {1}
        spent = sum(len(a.calls) for a in made.answers) - sum(len(a.calls) for a in kept)
        assert len(server.requests) == spent, "what is kept is not asked again"
        assert len(before & sent(server)) <= 2, (
            "only the two questions that were under way begin again"
        )


# A corpus of one's own


@pytest.fixture
def write_corpus(tmp_path):
    """Return a function that writes a corpus with some notes."""
    records = [question_record(n) for n in range(COUNT)]
    gold = {title: "".join(sentences) for r in records for title, sentences in r["context"][:2]}

    def write(note):
        rows = [*gold.items(), *((f"Note {n}", f"{note} in village {n}.") for n in range(40))]
        path = tmp_path / "corpus.jsonl"
        path.write_text("\n".join(json.dumps({"title": a, "text": b}) for a, b in rows))
        return path

    return write


def test_a_corpus_is_kept_memory_mapped_and_built_once(
    home, tmp_path, server, write_corpus, monkeypatch
):
    corpus, pools = write_corpus("It rained"), Place(tmp_path, "pools")
    pool = open_pool(corpus, pools)
    given = {"reading": replace(READING, passages=5), "pool": pool, "index": build_index(pool)}
    made = played(home, tmp_path, server, ["retrieve_1"], **given)
    assert made.scores.table["gold_found"].mean() == 1 and len(made.answers) == COUNT
    monkeypatch.setattr(Pool, "build", lambda *_: pytest.fail("built again"))
    again = played(
        home, tmp_path, server, ["retrieve_1"], **given | {"pool": open_pool(corpus, pools)}
    )
    assert again.answers == made.answers and len(server.requests) == COUNT


def test_a_plain_folder_does_not_go_on_with_another_corpus(home, tmp_path, server, write_corpus):
    def asked(note):
        pool = open_pool(write_corpus(note), tmp_path)
        given = {"pool": pool, "index": build_index(pool), "folder": tmp_path / "grid"}
        return played(home, tmp_path, server, ["retrieve_1"], **given)

    asked("It rained")
    with pytest.raises(SettingsChanged, match="pool: "):
        asked("It snowed, and froze,")
    assert len(asked("It rained").answers) == len(server.requests) == COUNT


@pytest.mark.parametrize("left", ["text.part", "text"])
def test_a_pool_whose_build_was_stopped_or_that_is_damaged_is_built_again(
    tmp_path, left, write_corpus
):
    corpus = write_corpus("It rained")
    whole = open_pool(corpus, tmp_path)
    passages = list(whole)
    if left.endswith(".part"):
        (whole.folder / "manifest.json").unlink()
    (whole.folder / left).write_bytes(b"half of it")
    again = open_pool(corpus, tmp_path)
    assert list(again) == passages and again.content == whole.content


# Who reads, and with which tokens


def test_without_long_contexts_a_server_needs_no_tokenizer(home, tmp_path, server):
    arms = ["oracle", "retrieve_1"]
    made = played(home, tmp_path, server, arms, tokenizer=None, window=None)
    assert len(made.answers) == 2 * COUNT


def test_a_length_above_the_window_of_a_served_model_is_refused_before_it_is_asked(
    home, tmp_path, server
):
    message = f"lengths holds {2 * WINDOW}, but the model takes {WINDOW} tokens"
    with pytest.raises(ValueError, match=message):
        played(home, tmp_path, server, lengths=(512, 2 * WINDOW))
    assert not server.requests


def test_a_folder_with_a_tokenizer_alone_says_nothing_of_a_window(home, tmp_path, caplog):
    load_tokenizer(ModelSettings(name=str(home / "reader"))).save_pretrained(tmp_path)
    assert served_window(str(tmp_path)) is None and "lengths are not checked" in caplog.text
    assert served_window(str(home / "reader")) == WINDOW


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
    tokenizer = load_tokenizer(ModelSettings(name=str(home / "reader")))
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
