"""Transformers' Trainer with this project's loss, validation, checkpoints, callbacks and signal handling."""

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from labeltune.console.terminal import Bar
from labeltune.modeling.adapters import trainable_parameters
from labeltune.modeling.forward import Tensors, compute_logits
from labeltune.modeling.kernels import fused
from labeltune.modeling.network import Network
from labeltune.modeling.prompts import EncodedRows
from labeltune.runtime.errors import StoppedError, UserError
from labeltune.training.checkpoints import Store
from labeltune.training.dataset import Collator
from labeltune.training.tracking import Progress, save_curves, validation_figures


@contextmanager
def collected() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the current step is completed; a second signal interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


SAVE_SECONDS = 600.0
VALIDATIONS = 2
"""Minimum number of validations in a training and in an epoch. If few layers are trained, a validation takes up to a
tenth of an epoch's time."""


def validations_per_epoch(epochs: float) -> int:
    """Return the approximate number of validations in an epoch if `train.eval_steps` is `auto`.

    >>> validations_per_epoch(1), validations_per_epoch(2), validations_per_epoch(0.5)
    (2, 2, 4)
    """
    return max(VALIDATIONS, math.ceil(VALIDATIONS / epochs))


class Pacing(TrainerCallback):
    """Records training figures every few steps, and saves a checkpoint at a signal or after ten minutes."""

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


WEIGHTS = "trained.safetensors"
PROGRESS = "progress.json"
ROWS_NAMED = 10


class RowTrainer(Trainer):
    """Transformers' Trainer with this project's loss, validation, records and checkpoints."""

    def __init__(
        self,
        network: Network,
        arguments: TrainingArguments,
        train: EncodedRows,
        validation: EncodedRows,
        *,
        collator: Collator,
        weights: torch.Tensor | None,
        smoothing: float,
        record_every: int,
        patience: int | None,
        sampler: Sampler[int] | None,
        store: Store,
        bar: Bar,
        curves: Path | None,
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(
            model=network,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=collator,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(Pacing(self, record_every))
        # The loss is divided by the rows of the whole optimiser step here; Trainer must not divide it again.
        self.model_accepts_loss_kwargs = True
        self.train_rows = train
        self.validation = validation
        self.pad_id = collator.pad_id
        self.weights = None if weights is None else weights.to(arguments.device)
        self.smoothing = smoothing
        self.patience = patience
        self.sampler = sampler
        self.store = store
        self.bar = bar
        self.curves = curves
        self.progress, self.started = Progress(), time.perf_counter()
        self.signals: list[int] = []
        self._folder = arguments.output_dir

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.sampler or super()._get_train_sampler(train_dataset)

    def _get_num_items_in_batch(self, batch_samples: list[Tensors], device: torch.device) -> int:
        """Return the number of rows in an optimizer step; Trainer's own count is of tokens for a language model."""
        return sum(len(batch["labels"]) for batch in batch_samples)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Tensors,
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Any:
        """Return the cross-entropy summed over a batch and divided by the number of rows in the optimizer step.

        Several small batches therefore give the gradient of one large batch, whatever their sizes and class weights.

        Raises:
            UserError: the loss is not finite; the message names the step and the rows.
        """
        labels = inputs["labels"]  # [batch]
        output = model(**{name: tensor for name, tensor in inputs.items() if name not in ("labels", "rows")})
        logits = output.logits.float()  # [batch, num_labels]
        losses = functional.cross_entropy(
            logits, labels, weight=self.weights, label_smoothing=self.smoothing, reduction="none"
        )
        loss = losses.sum() / (num_items_in_batch or len(labels))
        with torch.no_grad():
            plain = functional.cross_entropy(logits, labels, reduction="sum")
            right = (logits.argmax(-1) == labels).sum()
            # One transfer from the device for all three.
            value, plain_sum, right_sum = torch.stack((loss, plain, right)).tolist()
        if not math.isfinite(value):
            bad = [self.train_rows.ids[int(row)] for row in inputs["rows"][~losses.isfinite()]]
            raise UserError(self._not_finite(self.state.global_step + 1, "train", bad))
        self.progress.pending.append((plain_sum, int(right_sum), len(labels)))
        self.progress.rows_seen += len(labels)
        self.bar.advance(len(labels))
        return (loss, output) if return_outputs else loss

    def _not_finite(self, step: int, split: str, ids: list[str]) -> str:
        named = ", ".join(ids[:ROWS_NAMED]) + (f" and {len(ids) - ROWS_NAMED} more" if len(ids) > ROWS_NAMED else "")
        advice = "set train.dtype: fp32, or " if self.args.fp16 else ""
        return (
            f"the loss is not finite at step {step}, for the rows with the ids {named} of data/prepared/{split}.csv; "
            f"{advice}lower train.learning_rate, or look at these rows"
        )

    def evaluate(self, *unused: Any, metric_key_prefix: str = "eval", **ignored: Any) -> dict[str, float]:
        """Validate on the whole validation split and record it.

        Raises:
            UserError: the logits are not finite; the message names the step and the rows.
        """
        logits = self.validation_logits()
        if bad := [self.validation.ids[row] for row in np.flatnonzero(~np.isfinite(logits).all(axis=1))]:
            raise UserError(self._not_finite(self.state.global_step, "validation", bad))
        weights = None if self.weights is None else self.weights.cpu()
        figures = validation_figures(logits, np.array(self.validation.labels), weights, self.smoothing)
        self.record_training()
        self.progress.validation.append(self._now() | figures)
        self.save_curves()
        last = self.progress.train[-1] if self.progress.train else {"loss": math.nan}
        self.bar.say(
            f"step {self.state.global_step}, training loss {last['loss']:.3f}, validation loss {figures['loss']:.3f}, "
            f"validation accuracy {figures['accuracy']:.3f}"
        )
        self.bar.note = f"validation accuracy {figures['accuracy']:.3f}"
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def validation_logits(self) -> NDArray[np.float32]:
        """Return the network's logits of the validation rows, `[rows, num_labels]`."""
        return compute_logits(
            self.model,
            self.validation.input_ids,
            pad_id=self.pad_id,
            batch_tokens=fused.batch_tokens(self.model),
            states=self.validation.states,
        )

    def save_curves(self) -> None:
        """Write the curves so far, so that they can be viewed during training."""
        if self.curves is not None:
            save_curves(self.progress, self.curves)

    def record_training(self) -> None:
        """Record the mean loss and accuracy of the training batches since the last record."""
        pending = self.progress.pending
        if pending:
            rows = sum(count for _, _, count in pending)
            figures = {
                "loss": sum(loss for loss, _, _ in pending) / rows,
                "accuracy": sum(p[1] for p in pending) / rows,
            }
            self.progress.train.append(self._now() | figures)
            pending.clear()
            self.log({f"train_{name}": value for name, value in figures.items()})

    def _now(self) -> dict[str, float]:
        return {"step": self.state.global_step, "epoch": round(self.state.epoch or 0.0, 6)}

    def seconds(self) -> float:
        """Return the seconds spent on this training, including interrupted runs."""
        return self.progress.seconds + time.perf_counter() - self.started

    def _get_output_dir(self, trial: Any) -> str:
        return self._folder

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save a checkpoint atomically and with checksums."""

        def write(folder: Path) -> None:
            self._folder = str(folder)
            super(RowTrainer, self)._save_checkpoint(model, trial)
            (nested,) = folder.iterdir()
            for file in nested.iterdir():
                file.rename(folder / file.name)
            nested.rmdir()
            content = asdict(self.progress) | {"seconds": self.seconds()}
            (folder / PROGRESS).write_text(json.dumps(content), encoding="utf-8")

        try:
            self.store.save(self.state.global_step, write, best=self.state.best_global_step)
        finally:
            self._folder = self.args.output_dir

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the trainable weights only."""
        assert output_dir
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: weight.detach().cpu().contiguous() for name, weight in trainable_parameters(self.model).items()
        }
        save_file(weights, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the trainable weights."""
        load_weights(self.model, Path(resume_from_checkpoint))

    def _load_progress(self, folder: Path) -> None:
        """Load the records of a checkpoint."""
        self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        content = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        content["pending"] = [tuple(entry) for entry in content["pending"]]
        self.progress = Progress(**content)
        self.bar.resume(self.progress.rows_seen)

    def stalled(self) -> bool:
        """Return whether early stopping ends the training: no improvement in the last `patience` validations."""
        since = sum(record["step"] > (self.state.best_global_step or 0) for record in self.progress.validation)
        return self.patience is not None and since >= self.patience

    def fit(self, resume: Path | None, started: float) -> None:
        """Train; SIGINT and SIGTERM end the training after the current step, with a checkpoint.

        Args:
            resume: checkpoint to resume from; None starts from the beginning.
            started: value of `time.perf_counter` when the work on this training began.

        Raises:
            StoppedError: a signal was received.
        """
        self.started = started
        if resume:
            self._load_progress(resume)
            self.save_curves()
            if self.stalled():
                return  # it was ended after its last step
        with collected() as self.signals:
            self.train(resume_from_checkpoint=str(resume) if resume else None)
        if self.signals:
            raise StoppedError(self.signals[0], self.state.global_step)


def load_weights(network: Network, folder: Path) -> None:
    """Load a checkpoint's weights into a network with the same trainable weights."""
    saved, held = load_file(folder / WEIGHTS), trainable_parameters(network)
    assert saved.keys() == held.keys(), f"{folder} holds other weights: {sorted(saved.keys() ^ held.keys())[:3]}"
    with torch.no_grad():
        for name, weight in held.items():
            weight.copy_(saved[name])
