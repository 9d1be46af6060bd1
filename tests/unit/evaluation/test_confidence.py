import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from labeltune.evaluation import confidence
from labeltune.evaluation.confidence import analyse
from labeltune.inference.calibration import Calibration

RNG = np.random.default_rng(11)
NAMES = ("ham", "spam")


def test_the_calibration_error_of_a_known_model_is_measured() -> None:
    """Rows said with 0.95 and 0.75 are right 4 and 2 times of 5: errors of 0.15 and 0.35, half the rows each."""
    said = np.array([0.95] * 5 + [0.75] * 5)
    right = np.array([True] * 4 + [False] + [True] * 2 + [False] * 3)
    assert confidence.expected_calibration_error(said, right) == pytest.approx(0.25)
    curve = confidence.reliability(said, right)
    assert [part["rows"] for part in curve] == [0, 0, 0, 0, 0, 0, 0, 5, 0, 5]
    assert curve[9]["accuracy"] == 0.8
    assert curve[0]["accuracy"] is None


def test_the_calibration_error_is_the_gap_over_many_rows() -> None:
    said = RNG.uniform(0.5, 1, 200_000)
    right = RNG.random(200_000) < said - 0.2
    assert confidence.expected_calibration_error(said, right) == pytest.approx(0.2, abs=0.005)


def test_a_confidence_of_one_belongs_to_the_last_bin_and_an_edge_to_the_upper() -> None:
    curve = confidence.reliability(np.array([1.0, 0.9, 0.5]), np.array([True, True, False]))
    assert [part["rows"] for part in curve] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]


def test_the_brier_score_is_scikit_learns_before_it_halves_it() -> None:
    labels = RNG.integers(0, 2, 100)
    scores = RNG.random(100)
    given = np.column_stack([1 - scores, scores])
    assert confidence.brier(labels, given) == pytest.approx(2 * sklearn_metrics.brier_score_loss(labels, scores))


def test_the_risk_of_every_coverage_is_that_of_the_most_confident_rows() -> None:
    said, right = RNG.random(60), RNG.random(60) < 0.7
    order = np.argsort(-said)
    by_hand = [1 - right[order[:taken]].mean() for taken in range(1, 61)]
    coverage, risk = confidence.risk_coverage(said, right)
    np.testing.assert_allclose(risk, by_hand)
    np.testing.assert_allclose(coverage, np.arange(1, 61) / 60)
    assert confidence.aurc(said, right) == pytest.approx(np.mean(by_hand))


def test_ties_count_as_in_random_order() -> None:
    right = np.array([True, False, True, False])
    np.testing.assert_allclose(confidence.risk_coverage(np.full(4, 0.5), right)[1], 0.5)
    assert confidence.aurc(np.full(4, 0.5), right) == pytest.approx(0.5)


def test_the_best_area_is_that_of_a_perfect_ranking() -> None:
    right = np.array([False] * 7 + [True] * 43)
    assert confidence.best_aurc(7, 50) == pytest.approx(confidence.aurc(right.astype(float), right))
    assert confidence.best_aurc(0, 50) == 0.0


def test_the_analysis_holds_what_it_promises() -> None:
    logits = RNG.normal(0, 2, (400, 2)).astype(np.float32)
    calibration = Calibration(
        temperature=2.0, fitted=True, rows=80, abstain="coverage", target=0.8, threshold=0.7, coverage=0.8,
        accuracy=0.9, set_coverage=0.9, set_threshold=0.2,
    )  # fmt: skip
    given = calibration.probabilities(logits)
    labels = (RNG.random(400) > given[:, 0]).astype(int)
    figures = analyse(logits, labels, calibration, NAMES)
    said = given.max(axis=1)
    assert figures["avg_confidence"] == pytest.approx(said.mean())
    assert figures["high_confidence_ratio"] == pytest.approx((said > 0.9).mean())
    assert figures["low_confidence_samples"] == (said < 0.6).sum()
    assert list(figures["confidence_distribution"]) == ["0.5-0.6", "0.6-0.7", "0.7-0.8", "0.8-0.9", "0.9-1.0"]
    assert sum(figures["confidence_distribution"].values()) == 400
    fitted = figures["calibration"]
    assert fitted["after"]["ece"] < fitted["before"]["ece"]
    assert fitted["after"]["log_loss"] == pytest.approx(sklearn_metrics.log_loss(labels, given))
    test = figures["abstention"]["test"]
    answered = said >= 0.7
    assert test["answered"] == answered.sum()
    assert test["accuracy"] == pytest.approx((given.argmax(axis=1) == labels)[answered].mean())
    assert test["accuracy_interval"]["low"] < test["accuracy"] < test["accuracy_interval"]["high"]
    sets = figures["prediction_sets"]
    held = (given >= 0.2) | (given == given.max(axis=1, keepdims=True))
    assert sets["coverage"] == pytest.approx(held[np.arange(400), labels].mean())
    assert sets["mean_size"] == pytest.approx(held.sum(axis=1).mean())
    assert sum(sets["sizes"].values()) == 400


def test_a_classifier_that_answers_nothing_has_no_accuracy() -> None:
    logits = np.zeros((4, 2), dtype=np.float32)
    figures = confidence.analyse(logits, np.zeros(4, dtype=int), Calibration(threshold=0.9), NAMES)
    assert figures["abstention"]["test"]["accuracy"] is None
    assert figures["abstention"]["test"]["coverage"] == 0


def test_a_prediction_set_always_holds_the_answer() -> None:
    logits = np.array([[3.0, 0.0], [0.1, 0.0]], dtype=np.float32)
    sets = confidence.analyse(logits, np.array([0, 1]), Calibration(set_threshold=0.99), NAMES)
    assert sets["prediction_sets"]["sizes"] == {"1": 2}
    assert sets["prediction_sets"]["coverage"] == 0.5


def test_errors_of_two_labels_that_cancel_are_shown_label_by_label() -> None:
    """Both labels are stated with 0.8; one is right nine times of ten, the other seven."""
    labels = np.array([0] * 90 + [1] * 10 + [1] * 70 + [0] * 30)
    logits = np.where(np.arange(200)[:, None] < 100, [[np.log(4), 0]], [[0, np.log(4)]]).astype(np.float32)
    after = analyse(logits, labels, Calibration(), NAMES)["calibration"]["after"]
    assert after["ece"] == pytest.approx(0.0, abs=1e-6)
    assert after["classwise_ece"] == pytest.approx(0.1)
    for name, accuracy in zip(NAMES, (0.9, 0.7), strict=True):
        label = after["per_label"][name]
        assert (label["answered"], label["confidence"]) == (100, pytest.approx(0.8))
        assert label["accuracy"] == pytest.approx(accuracy)
        assert label["accuracy_interval"]["low"] < accuracy < label["accuracy_interval"]["high"]


def test_the_class_wise_error_is_that_of_every_probability_not_of_the_answers_alone() -> None:
    """Three labels; what is given to the second is half of what it should be, and it is never answered."""
    given = np.tile([0.75, 0.15, 0.1], (1000, 1))
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    figures = confidence.calibration_figures(labels, given, np.zeros(1000, dtype=int), ("a", "b", "c"))
    assert [figures["per_label"][name]["classwise_ece"] for name in "abc"] == pytest.approx([0.15, 0.15, 0.0])
    assert figures["classwise_ece"] == pytest.approx(0.1)
    never = figures["per_label"]["b"]
    assert (never["answered"], never["confidence"], never["accuracy"]) == (0, None, None)


def test_the_confidence_of_an_answer_is_its_own_probability_not_the_largest() -> None:
    calibration = Calibration(bias=[1.5, -1.5], fitted=True)
    logits = np.array([[0.0, 1.0], [2.0, 0.0]], dtype=np.float32)
    figures = analyse(logits, np.array([1, 0]), calibration, NAMES)
    spam = figures["calibration"]["after"]["per_label"]["spam"]
    assert (spam["answered"], spam["accuracy"]) == (1, 1.0)
    assert spam["confidence"] == pytest.approx(1 / (1 + np.exp(2.0)))
    assert figures["calibration"]["bias"] == {"ham": 1.5, "spam": -1.5}
