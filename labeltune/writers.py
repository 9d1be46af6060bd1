"""Files of answers: CSV, JSON Lines or Parquet, written some rows at a time."""

import csv
import json
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from labeltune.inputs import Row, Table

FIELDS = ("label", "confidence", "probabilities", "abstained", "truncated")
"""What is said of a text, as over HTTP."""
WRITTEN = ("csv", "jsonl", "parquet")
TAKEN = "predicted_"
"""Before the name of a field that the row has a column of."""


def columns_of(table: Table) -> dict[str, str]:
    """Field -> the column that it is written to."""
    return {field: free(field, table.columns) for field in FIELDS}


def free(field: str, taken: Collection[str]) -> str:
    """A name for a field that is not taken.

    >>> free("label", ["text", "label"])
    'predicted_label'
    """
    while field in taken:
        field = TAKEN + field
    return field


def schema_of(table: Table) -> pa.Schema:
    """Types of all columns of a file of answers.

    Raises:
        UserError: no type holds all values of a column.
    """
    types = (pa.string(), pa.float64(), pa.string(), pa.bool_(), pa.bool_())
    return pa.schema([*table.schema(), *map(pa.field, columns_of(table).values(), types)])


class Writer:
    """Rows to a file of one of `WRITTEN`, some at a time."""

    def __init__(self, path: Path, kind: str, table: Table, schema: pa.Schema | None) -> None:
        self.path, self.kind, self.table, self.schema = path, kind, table, schema
        self.names = columns_of(table)
        self.stack = ExitStack()

    def __enter__(self) -> "Writer":
        if self.kind == "parquet":
            self.parquet = self.stack.enter_context(parquet.ParquetWriter(self.path, self.schema))
        else:
            self.stream = self.stack.enter_context(self.path.open("w", encoding="utf-8", newline=""))
        if self.kind == "csv":
            names = [*self.table.columns, *self.names.values()]
            self.csv = csv.DictWriter(self.stream, names, restval="", lineterminator="\n")
            self.csv.writeheader()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stack.__exit__(*exception)

    def write(self, rows: list[Row]) -> None:
        """Write some rows."""
        if self.kind == "csv":
            self.csv.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        elif self.kind == "jsonl":
            self.stream.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        else:
            probabilities = self.names["probabilities"]
            flat = [row | {probabilities: _cell(row[probabilities])} for row in rows]
            self.parquet.write_table(pa.Table.from_pylist(flat, schema=self.schema))


def _cell(value: Any) -> Any:
    """A value as a table without nesting holds it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
