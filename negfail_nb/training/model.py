"""The model that is tuned: any causal model of transformers, or a small Llama with a tokenizer
trained on the logs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.prefix import chat_template_text
from negfail_nb.settings import ModelSettings
from negfail_nb.training.room import check_config, check_room

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("negfail_nb")

BOS, TEXT_END, HEADER, HEADER_END, TURN_END, PAD = SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
)
# How Llama 3 cuts text into words before byte-pair merging.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# Models that come with the package, by the name that settings use.
PACKAGED = {"pocket-llama": Path(__file__).parents[1] / "pocket" / "llama"}
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def make_tokenizer(
    texts: Iterable[str], vocabulary: int, words: str = LLAMA3_WORDS
) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer with Llama 3's special tokens, word pattern and chat format.

    Every text encodes and decodes exactly, because all 256 bytes are tokens. The same texts in the
    same order give the same tokenizer. ``<|eot_id|>`` ends a turn and is ``eos``; padding has a
    token of its own.

    Parameters
    ----------
    texts
        What to learn the merges from.
    vocabulary
        Most tokens to have, special ones included; few texts give fewer.
    words
        Regular expression that cuts text into words; nothing is merged across their borders.

    Raises
    ------
    ValueError
        Where ``vocabulary`` cannot hold the bytes and the special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocabulary < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocabulary is {vocabulary}; 256 bytes and special tokens need at least {SMALLEST_VOCABULARY}"
        )
    core = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(words), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=TURN_END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template_text("llama-3")
    return tokenizer


def load_tokenizer(
    settings: ModelSettings, texts: Iterable[str] | None = None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of ``settings.name``, or one trained on ``texts`` where there is no
    name.

    A tokenizer without a padding token gets its end token for padding, and the log says so. That is
    safe here: packed training has no padding, and labels are given token by token, so no end token
    is masked by mistake.

    Raises
    ------
    ValueError
        Where a folder lacks files, there is nothing to train on, or a tokenizer has no end token to
        pad with.
    """
    if not settings.name:
        if texts is None:
            raise ValueError(
                "model.name is empty, so a tokenizer is trained on the logs: give their texts, or set model.name"
            )
        return make_tokenizer(texts, settings.vocabulary)
    from transformers import AutoTokenizer

    _check_folder(settings.name, "tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(_place(settings.name), trust_remote_code=False)
    except OSError as error:
        raise OSError(_not_loaded(settings.name, "tokenizer", error)) from error
    except Exception as error:  # of the many that odd files raise: KeyError, TypeError, RecursionError, tokenizers' own
        raise ValueError(_unreadable(settings.name, "tokenizer", error)) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"tokenizer of {settings.name}: neither a padding nor an end token; set tokenizer.pad_token and "
                "tokenizer.eos_token, save it beside the model, and give that folder"
            )
        tokenizer.pad_token = tokenizer.eos_token
        log.warning(
            "tokenizer of %s has no padding token; its end token %r is used",
            settings.name,
            tokenizer.eos_token,
        )
    return tokenizer


def load_model(
    settings: ModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str = "float32",
    attention: str | None = None,
) -> PreTrainedModel:
    """Load ``settings.name`` (safetensors only, no remote code), or make a small Llama from the
    shape.

    Parameters
    ----------
    settings
        Hub id or folder, or a shape and the seed of its weights (same seed, same weights).
    tokenizer
        Decides the vocabulary of a model that is made, and is checked against one that is loaded.
    dtype
        Name of the torch type of the weights.
    attention
        Name that transformers knows; ``None``: `negfail_nb.training.attention.choose_attention`.

    Raises
    ------
    ValueError
        Where a folder lacks files, the shape is impossible, or model and tokenizer do not fit each
        other.
    """
    import torch

    from negfail_nb.training.attention import choose_attention

    kind = getattr(torch, dtype)
    attention = attention or choose_attention(kind)
    model = (_load if settings.name else _make)(settings, tokenizer, kind, attention)
    rows = model.get_input_embeddings().num_embeddings
    if rows < len(tokenizer):
        raise ValueError(
            f"model {settings.name or 'from the shape'} has {rows} token embeddings, its tokenizer {len(tokenizer)} "
            "tokens; use the tokenizer that belongs to the model"
        )
    return model


def _load(
    settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, dtype: Any, attention: str
) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    _check_folder(settings.name, "model")
    try:
        if settings.name not in PACKAGED:
            check_room(settings.name, _place(settings.name), dtype)
        return AutoModelForCausalLM.from_pretrained(
            _place(settings.name),
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            attn_implementation=attention,
        )
    except SafetensorError as error:
        raise ValueError(
            f"model folder {settings.name}: weights are damaged ({error}); copy them again"
        ) from error
    except OSError as error:
        raise OSError(_not_loaded(settings.name, "safetensors weights", error)) from error
    except (
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        ZeroDivisionError,
        RecursionError,
    ) as error:
        raise ValueError(_unreadable(settings.name, "model", error)) from error


def _make(
    settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, dtype: Any, attention: str
) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    if settings.width % settings.heads or settings.width // settings.heads % 2:
        raise ValueError(
            f"model: width {settings.width} over {settings.heads} heads is {settings.width / settings.heads:g} a head; "
            "rotary positions need an even whole number: change width or heads"
        )
    if len(tokenizer) > settings.vocabulary:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, model.vocabulary is {settings.vocabulary}; "
            "raise it to at least that"
        )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=-(-settings.width * 8 // 3 // 16) * 16,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # The weights come from their own random stream: loading a model must not change anybody else's
    # draws.
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


def _not_loaded(name: str, what: str, error: OSError) -> str:
    return (
        f"model.name={name!r}: no such folder here, and no {what} from the hub under that id; check "
        f"the spelling, the network, and (for gated models) `hf auth login`. transformers says: {error}"
    )


def _unreadable(name: str, what: str, error: Exception) -> str:
    text = str(error) or type(error).__name__
    return (
        f"{what} of {name}: its files cannot be read, or do not fit each other ({type(error).__name__}: {text[:500]}); "
        "copy them anew from where the model came from"
    )


def _place(name: str) -> str:
    if name in PACKAGED:
        return str(PACKAGED[name])
    return str(Path(name).expanduser()) if name.startswith("~") else name


def _check_folder(name: str, part: str) -> None:
    """Raise where ``name`` is a folder without what ``part`` ("model" or "tokenizer") needs; hub
    ids pass.
    """
    folder = Path(_place(name))
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise ValueError(
                f"model folder {name} does not exist; give a folder of transformers files, or a hub id"
            )
        return
    check_config(folder)
    missing = list(_missing_files(folder, part))
    if missing:
        raise ValueError(f"model folder {name} lacks {'; '.join(missing)}")


def _missing_files(folder: Path, part: str) -> Iterator[str]:
    names = {path.name for path in folder.iterdir()}
    if part == "tokenizer":
        if not names & {
            "tokenizer.json",
            "tokenizer.model",
            "vocab.json",
            "spiece.model",
            "tekken.json",
        }:
            yield "a tokenizer (tokenizer.json or tokenizer.model): copy it from where the model came from"
        return
    if "adapter_config.json" in names and "config.json" not in names:
        yield "a whole model (it is a PEFT adapter): merge it into its base model and save that"
    elif "config.json" not in names:
        yield "config.json: save the model with save_pretrained, or copy the file from where the model came from"
    if any(name.endswith(".safetensors.index.json") for name in names):
        yield from _missing_shards(folder)
    elif (
        not any(name.endswith(".safetensors") for name in names)
        and "adapter_config.json" not in names
    ):
        pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth")))
        found = (
            f" (only {', '.join(pickled)}, which is pickle and is never loaded)" if pickled else ""
        )
        yield f"weights as safetensors{found}: save them with save_pretrained, or get the safetensors version"


def _missing_shards(folder: Path) -> Iterator[str]:
    import json

    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        absent = sorted(shard for shard in shards if not (folder / shard).is_file())
        if absent:
            yield f"{', '.join(absent)}, named in {index.name}: copy the missing files"
