import numpy as np
import pytest
from scipy import stats

from labeltune.evaluation import metrics

RNG = np.random.default_rng(3)


def test_a_bootstrap_of_the_mean_is_close_to_the_normal_interval() -> None:
    right = RNG.random(2000) < 0.8
    found = metrics.accuracy_interval(right, seed=1, resamples=4000)
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / len(right))
    assert found.low == pytest.approx(right.mean() - half, abs=0.002)
    assert found.high == pytest.approx(right.mean() + half, abs=0.002)
    assert found == metrics.accuracy_interval(right, seed=1, resamples=4000)
    values = RNG.random(30)
    first, second = (metrics.bootstrap(lambda r: values[r].mean(-1), 30, seed=s, resamples=200) for s in (1, 2))
    assert first != second


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for trial in range(200):
        right = RNG.random(150) < 0.9
        found = metrics.accuracy_interval(right, seed=trial, resamples=300)
        held += found.low <= 0.9 <= found.high
    assert 178 <= held <= 199


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (20, 20), (7, 20)])
def test_a_share_has_the_interval_of_clopper_and_pearson(hits: int, count: int) -> None:
    found = metrics.share_interval(hits, count)
    low = 0.0 if hits == 0 else stats.beta.ppf(0.025, hits, count - hits + 1)
    high = 1.0 if hits == count else stats.beta.ppf(0.975, hits + 1, count - hits)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def test_rows_that_are_all_right_are_no_certainty() -> None:
    found = metrics.accuracy_interval(np.ones(50, dtype=bool), seed=0, resamples=200)
    assert found.method == "exact"
    assert found.low == pytest.approx(0.025 ** (1 / 50))
    assert metrics.share_interval(0, 0) is None


def test_a_figure_that_most_resamples_lack_has_no_interval() -> None:
    def lacking(rows: np.ndarray) -> np.ndarray:
        return np.where(rows[..., 0] < 5, np.nan, rows.mean(axis=-1))

    assert metrics.bootstrap(lacking, 10, seed=0, resamples=200) is None
    assert metrics.bootstrap(lambda rows: rows.mean(axis=-1), 1, seed=0, resamples=200) is None


def test_mcnemar_is_the_binomial_test_of_the_disagreements() -> None:
    first, second = np.zeros(40, dtype=bool), np.zeros(40, dtype=bool)
    first[:9] = True  # 9 rows the first alone
    second[9:11] = True  # 2 rows the second alone
    first[20:30] = second[20:30] = True
    found = metrics.paired_test(first, second, seed=0, resamples=2000)
    by_hand = 2 * sum(stats.binom.pmf(k, 11, 0.5) for k in range(3))
    assert found.p_value == pytest.approx(by_hand)
    assert (found.only_first, found.only_second) == (9, 2)
    assert found.difference == pytest.approx(7 / 40)
    assert found.interval.low < 7 / 40 < found.interval.high
    assert metrics.paired_test(second, first, seed=0, resamples=200).difference == pytest.approx(-7 / 40)


def test_models_that_answer_alike_are_not_told_apart() -> None:
    right = RNG.random(30) < 0.5
    found = metrics.paired_test(right, right, seed=0, resamples=200)
    assert (found.p_value, found.difference, found.interval) == (1.0, 0.0, None)
