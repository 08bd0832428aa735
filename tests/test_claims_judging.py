"""Models that read a claim beside its sentence: entailment, and a judge that must quote."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_benchmark_encoders import EmbeddingServer

from negfail_nb.agents.protocol import ModelError
from negfail_nb.claims import (
    Claim,
    Source,
    check_claims,
    check_weakness,
    load_pairs,
    open_ask,
    open_encoder,
    open_judges,
)
from negfail_nb.claims.judging import Entailment, Quoting, says
from negfail_nb.claims.verification import verify
from negfail_nb.claims.weakness import wilson
from negfail_nb.settings import ClaimSettings, EndpointSettings

TEXT = "Shuffling cost Mistral 3.1 points of F1."
LABELS = ("contradiction", "entailment", "neutral")


def make_classifier(folder, labels=LABELS, favoured=1):
    """Save a tiny random BERT that always favours one of its labels."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "points"))}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        id2label=names,
        label2id={name: n for n, name in names.items()},
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.bias[favoured] = 9.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_cross_encoder_decides_by_the_output_that_is_named_entailment(tmp_path):
    pairs = [(TEXT, "Mistral lost 3.1 points."), (TEXT, "points " * 60), (TEXT, "")]
    yes = Entailment(make_classifier(tmp_path / "yes"))
    no = Entailment(make_classifier(tmp_path / "no", favoured=0))
    assert yes(pairs) == [True] * 3 and no(pairs) == [False] * 3
    alone = [yes.probabilities([pair])[0] for pair in pairs]
    assert yes.probabilities(pairs, batch=2) == pytest.approx(alone, abs=1e-5)


def test_a_model_that_is_no_entailment_model_is_refused(tmp_path):
    other = Entailment(make_classifier(tmp_path / "m", labels=("bad", "good")))
    with pytest.raises(ValueError, match="outputs bad, good, and not one of them is entailment"):
        other([(TEXT, TEXT)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no sequence classifier"):
        Entailment(str(tmp_path / "empty"))([(TEXT, TEXT)])


ANSWERS = [
    ('Quote: "cost Mistral 3.1 points"\nVerdict: yes', True),
    ("quote: Shuffling  cost Mistral 3.1 points of F1.\n\nVERDICT: Yes.", True),
    ("**Quote:** cost Mistral 3.1 points\n**Verdict:** yes", True),
    ("Quote: cost Mistral 3.2 points\nVerdict: yes", False),  # not in the text
    ("Quote: Mistral lost 3.1 points\nVerdict: yes", False),  # its own words
    ("Quote: cost Mistral\nVerdict: yes", False),  # too short to be evidence
    ("Quote: cost Mistral 3.1 points\nVerdict: no", False),
    ("Quote:\nVerdict: yes", False),
    ("Verdict: yes", False),
    ("Yes, the text says it: cost Mistral 3.1 points", False),
    ("", False),
]


@pytest.mark.parametrize(("answer", "supported"), ANSWERS)
def test_a_judges_yes_counts_only_with_words_of_the_text(answer, supported):
    assert says(answer, TEXT) is supported


WORDS = st.lists(st.sampled_from("ab"), max_size=5).map(" ".join)


@given(WORDS, WORDS)
def test_whatever_a_judge_quotes_stands_in_the_text_word_for_word(quote, text):
    there = len(quote.split()) >= 3 and f" {quote} " in f" {text} "
    assert says(f"Quote: {quote}\nVerdict: yes", text) == there


def test_a_judge_that_does_not_answer_supports_nothing_and_one_that_cannot_be_asked_says_so():
    def broken(prompt):
        raise RuntimeError("no answer")

    def gone(prompt):
        raise ModelError("wrong key")

    assert Quoting(broken)([(TEXT, "a"), (TEXT, "b")]) == [False, False]
    with pytest.raises(ModelError, match="wrong key"):
        Quoting(gone)([(TEXT, "a")])


class Echo:
    """A model that quotes the text of a prompt, and counts."""

    name = "echo"

    def __init__(self):
        self.asked = 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        return None

    async def reply(self, messages, sampling):
        self.asked += 1
        text = messages[0]["content"].split("Text: ")[1].split("\n")[0]
        message = {"role": "assistant", "content": f"Quote: {text}\nVerdict: yes"}
        return type("Reply", (), {"message": message})()


def test_several_prompts_are_asked_at_once_and_each_only_once(tmp_path):
    model = Echo()
    judge = Quoting(open_ask(model, tmp_path))
    pairs = [(TEXT, "a"), (TEXT, "b"), (TEXT, "a")]
    assert judge(pairs) == [True] * 3 and model.asked == 2
    assert judge(pairs) == [True] * 3 and model.asked == 2  # kept
    answers = [json.loads(file.read_text()) for file in tmp_path.iterdir()]
    assert {answer["model"] for answer in answers} == {"echo"} and len(answers) == 2


@pytest.mark.parametrize("name", ["endpoint:some-model", "auto"])
def test_vectors_of_a_server_find_the_sentence_of_a_claim(name):
    with EmbeddingServer() as server:
        endpoint = EndpointSettings(base_url=server.url)
        encoder = open_encoder(name, "endpoint:some-model", endpoint)
        sources = [Source(id="s", text=f"Whales sing. {TEXT}")]
        match = verify([TEXT], sources, encoder=encoder)[0]
    assert match.sentence.text == TEXT and match.dense == pytest.approx(1.0)
    assert match.checks["dense"] and TEXT in server.asked


def checked(text, **settings):
    """Check one claim about TEXT with a judge that says no to everything but what holds "yes"."""
    claims = [Claim(id="c", text=text, source="s", quotation="cost Mistral 3.1 points")]
    judges = {"judge": lambda pairs: ["yes" in claim for _, claim in pairs]}
    made = ClaimSettings(judge="model", **settings)
    return check_claims(claims, [Source(id="s", text=TEXT)], settings=made, judges=judges)


@pytest.mark.parametrize(
    ("text", "checks", "written", "decided"),
    [
        (
            "Shuffling cost Mistral 3.1 points, yes.",
            ("tfidf", "judge"),
            "backed",
            "passed: tfidf, judge, quotation",
        ),
        ("Shuffling cost Mistral 3.1 points.", ("tfidf", "judge"), "doubtful", "failed: judge"),
        ("Shuffling cost Mistral 9 points.", ("tfidf", "numbers"), "doubtful", "failed: numbers"),
        ("Whales sing, yes.", ("tfidf", "judge"), "not found", "failed: tfidf, judge"),
    ],
)
def test_the_record_of_a_claim_says_which_check_decided(text, checks, written, decided):
    found = checked(text, checks=checks)
    verdict = found.verdicts[0]
    assert (verdict.written, verdict.decided) == (written, decided)
    assert found.table["decided"].tolist() == [decided]
    assert "judge" in found.provenance["judges"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checks": ("tfidf", "entailment")}, "entailment is empty; give a hub id"),
        ({"checks": ("tfidf", "judge")}, "judge is rules; give model or endpoint"),
    ],
)
def test_a_check_needs_its_model(changes, said):
    with pytest.raises(ValueError, match=said):
        ClaimSettings(**changes)
    with pytest.raises(ValueError, match="give the function that asks it"):
        open_judges(ClaimSettings(judge="endpoint"))


def test_each_judge_is_measured_alone_and_with_the_rules():
    pairs = load_pairs(held_out=True)
    faithful = {pair["faithful"] for pair in pairs}
    judges = {"judge": lambda found: [claim in faithful for _, claim in found]}
    table = check_weakness(pairs, judges=judges).set_index("check")
    assert table.loc["judge", ["precision", "recall"]].tolist() == [1.0, 1.0]
    assert table.loc["all rules + judge", "precision"] == 1.0
    assert table.loc["all rules + judge", "recall"] == table.loc["all rules", "recall"]
    low, high = table.loc["all rules", ["precision_low", "precision_high"]]
    assert low < table.loc["all rules", "precision"] < high


def test_the_interval_of_a_share_is_wilsons():
    assert wilson(5, 13) == pytest.approx((0.1771, 0.6448), abs=1e-4)  # by hand
    assert wilson(3, 3)[1] == pytest.approx(1.0) and wilson(3, 3)[0] > 0.4
