import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from labeltune.config.evaluation import Calibrate
from labeltune.evaluation.calibration import calibrate, choose_set_threshold, choose_threshold, fit_temperature
from labeltune.evaluation.metrics import log_loss
from labeltune.inference.calibration import Calibration
from labeltune.runtime.errors import UserError

RNG = np.random.default_rng(5)


def overconfident(rows: int, temperature: float, labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right when divided by a temperature, and labels drawn accordingly."""
    true = RNG.normal(0, 1.5, (rows, labels))
    given = softmax(true, axis=1)
    drawn = (RNG.random((rows, 1)) > given.cumsum(axis=1)).sum(axis=1)
    return (true * temperature).astype(np.float32), drawn


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_rows_is_found(temperature: float) -> None:
    logits, labels = overconfident(20_000, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_is_that_of_the_lowest_log_loss() -> None:
    logits, labels = overconfident(60, 2.0)
    best = minimize_scalar(
        lambda t: log_loss(labels, softmax(logits.astype(np.float64) / t, axis=1)), bounds=(0.05, 20), method="bounded",
        options={"xatol": 1e-8},
    )  # fmt: skip
    assert fit_temperature(logits, labels) == pytest.approx(best.x, rel=1e-4)


def test_rows_that_are_all_right_identify_no_temperature() -> None:
    logits = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 5.0]], dtype=np.float32)
    assert fit_temperature(logits, np.array([1, 0, 1])) is None
    fitted = calibrate(logits, np.array([1, 0, 1]), Calibrate(abstain="never"))
    assert (fitted.fitted, fitted.temperature, fitted.threshold) == (False, 1.0, 0.0)
    np.testing.assert_array_equal(fitted.probabilities(logits), softmax(logits.astype(np.float64), axis=1))


def test_rows_that_are_all_wrong_identify_no_temperature() -> None:
    logits = np.array([[0.0, 1.0], [2.0, 0.0]], dtype=np.float32)
    assert fit_temperature(logits, np.array([0, 1])) is None


def test_coverage_answers_the_most_confident_rows() -> None:
    confidence = np.array([0.9, 0.5, 0.8, 0.7, 0.6])
    right = np.array([True, False, True, True, False])
    assert choose_threshold(confidence, right, "coverage", 0.6) == pytest.approx(0.65)
    assert choose_threshold(confidence, right, "coverage", 0.61) == pytest.approx(0.55)
    assert choose_threshold(confidence, right, "coverage", 0.99) == 0.0
    assert choose_threshold(confidence, right, "never", 0.6) == 0.0


def test_accuracy_answers_as_many_rows_as_it_can() -> None:
    confidence = np.array([0.9, 0.5, 0.8, 0.7, 0.6])
    right = np.array([False, True, True, True, False])
    assert choose_threshold(confidence, right, "accuracy", 0.66) == pytest.approx(0.65)
    assert choose_threshold(confidence, right, "accuracy", 0.6) == 0.0
    with pytest.raises(UserError, match=r"abstain_target: no confidence gives an accuracy of 0.8 .* 0.6667 at most"):
        choose_threshold(confidence, right, "accuracy", 0.8)


def test_rows_of_one_confidence_are_answered_together() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.7])
    right = np.array([True, True, False, True])
    assert choose_threshold(confidence, right, "coverage", 0.5) == pytest.approx(0.75)
    assert choose_threshold(confidence, right, "accuracy", 1.0) == pytest.approx(0.85)


def test_prediction_sets_cover_as_often_as_promised() -> None:
    covered = []
    for _ in range(300):
        logits, labels = overconfident(139, 1.0)
        given = softmax(logits.astype(np.float64), axis=1)
        least = choose_set_threshold(given[np.arange(39), labels[:39]], 0.8)
        covered.append((given[np.arange(39, 139), labels[39:]] >= least).mean())
    assert np.mean(covered) == pytest.approx(0.8, abs=0.015)


def test_too_few_rows_for_a_coverage_give_sets_of_every_label() -> None:
    assert choose_set_threshold(np.array([0.9, 0.8]), 0.9) == 0.0


def test_a_calibration_never_changes_which_label_is_answered() -> None:
    logits = RNG.normal(size=(50, 4)).astype(np.float32)
    warm = Calibration(temperature=3.7).probabilities(logits)
    np.testing.assert_array_equal(warm.argmax(axis=1), logits.argmax(axis=1))
    np.testing.assert_allclose(warm.sum(axis=1), 1)
