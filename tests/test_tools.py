"""What an agent may call: search, corpus files, and the instruction and schemas for it."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.actions import read_actions
from negfail_nb.agents.calculator import CalculatorError
from negfail_nb.agents.rollout import Toolbox
from negfail_nb.agents.tasks import load_corpus
from negfail_nb.agents.tools import CalculatorTool, SearchTool, instruction, schemas
from negfail_nb.pocket import make_questions, make_world

PASSAGES = [
    ("Kamir Hawks", "A team that is coached by Tolva."),
    ("Tolva", "A coach and swimmer."),
    ("Vitamin C", "It prevents scurvy."),
    ("Vitamin K", "It lets blood clot."),
    ("The Who", "A band from London."),
    ("Élan", "The ship sank in 1921."),
]
WORDS = st.lists(
    st.sampled_from("red river rivers city the of old tower 1921 a".split()), max_size=6
).map(" ".join)


@pytest.fixture(scope="module")
def search():
    return SearchTool(PASSAGES)


# Search ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("tolva", "Tolva"),
        ("COACHES of Kamir", "Kamir Hawks"),  # stems, lower case
        ("vitamin c", "Vitamin C"),
        ("which vitamin is k", "Vitamin K"),  # a word of one letter counts
        ("the who", "The Who"),  # though both are words that the index may pass over
        ("scurvy?", "Vitamin C"),
        ("élan", "Élan"),
        ("sinking ship 1921", "Élan"),
    ],
)
def test_a_search_finds(search, query, first):
    assert PASSAGES[search.find(query)[0]][0] == first
    assert search(query).startswith(f"{first} [1]: ")


@pytest.mark.parametrize("query", ["", "xyzzy", "the of", "?!", "\ud800", "\n"])
def test_a_search_that_finds_nothing_says_so(search, query):
    assert search.find(query) == []
    assert search(query) == "No results found."


def test_results_are_numbered_and_limited(search):
    assert search("coach") == f"Tolva [1]: {PASSAGES[1][1]} Kamir Hawks [2]: {PASSAGES[0][1]}"
    assert len(search.find("vitamin coach london 1921")) == 3
    assert len(search.find("vitamin coach london 1921", 100)) == 6
    assert len(SearchTool(PASSAGES, results=1).find("vitamin")) == 1


def test_equal_passages_come_in_the_order_of_the_corpus():
    search = SearchTool(
        [
            ("Other", "words"),
            *[(f"Title {n}", "same text") for n in range(50)],
            ("Best", "same same"),
        ]
    )
    assert search.find("same", 4) == [51, 1, 2, 3]


def test_a_title_comes_first_however_common_its_words_are():
    search = SearchTool(
        [*[(f"Common {n}", "Common common.") for n in range(40)], ("Common", "Other words. " * 9)]
    )
    assert search.find(" COMMON ", 2) == [40, 0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=12), WORDS, st.integers(1, 15))
def test_the_best_are_those_of_a_full_ranking_and_share_a_word(passages, query, k):
    try:
        search = SearchTool(passages)
    except ValueError:
        assert not {*" ".join(map(" ".join, passages)).split()} - {"the", "of", "a"}
        return
    every = search.find(query, len(passages))
    assert search.find(query, k) == every[:k]
    assert len(set(every)) == len(every)
    stems = {word.removesuffix("s") for word in query.split()} - {"the", "of", "a"}
    for number, (title, text) in enumerate(passages):
        shares = stems & {word.removesuffix("s") for word in f"{title} {text}".split()}
        assert (number in every) == bool(shares or title.strip().lower() == query.strip().lower())


def test_the_order_is_the_same_in_another_process_and_from_many_threads():
    words = "red river city old tower coach ship band blood swimmer team vitamin".split()
    # The scores of a query with all words differ by the order of addition only.
    turned = [[*words[turn:], *words[:turn]] for turn in range(12)]
    passages = [
        ("Passage", " ".join(word for n, word in enumerate(some) for _ in range(n + 1)))
        for some in turned
    ]
    search, queries = (
        SearchTool(passages),
        [" ".join(some[: 3 + n % 10]) for n, some in enumerate(turned * 5)],
    )
    found = [search.find(query, 6) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: search.find(query, 6), queries)) == found
    code = "import json, sys; from negfail_nb.agents.tools import SearchTool\n"
    code += "passages, queries = json.load(sys.stdin); search = SearchTool(passages)\n"
    code += "print(json.dumps([search.find(query, 6) for query in queries]))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([passages, queries]),
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == found
    assert run.stderr == ""  # no progress bar


def test_the_fingerprint_is_of_the_passages_and_the_results(search):
    assert SearchTool(list(PASSAGES)).fingerprint == search.fingerprint
    others = [SearchTool(PASSAGES[::-1]), SearchTool(PASSAGES[1:]), SearchTool(PASSAGES, results=2)]
    others += [
        SearchTool([("a b", "c")]),
        SearchTool([("a", "b c")]),
        SearchTool([("a", "b"), ("c", "")]),
    ]
    assert len({search.fingerprint, *(other.fingerprint for other in others)}) == 7
    assert SearchTool([("\ud800", "word")]).fingerprint


@pytest.mark.parametrize("passages", [[], [("", "")], [("the", "of")]])
def test_a_corpus_without_words_is_refused(passages):
    with pytest.raises(ValueError, match=f"none of the {len(passages)} passages has a word"):
        SearchTool(passages)


def test_no_results_at_all_are_refused(search):
    with pytest.raises(ValueError, match="results is 0"):
        SearchTool(PASSAGES, results=0)
    with pytest.raises(ValueError, match="results is -1"):
        search.find("tolva", -1)


# Corpus files ------------------------------------------------------------------------------------


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_a_corpus_of_passages(tmp_path):
    file = lines(
        tmp_path / "c.jsonl",
        *({"_id": n, "title": t, "text": x} for n, (t, x) in enumerate(PASSAGES)),
    )
    assert load_corpus(file) == PASSAGES
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert load_corpus(str(file)) == PASSAGES


def test_the_passages_of_hotpotqa_questions_are_pooled(tmp_path):
    records = make_questions(make_world(48, 0), 12, 0)
    expected = list(
        dict.fromkeys(
            (title, "".join(text)) for record in records for title, text in record["context"]
        )
    )
    assert len({title for title, _ in expected}) == len(expected) < 120
    library = [
        {
            **r,
            "context": {
                "title": [t for t, _ in r["context"]],
                "sentences": [s for _, s in r["context"]],
            },
        }
        for r in records
    ]
    whole = tmp_path / "questions.json"
    whole.write_text(json.dumps(records, indent=1), encoding="utf-8-sig")
    for file in (
        lines(tmp_path / "native.jsonl", *records),
        lines(tmp_path / "library.jsonl", *library),
        whole,
    ):
        assert load_corpus(file) == expected


def test_one_title_with_two_texts_is_two_passages(tmp_path):
    one, two = {"title": "Tolva", "text": "A coach."}, {"title": "Tolva", "text": "A river."}
    assert load_corpus(lines(tmp_path / "c.jsonl", one, two, one)) == [
        ("Tolva", "A coach."),
        ("Tolva", "A river."),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "there are no passages"),
        (b"\n\n", "there are no passages"),
        (b"[]", "there are no passages"),
        (b'{"title": "a", "text": "b"}\n{"title": "a"}', "line 2: text is None"),
        (b'{"title": "a", "text": "b"}\n\n{"title": " ", "text": "b"}', "line 3: title is ' '"),
        (b'{"title": "a", "text": ["b"]}', "line 1: text is ['b']"),
        (b'{"title": "a", "text": "b"', "line 1: not valid JSON"),
        (b'[{"title": "a", "text": "b"}, 5]', "record 2: the record is int"),
        (b'[{"title": "a", "text": "b"}', "JSON list: not valid JSON"),
        (b'"text"', "line 1: the record is str"),
        (b'{"title": "a", "text": "b"}\n{"title": "\xff"}', "line 2: not UTF-8"),
        (b'[{"title": "\xff"}]', "not UTF-8 at byte 13"),
        (b'{"context": 5}', "line 1: the context is not a list of [title, sentences]"),
        (b'{"context": [["a"]]}', "line 1: the context is not"),
        (b'{"context": [["", ["b"]]]}', "line 1: title is ''"),
        (b'{"context": {"title": ["a"]}}', "line 1: the context is not"),
        (b'{"context": {"title": ["a", "b"], "sentences": [["c"]]}}', "line 1: the context is not"),
        (b'{"context": [["a", [1]]]}', "line 1: the context is not"),
    ],
)
def test_a_corpus_that_is_none_names_file_and_line(tmp_path, content, reason):
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError) as refusal:
        load_corpus(file)
    assert str(file) in str(refusal.value) and reason in str(refusal.value)


def test_a_corpus_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ValueError, match="cannot read the corpus"):
            load_corpus(path)


# What the agent is told --------------------------------------------------------------------------


class Lookup:
    name, argument, description = "lookup", "term", "looks a term up"

    def __call__(self, term):
        return term


class Shout(Lookup):
    name = "Shout Out"


def test_the_instruction_is_in_the_papers_words_and_shows_the_form(search):
    text = instruction([search])
    assert text.startswith(
        "Solve a question answering task with interleaving Thought, Action, Observation steps. "
        "Thought can reason "
        "about the current situation, and Action can be two types:\n(1) search[query], which "
        "searches a query "
    )
    assert "\n(2) finish[answer], which returns the answer and finishes the task.\n" in text
    assert text.endswith("\nThought: ...\nAction: tool[argument]")
    assert [(one.action.name, one.action.argument) for one in read_actions(text)] == [
        ("tool", "argument")
    ]
    math = instruction([CalculatorTool()])
    assert (
        math.startswith("Solve a math problem with")
        and "(1) calculate[expression], which calculates" in math
    )
    assert "three types:" in instruction([search, CalculatorTool()])
    assert "one type:\n(1) finish" in instruction([])
    assert "(1) lookup[term], which looks a term up." in instruction([Lookup()])


def test_with_tool_calls_no_text_form_is_asked_for(search):
    text = instruction([search], "tools")
    assert "Action" not in text and "[" not in text and "finish" in text


def test_schemas_are_those_of_the_chat_api(search):
    made = schemas([search, CalculatorTool()])
    assert json.loads(json.dumps(made)) == list(made)
    assert [schema["function"]["name"] for schema in made] == ["search", "calculate", "finish"]
    assert made[1] == {
        "type": "function",
        "function": {
            "name": "calculate",
            "description": "Calculates the expression and returns the answer.",
            "parameters": {
                "type": "object",
                "properties": {"expression": {"type": "string"}},
                "required": ["expression"],
            },
        },
    }


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ([Lookup(), Lookup()], "2 tools of the name 'lookup'"),
        ([Shout()], "the name 'Shout Out'; use lower-case letters"),
    ],
)
def test_tools_that_cannot_be_told_apart_or_called_are_refused(tools, reason):
    for tell in (instruction, schemas):
        with pytest.raises(ValueError, match=reason):
            tell(tools)


def test_an_unknown_style_is_refused(search):
    with pytest.raises(ValueError, match="style is 'xml'; use one of 'react', 'tools'"):
        instruction([search], "xml")


def test_the_calculator_calculates_or_raises():
    assert CalculatorTool()("48/2 + 1/3") == "73/3"
    with pytest.raises(CalculatorError, match="name 'os'"):
        CalculatorTool()("os")


# How tools are called ----------------------------------------------------------------------------


class Where(Lookup):
    """Says in which thread it is called, after so many seconds."""

    def __init__(self, *waits):
        self.waits = list(waits)

    def __call__(self, term):
        time.sleep(self.waits.pop(0))
        return threading.current_thread().name


@pytest.mark.parametrize(
    ("waits", "threads"),
    [
        ([0.05, 0.05, 0.05, 0.05, 0.0], [False, False, False, True, True]),
        ([0.2, 0.0, 0.05, 0.05, 0.0, 0.2], [False] * 6),  # a busy machine
    ],
)
def test_a_tool_that_waits_time_and_again_is_called_in_a_thread(waits, threads):
    async def call():
        box = Toolbox([Where(*waits)])
        return [await box.call("lookup", "x") for _ in waits]

    assert [name != "MainThread" for name in asyncio.run(call())] == threads
