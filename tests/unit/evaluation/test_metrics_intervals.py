from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from labeltune.evaluation import metrics

RNG = np.random.default_rng(3)


def test_a_bootstrap_of_the_mean_is_close_to_the_normal_interval() -> None:
    right = RNG.random(2000) < 0.8
    found = metrics.bootstrap(lambda rows: right[rows].mean(axis=-1), len(right), seed=1, resamples=4000)
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / len(right))
    assert found.low == pytest.approx(right.mean() - half, abs=0.002)
    assert found.high == pytest.approx(right.mean() + half, abs=0.002)
    values = RNG.random(30)
    first, second = (metrics.bootstrap(lambda r: values[r].mean(-1), 30, seed=s, resamples=200) for s in (1, 2))
    assert first != second


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for _ in range(200):
        right = RNG.random(150) < 0.9
        found = metrics.share_interval(int(right.sum()), len(right))
        held += found.low <= 0.9 <= found.high
    assert 180 <= held <= 200


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (20, 20), (7, 20)])
def test_a_share_has_the_interval_of_clopper_and_pearson(hits: int, count: int) -> None:
    found = metrics.share_interval(hits, count)
    low = 0.0 if hits == 0 else stats.beta.ppf(0.025, hits, count - hits + 1)
    high = 1.0 if hits == count else stats.beta.ppf(0.975, hits + 1, count - hits)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def test_rows_that_are_all_right_are_no_certainty() -> None:
    found = metrics.share_interval(50, 50)
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
    found = metrics.paired_test(first, second)
    by_hand = 2 * sum(stats.binom.pmf(k, 11, 0.5) for k in range(3))
    assert found.p_value == pytest.approx(by_hand)
    assert (found.only_first, found.only_second) == (9, 2)
    assert found.difference == pytest.approx(7 / 40)
    assert found.interval.low < 7 / 40 < found.interval.high
    assert metrics.paired_test(second, first).difference == pytest.approx(-7 / 40)


def test_models_that_answer_alike_are_not_told_apart() -> None:
    right = RNG.random(30) < 0.5
    found = metrics.paired_test(right, right)
    assert (found.p_value, found.difference) == (1.0, 0.0)
    assert found.interval.low == -found.interval.high < 0


@pytest.mark.parametrize("count", [1, 8, 20, 60, 500])
def test_the_interval_of_a_difference_excludes_0_exactly_where_the_exact_test_does(count: int) -> None:
    for disagreeing in {*range(min(count, 40) + 1), count}:
        for only_first in range(disagreeing + 1):
            found = metrics.paired_interval(only_first, disagreeing - only_first, count)
            p_value = stats.binomtest(only_first, disagreeing).pvalue if disagreeing else 1.0
            assert -1 <= found.low <= (2 * only_first - disagreeing) / count <= found.high <= 1
            assert (found.low > 0 or found.high < 0) == (p_value < 0.05), (only_first, disagreeing)
            other = metrics.paired_interval(disagreeing - only_first, only_first, count)
            assert (other.low, other.high) == pytest.approx((-found.high, -found.low), abs=1e-9)


def test_an_interval_of_a_difference_solves_the_equation_of_tangos_score_interval() -> None:
    # With many disagreements the score interval is the outer one.
    found = metrics.paired_interval(450, 30, 1000)
    for end in (found.low, found.high):
        linear = -480 + (2000 - 420) * end
        second = (np.sqrt(linear**2 + 8 * 1000 * 30 * end * (1 - end)) - linear) / 2000
        score = (420 - 1000 * end) / np.sqrt(1000 * (second + end * (1 - end)))
        assert abs(score) == pytest.approx(stats.norm.ppf(0.975), rel=1e-6)


@pytest.mark.parametrize(("first", "second", "count"), [(0.45, 0.03, 200), (0.1, 0.05, 60), (0.1, 0.02, 16)])
def test_intervals_of_a_difference_hold_the_truth_as_often_as_they_say(first: float, second: float, count: int) -> None:
    drawn = np.random.default_rng(0).multinomial(count, [first, second, 1 - first - second], size=400)
    found = [metrics.paired_interval(int(one), int(other), count) for one, other, _ in drawn]
    assert np.mean([part.low <= first - second <= part.high for part in found]) >= 0.93


def test_one_error_more_never_raises_an_end_of_the_interval_of_a_share() -> None:
    found = [metrics.share_interval(hits, 40) for hits in range(41)]
    assert all(a.low <= b.low and a.high <= b.high for a, b in pairwise(found))


def test_a_paired_interval_at_another_level_agrees_with_the_test_at_that_level() -> None:
    for only_first in range(3, 12):
        p_value = metrics.paired_test(np.arange(100) < 50 + only_first, np.arange(100) < 50).p_value
        for level in (0.95, 0.99, 0.9967):
            low = metrics.paired_interval(only_first, 0, 100, level).low
            assert (low > 0) == (p_value < 1 - level)
