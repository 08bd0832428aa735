"""Shapes of dense decoders like Llama, and the work that follows from them: FLOPs, bytes of
weights, bytes of keys and values.

Counts are of the whole model, not per GPU. Attention is causal: a prompt of ``n`` tokens costs half
of ``n`` squared. Keys and values are those of grouped heads.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from negfail_nb.settings import Checked, option
from negfail_nb.speed.hardware import Unknown, closest

_MOST = 10_000_000
# Field of `Architecture` -> field of a transformers config.
_CONFIG = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "vocabulary": "vocab_size",
}
# A config with one of these has other layers than the formulas count.
_OTHER_LAYERS = ("num_local_experts", "n_routed_experts", "kv_lora_rank")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture(Checked):
    """A dense decoder with grouped-query attention and a gated MLP, as Llama 3 has them."""

    name: str = option("llama", "name, as tables and figures show it")
    layers: int = option(32, "transformer layers", low=1, high=10_000)
    hidden: int = option(4096, "width of the residual stream", low=1, high=_MOST)
    heads: int = option(32, "query heads", low=1, high=100_000)
    kv_heads: int = option(8, "key and value heads", low=1, high=100_000)
    head_dim: int = option(128, "width of one head", low=1, high=_MOST)
    ffn: int = option(14336, "inner width of the MLP", low=1, high=_MOST)
    vocabulary: int = option(128256, "tokens in the vocabulary", low=1, high=_MOST)
    window: int = option(131072, "longest context, tokens", low=1, high=2**31)
    tied: bool = option(False, "input embedding and LM head are one matrix")

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer's matrices, without its norms."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.ffn

    @property
    def head_parameters(self) -> int:
        """Parameters of the LM head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, embedding and norms included."""
        norms = (2 * self.layers + 1) * self.hidden
        ends = (1 if self.tied else 2) * self.head_parameters
        return self.layers * self.layer_parameters + ends + norms

    def weight_bytes(self, bytes_each: float) -> float:
        """Bytes of all weights; embedding and LM head have 16 bits at least, as in engines."""
        matrices = self.layers * self.layer_parameters
        return matrices * bytes_each + (self.parameters - matrices) * max(2, bytes_each)

    def read_bytes(self, bytes_each: float) -> float:
        """Bytes of the weights that one step reads: the layers and the LM head."""
        layers = self.layers * self.layer_parameters * bytes_each
        return layers + self.head_parameters * max(2, bytes_each)

    def kv_bytes(self, bytes_each: float) -> float:
        """Bytes of keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_each

    def matrix_flops(self, tokens: float, logits: float) -> float:
        """FLOPs of the layers' matrices for ``tokens``, and of the LM head for ``logits``."""
        return 2 * (self.layers * self.layer_parameters * tokens + self.head_parameters * logits)

    def attention_flops(self, context: float, cached: float = 0) -> float:
        """FLOPs of causal attention over ``context`` tokens, ``cached`` of them from the cache.

        One decoded token at context ``c`` is ``attention_flops(c, c - 1)``: 4 ``c`` per layer, head
        and width.
        """
        return 2 * self.layers * self.heads * self.head_dim * (context**2 - cached**2)


@cache
def architectures() -> dict[str, Architecture]:
    """Return the models known by name: ``architectures.toml``."""
    text = files("negfail_nb.speed").joinpath("architectures.toml").read_text(encoding="utf-8")
    return {name: Architecture(name=name, **row) for name, row in tomllib.loads(text).items()}


def get_architecture(name: str | Architecture) -> Architecture:
    """Return a model by name, such as ``llama-3-70b`` or ``meta-llama/Llama-3.1-8B-Instruct``; an
    `Architecture` is returned as it is.

    Raises
    ------
    ValueError
        For an unknown name; the text lists the known ones.
    """
    if isinstance(name, Architecture):
        return name
    plain = name.rsplit("/", 1)[-1].lower().replace("_", "-")
    plain = plain.replace("(long-ctx variant)", "1048k").replace(" ", "-")
    plain = re.sub(r"^meta-|-(instruct|base|hf|fp8|nvfp4|fp4|awq|chat)\b|-\d{4}$", "", plain)
    known = architectures()
    if plain not in known:
        raise Unknown(
            f"no architecture {name!r}; {closest(plain, known)}known are {', '.join(known)}; "
            "for another model of the Llama family use architecture_from_config(its config)"
        )
    return known[plain]


def architecture_from_config(config: str | Path | Any, name: str = "") -> Architecture:
    """Return the architecture of a ``LlamaConfig``, or of the path of a ``config.json`` or its
    folder; ``name`` replaces the config's own.

    Raises
    ------
    ValueError
        For a model outside the Llama family, or a config that lacks a field.
    """
    values = _config_values(config)
    label = name or values.get("_name_or_path") or "the config"
    family = values.get("model_type")
    odd = [field for field in _OTHER_LAYERS if values.get(field)]
    if family != "llama" or odd:
        what = f"has {', '.join(odd)}" if odd else f"has model_type {family!r}"
        raise ValueError(
            f"{label} {what}; the formulas hold for the Llama family only (model_type 'llama')"
        )
    if missing := [field for field in _CONFIG.values() if not isinstance(values.get(field), int)]:
        lacks = f"{label} lacks {', '.join(missing)}"
        raise ValueError(f"{lacks}; give the whole config.json of the model")
    heads = values["num_attention_heads"]
    return Architecture(
        name=str(name or values.get("_name_or_path") or "llama"),
        **{field: values[theirs] for field, theirs in _CONFIG.items()},
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        window=values.get("max_position_embeddings") or 2048,  # the default of LlamaConfig
        tied=bool(values.get("tie_word_embeddings", False)),
    )


def _config_values(config: Any) -> dict[str, Any]:
    if hasattr(config, "to_dict"):
        return {"_name_or_path": getattr(config, "_name_or_path", ""), **config.to_dict()}
    path = Path(config)
    path = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a model's config.json: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; give a model's config.json")
    return values
