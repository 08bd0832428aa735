"""The model that comes with the package: it loads everywhere, and its card says what its exam
measured.
"""

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from setuptools import find_packages

from negfail_nb.models import find_model
from negfail_nb.settings import ModelSettings
from negfail_nb.training import load_model, load_tokenizer
from recipes.pocket_llama.card import write_card
from recipes.pocket_llama.exam import episode_marks, reading_marks

FOLDER = Path(find_model("pocket-llama"))
NAMED = ModelSettings(name="pocket-llama")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(NAMED)


@pytest.fixture(scope="module")
def model(tokenizer):
    return load_model(NAMED, tokenizer).eval()


def test_it_is_small_safe_and_takes_long_texts(model):
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20e6
    assert {path.suffix for path in FOLDER.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    assert (
        type(model).__name__ == "LlamaForCausalLM" and model.config.max_position_embeddings >= 8192
    )


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_encodes_and_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_name_has_the_same_tokens_wherever_it_stands(tokenizer):
    name = tokenizer.tokenize("Rareld")
    assert tokenizer.tokenize("in Rareld")[-len(name) :] == name
    assert tokenizer.tokenize("search[Rareld]")[-len(name) - 1 : -1] == name


def test_a_number_that_is_cited_is_one_token(tokenizer):
    assert all(len(tokenizer.tokenize(f"[{number}]")) == 3 for number in range(1, 100))


def test_the_card_is_that_of_the_last_exam(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    marks, made = (
        json.loads((FOLDER / name).read_text(encoding="utf-8"))
        for name in ("exam.json", "made.json")
    )
    card = write_card(tmp_path, marks, made)
    assert card.read_text(encoding="utf-8") == (FOLDER / "README.md").read_text(encoding="utf-8")


def test_a_short_exam_agrees_with_the_card(model, tokenizer, tmp_path):
    """With 12 questions each, the card's figure must be within what chance allows.

    Prompts by length are left to the card: the longest takes most of an exam's time.
    """
    card = {
        r["task"]: r["em"]
        for r in json.loads((FOLDER / "exam.json").read_text("utf-8"))["wordings as trained"]
    }
    marks = [
        *reading_marks(model, tokenizer, 12, lengths=()),
        *episode_marks(model, tokenizer, 12, tmp_path / "e.jsonl"),
    ]
    for row in (mark.row() for mark in marks):
        slack = 5.0  # the card's own figure has an interval too
        assert row["low"] - slack <= card[row["task"]] <= row["high"] + slack, row["task"]


def test_the_recipe_is_named_where_the_model_lies():
    assert "make pocket-model" in (FOLDER / "README.md").read_text(encoding="utf-8")
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    assert "-m recipes.pocket_llama.pretrain" in makefile.partition("\npocket-model:")[2]


def test_the_wheel_holds_no_recipes():
    home = Path(__file__).parents[1]
    settings = tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))
    found = find_packages(str(home), **settings["tool"]["setuptools"]["packages"]["find"])
    assert {name.partition(".")[0] for name in found} == {"negfail_nb"}
