import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import norm

from labeltune.config.evaluation import Calibrate
from labeltune.config.model import Train
from labeltune.data.labels import LabelSet
from labeltune.data.prevalence import Prevalence
from labeltune.evaluation.calibration import (
    calibrate,
    choose_set_threshold,
    choose_threshold,
    fit_temperature,
    trained_weights,
)
from labeltune.evaluation.metrics import log_loss
from labeltune.inference.calibration import Calibration
from labeltune.runtime.errors import UserError
from labeltune.training.finetune import class_weights

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
    assert fit_temperature(logits, labels)[0] == pytest.approx(temperature, rel=0.05)


def test_the_temperature_is_that_of_the_largest_posterior_probability() -> None:
    logits, labels = overconfident(60, 2.0)

    def penalised(t: float) -> float:
        loss = 60 * log_loss(labels, softmax(logits.astype(np.float64) / t, axis=1))
        return loss - norm.logpdf(np.log(t), scale=np.log(2) / 2)

    best = minimize_scalar(penalised, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8})
    assert fit_temperature(logits, labels)[0] == pytest.approx(best.x, rel=1e-4)


@pytest.mark.parametrize("rows", [1, 12, 60])
def test_few_rows_of_a_calibrated_model_leave_it_nearly_as_it_is(rows: int) -> None:
    found = [fit_temperature(*overconfident(rows, 1.0, labels=2))[0] for _ in range(100)]
    assert 0.5 < min(found) <= max(found) < 2
    assert np.median(found) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("labels", [[1, 0, 1], [0, 1, 0]], ids=["all right", "all wrong"])
def test_rows_that_are_all_right_or_all_wrong_move_the_temperature_no_further_than_the_prior_lets_them(
    labels: list[int],
) -> None:
    logits = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 5.0]], dtype=np.float32)
    fitted = calibrate(logits, np.array(labels), Calibrate(abstain="never"))
    assert (fitted.fitted, fitted.threshold) == (True, 0.0)
    assert 0.5 < fitted.temperature < 2.5


def test_no_temperature_is_fitted_where_none_is_asked_for() -> None:
    logits, labels = overconfident(500, 3.0)
    fitted = calibrate(logits, labels, Calibrate(temperature="none"), np.array([1.0, 2.0, 3.0]))
    assert (fitted.fitted, fitted.temperature, fitted.bias) == (False, 1.0, [])
    np.testing.assert_array_equal(fitted.probabilities(logits), softmax(logits.astype(np.float64), axis=1))


def weighted(rows: int, followed: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of nine rows of ham to one of spam to which a training has added a part of log weight, and the weights."""
    weights = np.array([10 / 18, 10 / 2])
    labels = (RNG.random(rows) < 0.1).astype(int)
    signal = RNG.normal(0, 1.2, rows) + 2.4 * labels
    odds = np.log(0.1 / 0.9) + (signal**2 - (signal - 2.4) ** 2) / (2 * 1.2**2)
    logits = np.column_stack([np.zeros(rows), odds]) + followed * np.log(weights)
    return logits.astype(np.float32), labels, weights


@pytest.mark.parametrize("followed", [0.0, 0.5, 1.0])
def test_what_class_weights_add_to_the_logits_is_taken_out_of_every_labels_confidence(followed: float) -> None:
    logits, labels, weights = weighted(20_000, followed)
    fitted = calibrate(logits, labels, Calibrate(), weights)
    shift = followed * (np.log(weights) - np.log(weights).mean())
    np.testing.assert_allclose(fitted.bias, -shift, atol=0.12)
    given = fitted.probabilities(logits)
    guesses = fitted.answers(given)
    np.testing.assert_array_equal(guesses, logits.argmax(axis=1))  # what the weights ask for is still answered
    for label in (0, 1):
        stated = fitted.confidence(given)[guesses == label]
        assert stated.mean() == pytest.approx((labels[guesses == label] == label).mean(), abs=0.02)


def test_few_rows_take_half_of_what_class_weights_may_have_added() -> None:
    _, _, weights = weighted(1, 1.0)
    _, bias = fit_temperature(np.zeros((1, 2), dtype=np.float32), np.array([0]), weights)
    full = np.log(weights) - np.log(weights).mean()
    np.testing.assert_allclose(bias, -full / 2, atol=0.3)
    assert fit_temperature(np.zeros((1, 2), dtype=np.float32), np.array([0]), np.array([2.0, 2.0]))[1] == []


def test_the_weights_of_a_training_are_read_as_it_computed_them() -> None:
    labels = LabelSet(names=("ham", "spam"), words=("ham", "spam"))
    shares = Prevalence.of(["ham"] * 9 + ["spam"], ["ham"] * 9 + ["spam"], table=True)
    train = {name: Train.model_validate({"seed": 0, "class_weights": value}) for name, value in
             {"none": "none", "balanced": "balanced", "given": {"spam": 3.0, "ham": 0.5}}.items()}  # fmt: skip
    assert trained_weights(train["none"], labels, shares) is None
    rows = class_weights(train["balanced"], labels, [0] * 9 + [1])
    assert rows is not None
    np.testing.assert_allclose(trained_weights(train["balanced"], labels, shares), rows.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(trained_weights(train["given"], labels, shares), [0.5, 3.0])


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
