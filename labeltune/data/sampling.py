"""Stratified sampling: parts of a table with the label shares of the whole table."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pandas as pd


def stratified(frame: pd.DataFrame, shares: Sequence[float | Fraction], seed: int) -> list[pd.DataFrame]:
    """Split rows at random so that every part has the table's class shares, with exact part sizes.

    Every part but the last has `floor(share * rows)` rows; the last has the rest. The parts are filled in turn: a
    class's quota is its share of the rows that are still waiting; it gets the floor of it, and the rows then missing
    go to the classes with the largest remainders, the class that comes first by name winning ties. Shares count as
    the decimals they are written as: 0.29 of 100 is 29.

    Args:
        frame: the rows, with a column `label`.
        shares: share of each part but the last, which gets the remaining rows.
        seed: seed of the draw.

    Returns:
        One frame per part, its rows in the order of the table.

    >>> table = pd.DataFrame({"label": ["ham", "spam"] * 747})
    >>> [len(part) for part in stratified(table, [0.7, 0.1], seed=42)]
    [1045, 149, 300]
    """
    order = np.random.default_rng(seed).permutation(len(frame))
    labels = frame["label"].to_numpy()[order]
    waiting = {name: order[labels == name].tolist() for name in sorted(set(labels))}
    parts = []
    for share in shares:
        size, left = int(_exact(share) * len(frame)), sum(map(len, waiting.values()))
        quotas = {name: Fraction(size * len(rows), left) for name, rows in waiting.items()}
        taken = {name: int(quota) for name, quota in quotas.items()}
        by_remainder = sorted(quotas, key=lambda name: taken[name] - quotas[name])
        for name in by_remainder[: size - sum(taken.values())]:
            taken[name] += 1
        parts.append([row for name, rows in waiting.items() for row in rows[: taken[name]]])
        waiting = {name: rows[taken[name] :] for name, rows in waiting.items()}
    parts.append([row for rows in waiting.values() for row in rows])
    return [frame.iloc[sorted(rows)].reset_index(drop=True) for rows in parts]


def _exact(share: float | Fraction) -> Fraction:
    return share if isinstance(share, Fraction) else Fraction(str(share))


def sample(labels: Sequence[int], rows: int | str, seed: int) -> list[int]:
    """Return the ascending positions of a stratified sample of at most `rows` rows; `all` takes every row.

    >>> sample([0, 1] * 100, 4, seed=0)
    [6, 65, 105, 168]
    """
    if rows == "all" or int(rows) >= len(labels):
        return list(range(len(labels)))
    table = pd.DataFrame({"label": labels, "row": range(len(labels))})
    taken: list[int] = stratified(table, [Fraction(int(rows), len(labels))], seed)[0]["row"].tolist()
    return taken
