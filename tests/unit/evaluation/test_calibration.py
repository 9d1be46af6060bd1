from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binom, norm

from labeltune.config.evaluation import Calibrate
from labeltune.config.model import Train
from labeltune.data.labels import LabelSet
from labeltune.data.prevalence import Prevalence
from labeltune.evaluation.calibration import (
    World,
    calibrate,
    choose_set_threshold,
    choose_threshold,
    fit_temperature,
    trained_weights,
)
from labeltune.evaluation.confidence import analyse, expected_calibration_error
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


HALF = 0.5
"""A certainty at which the bounds are about the rows' own shares."""


def test_coverage_answers_the_most_confident_rows() -> None:
    confidence, right = np.linspace(0.505, 0.995, 50), np.ones(50, dtype=bool)
    answered = [(confidence >= choose_threshold(confidence, right, "coverage", target, HALF)).sum()
                for target in (0.6, 0.8)]  # fmt: skip
    assert answered == [31, 41]
    assert choose_threshold(confidence, right, "coverage", 0.6, HALF) == pytest.approx(0.69)  # half-way between two
    assert choose_threshold(confidence, right, "coverage", 0.99, 0.9) == 0.0
    assert choose_threshold(confidence, right, "never", 0.6, 0.9) == 0.0


def test_the_surer_a_target_is_to_be_met_the_more_is_answered() -> None:
    confidence, right = np.linspace(0.5, 1, 112), np.ones(112, dtype=bool)
    answered = [int((confidence >= choose_threshold(confidence, right, "coverage", 0.95, certainty)).sum())
                for certainty in (0.5, 0.9, 0.99)]  # fmt: skip
    assert answered[0] < answered[1] == 110 < answered[2] == 112
    for count, certainty in zip(answered[:2], (0.5, 0.9), strict=True):  # the exact binomial bound
        assert binom.cdf(112 - count, 112, 0.05) <= 1 - certainty < binom.cdf(113 - count, 112, 0.05)


def test_accuracy_answers_as_many_rows_as_it_can_be_certain_of() -> None:
    confidence = np.linspace(0.999, 0.5, 400)
    right = np.arange(400) < 300  # the least confident quarter is wrong
    threshold = choose_threshold(confidence, right, "accuracy", 0.9, 0.9)
    answered = confidence >= threshold
    assert 300 < answered.sum() < 300 / 0.9
    assert choose_threshold(confidence, np.ones(400, dtype=bool), "accuracy", 0.9, 0.9) == 0.0
    with pytest.raises(UserError, match=r"abstain_target: no confidence gives an accuracy of 0.95 with a certainty"):
        choose_threshold(confidence[:40], right[:40], "accuracy", 0.95, 0.9)
    with pytest.raises(UserError, match=r"the highest seen is 0\.0000, and at least 22 answers"):
        choose_threshold(confidence, ~right & False, "accuracy", 0.9, 0.9)


def test_rows_of_one_confidence_are_answered_together() -> None:
    confidence = np.repeat([0.9, 0.8, 0.7], 40)
    right = np.ones(120, dtype=bool)
    assert choose_threshold(confidence, right, "coverage", 0.5, HALF) == pytest.approx(0.75)
    assert choose_threshold(confidence, np.repeat([True, True, False], 40), "accuracy", 0.9, HALF) == pytest.approx(
        0.75
    )


SPLITS, ROWS = 20, 112


def decided(target: float, rule: str, rows: int, strength: float, labels: int = 2) -> tuple[dict, dict[str, float]]:
    """What a classifier calibrated on some rows achieves on as many again, and on many more, which are the truth."""

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = RNG.integers(0, labels, count)
        logits = RNG.normal(0, 1.5, (count, labels)) + strength * np.eye(labels)[drawn]
        return (1.3 * logits).astype(np.float32), drawn

    fitted = calibrate(*draw(rows), Calibrate(abstain=rule, abstain_target=target))
    told = analyse(*draw(2 * rows), fitted, [str(label) for label in range(labels)])
    logits, true = draw(10_000)
    given = fitted.probabilities(logits)
    guesses, answered = fitted.answers(given), fitted.confidence(given) >= fitted.threshold
    places = np.arange(len(true))
    truth = {
        "coverage": answered.mean(),
        "accuracy": (guesses == true)[answered].mean(),
        "sets": ((given[places, true] >= fitted.set_threshold) | (guesses == true)).mean(),
    }
    return told, truth


@pytest.mark.parametrize(
    ("rule", "target", "rows", "strength"), [("coverage", 0.95, ROWS, 3.2), ("accuracy", 0.9, 300, 2.6)]
)
def test_the_abstention_target_is_met_in_at_least_nine_of_ten_splits(
    rule: str, target: float, rows: int, strength: float
) -> None:
    found = [decided(target, rule, rows, strength) for _ in range(SPLITS)]
    told = [part["abstention"] for part, _ in found]
    assert sum(part["test"][f"{rule}_interval"]["high"] >= target for part in told) >= 0.9 * SPLITS
    assert sum(part["met"] for part in told) >= 0.9 * SPLITS
    assert sum(truth[rule] >= target for _, truth in found) >= 0.85 * SPLITS
    if rule == "coverage":  # it answers no more than it needs to, so that the interval holds the target from both sides
        held = [part["test"]["coverage_interval"] for part in told]
        assert sum(part["low"] <= target <= part["high"] for part in held) >= 0.9 * SPLITS


def test_prediction_sets_hold_the_true_label_as_often_as_promised_in_at_least_nine_of_ten_splits() -> None:
    found = [decided(0.9, "coverage", 300, 1.5, labels=4) for _ in range(SPLITS)]
    assert sum(told["prediction_sets"]["met"] for told, _ in found) >= 0.9 * SPLITS
    true = [truth["sets"] for _, truth in found]
    assert sum(coverage >= 0.95 for coverage in true) >= 0.85 * SPLITS
    assert np.mean(true) < 0.98  # and not by holding everything


def test_too_few_rows_for_a_coverage_give_sets_of_every_label() -> None:
    assert choose_set_threshold(np.array([0.9, 0.8]), 0.9, 0.9) == 0.0


def test_weighted_rows_count_as_many_as_their_weights_let_them() -> None:
    """Rows of weight 0 are no rows, and doubling every weight changes nothing."""
    confidence, right = RNG.random(200), RNG.random(200) < 0.98
    weights = np.repeat([1.0, 0.0], 100)
    for rule, target in (("coverage", 0.8), ("accuracy", 0.8)):
        few = choose_threshold(confidence[:100], right[:100], rule, target, 0.9)
        some = choose_threshold(confidence, right, rule, target, 0.9, 2 * weights)
        np.testing.assert_array_equal(confidence[:100] >= few, confidence[:100] >= some)
    assert choose_set_threshold(confidence, 0.8, 0.9, weights) == choose_set_threshold(confidence[:100], 0.8, 0.9)


LABELS = LabelSet(names=("ham", "spam"), words=("ham", "spam"))
BALANCED = Prevalence.of(["ham"] * 88 + ["spam"] * 12, ["ham", "spam"], table=True)


def balanced(rows: int, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right where both labels are as frequent, and labels of which a share is spam."""
    labels = (RNG.random(rows) < share).astype(int)
    odds = 2 * (RNG.normal(0, 1, rows) + (2 * labels - 1)) * 1.0  # log-odds of normals about -1 and 1
    return np.column_stack([np.zeros(rows), odds]).astype(np.float32), labels


def test_probabilities_are_right_at_the_shares_where_the_classifier_is_used() -> None:
    world = World.of("source", BALANCED, LABELS)
    fitted = calibrate(*balanced(5_000), Calibrate(), None, world)
    logits, labels = balanced(30_000, share=0.12)
    given = fitted.probabilities(logits)
    assert expected_calibration_error(given[:, 1], labels == 1) < 0.01
    plain = fitted.measured
    stated = plain.probabilities(logits)
    assert expected_calibration_error(stated[:, 1], labels == 1) > 0.05  # in the answers, errors of both labels cancel
    assert (fitted.answers(given) == labels).mean() > (plain.answers(stated) == labels).mean()
    np.testing.assert_array_equal(fitted.answers(given), given.argmax(axis=1))
    assert 1 / (1 + np.exp(-(np.log(9) + fitted.shift[1] - fitted.shift[0]))) == pytest.approx(0.55, abs=0.01)


def test_figures_on_the_rows_are_those_of_a_classifier_that_is_used_at_their_shares() -> None:
    logits, labels = balanced(400)
    used = calibrate(logits, labels, Calibrate(), None, World.of("source", BALANCED, LABELS))
    plain = calibrate(logits, labels, Calibrate(), None, World.of("balanced", BALANCED, LABELS))
    assert used.measured == replace(plain, shares={})
    assert plain.on_rows is None
    assert used.threshold != plain.threshold
    test_logits, test_labels = balanced(300)
    one, other = (analyse(test_logits, test_labels, fitted, LABELS.names) for fitted in (used, plain))
    there = one.pop("prevalence")
    assert other.pop("prevalence") is None
    assert one == other
    assert there["shares"] == {"ham": 0.88, "spam": 0.12}
    assert there["abstention"]["threshold"] == used.threshold


def test_without_balancing_nothing_changes() -> None:
    shares = Prevalence.of(["ham"] * 88 + ["spam"] * 12, ["ham"] * 88 + ["spam"] * 12, table=True)
    logits, labels = balanced(400, share=0.12)
    plain = calibrate(logits, labels, Calibrate())
    source = calibrate(logits, labels, Calibrate(), None, World.of("source", shares, LABELS))
    assert source == replace(plain, shares={"ham": 0.88, "spam": 0.12})


def test_training_rows_that_alone_were_balanced_shift_the_fit_as_well() -> None:
    """Validation rows with 12% spam, of a classifier that was trained on as much spam as ham."""
    alone = Prevalence.of(["ham"] * 88 + ["spam"] * 12, ["ham", "spam"], table=False)
    logits, labels = balanced(8_000, share=0.12)
    fitted = calibrate(logits, labels, Calibrate(), None, World.of("source", alone, LABELS))
    assert fitted.on_rows is None
    assert fitted.temperature == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(fitted.shift, np.log([0.88 / 0.5, 0.12 / 0.5]))
    given = fitted.probabilities(logits)
    assert expected_calibration_error(given[:, 1], labels == 1) < 0.015


def test_coverage_is_met_at_the_shares_where_the_classifier_is_used() -> None:
    world = World.of({"ham": 0.88, "spam": 0.12}, BALANCED, LABELS)
    met, answered = 0, []
    for _ in range(SPLITS):
        fitted = calibrate(*balanced(ROWS), Calibrate(abstain_target=0.8), None, world)
        logits, _ = balanced(10_000, share=0.12)
        coverage = (fitted.confidence(fitted.probabilities(logits)) >= fitted.threshold).mean()
        answered.append(coverage)
        met += coverage >= 0.8
    assert met >= 0.85 * SPLITS
    assert np.mean(answered) < 0.9


def test_shares_that_do_not_name_the_labels_are_refused() -> None:
    with pytest.raises(UserError, match=r"calibrate.prevalence: names \['eggs', 'ham'\], but the labels are"):
        World.of({"ham": 0.5, "eggs": 0.5}, BALANCED, LABELS)
    with pytest.raises(ValidationError, match=r"must add up to 1, not 0\.9"):
        Calibrate(prevalence={"ham": 0.8, "spam": 0.1})


def test_a_calibration_never_changes_which_label_is_answered() -> None:
    logits = RNG.normal(size=(50, 4)).astype(np.float32)
    warm = Calibration(temperature=3.7).probabilities(logits)
    np.testing.assert_array_equal(warm.argmax(axis=1), logits.argmax(axis=1))
    np.testing.assert_allclose(warm.sum(axis=1), 1)
