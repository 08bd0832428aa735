"""A truncated model: some layers of a Llama with random weights, keys and values that stay in
place, 8-bit matrices; and whether it computes what the CPU does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.cache_utils import Cache, DynamicLayer

from negfail_nb.models import find_model, known_models
from negfail_nb.speed.architecture import Architecture, architecture_from_config, get_architecture
from negfail_nb.speed.gpu.clock import FP8, fast_kernels, scaled_product

LARGEST = torch.finfo(FP8).max
THETA = 500_000.0  # of Llama 3
SEED = 0  # of weights and prompts
# Of the check: tokens, layers, vocabulary.
TOKENS = 96
LAYERS = 2
VOCABULARY = 4096
# Largest relative error (norm of the difference / norm) that rounding explains; two layers as wide
# as those of an 8B are off by 2 % in bf16. An attention that reads a wrong place is off by more
# than all of it.
LIMITS = {"fp32": 0.001, "bf16": 0.05, "fp8": 0.3}


class WrongResult(RuntimeError):
    """The device computes something else than the CPU does, so its times are of no use."""


def dtype_of(precision: str) -> torch.dtype:
    """Return what is computed in: 32 bits with fp32, else 16, also with 8-bit matrices."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


def find_shape(model: str) -> Architecture:
    """Return the shape of a model: a known name, ``pocket-llama``, or a folder with its config."""
    known = known_models().get(model)
    if Path(model).is_dir() or (known and known.folder):
        return architecture_from_config(find_model(model), Path(model).name)
    return get_architecture(model)


def truncated(shape: Architecture, layers: int) -> Architecture:
    """Return the shape of a model's first layers."""
    layers = min(layers, shape.layers)
    return replace(shape, layers=layers, name=f"{shape.name}, {layers} layers")


def build_model(shape: Architecture, precision: str, device: torch.device) -> Any:
    """Return a Llama with random weights: a GPU is faster on zeros, as it takes less power then.

    With fp8 the layers' matrices are rounded; embedding and LM head stay, as in engines.
    """
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.window,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    torch.manual_seed(SEED)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype_of(precision))
    model.eval().requires_grad_(False)
    for layer in model.model.layers if precision == "fp8" else ():
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, Fp8Linear(child))
    return model


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

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, used: int) -> None:
        super().__init__()
        self.keys = keys
        self.values = values
        self.used = used
        self.dtype = keys.dtype
        self.device = keys.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple:
        """Write keys and values behind the used ones, and return all; the next call overwrites."""
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
    shape: Architecture,
    batch: int,
    context: int,
    room: int,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
) -> Cache:
    """Return a cache of random keys and values for ``context`` tokens, with room for more."""
    size = (2, batch, shape.kv_heads, room, shape.head_dim)
    made = (torch.randn(size, dtype=dtype, device=device) for _ in range(shape.layers))
    return Cache(layers=[KeptLayer(*both, context) for both in made])


class Fp8Linear(nn.Module):
    """A matrix in 8 bits; what it is multiplied with is scaled and rounded at every call."""

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


@torch.no_grad()
def check_model(shape: Architecture, precision: str, device: torch.device) -> dict[str, float]:
    """Return relative errors of attention and logits against 32 bits on the CPU; raise
    `WrongResult` if one is above `LIMITS`.

    Two layers have their full width, the vocabulary is cut. With 8-bit matrices the CPU has the
    rounded weights: what differs is the rounding of what they are multiplied with.
    """
    vocabulary = min(VOCABULARY, shape.vocabulary)
    small = replace(shape, layers=min(LAYERS, shape.layers), vocabulary=vocabulary)
    model = build_model(small, precision, device)
    draw = torch.Generator().manual_seed(SEED)
    ids = torch.randint(vocabulary, (1, TOKENS), generator=draw)
    cache = kept_cache(small, 1, 0, TOKENS, device, dtype_of(precision))
    last = TOKENS - 1

    def two_steps() -> Iterator[dict[str, Any]]:
        yield {"input_ids": ids[:, :last].to(device), "past_key_values": cache}
        for layer in cache.layers:
            layer.used = last
        yield {"input_ids": ids[:, last:].to(device), "past_key_values": cache}

    with fast_kernels(device):
        found = _outputs(model, two_steps())
    wanted = _outputs(_plain(model), [{"input_ids": ids, "use_cache": False}])[0]
    errors = {}
    places = {"prefill": slice(last), "decode": slice(last, None)}
    for (phase, place), parts in zip(places.items(), found, strict=True):
        for name, one, whole in zip(("attention", "logits"), parts, wanted, strict=True):
            right = whole[:, place]
            off = (one.float().cpu() - right).norm() / right.norm()
            errors[f"{phase}_{name}"] = float(off)
    # Not `>`: that would let NaN pass.
    if wrong := {name: error for name, error in errors.items() if not error <= LIMITS[precision]}:
        raise WrongResult(
            f"{precision} on {device}: {wrong} are off from 32 bits on the CPU by more than "
            f"{LIMITS[precision]}; nothing is measured. Is this version of torch made for this GPU?"
        )
    return {name: round(error, 9 if precision == "fp32" else 5) for name, error in errors.items()}


def _outputs(
    model: Any, passes: Iterable[dict[str, Any]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return what the last layer's attention returns, and the logits, of each pass."""
    seen: list[torch.Tensor] = []
    hook = model.model.layers[-1].self_attn.register_forward_hook(
        lambda module, given, out: seen.append(out[0])
    )
    try:
        logits = [model(**given).logits for given in passes]
    finally:
        hook.remove()
    return list(zip(seen, logits, strict=True))


def _plain(model: Any) -> Any:
    """The same model on the CPU in 32 bits, with the plainest attention."""
    config = deepcopy(model.config)
    with torch.device("meta"):  # nothing is drawn twice
        plain = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )
    weights = {name: tensor.float().cpu() for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, Fp8Linear):
            weights[f"{name}.weight"] = (module.weight.float() * module.scale).cpu()
    plain.load_state_dict(weights, assign=True)
    # The rotation's frequencies are no weights, and stayed on the meta device.
    plain.model.rotary_emb = type(plain.model.rotary_emb)(config=plain.config)
    return plain.eval()
