"""Every changed text with its answer, and the answers that changed with it."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from labeltune.robustness import Answers, Given, Trial

COLUMNS = [
    "perturbation", "id", "label", "text", "changed_text", "prediction", "changed_prediction", "confidence",
    "changed_confidence",
]  # fmt: skip
"""What a flip is told by; the table of all rows has the severity as well."""


def rows(given: Given, trials: Iterable[Trial], answers: Answers) -> pd.DataFrame:
    """One row per changed text, with both answers: the label and how confident it is."""
    names = given.names.names
    lines: dict[tuple[str, float | None, int], dict[str, Any]] = {}
    for trial in trials:
        for row, text in zip(trial.rows, trial.texts, strict=True):
            key = (trial.name, trial.severity, row)  # a point of the severity curve may be one of the tests too
            if text != given.texts[row] and key not in lines:
                before, after = given.probabilities[row], answers[text]
                lines[key] = {
                    "perturbation": trial.name,
                    "severity": trial.severity,
                    "id": given.ids[row],
                    "label": names[given.labels[row]],
                    "text": given.texts[row],
                    "changed_text": text,
                    "prediction": names[before.argmax()],
                    "changed_prediction": names[after.argmax()],
                    "confidence": before.max(),
                    "changed_confidence": after.max(),
                }
    return pd.DataFrame(list(lines.values()), columns=[COLUMNS[0], "severity", *COLUMNS[1:]])


def worst(table: pd.DataFrame, severity: float, most: int) -> pd.DataFrame:
    """The rows whose answer changed, first those in which the less confident of both answers is most so.

    Args:
        table: what `rows` gives.
        severity: the tests'; flips at other severities are in the table alone.
    """
    tested = table["severity"].isna() | (table["severity"] == severity)
    flipped = table[tested & (table["prediction"] != table["changed_prediction"])]
    order = flipped[["confidence", "changed_confidence"]].min(axis=1).sort_values(ascending=False, kind="stable").index
    return flipped.loc[order[:most], COLUMNS]
