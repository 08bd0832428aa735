"""Room 04: the model and its tokenizer, and attention over packed rows."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.settings import ModelSettings
from negfail_nb.training import attention, load_model, load_tokenizer, make_tokenizer
from negfail_nb.training.attention import packed_lengths_or_mask, register_packed_sdpa

LOGS = [
    "Question: Who wrote it?\nThought: I look it up.\nAction: search[it]\n",
    "Observation: 12 + 30 = 42.\n",
] * 30
SMALL = ModelSettings(layers=2, width=32, heads=4, vocabulary=400, positions=256)
TOKENIZER = make_tokenizer(LOGS, 400)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_encodes_and_decodes_exactly(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert TOKENIZER.decode(ids) == text


def test_tokenizer_is_llama_3_in_kind():
    ids = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert ids == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert TOKENIZER.eos_token == "<|eot_id|>"
    assert TOKENIZER.pad_token_id not in (TOKENIZER.eos_token_id, TOKENIZER.bos_token_id, None)
    assert len(TOKENIZER) <= 400
    assert make_tokenizer(LOGS, 400).get_vocab() == TOKENIZER.get_vocab()
    assert len(TOKENIZER.encode("Thought: I look it up.", add_special_tokens=False)) < 15


def test_vocabulary_too_small_for_bytes():
    with pytest.raises(
        ValueError, match="vocabulary is 200; 256 bytes and special tokens need at least 262"
    ):
        make_tokenizer(LOGS, 200)


def test_no_name_and_no_texts():
    with pytest.raises(ValueError, match="give their texts, or set model.name"):
        load_tokenizer(SMALL)


def test_same_seed_same_weights_and_no_side_effect():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two = load_model(SMALL, TOKENIZER), load_model(SMALL, TOKENIZER)
    assert torch.equal(torch.rand(1), expected)
    other = load_model(
        ModelSettings(layers=2, width=32, heads=4, vocabulary=400, seed=1), TOKENIZER
    )
    assert torch.equal(one.lm_head.weight, two.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert load_model(SMALL, TOKENIZER, dtype="bfloat16").dtype == torch.bfloat16


def test_width_that_heads_do_not_divide():
    with pytest.raises(
        ValueError, match="width 32 over 5 heads is 6.4 per head.*change width or heads"
    ):
        load_model(ModelSettings(width=32, heads=5, vocabulary=400), TOKENIZER)


def test_tokenizer_larger_than_the_model():
    with pytest.raises(
        ValueError, match=f"tokenizer has {len(TOKENIZER)} tokens, model.vocabulary is 300"
    ):
        load_model(ModelSettings(width=32, heads=4, vocabulary=300), TOKENIZER)


@pytest.fixture
def folder(tmp_path):
    load_model(SMALL, TOKENIZER).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    return tmp_path


def test_folder_loads_what_was_saved(folder):
    settings = ModelSettings(name=str(folder))
    tokenizer = load_tokenizer(settings)
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert torch.equal(
        load_model(settings, tokenizer).lm_head.weight, load_model(SMALL, TOKENIZER).lm_head.weight
    )


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("config.json", "lacks config.json: save the model"),
        ("model.safetensors", "lacks weights as safetensors"),
    ],
)
def test_folder_that_lacks_files(folder, lost, message):
    (folder / lost).unlink()
    with pytest.raises(ValueError, match=f"{folder.name} {message}"):
        load_model(ModelSettings(name=str(folder)), TOKENIZER)


def test_folder_without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="lacks a tokenizer"):
        load_tokenizer(ModelSettings(name=str(folder)))


def test_pickled_weights_are_never_loaded(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match="only pytorch_model.bin, which is pickle and is never loaded"
    ):
        load_model(ModelSettings(name=str(folder)), TOKENIZER)


def test_lost_shard_is_named(folder):
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError,
        match="lacks model-00002-of-00002.safetensors, named in model.safetensors.index.json",
    ):
        load_model(ModelSettings(name=str(folder)), TOKENIZER)


def test_truncated_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{folder.name}: weights are damaged"):
        load_model(ModelSettings(name=str(folder)), TOKENIZER)


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(
        ValueError, match="nowhere does not exist; give a folder of transformers files, or a hub id"
    ):
        load_model(ModelSettings(name=str(tmp_path / "nowhere")), TOKENIZER)


def test_model_of_another_tokenizer(folder):
    larger = make_tokenizer(LOGS, 400)
    larger.add_tokens([f"new{i}" for i in range(5)])
    with pytest.raises(
        ValueError,
        match=f"has {len(TOKENIZER)} token embeddings, its tokenizer {len(larger)} tokens",
    ):
        load_model(ModelSettings(name=str(folder)), larger)


def test_tokenizer_without_padding_token_pads_with_its_end(folder, caplog):
    bare = make_tokenizer(LOGS, 400)
    bare.pad_token = None
    bare.save_pretrained(folder)
    assert load_tokenizer(ModelSettings(name=str(folder))).pad_token == "<|eot_id|>"
    assert "no padding token; its end token '<|eot_id|>' is used" in caplog.text


def test_tokenizer_without_padding_and_end_token(folder):
    bare = make_tokenizer(LOGS, 400)
    bare.pad_token = bare.eos_token = None
    bare.save_pretrained(folder)
    with pytest.raises(ValueError, match="neither a padding nor an end token"):
        load_tokenizer(ModelSettings(name=str(folder)))


# Attention
# --------------------------------------------------------------------------------------------------

LENGTHS = (7, 1, 12, 3)


def llama(key_value_heads=4, attention="packed_sdpa", **changes):
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    register_packed_sdpa()
    shape = dict(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    shape |= dict(num_key_value_heads=key_value_heads, attn_implementation=attention, **changes)
    torch.manual_seed(0)
    if "sliding_window" in changes:
        return MistralForCausalLM(MistralConfig(**shape))
    return LlamaForCausalLM(LlamaConfig(**shape))


def packed(sequences):
    positions = torch.cat([torch.arange(len(s)) for s in sequences])[None]
    return {"input_ids": torch.cat(sequences)[None], "position_ids": positions, "use_cache": False}


def sequences(seed=0, lengths=LENGTHS):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 64, (n,), generator=draw) for n in lengths]


@pytest.mark.parametrize(
    "changes", [{}, {"key_value_heads": 2}, {"sliding_window": 64}, {"sliding_window": 4}]
)
def test_packed_sequences_give_the_logits_they_give_alone(changes):
    model = llama(**changes)
    parts = sequences()
    together = model(**packed(parts)).logits[0].split(LENGTHS)
    for part, logits in zip(parts, together, strict=True):
        torch.testing.assert_close(
            logits, model(part[None], use_cache=False).logits[0], atol=1e-5, rtol=1e-5
        )


def test_changing_one_sequence_leaves_the_others_alone():
    model, parts = llama(), sequences()
    before = model(**packed(parts)).logits[0].split(LENGTHS)
    parts[0] = (parts[0] + 1) % 64
    after = model(**packed(parts)).logits[0].split(LENGTHS)
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(b, a) for b, a in zip(before[1:], after[1:], strict=True))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_sequences_one_by_one(checkpointing):
    def gradient(batches):
        model = llama(key_value_heads=2)
        if checkpointing:
            model.train().gradient_checkpointing_enable()
        for batch in batches:
            model(**batch).logits.logsumexp(-1).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    parts = sequences()
    torch.testing.assert_close(
        gradient([packed(parts)]),
        gradient([packed([part]) for part in parts]),
        atol=1e-4,
        rtol=1e-4,
    )


def test_no_mask_of_the_square_of_the_row_is_made():
    asked = []

    def spy(**kwargs):
        mask = packed_lengths_or_mask(**kwargs)
        asked.append(mask)
        return mask

    from transformers import AttentionMaskInterface

    model = llama()
    AttentionMaskInterface.register("packed_sdpa", spy)
    try:
        model(**packed(sequences()))
    finally:
        register_packed_sdpa()
    assert [mask.tolist() for mask in asked] == [list(LENGTHS)]


def test_padded_batches_and_generation_are_those_of_sdpa():
    ours, theirs = llama(key_value_heads=2), llama(key_value_heads=2, attention="sdpa")
    ids = torch.stack(sequences(lengths=(9, 9)))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    torch.testing.assert_close(
        ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits
    )
    options = dict(attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))


def test_attention_here_is_packed_unless_flash_is_installed():
    model = load_model(SMALL, TOKENIZER)
    assert model.config._attn_implementation == "packed_sdpa"
    assert load_model(SMALL, TOKENIZER, attention="sdpa").config._attn_implementation == "sdpa"


def test_flash_attention_is_only_for_bfloat16(monkeypatch):
    monkeypatch.setattr(attention.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    assert attention.choose_attention(torch.bfloat16) == "flash_attention_2"
    assert attention.choose_attention(torch.float32) == "packed_sdpa"
    # trained under autocast, full weights are in float32
    assert load_model(SMALL, TOKENIZER).config._attn_implementation == "packed_sdpa"


def test_packed_attention_with_shared_heads_in_bfloat16_under_autocast():
    model, parts = llama(key_value_heads=2), sequences()
    expected = model(**packed(parts)).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(
            model(**packed(parts)).logits.float(), expected, atol=0.05, rtol=0.05
        )
    half = model.to(torch.bfloat16)(**packed(parts)).logits
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)


def test_the_name_of_the_attention_is_not_saved(folder):
    assert "packed_sdpa" not in (folder / "config.json").read_text()


# Odd files
# --------------------------------------------------------------------------------------------------


def changed(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10**7),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", "4"),
        ("num_attention_heads", 0),
        ("hidden_size", 10**12),
        ("vocab_size", 0),
        ("num_key_value_heads", 1.5),
    ],
)
def test_sizes_that_no_model_has_are_refused_at_once(folder, name, value):
    changed(folder, **{name: value})
    for load in (lambda s: load_model(s, TOKENIZER), load_tokenizer):
        with pytest.raises(ValueError, match=rf"config.json: {name} is {value!r}; use 1 to"):
            load(ModelSettings(name=str(folder)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "it is a list"),
        ("{", "Expecting"),
        ("[" * 100_000, "nested too deeply|Expecting"),
        ("null", "NoneType"),
    ],
)
def test_a_config_that_is_no_object_is_named(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config.json: .*(?:{message})"):
        load_model(ModelSettings(name=str(folder)), TOKENIZER)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"model": 3}', "{", "[" * 100_000])
def test_an_odd_tokenizer_file_is_named(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises((ValueError, OSError), match=folder.name):
        load_tokenizer(ModelSettings(name=str(folder)))


def test_weights_of_other_shapes_are_named(folder):
    changed(folder, hidden_size=64)
    with pytest.raises(ValueError, match=f"{folder.name}.*do not fit each other"):
        load_model(ModelSettings(name=str(folder)), TOKENIZER)


def test_bars_of_libraries_stay_away_while_we_train_and_come_back():
    import datasets
    from transformers.utils import logging

    from negfail_nb.training.model import only_our_bars

    before = datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    with only_our_bars():
        assert datasets.are_progress_bars_disabled() and not logging.is_progress_bar_enabled()
    assert (datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()) == before
