"""Cross-fitting: judging what validation rows choose on rows that took no part in the choice."""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from labeltune.data.labels import Indices
from labeltune.inference.calibration import Logits
from labeltune.probing.regression import row_losses

FOLDS = 10
SEED = 0
"""Of the folds: not the training's."""


def folds(labels: Indices) -> list[tuple[Indices, Indices]]:
    """Return pairs of rows to fit to and to judge, with the labels' shares in each where they have rows enough."""
    # Each label's rows are dealt out in turn, so that rare labels need no warning and no exception.
    order = np.random.default_rng(SEED).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    return [(np.flatnonzero(fold != one), np.flatnonzero(fold == one)) for one in range(FOLDS)]


def lowest_loss(candidates: Sequence[Logits], labels: Indices) -> int:
    """Return the place of the logits, `[rows, num_labels]` each, with the lowest log-loss, the first one on a tie."""
    losses = [row_losses(labels, softmax(one.astype(np.float64), axis=1)).mean() for one in candidates]
    return int(np.argmin(losses))


def chosen_by_others(candidates: Sequence[Logits], labels: Indices) -> Logits:
    """Return logits, `[rows, num_labels]`, each row's from the candidate that rows of the other folds choose.

    The best of several candidates looks better than it is on the rows that chose it; on these logits it does not.

    Args:
        candidates: logits of the same rows by models that differ in what is to be chosen.
        labels: index of each row's label, `[rows]`.
    """
    chosen = np.empty_like(candidates[0])
    for others, judged in folds(labels):
        place = lowest_loss([one[others] for one in candidates], labels[others]) if len(others) else 0
        chosen[judged] = candidates[place][judged]
    return chosen
