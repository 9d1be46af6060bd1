import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from labeltune.evaluation import metrics

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
    assert figures["auc"] == figures["roc_auc"]
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


def test_resampled_figures_equal_the_figures_of_the_resample() -> None:
    labels, probabilities = random_case(40)
    probabilities = probabilities.round(1)  # ties
    rows = RNG.integers(0, 40, (5, 40))
    guesses = probabilities.argmax(axis=1)
    f1 = metrics._resampled_f1(labels, guesses, 3)(rows)
    rankings = [(labels == label, probabilities[:, label]) for label in range(3)]
    areas = metrics._resampled_auc(rankings)(rows)
    for i, taken in enumerate(rows):
        assert f1[i] == pytest.approx(metrics.macro_f1(labels[taken], guesses[taken], 3))
        assert areas[i] == pytest.approx(np.mean(metrics.roc_auc(labels[taken], probabilities[taken])))


def test_every_figure_has_an_interval_around_it() -> None:
    labels = RNG.integers(0, 2, 300)
    scores = np.clip(0.5 + (labels - 0.5) * 0.4 + RNG.normal(0, 0.3, 300), 0, 1)
    probabilities = np.column_stack([1 - scores, scores])
    figures = metrics.summarise(labels, probabilities, ["ham", "spam"])
    found = metrics.intervals(labels, probabilities, seed=0, resamples=500)
    for name in ("accuracy", "macro_f1", "roc_auc"):
        assert found[name]["low"] < figures[name] < found[name]["high"]
        assert found[name]["high"] - found[name]["low"] < 0.15


def test_one_class_leaves_the_auc_and_its_interval_undefined() -> None:
    probabilities = np.column_stack([RNG.random(20), np.zeros(20)])
    probabilities[:, 1] = 1 - probabilities[:, 0]
    labels = np.zeros(20, dtype=int)
    assert metrics.intervals(labels, probabilities, seed=0, resamples=200)["roc_auc"] is None
    assert metrics.summarise(labels, probabilities, ["ham", "spam"])["roc_auc"] is None


def test_the_summary_is_flat_and_of_the_detailed_figures() -> None:
    figures = {"accuracy": 0.9, "macro_f1": 0.8, "log_loss": 0.3, "per_class": {"a": {"f1": 0.1}}}
    confidence = {
        "calibration": {"before": {"ece": 0.2}, "after": {"ece": 0.1}},
        "abstention": {"validation": {"coverage": 0.95}, "test": {"coverage": 0.85}},
    }
    assert metrics.summary(figures, confidence) == {
        "accuracy": 0.9, "macro_f1": 0.8, "log_loss": 0.3, "ece": 0.1, "coverage": 0.85,
    }  # fmt: skip
