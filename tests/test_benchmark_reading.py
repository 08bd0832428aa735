"""What a reader is tuned on: no question that is asked, the prompt to the letter, loss on the
answer only, and nothing done twice.
"""

import asyncio
import json

import pytest
from benchmark_towns import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb import check_mask, earlier, open_project, render
from negfail_nb.agents import LocalModel, ScriptedModel
from negfail_nb.benchmarking import (
    AS_ASKED,
    MemoryPool,
    Question,
    Questions,
    load_questions,
    reading_examples,
    reading_scores,
    spare_questions,
)
from negfail_nb.benchmarking.arms import play_arm
from negfail_nb.benchmarking.prompts import PROMPTS, open_prompt
from negfail_nb.benchmarking.question_run import Setup
from negfail_nb.duplicates import SimilarQuestions
from negfail_nb.settings import ModelSettings, ReadingSettings
from negfail_nb.training import make_tokenizer

WORDS = ("Anna", "Bern", "bridge", "river", "1912", "old", "band", "Lima", "film", "mayor")
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)


def record(name, question, gold=("A", "B"), others=6):
    """A question in HotpotQA's layout."""
    titles = [f"{name} {title}" for title in (*gold, *map(str, range(others)))]
    return {
        "_id": name,
        "question": question,
        "answer": f"answer of {name}",
        "type": "bridge",
        "supporting_facts": [[f"{name} {title}", 1] for title in gold],
        "context": [[t, [f"{t} is here.", f" So says {t}.", "  And\nmore. "]] for t in titles],
    }


def questions_of(folder, records):
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    texts = (f"Who built the {a} of {b}?" for a in WORDS for b in WORDS if a != b)
    records = [record(f"q{n}", text) for n, text in enumerate(texts)]
    return questions_of(tmp_path_factory.mktemp("data"), records)


# Which questions


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=2, max_size=30),
    number=st.integers(1, 8),
    seed=st.integers(0, 9),
    similarity=st.sampled_from([0.3, 0.8, 1.0]),
)
def test_nothing_that_is_asked_is_learned_nor_what_says_nearly_the_same(
    tmp_path_factory, texts, number, seed, similarity
):
    records = [record(f"q{n}", text) for n, text in enumerate(texts)]
    path = questions_of(tmp_path_factory.mktemp("drawn"), records)
    asked = load_questions(path, limit=number, seed=seed)
    same = SimilarQuestions(similarity, [question.question for question in asked])
    free = [t for n, t in enumerate(texts) if f"q{n}" not in {q.id for q in asked}]
    free = [text for text in free if not same.similar(text)]
    if not free:
        with pytest.raises(ValueError, match=r"0 of \d+ questions can be learned from; \d"):
            spare_questions(path, asked, 1, similarity=similarity)
        return
    spare = spare_questions(path, asked, len(free), similarity=similarity, seed=seed)
    assert sorted(question.question for question in spare) == sorted(free)
    assert {q.id for q in spare}.isdisjoint(q.id for q in asked)
    words = [{frozenset(q.question.split()) for q in drawn} for drawn in (spare, asked)]
    assert words[0].isdisjoint(words[1])


def test_too_few_questions_are_named_with_what_became_of_the_others(tmp_path):
    lost = record("q3", "Where does it end?")
    lost["supporting_facts"] = [["elsewhere", 0]]
    texts = ("Who sang it first?", "Who first sang it?", "What is it made of?")
    records = [*(record(f"q{n}", text) for n, text in enumerate(texts)), lost]
    path = questions_of(tmp_path, records)
    asked = load_questions(path).select([0])
    said = (
        r"questions\.jsonl: 1 of 4 questions can be learned from; 1 are asked, 1 say nearly the "
        r"same as one that is asked, 1 have no gold passage in their record\. 2 are wanted: lower "
        r"benchmark\.reader_examples"
    )
    with pytest.raises(ValueError, match=said):
        spare_questions(path, asked, 2)
    assert [question.id for question in spare_questions(path, asked, 1)] == ["q2"]


def test_equal_seeds_draw_equal_questions_and_pocket_has_a_half_of_its_own(file):
    asked = load_questions(file, limit=10)
    draws = [spare_questions(file, asked, 20, seed=seed) for seed in (0, 0, 1)]
    assert draws[0].content == draws[1].content != draws[2].content
    pocket = load_questions("pocket", limit=12)
    spare = spare_questions("pocket", pocket, 20)
    assert len(spare) == 20
    titles = [{p.title for p in questions.passages} for questions in (pocket, spare)]
    assert not titles[0] & titles[1]


# What the examples are


def played(question, passages, style, reply="Answer: no"):
    """What the arm retrieve_1 asks, if these passages are found in this order."""
    seen = []

    def script(messages, sampling):
        seen.append(messages)
        return reply

    class Found:
        settings = None

        def search(self, queries, k):
            import numpy as np

            return type("Hits", (), {"numbers": np.arange(len(passages))[None]})

    setup = Setup(
        model=ScriptedModel(script),
        pool=MemoryPool(passages),
        prompt=open_prompt(style),
        settings=ReadingSettings(prompt=style, passages=len(passages), total=len(passages)),
        index=Found(),
    )
    answer = asyncio.run(play_arm(setup, "retrieve_1", question))
    return seen[0], answer


@pytest.mark.parametrize("style", PROMPTS)
def test_the_prompt_is_the_one_that_is_asked_and_the_reply_scores_full_marks(file, style):
    asked = load_questions(file, limit=10)
    spare = spare_questions(file, asked, 15)
    examples = reading_examples(spare, ReadingSettings(prompt=style, passages=4))
    places = set()
    for question, example in zip(spare, examples, strict=True):
        prompt, reply = (message["content"] for message in example.messages)
        lines = [line for line in prompt.splitlines() if " [" in line and "]: " in line]
        titles = [line.partition(" [")[0] for line in lines]
        assert len(titles) == 4 and set(question.gold) <= set(titles) <= set(question.own)
        places.add(tuple(titles.index(title) for title in question.gold))
        by_title = {passage.title: passage for passage in spare.passages}
        messages, answer = played(question, [by_title[t] for t in titles], style, reply)
        assert list(messages) == [{"role": "user", "content": prompt}]
        row = reading_scores([answer], [question]).table.iloc[0]
        assert (row.em, row.sp_em, row.joint_em, row.plain) == (1, 1, 1, False)
    assert len(places) > 5  # of 12: gold is not always at the same place


def test_gold_is_shown_even_if_there_are_more_than_the_setting_says(tmp_path):
    path = questions_of(tmp_path, [record("q", "Who?", gold=("A", "B", "C"))])
    (example,) = reading_examples(load_questions(path), SMALL)
    assert example.messages[0]["content"].count("]: ") == 3
    assert example.messages[1]["content"].count("[") == 3
    bare = Questions((Question(id="x", question="Who?", answer="he"),), (), ((),))
    with pytest.raises(ValueError, match="question 'x': its record does not hold all gold"):
        reading_examples(bare)


@pytest.mark.parametrize("style", PROMPTS)
def test_the_reader_is_asked_what_it_learned_token_for_token_and_loss_is_on_the_answer(file, style):
    spare = load_questions(file).select(range(12))
    examples = reading_examples(spare, ReadingSettings(prompt=style))
    texts = [m["content"] for example in examples for m in example.messages]
    model = ModelSettings(name="", layers=1, width=32, heads=2, vocabulary=700)
    tokenizer = make_tokenizer(texts, 700)
    rendered = render(examples, AS_ASKED, tokenizer)
    assert len(rendered) == 12 and not rendered.skipped
    reader = LocalModel(earlier_model(model, tokenizer), tokenizer)
    for number, (example, shown) in enumerate(zip(examples, rendered.examples, strict=True)):
        prompt = reader.prompt_ids([example.messages[0]])
        assert shown.input_ids[: len(prompt)].tolist() == prompt
        assert not shown.trained[: len(prompt)].any() and shown.trained[len(prompt)]
        written = tokenizer.decode(shown.input_ids[shown.trained])
        assert written == example.messages[1]["content"] + rendered.end_token
        assert check_mask(rendered, number) == ()


def earlier_model(settings, tokenizer):
    from negfail_nb.training import load_model

    return load_model(settings, tokenizer)


# In a project

TINY = {
    "benchmark": {"questions": 6, "reader_examples": 8, "arms": ["closed_book", "oracle"]},
    "train": {"batch_tokens": 2048},
    "reading": {"concurrency": 4, "answer_tokens": 8},
}


def opened(home, **stages):
    changes = {
        stage: {**TINY.get(stage, {}), **stages.get(stage, {})} for stage in {*TINY, *stages}
    }
    return open_project("pocket", home, changes)


def test_as_it_comes_nothing_is_trained(tmp_path):
    project = opened(tmp_path, benchmark={"reader_examples": 0})
    assert list(earlier.readers(project)) == ["as it comes"]
    assert not (tmp_path / "runs").exists()


def test_a_reader_is_tuned_once_and_answers_in_its_own_folder(tmp_path):
    project = opened(tmp_path)
    run = earlier.train_reader(project)
    assert (run.plan.examples, round(run.plan.epochs, 6)) == (8, 1)
    run.run.path("manifest.json").unlink()  # as if it had been cut short
    readers = earlier.readers(project)
    assert list(readers) == ["as it comes", "tuned to read"]
    assert [p.name for p in (tmp_path / "runs/pocket/train-reader").iterdir()] == [run.folder.name]
    assert readers["tuned to read"].content != readers["as it comes"].content
    tuned = earlier.benchmark(project)
    plain = earlier.benchmark(opened(tmp_path, benchmark={"reader_examples": 0}))
    assert tuned.run.folder != plain.run.folder
    assert tuned.run.plan["settings"]["model"] == "tuned reader"
    one = earlier.alone(project, 3)
    assert one.run.folder.parent.name == "benchmark-alone" and len(one.answers) == 6
    replies = {a.id: a.calls[-1].reply for a in tuned.answers}
    assert all(a.calls[-1].reply == replies[a.id] for a in one.answers)
    assert earlier.alone(project) is None  # a tenth of 6 is none


def test_an_endpoint_cannot_be_tuned(tmp_path):
    with pytest.raises(
        ValueError, match="reader_examples is 8, but benchmark.player is 'endpoint'"
    ):
        earlier.reader(opened(tmp_path, benchmark={"player": "endpoint"}))
