"""Files of answers: CSV, JSON Lines or Parquet, written some rows at a time."""

import csv
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from labeltune.errors import UserError
from labeltune.inputs import Row, Table

FIELDS = ("label", "confidence", "probabilities", "abstained", "truncated")
"""What is said of a text, as over HTTP."""
WRITTEN = ("csv", "jsonl", "parquet")
TAKEN = "predicted_"
"""Before the name of a field that the row has a column of."""


def columns_of(table: Table) -> dict[str, str]:
    """Field -> the column that it is written to."""
    return {field: TAKEN + field if field in table.columns else field for field in FIELDS}


class Writer:
    """Rows to a file of one of `WRITTEN`, some at a time."""

    def __init__(self, path: Path, kind: str, table: Table) -> None:
        self.path, self.kind, self.table = path, kind, table
        self.names = columns_of(table)
        self.stack = ExitStack()
        self.parquet: parquet.ParquetWriter | None = None

    def __enter__(self) -> "Writer":
        if self.kind != "parquet":
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
            self._write_parquet(rows)

    def _write_parquet(self, rows: list[Row]) -> None:
        probabilities = self.names["probabilities"]
        flat = [row | {probabilities: _cell(row[probabilities])} for row in rows]
        if self.parquet is None:
            own = (
                self.table.schema()
                or pa.Table.from_pylist([{name: row.get(name) for name in self.table.columns} for row in flat]).schema
            )
            types = (pa.string(), pa.float64(), pa.string(), pa.bool_(), pa.bool_())
            self.schema = pa.schema([*own, *(pa.field(*pair) for pair in zip(self.names.values(), types, strict=True))])
            self.parquet = self.stack.enter_context(parquet.ParquetWriter(self.path, self.schema))
        try:
            self.parquet.write_table(pa.Table.from_pylist(flat, schema=self.schema))
        except pa.ArrowException as error:
            raise UserError(f"the columns change their types between rows ({error}); write .jsonl instead") from None


def _cell(value: Any) -> Any:
    """A value as a table without nesting holds it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
