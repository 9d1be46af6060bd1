"""Tables to be labelled: rows with all their columns, in their order, without holding a file in memory."""

import codecs
import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import parquet

from labeltune.columns import USUAL
from labeltune.decoding import read_lines
from labeltune.errors import UserError

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "txt")
PIPED = ("txt", "jsonl")
"""Those whose rows can be taken as they come."""
CHUNK = 1024
"""Rows that are held at a time: enough to sort by length, few enough to lose little when stopped."""
BLOCK = 1 << 16
"""Bytes of a pipe that are taken at a time, as many as Linux keeps in one."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file of rows to be labelled."""

    path: Path
    """The file."""
    format: str
    """One of `FORMATS`."""
    encoding: str
    """Encoding of a text file; a byte order mark decides over it."""
    text: str
    """The column with the text."""
    columns: tuple[str, ...]
    """Every column, in the file's order."""
    rows: int
    """How many rows there are."""

    @classmethod
    def survey(
        cls, path: Path, *, format: str | None = None, text: str | None = None, encoding: str = "utf-8"
    ) -> "Table":
        """Read a file once from end to end, so that a bad row is told before the first one is labelled.

        Args:
            format: one of `FORMATS`; None goes by the file's name.
            text: the column with the text; None finds it by its usual names.

        Raises:
            UserError: the file can't be read, a row is malformed, or no column is the text's.
        """
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        kind = format or path.suffix.lower().removeprefix(".")
        if kind not in FORMATS:
            raise UserError(f"{path}: can't tell its format; name it one of {', '.join(FORMATS)} with --format")
        columns: dict[str, None] = {}
        count = 0
        for row in rows(path, kind, encoding):
            columns.update(dict.fromkeys(row))
            count += 1
        if not count:
            raise UserError(f"{path}: there are no rows")
        return cls(
            path=path,
            format=kind,
            encoding=encoding,
            text=_text_column(path, tuple(columns), text),
            columns=tuple(columns),
            rows=count,
        )

    def chunks(self, skip: int = 0, size: int = CHUNK) -> Iterator[list[Row]]:
        """Yield the rows, so many at a time, without the first `skip` ones."""
        left = itertools.islice(rows(self.path, self.format, self.encoding), skip, None)
        while chunk := list(itertools.islice(left, size)):
            yield chunk

    def schema(self) -> pa.Schema:
        """Types of the columns: the format's own, or those that hold every value of JSON.

        Raises:
            UserError: a column holds values that no type does, such as numbers and texts.
        """
        if self.format == "parquet":
            return parquet.read_schema(self.path)
        if self.format not in ("json", "jsonl"):
            return pa.schema([(name, pa.string()) for name in self.columns])
        try:
            found = dict.fromkeys(
                pa.Table.from_pylist([{name: row.get(name) for name in self.columns} for row in chunk]).schema
                for chunk in self.chunks()
            )
            merged = pa.unify_schemas(list(found), promote_options="permissive")
        except pa.ArrowException as error:
            raise UserError(f"{self.path}: a column holds values of several types ({error}); write .jsonl") from None
        return pa.schema([pa.field(one.name, pa.string()) if pa.types.is_null(one.type) else one for one in merged])


def lines(stream: Iterable[str], format: str, path: Path, first: int = 1) -> Iterator[Row]:
    """Rows of a stream of lines.

    Args:
        format: `txt`, a text a line, or `jsonl`, a text or an object a line.
        path: where they come from, for the messages.
        first: number of the first line, likewise.

    Raises:
        UserError: a line is no text or object.
    """
    if format == "txt":
        return ({"text": line.rstrip("\r\n")} for line in stream)
    return (
        _object(path, number, _parsed(path, number, line.strip()))
        for number, line in enumerate(stream, first)
        if line.strip()
    )


def arriving(read: Callable[[], bytes], *, format: str, text: str, encoding: str = "utf-8") -> Iterator[list[Row]]:
    """Rows of a pipe as they come: as many as are there, but one at least.

    Args:
        read: waits for some bytes and returns those that are there; none at the end.
        format: one of `PIPED`, as in `lines`.
        text: the key of an object's text.

    Raises:
        UserError: a line is not in the encoding, no text or object, or an object without a text.
    """
    path, number, left, more = Path("-"), 1, "", True
    if format not in PIPED:
        raise UserError(f"--format: {format!r} can't come through a pipe, only {' and '.join(PIPED)}; name a file")
    try:
        "".encode(encoding)
        decoder = codecs.getincrementaldecoder("utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding)()
    except LookupError:
        raise UserError(f"--encoding: {encoding!r} is unknown") from None
    while more:
        block = read()
        more = bool(block)
        try:
            *whole, left = (left + decoder.decode(block, final=not more)).split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number} or later: {error}; name the encoding with --encoding") from None
        if left and not more:
            whole.append(left)
        found = list(lines(whole, format, path, number))
        without = next((row for row in found if text not in row), None)
        if without is not None:
            raise UserError(f"{path}:{number} or later: no {text!r} in {without!r:.60}; name it with --text-column")
        if found:
            yield found
        number += len(whole)


def _text_column(path: Path, columns: tuple[str, ...], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in columns:
            raise UserError(f"{path}: no column {wanted!r}; there are {', '.join(columns)}")
        return wanted
    usual = [name for name in columns if name.strip().casefold() in USUAL["text"]]
    if len(columns) == 1 or len(usual) == 1:
        return usual[0] if usual else columns[0]
    reason = f"{' and '.join(usual)} may each be the text" if usual else "no column has a usual name of a text"
    raise UserError(f"{path}: {reason}; columns: {', '.join(columns)}; name one with --text-column")


def rows(path: Path, format: str, encoding: str) -> Iterator[Row]:
    """The rows of a file of one of `FORMATS`.

    Raises:
        UserError: a row is malformed; the message has its line.
    """
    if format == "parquet":
        return _parquet(path)
    if format in ("csv", "tsv"):
        return _delimited(path, read_lines(path, encoding, "--encoding"), tabs=format == "tsv")
    if format == "json":
        return _array(path, "".join(read_lines(path, encoding, "--encoding")))
    return lines(read_lines(path, encoding, "--encoding"), format, path)


def _delimited(path: Path, lines: Iterator[str], *, tabs: bool) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    first = next(lines, "")
    separator = "\t" if tabs else ";" if ";" in first and "," not in first else ","
    quoting: Literal[0, 3] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    reader = csv.reader(itertools.chain([first], lines), delimiter=separator, quoting=quoting, strict=True)
    start = 1
    names: list[str] = []
    try:
        for fields in reader:
            if not names:
                names = fields
                if len(set(names)) < len(names):
                    raise UserError(f"{path}: two columns have the same name: {', '.join(names)}")
            elif fields:
                if len(fields) != len(names):
                    raise UserError(f"{path}:{start}: {len(fields)} fields where the header has {len(names)}")
                yield dict(zip(names, fields, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{start}: {error}; mend the quotes, or give it as JSON Lines") from None


def _array(path: Path, content: str) -> Iterator[Row]:
    values = _parsed(path, 1, content)
    if not isinstance(values, list):
        raise UserError(f"{path}: expected an array of objects; a file with an object a line is named .jsonl")
    return (_object(path, number, value) for number, value in enumerate(values, 1))


def _parsed(path: Path, number: int, content: str) -> Any:
    try:
        value = json.loads(content)
    except (json.JSONDecodeError, RecursionError) as error:
        line = number + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else number
        raise UserError(f"{path}:{line}: not valid JSON: {error}") from None
    if "\\ud" in content.lower():  # half of a pair of UTF-16, which no file of UTF-8 can hold
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(f"{path}:{number}: not valid Unicode: half of a surrogate pair") from None
    return value


def _object(path: Path, number: int, value: Any) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise UserError(f'{path}:{number}: expected a text or an object {{"text": ...}}, found {value!r:.60}')
    return value


def _parquet(path: Path) -> Iterator[Row]:
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=CHUNK):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: truncated, damaged or no Parquet: {str(error).splitlines()[0]}") from error
