"""The model that is tuned: any causal model of transformers, or a small Llama with a tokenizer
trained on the logs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from negfail_nb.models import find_weights, is_hub_id, missing_files
from negfail_nb.prefix import chat_template_text
from negfail_nb.settings import ModelSettings

if TYPE_CHECKING:
    import torch
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
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
# Sizes of a model's shape that are refused before anything is made of them; the largest models have
# far smaller ones.
MOST = {
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "vocab_size": 100_000_000,
}
CONFIG_BYTES = 10_000_000
# Memory that a container may use, and uses.
LIMIT = Path("/sys/fs/cgroup/memory.max")
USED = Path("/sys/fs/cgroup/memory.current")


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
        If ``vocabulary`` cannot hold the bytes and the special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocabulary < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocabulary is {vocabulary}; 256 bytes and special tokens need at least "
            f"{SMALLEST_VOCABULARY}"
        )
    core = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(words), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
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
    """Return the tokenizer of ``settings.name``, or one trained on ``texts`` if there is no name.

    A tokenizer without a padding token gets its end token for padding, and the log says so. That is
    safe here: packed training has no padding, and labels are given token by token, so no end token
    is masked by mistake.

    Raises
    ------
    ValueError
        If a folder lacks files, there is nothing to train on, or a tokenizer has no end token to
        pad with.
    """
    if not settings.name:
        if texts is None:
            raise ValueError(
                "model.name is empty, so a tokenizer is trained on the logs: give their texts, or "
                "set model.name"
            )
        return make_tokenizer(texts, settings.vocabulary)
    from transformers import AutoTokenizer

    place = _find(settings.name, "tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except OSError as error:
        raise OSError(_not_loaded(settings.name, "tokenizer", error)) from error
    except Exception as error:  # odd files raise KeyError, TypeError, RecursionError and others
        raise ValueError(_unreadable(settings.name, "tokenizer", error)) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"tokenizer of {settings.name}: neither a padding nor an end token; set "
                "tokenizer.pad_token and tokenizer.eos_token, save it beside the model, and give "
                "that folder"
            )
        end = tokenizer.pad_token = tokenizer.eos_token
        message = "tokenizer of %s has no padding token; its end token %r is used"
        log.warning(message, settings.name, end)
    return tokenizer


def load_model(
    settings: ModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str = "float32",
    attention: str | None = None,
    loading: Mapping[str, Any] = MappingProxyType({}),
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
    loading
        What else ``from_pretrained`` takes.

    Raises
    ------
    ValueError
        If a folder lacks files, the shape is impossible, or model and tokenizer do not fit each
        other.
    """
    import torch

    from negfail_nb.training.attention import choose_attention

    kind = getattr(torch, dtype)
    attention = attention or choose_attention(kind)
    given = settings, tokenizer, kind, attention
    model = _load(*given, loading) if settings.name else _make(*given)
    rows = model.get_input_embeddings().num_embeddings
    if rows < len(tokenizer):
        raise ValueError(
            f"model {settings.name or 'from the shape'} has {rows} token embeddings, its tokenizer "
            f"{len(tokenizer)} tokens; use the tokenizer that belongs to the model"
        )
    return model


def free_memory() -> int:
    """Return the bytes of main memory that are free, for this container if it is in one."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        return min(free, int(LIMIT.read_text()) - int(USED.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return free


def empty_model(place: str) -> PreTrainedModel:
    """Return a model of shapes only, of a folder or hub id: it takes no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        return AutoModelForCausalLM.from_config(config)


def outline(settings: ModelSettings, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return what `load_model` would load or make, as shapes only: it takes no memory."""
    import torch

    if settings.name:
        return empty_model(_find(settings.name, "model"))
    with torch.device("meta"):
        return _make(settings, tokenizer, torch.float32, "sdpa")


def device() -> torch.device:
    """Return where models are trained and asked: the accelerator, if there is one."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@contextmanager
def only_our_bars() -> Iterator[None]:
    """Keep the progress bars of transformers and datasets away: in a notebook each would stay."""
    import datasets
    from transformers.utils import logging as hub_logging

    shown = not datasets.are_progress_bars_disabled(), hub_logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    hub_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown[0]:
            datasets.enable_progress_bars()
        if shown[1]:
            hub_logging.enable_progress_bar()


def free_bytes(device: torch.device) -> int:
    """Return the free bytes of a device."""
    import torch

    if device.type != "cuda":
        return free_memory()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def _load(
    settings: ModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    dtype: Any,
    attention: str,
    loading: Mapping[str, Any],
) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    place = _find(settings.name, "model")
    odd = (RuntimeError, KeyError, TypeError, AttributeError, ZeroDivisionError)
    try:
        if not loading:
            _check_memory(settings.name, place, dtype)
        return AutoModelForCausalLM.from_pretrained(
            place,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            attn_implementation=attention,
            **loading,
        )
    except SafetensorError as error:
        raise ValueError(
            f"model folder {settings.name}: weights are damaged ({error}); copy them again"
        ) from error
    except OSError as error:
        raise OSError(_not_loaded(settings.name, "safetensors weights", error)) from error
    except odd as error:
        raise ValueError(_unreadable(settings.name, "model", error)) from error


def _make(
    settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, dtype: Any, attention: str
) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    if settings.width % settings.heads or settings.width // settings.heads % 2:
        raise ValueError(
            f"model: width {settings.width} over {settings.heads} heads is "
            f"{settings.width / settings.heads:g} per head; rotary positions need an even whole "
            "number: change width or heads"
        )
    if len(tokenizer) > settings.vocabulary:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, model.vocabulary is "
            f"{settings.vocabulary}; raise it to at least that"
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
        f"model.name={name!r}: no such folder here, and no {what} from the hub under that id; "
        "check the spelling, the network, and (for gated models) `hf auth login`. transformers "
        f"says: {error}"
    )


def _unreadable(name: str, what: str, error: Exception) -> str:
    text = f"{type(error).__name__}: {(str(error) or type(error).__name__)[:500]}"
    return (
        f"{what} of {name}: its files cannot be read, or do not fit each other ({text}); copy them "
        "anew from where the model came from"
    )


def _find(name: str, part: str) -> str:
    """Return where a model is; raise if that is a folder without what ``part`` ("model" or
    "tokenizer") needs.
    """
    place = find_weights(name).place
    folder = Path(place)
    if folder.is_dir():
        _check_config(folder / "config.json")
        if missing := list(missing_files(folder, part)):
            raise ValueError(f"model folder {name} lacks {'; '.join(missing)}")
    elif not is_hub_id(name):
        raise ValueError(
            f"model folder {name} does not exist; give a folder of transformers files, or a hub id"
        )
    return place


def _check_config(path: Path) -> None:
    """Raise `ValueError` if a ``config.json`` is no object, or has sizes that no model has."""
    if not path.is_file():
        return
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise ValueError(f"it has more than {CONFIG_BYTES:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it is a {type(config).__name__}, not an object")
        inner = config.get("text_config")
        for part in (config, inner if isinstance(inner, dict) else {}):
            for name, most in MOST.items():
                value = part.get(name)
                if value is not None and (type(value) is not int or not 1 <= value <= most):
                    raise ValueError(f"{name} is {value!r}; use 1 to {most:,}")
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path}: {why}; copy the file from where the model came from") from error


def _check_memory(name: str, place: str, dtype: Any) -> None:
    """Raise if the weights alone need more memory than is free: a process that the system kills
    says nothing. Gradients and activations are not counted.
    """
    parameters = empty_model(place).num_parameters()
    needed = parameters * dtype.itemsize
    free = free_memory()
    if needed > free:
        half = f"train.dtype=bfloat16 ({parameters * 2 / 1e9:,.0f} GB), "
        raise ValueError(
            f"model {name} has {parameters / 1e9:,.1f} billion parameters: {needed / 1e9:,.0f} GB "
            f"as {str(dtype).removeprefix('torch.')}, and {free / 1e9:,.0f} GB of memory are free; "
            f"use {half if dtype.itemsize > 2 else ''}a smaller model, or a machine with more "
            "memory"
        )
