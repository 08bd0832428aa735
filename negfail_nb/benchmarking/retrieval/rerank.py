"""A cross-encoder reads query and passage together, and puts what a search found into its own
order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from negfail_nb.benchmarking.corpora.records import PassagePool
from negfail_nb.benchmarking.retrieval.dense import model_folder, passage_text
from negfail_nb.benchmarking.retrieval.extra import installed
from negfail_nb.benchmarking.retrieval.fusion import Hits, best, stack


class Reranker:
    """A sentence-transformers cross-encoder with one output.

    Parameters
    ----------
    name
        A folder or a hub id.

    Raises
    ------
    ValueError
        Where the model is neither here nor can be fetched.
    """

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, model_folder(name, "reranker")

    @cached_property
    def model(self) -> Any:
        """The model, loaded when it is first used."""
        import torch

        make = installed("sentence_transformers").CrossEncoder
        # Half precision would make equals of what differs little.
        options = {"dtype": torch.float32, "use_safetensors": True}
        try:
            model = make(
                str(self.folder),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs=options,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"reranker {self.name!r} is no cross-encoder: {error}") from error
        if model.num_labels != 1:
            raise ValueError(
                f"reranker {self.name!r} has {model.num_labels} outputs; a reranker has one, the relevance"
            )
        return model

    def rerank(self, queries: Sequence[str], hits: Hits, pool: PassagePool, k: int) -> Hits:
        """Return the ``k`` passages of each query's hits that the model scores highest; scores are
        logits.
        """
        from torch.nn import Identity  # a sigmoid would make equals of the best

        width = hits.numbers.shape[1]
        texts = {int(number): passage_text(pool[int(number)]) for number in np.unique(hits.numbers)}
        pairs = [
            (query, texts[int(n)])
            for query, row in zip(queries, hits.numbers, strict=True)
            for n in row
        ]
        scores = self.model.predict(pairs, activation_fn=Identity(), show_progress_bar=False)
        rows = zip(np.asarray(scores).reshape(-1, width), hits.numbers, strict=True)
        return stack([best(row, k, numbers) for row, numbers in rows], k)
