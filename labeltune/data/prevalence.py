"""Prevalence: the frequency of each label before and after the rows are balanced."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labeltune.data.labels import Indices, LabelSet
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import write_json

FILE = "prevalence.json"
EQUAL = 1e-9
"""Absolute value up to which the logarithm of a ratio of shares counts as 0."""

Shares = dict[str, float]
"""Label -> its share of the rows; the shares add up to 1."""


@dataclass(frozen=True, kw_only=True)
class Prevalence:
    """The shares of the labels before and after `prepare.balance`; without balancing all three are equal."""

    source: Shares
    """Shares before balancing, without duplicates and other rows that the checks drop."""
    trained: Shares
    """Shares of the training rows after balancing."""
    measured: Shares
    """Shares of the validation and test rows: those of `trained` if one table was balanced and then split, those of
    `source` if only given training rows were balanced."""

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
        """Read the shares that `save` wrote."""
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))


def _shares(labels: Iterable[str]) -> Shares:
    names, counts = np.unique(np.array(list(labels), dtype=object), return_counts=True)
    return {str(name): float(count / counts.sum()) for name, count in zip(names, counts, strict=True)}


def in_order(shares: Shares, labels: LabelSet) -> NDArray[np.float64]:
    """Return the shares in the order of the label set, `[num_labels]`; 0 for a label without one."""
    return np.array([shares.get(name, 0.0) for name in labels.names])


def wanted(setting: str | Shares, prevalence: Prevalence, labels: LabelSet) -> Shares:
    """Return the shares that `calibrate.prevalence` asks for.

    Raises:
        UserError: it does not name exactly the labels.
    """
    if isinstance(setting, dict):
        if set(setting) != set(labels.names):
            raise UserError(
                f"calibrate.prevalence: names {sorted(setting)}, but the labels are {list(labels.names)}; give each a "
                "share, or set source or balanced"
            )
        total = sum(setting.values())
        return {name: setting[name] / total for name in labels.names}
    if setting == "balanced":
        return dict.fromkeys(labels.names, 1 / len(labels))
    return {name: prevalence.source.get(name, 0.0) for name in labels.names}


def log_ratio(shares: Shares, others: Shares, labels: LabelSet) -> list[float]:
    """Return the log ratio of the first shares to the second, `[num_labels]`; empty if all shares are equal.

    The ratio of a label that is missing from either is 1.

    >>> both = LabelSet(names=("ham", "spam"), words=("ham", "spam"))
    >>> [round(value, 2) for value in log_ratio({"ham": 0.9, "spam": 0.1}, {"ham": 0.5, "spam": 0.5}, both)]
    [0.59, -1.61]
    """
    first, second = in_order(shares, labels), in_order(others, labels)
    known = (first > 0) & (second > 0)
    ratios = np.zeros(len(labels))
    np.log(first, out=ratios, where=known)
    ratios -= np.log(second, out=np.zeros(len(labels)), where=known)
    return [] if np.allclose(ratios, 0, atol=EQUAL) else ratios.tolist()


def row_weights(labels: Indices, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights of rows that give their labels the wanted shares, `[rows]`; their mean is 1 if no label is absent.

    Args:
        labels: index of each row's label, `[rows]`.
        shares: of the labels, `[num_labels]`.
    """
    counts = np.bincount(labels, minlength=len(shares))
    return shares[labels] * len(labels) / counts[labels]


def effective(weights: NDArray[np.float64]) -> float:
    """Return the effective sample size of weighted rows (Kish 1965).

    >>> effective(np.array([1.0, 1.0, 1.0, 0.0]))
    3.0
    """
    return float(weights.sum() ** 2 / (weights**2).sum())
