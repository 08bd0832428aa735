"""TRL's trainer, with the output layer computed only where there is a loss."""

from __future__ import annotations

import inspect
from typing import Any

from torch.nn.functional import cross_entropy
from trl import SFTTrainer

# Logits that are held at once, 1 GB in float32; larger steps go through TRL's layer, which works in
# pieces.
MOST_LOGITS = 2**28


class PackedTrainer(SFTTrainer):
    """`SFTTrainer` that leaves observations and prompts out of the output layer on every device.

    On CUDA, TRL's fused output layer already computes the trained positions only. Elsewhere it
    computes all positions and discards those that are masked; for a small model on a CPU that is a
    third of all the time. The loss is the same: the sum over the trained tokens of a step, divided
    by their number.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of one packed row, a scalar; see `SFTTrainer.compute_loss`."""
        targets = inputs["labels"][:, 1:]
        kept = (targets[0] != -100).nonzero().flatten()
        if return_outputs or not self._fits(inputs, len(kept)):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**rest, use_cache=False, logits_to_keep=kept).logits[0]
        count = len(kept) if num_items_in_batch is None else num_items_in_batch
        return cross_entropy(logits.float(), targets[0, kept], reduction="sum") / count

    def _fits(self, inputs: dict[str, Any], kept: int) -> bool:
        base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        return (
            inputs["input_ids"].device.type != "cuda"
            and len(inputs["input_ids"]) == 1
            and not self.aux_loss_enabled
            and 0 < kept * base.config.get_text_config().vocab_size <= MOST_LOGITS
            and "logits_to_keep" in inspect.signature(type(base).forward).parameters
        )
