"""Logistic regression on features, and the features' file."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_info, threadpool_limits

from labeltune.probing import regression


def test_a_label_without_a_training_row_gets_nothing_and_a_lone_label_everything() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 3))
    lacking = regression.Regression.fit(rows, np.array([0, 2, 0, 2, 0, 2]), 4, c=1.0, standardise=True)
    given = lacking.probabilities(rows)
    np.testing.assert_allclose(given.sum(axis=1), 1)
    assert (given[:, [1, 3]] == 0).all()
    lone = regression.Regression.fit(rows, np.array([1] * 6), 3, c=1.0, standardise=True)
    np.testing.assert_array_equal(lone.probabilities(rows[:2]), [[0, 1, 0], [0, 1, 0]])


def test_sizes_are_those_of_the_fitted_models() -> None:
    assert regression.size("x" * 100_000) == len(pickle.dumps(("x" * 100_000,)))


@pytest.mark.parametrize("standardise", [True, False])
def test_probabilities_are_those_of_scikit_learn(standardise: bool) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 3
    features = rng.normal(size=(40, 4)) * [1, 5, 0.2, 1] + labels[:, None]
    found = regression.Regression.fit(features, labels, 3, c=0.3, standardise=standardise).probabilities(features)
    scaled = (features - features.mean(0)) / features.std(0) if standardise else features
    expected = LogisticRegression(C=0.3, max_iter=1000).fit(scaled, labels).predict_proba(scaled)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_losses_are_scikit_learns_row_by_row_and_finite_where_the_label_had_no_chance() -> None:
    given = np.array([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]])
    labels = np.array([1, 0, 0])
    assert regression.row_losses(labels, given).mean() == pytest.approx(log_loss(labels, given))
    assert np.isfinite(regression.row_losses(np.array([1]), given[2:])).all()
    assert regression.figures(labels, given) == {"accuracy": 1.0, "log_loss": pytest.approx(log_loss(labels, given))}


def test_a_difference_is_measured_against_its_own_spread_row_by_row() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(size=400) * 10  # what both models find hard cancels
    best, worse = hard, hard + 0.1 + rng.normal(size=400)
    found = regression.standard_errors_above(worse, best)
    difference = worse - best
    assert found == pytest.approx(stats.ttest_1samp(difference, 0).statistic)
    assert regression.standard_errors_above(best, best) == 0
    assert regression.standard_errors_above(np.ones(5), np.zeros(5)) == np.inf


def test_features_are_read_back_bit_for_bit_and_the_same_ones_give_the_same_file(tmp_path: Path) -> None:
    states = np.random.default_rng(3).normal(size=(3, 5)).astype(np.float32)
    given = {
        "train": regression.Features(ids=["a:1", "好:2"], states=states[:2]),
        "test": regression.Features(ids=["c:1"], states=states[2:]),
    }
    for name in ("first.npz", "second.npz"):
        regression.save(tmp_path / name, given)
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    found = regression.load(tmp_path / "first.npz")
    assert list(found) == list(given)
    for split, part in found.items():
        assert part.ids == given[split].ids
        np.testing.assert_array_equal(part.states, given[split].states)
        assert part.states.dtype == np.float32


def test_regressions_run_on_one_thread_and_give_the_others_back() -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    with threadpool_limits(limits=2, user_api="blas"):
        with regression.single_threaded():
            assert threads() == [1] * len(threads())
        assert threads() == [2] * len(threads())
