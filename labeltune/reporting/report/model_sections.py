"""What the sections on accuracy, confidence and training state beside the recorded figures."""

from typing import Any

from labeltune.reporting.report.results import Figures, RunResults

MOST_CONFUSED = 3
"""Confusions that the sentence under the matrix names."""
MOST_SHARES = 4
"""Labels whose shares a sentence names."""
NOTABLE = 0.005
"""Confidence that is less than this off the accuracy counts as neither too high nor too low."""


def accuracy(results: RunResults) -> dict[str, Any]:
    """Return the facts of accuracy.md."""
    figures = results.metrics
    pairs, errors = confusions(figures)
    return {
        "errors": errors,
        "most_confused": pairs[:MOST_CONFUSED],
        "all_named": len(pairs) <= MOST_CONFUSED,
        "lowest": {key: lowest(figures, key) for key in ("precision", "recall", "roc_auc")},
        "undefined": {
            key: [name for name, row in figures["per_class"].items() if row[key] is None]
            for key in ("precision", "recall", "f1", "roc_auc")
        },
        "without_interval": any(
            figures[key] is not None and figures["intervals"][key] is None
            for key in ("accuracy", "macro_f1", "roc_auc")
        ),
    }


def confusions(figures: Figures) -> tuple[list[tuple[int, str, str]], int]:
    """Return count, label and prediction of every confusion, the most frequent first, and the number of errors."""
    pairs = [
        (count, label, guess)
        for label, row in figures["confusion_matrix"].items()
        for guess, count in row.items()
        if label != guess and count
    ]
    return sorted(pairs, key=lambda pair: -pair[0]), sum(count for count, _, _ in pairs)


def lowest(figures: Figures, key: str) -> tuple[str, float] | None:
    """Return the label with the lowest value of a figure, and the value; None where it is undefined for all."""
    known = {name: row[key] for name, row in figures["per_class"].items() if row[key] is not None}
    return min(known.items(), key=lambda item: item[1]) if known else None


def only_label(figures: Figures) -> str | None:
    """Return the label of all test rows, for which the area under the ROC curve is undefined; None where it has one."""
    if figures["roc_auc"] is not None:
        return None
    (only,) = (name for name, row in figures["per_class"].items() if row["support"])
    return str(only)


def shares_in_use(figures: Figures) -> list[tuple[str, float]]:
    """Return the most frequent labels where the classifier is used, with their shares; none where rows have those."""
    found = figures["prevalence"]
    return sorted(found["shares"].items(), key=lambda share: -share[1])[:MOST_SHARES] if found else []


def confidence(results: RunResults) -> dict[str, Any]:
    """Return the facts of confidence.md; none where confidence was not analysed."""
    found = results.confidence
    if found is None:
        return {}
    labels = found["calibration"]["after"]["per_label"]
    return {
        "bias": bias(found["avg_confidence"], results.metrics["accuracy"]),
        "change": change(found["calibration"]),
        "sorted": sorting(found["selective"]),
        "never_answered": [name for name, row in labels.items() if not row["answered"]],
        "sets": (found["prevalence"] or found)["prediction_sets"],
        "sizes": sorted(
            (int(size), rows)
            for size, rows in (found["prevalence"] or found)["prediction_sets"].get("sizes", {}).items()
        ),
        "distribution": {part.replace("-", "–"): rows for part, rows in found["confidence_distribution"].items()},
    }


def bias(confidence: float, accuracy: float) -> str:
    """Tell whether mean confidence is `fair`, `over` or `under` the accuracy."""
    if abs(confidence - accuracy) < NOTABLE:
        return "fair"
    return "over" if confidence > accuracy else "under"


def change(calibration: Figures) -> str:
    """Tell what calibration did to its error on the test rows: `none`, `same`, `smaller` or `larger`."""
    before, after = (calibration[when]["ece"] for when in ("before", "after"))
    if not calibration["fitted"]:
        return "none"
    if round(before, 3) == round(after, 3):
        return "same"
    return "smaller" if after < before else "larger"


def sorting(areas: Figures) -> float | None:
    """Return how far ranking by confidence gets from a random ranking, 0, to the best, 1; None without errors."""
    room = areas["random_aurc"] - areas["best_aurc"]
    return float((areas["random_aurc"] - areas["aurc"]) / room) if room > 0 else None


def abstention(results: RunResults) -> Figures | None:
    """Return threshold, coverage and accuracy of the answers, at the shares of labels where the classifier is used."""
    found = results.confidence
    return None if found is None else dict((found["prevalence"] or found)["abstention"])


def calibration_error(results: RunResults) -> float | None:
    """Return the mean difference of confidence and accuracy, at the shares of labels where the classifier is used."""
    found = results.confidence
    if found is None:
        return None
    return float((found["prevalence"]["calibration"] if found["prevalence"] else found["calibration"]["after"])["ece"])
