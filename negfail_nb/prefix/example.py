"""One trajectory as it is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORED = -100  # the label that PyTorch's cross-entropy leaves out


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One trajectory as it is trained on.

    Attributes
    ----------
    id, question_id
        The trajectory's.
    input_ids
        Token ids, int32, shape (tokens,).
    trained
        Which tokens carry loss, bool, shape (tokens,).
    label_class
        Index of its class in the template; 0 is the best.
    truncated_turns
        Assistant turns cut off to keep within ``max_tokens``.
    label, question
        The labelled text in the question turn, and the question within it.
    turns
        What the assistant wrote in each trained turn: its content, then the names of the tools
        called.
    thoughts
        The thought of each trained turn, if thoughts are trained; empty for turns without one.
    unshown
        How many of its turns had a thought that was left out.
    weight
        What its loss is multiplied by.
    verdicts
        Where steps were judged: first token of each turn of the agent, the token behind its last,
        the verdict, and why.
    """

    id: str
    question_id: str
    input_ids: np.ndarray
    trained: np.ndarray
    label_class: int
    truncated_turns: int
    label: str
    question: str
    turns: tuple[tuple[str, ...], ...]
    thoughts: tuple[str, ...] = ()
    unshown: int = 0
    weight: float = 1.0
    verdicts: tuple[tuple[int, int, str, str], ...] = ()

    def __repr__(self) -> str:
        """Return the counts; `Rendered.show` shows the text."""
        trained = f"{self.trained.sum()} of them trained in {len(self.turns)} turns"
        return f"Example({self.id!r}: {len(self.input_ids)} tokens, {trained})"

    @property
    def labels(self) -> np.ndarray:
        """The ids of tokens that carry loss and -100 elsewhere, int32, shape (tokens,)."""
        return np.where(self.trained, self.input_ids, IGNORED).astype(np.int32)

    @property
    def weights(self) -> np.ndarray:
        """What the loss of each token is multiplied by, float32, shape (tokens,)."""
        return np.full(len(self.input_ids), self.weight, dtype=np.float32)
