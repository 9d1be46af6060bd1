"""Rows of a table, which every format returns, and the conversion of their values to text."""

import datetime as dt
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from labeltune.data.targets import TOGETHER
from labeltune.runtime.errors import UserError

SPANS = "labelling parts of a text is no task of this version"
CHUNK = 1024
"""Number of rows in memory at a time: enough to sort by length, few enough to lose little when stopped."""

Row = dict[str, Any]
Place = int | str
"""Line or row number, 1-based; `3.2` is the second object on line 3."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table that is open for reading."""

    columns: tuple[str, ...]
    """The keys of the rows in the order of the file; for JSON, those of the first `PEEKED` records."""
    header: tuple[str, ...] | int
    """The names of the columns in the file, empty for a column without one; their number if there is no header."""
    where: str
    """File and line of the names, for messages."""
    classes: dict[str, list[str]] = field(default_factory=dict)
    """Column of class numbers -> their names, as the datasets library records them in Parquet and Arrow files."""
    take: Callable[[Sequence[str] | None], Iterator[tuple[Place, Row]]]
    """Iterate over the rows once, with all columns or only those given; other columns of Parquet files are not read."""


def as_text(value: object, where: str, key: str) -> str | None:
    """Convert a value to text: a string as it is, `true`, `3` also for 3.0, other numbers as in the file.

    Args:
        value: The value.
        where: File and line of the row, for the message.
        key: The setting that names the column, for the message.

    Returns:
        None for null and NaN.

    Raises:
        UserError: The value is a list, an object or bytes.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    # Bounded, since Decimal("1e999999999") is short and its integer is not.
    if isinstance(value, float | Decimal) and abs(float(value)) < 1e15 and value == int(value):
        return str(int(value))
    if isinstance(value, int | float | Decimal | dt.date):
        return str(value)
    raise UserError(f"{where}: one value is expected, found {type(value).__name__} {value!r:.60}; see {key}")


def as_label(value: object, where: str, key: str) -> str | None:
    """Convert a raw label to text; a list of one label, as annotation tools export it, is that label.

    Raises:
        UserError: There are several labels, or the value is an object or bytes.
    """
    if isinstance(value, list):
        if any(isinstance(one, list) for one in value):
            raise UserError(f"{where}: spans of the text {value!r:.60}, as of named entities: {SPANS}; see {key}")
        if len(value) > 1:
            raise UserError(f"{where}: several labels {value!r:.60}: {TOGETHER}; see {key}")
        value = value[0] if value else None
    found = as_text(value, where, key)
    return found if found is None else found.strip()


def class_name(number: int | None, names: Sequence[str], where: str) -> str | None:
    """Return the name of a class number; -1 marks a row without a label, as in GLUE's test splits.

    Raises:
        UserError: The number has no name; `where` is the file and the row, for the message.
    """
    if number is None or number == -1:
        return None
    if not 0 <= number < len(names):
        raise UserError(
            f"{where}: class number {number}, and the file names {len(names)} classes: 0 to {len(names) - 1}"
        )
    return names[number]


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse duplicate column names; several columns may have no name."""
    columns = [name.strip() for name in names]
    twice = [name for name, count in Counter(columns).items() if count > 1 and name]
    if twice:
        shown = ", ".join(name or "(no name)" for name in columns[:12])
        raise UserError(f"{where}: column names stand twice: {', '.join(twice)}; columns: {shown}")
