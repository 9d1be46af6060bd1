"""The points of plots: ROC and precision-recall curves, and the tables that DVC draws of them."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from labeltune.evaluation.confidence import risk_coverage

MOST = 500
"""At most so many points a curve in a table: at most 1/250 of an axis between two of them."""


class Curve(NamedTuple):
    """One label against all others."""

    label: int
    """Position of the label among the names."""
    x: np.ndarray
    """`[points]`, ascending within 0 and 1: false positive rate, or recall."""
    y: np.ndarray
    """`[points]`, within 0 and 1: true positive rate, or precision."""
    area: float
    """Area under the ROC curve, or average precision."""


def roc_curves(y_true: np.ndarray, probabilities: np.ndarray) -> list[Curve]:
    """Compute the ROC curve of each label against all others; of two labels, only the last one's.

    `y_true` `[rows]` are positions of labels, `probabilities` is `[rows, num_labels]`. A label that no row or
    every row has leaves a rate undefined: it has no curve.
    """
    return _one_against_rest(y_true, probabilities, _roc)


def precision_recall_curves(y_true: np.ndarray, probabilities: np.ndarray) -> list[Curve]:
    """Compute the precision-recall curves, of the same labels and arrays as `roc_curves`.

    A point's precision holds from the recall before it to its own: average precision is the area under these
    steps (scikit-learn's `average_precision_score`).
    """
    return _one_against_rest(y_true, probabilities, _precision_recall)


def listed(num_labels: int) -> Iterable[int]:
    """List the labels that have a curve: two labels show one ranking twice, so only the last, the positive one."""
    return [1] if num_labels == 2 else range(num_labels)


def roc_points(y_true: np.ndarray, probabilities: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Tabulate the points of `roc_curves` as rows of label (by name), false_positive_rate, true_positive_rate."""
    return _table(roc_curves(y_true, probabilities), names, "false_positive_rate", "true_positive_rate")


def precision_recall_points(y_true: np.ndarray, probabilities: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Tabulate the points of `precision_recall_curves` as rows of label (by name), recall, precision."""
    return _table(precision_recall_curves(y_true, probabilities), names, "recall", "precision")


def plot_name(name: str) -> str:
    """Write a label as it may be in DVC's plots, with the full-width form of `<`.

    `dvc plots show` copies labels into a script of its page as they are; with `</script>` a label would end the script,
    and what follows it would run.

    >>> plot_name("a</script>")
    'a＜/script>'
    """
    return name.replace("<", "＜")


def confusion_rows(y_true: np.ndarray, y_pred: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Tabulate label and prediction, by name, of each test row: what a confusion matrix counts.

    `y_true` and `y_pred` are positions in `names`, `[rows]` each. Names are those of `plot_name`.
    """
    named = np.asarray([plot_name(name) for name in names], dtype=object)
    columns = {"label": named[np.asarray(y_true, int)], "prediction": named[np.asarray(y_pred, int)]}
    return pd.DataFrame(columns)


def reliability_points(calibration: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the reliability curve after calibration as rows of confidence, accuracy, rows.

    `calibration` is the section of confidence_analysis.json; bins without rows are left out.
    """
    curve = [part for part in calibration["after"]["reliability"] if part["rows"]]
    return pd.DataFrame(curve, columns=["confidence", "accuracy", "rows"])


def risk_points(confidence: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Tabulate the points of the risk-coverage curve as rows of coverage, risk."""
    x, y = risk_coverage(confidence, right)
    kept = thinned(x, y)
    return pd.DataFrame({"coverage": x[kept].round(6), "risk": y[kept].round(6)})


def thinned(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Choose at most `MOST` points of a curve, evenly spread along it, with its first and last; their positions.

    >>> thinned(np.linspace(0, 1, 100_001), np.zeros(100_001))[[0, 1, -1]].tolist()
    [0, 201, 100000]
    """
    if len(x) <= MOST:
        return np.arange(len(x))
    # Along the curve and not by position: a steep part of few points would lose its corner.
    length = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    return np.unique(np.searchsorted(length, np.linspace(0, length[-1], MOST)).clip(0, len(x) - 1))


Measured = tuple[np.ndarray, np.ndarray, float]


def _roc(positive: np.ndarray, scores: np.ndarray) -> Measured:
    x, y, _ = roc_curve(positive, scores)
    return x, y, float(auc(x, y))


def _precision_recall(positive: np.ndarray, scores: np.ndarray) -> Measured:
    precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=True)
    return recall[::-1], precision[::-1], float(average_precision_score(positive, scores))


def _one_against_rest(
    y_true: np.ndarray, probabilities: np.ndarray, measure: Callable[[np.ndarray, np.ndarray], Measured]
) -> list[Curve]:
    curves = []
    for label in listed(probabilities.shape[1]):
        positive = np.asarray(y_true) == label  # [rows]
        if positive.any() and not positive.all():
            curves.append(Curve(label, *measure(positive, probabilities[:, label])))
    return curves


def _table(curves: list[Curve], names: list[str], x: str, y: str) -> pd.DataFrame:
    rows: list[tuple[str, float, float]] = []
    for curve in curves:
        kept = thinned(curve.x, curve.y)
        name = plot_name(names[curve.label])
        rows += [(name, *point) for point in zip(curve.x[kept].round(6), curve.y[kept].round(6), strict=True)]
    return pd.DataFrame(rows, columns=["label", x, y])
