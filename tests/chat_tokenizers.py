"""Small tokenizers of every family, and real chat templates, for the tests of prefix. Nothing is
downloaded.
"""

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("chat_templates")
CONTROL = [
    *("<s>", "</s>", "<unk>", "<bos>", "<eos>", "<|begin_of_text|>", "<|endoftext|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
]
# chat template: (begin, end of a text); the templates themselves are TRL's copies of the models'
# own, or ours
TEMPLATES = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3_1": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3_2": ("<|begin_of_text|>", "<|eot_id|>"),
    "qwen2_5": ("<|endoftext|>", "<|im_end|>"),
    "qwen3": ("<|endoftext|>", "<|im_end|>"),
    "gemma": ("<bos>", "<eos>"),
    "gemma3": ("<bos>", "<eos>"),
    "phi3": ("<s>", "<|endoftext|>"),
    "llama-2": ("<s>", "</s>"),
    "mistral": ("<s>", "</s>"),
    "llama-3": ("<|begin_of_text|>", "<|eot_id|>"),
    "chatml": ("<s>", "<|im_end|>"),
    "react-plain": ("<s>", "</s>"),
}
CORPUS = [
    "Question: Were Scott Derrickson and Ed Wood of the same nationality? "
    "Thought: I need to search both.",
    "Action: search[Ed Wood]\nObservation: Edward Davis Wood Jr. was an American filmmaker."
    "\n\nAction: finish[yes]",
    "Generate a sequence of Thought and Action steps to solve the problem correctly. "
    "But incorrectly solve it.",
    "calculate[(12 + 30) / 7] = 6, naïve café, 12,345 dollars; "
    "{braces} and <tags> in    spaces\n\n\n",
] * 20


def chat_template(name: str) -> str:
    """Return one of TRL's, ours for the tests, or the package's."""
    import trl

    import negfail_nb.prefix

    places = (
        Path(trl.__file__).parent / "chat_templates",
        FOLDER,
        Path(negfail_nb.prefix.__file__).parent / "chat_templates",
    )
    return next(p / f"{name}.jinja" for p in places if (p / f"{name}.jinja").is_file()).read_text(
        encoding="utf-8"
    )


def tokenizer(family: str, template: str = ""):
    """Return a tokenizer of a family with a chat template (and its begin and end tokens) set."""
    from transformers import AddedToken, ByT5Tokenizer, PreTrainedTokenizerFast

    begin, end = TEMPLATES.get(template, ("<s>", "</s>"))
    if family == "slow bytes":
        # By default its own special tokens swallow the white space beside them.
        named = {"bos_token": begin, "eos_token": end, "pad_token": "<pad>", "unk_token": "<unk>"}
        named = {name: AddedToken(token, special=True) for name, token in named.items()}
        made = ByT5Tokenizer(extra_ids=0, additional_special_tokens=CONTROL, **named)
    else:
        made = PreTrainedTokenizerFast(
            tokenizer_object=_backend(family), bos_token=begin, eos_token=end
        )
    made.chat_template = chat_template(template) if template else None
    return made


def _backend(family: str):
    from tokenizers import Tokenizer

    return Tokenizer.from_str(_trained(family))


@cache
def _trained(family: str) -> str:
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    made = Tokenizer(models.BPE())
    options = {"vocab_size": 900, "special_tokens": CONTROL, "show_progress": False}
    if family == "byte-level":  # as Llama 3, Qwen
        words = Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+"
        )
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(words, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if family in ("byte-level", "byte-level with space"):  # the second as GPT-2's relatives
        if family == "byte-level with space":
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        made.decoder, made.post_processor = (
            decoders.ByteLevel(),
            processors.ByteLevel(trim_offsets=True),
        )
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(CORPUS, trainers.BpeTrainer(**options))
        return made.to_str()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(**options))
    if family == "sentencepiece, legacy":  # as Llama 2's and Phi 3's tokenizer.json
        made.pre_tokenizer = None
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    strip = decoders.Strip(" ", 1, 0)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    settings = json.loads(made.to_str())
    vocab = settings["model"]["vocab"]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    settings["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    return json.dumps(settings)
