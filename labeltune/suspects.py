"""Suspects: rows whose label is likely wrong, by confident learning over answers of models that never saw them."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from cleanlab.filter import find_label_issues

from labeltune.hygiene import near_earlier
from labeltune.intervals import Flags
from labeltune.metrics import Indices, Probabilities
from labeltune.regression import Regression


def families(texts: Sequence[str], threshold: float) -> Indices:
    """A number for each text, the same as that of its first near copy among the texts before it, `[rows]`."""
    matches = near_earlier(texts, range(len(texts)), threshold, inside=False)
    family = np.arange(len(texts))
    for row in np.flatnonzero(matches >= 0):
        family[row] = family[matches[row]]
    return family


def deal(labels: Indices, groups: Indices, *, folds: int, seed: int) -> Indices:
    """Give each row a fold, `[rows]`: rows of a group the same one, and each label's groups to the folds in turn.

    >>> deal(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 2, 2, 4, 5]), folds=2, seed=0).tolist()
    [1, 0, 0, 0, 0, 1]
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % folds
    return fold[group]


def out_of_fold(
    features: Any, labels: Indices, fold: Indices, num_labels: int, *, c: float, standardise: bool
) -> tuple[Probabilities, Flags]:
    """Judge each fold by a regression on features of the others.

    Args:
        features: `[rows, size]`, dense or sparse.
        labels: index of each row's label, `[rows]`.
        fold: of each row, `[rows]`.
        c: inverse strength of the regression's penalty.
        standardise: give every feature mean 0 and deviation 1; not for sparse ones.

    Returns:
        Probabilities `[rows, num_labels]`, and for which rows they say something: those whose label the regression
        has seen in another row, `[rows]`.
    """
    given, judged = np.zeros((len(labels), num_labels)), np.zeros(len(labels), dtype=bool)
    for part in np.unique(fold):
        inside = fold == part
        if not inside.all():
            model = Regression.fit(features[~inside], labels[~inside], num_labels, c=c, standardise=standardise)
            given[inside] = model.probabilities(features[inside])
            judged[inside] = np.isin(labels[inside], labels[~inside])
    return given, judged


def mislabelled(labels: Indices, given: Probabilities) -> Flags:
    """Which labels are likely wrong, `[rows]`, by confident learning (Northcutt et al. 2021, arXiv:1911.00068).

    As many rows of each label are named as the confident joint counts for each other label, those with the largest
    margin first; a row whose own label is the likeliest is never named. The counts suppose that the probabilities are
    of models that did not see the row.

    Args:
        labels: index of each row's label, `[rows]`.
        given: `[rows, num_labels]`.
    """
    if len(np.unique(labels)) < 2:  # with one label there is no other one to be confident in
        return np.zeros(len(labels), dtype=bool)
    with warnings.catch_warnings():
        # It says so of labels with one row or none; the row is then never named.
        warnings.filterwarnings("ignore", "May not flag all label issues in class", UserWarning)
        found = find_label_issues(labels, given, filter_by="prune_by_noise_rate", n_jobs=1)
    return np.asarray(found)
