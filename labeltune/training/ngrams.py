"""Fitting an n-gram model as a classifier by itself, or beside a network, and what it is worth on validation rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeltune.data.labels import Indices
from labeltune.modeling.ngrams import Logits, Ngrams, Search, search
from labeltune.probing.regression import single_threaded
from labeltune.training.cross_fitting import chosen_by_others

Labelled = tuple[Sequence[str], Sequence[int]]
"""Texts, and the index of each one's label."""


@dataclass(frozen=True, kw_only=True)
class FittedNgrams:
    """An n-gram model with its logits of the validation rows."""

    model: Ngrams
    """The model."""
    logits: Logits
    """Its logits of the validation rows, `[rows, num_labels]`."""
    judged: Logits
    """Logits of the same rows, each by the model that rows of the other folds choose: the validation rows choose kind
    and C, and the best of several looks better than it is on the rows that chose it."""

    @classmethod
    def fit(cls, train: Labelled, validation: Labelled, num_labels: int) -> "FittedNgrams":
        """Fit to the training rows; the validation rows choose the kind of n-grams and C."""
        labels = np.array(validation[1])
        with single_threaded():
            found = search(train[0], np.array(train[1]), validation[0], labels, num_labels)
        return cls.of(found, validation[0], labels)

    @classmethod
    def of(cls, found: Search, texts: Sequence[str], labels: Indices) -> "FittedNgrams":
        """The best model of a search; `texts` and `labels` are those of the validation rows."""
        judged = chosen_by_others(found.logits, labels)
        return cls(model=found.model, logits=found.model.logits(texts), judged=judged)

    def choices(self) -> dict[str, object]:
        """What the validation rows chose, as metrics/train.json holds it."""
        return {"kind": self.model.kind, "C": self.model.c, "features": len(self.model.idf)}
