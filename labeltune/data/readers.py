"""Reading tables row by row: CSV, TSV, JSON, JSON Lines, Parquet, Arrow and plain text.

Training, prediction, `labeltune init` and `labeltune export` read rows with `open_rows`, so that a file means the same
to all of them. Rows are read as they are asked for, in bounded memory; only a JSON document is held whole.
"""

import csv
import datetime as dt
import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import ipc, parquet

from labeltune.data.encodings import COMPRESSED, read_lines, read_text
from labeltune.data.targets import TOGETHER
from labeltune.runtime.errors import UserError

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
}
"""Ending of a file -> format of its table."""
COLUMNAR = ("parquet", "arrow")
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
FOREIGN = {b"PK\x03\x04": "a ZIP archive", b"\x28\xb5\x2f\xfd": "a zstd file"}
CHUNK = 1024
"""Rows that are held at a time: enough to sort by length, few enough to lose little when stopped."""
PEEKED = 1000
"""Records of JSON whose keys are the columns: one that is null may be left out of the first."""
SEPARATOR_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*', re.IGNORECASE)
"""The line that tells Excel the separator of a CSV file."""
WHITESPACE = re.compile(r"\s*")
# Decimals keep a number's text. Made once: json.loads would make one a line.
DECODER = json.JSONDecoder(parse_float=Decimal)

Row = dict[str, Any]
Place = int | str
"""Line or row number, 1-based; `3.2` is the second object on line 3."""
Quoting = Literal["auto", "standard", "none"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table that is open for reading."""

    columns: tuple[str, ...]
    """The keys of the rows in the file's order; of JSON those of the first `PEEKED` records."""
    header: tuple[str, ...] | int
    """The names as the file has them, empty where a column has none; their number where there is no header."""
    where: str
    """File and line of the names, for messages."""
    classes: dict[str, list[str]] = field(default_factory=dict)
    """Column of class numbers -> their names, as the datasets library records them in Parquet and Arrow files."""
    take: Callable[[Sequence[str] | None], Iterator[tuple[Place, Row]]]
    """Give the rows once: all columns, or those asked for, which saves reading the others of Parquet files."""


def open_rows(
    path: Path,
    format: str,
    *,
    encoding: str = "utf-8",
    header: bool = True,
    quoting: Quoting = "auto",
    conf: str | None = None,
) -> Rows:
    """Open a file of rows.

    Args:
        path: The file; it may be compressed with gzip, bzip2 or xz.
        format: A format of `FORMATS`, or `txt` with a text a line.
        encoding: Encoding of a text file; a byte order mark decides over it.
        header: Whether the first line of CSV and TSV names the columns.
        quoting: Whether `"` quotes a field; `auto`: standard in CSV, none in TSV.
        conf: The file with the keys that say how to read it, for messages; None on the command line.

    Raises:
        UserError: The file can't be read so; a malformed row raises it when it is reached.
    """
    if format in COLUMNAR:
        return _columnar(path, format)
    if format in ("csv", "tsv"):
        return _Delimited(path, encoding, conf, tabs=format == "tsv", quoting=quoting).open(header=header)
    if format == "json":
        return _peeked(path, _document(path, read_text(path, encoding, conf)), conf)
    return _peeked(path, rows_of_lines(read_lines(path, encoding, conf), format, path, conf=conf), conf)


def rows_of_lines(
    stream: Iterable[str], format: str, path: Path, first: int = 1, conf: str | None = None
) -> Iterator[tuple[Place, Row]]:
    """Give the rows of a stream of lines.

    Args:
        stream: The lines.
        format: `txt`, a text a line, or `jsonl`, a text or an object a line.
        path: The file, for messages.
        first: Number of the first line.
        conf: As in `open_rows`.

    Raises:
        UserError: A line is no text or object.
    """
    for number, line in enumerate(stream, first):
        if format == "txt":
            yield number, {"text": line.rstrip("\r\n")}
        else:
            for place, value in _parse(path, line.rstrip(), number):
                yield place, _object(path, place, value, conf)


def detect_format(path: Path, encoding: str, conf: str | None = None) -> str:
    """Tell the format of a table by its first bytes, its name and its first line.

    Tabs without a comma are TSV under the name .csv, too. A file of another name is taken for JSON, TSV or CSV by its
    first line.

    Raises:
        UserError: The file is none of a table, or not in the encoding.
    """
    head = check_kind(path)
    for magic, kind in ((b"PAR1", "parquet"), (b"ARROW1", "arrow")):
        if head.startswith(magic):
            return kind
    format = FORMATS.get(format_suffix(path))
    if format not in ("csv", None):
        return str(format)
    first = next((line for line in read_lines(path, encoding, conf) if line.strip()), "").lstrip()
    if format is None and first.startswith(("[", "{")):
        return "json"
    return "tsv" if "\t" in first and "," not in first else "csv"


def check_kind(path: Path) -> bytes:
    """Return the first bytes of a file, and refuse spreadsheets and archives.

    Raises:
        UserError: The file is one.
    """
    with path.open("rb") as handle:
        head = handle.read(8)
    if format_suffix(path) in SPREADSHEETS:
        raise UserError(f"{path} is a spreadsheet: save the sheet as CSV in UTF-8")
    foreign = next((kind for magic, kind in FOREIGN.items() if head.startswith(magic)), None)
    if foreign:
        raise UserError(f"{path} is {foreign}: unpack it")
    return head


def format_suffix(path: Path) -> str:
    """Return the ending that tells the format, without that of a compression.

    >>> format_suffix(Path("rows.csv.gz"))
    '.csv'
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def table_schema(path: Path, format: str) -> pa.Schema:
    """Return the columns' types of a Parquet or Arrow file.

    Raises:
        UserError: The file is damaged or in another format.
    """
    with _readable(path):
        if format == "parquet":
            return parquet.read_schema(path)
        with _open_arrow(path) as stream:
            return stream.schema


def as_text(value: object, where: str, key: str) -> str | None:
    """Write a value as text: a string as it stands, `true`, `3` also for 3.0, other numbers as the file has them.

    Args:
        value: The value.
        where: File and line of the row, for the message.
        key: The setting that names the column, likewise.

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
    """Write a raw label as text; a list of one, as annotation tools export it, is its label, an empty one is none.

    Raises:
        UserError: There are several labels, or the value is an object or bytes.
    """
    if isinstance(value, list):
        if len(value) > 1:
            raise UserError(f"{where}: several labels {value!r:.60}: {TOGETHER}; see {key}")
        value = value[0] if value else None
    found = as_text(value, where, key)
    return found if found is None else found.strip()


def class_name(number: Any, names: Sequence[str]) -> str | None:
    """Return the name of a class number; -1 marks a row without a label, as in GLUE's test splits."""
    return None if number is None or number == -1 else names[number]


def _check_twice(names: Iterable[str], where: str) -> None:
    """Refuse names that stand twice; columns without a name are in nobody's way."""
    columns = [name.strip() for name in names]
    twice = [name for name, count in Counter(columns).items() if count > 1 and name]
    if twice:
        shown = ", ".join(name or "(no name)" for name in columns[:12])
        raise UserError(f"{where}: column names stand twice: {', '.join(twice)}; columns: {shown}")


# --- CSV and TSV


@dataclass(frozen=True)
class _Delimited:
    """A CSV or TSV file, and how it is read."""

    path: Path
    encoding: str
    conf: str | None
    tabs: bool
    quoting: Quoting

    def open(self, *, header: bool) -> Rows:
        # The module's own limit is 128 KiB a field. A C long, which has 32 bits on Windows.
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        lines = read_lines(self.path, self.encoding, self.conf)
        head: list[str] = []
        declared = None
        for line in lines:
            found = SEPARATOR_LINE.fullmatch(line) if declared is None and not "".join(head).strip() else None
            declared = found[1] if found else declared
            head.append(line if line.strip() and not found else "\n")  # blank, and yet there: lines are numbered
            if head[-1].strip():
                break
        if not head or not head[-1].strip():
            raise UserError(f"{self.path}: the file is empty")
        separator = declared or self._separator(head[-1])
        quoted = self.quoting == "standard" or (self.quoting == "auto" and not (self.tabs and declared is None))
        reader = csv.reader(
            itertools.chain(head, lines),
            delimiter=separator,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        start, names = next(self._records(reader, separator, 1))
        where = f"{self.path}:{start}"
        width = len(names)
        if width == 1:
            self._check_separator(where, head[-1])
        if header:
            _check_twice(names, where)
        columns = tuple(name if header and name.strip() else f"unnamed_{i}" for i, name in enumerate(names, 1))
        nameless = {column for column, name in zip(columns, names, strict=True) if column != name} if header else set()

        def take(wanted: Sequence[str] | None) -> Iterator[tuple[Place, Row]]:
            rows = self._records(reader, separator, reader.line_num + 1)
            for number, row in rows if header else itertools.chain([(start, names)], rows):
                if len(row) != width:
                    raise UserError(self._ragged(f"{self.path}:{number}", row, width, quoted=quoted))
                cells = dict(zip(columns, row, strict=True))
                # Spreadsheets write empty columns at the right edge: only what is in them is kept.
                yield number, {name: cells[name] for name in cells if cells[name] or name not in nameless}

        return Rows(columns=columns, header=tuple(names) if header else width, where=where, take=take)

    def _records(self, reader: Any, separator: str, start: int) -> Iterator[tuple[int, list[str]]]:
        """Give the rows that are not blank, numbered by their first line."""
        try:
            for row in reader:
                if row:
                    yield start, row
                start = reader.line_num + 1
        except csv.Error as error:
            raise UserError(self._misquoted(start, separator, error)) from None

    def _separator(self, first: str) -> str:
        """Spreadsheets write semicolons where the comma is the decimal mark."""
        bare = re.sub(r'"[^"]*"', "", first)
        return "\t" if self.tabs else ";" if ";" in bare and "," not in bare else ","

    def _check_separator(self, where: str, first: str) -> None:
        other = "," if self.tabs else "\t"
        if other in first:
            use, has = ("csv", "commas") if self.tabs else ("tsv", "tabs")
            raise UserError(
                f"{where}: one column only, {first.strip()!r:.60}; it has {has}: {self._set('format', use)}"
            )

    def _set(self, key: str, value: str) -> str:
        return f"set {key}: {value} in {self.conf}" if self.conf else f"give --{key} {value}"

    def _quotes(self, quoting: str) -> str:
        """What to do where a file's quotes are others than those of its format."""
        return f"set quoting: {quoting} in {self.conf}" if self.conf else "give it as JSON Lines"

    def _ragged(self, where: str, row: list[str], width: int, *, quoted: bool) -> str:
        sign = "tab" if self.tabs else "separator"
        hint = f"a text with a {sign} in it must stand in quotes" if quoted else f"a text must hold no {sign}"
        instead = "are ordinary characters" if quoted else "enclose fields"
        return (
            f"{where}: {len(row)} fields, expected {width}: {' | '.join(row)!r:.80}; {hint}. "
            f'If quotes (") {instead} in this file, {self._quotes("none" if quoted else "standard")}'
        )

    def _misquoted(self, start: int, separator: str, error: csv.Error) -> str:
        """Find the line of the quote that opened the broken field, which may lie below the record's first line."""
        lines = itertools.islice(read_lines(self.path, self.encoding, self.conf), start - 1, None)
        record = "".join(lines)
        # Complete fields from the record's start: quoted with doubled quotes inside, or plain.
        end_of_field = rf"(?:{re.escape(separator)}|(?=\r|\n))"
        plain = rf'[^"{re.escape(separator)}\r\n][^{re.escape(separator)}\r\n]*'
        complete = re.compile(rf'(?:"(?:[^"]|"")*"|{plain}|){end_of_field}')
        end = 0
        while (match := complete.match(record, end)) and match.end() > end:
            end = match.end()
        line = start + len(re.findall(r"\r\n|\r|\n", record[:end]))
        never = "is never closed" if "end of data" in str(error) else "does not close at the field's end"
        return (
            f'{self.path}:{line}: a quote (") opens a field there and {never} ({error}). If quotes are ordinary '
            f"characters in this file, {self._quotes('none')}; inside a quoted field they are doubled"
        )


# --- JSON and lines


def _peeked(path: Path, records: Iterator[tuple[Place, Row]], conf: str | None) -> Rows:
    peeked = list(itertools.islice(records, PEEKED))
    columns = tuple(dict.fromkeys(key for _, row in peeked for key in row))
    return Rows(columns=columns, header=columns, where=str(path), take=lambda wanted: itertools.chain(peeked, records))


def _document(path: Path, content: str) -> Iterator[tuple[Place, Row]]:
    """Give the records of a JSON file: an array, a single key that holds one, or objects one after another."""
    if not content.strip():
        raise UserError(f"{path}: the file is empty")
    values = list(_parse(path, content, 1))
    value = values[0][1]
    if len(values) == 1 and not isinstance(value, str):
        if isinstance(value, dict):
            tables = {key: inner for key, inner in value.items() if isinstance(inner, list)}
            if not tables and not any(isinstance(inner, dict) for inner in value.values()):
                return iter([(1, value)])
            if len(tables) != 1 and "data" not in tables:
                found = f"the keys {', '.join(list(value)[:10])}, {len(tables)} of them with a list"
                raise UserError(f"{path}: expected a list of records or one key that holds it, found {found}")
            value = tables["data"] if "data" in tables else next(iter(tables.values()))
        if not isinstance(value, list):
            raise UserError(f"{path}: expected a list of records, found {type(value).__name__}")
        values = list(enumerate(value, 1))
    return ((place, _object(path, place, value, None)) for place, value in values)


def _parse(path: Path, content: str, first: int) -> Iterator[tuple[Place, Any]]:
    """Give the JSON values of a text with the lines that they begin on, where its first line has the number `first`."""
    surrogates = "\\ud" in content or "\\uD" in content
    line, on_line, counted = first, 0, 0
    place = WHITESPACE.match(content).end()  # type: ignore[union-attr]
    while place < len(content):
        try:
            value, end = DECODER.raw_decode(content, place)
        except json.JSONDecodeError as error:
            number = first + error.lineno - 1
            raise UserError(f"{path}:{number}: not valid JSON: {error.msg} (column {error.colno})") from None
        except RecursionError:
            raise UserError(f"{path}:{line}: not readable JSON: lists or objects are nested too deeply") from None
        except ValueError as error:  # an integer of thousands of digits
            raise UserError(f"{path}:{line}: not readable JSON: {error}") from None
        below = content.count("\n", counted, place)
        line, on_line = line + below, 1 if below else on_line + 1
        number_of = line if on_line == 1 else f"{line}.{on_line}"
        if surrogates:
            _check_unicode(f"{path}:{number_of}", value)
        yield number_of, value
        counted, place = place, WHITESPACE.match(content, end).end()  # type: ignore[union-attr]


def _check_unicode(where: str, value: Any) -> None:
    """Refuse half of a surrogate pair, which JSON can escape and no encoded file can hold."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: not valid Unicode: half of a surrogate pair") from None


def _object(path: Path, place: Place, value: Any, conf: str | None) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        array = f"; for one JSON array {'set format: json' if conf else 'give --format json'}"
        hint = array if isinstance(value, list) else ""
        raise UserError(
            f'{path}:{place}: a record must be an object {{"text": ...}} or a text, found {value!r:.60}{hint}'
        )
    return value


# --- Parquet and Arrow


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the library's errors into a message for the user.

    Raises:
        UserError: The file is damaged, or a value has no counterpart in Python.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        kind = "no Parquet" if format_suffix(path) != ".arrow" else "no Arrow"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: truncated, damaged or {kind}: {reason}") from error


def _open_arrow(path: Path) -> Any:
    """Open the file of an Arrow table: in the format for files, or for streams as the datasets library writes it."""
    with path.open("rb") as handle:
        whole = handle.read(6) == b"ARROW1"
    return (ipc.open_file if whole else ipc.open_stream)(pa.memory_map(str(path)))


def _columnar(path: Path, format: str) -> Rows:
    schema = table_schema(path, format)
    _check_twice(schema.names, str(path))

    def take(wanted: Sequence[str] | None) -> Iterator[tuple[Place, Row]]:
        number = 0
        batches = _batches(path, format, wanted)
        while True:
            # What is done with a row must not pass for an error of the file.
            with _readable(path):
                found = next(batches, None)
                rows = [] if found is None else found.to_pylist()
            if found is None:
                return
            for row in rows:
                number += 1
                yield number, row

    columns = tuple(schema.names)
    return Rows(columns=columns, header=columns, where=str(path), classes=_class_names(schema), take=take)


def _batches(path: Path, format: str, wanted: Sequence[str] | None) -> Iterator[Any]:
    if format == "parquet":
        with parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=CHUNK, columns=wanted and list(wanted))
        return
    with _open_arrow(path) as stream:
        whole = hasattr(stream, "num_record_batches")
        for batch in map(stream.get_batch, range(stream.num_record_batches)) if whole else stream:
            chosen = batch.select(list(wanted)) if wanted else batch
            for start in range(0, len(chosen), CHUNK):
                yield chosen.slice(start, CHUNK)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Read which columns hold class numbers, and the names: the datasets library keeps them in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(one) for one in kind["names"]]
            for name, kind in features.items()
            if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and isinstance(kind.get("names"), list)
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}
