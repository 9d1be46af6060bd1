"""Logistic regression from features to probabilities over every label, those without a training row included."""

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from labeltune.metrics import Indices, Probabilities, accuracy, log_loss

ROUNDS = 1000
"""Most iterations of the solver, many more than it needs."""

Choice = TypeVar("Choice")


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A fitted regression."""

    fitted: Pipeline
    """Scikit-learn's model, which knows only the labels of its rows."""
    num_labels: int
    """Labels there are."""

    @classmethod
    def fit(
        cls, features: Any, labels: Indices, num_labels: int, *, c: float, standardise: bool = False
    ) -> "Regression":
        """Fit to features `[rows, size]`, dense or sparse, and labels `[rows]`.

        Args:
            c: inverse strength of the L2 penalty.
            standardise: give every feature mean 0 and deviation 1 over these rows.
        """
        model: Any = LogisticRegression(C=c, max_iter=ROUNDS)
        if len(np.unique(labels)) == 1:  # nothing to tell apart, which the solver refuses
            model = DummyClassifier(strategy="prior")
        fitted = make_pipeline(*([StandardScaler()] if standardise else []), model)
        return cls(fitted=fitted.fit(features, labels), num_labels=num_labels)

    def probabilities(self, features: Any) -> Probabilities:
        """`[rows, num_labels]`; a label that no training row had gets 0."""
        return spread(self.fitted.predict_proba(features), self.fitted.classes_, self.num_labels)


def single_threaded() -> Any:
    """Context in which NumPy and SciPy multiply on one thread.

    These regressions are too small to share: beside other busy processes on 2 cores TF-IDF's took 17 seconds with two
    threads and half a second with one. Their last bits don't depend on the number of cores either.
    """
    return threadpool_limits(limits=1, user_api="blas")


def spread(given: NDArray[np.floating[Any]], classes: Indices, num_labels: int) -> Probabilities:
    """Put the columns of the labels that a model knows, `[rows, classes]`, in their places among all labels.

    >>> spread(np.array([[0.25, 0.75]]), np.array([0, 2]), 3).tolist()
    [[0.25, 0.0, 0.75]]
    """
    placed = np.zeros((len(given), num_labels))
    placed[:, classes] = given
    return placed


def lowest(losses: Iterable[tuple[Choice, float]]) -> Choice:
    """The choice of the lowest log-loss, the first one on a tie.

    >>> lowest([("a", 0.5), ("b", 0.2), ("c", 0.2)])
    'b'
    """
    return min(losses, key=lambda pair: pair[1])[0]


def errors_behind(losses: NDArray[np.float64], best: NDArray[np.float64]) -> float:
    """By how many standard errors of the mean difference losses are worse than the best; what both find hard cancels.

    Args:
        losses, best: of the same rows, `[rows]`.

    >>> errors_behind(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 1.0])).round(3)
    np.float64(2.5)
    """
    difference = losses - best
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    if error == 0.0:
        return np.inf if difference.mean() > 0 else 0.0
    return difference.mean() / error


def figures(labels: Indices, given: Probabilities) -> dict[str, float]:
    """How good a choice is on the validation rows."""
    return {"accuracy": accuracy(labels, given.argmax(axis=1)), "log_loss": log_loss(labels, given)}


def size(*parts: object) -> int:
    """Bytes that the parts of a model take on disk."""
    return len(pickle.dumps(parts))
