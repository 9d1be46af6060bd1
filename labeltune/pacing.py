"""Pacing: when a training validates, closes a record, saves a checkpoint, and stops."""

import math
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SAVE_SECONDS = 600.0
VALIDATIONS = 2
"""Least of a training and of an epoch: one takes up to a tenth of an epoch's time where a few layers train."""


def validations_per_epoch(epochs: float) -> int:
    """How many there are about in an epoch where `train.eval_steps` is `auto`.

    >>> validations_per_epoch(1), validations_per_epoch(2), validations_per_epoch(0.5)
    (2, 2, 4)
    """
    return max(VALIDATIONS, math.ceil(VALIDATIONS / epochs))


class Pacing(TrainerCallback):
    """Closes a training record every so many steps, and has a checkpoint saved at a signal or after ten minutes."""

    def __init__(self, trainer: Any, every: int) -> None:
        self.trainer = trainer
        self.every = every
        self.saved = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **unused: Any) -> None:
        """Called by Trainer after each optimiser step."""
        if state.global_step % self.every == 0:
            self.trainer.record_training()
        if self.trainer.signals:
            control.should_save = control.should_training_stop = True
        control.should_save |= time.monotonic() - self.saved > SAVE_SECONDS

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **unused: Any) -> None:
        """Called by Trainer after each checkpoint, and every validation has one."""
        self.saved = time.monotonic()
        # Not Transformers' EarlyStoppingCallback: its count would begin anew where a training goes on.
        control.should_training_stop |= self.trainer.stalled()
