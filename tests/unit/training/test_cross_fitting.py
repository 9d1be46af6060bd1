"""Folds of the validation rows, and choices that are judged by rows that took no part in them."""

import numpy as np
from scipy.special import softmax

from labeltune.probing.regression import row_losses
from labeltune.training.cross_fitting import chosen_by_others, folds, lowest_loss


def test_folds_judge_each_row_once_and_share_the_labels_out() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    pairs = folds(labels)
    np.testing.assert_array_equal(np.sort(np.concatenate([judged for _, judged in pairs])), np.arange(100))
    for fitted, judged in pairs:
        assert not set(fitted) & set(judged)
        assert len(fitted) + len(judged) == 100
        assert (labels[judged] == 1).sum() == 1


def test_the_lowest_log_loss_wins_and_the_first_of_equal_ones() -> None:
    labels = np.array([0, 1])
    right, wrong = np.array([[2, 0], [0, 2]], np.float32), np.array([[0, 2], [2, 0]], np.float32)
    assert lowest_loss([wrong, right, right], labels) == 1


def test_the_best_of_many_models_of_noise_is_no_better_than_noise_where_others_chose() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    noise = [rng.normal(size=(300, 2)).astype(np.float32) for _ in range(200)]

    def loss(logits: np.ndarray) -> float:
        return float(row_losses(labels, softmax(logits.astype(np.float64), axis=1)).mean())

    losses = np.array([loss(one) for one in noise])
    assert loss(noise[lowest_loss(noise, labels)]) < losses.mean() - 2 * losses.std()
    assert loss(chosen_by_others(noise, labels)) > losses.mean() - 2 * losses.std()


def test_a_row_does_not_choose_for_itself() -> None:
    labels = np.zeros(40, dtype=np.int64)
    first = np.tile(np.float32([1, 0]), (40, 1))
    second = first.copy()
    second[7] = [60, 0]  # its own loss alone would decide
    first[8] = [1.2, 0]
    second[8] = [1.1, 0]
    chosen = chosen_by_others([first, second], labels)
    assert lowest_loss([first, second], labels) == 1
    mates = next(judged for _, judged in folds(labels) if 7 in judged)
    np.testing.assert_array_equal(chosen[mates], first[mates])


def test_fewer_rows_than_folds_are_all_answered() -> None:
    labels = np.array([1])
    candidate = np.array([[0.0, 1.0]], np.float32)
    np.testing.assert_array_equal(chosen_by_others([candidate], labels), candidate)
    assert row_losses(labels, np.array([[0.5, 0.5]]))[0] > 0
