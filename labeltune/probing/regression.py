"""Logistic regression on features, with probabilities for every label."""

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from labeltune.data.labels import Indices, Probabilities
from labeltune.runtime.files import replacing


def row_losses(labels: Indices, probabilities: Probabilities) -> NDArray[np.float64]:
    """Each row's negative natural logarithm of the probability given to its label, `[rows]`."""
    given = probabilities[np.arange(len(labels)), labels]
    losses: NDArray[np.float64] = -np.log(np.maximum(given, np.finfo(np.float64).tiny))
    return losses


ROUNDS = 1000
"""Maximum number of iterations of the solver, many more than it needs."""

Candidate = TypeVar("Candidate")


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A fitted logistic regression."""

    fitted: Pipeline
    """Scikit-learn's model, whose classes are the labels of its training rows only."""
    num_labels: int
    """Number of all labels."""

    @classmethod
    def fit(
        cls, features: Any, labels: Indices, num_labels: int, *, c: float, standardise: bool = False
    ) -> "Regression":
        """Fit to features `[rows, size]`, dense or sparse, and labels `[rows]`.

        Args:
            c: inverse strength of the L2 penalty.
            standardise: scale every feature to mean 0 and standard deviation 1 over these rows.
        """
        model: Any = LogisticRegression(C=c, max_iter=ROUNDS)
        if len(np.unique(labels)) == 1:  # nothing to tell apart, which the solver refuses
            model = DummyClassifier(strategy="prior")
        fitted = make_pipeline(*([StandardScaler()] if standardise else []), model)
        return cls(fitted=fitted.fit(features, labels), num_labels=num_labels)

    def probabilities(self, features: Any) -> Probabilities:
        """Return probabilities, `[rows, num_labels]`; a label without training rows has probability 0."""
        return expand_classes(self.fitted.predict_proba(features), self.fitted.classes_, self.num_labels)


def single_threaded() -> Any:
    """Context in which NumPy and SciPy multiply on one thread.

    These regressions are too small to share: beside other busy processes on 2 cores TF-IDF's took 17 seconds with two
    threads and half a second with one. Their last bits don't depend on the number of cores either.
    """
    return threadpool_limits(limits=1, user_api="blas")


def expand_classes(given: NDArray[np.floating[Any]], classes: Indices, num_labels: int) -> Probabilities:
    """Expand the probabilities of a model's classes, `[rows, classes]`, to all labels.

    >>> expand_classes(np.array([[0.25, 0.75]]), np.array([0, 2]), 3).tolist()
    [[0.25, 0.0, 0.75]]
    """
    placed = np.zeros((len(given), num_labels))
    placed[:, classes] = given
    return placed


def lowest_loss(losses: Iterable[tuple[Candidate, float]]) -> Candidate:
    """Return the candidate of the lowest log-loss, the first one on a tie.

    >>> lowest_loss([("a", 0.5), ("b", 0.2), ("c", 0.2)])
    'b'
    """
    return min(losses, key=lambda pair: pair[1])[0]


def standard_errors_above(losses: NDArray[np.float64], best: NDArray[np.float64]) -> float:
    """Return the mean difference between two models' losses in units of its standard error.

    The difference is paired: the difficulty of the rows cancels.

    Args:
        losses: losses of a model, `[rows]`.
        best: losses of the best model on the same rows, `[rows]`.

    >>> standard_errors_above(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 1.0])).round(3)
    np.float64(2.5)
    """
    difference = losses - best
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    if error == 0.0:
        return np.inf if difference.mean() > 0 else 0.0
    return difference.mean() / error


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p value of the exact McNemar test (McNemar 1947): rows on which one is right as throws of a fair coin.

    Args:
        only_first: number of rows that only the first of two models classifies correctly.
        only_second: number of rows that only the second one does.

    >>> mcnemar(0, 6), mcnemar(0, 0)
    (0.03125, 1.0)
    """
    disagreeing = only_first + only_second
    return float(binomtest(only_first, disagreeing).pvalue) if disagreeing else 1.0


def figures(labels: Indices, given: Probabilities) -> dict[str, float]:
    """Return accuracy and log-loss."""
    return {
        "accuracy": float(accuracy_score(labels, given.argmax(axis=1))),
        "log_loss": float(row_losses(labels, given).mean()),
    }


def size(*parts: object) -> int:
    """Return the size in bytes of the pickled parts of a model."""
    return len(pickle.dumps(parts))


States = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Features:
    """Pooled states of one layer for the rows of a split."""

    ids: list[str]
    """Id of each row."""
    states: States
    """`[rows, size]`."""


def save(path: Path, features: dict[str, Features]) -> None:
    """Write the features of each split; equal features give equal bytes."""
    arrays: dict[str, Any] = {}
    for split, part in features.items():
        arrays |= {f"{split}_ids": np.array(part.ids), split: part.states}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def load(path: Path) -> dict[str, Features]:
    """Read the features that `save` wrote."""
    with np.load(path) as arrays:
        splits = [name.removesuffix("_ids") for name in arrays if name.endswith("_ids")]
        return {split: Features(ids=arrays[f"{split}_ids"].tolist(), states=arrays[split]) for split in splits}
