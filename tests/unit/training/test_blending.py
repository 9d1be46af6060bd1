"""Fitting and judging the weights of a blend."""

from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from labeltune.config.model import Train
from labeltune.modeling.ngrams import Weights
from labeltune.training import blending
from labeltune.training.blending import choose_blend, cross_fitted_losses, fit_weights
from labeltune.training.cross_fitting import folds
from tests.conftest import HAM, SPAM

PLAIN = Train(seed=1)


def drawn(rows: int, signal: float, seed: int, labels: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the logits of two models that know of them independently."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, rows)
    sides = [rng.normal(size=(rows, labels)).astype(np.float32) for _ in range(2)]
    for side, strength in zip(sides, (1.0, signal), strict=True):
        side[np.arange(rows), truth] += strength
    return truth, sides[0], sides[1]


def log_loss(weights: Weights, network: np.ndarray, given: np.ndarray, labels: np.ndarray) -> float:
    blended = weights.network * network.astype(np.float64) + weights.ngrams * given
    return float(-log_softmax(blended, axis=1)[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("labels", [2, 4])
def test_the_weights_have_the_lowest_log_loss(labels: int) -> None:
    truth, network, given = drawn(3000, 1.0, 0, labels)
    found = fit_weights(network, given, truth)
    # Two normal models of the same strength: the best logits are their plain sum.
    assert found.network == pytest.approx(1.0, abs=0.15)
    assert found.ngrams == pytest.approx(1.0, abs=0.15)
    least = log_loss(found, network, given, truth)
    for network_weight in (found.network * 0.9, found.network * 1.1):
        for ngrams_weight in (found.ngrams * 0.9, found.ngrams * 1.1):
            assert log_loss(Weights(network=network_weight, ngrams=ngrams_weight), network, given, truth) > least


def test_few_rows_that_are_all_right_keep_the_weights_small() -> None:
    truth = np.array([0, 1] * 20)
    sure = np.where(np.eye(2)[truth] > 0, 5.0, -5.0).astype(np.float32)
    found = fit_weights(sure, sure, truth)
    assert 0.5 < found.network < 2
    assert found.ngrams < 1


def test_a_side_that_misleads_has_weight_0_and_the_network_never_has() -> None:
    truth, network, given = drawn(400, -3.0, 1)
    assert fit_weights(network, given, truth).ngrams == 0
    assert fit_weights(given, network, truth).network == blending.BOUNDS[0][0]


def test_no_row_is_judged_by_weights_that_saw_its_label() -> None:
    truth, network, given = drawn(200, 1.0, 2)
    before = cross_fitted_losses(network, [given], truth)
    changed = given.copy()
    changed[7] = [50.0, -50.0] if truth[7] else [-50.0, 50.0]  # surely wrong: every other fold's weights would move
    after = cross_fitted_losses(network, [changed], truth)
    mates = next(judged for _, judged in folds(truth) if 7 in judged)
    np.testing.assert_array_equal(np.delete(before[mates], mates == 7), np.delete(after[mates], mates == 7))
    assert after[7] > before[7]
    others = np.setdiff1d(np.arange(200), mates)
    assert (before[others] != after[others]).all()


def messages(rows: int, seed: int) -> tuple[list[str], list[int]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows).tolist()
    return [f"{rng.choice(SPAM if label else HAM)} {rng.integers(100)}" for label in labels], labels


def test_ngrams_that_know_more_than_the_network_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    train, validation = messages(200, 0), messages(80, 1)
    unsure = np.random.default_rng(2).normal(size=(80, 2)).astype(np.float32)
    found = choose_blend(unsure, PLAIN, train, validation)
    assert found.blend is not None
    assert found.logits is not None
    assert (found.logits.argmax(axis=1) == np.array(validation[1])).mean() > 0.95
    np.testing.assert_array_equal(found.logits, found.blend(unsure, validation[0]))
    assert found.figures["kept"]
    assert found.figures["log_loss"]["difference"] > found.figures["log_loss"]["standard_error"]
    assert found.figures["accuracy"]["ngrams"] > found.figures["accuracy"]["network"]
    assert "adds n-grams to the network" in " ".join(capsys.readouterr().out.split())


def test_a_network_that_knows_all_answers_alone_however_badly_it_is_calibrated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train, validation = messages(200, 0), messages(80, 1)
    labels = np.array(validation[1])
    right = np.where(np.eye(2)[labels] > 0, 0.05, -0.05).astype(np.float32)  # right of every row, and hardly sure
    found = choose_blend(100 * right, PLAIN, train, validation)
    assert found.blend is None
    assert found.logits is None
    assert not found.figures["kept"]
    assert "leaves the network alone" in " ".join(capsys.readouterr().out.split())


def test_a_temperature_is_no_merit_of_the_ngrams() -> None:
    labels, network, _ = drawn(400, 1.0, 3)
    noise = np.zeros_like(network)
    np.testing.assert_allclose(
        cross_fitted_losses(0.05 * network, [], labels), cross_fitted_losses(0.05 * network, [noise], labels), atol=1e-6
    )


@pytest.mark.parametrize(
    ("rows", "weights", "why"),
    [(29, "none", "29 validation rows are too few"), (80, "balanced", "train.class_weights moves its answers")],
)
def test_where_weights_would_mean_nothing_the_network_answers_alone_with_the_reason(
    rows: int, weights: Any, why: str
) -> None:
    settings = Train(seed=1, class_weights=weights)
    found = choose_blend(np.zeros((rows, 2), dtype=np.float32), settings, messages(60, 0), messages(rows, 1))
    assert found.blend is None
    assert found.figures["kept"] is False
    assert why in found.figures["reason"]


def test_nothing_is_fitted_or_recorded_where_no_blend_is_asked_for() -> None:
    found = choose_blend(None, PLAIN, messages(60, 0), messages(60, 1))
    assert (found.blend, found.figures, found.seconds) == (None, {}, 0.0)
