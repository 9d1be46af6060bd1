"""Measuring calibration, selective prediction and prediction sets on test rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from labeltune.console.terminal import say
from labeltune.data.labels import Indices, Probabilities
from labeltune.data.prevalence import effective, row_weights
from labeltune.evaluation.metrics import Flags, Interval, effective_interval, share_interval
from labeltune.inference.calibration import Calibration, Logits
from labeltune.probing.regression import row_losses

BINS = 10
"""Number of confidence bins, which have equal width."""
HIGH, LOW = 0.9, 0.6
"""A confidence above the first counts as high, below the second as low."""

Confidence = NDArray[np.float64]
Weights = NDArray[np.float64]
"""Weight of each row, `[rows]`."""


def analyse(logits: Logits, labels: Indices, calibration: Calibration, names: Sequence[str]) -> dict[str, Any]:
    """Return the content of confidence_analysis.json, measured on the test rows.

    The figures are for the calibration at the label shares of these rows. If other shares are expected in use,
    `prevalence` has the figures at those shares, for which the rows are weighted by importance.

    Args:
        logits: logits before the temperature, `[rows, num_labels]`.
        labels: index of each row's label, `[rows]`.
        names: label names, `[num_labels]`.
    """
    used, calibration = calibration, calibration.measured
    given, raw = calibration.probabilities(logits), softmax(logits.astype(np.float64), axis=1)
    guesses, confidence = calibration.answers(given), calibration.confidence(given)
    right = guesses == labels
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
            "bias": dict(zip(names, calibration.bias, strict=True)) if calibration.bias else None,
            "before": calibration_figures(labels, raw, raw.argmax(axis=1), names),
            "after": calibration_figures(labels, given, guesses, names),
        },
        "selective": {
            "aurc": aurc(confidence, right),
            "random_aurc": errors / len(right),
            "best_aurc": best_aurc(errors, len(right)),
        },
        "abstention": _abstention(confidence, right, calibration),
        "prediction_sets": _prediction_sets(given, guesses, labels, calibration),
        "prevalence": _at_prevalence(logits, labels, used, names) if used.on_rows else None,
    }


def _at_prevalence(logits: Logits, labels: Indices, calibration: Calibration, names: Sequence[str]) -> dict[str, Any]:
    """Return the figures at other label shares, to which the rows are weighted."""
    weights = row_weights(labels, np.array([calibration.shares[name] for name in names]))
    given = calibration.probabilities(logits)
    guesses, confidence = calibration.answers(given), calibration.confidence(given)
    right = guesses == labels
    return {
        "shares": calibration.shares,
        "avg_confidence": float(np.average(confidence, weights=weights)),
        "calibration": calibration_figures(labels, given, guesses, names, weights),
        "abstention": _abstention(confidence, right, calibration, weights),
        "prediction_sets": _prediction_sets(given, guesses, labels, calibration, weights),
    }


def calibration_figures(
    labels: Indices,
    given: Probabilities,
    guesses: Indices,
    names: Sequence[str],
    weights: Weights | None = None,
) -> dict[str, Any]:
    """Return calibration error, Brier score, log-loss, reliability curve, and the calibration of each label.

    Errors of two labels can cancel in the overall calibration error. `per_label` therefore has the calibration of the
    rows that are predicted as a label, and that of each label's probability over all rows (class-wise calibration, Kull
    et al. 2019, arXiv:1910.12656).

    Args:
        labels: index of each row's label, `[rows]`.
        given: `[rows, num_labels]`.
        guesses: index of the predicted label, `[rows]`.
        names: label names, `[num_labels]`.
        weights: weights of the rows, `[rows]`; None for equal ones.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    confidence, right = given[np.arange(len(labels)), guesses], guesses == labels
    per_label = {}
    for place, name in enumerate(names):
        said, of_label = guesses == place, labels == place
        value, interval = _share(right[said], weights[said])
        per_label[name] = {
            "answered": int(said.sum()),
            "confidence": float(np.average(confidence[said], weights=weights[said])) if value is not None else None,
            "accuracy": value,
            "accuracy_interval": interval,
            "classwise_ece": expected_calibration_error(given[:, place], of_label, weights),
            "reliability": reliability(given[:, place], of_label, weights),
        }
    return {
        "ece": expected_calibration_error(confidence, right, weights),
        "classwise_ece": float(np.mean([figures["classwise_ece"] for figures in per_label.values()])),
        "brier": float(np.average(_squares(labels, given), weights=weights)),
        "log_loss": float(np.average(row_losses(labels, given), weights=weights)),
        "reliability": reliability(confidence, right, weights),
        "per_label": per_label,
    }


def _share(flags: Flags, weights: Weights, chosen_by: float = 0.0) -> tuple[float | None, dict[str, Any] | None]:
    """Return the weighted share of the flags and its interval; None without rows.

    Args:
        flags: `[rows]`.
        weights: `[rows]`.
        chosen_by: number of rows by which a threshold was chosen; 0 for none. Both samples vary then, so the interval
            is that of a share of 1 / (1 / rows + 1 / chosen_by) rows.
    """
    if not len(flags) or not weights.any():
        return None, None
    rows = effective(weights)
    value = float(np.average(flags, weights=weights))
    if chosen_by:
        return value, _record(effective_interval(value, 1 / (1 / rows + 1 / chosen_by)))
    if np.ptp(weights) == 0:
        return value, _record(share_interval(int(flags.sum()), len(flags)))
    return value, _record(effective_interval(value, rows))


def reliability(confidence: Confidence, right: Flags, weights: Weights | None = None) -> list[dict[str, Any]]:
    """Return the mean confidence and the accuracy of each confidence bin; both are None for an empty bin."""
    weights = np.ones(len(right)) if weights is None else weights
    places = _places(confidence)
    curve = []
    for place, (low, high) in enumerate(zip(*_edges(), strict=True)):
        inside = places == place
        value, interval = _share(right[inside], weights[inside])
        curve.append(
            {
                "low": low,
                "high": high,
                "rows": int(inside.sum()),
                "weight": float(weights[inside].sum() / weights.sum()),
                "confidence": None if value is None else float(np.average(confidence[inside], weights=weights[inside])),
                "accuracy": value,
                "interval": interval,
            }
        )
    return curve


def expected_calibration_error(confidence: Confidence, right: Flags, weights: Weights | None = None) -> float:
    """Return the mean distance of confidence and accuracy, weighted by the rows of each bin (Naeini et al. 2015)."""
    curve = reliability(confidence, right, weights)
    return sum(abs(part["confidence"] - part["accuracy"]) * part["weight"] for part in curve if part["weight"])


def brier(labels: Indices, given: Probabilities) -> float:
    """Return the Brier score: the mean squared distance to the one-hot true label, 0 to 2 (Brier 1950)."""
    return float(_squares(labels, given).mean())


def _squares(labels: Indices, given: Probabilities) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = ((given - np.eye(given.shape[1])[labels]) ** 2).sum(axis=1)
    return squares


def risk_coverage(confidence: Confidence, right: Flags) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the selective risk, the share of errors among the most confident rows, for every coverage.

    Rows of equal confidence have no order, so their errors are spread evenly over them.

    Returns:
        coverage and risk, `[rows]` each, ascending in coverage (El-Yaniv and Wiener 2010).
    """
    _, tie, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(tie, weights=~right) / sizes
    taken = np.arange(1, len(right) + 1)
    return taken / len(right), np.cumsum(np.repeat(wrong, sizes)) / taken


def aurc(confidence: Confidence, right: Flags) -> float:
    """Return AURC, the mean selective risk over all coverages (Geifman et al. 2019, arXiv:1805.08206)."""
    return float(risk_coverage(confidence, right)[1].mean())


def best_aurc(errors: int, rows: int) -> float:
    """Return the area if every error had a lower confidence than every right prediction."""
    taken = np.arange(1, rows + 1)
    return float((np.maximum(taken - (rows - errors), 0) / taken).mean())


def _abstention(
    confidence: Confidence, right: Flags, calibration: Calibration, weights: Weights | None = None
) -> dict[str, Any]:
    """Return coverage and selective accuracy; the intervals account for the rows that chose the threshold."""
    weights = np.ones(len(right)) if weights is None else weights
    answered = confidence >= calibration.threshold
    chosen_by = calibration.effective_rows
    coverage, coverage_interval = _share(answered, weights, chosen_by)
    accuracy, accuracy_interval = _share(right[answered], weights[answered], chosen_by * calibration.coverage)
    achieved = {"coverage": coverage_interval, "accuracy": accuracy_interval}.get(calibration.abstain)
    return {
        "rule": calibration.abstain,
        "target": calibration.target,
        "certainty": calibration.certainty,
        "threshold": calibration.threshold,
        "met": None if achieved is None or calibration.target is None else achieved["high"] >= calibration.target,
        "validation": {
            "coverage": calibration.coverage,
            "accuracy": calibration.accuracy,
            "rows": calibration.rows,
        },
        "test": {
            "coverage": coverage,
            "coverage_interval": coverage_interval,
            "accuracy": accuracy,
            "accuracy_interval": accuracy_interval,
            "answered": int(answered.sum()),
            "rows": len(right),
        },
    }


def _prediction_sets(
    given: Probabilities,
    guesses: Indices,
    labels: Indices,
    calibration: Calibration,
    weights: Weights | None = None,
) -> dict[str, Any]:
    weights = np.ones(len(labels)) if weights is None else weights
    held = (given >= calibration.set_threshold) | np.eye(given.shape[1], dtype=bool)[guesses]  # [rows, num_labels]
    covered = held[np.arange(len(labels)), labels]
    sizes = held.sum(axis=1)
    coverage, interval = _share(covered, weights, calibration.effective_rows)
    target = calibration.set_coverage
    return {
        "target": target,
        "certainty": calibration.certainty,
        "threshold": calibration.set_threshold,
        "met": None if interval is None or target is None else interval["high"] >= target,
        "coverage": coverage,
        "interval": interval,
        "mean_size": float(np.average(sizes, weights=weights)),
        "sizes": {str(size): int((sizes == size).sum()) for size in range(given.shape[1] + 1) if (sizes == size).any()},
    }


def _record(interval: Interval | None) -> dict[str, Any] | None:
    return interval.record() if interval else None


def _edges() -> tuple[list[float], list[float]]:
    return [i / BINS for i in range(BINS)], [(i + 1) / BINS for i in range(BINS)]


def _places(confidence: Confidence) -> NDArray[np.int64]:
    """Return the bin of each row; a confidence on an edge belongs to the upper bin."""
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def _per_bin(confidence: Confidence) -> list[int]:
    return np.bincount(_places(confidence), minlength=BINS).tolist()


def show_confidence(figures: dict[str, Any], path: Path) -> None:
    """Print the summary of the confidence analysis."""
    fitted = figures["calibration"]
    before, after = fitted["before"]["ece"], fitted["after"]["ece"]
    how = f"temperature {fitted['temperature']:.2f}" if fitted["fitted"] else "no temperature, as set"
    say(f"confidence: {how}; calibration error {before:.3f} before, {after:.3f} after")
    there = figures["prevalence"]
    if there:
        error = there["calibration"]["ece"]
        say(f"at the label shares in use: calibration error {error:.3f}, and the following")
    abstention, sets = ((there or figures)[name] for name in ("abstention", "prediction_sets"))
    test = abstention["test"]
    if abstention["rule"] != "never":
        right = "none of them" if test["accuracy"] is None else f"{test['accuracy']:.4f} of them right"
        missed = f"; the target of {abstention['target']:.0%} is missed" if abstention["met"] is False else ""
        say(f"answering from a confidence of {abstention['threshold']:.3f}: {test['coverage']:.1%}, {right}{missed}")
    say(
        f"prediction sets for {sets['target']:.0%}: hold the true label in {sets['coverage']:.1%}, "
        f"{sets['mean_size']:.2f} labels each; figures in {path}"
    )
