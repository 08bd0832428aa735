"""Weights that pocket-llama starts from: random, but for heads that look up what followed a token before.

A model of this size finds such induction heads (Olsson and others, 2022) late, and until then it cannot copy a name. So
the first layers get them from the start, as in mimetic initialisation (Trockman and Kolter, 2023): a head of layer 0
attends to the previous token and writes it into a subspace of its own; one of layer 1 compares that with the present
token and copies what it finds. Training may change all of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch

HEADS = 3  # of each of the two layers that are set; the other heads stay random
EMBEDDING = 0.07  # standard deviation, of the part that tokens share and of the part of their own
ATTEND, MATCH, WRITE, COPY = 0.38, 2.2, 0.25, 1.0
FAST = (3.0, 2.0, 1.0, 1.0)  # weights of the fastest rotary frequencies in the attention to the previous token
# Frequencies of the other heads, which begin by looking at the last 8, 30 or 100 tokens: pairs of rotary frequencies.
WINDOWS = ((2, 3), (4, 5), (5, 6))
LOCAL = 0.34
SLOW = 5  # from this frequency on, rotation over a few hundred tokens is small enough to compare contents


@torch.no_grad()
def set_induction(model: Any, seed: int) -> None:
    """Set the embeddings, and the first heads of layers 0 and 1, of a Llama.

    Raises
    ------
    ValueError
        Where the model has fewer than two layers or too few or too narrow heads.
    """
    config, layers = model.config, model.model.layers
    width, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    if len(layers) < 2 or config.num_attention_heads < HEADS or size // 2 <= SLOW or 2 * HEADS * size > width:
        raise ValueError(f"{len(layers)} layers, {config.num_attention_heads} heads of {size} are too few to set")
    random = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=random))[0].T  # orthonormal rows
    shared, read, written = (
        basis[0],
        basis[1 : 1 + HEADS * size],
        torch.linalg.qr(torch.randn(width, width, generator=random))[0].T[: HEADS * size],
    )
    embedding = model.model.embed_tokens.weight
    embedding.copy_(EMBEDDING * torch.randn(embedding.shape, generator=random))
    embedding.add_(EMBEDDING * math.sqrt(width) * shared - (embedding @ shared)[:, None] * shared)
    for head in range(HEADS):
        rows = slice(head * size, (head + 1) * size)
        _look_back(layers[0].self_attn, rows, shared, size, _frequencies(model, size))
        layers[0].self_attn.v_proj.weight[rows] = read[rows]
        layers[0].self_attn.o_proj.weight[:, rows] = WRITE * written[rows].T
        _match(layers[1].self_attn, rows, read[rows], written[rows], size)
    for depth, layer in enumerate(layers):
        for head in range(HEADS if depth < 2 else 0, config.num_attention_heads):
            rows = slice(head * size, (head + 1) * size)
            _look_near(layer.self_attn, rows, shared, size, WINDOWS[head % len(WINDOWS)])


def _look_near(attention: Any, rows: slice, shared: torch.Tensor, size: int, pairs: tuple[int, ...]) -> None:
    """Add to a head a liking for near tokens, which random weights lack: scores fall with the distance."""
    near = torch.zeros(size)
    near[list(pairs)] = 1.0
    attention.q_proj.weight[rows] += LOCAL * torch.outer(near, shared)
    attention.k_proj.weight[rows] += LOCAL * torch.outer(near, shared)


def _frequencies(model: Any, size: int) -> torch.Tensor:
    """Rotary frequencies of the pairs (i, i + size / 2), fastest first."""
    return model.model.rotary_emb.inv_freq.float()[: size // 2]


def _look_back(attention: Any, rows: slice, shared: torch.Tensor, size: int, frequencies: torch.Tensor) -> None:
    """Let a head attend to the previous token: the key is the query, turned by one position."""
    query, key = torch.zeros(size), torch.zeros(size)
    for pair, weight in enumerate(FAST):
        amplitude, angle = math.sqrt(weight), float(frequencies[pair])
        query[pair] = amplitude
        key[pair], key[pair + size // 2] = amplitude * math.cos(angle), amplitude * math.sin(angle)
    attention.q_proj.weight[rows] = ATTEND * torch.outer(query, shared)
    attention.k_proj.weight[rows] = ATTEND * torch.outer(key, shared)


def _match(attention: Any, rows: slice, read: torch.Tensor, written: torch.Tensor, size: int) -> None:
    """Let a head find the places whose previous token is the present one, and copy the token that stands there."""
    slow = torch.tensor([float(i % (size // 2) >= SLOW) for i in range(size)])[:, None]
    attention.q_proj.weight[rows] = MATCH * slow * read
    attention.k_proj.weight[rows] = MATCH * slow * written
    attention.v_proj.weight[rows] = read
    attention.o_proj.weight[:, rows] = COPY * read.T
