"""Tables for batch prediction, which are read and written in chunks of rows."""

import codecs
import csv
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from labeltune.data.columns import find_text_column
from labeltune.data.encodings import text_codec
from labeltune.data.formats.columnar import table_schema
from labeltune.data.formats.json_records import rows_of_lines
from labeltune.data.formats.rows import CHUNK, Row, as_text, class_name
from labeltune.data.readers import COLUMNAR, FORMATS, detect_format, format_suffix, open_rows
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import CsvStream

READ = (*dict.fromkeys(FORMATS.values()), "txt")
"""Formats of files to be labelled; `txt` has one text per line."""
PIPED = ("txt", "jsonl")
"""Formats whose rows can be read from a pipe as they arrive."""
BLOCK = 1 << 16
"""Number of bytes that are read from a pipe at a time, the size of a pipe's buffer in Linux."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file of rows to be labelled."""

    path: Path
    """The file."""
    format: str
    """One of `READ`."""
    encoding: str
    """Encoding of a text file; a byte order mark takes precedence."""
    text: str
    """Name of the text column."""
    columns: tuple[str, ...]
    """All columns in the order of the file."""
    classes: dict[str, list[str]]
    """Column of class numbers -> their names, as in `Rows`."""
    rows: int
    """Number of rows."""

    @classmethod
    def survey(
        cls, path: Path, *, format: str | None = None, text: str | None = None, encoding: str = "utf-8"
    ) -> "Table":
        """Read a file once completely, so that a malformed row is reported before the first one is labelled.

        Args:
            format: one of `READ`; None detects it from the file's name and first line.
            text: the column with the text; None looks for its usual names.

        Raises:
            UserError: the file can't be read, a row is malformed, or there is no text column.
        """
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        kind = format or ("txt" if format_suffix(path) == ".txt" else detect_format(path, encoding))
        if kind not in READ:
            raise UserError(f"{path}: {kind!r} is not a known format; name one of {', '.join(READ)} with --format")
        rows = open_rows(path, kind, encoding=encoding)
        if not rows.columns:
            raise UserError(f"{path}: there are no rows")
        column = rows.columns[find_text_column(rows.header, text, rows.where)]  # type: ignore[arg-type]
        seen = dict.fromkeys([column])
        count = 0
        for place, row in rows.take(None):
            as_text(row.get(column), f"{path}:{place}", "--text-column")
            seen.update(dict.fromkeys(row))
            count += 1
        if not count:
            raise UserError(f"{path}: there are no rows")
        return cls(
            path=path,
            format=kind,
            encoding=encoding,
            text=column,
            columns=(*(name for name in rows.columns if name in seen), *(seen.keys() - set(rows.columns))),
            classes=rows.classes,
            rows=count,
        )

    def chunks(self, skip: int = 0, size: int = CHUNK) -> Iterator[list[Row]]:
        """Yield chunks of rows, without the first `skip` rows."""
        rows = open_rows(self.path, self.format, encoding=self.encoding).take(None)
        left = itertools.islice((row for _, row in rows), skip, None)
        while chunk := list(itertools.islice(left, size)):
            yield chunk

    def values(self, chunk: Sequence[Row], column: str) -> list[str | None]:
        """Return a column's values as in training: as text, with class names instead of class numbers."""
        names = self.classes.get(column)
        return [
            as_text(
                class_name(row.get(column), names, str(self.path)) if names else row.get(column), str(self.path), column
            )
            for row in chunk
        ]

    def schema(self) -> pa.Schema:
        """Return the types of the columns: those of the file, or for JSON types that fit all values.

        Raises:
            UserError: a column has values of incompatible types, such as numbers and texts.
        """
        if self.format in COLUMNAR:
            return table_schema(self.path, self.format)
        if self.format not in ("json", "jsonl"):
            return pa.schema([(name, pa.string()) for name in self.columns])
        try:
            found = dict.fromkeys(
                pa.Table.from_pylist([{name: _plain(row.get(name)) for name in self.columns} for row in chunk]).schema
                for chunk in self.chunks()
            )
            merged = pa.unify_schemas(list(found), promote_options="permissive")
        except pa.ArrowException as error:
            raise UserError(f"{self.path}: a column holds values of several types ({error}); write .jsonl") from None
        return pa.schema([pa.field(one.name, pa.string()) if pa.types.is_null(one.type) else one for one in merged])


def stream_lines(read: Callable[[], bytes], *, format: str, text: str, encoding: str = "utf-8") -> Iterator[list[Row]]:
    """Yield the rows of a pipe as they arrive, at least one at a time.

    Args:
        read: waits for bytes and returns those that are available; none at the end.
        format: one of `PIPED`, as in `lines`.
        text: the key of an object's text.

    Raises:
        UserError: a line is not in the encoding, is neither a text nor an object, or is an object without a text.
    """
    path, number, left, more = Path("-"), 1, "", True
    if format not in PIPED:
        raise UserError(f"--format: {format!r} can't come through a pipe, only {' and '.join(PIPED)}; name a file")
    codec = text_codec(encoding, None)
    decoder = codecs.getincrementaldecoder("utf-8-sig" if codec == "utf-8" else codec)()
    while more:
        block = read()
        more = bool(block)
        try:
            *whole, left = (left + decoder.decode(block, final=not more)).split("\n")
        except UnicodeError as error:
            raise UserError(f"{path}:{number} or later: {error}; name the encoding with --encoding") from None
        if left and not more:
            whole.append(left)
        found = []
        for place, row in rows_of_lines(whole, format, path, number):
            as_text(row.get(text), f"{path}:{place}", "--text-column")
            found.append(row)
        without = next((row for row in found if text not in row), None)
        if without is not None:
            raise UserError(f"{path}:{number} or later: no {text!r} in {without!r:.60}; name it with --text-column")
        if found:
            yield found
        number += len(whole)


FIELDS = ("label", "confidence", "probabilities", "abstained", "truncated")
"""Fields of a prediction, as over HTTP."""
WRITTEN = ("csv", "jsonl", "parquet")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
"""First characters of a formula in a spreadsheet, which ignores leading white space, also in East Asian width."""
TAKEN = "predicted_"
"""Prefix of a field for which the rows already have a column."""


def columns_of(table: Table) -> dict[str, str]:
    """Return the column of each field."""
    return {field: free(field, table.columns) for field in FIELDS}


def free(field: str, taken: Collection[str]) -> str:
    """Return a name for a field that no column has.

    >>> free("label", ["text", "label"])
    'predicted_label'
    """
    while field in taken:
        field = TAKEN + field
    return field


def schema_of(table: Table) -> pa.Schema:
    """Return the types of all columns of an output file.

    Raises:
        UserError: no type fits all values of a column.
    """
    types = (pa.string(), pa.float64(), pa.string(), pa.bool_(), pa.bool_())
    return pa.schema([*table.schema(), *map(pa.field, columns_of(table).values(), types)])


class Writer:
    """Writes rows in chunks to a file in a format of `WRITTEN`."""

    def __init__(
        self, path: Path, kind: str, table: Table, schema: pa.Schema | None, *, escape_formulas: bool = False
    ) -> None:
        """Open the file.

        Args:
            path: the file.
            kind: one of `WRITTEN`.
            table: the labelled rows.
            schema: types of a Parquet file's columns.
            escape_formulas: whether a cell of a CSV file that a spreadsheet would compute is written with a `'` before
                it.
        """
        self.escape_formulas, self.formulas = escape_formulas, 0
        self.path, self.kind, self.table, self.schema = path, kind, table, schema
        self.names = columns_of(table)
        self.stack = ExitStack()

    def __enter__(self) -> "Writer":
        if self.kind == "parquet":
            self.parquet = self.stack.enter_context(parquet.ParquetWriter(self.path, self.schema))
        elif self.kind == "csv":
            names = [*self.table.columns, *self.names.values()]
            self.csv = csv.DictWriter(self.stack.enter_context(CsvStream(self.path)), names, restval="")
            self.csv.writerow({name: self._safe(name) for name in names})
        else:
            self.stream = self.stack.enter_context(self.path.open("w", encoding="utf-8", newline=""))
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stack.__exit__(*exception)

    def write(self, rows: list[Row]) -> None:
        """Write a chunk of rows."""
        if self.kind == "csv":
            self.csv.writerows({name: self._safe(_cell(value)) for name, value in row.items()} for row in rows)
        elif self.kind == "jsonl":
            self.stream.writelines(to_json(row) + "\n" for row in rows)
        else:
            probabilities = self.names["probabilities"]
            flat = [_plain(row) | {probabilities: _cell(row[probabilities])} for row in rows]
            self.parquet.write_table(pa.Table.from_pylist(flat, schema=self.schema))

    def _safe(self, cell: Any) -> Any:
        """Count a cell that a spreadsheet would treat as a formula, and escape it if asked for."""
        if not is_formula(cell):
            return cell
        self.formulas += 1
        return f"'{cell}" if self.escape_formulas else cell


NUMBER = re.compile(r"[+-]?[0-9][0-9.,]*([eE][+-]?[0-9]+)?%?")


def is_formula(cell: object) -> bool:
    """Return whether a spreadsheet would treat a cell as a formula, which may run a program or send other cells.

    >>> is_formula("=1+1"), is_formula("@SUM(A1)"), is_formula("-12.5"), is_formula("a = b")
    (True, True, False, False)
    """
    return isinstance(cell, str) and cell[:1] in FORMULA and len(cell) > 1 and NUMBER.fullmatch(cell) is None


def _cell(value: Any) -> Any:
    """Return a value for a table without nesting."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return to_json(value) if isinstance(value, dict | list) else value


def to_json(content: object) -> str:
    """Return a value as a line of JSON."""
    return json.dumps(content, ensure_ascii=False, default=_number_or_text)


def _number_or_text(value: object) -> object:
    """Convert a value that JSON has no type for; numbers are read as decimals, which keep their text."""
    number = float(value) if isinstance(value, Decimal) else math.nan
    return number if math.isfinite(number) else str(value)


def _plain(value: Any) -> Any:
    """Convert the decimals of a JSON value to floating-point numbers, their type in a typed column."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return float(value) if isinstance(value, Decimal) else value
