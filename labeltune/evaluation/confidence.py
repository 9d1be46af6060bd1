"""Measuring calibration, selective prediction and prediction sets on test rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from labeltune.console.terminal import say
from labeltune.data.labels import Indices, Probabilities
from labeltune.evaluation.metrics import Flags, Interval, log_loss, share_interval
from labeltune.inference.calibration import Calibration, Logits

BINS = 10
"""Bins of confidence, of equal width."""
HIGH, LOW = 0.9, 0.6
"""Above the first a confidence counts as high, below the second as low."""

Confidence = NDArray[np.float64]


def analyse(logits: Logits, labels: Indices, calibration: Calibration, names: Sequence[str]) -> dict[str, Any]:
    """Everything that confidence_analysis.json holds, of the test rows.

    Args:
        logits: before the temperature, `[rows, num_labels]`.
        labels: index of each row's label, `[rows]`.
        names: label names, `[num_labels]`.
    """
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
    }


def calibration_figures(
    labels: Indices, given: Probabilities, guesses: Indices, names: Sequence[str]
) -> dict[str, Any]:
    """Calibration error, Brier score, log-loss and reliability curve, and how calibrated each label's answers are.

    Errors of two labels can cancel in the calibration error of all answers: `per_label` looks at the rows that are
    answered with a label, and at the probability of each label over all rows, right where the row has that label
    (class-wise calibration, Kull et al. 2019, arXiv:1910.12656).

    Args:
        labels: index of each row's label, `[rows]`.
        given: `[rows, num_labels]`.
        guesses: index of the label that is answered, `[rows]`.
        names: label names, `[num_labels]`.
    """
    confidence, right = given[np.arange(len(labels)), guesses], guesses == labels
    per_label = {
        name: _label_figures(confidence[guesses == place], right[guesses == place], given[:, place], labels == place)
        for place, name in enumerate(names)
    }
    return {
        "ece": expected_calibration_error(confidence, right),
        "classwise_ece": float(np.mean([figures["classwise_ece"] for figures in per_label.values()])),
        "brier": brier(labels, given),
        "log_loss": log_loss(labels, given),
        "reliability": reliability(confidence, right),
        "per_label": per_label,
    }


def _label_figures(confidence: Confidence, right: Flags, shares: Confidence, of_label: Flags) -> dict[str, Any]:
    """Confidence and accuracy of the answers with one label, and the class-wise error of its probability."""
    answered = len(confidence)
    return {
        "answered": answered,
        "confidence": float(confidence.mean()) if answered else None,
        "accuracy": float(right.mean()) if answered else None,
        "accuracy_interval": _record(share_interval(int(right.sum()), answered)),
        "classwise_ece": expected_calibration_error(shares, of_label),
        "reliability": reliability(shares, of_label),
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


def _prediction_sets(
    given: Probabilities, guesses: Indices, labels: Indices, calibration: Calibration
) -> dict[str, Any]:
    held = (given >= calibration.set_threshold) | np.eye(given.shape[1], dtype=bool)[guesses]  # [rows, num_labels]
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
    how = f"temperature {fitted['temperature']:.2f}" if fitted["fitted"] else "no temperature, as the settings ask"
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
