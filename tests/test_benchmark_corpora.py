"""06: questions and passages of every layout, from the hub, from files and generated; the files of
a corpus.
"""

import json
import re
from collections import Counter

import pytest
from conftest import real_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from negfail_nb.benchmarking.layouts import distinct, read_question
from negfail_nb.benchmarking.pools import MemoryPool, Pool, read_passages
from negfail_nb.benchmarking.questions import draw, load_questions
from negfail_nb.benchmarking.recall import gold_ranks
from negfail_nb.benchmarking.records import Passage, gold_copies, gold_numbers
from negfail_nb.pocket import make_questions, make_world
from negfail_nb.settings import DATA

HOTPOT = "hotpotqa/dev_distractor_1287.jsonl"

NATIVE = {
    "_id": "q1",
    "question": "Which river does the capital of Aria lie on?",
    "answer": "Ember",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": [["Aria", 0], ["Dobal (city)", 1]],
    "context": [
        ["Dobal (city)", ["Dobal is old.", " It lies on the Ember."]],
        ["Aria", ["Its capital is Dobal."]],
    ],
}
HUB_LAYOUT = {
    "id": "q1",
    **{key: NATIVE[key] for key in ("question", "answer", "type", "level")},
    "supporting_facts": {"title": ["Aria", "Dobal (city)"], "sent_id": [0, 1]},
    "context": {
        "title": [c[0] for c in NATIVE["context"]],
        "sentences": [c[1] for c in NATIVE["context"]],
    },
}
TWO_WIKI = {
    **NATIVE,
    "type": "compositional",
    "context": [
        ["Dobal (city)", ["Dobal is old.", "It lies on the Ember."]],
        ["Aria", ["Its capital is Dobal."]],
    ],
    "evidences": [["Aria", "capital", "Dobal"]],
}
MUSIQUE = {
    "id": "2hop__1_2",
    "question": NATIVE["question"],
    "answer": "Ember",
    "answer_aliases": ["the Ember", "River Ember"],
    "answerable": True,
    "paragraphs": [
        {
            "idx": 0,
            "title": "Dobal (city)",
            "paragraph_text": "It lies on the Ember.",
            "is_supporting": True,
        },
        {"idx": 1, "title": "Kamin", "paragraph_text": "A firm.", "is_supporting": False},
        {
            "idx": 2,
            "title": "Aria",
            "paragraph_text": "Its capital is Dobal.",
            "is_supporting": True,
        },
    ],
    "question_decomposition": [
        {"id": 1, "question": "capital?", "answer": "Dobal", "paragraph_support_idx": 2},
        {"id": 2, "question": "river?", "answer": "Ember", "paragraph_support_idx": 0},
    ],
}


def written(path, *records, whole=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (
        json.dumps(records) if whole else "".join(json.dumps(record) + "\n" for record in records)
    )
    path.write_text(text, encoding="utf-8")
    return path


def parquet(path, *records):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records)), path)
    return path


# Questions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "record"),
    [
        *(
            (form, record)
            for form in ("lines", "list")
            for record in (NATIVE, HUB_LAYOUT, TWO_WIKI)
        ),
        ("parquet", HUB_LAYOUT),
    ],
)
def test_hotpot_and_2wiki_read_the_same_from_every_file(tmp_path, form, record):
    name = tmp_path / ("q.parquet" if form == "parquet" else "q.json")
    path = (
        parquet(name, record) if form == "parquet" else written(name, record, whole=form == "list")
    )
    questions = load_questions(path)
    (question,) = questions
    assert (question.id, question.answer, question.level) == ("q1", "Ember", "hard")
    assert question.type == record["type"]
    assert question.facts == (("Aria", 0), ("Dobal (city)", 1)) and question.gold == (
        "Aria",
        "Dobal (city)",
    )
    assert question.own == ("Dobal (city)", "Aria")
    assert [p.text for p in questions.passages] == [
        "Dobal is old. It lies on the Ember.",
        "Its capital is Dobal.",
    ]
    assert questions.contexts == ((0, 1),) and questions.problems == ()


def test_one_sentence_without_its_space_stays_as_it_is_in_a_record_that_has_spaces(tmp_path):
    odd = {**NATIVE, "context": [*NATIVE["context"], ["Odd", ["A.", "b", ""]]]}
    questions = load_questions(written(tmp_path / "q.jsonl", odd))
    assert questions.passages[2].sentences == ("A.", "b", "")


def test_musique_has_aliases_and_facts_in_the_order_of_the_hops(tmp_path):
    questions = load_questions(
        written(tmp_path / "q.jsonl", MUSIQUE, {**MUSIQUE, "id": "x", "answerable": False})
    )
    (question,) = questions
    assert question.aliases == ("the Ember", "River Ember") and question.type == "2hop"
    assert question.gold == ("Aria", "Dobal (city)") and question.own == (
        "Dobal (city)",
        "Kamin",
        "Aria",
    )
    assert [p.title for p in questions.passages] == list(question.own)
    assert (
        "not answerable" in str(questions.problems[0]) and questions.problems[0].record == "line 2"
    )


@pytest.mark.parametrize("record", [NATIVE, MUSIQUE], ids=["native", "musique"])
def test_a_file_with_a_single_record_is_one_question(tmp_path, record):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(record, indent=1))
    assert [q.answer for q in load_questions(path)] == ["Ember"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": " "}, "the field 'question' is empty"),
        ({"question": None}, "the field 'question' is null, not text"),
        ({"answer": None}, "there is no answer"),
        ({"answer": " "}, "the field 'answer' is empty"),
        ({"context": [["Aria", "text"]]}, "the sentences of a passage are text .text., not a list"),
        ({"context": ["ab"]}, "'context' is a list .*pairs of title and sentences"),
        ({"supporting_facts": [["Aria", "0"]]}, "supporting sentence is text .0., not a number"),
        (
            {"supporting_facts": [["Aria"]]},
            "'supporting_facts' is a list .*pairs of title and sent_id",
        ),
        ({"supporting_facts": [[3, 0]]}, "a title is a number .3., not text"),
        ({"_id": "q1"}, "the id 'q1' is that of line 1 already"),
    ],
)
def test_a_record_that_cannot_be_read_is_a_problem_and_the_others_are_read(
    tmp_path, caplog, change, reason
):
    path = written(
        tmp_path / "q.jsonl", NATIVE, {**NATIVE, "_id": "q2", **change}, {**NATIVE, "_id": "q3"}
    )
    questions = load_questions(path)
    assert [q.id for q in questions] == ["q1", "q3"]
    (problem,) = questions.problems
    assert (problem.file, problem.record) == ("q.jsonl", "line 2")
    assert re.search(reason, problem.reason)
    assert "1 records are left out: line 2" in caplog.text


def test_damaged_json_is_a_problem_too(tmp_path):
    path = written(tmp_path / "q.jsonl", NATIVE, {**NATIVE, "_id": "q2"})
    path.write_text(path.read_text() + '{"_id": "q3", "quest')
    questions = load_questions(path)
    assert len(questions) == 2 and questions.problems[0].record == "line 3"
    assert "not valid JSON" in questions.problems[0].reason


def test_a_file_without_a_question_and_an_unknown_source_are_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"q.jsonl: there is no question that can be read: record 1: there is no answer",
    ):
        load_questions(written(tmp_path / "q.jsonl", {**NATIVE, "answer": None}))
    with pytest.raises(
        ValueError, match=r"hotpot is no file of questions .* known are 'hotpotqa', '2wiki"
    ):
        load_questions("hotpot")
    with pytest.raises(ValueError, match="limit is -1"):
        load_questions("pocket", limit=-1)


def test_gold_that_is_not_among_a_questions_own_passages_is_said(tmp_path, caplog):
    load_questions(written(tmp_path / "q.jsonl", {**NATIVE, "context": NATIVE["context"][:1]}))
    assert "of 1 questions a gold passage is not among their own" in caplog.text


def test_questions_behave_like_a_list_and_show_themselves(tmp_path):
    hostile = {**NATIVE, "_id": "q2", "question": "<script>alert(1)</script>?"}
    questions = load_questions(written(tmp_path / "q.jsonl", NATIVE, hostile, {}))
    assert (
        len(questions) == 2
        and questions[-1] is questions[1]
        and list(questions[1:]) == [questions[1]]
    )
    assert repr(questions) == "Questions(2 questions, 2 passages, 1 problems)"
    assert "<script>" not in questions._repr_html_() and "line 3" in questions._repr_html_()
    assert list(questions.table().passages) == [2, 2]


# The hub -----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in which the names of hub data sets are folders, which the library takes instead of
    the network.
    """
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv(DATA, raising=False)  # local files would go before
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "file", "record", "card"),
    [
        (
            "hotpotqa",
            "hotpotqa/hotpot_qa/distractor/validation-0.parquet",
            HUB_LAYOUT,
            "distractor",
        ),
        (
            "2wikimultihopqa",
            "framolfese/2WikiMultihopQA/validation.parquet",
            {**HUB_LAYOUT, "type": "inference"},
            "",
        ),
        ("musique", "dgslibisey/MuSiQue/validation.jsonl", MUSIQUE, ""),
    ],
)
def test_hub_data_sets_are_read_as_the_library_gives_them(hub, source, file, record, card):
    (written if file.endswith("l") else parquet)(hub / file, record)
    if card:
        files = f"  data_files:\n  - split: validation\n    path: {card}/*.parquet\n"
        (hub / file).parents[1].joinpath("README.md").write_text(
            f"---\nconfigs:\n- config_name: {card}\n{files}---\n"
        )
    (question,) = load_questions(source)
    assert question.gold == ("Aria", "Dobal (city)") and question.answer == "Ember"
    with pytest.raises(ValueError, match=f"the split 'nowhere' of {source} .* could not be loaded"):
        load_questions(source, split="nowhere")


def test_fullwiki_is_a_config_of_its_own_whose_gold_may_be_elsewhere(hub, caplog):
    found = {"title": ["Bel"], "sentences": [["Bel is a river."]]}
    parquet(
        hub / "hotpotqa/hotpot_qa/fullwiki/validation-0.parquet", {**HUB_LAYOUT, "context": found}
    )
    files = "  data_files:\n  - split: validation\n    path: fullwiki/*.parquet\n"
    card = f"---\nconfigs:\n- config_name: fullwiki\n{files}---\n"
    (hub / "hotpotqa/hotpot_qa/README.md").write_text(card)
    (question,) = asked = load_questions("hotpotqa", config="fullwiki")
    assert (
        question.own == ("Bel",)
        and question.gold == ("Aria", "Dobal (city)")
        and len(asked.passages) == 1
    )
    assert "a gold passage is not among their own; give a corpus" in caplog.text


def test_an_unknown_config_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="config is 'full'; hotpotqa has 'distractor', 'fullwiki'"):
        load_questions("hotpotqa", config="full")


# The generated world -----------------------------------------------------------------------------


def test_half_of_the_pocket_questions_are_multi_hop_all_of_names_that_were_not_trained_on():
    questions = load_questions("pocket", limit=25, seed=3, size=240)
    trained = load_questions("pocket", limit=25, seed=3, size=240, split="train")
    assert len(questions) == len(trained) == 25
    assert all(set(q.gold) <= set(q.own) for q in questions)
    assert [len(q.gold) for q in questions][:4] == [1, 2, 1, 2]
    forms = ("single", "bridge-2")
    records = make_questions(make_world(240, 3, "heldout"), 25, 3, forms, "heldout")
    assert [q.question for q in questions] == [record["question"] for record in records]
    assert {q.type for q in questions} == {"bridge"}
    assert not {p.title for p in questions.passages} & {p.title for p in trained.passages}
    assert questions == load_questions("pocket", limit=25, seed=3, size=240)
    with pytest.raises(ValueError, match="split is 'dev'; pocket has"):
        load_questions("pocket", split="dev")


# Drawing -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pocket():
    return load_questions("pocket", limit=40, size=240)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**31 - 1), sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_draws_are_nested_and_bring_the_passages_of_their_own_only(pocket, seed, sizes):
    small, large = (draw(pocket, count, seed) for count in sorted(sizes))
    assert {q.id for q in small} <= {q.id for q in large} and len(small) == min(sizes)
    numbers = {q.id: number for number, q in enumerate(pocket)}
    own = [[pocket.passages[p] for p in pocket.contexts[numbers[q.id]]] for q in small]
    assert [[small.passages[p] for p in context] for context in small.contexts] == own
    assert Counter(small.passages) == Counter(
        dict.fromkeys((p for passages in own for p in passages), 1)
    )
    assert sorted(numbers[q.id] for q in small) == [numbers[q.id] for q in small]


def test_seeds_draw_different_questions_and_a_draw_of_too_many_is_refused(pocket, tmp_path):
    assert draw(pocket, 10, 0) != draw(pocket, 10, 1)
    with pytest.raises(ValueError, match="count is 41; there are 40 questions"):
        draw(pocket, 41, 0)
    path = written(tmp_path / "q.jsonl", *({**NATIVE, "_id": str(n)} for n in range(9)))
    assert [q.id for q in load_questions(path, limit=4, seed=1)] == [
        q.id for q in draw(load_questions(path), 4, 1)
    ]
    assert len(load_questions(path, limit=99)) == 9


# Corpora -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "record", "sentences"),
    [
        ("c.jsonl", {"title": "Aria ", "text": "One. Two.", "more": 1}, ("One. Two.",)),
        ("c.json", {"title": "Aria ", "sentences": ["One.", "Two."]}, ("One.", "Two.")),
        ("c.jsonl", {"title": "Aria ", "text": ["One.", " Two."]}, ("One.", " Two.")),
        ("beir/corpus.jsonl", {"_id": "7", "title": "Aria ", "text": "One."}, ("One.",)),
        ("c.parquet", {"title": "Aria ", "text": "One."}, ("One.",)),
        ("c.parquet", {"title": "Aria ", "sentences": ["One.", " Two."]}, ("One.", " Two.")),
        ("shards/0.parquet", {"title": "Aria ", "text": ""}, ("",)),
    ],
)
def test_corpora_of_every_layout_keep_titles_and_sentences_byte_for_byte(
    tmp_path, name, record, sentences
):
    path = tmp_path / name
    (parquet if path.suffix == ".parquet" else written)(path, record, record)
    wanted = [Passage("Aria ", sentences)] * 2
    assert list(read_passages(path.parent if "/" in name else path)) == wanted
    assert list(distinct(wanted)) == wanted[:1]


@pytest.mark.parametrize(
    "record", [NATIVE, HUB_LAYOUT, TWO_WIKI, MUSIQUE], ids=["native", "hub", "2wiki", "musique"]
)
def test_the_passages_of_questions_are_read_once_and_as_the_questions_have_them(tmp_path, record):
    path = written(tmp_path / "q.jsonl", record, {**record, "_id": "2", "id": "2"})
    assert tuple(read_passages(path)) == load_questions(path).passages


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"title": "A", "text": "B"}\n{"title": "A"}', "line 2: the field 'text' is missing"),
        ('{"text": "B"}\n{"text": "B"}', "line 1: the field 'title' is missing"),
        ('{"title": "A", "text": 3}\n{}', "line 1: the field 'text' is a number"),
        ('{"title": "A", "text": [3]}\n{}', "line 1: the sentences of a passage are a list"),
        ('{"title": "", "text": " "}\n{}', "line 1: title and text are both empty"),
        ('{"title": "A", "text": "B"}\n[1]', "line 2: the record is a list"),
        ('{"title": "A", "text": "B"}\n{"title', "line 2: not valid JSON"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_refused_with_file_and_line(tmp_path, lines, message):
    (tmp_path / "c.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=f"c.jsonl: {message}"):
        list(read_passages(tmp_path / "c.jsonl"))


def test_files_that_are_no_corpus_are_refused(tmp_path):
    (tmp_path / "no").mkdir()
    (tmp_path / "c.parquet").write_bytes(b"no parquet at all")
    for path, message in (
        ("c.parquet", "c.parquet: cannot be read"),
        ("no", "neither a corpus"),
        ("none", "no such file"),
    ):
        with pytest.raises(ValueError, match=message):
            list(read_passages(tmp_path / path))


# HotpotQA itself ---------------------------------------------------------------------------------


def test_the_real_questions_and_their_pool(tmp_path):
    path = real_data(HOTPOT)
    questions = load_questions(path)
    assert (
        Counter(q.type for q in questions) == {"bridge": 1039, "comparison": 248}
        and not questions.problems
    )
    # two titles come with two texts each
    assert (
        len({p.title for p in questions.passages}) == 12_573 and len(questions.passages) == 12_575
    )
    pool = Pool.build(questions.passages, tmp_path / "pool")
    assert tuple(pool) == questions.passages == tuple(read_passages(path))
    assert all(pool.find(title) for q in questions for title in q.gold)
    record = json.loads(path.read_text(encoding="utf-8").splitlines()[9])
    assert [pool[pool.find(t)[0]].sentences for t, _ in record["context"]] == [
        tuple(s) for _, s in record["context"]
    ]
    assert 9_600 < len(draw(questions, 1000, 0).passages) < 10_000


def test_the_real_questions_without_passages_are_read_too():
    questions = load_questions(
        real_data("hotpotqa/dev_answers_and_supporting_facts_7405.json"), limit=100
    )
    assert (
        len(questions) == 100
        and questions.passages == ()
        and all(len(q.gold) == 2 for q in questions)
    )


# Passages of one title ---------------------------------------------------------------------------

FIRM = [
    ["The Firm", ["The Firm is a film."]],
    ["The Firm", ["The Firm is a company.", " Ada founded it."]],
]


def firm(*facts, context=FIRM, **changed):
    return (
        NATIVE | {"context": context, "supporting_facts": [list(fact) for fact in facts]} | changed
    )


@pytest.mark.parametrize("layout", ["native", "hub"])
def test_of_two_passages_with_one_title_the_one_with_the_sentence_supports(tmp_path, layout):
    record = firm(("The Firm", 1))
    if layout == "hub":
        record |= {
            "supporting_facts": {"title": ["The Firm"], "sent_id": [1]},
            "context": {
                "title": ["The Firm"] * 2,
                "sentences": [sentences for _, sentences in FIRM],
            },
        }
    questions = load_questions(written(tmp_path / "q.jsonl", record))
    (question,) = questions
    assert question.evidence[0].text.endswith("Ada founded it.") and question.own == (
        "The Firm",
        "The Firm",
    )
    assert gold_numbers(question, MemoryPool(questions.passages)) == (1,)


def test_where_nothing_tells_which_of_two_supports_the_record_is_left_out_and_named(tmp_path):
    questions = load_questions(
        written(tmp_path / "q.jsonl", NATIVE, firm(("The Firm", 0), _id="q2"))
    )
    assert len(questions) == 1 and "'The Firm' 2 have a sentence 0, so which" in str(
        questions.problems[0]
    )


def test_a_passage_that_stands_twice_in_a_record_is_one(tmp_path):
    (question,) = load_questions(
        written(tmp_path / "q.jsonl", firm(("The Firm", 1), context=[FIRM[1], FIRM[1]]))
    )
    assert question.gold == ("The Firm",)


def test_gold_of_two_questions_with_one_title_stays_apart_in_a_shared_pool(tmp_path):
    records = [
        firm(("The Firm", 0), context=[paragraph], _id=name)
        for name, paragraph in zip("ab", FIRM, strict=True)
    ]
    questions = load_questions(written(tmp_path / "q.jsonl", *records))
    pools = [MemoryPool(questions.passages), Pool.build(questions.passages, tmp_path / "pool")]
    assert [[gold_numbers(q, pool) for q in questions] for pool in pools] == [[(0,), (1,)]] * 2


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ("The Firm is a company.  Ada founded it.", (1,)),  # other white space
        ("The FIRM is a company; Ada founded it (1990).", (1,)),  # another edition
        ("A band from Kamin.", None),
    ],
)
def test_a_corpus_of_another_edition_is_searched_by_the_words_of_the_supporting_sentence(
    tmp_path, other, found
):
    (question,) = load_questions(
        written(tmp_path / "q.jsonl", firm(("The Firm", 0), ("The Firm", 1)))
    )
    pool = MemoryPool(
        [Passage("The Firm", ("The Firm is a film.",)), Passage("The Firm", (other,))]
    )
    if found:
        assert gold_numbers(question, pool) == found
    else:
        with pytest.raises(
            ValueError, match=r"titled 'The Firm' \(2\) none has the supporting sentence"
        ):
            gold_numbers(question, pool)


PARAGRAPHS = st.lists(
    st.tuples(
        st.sampled_from("AB"), st.sampled_from(["one", "two", "three", "four"]), st.booleans()
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row[:2],
).filter(lambda rows: any(support for *_, support in rows))


@settings(max_examples=100, deadline=None)
@given(st.lists(PARAGRAPHS, min_size=1, max_size=4))
def test_gold_is_what_the_record_marks_however_often_titles_repeat(records):
    names = ("title", "paragraph_text", "is_supporting")
    read = [
        read_question(
            {
                "id": f"{n}",
                "question": "?",
                "answer": "x",
                "paragraphs": [dict(zip(names, row, strict=True)) for row in r],
            }
        )
        for n, r in enumerate(records)
    ]
    pool = MemoryPool([passage for _, passages in read for passage in passages])  # with copies
    for (question, _), rows in zip(read, records, strict=True):
        wanted = [row[:2] for row in rows if row[2]]
        copies = gold_copies(question, pool)
        assert [{(pool[n].title, pool[n].text) for n in numbers} for numbers in copies] == [
            {key} for key in wanted
        ]
        assert len(set(question.gold)) == len(question.gold) == len(wanted)
        namesakes = [n for n in range(len(pool)) if (pool[n].title, pool[n].text) not in wanted]
        assert gold_ranks([*namesakes, *range(len(pool))], question, pool) == [
            len(namesakes) + 1 + numbers[0] for numbers in copies
        ]
        assert set(gold_ranks(namesakes, question, pool)) == {float("inf")}
