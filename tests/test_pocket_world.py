"""Splits by entity and by wording, and worlds that come as a stream."""

import json
import re
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.pocket import (
    Mistakes,
    generate_logs,
    lazy_world,
    make_problems,
    make_questions,
    make_world,
    stream_passages,
    write_passages,
)
from negfail_nb.pocket.passages import write_passage
from negfail_nb.pocket.problems import plan_problems
from negfail_nb.pocket.questions import FORMS, plan_questions
from negfail_nb.pocket.wordings import of_split, words
from negfail_nb.pocket.world import FACTS, SPLITS, LazyEntities, World, make_entity

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.integers(24, 400)
SPLIT = st.sampled_from(SPLITS)
few = settings(max_examples=15, deadline=None)


def names(world):
    """Every invented name: of entities, of people's first and family names, of rivers and
    currencies.
    """
    found = set()
    for entity in world.entities:
        found.update({entity.name, *(entity.name.split() if entity.kind == "person" else ())})
        found.update(entity.values[key] for key in ("river", "currency") if key in entity.values)
    return found


# Splits by entity --------------------------------------------------------------------------------


@few
@given(SEEDS, SEEDS, SIZES, SIZES)
def test_the_two_splits_share_no_name_whatever_the_seeds_and_sizes(seed, other, size, size_2):
    assert not names(make_world(size, seed, "train")) & names(make_world(size_2, other, "heldout"))


def test_large_worlds_of_two_splits_share_no_name_either():
    """Large enough for names of three syllables and for works of three words."""
    train, heldout = (
        names(make_world(30_000, seed, split)) for seed, split in ((3, "train"), (4, "heldout"))
    )
    assert not train & heldout
    assert any(" of " in name for name in train)


def test_both_splits_are_made_of_the_same_parts():
    """In two worlds of each: the parity of a seed decides between two halves of the endings."""
    parts = []
    for split in ("train", "heldout"):
        entities = [entity for seed in (0, 1) for entity in make_world(4800, seed, split).entities]
        works = [entity.name.split()[1:3] for entity in entities if entity.kind in ("book", "film")]
        words = [entity.values["river"] for entity in entities if entity.kind == "city"]
        parts.append(
            [
                {w[:2] for w in words},
                {w[-2:] for w in words},
                {w[0] for w in works},
                {w[1] for w in works},
            ]
        )
    assert parts[0] == parts[1]
    assert [len(part) for part in parts[0][2:]] == [24, 25]


@few
@given(SEEDS, SIZES, SPLIT)
def test_a_name_is_shared_by_namesakes_only(seed, size, split):
    world = make_world(size, seed, split)
    shared = Counter(entity.name for entity in world.entities)
    for entity in world.entities:
        assert shared[entity.name] == (1 if entity.namesake is None else 2)
        assert entity.namesake is None or world.entities[entity.namesake].name == entity.name
    assert len({entity.title for entity in world.entities}) == size
    assert len({world.mention(entity.index) for entity in world.entities}) == size


@few
@given(SEEDS, SIZES, SPLIT)
def test_links_and_mentions_agree_with_the_entities(seed, size, split):
    world = make_world(size, seed, split)
    for entity in world.entities:
        assert {
            relation: world.entities[i].name for relation, i in entity.links.items()
        }.items() <= (entity.values.items())
        assert entity.name in world.mention(entity.index)
        if entity.namesake is not None and entity.kind in ("city", "person"):
            assert entity.values[
                "river" if entity.kind == "city" else "occupation"
            ] in world.mention(entity.index)


def test_equal_seeds_give_the_splits_other_facts_and_not_only_other_names():
    years = [
        [e.values.get("founded") for e in make_world(240, 0, split).entities] for split in SPLITS
    ]
    assert years[0] != years[1] != years[2] != years[0]


@pytest.mark.parametrize(
    "make",
    [make_world, lazy_world, stream_passages, lambda n, s, split: make_problems(n, s, split)],
)
def test_an_unknown_split_is_refused(make):
    with pytest.raises(ValueError, match="split is 'test'; use one of '', 'train', 'heldout'"):
        make(24, 0, "test")


# Splits by wording -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ask", "the", "compare", "same"])
def test_every_relation_has_wordings_that_only_one_split_uses(name):
    for wordings in words(name).values():
        train, heldout = of_split(wordings, "train"), of_split(wordings, "heldout")
        assert len(train) >= 2 and len(heldout) >= 1
        assert set(train) | set(heldout) == set(of_split(wordings, "")) and not set(train) & set(
            heldout
        )
    assert set(words("ask")) == {relation for facts in FACTS.values() for relation in facts}


def test_every_story_has_sentences_that_only_one_split_uses():
    for story in words("stories"):
        for part in (part for part in story if part not in ("what", "whole")):
            assert len(set(story[part])) == len(story[part]) >= 3


def frames(world, questions):
    """Return the questions without the names in them."""
    for question in questions:
        text = question.text
        for path in question.paths:
            text = text.replace(world.mention(path[0].entity), "_")
        yield text


@few
@given(SEEDS)
def test_no_question_wording_is_asked_in_both_splits(seed):
    asked = {}
    for split in ("train", "heldout"):
        world = make_world(240, seed, split)
        asked[split] = set(frames(world, plan_questions(world, 60, seed, FORMS, split)))
    assert not asked["train"] & asked["heldout"]
    assert any(text.count("_") == 2 for text in asked["heldout"])


@few
@given(SEEDS, SPLIT)
def test_every_part_of_a_bridge_is_worded_as_its_split_words_it(seed, split):
    world = make_world(240, seed)
    for question in plan_questions(world, 20, seed, ["bridge-2", "bridge-3"], split):
        *way, last = question.hops
        texts = {world.mention(question.hops[0].entity)}
        for table, hop in [*((words("the"), hop) for hop in way), (words("ask"), last)]:
            texts = {
                wording.format(x=text)
                for text in texts
                for wording in of_split(table[hop.relation], split)
            }
        assert question.text in texts


def test_word_problems_are_split_by_names_and_by_sentences():
    sentences, people = {}, {}
    for split in ("train", "heldout"):
        known = [
            entity.name for entity in make_world(480, 1, split).entities if entity.kind == "person"
        ]
        sentences[split], people[split] = set(), set()
        for problem in plan_problems(300, 1, split, split):
            (name,) = {name for name in known if name in problem.text}
            people[split].add(name)
            sentences[split].update(
                re.sub(r"\d+", "#", problem.text.replace(name, "_")).split(". ")
            )
    assert not sentences["train"] & sentences["heldout"] and not people["train"] & people["heldout"]


def test_an_unknown_wording_or_form_is_refused():
    world = make_world(48, 0)
    with pytest.raises(ValueError, match="wordings is 'new'; use one of"):
        make_questions(world, 1, 0, wordings="new")
    with pytest.raises(ValueError, match="wordings is 'new'; use one of"):
        make_problems(1, 0, wordings="new")
    for forms in (("single", "bridge-4"), (), "single"):
        with pytest.raises(ValueError, match="give a list with some of single, bridge-2, bridge-3"):
            make_questions(world, 1, 0, forms)


# Forms -------------------------------------------------------------------------------------------


def test_forms_are_taken_in_turn():
    questions = plan_questions(make_world(480, 2), 50, 2, FORMS)
    shapes = [(question.verdict == "value", len(question.hops)) for question in questions]
    assert shapes == [(True, 1), (True, 2), (True, 3), (False, 2), (False, 2)] * 10
    assert [question.level for question in questions[:5]] == [
        "easy",
        "medium",
        "hard",
        "easy",
        "easy",
    ]
    assert {question.task for question in questions[4::5]} == {"yes_no"}


@few
@given(SEEDS, SPLIT, SPLIT)
def test_a_single_question_asks_for_one_fact_that_stands_in_its_evidence(seed, split, wordings):
    world = make_world(240, seed, split)
    for question, record in zip(
        plan_questions(world, 30, seed, ["single"], wordings),
        make_questions(world, 30, seed, ["single"], wordings),
        strict=True,
    ):
        (hop,) = question.hops
        assert question.answer == world.entities[hop.entity].values[hop.relation]
        ((title, sentence),) = record["supporting_facts"]
        assert question.answer in dict(record["context"])[title][sentence]
        assert world.mention(hop.entity) in question.text and question.answer not in question.text


def test_single_questions_are_about_every_kind_and_every_relation():
    world = make_world(2400, 0)
    asked = {
        (world.entities[q.hops[0].entity].kind, q.hops[0].relation)
        for q in plan_questions(world, 800, 0, ["single"])
    }
    assert asked == {(kind, relation) for kind, facts in FACTS.items() for relation in facts}


def test_logs_take_splits_wordings_and_forms():
    settings = {"split": "heldout", "wordings": "heldout", "forms": ["single"]}
    logs = generate_logs(12, 2, 0, Mistakes.only(), **settings)
    assert all(log.success for log in logs)
    assert {len(log.gold_titles) for log in logs} == {0, 1}
    world = make_world(240, 0, "heldout")
    assert {t for log in logs for t in log.gold_titles} <= {
        entity.title for entity in world.entities
    }
    assert not {log.question_id for log in logs} & {
        log.question_id for log in generate_logs(12, 2, 0)
    }
    assert not any(
        log.success for log in generate_logs(12, 2, 0, Mistakes.only(stops_early=1.0), **settings)
    )


# Streams -----------------------------------------------------------------------------------------


@few
@given(SEEDS, st.integers(24, 200), SPLIT)
def test_the_stream_holds_what_the_world_holds(seed, size, split):
    world = make_world(size, seed, split)
    assert list(stream_passages(size, seed, split)) == [
        write_passage(world, i) for i in range(size)
    ]
    lazy = lazy_world(size, seed, split)
    assert tuple(lazy.entities) == lazy.entities[:] == world.entities and len(lazy.entities) == size
    assert lazy.entities[-1] == world.entities[-1] == make_entity(size - 1, size, seed, split)
    assert plan_questions(lazy, 5, seed) == plan_questions(world, 5, seed)


def test_a_lazy_world_has_no_entity_behind_its_end():
    with pytest.raises(IndexError):
        lazy_world(24, 0).entities[24]
    with pytest.raises(ValueError, match="entities is 23"):
        stream_passages(23, 0)  # at once, not at the first passage


def test_memory_does_not_grow_with_the_world_or_with_what_was_read():
    entities, held = LazyEntities(10_000_000, 0, "train", keep=100), []
    world = World(entities, 0, "train")
    tracemalloc.start()
    try:
        for start in (1_000_000, 2_000_000):
            for index in range(start, start + 600):
                write_passage(world, index)
            held.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert held[1] < 1.1 * held[0] and held[1] < 2**20


def test_questions_about_a_world_of_ten_million_are_made_without_a_walk_over_it():
    questions = plan_questions(
        lazy_world(10_000_000, 0), 20, 0, ["single", "bridge-3", "comparison"]
    )
    assert len({question.text for question in questions}) == 20


def test_written_passages_are_a_corpus(tmp_path):
    path = write_passages(tmp_path / "new" / "corpus.jsonl", 48, 3, "heldout")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    world = make_world(48, 3, "heldout")
    expected = [write_passage(world, index) for index in range(48)]
    assert rows == [{"title": passage.title, "text": passage.text} for passage in expected]
    assert [p.name for p in path.parent.iterdir()] == ["corpus.jsonl"]


# English -----------------------------------------------------------------------------------------


def test_no_article_clashes_and_nothing_is_said_of_itself():
    """Also: "a 80-minute film", "Dobal is often confused with Dobal", "The Winter Winter"."""
    for passage in stream_passages(4800, 6):
        for sentence in passage.sentences:
            words = sentence.split()
            for article, word in zip(words, words[1:], strict=False):
                assert not (article in ("a", "A") and word[0] in "aeiou8"), sentence
                assert article != word, sentence
            if " is often confused with " in sentence:
                subject, other = sentence.strip().split(" is often confused with ")
                assert not other.startswith(f"{subject},"), sentence
