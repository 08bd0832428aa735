"""Weights that pocket-llama starts from: random, but for heads that copy, and heads that know their
passage.

A model of this size finds such heads late, or not at all in the time there is; so it gets them from
the start, as in mimetic initialisation (Trockman and Kolter, 2023). Training may change all of it.

- **Induction** (Olsson and others, 2022): heads of layer 0 attend to the previous token, or to the
  one before it, and write it into a subspace of its own; heads of layer 1 compare that with the
  present token, or with the one before it, and copy what they find. Two tokens are compared because
  every name has a token for its space before it. A third pair compares the last several tokens as a
  sum, so that of titles that end alike the one that begins alike too is found.
- **Passages**: a head of layer 1 attends to the last number in brackets, ``Title [3]:``, and writes
  it into another subspace. So each token knows whose passage it stands in, however long that is,
  and a reply that has cited ``[3]`` belongs to it too. Heads of the later layers compare these
  numbers, and find the passage that was cited.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

# Heads per layer that copy (the others stay random), which of them skips a token, and which looks
# at several at once.
HEADS, SKIP, BAG = 3, 1, 2
# Of the head that looks at several: weights, and how far back it looks most.
SPREAD, BACK = (0.0, 0.3, 1.5, 2.0, 2.0, 2.0), 3
BAG_WRITE, BAG_MATCH, BAG_FIRST = 1.4, 4.0, 3.0
# Standard deviation, of the part that tokens share and of the part of their own; large, so that
# what the other parts of the model add while they learn does not drown what heads look for.
EMBEDDING = 0.28
ATTEND, MATCH, WRITE, COPY = 0.6, 2.2, 1.4, 1.6
# Weights of the fastest rotary frequencies in the attention to the previous token. Angles come back
# after a number of positions, those of several frequencies together later; with these weights no
# distance up to 6,000 has a score within 15 % of the one that is sought (with the first four
# frequencies alone, a distance of 378 has).
FAST = (6.0, 2.0, 2.0, 2.5, 2.5, 2.5, 1.0)
# Frequencies of the other heads, which begin by looking at the last 5, 20 or 60 tokens: pairs of
# rotary frequencies.
WINDOWS = ((1, 2), (2, 3), (3, 4))
LOCAL = 0.34
# From this frequency on, rotation over a few thousand tokens is small enough to compare contents.
SLOW = 7
# Scores of the attention to the last number: how they fall with the distance, and what a number in
# brackets adds.
RECENT = {3: 7.0, 4: 8.0, 5: 9.0, 6: 9.0}
OUTPUT = 0.25
BRACKET, NUMBER, PASSAGE = 42.0, 4.0, 1.4


@dataclass(frozen=True, slots=True)
class _Basis:
    """Orthonormal directions of the residual stream: what tokens share, what heads read, and what
    they write.

    ``read`` and ``written`` have a block of rows for each head that copies; of ``written``, as many
    as a head has dimensions that hardly rotate.
    """

    shared: torch.Tensor
    read: torch.Tensor
    written: torch.Tensor
    passage: torch.Tensor

    @property
    def used(self) -> torch.Tensor:
        """The directions that other parts of the model should leave alone."""
        return torch.cat([self.shared[None], self.written, self.passage])


@torch.no_grad()
def set_heads(model: Any, bracket: int, seed: int) -> None:
    """Set the embeddings and some heads of a Llama: induction in layers 0 and 1, passages from
    layer 1 on.

    Parameters
    ----------
    model
        A `LlamaForCausalLM`.
    bracket
        Token id of the opening bracket before a passage's number.
    seed
        Of the random directions.

    Raises
    ------
    ValueError
        If the model has fewer than two layers or too few or too narrow heads.
    """
    config, layers = model.config, model.model.layers
    size = config.head_dim
    if len(layers) < 2 or config.num_attention_heads < 2 * HEADS or size // 2 <= SLOW + 1:
        raise ValueError(
            f"{len(layers)} layers, {config.num_attention_heads} heads of {size} are too few to set"
        )
    basis = _draw(config.hidden_size, size, seed)
    _set_embeddings(model.model.embed_tokens.weight, basis, bracket, size, seed)
    model.model.norm.weight.fill_(
        OUTPUT
    )  # the embeddings are the output layer too, and its scores should stay small
    frequencies = model.model.rotary_emb.inv_freq.float()
    for head in range(HEADS):
        rows = slice(head * size, (head + 1) * size)
        _look_back(layers[0].self_attn, rows, basis, size, frequencies)
        _match(layers[1].self_attn, rows, basis, size)
        for layer in layers[2:]:
            _find_passage(layer.self_attn, rows, basis, size)
    for depth, layer in enumerate(layers):
        _write_beside(layer.mlp.down_proj.weight, basis)
        for head in range(HEADS, config.num_attention_heads):
            rows = slice(head * size, (head + 1) * size)
            if depth == 1 and head == config.num_attention_heads - 1:
                _look_for_number(
                    layer.self_attn, rows, basis, size, _after(model, bracket, basis, size)
                )
            else:
                _write_beside(layer.self_attn.o_proj.weight[:, rows], basis)
                _look_near(layer.self_attn, rows, basis.shared, size, WINDOWS[head % len(WINDOWS)])


def hold_heads(model: Any, seed: int, while_: Callable[[int], bool]) -> None:
    """Keep what `set_heads` set as it is, for as long as a condition is true.

    Optimisers that scale their steps move weights that nothing depends on yet as far as others, and
    would wipe the heads out before there is a use for them. So gradients of these weights are
    dropped, and the rest of the model learns to write beside the directions that the heads use.

    Parameters
    ----------
    model
        The model that is trained, as `set_heads` left it.
    seed
        The one that `set_heads` was given.
    while_
        Asked at each backward pass: whether the heads of that layer are to be kept.
    """
    config, layers = model.config, model.model.layers
    size = config.head_dim
    used = _draw(config.hidden_size, size, seed).used
    for depth, layer in enumerate(layers):
        rows = torch.zeros(config.num_attention_heads * size, 1, dtype=torch.bool)
        for head in (*range(HEADS), *([config.num_attention_heads - 1] if depth == 1 else [])):
            rows[head * size : (head + 1) * size] = True
        asked, attention = partial(while_, depth), layer.self_attn
        for part in (
            attention.q_proj,
            attention.k_proj,
            *([attention.v_proj] if depth < 2 else []),
        ):
            _keep(part.weight, rows, asked)
        if depth < 2:
            _keep(attention.o_proj.weight, rows.T, asked)
        if depth + 1 < len(layers):
            for part in (attention.o_proj, layer.mlp.down_proj):
                _keep_beside(part.weight, used, asked)


def _keep(weight: torch.Tensor, mask: torch.Tensor, asked: Callable[[], bool]) -> None:
    """Drop the gradient of the weights under a mask."""
    weight.register_hook(
        lambda grad: grad.masked_fill(mask.to(grad.device), 0) if asked() else grad
    )


def _keep_beside(weight: torch.Tensor, used: torch.Tensor, asked: Callable[[], bool]) -> None:
    """Take out of a gradient what would write into directions that are used."""
    weight.register_hook(
        lambda grad: grad - used.to(grad).T @ (used.to(grad) @ grad) if asked() else grad
    )


def _draw(width: int, size: int, seed: int) -> _Basis:
    random = torch.Generator().manual_seed(seed)
    lines = torch.linalg.qr(torch.randn(width, width, generator=random))[0].T
    heads, slow = HEADS * size, len(_slow(size))
    ends = [1, 1 + heads, 1 + heads + HEADS * slow, 1 + heads + (HEADS + 1) * slow]
    if ends[-1] > width:
        raise ValueError(
            f"width {width} is too small for {HEADS} heads of {size}; it takes {ends[-1]}"
        )
    return _Basis(lines[0], *(lines[a:b] for a, b in zip(ends, ends[1:], strict=False)))


def _set_embeddings(
    embedding: torch.Tensor, basis: _Basis, bracket: int, size: int, seed: int
) -> None:
    """Draw the embeddings; no other token has a part of what heads read of the bracket, so that
    none is mistaken.
    """
    random = torch.Generator().manual_seed(seed + 1)
    embedding.copy_(EMBEDDING * torch.randn(embedding.shape, generator=random))
    slow = basis.read[_slow(size)]
    seen = slow.T @ (slow @ embedding[bracket])
    own, length = embedding[bracket].clone(), seen.norm()
    seen = seen / length
    embedding.sub_(torch.outer(embedding @ seen, seen))
    embedding[bracket] = own
    embedding.add_(
        EMBEDDING * math.sqrt(len(basis.shared)) * basis.shared
        - (embedding @ basis.shared)[:, None] * basis.shared
    )


def _after(model: Any, token: int, basis: _Basis, size: int) -> torch.Tensor:
    """Return the unit direction in which layer 0 writes that this token stood before."""
    slow = _slow(size)
    direction = basis.written[: len(slow)].T @ (
        basis.read[slow] @ model.model.embed_tokens.weight[token]
    )
    return direction / direction.norm()


def _slow(size: int) -> torch.Tensor:
    """Return which dimensions of a head hardly rotate: pairs (i, i + size / 2) from `SLOW` on."""
    return torch.tensor([i for i in range(size) if i % (size // 2) >= SLOW])


def _write_beside(weight: torch.Tensor, basis: _Basis) -> None:
    """Take out of what a part writes all that lies in the directions that the set heads use."""
    weight.sub_(basis.used.T @ (basis.used @ weight))


def _look_near(
    attention: Any, rows: slice, shared: torch.Tensor, size: int, pairs: tuple[int, ...]
) -> None:
    """Add to a head a liking for near tokens, which random weights lack: scores fall with the
    distance.
    """
    near = torch.zeros(size)
    near[list(pairs)] = 1.0
    attention.q_proj.weight[rows] += LOCAL * torch.outer(near, shared)
    attention.k_proj.weight[rows] += LOCAL * torch.outer(near, shared)


def _look_back(
    attention: Any, rows: slice, basis: _Basis, size: int, frequencies: torch.Tensor
) -> None:
    """Let a head attend to the previous token, others to the one before or to several, and write
    down which they are.

    The key is the query, turned by one position or more. The second head reads what the first one
    reads.
    """
    head, slow = rows.start // size, _slow(size)
    query, key = torch.zeros(size), torch.zeros(size)
    weights, back, write = {SKIP: (FAST, 2, WRITE), BAG: (SPREAD, BACK, BAG_WRITE)}.get(
        head, (FAST, 1, WRITE)
    )
    for pair, weight in enumerate(weights):
        amplitude, angle = math.sqrt(weight), back * float(frequencies[pair])
        query[pair] = amplitude
        key[pair], key[pair + size // 2] = amplitude * math.cos(angle), amplitude * math.sin(angle)
    attention.q_proj.weight[rows] = ATTEND * torch.outer(query, basis.shared)
    attention.k_proj.weight[rows] = ATTEND * torch.outer(key, basis.shared)
    attention.v_proj.weight[rows] = basis.read[rows] if head == BAG else basis.read[:size]
    attention.o_proj.weight[:, rows] = 0.0
    attention.o_proj.weight[:, rows.start + slow] = write * _block(basis, head, size).T


def _match(attention: Any, rows: slice, basis: _Basis, size: int) -> None:
    """Let a head find the places whose previous token is the present one, and copy the token that
    stands there.

    The second head finds those whose last token but one is the previous one; the third those with
    much the same tokens before them, and the present one right before.
    """
    head, slow = rows.start // size, _slow(size)
    attention.q_proj.weight[rows], attention.k_proj.weight[rows] = 0.0, 0.0
    previous = _block(basis, 0, size)
    sought = {SKIP: previous, BAG: _block(basis, BAG, size)}.get(head, basis.read[slow])
    match = BAG_MATCH if head == BAG else MATCH
    attention.q_proj.weight[rows.start + slow] = match * sought
    attention.k_proj.weight[rows.start + slow] = match * _block(basis, head, size)
    if head == BAG:  # and whose previous token is the present one
        attention.q_proj.weight[rows.start + slow] += BAG_FIRST * basis.read[slow]
        attention.k_proj.weight[rows.start + slow] += BAG_FIRST * previous
    attention.v_proj.weight[rows] = basis.read[rows]
    attention.o_proj.weight[:, rows] = COPY * basis.read[rows].T


def _block(basis: _Basis, head: int, size: int) -> torch.Tensor:
    """Return the directions that a head of layer 0 writes into."""
    slow = len(_slow(size))
    return basis.written[head * slow : (head + 1) * slow]


def _look_for_number(
    attention: Any, rows: slice, basis: _Basis, size: int, after: torch.Tensor
) -> None:
    """Let a head attend to the last token that follows a bracket, and write down which it is.

    Scores are divided by the root of ``size``, and a shared or written direction has a length of
    about 7 after the norm before layer 1; so the weights are set to give the scores above.
    """
    scale, length = math.sqrt(size), 7.0
    near = torch.zeros(size)
    for pair, score in RECENT.items():
        near[pair] = math.sqrt(score * scale) / length
    constant = torch.zeros(size)
    constant[size // 2 - 1] = math.sqrt(BRACKET * scale) / length
    attention.q_proj.weight[rows] = torch.outer(near + constant, basis.shared)
    attention.k_proj.weight[rows] = torch.outer(near, basis.shared) + torch.outer(constant, after)
    slow = _slow(size)
    attention.v_proj.weight[rows], attention.o_proj.weight[:, rows] = 0.0, 0.0
    attention.v_proj.weight[rows.start + slow] = basis.read[slow]
    attention.o_proj.weight[:, rows.start + slow] = NUMBER * basis.passage.T


def _find_passage(attention: Any, rows: slice, basis: _Basis, size: int) -> None:
    """Let a head attend to the passage whose number the present token has, and copy from it."""
    for weight in (attention.q_proj.weight, attention.k_proj.weight):
        weight[rows.start + _slow(size)] += PASSAGE * basis.passage
    attention.v_proj.weight[rows] = basis.read[rows]
    attention.o_proj.weight[:, rows] = COPY * basis.read[rows].T
