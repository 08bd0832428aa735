"""06, the card: what a slice computes against the same slice in 32 bits on the CPU, before any time
is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from negfail_nb.speed.architecture import Architecture
from negfail_nb.speed.gpu.clock import fast_kernels
from negfail_nb.speed.gpu.slices import Fp8Linear, build_slice, kept_cache, to_fp8

TOKENS, LAYERS, VOCABULARY = 96, 2, 4096
# Largest relative error (norm of the difference / norm) that rounding explains; two layers as wide
# as those of an 8B are off by 2 % in bf16. An attention that reads a wrong place is off by more
# than all of it.
LIMITS = {"bf16": 0.05, "fp8": 0.3}


class WrongResult(RuntimeError):
    """The device computes something else than the CPU does, so its times are of no use."""


@torch.no_grad()
def check_slice(
    shape: Architecture, precision: str, device: torch.device, seed: int
) -> dict[str, float]:
    """Return relative errors of attention and logits, in prefill and in decode, against 32 bits on
    the CPU.

    The layers have their full width, the vocabulary is cut. With 8-bit matrices the CPU has the
    rounded weights: what differs is the rounding of what they are multiplied with.

    Raises
    ------
    WrongResult
        Where one is above `LIMITS`.
    """
    small = replace(
        shape, layers=min(LAYERS, shape.layers), vocabulary=min(VOCABULARY, shape.vocabulary)
    )
    model = build_slice(small, small.layers, device, seed)
    if precision == "fp8":
        to_fp8(model)
    ids = torch.randint(
        small.vocabulary, (1, TOKENS), generator=torch.Generator().manual_seed(seed)
    )
    with fast_kernels(device):
        found = _in_two_steps(model, small, ids.to(device), device)
    wanted = _at_once(_plain(model), ids)
    errors = {name: _apart(found[name], wanted[name]) for name in wanted}
    # Not `>`: that would let NaN pass.
    if wrong := {name: error for name, error in errors.items() if not error <= LIMITS[precision]}:
        raise WrongResult(
            f"{precision} on {device}: {wrong} are off from 32 bits on the CPU by more than {LIMITS[precision]}; "
            "nothing is measured. Is this version of torch made for this card?"
        )
    return {name: round(error, 5) for name, error in errors.items()}


def _in_two_steps(
    model: Any, shape: Architecture, ids: torch.Tensor, device: torch.device
) -> dict[str, torch.Tensor]:
    """A prefill of all tokens but one, then a step of decode, through the cache that is measured
    with.
    """
    cache, last = kept_cache(shape, shape.layers, 1, 0, TOKENS, device), TOKENS - 1
    with _attention(model) as seen:
        first = model(ids[:, :last], past_key_values=cache, use_cache=True).logits
        for layer in cache.layers:
            layer.used = last
        step = model(ids[:, last:], past_key_values=cache, use_cache=True).logits
    return {
        "prefill_attention": seen[0],
        "prefill_logits": first,
        "decode_attention": seen[1],
        "decode_logits": step,
    }


def _at_once(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """All tokens in one pass without a cache: what both steps must come to."""
    with _attention(model) as seen:
        logits = model(ids, use_cache=False).logits
    return {
        "prefill_attention": seen[0][:, :-1],
        "prefill_logits": logits[:, :-1],
        "decode_attention": seen[0][:, -1:],
        "decode_logits": logits[:, -1:],
    }


@contextmanager
def _attention(model: Any) -> Iterator[list[torch.Tensor]]:
    """Keep what the last layer's attention returns, call by call."""
    seen: list[torch.Tensor] = []
    hook = model.model.layers[-1].self_attn.register_forward_hook(
        lambda module, given, out: seen.append(out[0])
    )
    try:
        yield seen
    finally:
        hook.remove()


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


def _apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float().cpu() - wanted).norm() / wanted.norm())
