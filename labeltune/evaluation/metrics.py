"""Classification metrics, confidence intervals, and paired tests between two models on the same rows."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from labeltune.console.terminal import say, table
from labeltune.data.labels import Indices, Probabilities
from labeltune.probing.regression import mcnemar, row_losses

LEVEL = 0.95
CELLS = 5_000_000
"""Maximum number of row positions that are resampled at once."""
LOST = 0.01
"""Share of resamples without a value from which no interval is given."""

EDGE = 1e-12
"""Distance from -1 or 1 within which a difference is at the end of its range."""

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95% confidence interval."""

    low: float
    """Lower limit."""
    high: float
    """Upper limit."""
    method: str
    """`bootstrap`; `exact`: Clopper and Pearson's, for a share; `effective`: the same at an effective number of rows;
    `paired`: for a difference of two shares of the same rows."""

    def record(self) -> dict[str, Any]:
        """Return the entry of the metrics files."""
        return asdict(self)


def bootstrap(
    statistic: Callable[[Rows], NDArray[np.float64]], count: int, *, seed: int, resamples: int
) -> Interval | None:
    """Percentile bootstrap over rows (Efron and Tibshirani 1993, chapter 13).

    Args:
        statistic: maps positions of rows, `[..., count]`, to a figure each, `[...]`; NaN if it is undefined.
        count: number of rows.

    Returns:
        None if the figure is undefined in more than one resample of a hundred, or does not vary: an interval of
        width 0 would claim certainty.
    """
    if count < 2:
        return None
    with warnings.catch_warnings(action="ignore", category=stats.DegenerateDataWarning):  # NaN is handled below
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


def share_interval(hits: int, count: int, level: float = LEVEL) -> Interval | None:
    """Return the exact interval of a share (Clopper and Pearson 1934); None without rows."""
    if count == 0:
        return None
    found = stats.binomtest(hits, count).proportion_ci(level, method="exact")
    return Interval(low=float(found.low), high=float(found.high), method="exact")


def effective_interval(share: float, rows: float) -> Interval | None:
    """Return the Clopper-Pearson interval for an effective number of rows, which need not be whole; None without rows.

    Args:
        share: measured share.
        rows: effective number of rows that it was measured on.
    """
    if rows <= 0:
        return None
    hits, tail = share * rows, (1 - LEVEL) / 2
    low = float(stats.beta.ppf(tail, hits, rows - hits + 1)) if hits > EDGE else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, rows - hits)) if rows - hits > EDGE else 1.0
    return Interval(low=low, high=high, method="effective")


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Comparison of two models on the same rows."""

    difference: float
    """Accuracy of the first model minus that of the second."""
    interval: Interval
    """Interval of the difference; it excludes 0 if and only if `p_value` is below 0.05."""
    only_first: int
    """Number of rows that only the first model classifies correctly."""
    only_second: int
    """Number of rows that only the second model classifies correctly."""
    p_value: float
    """p value of the exact McNemar test: probability of a difference at least this large if both are equally good."""

    def record(self) -> dict[str, Any]:
        """Return the entry of the metrics files."""
        return asdict(self)


def paired_test(first: Flags, second: Flags) -> Paired:
    """Compare two models by the rows that each classifies correctly, `[rows]` in the same order, at least one.

    Under the null hypothesis of the exact test, either model is equally likely to be the only right one (McNemar 1947).
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return Paired(
        difference=(only_first - only_second) / len(first),
        interval=paired_interval(only_first, only_second, len(first)),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
    )


def paired_interval(only_first: int, only_second: int, count: int, level: float = LEVEL) -> Interval:
    """Return the interval of the difference of two shares of the same rows, consistent with the exact McNemar test.

    Each end is the outer one of two intervals: Tango's score interval (Tango 1998, doi:10.1002/(SICI)1097-0258
    (19980430)17:8<891::AID-SIM780>3.0.CO;2-B), which accounts for the variance of the number of disagreements, and the
    Clopper-Pearson interval of the first model's share of the disagreements, which inverts the exact test. The second
    contains 0 if and only if p is 0.05 or more, and if it does not, the first does not either.

    Args:
        only_first: number of rows that only the first model classifies correctly.
        only_second: number of rows that only the second model classifies correctly.
        count: number of rows.
        level: confidence level; the significance level of the matching test is 1 - level.
    """
    low, high = _score_ends(only_first, only_second, count, level)
    disagreeing = only_first + only_second
    share = share_interval(only_first, disagreeing, level)
    if share is not None:
        low = min(low, (2 * share.low - 1) * disagreeing / count)
        high = max(high, (2 * share.high - 1) * disagreeing / count)
    return Interval(low=low, high=high, method="paired")


def _score_ends(only_first: int, only_second: int, count: int, level: float) -> tuple[float, float]:
    """Return the ends of Tango's interval, at which the score statistic equals the quantile of the level."""
    found, quantile = (only_first - only_second) / count, float(stats.norm.ppf((1 + level) / 2))
    if not only_first and not only_second:
        end = quantile**2 / (count + quantile**2)
        return -end, end

    def statistic(difference: float, sign: float) -> float:
        linear = -only_first - only_second + (2 * count - only_first + only_second) * difference
        constant = -only_second * difference * (1 - difference)
        root = math.sqrt(max(linear**2 - 8 * count * constant, 0.0))
        variance = count * ((root - linear) / (2 * count) + difference * (1 - difference))
        # Both sides are multiplied by the deviation, which is 0 at the ends of the range.
        return sign * count * (found - difference) - quantile * math.sqrt(max(variance, 0.0))

    ends = [
        bound if abs(found - bound) < EDGE else float(brentq(statistic, found, bound, args=(sign,)))
        for bound, sign in ((-1.0, 1.0), (1.0, -1.0))
    ]
    return ends[0], ends[1]


def accuracy(labels: Indices, guesses: Indices) -> float:
    """Return the share of rows whose prediction is the label."""
    return float((labels == guesses).mean())


def macro_f1(labels: Indices, guesses: Indices, num_labels: int) -> float:
    """Return the mean F1 over the classes that occur among the labels or the predictions."""
    return _macro(labels, guesses, num_labels)[2]


def log_loss(labels: Indices, probabilities: Probabilities) -> float:
    """Return the mean negative natural logarithm of the label's probability; probabilities are `[rows, num_labels]`."""
    return float(row_losses(labels, probabilities).mean())


def roc_auc(labels: Indices, probabilities: Probabilities) -> list[float | None]:
    """Return the area under each one-vs-rest ROC curve, `[num_labels]`; None if no row or every row has the class."""
    areas: list[float | None] = []
    for label in range(probabilities.shape[1]):
        positive = labels == label
        defined = 0 < positive.sum() < len(labels)
        areas.append(float(roc_auc_score(positive, probabilities[:, label])) if defined else None)
    return areas


def summarise(
    labels: Indices, probabilities: Probabilities, names: Sequence[str], guesses: Indices | None = None
) -> dict[str, Any]:
    """Return the content of metrics.json.

    Macro figures are means over the classes that occur among the labels or the guesses, and a class that is never
    predicted has a precision of 0, as in scikit-learn. With two classes, the AUC is that of the last one; with
    more, it is the mean over those for which it is defined. It is given as `roc_auc` and also as `auc`, its name in
    published results of Chinese sentiment classification. Undefined figures are None.

    Args:
        labels: index of each row's label, `[rows]`.
        probabilities: `[rows, num_labels]`.
        names: label names, `[num_labels]`.
        guesses: index of the predicted label, `[rows]`; None for the most probable one.
    """
    guesses = probabilities.argmax(axis=1) if guesses is None else guesses
    count = len(names)
    areas = roc_auc(labels, probabilities)
    known = [area for area in areas if area is not None]
    overall = (areas[-1] if count == 2 else float(np.mean(known))) if known else None
    precision, recall, f1 = _macro(labels, guesses, count)
    matrix = confusion_matrix(labels, guesses, labels=range(count))
    per_class = {}
    for i, name in enumerate(names):
        right, guessed, support = int(matrix[i, i]), int(matrix[:, i].sum()), int(matrix[i].sum())
        per_class[name] = {
            "precision": right / guessed if guessed else None,
            "recall": right / support if support else None,
            "f1": 2 * right / (guessed + support) if guessed + support else None,
            "roc_auc": areas[i],
            "support": support,
        }
    return {
        "accuracy": accuracy(labels, guesses),
        "auc": overall,
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "roc_auc": overall,
        "log_loss": log_loss(labels, probabilities),
        "n": len(labels),
        "per_class": per_class,
        "confusion_matrix": {
            name: {other: int(matrix[i, j]) for j, other in enumerate(names)} for i, name in enumerate(names)
        },
    }


def summary(figures: dict[str, Any], confidence: dict[str, Any]) -> dict[str, float]:
    """Return the few figures that DVC's tables show of a run, so that the settings fit on the screen as well.

    All of them come from one stage, so that an experiment that ends with it shows no figure of the previous run.

    Args:
        figures: content of metrics.json.
        confidence: content of confidence_analysis.json.
    """
    return {
        "accuracy": figures["accuracy"],
        "macro_f1": figures["macro_f1"],
        "log_loss": figures["log_loss"],
        "ece": confidence["calibration"]["after"]["ece"],
        "coverage": confidence["abstention"]["test"]["coverage"],
    }


def intervals(
    labels: Indices, probabilities: Probabilities, guesses: Indices | None = None, *, seed: int, resamples: int
) -> dict[str, dict[str, Any] | None]:
    """Return 95% intervals of accuracy, macro F1 and ROC-AUC as `summarise` defines them; None if undefined.

    Args:
        labels: index of each row's label, `[rows]`.
        probabilities: `[rows, num_labels]`.
        guesses: as in `summarise`.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.
    """
    guesses = probabilities.argmax(axis=1) if guesses is None else guesses
    count, rows = probabilities.shape[1], len(labels)
    listed = [1] if count == 2 else range(count)
    found: dict[str, Interval | None] = {
        "accuracy": share_interval(int((labels == guesses).sum()), rows),
        "macro_f1": bootstrap(_resampled_f1(labels, guesses, count), rows, seed=seed, resamples=resamples),
        "roc_auc": bootstrap(
            _resampled_auc([(labels == label, probabilities[:, label]) for label in listed]),
            rows,
            seed=seed,
            resamples=resamples,
        ),
    }
    return {name: interval.record() if interval else None for name, interval in found.items()}


def _resampled_f1(labels: Indices, guesses: Indices, num_labels: int) -> Callable[[Rows], Probabilities]:
    """Return the macro F1 of the rows at the positions `[..., rows]`."""
    cells = labels * num_labels + guesses

    def statistic(rows: Rows) -> Probabilities:
        flat = rows.reshape(-1, rows.shape[-1])  # [resamples, rows]
        places = cells[flat] + num_labels**2 * np.arange(len(flat))[:, None]
        counts = np.bincount(places.ravel(), minlength=len(flat) * num_labels**2)
        matrix = counts.reshape(len(flat), num_labels, num_labels)
        occurring = matrix.sum(axis=1) + matrix.sum(axis=2)  # [resamples, num_labels]
        f1 = 2 * np.einsum("rii->ri", matrix) / np.maximum(occurring, 1)
        return (f1.sum(axis=1) / (occurring > 0).sum(axis=1)).reshape(rows.shape[:-1])

    return statistic


def _resampled_auc(rankings: Sequence[tuple[NDArray[np.bool_], Probabilities]]) -> Callable[[Rows], Probabilities]:
    """Return the mean area under the ROC curves of the rows at the positions `[..., rows]`.

    The area is the probability that a positive has a higher score than a negative, with ties counted half (Hanley and
    McNeil 1982).
    """
    prepared = []
    for positive, scores in rankings:
        order = np.argsort(scores, kind="stable")
        starts = np.flatnonzero(np.append(True, np.diff(scores[order]) > 0))  # rows of equal score are adjacent
        prepared.append((positive[order], order, starts))

    def statistic(rows: Rows) -> Probabilities:
        flat = rows.reshape(-1, rows.shape[-1])
        places = flat + rows.shape[-1] * np.arange(len(flat))[:, None]
        times = np.bincount(places.ravel(), minlength=flat.size).reshape(flat.shape)  # how often each row is drawn
        areas = np.full((len(flat), len(prepared)), np.nan)
        for i, (positive, order, starts) in enumerate(prepared):
            taken = times[:, order]
            positives = np.add.reduceat(taken * positive, starts, axis=1)  # [resamples, scores]
            negatives = np.add.reduceat(taken * ~positive, starts, axis=1)
            below = negatives.cumsum(axis=1) - negatives
            pairs = positives.sum(axis=1) * negatives.sum(axis=1)
            won = (positives * (below + negatives / 2)).sum(axis=1)
            np.divide(won, pairs, out=areas[:, i], where=pairs > 0)
        known = ~np.isnan(areas)
        total = np.where(known, areas, 0).sum(axis=1)
        mean = np.full(len(flat), np.nan)
        np.divide(total, known.sum(axis=1), out=mean, where=known.any(axis=1))
        return mean.reshape(rows.shape[:-1])

    return statistic


def _macro(labels: Indices, guesses: Indices, num_labels: int) -> tuple[float, float, float]:
    """Return macro precision, recall and F1."""
    present = sorted(set(labels.tolist()) | set(guesses.tolist()))
    figures = precision_recall_fscore_support(labels, guesses, labels=present, average="macro", zero_division=0)
    return float(figures[0]), float(figures[1]), float(figures[2])


def show(figures: dict[str, Any], metrics: Path, predictions: Path) -> None:
    """Print the summary of `evaluate`."""
    rows = [
        [name, _shown(figures[key]), _between(figures["intervals"][key])]
        for name, key in (("accuracy", "accuracy"), ("macro F1", "macro_f1"), ("ROC-AUC", "roc_auc"))
    ]
    table(f"{figures['n']:,} test rows", ["figure", "value", "95% interval"], rows)
    keys = ("precision", "recall", "f1", "roc_auc")
    rows = [[name, *(_shown(row[key]) for key in keys), row["support"]] for name, row in figures["per_class"].items()]
    table("per class", ["label", *keys, "rows"], rows)
    say(f"figures in {metrics}, every prediction in {predictions}")


def _between(interval: dict[str, Any] | None) -> str:
    return "undefined" if interval is None else f"{interval['low']:.4f} to {interval['high']:.4f}"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
