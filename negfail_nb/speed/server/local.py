"""06: traces of a model in this process, from the engine's own times: no server, and no client that
costs time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from negfail_nb.speed.server.trace import Chunk, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.generation.continuous_batching.requests import GenerationOutput


def engine_traces(
    outputs: Iterable[GenerationOutput],
    tokenizer: PreTrainedTokenizerBase,
    start: float,
    cell: str = "local",
) -> tuple[Trace, ...]:
    """Return the traces of what transformers' continuous batching generated.

    Parameters
    ----------
    outputs
        What ``model.generate_batch(.., record_timestamps=True)`` returns, its values. Every token
        is a chunk. On a GPU the engine reads a token from the card before it takes its time, so
        that the card's work is in it.
    tokenizer
        Of the model. A token that is no text of its own stands under its name.
    start
        When generation was begun, by ``time.perf_counter``: times count from there.
    cell
        What the traces are called.

    Raises
    ------
    ValueError
        Where an output has no times.
    ClockError
        Where times do not follow each other.
    """
    return tuple(
        _trace(number, output, tokenizer, start, cell) for number, output in enumerate(outputs)
    )


def _trace(
    number: int,
    output: GenerationOutput,
    tokenizer: PreTrainedTokenizerBase,
    start: float,
    cell: str,
) -> Trace:
    tokens, error = list(output.generated_tokens), str(output.error or "")
    if output.timestamps is None:
        raise ValueError(
            f"output {output.request_id!r} has no times; generate with record_timestamps=True"
        )
    texts = [tokenizer.decode([t]) or str(tokenizer.convert_ids_to_tokens(t)) for t in tokens]
    times = [time - start for time in output.timestamps[: len(tokens)]]
    counted = enumerate(zip(times, texts, strict=True), 1)
    chunks = tuple(Chunk(time, text, "", count) for count, (time, text) in counted)
    begun = output.created_time - start
    return Trace(
        cell=cell,
        number=number,
        prompt=number,
        asked=len(tokens),
        scheduled=begun,
        sent=begun,
        ended=max([begun, *times]),
        chunks=chunks,
        usage={"prompt_tokens": len(output.prompt_ids), "completion_tokens": len(tokens)},
        error=error or ("" if tokens else "no token was generated"),
    )
