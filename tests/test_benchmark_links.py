"""06: links between passages, three steps of retrieval without a model, and how well retrieval
finds gold.
"""

import logging
import math
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from conftest import real_data
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.benchmarking.hits import Hits
from negfail_nb.benchmarking.index import build_index
from negfail_nb.benchmarking.links import Links, NameFinder, build_links, name_spans, names_of
from negfail_nb.benchmarking.paths import linked_search
from negfail_nb.benchmarking.pools import MemoryPool
from negfail_nb.benchmarking.questions import draw, load_questions
from negfail_nb.benchmarking.recall import retrieval_metrics
from negfail_nb.benchmarking.records import Passage, Question
from negfail_nb.settings import EvaluateSettings, RetrievalSettings

HOTPOT = "hotpotqa/dev_distractor_1287.jsonl"
FEW = EvaluateSettings(resamples=200)

FILM, SHIRLEY, CORLISS, PAPER, OTHER = range(5)
POOL = MemoryPool(
    [
        Passage("Kiss and Tell (1945 film)", ("A film with Shirley Temple as Corliss Archer.",)),
        Passage("Shirley Temple", ("She was Chief of Protocol.",)),
        Passage("Meet Corliss Archer", ("A radio program.",)),
        Passage("The Oberoi Paper", ("A paper about government positions and a woman.",)),
        Passage("She (novel)", ("A novel.",)),
    ]
)
LINKS = build_links(POOL)


class WordCounts:
    """An index by plain counts of words, slow and exact."""

    def __init__(self, pool):
        self.texts = [
            re.findall(r"\w+", f"{pool[n].title} {pool[n].text}".lower()) for n in range(len(pool))
        ]
        self.searches = 0

    def word_scores(self, query, numbers):
        words = dict.fromkeys(re.findall(r"\w+", query.lower()))
        return np.array(
            [[self.texts[n].count(word) for n in numbers] for word in words], float
        ).reshape(-1, len(numbers))

    def search(self, queries, k):
        self.searches += 1
        scores = np.array(
            [self.word_scores(query, range(len(self.texts))).sum(axis=0) for query in queries]
        )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return Hits(order, np.take_along_axis(scores, order, axis=1))


def mentions_slowly(pool, most=math.inf):
    """Return pairs of passages of which the first mentions the second, by one regular expression a
    name.
    """
    owners = {}
    for number in range(len(pool)):
        for name in names_of(pool[number].title):
            owners.setdefault(name, []).append(number)
    pairs = set()
    for name, named in owners.items():
        word = re.compile(rf"(?<!\w(?=\w)){re.escape(name)}(?!(?<=\w)\w)")
        found = [number for number in range(len(pool)) if word.search(pool[number].text)]
        if len(found) * len(named) <= most:
            pairs.update((a, b) for a, b in product(found, named) if a != b)
    return pairs


def pairs_of(links):
    return {
        (source, target)
        for source in range(len(links))
        for target in links.mentions(source).tolist()
    }


WORDS = st.sampled_from(["A", "a", "An", "Ann", "B.", "B", "(x)", "É", "-", "A_b", "7"])
TEXTS = st.lists(WORDS, min_size=1, max_size=8).flatmap(
    lambda w: st.sampled_from([" ", ""]).map(lambda s: s.join(w))
)
POOLS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8).map(
    lambda rows: MemoryPool([Passage(title, (text,)) for title, text in rows])
)


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Kiss and Tell (1945 film)", ("Kiss and Tell (1945 film)", "Kiss and Tell")),
        ("Rome", ("Rome",)),
        ("(You) Two", ("(You) Two",)),
        ("(x)", ("(x)",)),
        (" ", ()),
    ],
)
def test_a_passage_is_named_by_its_title_with_and_without_the_bracket(title, names):
    assert names_of(title) == names


@settings(max_examples=60, deadline=None)
@given(POOLS, st.sampled_from([1, 3, 1000]), st.sampled_from([1, 2, 1000]))
def test_links_are_those_that_a_slow_search_finds(pool, names_at_once, most):
    links = build_links(pool, most=most, names_at_once=names_at_once)
    pairs = mentions_slowly(pool, most)
    assert pairs_of(links) == pairs
    for number in range(len(pool)):
        assert links.mentioned_by(number).tolist() == sorted(a for a, b in pairs if b == number)
        numbers, counts = links.of(number)
        near = {b for a, b in pairs if a == number} | {a for a, b in pairs if b == number}
        assert numbers.tolist() == sorted(near)
        for other, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            ends = [b for a, b in ((number, other), (other, number)) if (a, b) in pairs]
            assert count == min(sum(target == end for _, target in pairs) for end in ends)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5), TEXTS)
def test_names_are_found_in_questions_where_they_are_found_in_passages(names, text):
    finder = NameFinder((name, 0) for name in names if name == name.strip())
    spans = {text[start:end] for start, end in name_spans(text)}
    assert {finder.names[place] for place in finder.find(text)} == spans & set(finder.names)


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("Who was in Kiss and Tell?", [[FILM]]),
        ("Is Shirley Temple in Kiss and Tell (1945 film)?", [[SHIRLEY], [FILM]]),
        ("Which kiss and Tells are there?", []),
        ("She?", [[OTHER]]),
        ("", []),
    ],
)
def test_questions_name_passages(question, found):
    assert [numbers.tolist() for numbers in LINKS.named(question)] == found


def test_names_that_are_everywhere_are_left_out_and_counted(caplog):
    rows = [Passage("Rome", ("A city.",)), Passage("It (novel)", ("A novel.",))]
    pool = MemoryPool(
        rows + [Passage(f"Film {n}", ("It is set in Rome." if n else "It is.",)) for n in range(5)]
    )
    with caplog.at_level(logging.INFO, "negfail_nb"):
        links = build_links(pool, most=4)
    assert links.left_out == 1
    assert "1 names with more than 4 links are left out: It" in caplog.text
    assert [n.tolist() for n in links.named("Is It of Rome?")] == [[0]]
    assert links.mentioned_by(0).tolist() == [3, 4, 5, 6] and len(links.mentioned_by(1)) == 0


def test_a_name_of_several_passages_makes_as_many_links():
    rows = [Passage("Paris (city)", ("Old.",)), Passage("Paris (film)", ("New.",))]
    pool = MemoryPool(rows + [Passage(f"Film {n}", ("Set in Paris.",)) for n in range(2)])
    assert len(build_links(pool, most=4).mentioned) == 4
    assert len(build_links(pool, most=3).mentioned) == 0


def test_of_two_links_between_passages_the_rarer_title_counts():
    rows = [
        Passage("Rome", ("The Tiber.",)),
        Passage("Tiber", ("Flows through Rome.",)),
        Passage("Nero", ("Of Rome.",)),
    ]
    links = build_links(MemoryPool(rows))
    assert [part.tolist() for part in links.of(0)] == [[1, 2], [1, 2]]
    assert [part.tolist() for part in links.of(1)] == [[0], [1]]


def test_of_names_that_overlap_the_longest_counts():
    links = build_links(
        MemoryPool(
            [Passage(title, ("-",)) for title in ("New York", "New York City", "City", "York")]
        )
    )
    assert [n.tolist() for n in links.named("Is New York City in New York, or York a City?")] == [
        [1],
        [0],
        [3],
        [2],
    ]


def test_links_are_opened_as_they_were_saved(tmp_path):
    links = Links.open(LINKS.save(tmp_path / "links"))
    assert isinstance(links.mentioned, np.memmap)
    assert pairs_of(links) == pairs_of(LINKS) == {(FILM, SHIRLEY), (SHIRLEY, OTHER)}
    assert [n.tolist() for n in links.named("Kiss and Tell")] == [[FILM]]
    assert links.left_out == 0


@pytest.mark.parametrize("wrong", [{"most": 0}, {"names_at_once": 0}])
def test_bounds_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match="give 1 or more"):
        build_links(POOL, **wrong)


QUESTION = (
    "What government position was held by the woman who was in the film Kiss and Tell as Corliss "
    "Archer?"
)


def test_the_second_passage_stands_beside_the_first_though_it_shares_few_words():
    index = WordCounts(POOL)
    assert index.search([QUESTION], 5).numbers[0].tolist().index(SHIRLEY) > 1
    hits = linked_search(index, LINKS, [QUESTION], 5)
    assert hits.numbers.dtype == np.int64 and hits.numbers.shape == hits.scores.shape == (1, 5)
    assert hits.numbers[0].tolist()[:2] == [FILM, SHIRLEY]


def test_a_comparison_finds_both_passages_that_it_names():
    index = WordCounts(POOL)
    question = "Which is older, a program of radio, the program Meet Corliss Archer, or She?"
    hits = linked_search(index, LINKS, [question, QUESTION], 2, RetrievalSettings(first=1))
    assert hits.numbers.tolist() == [[CORLISS, OTHER], [FILM, SHIRLEY]]


def paths_slowly(index, links, query, k, first):
    """Return the passages of the best paths, all paths written out."""
    found = index.search([query], max(k, first)).numbers[0].tolist()
    groups = [set(group.tolist()) for group in links.named(query)]
    named = set().union(*groups)
    words = index.word_scores(query, range(len(links)))
    paths = {(a, a): words[:, a].sum() for a in {*found, *named}}
    for a, b in product({*found[:first], *named}, range(len(links))):
        costs = [math.log(1 + count) for n, count in zip(*links.of(a), strict=True) if n == b]
        costs += [
            0.0 for one, two in product(groups, groups) if a in one - two and b in two and a != b
        ]
        if costs:
            gain = sum(
                max(0, of_b - of_a) for of_a, of_b in zip(words[:, a], words[:, b], strict=True)
            )
            paths[a, b] = words[:, a].sum() + gain - min(costs)
    order = sorted(paths, key=lambda path: (-round(paths[path], 9), path))
    scores = {}
    for path in order:
        for number in path:
            scores.setdefault(number, paths[path])
    return scores


@settings(max_examples=60, deadline=None)
@given(POOLS, TEXTS, st.integers(1, 8), st.integers(1, 4))
def test_paths_are_those_of_a_slow_search(pool, query, k, first):
    index, links, k = WordCounts(pool), build_links(pool), min(k, len(pool))
    slow = paths_slowly(index, links, query, k, min(first, len(pool)))
    hits = linked_search(index, links, [query], k, RetrievalSettings(first=first))
    numbers, scores = hits.numbers[0].tolist(), hits.scores[0].tolist()
    assert len(set(numbers)) == k
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([slow[n] for n in numbers], abs=1e-5)
    assert scores == pytest.approx(list(slow.values())[:k], abs=1e-5)


def test_first_hits_are_not_searched_again():
    index = WordCounts(POOL)
    first = index.search([QUESTION], 5)
    hits = linked_search(index, LINKS, [QUESTION], 5, first_hits=first)
    assert index.searches == 1
    assert (
        hits.numbers.tolist()
        == linked_search(
            index, LINKS, [QUESTION], 5, first_hits=Hits(first.numbers[:, :2], first.scores[:, :2])
        ).numbers.tolist()
    )
    with pytest.raises(ValueError, match="1 rows for 2 queries"):
        linked_search(index, LINKS, [QUESTION] * 2, 5, first_hits=first)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_must_be_in_the_pool(k):
    with pytest.raises(ValueError, match=f"k is {k}; the pool has 5 passages"):
        linked_search(WordCounts(POOL), LINKS, [QUESTION], k)


def asked(name, *gold, type=""):
    return Question(
        id=name, question="?", answer="x", type=type, facts=tuple((title, 0) for title in gold)
    )


FOUND = [[SHIRLEY, CORLISS, FILM], [CORLISS, PAPER, FILM]]
ASKED = [
    asked("one", "Shirley Temple", "Kiss and Tell (1945 film)", type="bridge"),
    asked("two", "Shirley Temple"),
]


def test_metrics_by_hand():
    table = retrieval_metrics(Hits(np.array(FOUND), np.zeros((2, 3))), ASKED, POOL, (1, 3), FEW)
    values = {
        (row.group, row.measure, row.k): (row.value, row.questions)
        for row in table.fillna(0).itertuples()
    }
    assert values == {
        ("all", "recall", 1): (0.25, 2),
        ("all", "recall", 3): (0.5, 2),
        ("all", "all_gold", 1): (0, 2),
        ("all", "all_gold", 3): (0.5, 2),
        ("all", "mrr", 0): (0.5, 2),
        ("all", "hop_1", 1): (0.5, 2),
        ("all", "hop_1", 3): (0.5, 2),
        ("all", "hop_2", 1): (0, 1),
        ("all", "hop_2", 3): (1, 1),
        ("bridge", "recall", 1): (0.5, 1),
        ("bridge", "recall", 3): (1, 1),
        ("bridge", "all_gold", 1): (0, 1),
        ("bridge", "all_gold", 3): (1, 1),
        ("bridge", "mrr", 0): (1, 1),
        ("bridge", "hop_1", 1): (1, 1),
        ("bridge", "hop_1", 3): (1, 1),
        ("bridge", "hop_2", 1): (0, 1),
        ("bridge", "hop_2", 3): (1, 1),
    }
    row = table.set_index(["group", "measure", "k"]).loc[("all", "recall", 3)]
    assert (row.low, row.high) == (0, 1)


def test_rows_of_unequal_length_and_gold_that_the_pool_holds_twice():
    pool = MemoryPool([Passage("A", ("1",)), Passage("A", ("1",)), Passage("B", ("3",))])
    table = retrieval_metrics(
        [[1], [], [0, 2]], [asked(name, "A") for name in "xyz"], pool, (1, 2), FEW
    )
    assert table.set_index(["measure", "k"]).value["recall"].round(4).tolist() == [0.6667, 0.6667]


def test_another_passage_of_the_title_is_not_the_gold_one():
    pool = MemoryPool(
        [Passage("A", ("A film.",)), Passage("A", ("A novel.",)), Passage("B", ("3",))]
    )
    novel = replace(asked("x", "A"), evidence=(pool[1],))
    table = retrieval_metrics([[0, 2], [0, 1]], [novel, replace(novel, id="y")], pool, (1, 2), FEW)
    assert table.set_index(["measure", "k"]).value["recall"].tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("questions", "found", "ks", "text"),
    [
        ([asked("q7", "Atlantis")], [[0]], (1,), "'q7': the pool has no passage titled 'Atlantis'"),
        ([asked("q8")], [[0]], (1,), "'q8' has no supporting facts"),
        ([], [], (1,), "no questions"),
        (ASKED, [[0]], (1,), "hits for 1 of 2 questions"),
        (ASKED, FOUND, (), r"ks is \(\)"),
        (ASKED, FOUND, (0, 1), r"ks is \(0, 1\)"),
        (ASKED, Hits(np.array(FOUND), np.zeros((2, 3))), (2, 5), "ks has 5, but only 3"),
    ],
)
def test_what_cannot_be_measured_is_refused(questions, found, ks, text):
    with pytest.raises(ValueError, match=text):
        retrieval_metrics(found, questions, POOL, ks, FEW)


def test_links_raise_recall_on_real_questions():
    questions = draw(load_questions(real_data(HOTPOT)), 200, seed=0)
    pool = MemoryPool(questions.passages)
    index, texts = build_index(pool), [question.question for question in questions]
    first = index.search(texts, 10)
    both = [first, linked_search(index, build_links(pool), texts, 10, first_hits=first)]
    tables = [retrieval_metrics(hits, questions, pool, (2, 5), FEW) for hits in both]
    before, after = (
        table.query("group == 'all' and measure == 'recall'").value.to_numpy() for table in tables
    )
    assert (after > [0.8, 0.93]).all() and (after - before > 0.1).all()
