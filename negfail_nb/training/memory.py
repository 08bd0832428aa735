"""What training keeps in the memory of each device: counted from the model's shape, before it is
loaded.

Of a parameter that is trained there are, in float32, the weight, its gradient and two moments of
Adam; of a frozen one only the weight. Data parallel training keeps all of it on every device, and
a second copy of the gradients in the buckets that are sent; FSDP2 keeps a share on each, and the
whole of a layer or two while they compute. Activations are what the backward pass of a Llama needs,
counted operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOAT = 4  # bytes
HALF = 2
MOMENTS = 2
# Of a layer, in units of its widths: hidden (two norms and residuals with input, normed input and
# output each; attention's output twice; query), keys and values, and the inner width of the MLP
# (gate, up, activated gate, product).
KEPT_HIDDEN, KEPT_QUERY, KEPT_KEYS, KEPT_INNER = 6, 3, 2, 4
# Copies of the largest part that FSDP2 holds at once: what it gathers into, and the parameters made
# of it, for the part that computes and the next; and its gradients, whole and as they are sent.
GATHERED, REDUCED = 4, 2
# Logits, their logarithm of probabilities, and the gradient of these.
LOGITS = 3


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one device while a model is trained."""

    weights: float
    gradients: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        """All of it together."""
        return self.weights + self.gradients + self.optimiser + self.activations

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimiser", "activations")
        told = ", ".join(f"{name} {getattr(self, name) / 1e9:,.1f}" for name in parts)
        return f"{self.total / 1e9:,.1f} GB a device ({told})"


@dataclass(frozen=True, slots=True)
class Size:
    """What a model is made of, as far as memory goes.

    Attributes
    ----------
    parameters, trained, ends
        All; those that are trained, an adapter included; those of the embeddings and the output
        layer, which are never rounded.
    largest
        Parameters of the largest part that FSDP2 gathers at once: a layer, or the embeddings.
    layers, hidden, query, keys, inner, vocabulary
        Its widths: of the residual stream, of all query heads, of all key heads, of the MLP.
    adapted
        Whether the trained ones are an adapter on a frozen base.
    """

    parameters: int
    trained: int
    ends: int
    largest: int
    layers: int
    hidden: int
    query: int
    keys: int
    inner: int
    vocabulary: int
    adapted: bool


def size_of(network: PreTrainedModel, adapter: Any = None) -> Size:
    """Return the size of a network, which may be without memory (`empty_model`).

    Parameters
    ----------
    network
        What is trained, or the base of an adapter.
    adapter
        A ``LoraConfig``; ``None``: all weights are trained, or the network has its adapter already.
    """
    config = network.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    counts = _counts(network, adapter)
    layers = max((m for m in network.modules() if _is_list(m)), key=len)
    ends = [network.get_input_embeddings(), network.get_output_embeddings()]
    parts = [layers[0], *(part for part in ends if part is not None)]
    outer = {p for part in ends if part is not None for p in part.parameters()}
    return Size(
        *counts,
        sum(p.numel() for p in outer),
        max(sum(p.numel() for p in part.parameters()) for part in parts),
        config.num_hidden_layers,
        config.hidden_size,
        heads * width,
        (getattr(config, "num_key_value_heads", None) or heads) * width,
        getattr(config, "intermediate_size", 4 * config.hidden_size),
        config.vocab_size,
        counts[0] != counts[1],
    )


def memory(
    size: Size,
    tokens: int,
    trained_tokens: int,
    dtype: str,
    processes: int = 1,
    sharded: bool = False,
    recompute: bool = False,
    base_bits: float = 0,
) -> Memory:
    """Return what one device holds at the most.

    Parameters
    ----------
    size
        The model.
    tokens, trained_tokens
        Of one forward pass on one device: all, and those with logits.
    dtype
        ``float32`` or ``bfloat16``, as `TrainSettings.dtype`.
    processes
        That train together.
    sharded
        Whether weights, gradients and moments are split among them (FSDP2).
    recompute
        Whether activations are computed again in the backward pass.
    base_bits
        Of a weight of the frozen base that is rounded; 0: as ``dtype`` says.
    """
    shares = processes if sharded else 1
    bits = base_bits or 8 * (HALF if dtype == "bfloat16" else FLOAT)
    frozen = (size.parameters - size.trained) * bits / 8
    if base_bits:
        frozen += size.ends * (HALF - bits / 8)
    copies = 2 if processes > 1 and not sharded else 1  # the buckets that are sent
    part = size.largest * (bits / 8 if size.adapted else FLOAT) if sharded else 0
    reduced = 0 if size.adapted else REDUCED * part
    return Memory(
        weights=(frozen + size.trained * FLOAT) / shares + GATHERED * part,
        gradients=copies * size.trained * FLOAT / shares + reduced,
        optimiser=MOMENTS * size.trained * FLOAT / shares,
        activations=activations(size, tokens, trained_tokens, dtype, recompute),
    )


def activations(size: Size, tokens: int, trained_tokens: int, dtype: str, recompute: bool) -> float:
    """Return the bytes that the backward pass of one forward pass needs, logits included."""
    layer = _layer(size, dtype) * tokens
    logits = LOGITS * trained_tokens * size.vocabulary * FLOAT
    if recompute:
        stream = HALF if dtype == "bfloat16" and size.adapted else FLOAT
        return size.layers * tokens * size.hidden * stream + layer + logits
    return size.layers * layer + logits


def _layer(size: Size, dtype: str) -> float:
    """Bytes that one layer keeps of one token."""
    each = HALF if dtype == "bfloat16" else FLOAT
    inner = KEPT_QUERY * size.query + KEPT_KEYS * size.keys + KEPT_INNER * size.inner
    # Residuals and norms stay float32; an adapter casts the input of each of its matrices anew.
    casts = each == HALF and size.adapted
    cast = HALF * (6 * size.hidden + size.inner) if casts else 0
    return KEPT_HIDDEN * size.hidden * FLOAT + inner * each + cast


def _counts(network: PreTrainedModel, adapter: Any) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    if adapter is not None:
        from peft import get_peft_model

        network = get_peft_model(network, adapter, low_cpu_mem_usage=True)
    every = sum(p.numel() for p in network.parameters())
    return every, sum(p.numel() for p in network.parameters() if p.requires_grad)


def _is_list(module: Any) -> bool:
    from torch.nn import ModuleList

    return isinstance(module, ModuleList)
