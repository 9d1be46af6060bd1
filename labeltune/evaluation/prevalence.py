"""Figures at the label shares that are expected in use, instead of those of the test rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from labeltune.data.labels import Indices, Probabilities
from labeltune.data.prevalence import row_weights
from labeltune.evaluation.metrics import bootstrap
from labeltune.inference.calibration import Calibration, Logits
from labeltune.probing.regression import row_losses


def in_use(
    logits: Logits, labels: Indices, calibration: Calibration, names: Sequence[str], *, seed: int, resamples: int
) -> dict[str, Any] | None:
    """Return a classifier's figures at the shares in use, as in `at_shares`; None if the rows have those shares."""
    if calibration.on_rows is None:
        return None
    given = calibration.probabilities(logits)
    guesses = calibration.answers(given)
    return at_shares(labels, given, guesses, names, calibration.shares, seed=seed, resamples=resamples)


def at_shares(
    labels: Indices,
    probabilities: Probabilities,
    guesses: Indices,
    names: Sequence[str],
    shares: Mapping[str, float],
    *,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Return the entry `prevalence` of metrics.json: figures at other label shares than those of the test rows.

    Each test row is weighted by the ratio of its label's share to that among the test rows (importance weighting). A
    label without a test row can't be weighted: the figures leave it out, and `missing` names it.

    Args:
        labels: index of each row's label, `[rows]`.
        probabilities: probabilities at those shares, `[rows, num_labels]`.
        guesses: index of the label predicted with them, `[rows]`.
        names: label names, `[num_labels]`.
        shares: label -> share.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.
    """
    weights = row_weights(labels, np.array([shares[name] for name in names]))
    right = guesses == labels
    weighted, hits = weights / weights.mean(), weights * right
    interval = bootstrap(
        lambda rows: hits[rows].sum(axis=-1) / weights[rows].sum(axis=-1), len(labels), seed=seed, resamples=resamples
    )
    matrix = confusion_matrix(labels, guesses, labels=range(len(names)), sample_weight=weights)
    per_class = {}
    for i, name in enumerate(names):
        found, guessed, support = float(matrix[i, i]), float(matrix[:, i].sum()), float(matrix[i].sum())
        per_class[name] = {
            "share": shares[name],
            "precision": found / guessed if guessed else None,
            "recall": found / support if support else None,
            "f1": 2 * found / (guessed + support) if guessed + support else None,
        }
    known = [row["f1"] for row in per_class.values() if row["f1"] is not None]
    return {
        "shares": {name: shares[name] for name in names},
        "missing": [name for i, name in enumerate(names) if shares[name] and not (labels == i).any()],
        "accuracy": float((weighted * right).mean()),
        "accuracy_interval": interval.record() if interval else None,
        "macro_f1": float(np.mean(known)),
        "log_loss": float((weighted * row_losses(labels, probabilities)).mean()),
        "per_class": per_class,
    }
