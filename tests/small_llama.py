"""A small random Llama that looks like Llama 3.1 Instruct from outside: chat template, tokenizer,
config and files are of its shape; only the numbers are smaller. Nothing is downloaded.

`lay_hub` puts it into a hub's cache under the real names, so that commands are typed as written.
"""

import json
import shutil
from pathlib import Path

from chat_tokenizers import chat_template

NAMES = ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct")
COMMIT = "0" * 39 + "1"
WORDS = (  # Llama 3's own pattern
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Llama 3.1's 256 special tokens, in the order of their ids.
SPECIAL = [
    *("<|begin_of_text|>", "<|end_of_text|>"),
    *("<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    *(f"<|reserved_special_token_{number}|>" for number in range(3, 248)),
]


def make_tokenizer(texts, words=1500):
    """Return a tokenizer of Llama 3.1's shape, its words learnt from texts."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers import processors as after
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    given = {"vocab_size": words, "initial_alphabet": alphabet, "show_progress": False}
    made.train_from_iterator(texts, trainers.BpeTrainer(**given))
    made.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    begin = "<|begin_of_text|>"
    made.post_processor = after.Sequence(
        [
            after.ByteLevel(trim_offsets=True),
            after.TemplateProcessing(
                single=f"{begin} $A",
                pair=f"{begin} $A {begin}:1 $B:1",
                special_tokens=[(begin, made.token_to_id(begin))],
            ),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=begin,
        eos_token="<|eot_id|>",  # and no padding token, as in the original
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=131072,
        clean_up_tokenization_spaces=True,
    )
    tokenizer.chat_template = chat_template("llama3_1")
    return tokenizer


def make_model(tokenizer, layers=2, heads=4, seed=0):
    """Return a random model with the config fields of Llama 3.1; a fourth of the heads are keys."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ends = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    begin = tokenizer.bos_token_id
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ends]
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32 * heads,
            intermediate_size=112 * heads,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 4,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            bos_token_id=begin,
            eos_token_id=ends,
            tie_word_embeddings=False,
            attention_bias=False,
            mlp_bias=False,
        )
    )
    model.generation_config = GenerationConfig(
        bos_token_id=begin, eos_token_id=ends, do_sample=True, temperature=0.6, top_p=0.9
    )
    return model.bfloat16()


def save(folder, texts, **shape):
    """Write such a model into a folder, with the files and fields that the hub's has."""
    tokenizer = make_tokenizer(texts)
    make_model(tokenizer, **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _as_on_the_hub(Path(folder))


def _as_on_the_hub(folder):
    """Write config and template as the hub's files have them, which are older than our tools."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    template = folder / "chat_template.jinja"
    config["chat_template"] = template.read_text()
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2))
    template.unlink()


def lay_hub(home, texts):
    """Write a hub's cache, ``home/hub``, that has a small model under each of `NAMES`."""
    for name, heads in zip(NAMES, (4, 8), strict=True):
        folder = Path(home) / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / COMMIT
        shutil.rmtree(folder, ignore_errors=True)
        snapshot.mkdir(parents=True)
        save(snapshot, texts, heads=heads)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(COMMIT)
