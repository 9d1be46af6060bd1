"""How sure a figure is: 95% confidence intervals, and paired tests between two models on the same rows."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
CELLS = 5_000_000
"""Most row positions that are resampled at once."""
LOST = 0.01
"""From this share of resamples without a value, no interval is given."""

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95% confidence interval."""

    low: float
    """Its lower end."""
    high: float
    """Its upper end."""
    method: str
    """`bootstrap`, or `exact`: Clopper and Pearson's for a share."""

    def record(self) -> dict[str, Any]:
        """What the metrics files hold."""
        return asdict(self)


def bootstrap(
    statistic: Callable[[Rows], NDArray[np.float64]], count: int, *, seed: int, resamples: int
) -> Interval | None:
    """Percentile bootstrap over rows (Efron and Tibshirani 1993, chapter 13).

    Args:
        statistic: from positions of rows `[..., count]` to one figure each, `[...]`; NaN where it is undefined.
        count: rows there are.

    Returns:
        None where the figure is undefined in more than one resample of a hundred, or does not vary: an interval
        without a width would claim a certainty that there is not.
    """
    if count < 2:
        return None
    with warnings.catch_warnings(action="ignore", category=stats.DegenerateDataWarning):  # NaN is looked at below
        result = stats.bootstrap(
            (np.arange(count),),
            lambda rows, axis: statistic(np.moveaxis(rows, axis, -1)),
            n_resamples=resamples,
            batch=max(1, CELLS // count),
            vectorized=True,
            method="percentile",
            confidence_level=LEVEL,
            rng=np.random.default_rng(seed),
        )
    values = result.bootstrap_distribution
    undefined = np.isnan(values)
    if undefined.mean() > LOST:
        return None
    low, high = np.quantile(values[~undefined], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return None if low == high else Interval(low=float(low), high=float(high), method="bootstrap")


def share(hits: int, count: int) -> Interval | None:
    """Exact interval of a share (Clopper and Pearson 1934); None of no rows."""
    if count == 0:
        return None
    found = stats.binomtest(hits, count).proportion_ci(LEVEL, method="exact")
    return Interval(low=float(found.low), high=float(found.high), method="exact")


def accuracy_interval(right: Flags, *, seed: int, resamples: int) -> Interval | None:
    """Bootstrap interval of the accuracy; exact where every row is right or every row is wrong."""
    found = bootstrap(lambda rows: right[rows].mean(axis=-1), len(right), seed=seed, resamples=resamples)
    return found or share(int(right.sum()), len(right))


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One model against another on the same rows."""

    difference: float
    """Accuracy of the first less that of the second."""
    interval: Interval | None
    """Of the difference; None where no row tells the two apart."""
    only_first: int
    """Rows that the first alone answers rightly."""
    only_second: int
    """Rows that the second alone answers rightly."""
    p_value: float
    """Exact McNemar test: how likely the two are to differ by this much or more if they are equally good."""

    def record(self) -> dict[str, Any]:
        """What the metrics files hold."""
        return asdict(self)


def paired(first: Flags, second: Flags, *, seed: int, resamples: int) -> Paired:
    """Compare two models by which rows each answers rightly, `[rows]` in the same order.

    The exact test takes the rows on which only one is right as throws of a fair coin (McNemar 1947).
    """
    gains = first.astype(np.int64) - second.astype(np.int64)  # [rows], 1, 0 or -1
    only_first, only_second = int((gains > 0).sum()), int((gains < 0).sum())
    disagreeing = only_first + only_second
    return Paired(
        difference=float(gains.mean()),
        interval=bootstrap(lambda rows: gains[rows].mean(axis=-1), len(gains), seed=seed, resamples=resamples),
        only_first=only_first,
        only_second=only_second,
        p_value=float(stats.binomtest(only_first, disagreeing).pvalue) if disagreeing else 1.0,
    )
