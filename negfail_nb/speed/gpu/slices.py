"""06, the card: some layers of a Llama with random weights, keys and values that stay in place,
8-bit matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.cache_utils import Cache, DynamicLayer

from negfail_nb.speed.architecture import Architecture, architecture_from_config, get_architecture

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
THETA = 500_000.0  # of Llama 3


def find_shape(model: str) -> Architecture:
    """Return the shape of a model: a known name, ``pocket-llama``, or a folder with its config.

    Raises
    ------
    ValueError
        For an unknown name, and for a config that is not of the Llama family.
    """
    from negfail_nb.training.model import PACKAGED

    if model in PACKAGED or Path(model).is_dir():
        return architecture_from_config(PACKAGED.get(model, model), Path(model).name)
    return get_architecture(model)


def build_slice(shape: Architecture, layers: int, device: torch.device, seed: int) -> Any:
    """Return the first layers of a model, with its embedding and LM head, in 16 bits.

    Weights are random and not zero: a card is faster on zeros, as it takes less power then.
    """
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.window,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    torch.manual_seed(seed)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


@contextmanager
def only_layers(model: Any, count: int) -> Iterator[None]:
    """Let a model run its first layers only; 0 leaves embedding, last norm and LM head."""
    whole = model.config.num_hidden_layers
    model.config.num_hidden_layers = count
    try:
        yield
    finally:
        model.config.num_hidden_layers = whole


class KeptLayer(DynamicLayer):
    """Keys and values of one layer in memory that is taken once: a step writes its own and copies
    nothing else.

    transformers' own caches either copy all keys and values at every step, or attend to unused
    places through a mask that keeps fast kernels away. Both would be measured as the model's.
    """

    def __init__(self, shape: Architecture, batch: int, room: int, device: torch.device) -> None:
        super().__init__()
        size = (batch, shape.kv_heads, room, shape.head_dim)
        self.keys, self.values = (
            torch.randn(size, dtype=torch.bfloat16, device=device) for _ in range(2)
        )
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True
        self.used = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple:
        """Write a step's keys and values behind the used ones, and return all; the next call writes
        there again.
        """
        end = self.used + key_states.shape[-2]
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Return how many tokens were there before this step."""
        return self.used

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many tokens a step attends to, and 0: the first of them is the first."""
        return self.used + query_length, 0


def kept_cache(
    shape: Architecture, layers: int, batch: int, context: int, room: int, device: torch.device
) -> Cache:
    """Return a cache of random keys and values for some context, with room for more."""
    cache = Cache(layers=[KeptLayer(shape, batch, room, device) for _ in range(layers)])
    for layer in cache.layers:
        layer.used = context
    return cache


class Fp8Linear(nn.Module):
    """A matrix in 8 bits; what it is multiplied with is scaled as a whole and rounded, at every
    call.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.abs().amax().float() / LARGEST
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("weight", (linear.weight / scale).to(FP8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product, in 16 bits."""
        flat = x.reshape(-1, x.shape[-1])
        scale = flat.abs().amax().float().clamp(min=1e-12) / LARGEST
        rounded = (flat / scale).to(FP8)
        product = scaled_product(rounded, self.weight.t(), scale, self.scale)
        return product.reshape(*x.shape[:-1], -1)


def scaled_product(
    one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor, other_scale: torch.Tensor
) -> torch.Tensor:
    """Return the product of two 8-bit matrices, of which the second lies by columns, in 16 bits."""
    fast = one.is_cuda  # sums of 8-bit products as engines take them
    return torch._scaled_mm(
        one,
        other,
        scale_a=scale,
        scale_b=other_scale,
        out_dtype=torch.bfloat16,
        use_fast_accum=fast,
    )


def to_fp8(model: Any) -> None:
    """Round the matrices of the layers to 8 bits, in place; embedding and LM head stay, as in
    engines.
    """
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, Fp8Linear(child))


def why_no_fp8(device: torch.device) -> str:
    """Return why a device does not multiply 8-bit matrices; empty where it does."""
    try:
        ones = torch.ones(16, 16, device=device).to(FP8)
        scale = torch.ones((), device=device)
        scaled_product(ones, ones.t(), scale, scale)
        return ""
    except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
        return f"torch {torch.__version__} has no 8-bit product here: {str(error).splitlines()[0]}"


def sliced(shape: Architecture, layers: int) -> Architecture:
    """Return the shape of a slice."""
    return replace(
        shape,
        layers=min(layers, shape.layers),
        name=f"{shape.name}, {min(layers, shape.layers)} layers",
    )
