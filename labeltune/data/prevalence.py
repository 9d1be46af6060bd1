"""Prevalence: how frequent each label is where the rows come from, and among the rows that are left after balancing."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labeltune.data.labels import LabelSet
from labeltune.runtime.files import write_json

FILE = "prevalence.json"

Shares = dict[str, float]
"""Label -> its share of the rows; the shares add up to 1."""


@dataclass(frozen=True, kw_only=True)
class Prevalence:
    """The shares of the labels before and after `prepare.balance`; without balancing all three are equal."""

    source: Shares
    """Before balancing, duplicates and other rows that the checks drop left out."""
    trained: Shares
    """Of the training rows, after balancing."""
    measured: Shares
    """Of the validation and test rows: those of `trained` where one table was balanced and then split, those of
    `source` where only given training rows were balanced."""

    @classmethod
    def of(cls, before: Iterable[str], after: Iterable[str], *, table: bool) -> "Prevalence":
        """Count the labels of rows before and after balancing.

        Args:
            table: whether validation and test rows are drawn from the balanced rows.

        >>> Prevalence.of(["ham"] * 3 + ["spam"], ["ham", "spam"], table=True).source
        {'ham': 0.75, 'spam': 0.25}
        """
        source, trained = _shares(before), _shares(after)
        return cls(source=source, trained=trained, measured=trained if table else source)

    def save(self, folder: Path) -> None:
        """Write the shares as JSON."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "Prevalence":
        """Read what `save` wrote."""
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))


def _shares(labels: Iterable[str]) -> Shares:
    names, counts = np.unique(np.array(list(labels), dtype=object), return_counts=True)
    return {str(name): float(count / counts.sum()) for name, count in zip(names, counts, strict=True)}


def in_order(shares: Shares, labels: LabelSet) -> NDArray[np.float64]:
    """The shares in the order of the label set, `[num_labels]`."""
    return np.array([shares[name] for name in labels.names])
