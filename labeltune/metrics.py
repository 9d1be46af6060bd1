"""How good predictions are, from label indices and probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from labeltune.terminal import say, table

Indices = NDArray[np.int64]
Probabilities = NDArray[np.float64]


def accuracy(labels: Indices, guesses: Indices) -> float:
    """Share of rows whose guess is the label."""
    return float((labels == guesses).mean())


def macro_f1(labels: Indices, guesses: Indices, num_labels: int) -> float:
    """Mean F1 over the classes that occur among the labels or the guesses."""
    return _macro(labels, guesses, num_labels)[2]


def log_loss(labels: Indices, probabilities: Probabilities) -> float:
    """Mean negative natural logarithm of the probability given to the label, `[rows, num_labels]`."""
    given = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(given, np.finfo(np.float64).tiny)).mean())


def roc_auc(labels: Indices, probabilities: Probabilities) -> list[float | None]:
    """Area under each one-vs-rest ROC curve, `[num_labels]`; None where no row, or every row, is of the class."""
    areas: list[float | None] = []
    for label in range(probabilities.shape[1]):
        positive = labels == label
        defined = 0 < positive.sum() < len(labels)
        areas.append(float(roc_auc_score(positive, probabilities[:, label])) if defined else None)
    return areas


def summarise(labels: Indices, probabilities: Probabilities, names: Sequence[str]) -> dict[str, Any]:
    """Everything that metrics.json holds.

    Macro figures are means over the classes that occur among the labels or the guesses, a class that is never
    guessed counting with a precision of 0, as scikit-learn has it. The AUC of two classes is that of the last one,
    of several the mean over those for which it is defined. What is undefined is None.

    Args:
        labels: index of each row's label, `[rows]`.
        probabilities: `[rows, num_labels]`.
        names: label names, `[num_labels]`.
    """
    guesses = probabilities.argmax(axis=1)
    count = len(names)
    areas = roc_auc(labels, probabilities)
    known = [area for area in areas if area is not None]
    overall = (areas[-1] if count == 2 else float(np.mean(known))) if known else None
    precision, recall, f1 = _macro(labels, guesses, count)
    matrix = confusion_matrix(labels, guesses, labels=range(count))
    per_class = {}
    for i, name in enumerate(names):
        right, guessed, support = int(matrix[i, i]), int(matrix[:, i].sum()), int(matrix[i].sum())
        per_class[name] = {
            "precision": right / guessed if guessed else None,
            "recall": right / support if support else None,
            "f1": 2 * right / (guessed + support) if guessed + support else None,
            "roc_auc": areas[i],
            "support": support,
        }
    return {
        "accuracy": accuracy(labels, guesses),
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "roc_auc": overall,
        "log_loss": log_loss(labels, probabilities),
        "n": len(labels),
        "per_class": per_class,
        "confusion_matrix": {
            name: {other: int(matrix[i, j]) for j, other in enumerate(names)} for i, name in enumerate(names)
        },
    }


def _macro(labels: Indices, guesses: Indices, num_labels: int) -> tuple[float, float, float]:
    """Macro precision, recall and F1."""
    present = sorted(set(labels.tolist()) | set(guesses.tolist()))
    figures = precision_recall_fscore_support(labels, guesses, labels=present, average="macro", zero_division=0)
    return float(figures[0]), float(figures[1]), float(figures[2])


def show(figures: dict[str, Any], metrics: Path, predictions: Path) -> None:
    """Print the summary of `evaluate`."""
    say(
        f"test rows: {figures['n']:,}   accuracy {figures['accuracy']:.4f}   macro F1 {figures['macro_f1']:.4f}   "
        f"ROC-AUC {_shown(figures['roc_auc'])}   log-loss {figures['log_loss']:.4f}"
    )
    keys = ("precision", "recall", "f1", "roc_auc")
    rows = [[name, *(_shown(row[key]) for key in keys), row["support"]] for name, row in figures["per_class"].items()]
    table("per class", ["label", *keys, "rows"], rows)
    say(f"figures in {metrics}, every prediction in {predictions}")


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
