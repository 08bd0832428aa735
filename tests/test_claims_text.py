"""What a sentence says, which sentences are claims, whether a source says them, and how weak each
check is.
"""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.claims import Source, check_weakness, extract_claims, load_pairs, make_pairs
from negfail_nb.claims.extraction import find_quotation, is_candidate
from negfail_nb.claims.verification import (
    direction,
    names,
    negated,
    quantities,
    split,
    text_checks,
    verify,
)
from negfail_nb.settings import ClaimSettings

TEXT = (
    "We compare agents.\n\nWang et al. report 64.64 points. NAT is better than NUT (see Fig. 3)."
    "\fDoes it help?"
)


def test_a_text_is_split_into_its_sentences_word_for_word():
    expected = [
        "We compare agents.",
        "Wang et al. report 64.64 points.",
        "NAT is better than NUT (see Fig. 3).",
    ]
    assert split(TEXT.split("\f")[0]) == expected


@given(st.text())
def test_a_sentence_stands_in_its_text(text):
    assert all(sentence in text for sentence in split(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,500 questions", [(1500, "question")]),
        ("10k failures", [(10_000, "")]),
        ("64.64 %, 3 percent", [(64.64, "%"), (3, "%")]),
        ("-3.16 points", [(-3.16, "point")]),
        ("92.08 s or 40 ms", [(92.08, "s"), (40, "ms")]),
        ("128K tokens", [(128_000, "token")]),
        ("3 billion", [(3e9, "")]),
        ("NAT-7B and GPT-3.5", []),
        ("2 times faster, 3x", [(2, "time"), (3, "time")]),
    ],
)
def test_numbers_have_value_and_unit(text, expected):
    found = [(quantity.value, quantity.unit) for quantity in quantities(text)]
    assert found == [
        (pytest.approx(value), {"s": "second"}.get(unit, unit)) for value, unit in expected
    ]


def test_direction_negation_and_names():
    assert [direction(t) for t in ("it improves", "it drops", "it rises and falls", "it is")] == [
        1,
        -1,
        0,
        0,
    ]
    assert [negated(t) for t in ("it is not", "it isn't", "not without", "never not", "it is")] == [
        1,
        1,
        1,
        0,
        0,
    ]
    assert names("The agent NAT beats Vanilla on HotpotQA") == ["nat", "vanilla", "hotpotqa"]


EVIDENCE = "NAT improves accuracy by 9 points on HotpotQA."


@pytest.mark.parametrize(
    ("claim", "failed"),
    [
        ("NAT improves accuracy by 9 points.", set()),
        ("NAT improves accuracy by 8 points.", {"numbers"}),
        ("NAT improves accuracy by 9%.", {"numbers"}),
        ("NAT lowers accuracy by 9 points.", {"direction"}),
        ("NAT does not improve accuracy by 9 points.", {"negation"}),
        ("NUT improves accuracy by 9 points.", {"names"}),
    ],
)
def test_each_check_refuses_what_it_is_for(claim, failed):
    assert {name for name, passed in text_checks(claim, EVIDENCE).items() if not passed} == failed


def test_names_must_keep_their_numbers():
    evidence = "NAT reaches 64.6 and Vanilla 55.9."
    claims = (
        "Vanilla reaches 55.9 and NAT 64.6.",
        "Vanilla reaches 64.6 and NAT 55.9.",
        "NAT reaches 55.9 and Vanilla 64.6.",
    )
    assert [text_checks(claim, evidence)["names"] for claim in claims] == [True, False, False]


@given(st.text(min_size=1))
def test_a_sentence_agrees_with_itself(text):
    assert all(text_checks(text, text).values())


SOURCES = [
    Source(id="a", text="Whales sing. " + EVIDENCE),
    Source(id="b", text="Retrieval is cheap.\fContexts are long."),
]


def test_the_best_sentence_is_found_with_its_place():
    first, second, third = verify(
        ["NAT improves accuracy", "contexts that are long", "quantum"], SOURCES
    )
    assert (first.sentence.source, first.sentence.text, first.sentence.place) == (
        "a",
        EVIDENCE,
        "page 1, sentence 2",
    )
    assert second.sentence.place == "page 2, sentence 1"
    assert third.sentence is None and not third.passed(())
    assert verify(["x"], [Source(id="e")])[0].sentence is None


@pytest.mark.parametrize(("threshold", "found"), [(0.15, True), (1.0, False)])
def test_the_threshold_decides_what_counts_as_found(threshold, found):
    match = verify(["NAT improves accuracy"], SOURCES, ClaimSettings(threshold=threshold))[0]
    assert match.checks["tfidf"] is found


class Toy:
    """Vectors that say: the second sentence, whatever is asked."""

    def queries(self, texts):
        return np.tile([0.0, 1.0], (len(texts), 1))

    def passages(self, texts):
        return np.array([[0.0, 1.0] if i == 1 else [1.0, 0.0] for i in range(len(texts))])


def test_vectors_find_what_has_no_word_in_common():
    match = verify(["quantum"], SOURCES, encoder=Toy())[0]
    assert (
        match.sentence.text == EVIDENCE
        and match.dense == 1.0
        and match.checks["dense"]
        and not match.checks["tfidf"]
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"checks": ("spelling",)}, "checks has spelling"),
        ({"checks": ("dense",)}, "encoder is empty"),
        ({"threshold": 2}, "0.0 to 1.0"),
    ],
)
def test_settings_are_checked(fields, said):
    with pytest.raises(ValueError, match=said):
        ClaimSettings(**fields)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("Our results show that failures help small agents.", True),
        ("The larger model needs 40 ms for one step.", True),
        ("The whole world is a small stage.", False),
        ("Is the larger model better than ours here?", False),
        ("It is better.", False),
    ],
)
def test_rules_take_findings_numbers_and_comparisons(text, taken):
    assert is_candidate(text) is taken


def test_an_extracted_claim_is_an_exact_quotation_with_its_place():
    source = Source(
        id="s",
        text="Intro words here.\fWe find that NAT\nis better than NUT on all sets. It is late.",
    )
    (claim,) = extract_claims([source]).claims
    assert claim.quotation in source.text and claim.place == "page 2, sentence 1"
    assert claim.text == "We find that NAT is better than NUT on all sets."


@pytest.mark.parametrize(
    "answer", ["no JSON", '[{"claim": "x"}, 3, {"claim": "y", "quotation": "invented words"}]']
)
def test_a_model_is_believed_only_where_it_quotes(answer):
    refused = extract_claims(SOURCES[:1], lambda prompt: answer)
    assert not refused.claims and refused.problems
    good = json.dumps([{"claim": "NAT helps.", "quotation": "NAT improves accuracy"}])
    found = extract_claims(SOURCES[:1], lambda prompt: f"Sure: {good}")
    assert [(c.text, c.place) for c in found.claims] == [("NAT helps.", "page 1")]
    assert not found.problems


def test_line_breaks_do_not_hide_a_quotation():
    assert find_quotation("NAT is\nbest", [Source(id="s", text="x\fNAT\n is best")]) == "page 2"
    assert find_quotation("", SOURCES) == find_quotation("NAT is worst", SOURCES) == ""


SETS = {
    "chosen on": load_pairs(),
    "held out": load_pairs(held_out=True),
    "generated": make_pairs(80),
}


@pytest.mark.parametrize("pairs", SETS.values(), ids=SETS)
def test_the_default_is_the_best_of_the_measured_combinations(pairs):
    table = check_weakness(pairs).set_index("check")
    assert table["f_half"].idxmax() == "all rules"
    assert (
        table.loc["tfidf", "precision"] < 0.33 < table.loc["all rules", "precision"]
    )  # words alone cannot tell
    assert set(ClaimSettings().checks) == {"tfidf", "numbers", "direction", "negation", "names"}


def test_generated_pairs_are_what_they_are_called():
    pairs = make_pairs(60, seed=4)
    assert pairs == make_pairs(60, seed=4) != make_pairs(60, seed=5)
    assert len(pairs) == len({pair["sentence"] for pair in pairs}) == 60
    assert sum("numbers swapped" in pair for pair in pairs) > 10
    for pair in pairs:
        said = [re.findall(r"\d[\d,]*", pair[kind]) for kind in ("sentence", "faithful")]
        assert pair["faithful"] != pair["sentence"] and said[0] == said[1]
        assert negated(pair["negated"]) and not negated(pair["faithful"])
        if "numbers swapped" in pair:
            assert re.findall(r"\d[\d,]*", pair["numbers swapped"]) != said[0]
        if "names exchanged" in pair:
            assert pair["names exchanged"] not in (pair["faithful"], pair["sentence"])


def test_precision_and_recall_are_counted_over_faithful_and_false():
    pair = {
        "sentence": EVIDENCE,
        "faithful": "NAT improves accuracy by 9 points.",
        "negated": "NAT lowers accuracy by 9 points.",
    }
    other = {"sentence": "Whales sing.", "faithful": "Whales improve 3 songs."}
    table = check_weakness([pair, other]).set_index("check")
    tfidf, numbers, ways = (table.loc[name] for name in ("tfidf", "numbers", "direction"))
    assert (tfidf["precision"], tfidf["recall"], tfidf["negated"]) == (
        pytest.approx(2 / 3),
        1.0,
        1.0,
    )
    assert (numbers["precision"], numbers["recall"]) == (0.5, 0.5)
    assert (ways["precision"], ways["recall"], ways["negated"]) == (1.0, 1.0, 0.0)
    assert (tfidf["faithful"], tfidf["false"]) == (2, 1)
