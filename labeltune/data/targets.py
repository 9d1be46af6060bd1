"""Detection of unsupported targets: several labels per row, or numbers on a scale."""

import re
from collections.abc import Collection

from labeltune.runtime.errors import UserError

SEPARATORS = "|;,"
MANY = 20
"""Number of distinct numbers from which labels count as measurements and not as classes."""
SHOWN = 3
TOGETHER = "a text with several labels is no task of this version"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def check_labels(labels: Collection[str], rows: int, where: str, advice: str) -> None:
    """Refuse labels that look like several labels per row, or like numbers to be predicted.

    Args:
        labels: The distinct labels.
        rows: Number of rows with them.
        where: The data set or file, for the message.
        advice: What to do if they are classes after all, for the message.

    Raises:
        UserError: One text has several labels, or the labels are measurements.
    """
    for separator in SEPARATORS:
        joined = [label for label in labels if separator in label]
        parts = {part.strip() for label in labels for part in label.split(separator)}
        # Parts that recur in other labels are labels of their own; in "Home, Garden" they are words of a name.
        if joined and len(parts) < len(labels) and "" not in parts:
            shown = ", ".join(map(repr, sorted(joined)[:SHOWN]))
            raise UserError(
                f"{where}: {shown} look like several labels with {separator!r} between: {TOGETHER}; {advice}"
            )
    if len(labels) > MANY and all(NUMBER.fullmatch(label) for label in labels):
        whole = all(float(label).is_integer() for label in labels)
        if not whole or 2 * len(labels) > rows:
            shown = ", ".join(sorted(labels, key=float)[:SHOWN])
            look = f"the labels are {len(labels)} different numbers ({shown}, ...), like a score to be predicted"
            raise UserError(f"{where}: {look}: regression is no task of this version; {advice}")
