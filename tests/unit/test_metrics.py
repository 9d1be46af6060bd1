import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from labeltune import metrics

RNG = np.random.default_rng(0)
NAMES = ["a", "b", "c"]


def random_case(rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    raw = RNG.random((rows, 3))
    return RNG.integers(0, 3, rows), raw / raw.sum(axis=1, keepdims=True)


def test_figures_equal_scikit_learns() -> None:
    labels, probabilities = random_case()
    guesses = probabilities.argmax(axis=1)
    figures = metrics.summarise(labels, probabilities, NAMES)
    report = sklearn_metrics.classification_report(labels, guesses, target_names=NAMES, output_dict=True)
    assert figures["accuracy"] == pytest.approx(report["accuracy"])
    for ours, theirs in (("macro_precision", "precision"), ("macro_recall", "recall"), ("macro_f1", "f1-score")):
        assert figures[ours] == pytest.approx(report["macro avg"][theirs])
    for name in NAMES:
        assert figures["per_class"][name]["f1"] == pytest.approx(report[name]["f1-score"])
        assert figures["per_class"][name]["support"] == report[name]["support"]
    assert figures["roc_auc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    assert figures["log_loss"] == pytest.approx(sklearn_metrics.log_loss(labels, probabilities))
    assert figures["n"] == 200
    assert figures["confusion_matrix"]["a"]["b"] == sklearn_metrics.confusion_matrix(labels, guesses)[0, 1]


def test_two_classes_take_the_area_of_the_last() -> None:
    labels = np.array([0, 0, 1, 1])
    scores = np.array([0.1, 0.6, 0.4, 0.9])
    figures = metrics.summarise(labels, np.column_stack([1 - scores, scores]), ["ham", "spam"])
    assert figures["roc_auc"] == pytest.approx(0.75)


def test_what_is_undefined_is_null_and_never_zero_or_nan() -> None:
    labels = np.zeros(4, dtype=int)
    probabilities = np.tile([0.8, 0.1, 0.1], (4, 1))
    figures = metrics.summarise(labels, probabilities, NAMES)
    assert figures["roc_auc"] is None
    assert figures["per_class"]["b"] == {"precision": None, "recall": None, "f1": None, "roc_auc": None, "support": 0}
    assert figures["accuracy"] == 1.0
    assert figures["macro_f1"] == 1.0
    json.dumps(figures, allow_nan=False)


def test_a_certain_error_costs_much_but_not_infinitely() -> None:
    loss = metrics.log_loss(np.array([1]), np.array([[1.0, 0.0]]))
    assert 700 < loss < 800
