"""Fine-tuning: Transformers' Trainer around the classifier, with validation, history and the best model kept."""

import math
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from labeltune import trunk
from labeltune.bases import quiet
from labeltune.errors import UserError
from labeltune.hardware import inference_tokens
from labeltune.history import History, validation_figures
from labeltune.inference import Tensors, compute_logits, pad, pad_states
from labeltune.labels import LabelSet
from labeltune.params import Train
from labeltune.prompts import Encoder
from labeltune.terminal import Bar, bar

CHECKPOINTS = Path(".checkpoints")
EVALUATIONS_PER_EPOCH = 4
RECORDS_PER_EVALUATION = 4


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Encoded rows with their labels."""

    input_ids: list[list[int]]
    """Token ids per row, not padded."""
    labels: list[int]
    """Index of each row's label."""
    states: list[torch.Tensor] | None = None
    """Trunk states per row, `[length, size]`, where they were computed beforehand."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        states = {} if self.states is None else {"states": self.states[row]}
        return {"input_ids": self.input_ids[row], "label": self.labels[row], **states}


def encode(frame: pd.DataFrame, encoder: Encoder, labels: LabelSet) -> Rows:
    """Encode prepared rows.

    Raises:
        UserError: the rows were prepared with another prompt.
    """
    texts = frame["text"].tolist()
    if [encoder.template.render(text) for text in texts] != frame["prompt"].tolist():
        raise UserError("data/prepared was made with another prompt; run `dvc repro`")
    return Rows(input_ids=encoder.encode(texts).input_ids, labels=labels.index(frame["label"].tolist()))


def fine_tune(
    network: PeftModel, train: Rows, validation: Rows, settings: Train, *, pad_id: int, dtype: str
) -> History:
    """Train the network in place; afterwards it holds the weights of the best validation.

    Args:
        network: its trainable parameters are what is trained.
        pad_id: token that fills up batches; the attention mask hides it.
        dtype: fp32, bf16 or fp16: the type of the frozen weights.
    """
    steps_per_epoch = math.ceil(math.ceil(len(train) / settings.batch_size) / settings.accumulation)
    auto = max(1, round(steps_per_epoch / EVALUATIONS_PER_EPOCH))
    every = auto if settings.eval_steps == "auto" else settings.eval_steps
    started = time.perf_counter()
    train, validation = _with_states(network, [train, validation], pad_id)
    set_seed(settings.seed)
    CHECKPOINTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CHECKPOINTS, prefix="run-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=settings.seed,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulation,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.scheduler if settings.scheduler != "constant" else "constant_with_warmup",
            warmup_steps=settings.warmup,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            fp16=dtype == "fp16",
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            save_total_limit=settings.checkpoints,
            load_best_model_at_end=True,
            metric_for_best_model=f"eval_{settings.keep_best}",
            greater_is_better=settings.keep_best != "loss",
            logging_strategy="no",
            train_sampling_strategy="random" if settings.batches == "random" else "group_by_length",
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
        )
        callbacks: list[TrainerCallback] = []
        if settings.early_stopping:
            callbacks.append(EarlyStoppingCallback(early_stopping_patience=settings.early_stopping))
        rows_to_see = round(len(train) * settings.epochs)
        with bar("training", rows_to_see) as progress:
            record_every = max(1, every // RECORDS_PER_EVALUATION)
            trainer = _Trainer(network, arguments, train, validation, pad_id, record_every, progress)
            for callback in callbacks:
                trainer.add_callback(callback)
            with quiet():
                trainer.train()
        return History(
            train=trainer.train_records,
            validation=trainer.validation_records,
            best_step=trainer.state.best_global_step,
            seconds=time.perf_counter() - started,
            rows_seen=trainer.rows_seen,
        )


class _Trainer(Trainer):
    """Trainer that computes the loss from the logits, validates by the shared inference, and keeps a history."""

    def __init__(
        self,
        network: PeftModel,
        arguments: TrainingArguments,
        train: Rows,
        validation: Rows,
        pad_id: int,
        record_every: int,
        progress: Bar,
    ) -> None:
        super().__init__(
            model=network,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=lambda rows: _collate(rows, pad_id),
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(_Recorder(self, record_every))
        # The loss below is a mean over the batch. Left at True, Trainer skips its division by the number of
        # accumulated batches: loss and gradients come out that many times too large.
        self.model_accepts_loss_kwargs = False
        self.validation = validation
        self.pad_id = pad_id
        self.progress = progress
        self.train_records: list[dict[str, float]] = []
        self.validation_records: list[dict[str, float]] = []
        self.rows_seen = 0
        self._pending: list[tuple[torch.Tensor, torch.Tensor, int]] = []

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Tensors,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean cross-entropy of a batch; keeps its sums for the next training record."""
        labels = inputs["labels"]  # [batch]
        output = model(**{name: tensor for name, tensor in inputs.items() if name != "labels"})
        loss = torch.nn.functional.cross_entropy(output.logits, labels)
        with torch.no_grad():
            right = (output.logits.argmax(-1) == labels).sum()
        self._pending.append((loss.detach() * len(labels), right, len(labels)))
        self.rows_seen += len(labels)
        self.progress.advance(len(labels))
        return (loss, output) if return_outputs else loss

    def evaluate(self, *unused: Any, metric_key_prefix: str = "eval", **ignored: Any) -> dict[str, float]:
        """Validate on the whole validation split and record it."""
        logits = compute_logits(
            self.model,
            self.validation.input_ids,
            pad_id=self.pad_id,
            batch_tokens=inference_tokens(),
            states=self.validation.states,
        )
        figures = validation_figures(logits, np.array(self.validation.labels))
        self.record_training()
        epoch = round(self.state.epoch or 0.0, 6)
        self.validation_records.append({"step": self.state.global_step, "epoch": epoch, **figures})
        last = self.train_records[-1] if self.train_records else {"loss": math.nan}
        self.progress.say(
            f"step {self.state.global_step}, training loss {last['loss']:.3f}, validation loss {figures['loss']:.3f}, "
            f"validation accuracy {figures['accuracy']:.3f}"
        )
        self.progress.note = f"validation accuracy {figures['accuracy']:.3f}"
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def record_training(self) -> None:
        """Sum up the training batches since the last record."""
        if self._pending:
            rows = sum(count for _, _, count in self._pending)
            self.train_records.append(
                {
                    "step": self.state.global_step,
                    "epoch": round(self.state.epoch or 0.0, 6),
                    "loss": sum(float(loss) for loss, _, _ in self._pending) / rows,
                    "accuracy": sum(int(right) for _, right, _ in self._pending) / rows,
                }
            )
            self._pending.clear()


class _Recorder(TrainerCallback):
    """Closes a training record every so many steps."""

    def __init__(self, trainer: _Trainer, every: int) -> None:
        self.trainer = trainer
        self.every = every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **unused: Any) -> None:
        """Called by Trainer after each optimiser step."""
        if state.global_step % self.every == 0:
            self.trainer.record_training()


def _collate(rows: list[dict[str, Any]], pad_id: int) -> Tensors:
    batch = pad([row["input_ids"] for row in rows], pad_id)
    if "states" in rows[0]:
        batch = {"states": pad_states([row["states"] for row in rows]), "attention_mask": batch["attention_mask"]}
    return batch | {"labels": torch.tensor([row["label"] for row in rows])}


def _with_states(network: PeftModel, parts: list[Rows], pad_id: int) -> list[Rows]:
    """Compute the frozen trunk once for all rows, where there is one and its states fit in memory."""
    classifier = network.get_base_model()
    below = classifier.config.num_hidden_layers - classifier.adapted_layers
    rows = [ids for part in parts for ids in part.input_ids]
    if below == 0 or not trunk.fits(rows, classifier.config.hidden_size, classifier.dtype):
        return parts
    with bar(f"layers 1 to {below}, once", len(rows)) as progress:
        states = iter(trunk.states(classifier.base_model, below, rows, pad_id=pad_id, progress=progress.advance))
    return [replace(part, states=list(islice(states, len(part)))) for part in parts]
