"""What a run reports while it goes: its learning curve, its progress bar, and the mark of a whole
checkpoint.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from negfail_nb.training.checkpoints import mark_whole

log = logging.getLogger("negfail_nb")

STEPS_BEFORE_ESTIMATE = 3


class Curve(TrainerCallback):
    """Adds the seconds of training, those before an interruption included, to each point of the
    learning curve.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on from the time that a checkpoint remembers."""
        before = [entry["seconds"] for entry in state.log_history if "seconds" in entry]
        self.begin = time.perf_counter() - (before[-1] if before else 0.0)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write into the entry that Trainer has just added; checkpoints keep it."""
        state.log_history[-1]["seconds"] = time.perf_counter() - self.begin


class Marker(TrainerCallback):
    """Marks a checkpoint as whole once Trainer has written all of it."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Trainer calls this after the last file of a checkpoint."""
        mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class Progress(TrainerCallback):
    """A progress bar with the loss, and an estimate in the log after a few steps."""

    bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar at the step that training starts from."""
        self.begin, self.first = time.perf_counter(), state.global_step
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)
        if state.global_step - self.first == STEPS_BEFORE_ESTIMATE:
            each = (time.perf_counter() - self.begin) / STEPS_BEFORE_ESTIMATE
            log.info(
                "about %.0f s for the %d steps left",
                each * (state.max_steps - state.global_step),
                state.max_steps,
            )

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the newest loss."""
        loss = state.log_history[-1].get("loss")
        if loss is not None:
            self.bar.set_postfix(loss=f"{float(loss):.3f}", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.bar.close()
