"""Fitting calibration on validation rows, and measuring calibration, selective prediction and prediction sets."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from labeltune.config.evaluation import Calibrate
from labeltune.console.terminal import say
from labeltune.data.labels import Indices, Probabilities
from labeltune.evaluation.metrics import Flags, Interval, log_loss, share_interval
from labeltune.inference.calibration import Calibration, Logits
from labeltune.runtime.errors import UserError

STEEPEST = 20.0
"""Inverse temperatures beyond this, or below its inverse, are taken for not identified by the rows."""


def calibrate(logits: Logits, labels: Indices, settings: Calibrate) -> Calibration:
    """Fit temperature, abstention threshold and prediction sets on validation rows.

    Args:
        logits: `[rows, num_labels]`.
        labels: index of each row's label, `[rows]`.

    Raises:
        UserError: no threshold reaches the accuracy that was asked for.
    """
    temperature = fit_temperature(logits, labels) if settings.temperature == "fit" else None
    given = softmax(logits.astype(np.float64) / (temperature or 1.0), axis=1)
    confidence = given.max(axis=1)
    right = given.argmax(axis=1) == labels
    threshold = choose_threshold(confidence, right, settings.abstain, settings.abstain_target)
    answered = confidence >= threshold
    return Calibration(
        temperature=temperature or 1.0,
        fitted=temperature is not None,
        rows=len(labels),
        abstain=settings.abstain,
        target=None if settings.abstain == "never" else settings.abstain_target,
        threshold=threshold,
        coverage=float(answered.mean()),
        accuracy=float(right[answered].mean()) if answered.any() else None,
        set_coverage=settings.set_coverage,
        set_threshold=choose_set_threshold(given[np.arange(len(labels)), labels], settings.set_coverage),
    )


def fit_temperature(logits: Logits, labels: Indices) -> float | None:
    """Temperature of the lowest log-loss (Guo et al. 2017, arXiv:1706.04599); None where the rows don't identify one.

    The log-loss is convex in the inverse temperature, so that its slope, the mean over the rows of the expected less
    the true label's logit, has one root at most. Rows that are all right have none: the colder, the better.
    """
    from scipy.optimize import brentq  # half a second, which who applies a temperature need not wait for

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    true = shifted[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        return float(((softmax(shifted * inverse, axis=1) * shifted).sum(axis=1) - true).mean())

    if slope(1 / STEEPEST) >= 0 or slope(STEEPEST) <= 0:
        return None
    return 1 / float(brentq(slope, 1 / STEEPEST, STEEPEST, xtol=1e-10))


def choose_threshold(confidence: NDArray[np.float64], right: NDArray[np.bool_], rule: str, target: float) -> float:
    """The confidence from which to answer.

    It lies half-way between two rows' confidences, so that rounding doesn't turn an answer; 0 answers all.

    Args:
        confidence: of each validation row, `[rows]`.
        right: whether its answer is, `[rows]`.
        rule: `never`; `coverage`: answer the fewest rows that are `target` of all; `accuracy`: answer the most rows
            of which `target` are right.

    Raises:
        UserError: no threshold reaches the accuracy.
    """
    if rule == "never":
        return 0.0
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    ends = np.flatnonzero(
        np.append(sorted_confidence[1:] < sorted_confidence[:-1], True)
    )  # rows of a tie stay together
    if rule == "coverage":
        reaching = ends[ends + 1 >= target * len(order) - 1e-9]
        last = int(reaching[0])
    else:
        accuracy = np.cumsum(right[order])[ends] / (ends + 1)
        reaching = ends[accuracy >= target]
        if not len(reaching):
            raise UserError(
                f"calibrate.abstain_target: no confidence gives an accuracy of {target} on the {len(order)} validation "
                f"rows, {accuracy.max():.4f} at most; set a lower one, or calibrate.abstain: coverage"
            )
        last = int(reaching[-1])
    if last == len(order) - 1:
        return 0.0
    return float(sorted_confidence[last : last + 2].mean())


def choose_set_threshold(given: NDArray[np.float64], coverage: float) -> float:
    """Least probability of a label in a split-conformal prediction set (Sadinle et al. 2019, arXiv:1609.00451).

    With n validation rows it is the floor((n + 1)(1 - coverage))-th smallest probability that one of them gives to
    its true label; a new row's set then holds its true label with at least this chance, if it is like those rows. The
    answer itself is always in the set, which makes it no rarer: a sure classifier's sets would else be empty.

    Args:
        given: probability of each validation row's true label, `[rows]`.

    >>> choose_set_threshold(np.array([0.9, 0.2, 0.8, 0.7]), coverage=0.6)
    0.7
    """
    place = math.floor((len(given) + 1) * (1 - coverage) + 1e-9)
    return float(np.sort(given)[place - 1]) if place else 0.0


def show_calibration(fitted: Calibration, folder: Path) -> None:
    """Print the summary of `calibrate`."""
    how = f"temperature {fitted.temperature:.3f}" if fitted.fitted else "no temperature fits, the logits stay"
    say(f"{how}, from {fitted.rows:,} validation rows")
    if fitted.abstain != "never":
        right = "" if fitted.accuracy is None else f", {fitted.accuracy:.4f} of them right"
        say(
            f"abstains below a confidence of {fitted.threshold:.3f}: answers {fitted.coverage:.1%} of these rows{right}"
        )
    say(f"the classifier lies in {folder}/")


BINS = 10
"""Bins of confidence, of equal width."""
HIGH, LOW = 0.9, 0.6
"""Above the first a confidence counts as high, below the second as low."""

Confidence = NDArray[np.float64]


def analyse(logits: Logits, labels: Indices, calibration: Calibration) -> dict[str, Any]:
    """Everything that confidence_analysis.json holds, of the test rows.

    Args:
        logits: before the temperature, `[rows, num_labels]`.
        labels: index of each row's label, `[rows]`.
    """
    given = calibration.probabilities(logits)
    confidence, right = given.max(axis=1), given.argmax(axis=1) == labels
    errors = int((~right).sum())
    return {
        "avg_confidence": float(confidence.mean()),
        "high_confidence_ratio": float((confidence > HIGH).mean()),
        "low_confidence_samples": int((confidence < LOW).sum()),
        "confidence_distribution": {
            f"{low:.1f}-{high:.1f}": rows
            for low, high, rows in zip(*_edges(), _per_bin(confidence), strict=True)
            if high > 1 / given.shape[1]
        },
        "calibration": {
            "temperature": calibration.temperature,
            "fitted": calibration.fitted,
            "before": calibration_figures(labels, softmax(logits.astype(np.float64), axis=1)),
            "after": calibration_figures(labels, given),
        },
        "selective": {
            "aurc": aurc(confidence, right),
            "random_aurc": errors / len(right),
            "best_aurc": best_aurc(errors, len(right)),
        },
        "abstention": _abstention(confidence, right, calibration),
        "prediction_sets": _prediction_sets(given, labels, calibration),
    }


def calibration_figures(labels: Indices, given: Probabilities) -> dict[str, Any]:
    """Expected calibration error, Brier score, log-loss and the reliability curve."""
    confidence, right = given.max(axis=1), given.argmax(axis=1) == labels
    return {
        "ece": expected_calibration_error(confidence, right),
        "brier": brier(labels, given),
        "log_loss": log_loss(labels, given),
        "reliability": reliability(confidence, right),
    }


def reliability(confidence: Confidence, right: Flags) -> list[dict[str, Any]]:
    """Mean confidence and accuracy of the rows of each bin of confidence; a bin without rows has None for both."""
    places = _places(confidence)
    curve = []
    for place, (low, high) in enumerate(zip(*_edges(), strict=True)):
        inside = places == place
        rows = int(inside.sum())
        hits = share_interval(int(right[inside].sum()), rows)
        curve.append(
            {
                "low": low,
                "high": high,
                "rows": rows,
                "confidence": float(confidence[inside].mean()) if rows else None,
                "accuracy": float(right[inside].mean()) if rows else None,
                "interval": _record(hits),
            }
        )
    return curve


def expected_calibration_error(confidence: Confidence, right: Flags) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their rows (Naeini et al. 2015)."""
    curve = reliability(confidence, right)
    return sum(abs(part["confidence"] - part["accuracy"]) * part["rows"] for part in curve if part["rows"]) / len(right)


def brier(labels: Indices, given: Probabilities) -> float:
    """Mean squared distance to the true label's unit vector, summed over the labels: 0 to 2 (Brier 1950)."""
    return float(((given - np.eye(given.shape[1])[labels]) ** 2).sum(axis=1).mean())


def risk_coverage(confidence: Confidence, right: Flags) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Selective risk: the share of errors among the most confident rows, for every number of them.

    Rows of equal confidence are taken in random order: their errors are spread evenly over them.

    Returns:
        coverage and risk, `[rows]` each, ascending in coverage (El-Yaniv and Wiener 2010).
    """
    _, tie, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(tie, weights=~right) / sizes
    taken = np.arange(1, len(right) + 1)
    return taken / len(right), np.cumsum(np.repeat(wrong, sizes)) / taken


def aurc(confidence: Confidence, right: Flags) -> float:
    """Area under the risk-coverage curve: the mean selective risk (Geifman et al. 2019, arXiv:1805.08206)."""
    return float(risk_coverage(confidence, right)[1].mean())


def best_aurc(errors: int, rows: int) -> float:
    """The area if every error had less confidence than every right answer."""
    taken = np.arange(1, rows + 1)
    return float((np.maximum(taken - (rows - errors), 0) / taken).mean())


def _abstention(confidence: Confidence, right: Flags, calibration: Calibration) -> dict[str, Any]:
    answered = confidence >= calibration.threshold
    hits = right[answered]
    among = share_interval(int(hits.sum()), len(hits))
    return {
        "rule": calibration.abstain,
        "target": calibration.target,
        "threshold": calibration.threshold,
        "validation": {
            "coverage": calibration.coverage,
            "accuracy": calibration.accuracy,
            "rows": calibration.rows,
        },
        "test": {
            "coverage": float(answered.mean()),
            "coverage_interval": _record(share_interval(int(answered.sum()), len(right))),
            "accuracy": float(hits.mean()) if len(hits) else None,
            "accuracy_interval": _record(among),
            "answered": len(hits),
            "rows": len(right),
        },
    }


def _prediction_sets(given: Probabilities, labels: Indices, calibration: Calibration) -> dict[str, Any]:
    held = (given >= calibration.set_threshold) | (given == given.max(axis=1, keepdims=True))  # [rows, num_labels]
    covered = held[np.arange(len(labels)), labels]
    sizes = held.sum(axis=1)
    return {
        "target": calibration.set_coverage,
        "threshold": calibration.set_threshold,
        "coverage": float(covered.mean()),
        "interval": _record(share_interval(int(covered.sum()), len(labels))),
        "mean_size": float(sizes.mean()),
        "sizes": {str(size): int((sizes == size).sum()) for size in range(given.shape[1] + 1) if (sizes == size).any()},
    }


def _record(interval: Interval | None) -> dict[str, Any] | None:
    return interval.record() if interval else None


def _edges() -> tuple[list[float], list[float]]:
    return [i / BINS for i in range(BINS)], [(i + 1) / BINS for i in range(BINS)]


def _places(confidence: Confidence) -> NDArray[np.int64]:
    """Bin of each row; a confidence on an edge belongs to the upper bin."""
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def _per_bin(confidence: Confidence) -> list[int]:
    return np.bincount(_places(confidence), minlength=BINS).tolist()


def show_confidence(figures: dict[str, Any], path: Path) -> None:
    """Print the summary of what confidence is worth."""
    fitted = figures["calibration"]
    before, after = fitted["before"]["ece"], fitted["after"]["ece"]
    how = f"temperature {fitted['temperature']:.2f}" if fitted["fitted"] else "no temperature: validation gives none"
    say(f"confidence: {how}; calibration error {before:.3f} before, {after:.3f} after")
    test = figures["abstention"]["test"]
    if figures["abstention"]["rule"] != "never":
        right = "none of them" if test["accuracy"] is None else f"{test['accuracy']:.4f} of them right"
        say(
            f"answering from a confidence of {figures['abstention']['threshold']:.3f}: {test['answered']:,} of "
            f"{test['rows']:,} rows, {right}"
        )
    sets = figures["prediction_sets"]
    say(
        f"prediction sets for {sets['target']:.0%}: hold the true label in {sets['coverage']:.1%} of rows, "
        f"{sets['mean_size']:.2f} labels each; figures in {path}"
    )
