"""What is asked of the model: prompt, answer, how many at once, and how the engine serves it."""

from __future__ import annotations

from dataclasses import dataclass

from negfail_nb.settings import Checked, option

__all__ = ["BYTES", "Workload"]

BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int4": 0.5}
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(Checked):
    """One kind of request, so many at a time.

    A pipeline of dependent calls (retrieve, read, retrieve again) is ``calls=3, added_tokens=..``:
    each call has a prompt longer by ``added_tokens`` than the one before, and starts when that has
    ended.
    """

    input_tokens: int = option(4096, "tokens of the prompt", low=1, high=_MOST)
    output_tokens: int = option(128, "tokens of the answer", low=1, high=_MOST)
    batch: int = option(
        1, "sequences at a time; 0: as many as fit into memory", low=0, high=1_000_000
    )
    tensor_parallel: int = option(1, "GPUs that share each layer", low=1, high=1024)
    weights: str = option("bf16", "precision of the weights", choices=tuple(BYTES))
    kv: str = option("bf16", "precision of keys and values", choices=("bf16", "fp16", "fp8"))
    chunk_tokens: int = option(
        0, "prompt tokens in one step, at most; 0: no chunks", low=0, high=_MOST
    )
    cached_tokens: int = option(
        0, "tokens of the prompt that the prefix cache has", low=0, high=_MOST
    )
    calls: int = option(1, "calls, each waiting for the one before", low=1, high=10_000)
    added_tokens: int = option(
        0, "tokens that each further call adds to the prompt", low=0, high=_MOST
    )
    reuse_prefix: bool = option(
        True, "further calls find the prompt of the call before in the prefix cache"
    )
    batching: str = option(
        "static",
        "static: all start together; continuous: one joins whenever one leaves",
        choices=("static", "continuous"),
    )
    max_batch: int = option(
        1024, "sequences at a time that the engine allows, where batch is 0", low=1, high=1_000_000
    )

    def __post_init__(self) -> None:
        """Check every field, and that the cache holds less than the prompt.

        Raises
        ------
        ValueError
            For a value out of bounds, or a cached prefix as long as the prompt; the text names
            field and value.
        """
        # `super()` without arguments does not work in a dataclass with slots.
        Checked.__post_init__(self)
        if self.cached_tokens >= self.input_tokens:
            raise ValueError(
                f"Workload.cached_tokens is {self.cached_tokens} of {self.input_tokens} input_tokens; "
                "the last token of a prompt is always computed, so use fewer"
            )

    def prompts(self) -> list[tuple[int, int]]:
        """Return the prompt of each call as (tokens, of them cached)."""
        lengths = [self.input_tokens + call * self.added_tokens for call in range(self.calls)]
        before = [self.cached_tokens]
        for length in lengths[:-1]:
            before.append(max(self.cached_tokens, length if self.reuse_prefix else 0))
        return [
            (length, min(cached, length - 1))
            for length, cached in zip(lengths, before, strict=True)
        ]
