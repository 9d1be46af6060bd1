"""ROC and precision-recall points against scikit-learn, and what becomes of labels that have no curve."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from labeltune.reporting.plots import curves


def scored(num_labels: int, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, num_labels, rows)
    logits = rng.normal(size=(rows, num_labels))
    logits[np.arange(rows), y_true] += 1.5
    return y_true, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_each_of_three_labels_has_scikit_learns_curves() -> None:
    y_true, probabilities = scored(3, 90)
    table = curves.roc_points(y_true, probabilities, ["a", "b", "c"])
    assert list(table.columns) == ["label", "false_positive_rate", "true_positive_rate"]
    for label, name in enumerate("abc"):
        rates = roc_curve(y_true == label, probabilities[:, label])
        drawn = table[table["label"] == name]
        np.testing.assert_allclose(drawn["false_positive_rate"], rates[0], atol=1e-6)
        np.testing.assert_allclose(drawn["true_positive_rate"], rates[1], atol=1e-6)
    table = curves.precision_recall_points(y_true, probabilities, ["a", "b", "c"])
    assert list(table.columns) == ["label", "recall", "precision"]
    for label, name in enumerate("abc"):
        precision, recall, _ = precision_recall_curve(y_true == label, probabilities[:, label], drop_intermediate=True)
        drawn = table[table["label"] == name]
        np.testing.assert_allclose(drawn["recall"], recall[::-1], atol=1e-6)
        np.testing.assert_allclose(drawn["precision"], precision[::-1], atol=1e-6)


def test_the_areas_are_scikit_learns() -> None:
    y_true, probabilities = scored(3, 200)
    for curve in curves.roc_curves(y_true, probabilities):
        positive = y_true == curve.label
        assert curve.area == pytest.approx(roc_auc_score(positive, probabilities[:, curve.label]))
    for curve in curves.precision_recall_curves(y_true, probabilities):
        positive = y_true == curve.label
        area = average_precision_score(positive, probabilities[:, curve.label])
        assert curve.area == pytest.approx(area)
        # The area under the steps, which is how the curve is drawn.
        assert np.sum(np.diff(curve.x) * curve.y[1:]) == pytest.approx(area)


def test_of_two_labels_only_the_last_has_a_curve() -> None:
    y_true, probabilities = scored(2, 50)
    table = curves.roc_points(y_true, probabilities, ["ham", "spam"])
    assert set(table["label"]) == {"spam"}
    rates = roc_curve(y_true == 1, probabilities[:, 1])
    np.testing.assert_allclose(table["true_positive_rate"], rates[1], atol=1e-6)


@pytest.mark.parametrize("draw", [curves.roc_points, curves.precision_recall_points])
def test_a_label_without_rows_has_no_points(draw) -> None:
    y_true, probabilities = scored(3, 90)
    present = y_true != 1
    table = draw(y_true[present], probabilities[present], ["a", "b", "c"])
    assert set(table["label"]) == {"a", "c"}


@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("draw", [curves.roc_points, curves.precision_recall_points])
def test_no_rows_or_one_label_give_an_empty_table_with_its_columns(rows: int, draw) -> None:
    table = draw(np.ones(rows, int), np.full((rows, 2), 0.5), ["ham", "spam"])
    assert len(table) == 0
    assert table.columns[0] == "label"
    assert len(table.columns) == 3


@pytest.mark.parametrize("make", [curves.roc_curves, curves.precision_recall_curves])
def test_thinning_keeps_the_ends_and_leaves_gaps_too_small_to_see(make) -> None:
    (curve,) = make(*scored(2, 60_000))
    kept = curves.thinned(curve.x, curve.y)
    assert len(curve.x) > 2 * curves.MOST
    assert len(kept) <= curves.MOST
    assert (kept[0], kept[-1]) == (0, len(curve.x) - 1)
    # Every point that was left out lies within 1/100 of the axis of the polyline through the others.
    x, y = curve.x[kept], curve.y[kept]
    nearest = np.minimum.reduce([np.hypot(curve.x - a, curve.y - b) for a, b in zip(x, y, strict=True)])
    assert nearest.max() < 0.01


def test_a_long_curve_in_the_table_is_thinned() -> None:
    table = curves.roc_points(*scored(2, 60_000), ["ham", "spam"])
    assert 100 < len(table) <= curves.MOST


def test_confusion_rows_count_as_the_confusion_matrix() -> None:
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.integers(0, 3, 100), rng.integers(0, 3, 100)
    rows = curves.confusion_rows(y_true, y_pred, ["a", "b", "c"])
    assert list(rows.columns) == ["label", "prediction"]
    assert rows["label"].tolist() == ["abc"[label] for label in y_true]
    counts = confusion_matrix(y_true, y_pred)
    for row, column in np.ndindex(3, 3):
        found = (rows["label"] == "abc"[row]) & (rows["prediction"] == "abc"[column])
        assert found.sum() == counts[row, column]


def test_a_reliability_table_leaves_out_empty_bins() -> None:
    parts = [
        {"low": 0.0, "high": 0.5, "rows": 0, "confidence": None, "accuracy": None},
        {"low": 0.5, "high": 1.0, "rows": 4, "confidence": 0.7, "accuracy": 0.75},
    ]
    table = curves.reliability_points({"after": {"reliability": parts}})
    assert table.to_dict("records") == [{"confidence": 0.7, "accuracy": 0.75, "rows": 4}]


def test_a_long_risk_curve_is_thinned_and_keeps_its_ends() -> None:
    confidence = np.linspace(1, 0.5, 3000)
    table = curves.risk_points(confidence, np.arange(3000) % 10 > 0)
    assert len(table) <= curves.MOST
    assert table["coverage"].iloc[-1] == 1
    assert table["risk"].iloc[-1] == pytest.approx(0.1)


def test_no_label_ends_the_script_of_dvcs_page() -> None:
    names = ["a</script><script>alert(1)</script>", "b<!--", "c"]
    y_true = np.arange(9) % 3
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 9)
    for table in (
        curves.confusion_rows(y_true, y_true, names),
        curves.roc_points(y_true, probabilities, names),
        curves.precision_recall_points(y_true, probabilities, names),
    ):
        assert "<" not in table.to_csv()
        assert set(table["label"]) == {name.replace("<", "＜") for name in names}
