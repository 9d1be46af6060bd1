"""What training recorded: the curves, the model that was kept, and what it cost."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labeltune.depth import Choice
from labeltune.hardware import peak_memory
from labeltune.metrics import accuracy, log_loss, macro_f1
from labeltune.outputs import write_json, write_table
from labeltune.softmax import softmax
from labeltune.terminal import say


@dataclass(kw_only=True)
class Progress:
    """What has been recorded so far; a checkpoint holds it, so that a resumed training ends with the same curves."""

    train: list[dict[str, float]] = field(default_factory=list)
    """A record per few steps."""
    validation: list[dict[str, float]] = field(default_factory=list)
    """A record per validation."""
    pending: list[tuple[float, int, int]] = field(default_factory=list)
    """Per batch since the last record: sum of the losses, rows answered right, rows."""
    rows_seen: int = 0
    """Training rows passed forward and backward."""
    seconds: float = 0.0
    """Time spent before the last start."""


@dataclass(frozen=True, kw_only=True)
class History:
    """What training recorded, a dictionary per record."""

    train: list[dict[str, float]]
    """step, epoch, loss, accuracy: over the training batches since the record before, as the model met them."""
    validation: list[dict[str, float]]
    """step, epoch, loss, accuracy, macro_f1: over the whole validation split."""
    best_step: int
    """Step of the model that was kept."""
    seconds: float
    """Wall-clock time of training and validation."""
    rows_seen: int
    """Training rows passed forward and backward."""
    batch_size: int
    """Rows per forward pass, smaller than asked for where memory ran out."""
    accumulation: int
    """Batches per optimiser step."""
    parameters: dict[str, int]
    """How many parameters are `trainable`, and how many there are in `total`."""

    @property
    def best(self) -> dict[str, float]:
        """Validation figures of the model that was kept."""
        return next(record for record in self.validation if record["step"] == self.best_step)


def validation_figures(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """Loss, accuracy and macro F1 of logits `[rows, num_labels]` against label indices `[rows]`."""
    guesses = logits.argmax(axis=1)
    return {
        "loss": log_loss(labels, softmax(logits)),
        "accuracy": accuracy(labels, guesses),
        "macro_f1": macro_f1(labels, guesses, logits.shape[1]),
    }


def figures(history: History, choice: Choice) -> dict[str, Any]:
    """What metrics/train.json holds: the kept model, and how it came about."""
    best = dict(history.best)
    return choice.figures() | {
        "best_step": history.best_step,
        "steps": history.validation[-1]["step"],
        "train": {name: history.train[-1][name] for name in ("loss", "accuracy")},
        "validation": {name: best[name] for name in ("loss", "accuracy", "macro_f1")},
        "parameters": history.parameters,
        "batch": {"size": history.batch_size, "accumulation": history.accumulation},
    }


def costs(history: History, choice: Choice) -> dict[str, float]:
    """What costs/train.json holds: the figures that differ from run to run; seconds include choosing the depth."""
    seconds = choice.seconds + history.seconds
    return {
        "seconds": round(seconds, 1),
        "choosing_seconds": round(choice.seconds, 1),
        "rows_per_second": round(history.rows_seen / seconds, 1),
        "peak_memory_mib": peak_memory(),
    }


def save(history: History, choice: Choice, metrics: Path, costs_path: Path, curves: Path) -> None:
    """Write the figures, the costs, and a table per curve."""
    write_table(curves / "train.csv", pd.DataFrame(history.train))
    write_table(curves / "validation.csv", pd.DataFrame(history.validation))
    write_json(metrics, figures(history, choice))
    write_json(costs_path, costs(history, choice))


def show(history: History, choice: Choice, folder: Path) -> None:
    """Print the summary of `train`."""
    spent = costs(history, choice)
    say(
        f"trained {history.parameters['trainable']:,} of {history.parameters['total']:,} parameters in "
        f"{spent['seconds']:.0f} s, {spent['rows_per_second']:.0f} rows/s, at most {spent['peak_memory_mib']:,} MiB"
    )
    say(
        f"kept step {history.best_step} of {history.validation[-1]['step']:.0f}: validation accuracy "
        f"{history.best['accuracy']:.3f}, loss {history.best['loss']:.3f}; the classifier lies in {folder}/"
    )
