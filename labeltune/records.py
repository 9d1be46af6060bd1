"""Records: the numbered (text, label) pairs of one table file, as raw values."""

import csv
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from labeltune.columns import find_columns
from labeltune.decoding import read_lines, read_text
from labeltune.errors import UserError
from labeltune.origins import Dataset

Record = tuple[int, object, object]
"""Line or row number (1-based), text, label."""
# Columns of JSON are the keys of so many records: one that is null may be left out of the first.
PEEKED = 1000
# Decimals keep a number's text. Made once: json.loads would make one a line.
DECODER = json.JSONDecoder(parse_float=Decimal)


def read_delimited(path: Path, dataset: Dataset, *, tabs: bool) -> Iterator[Record]:
    """Yield the records of a CSV or TSV file, numbered by their first line.

    Raises:
        UserError: A line has another number of fields, a quote is never closed, or a column is missing.
    """
    conf = f"conf/datasets/{dataset.name}.yaml"
    # The module's own limit is 128 KiB a field. A C long, which has 32 bits on Windows.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = read_lines(path, dataset.encoding, conf)
    head: list[str] = []
    while not "".join(head).strip() and (line := next(lines, None)) is not None:
        head.append(line)
    if not head:
        raise UserError(f"{path}: the file is empty")
    quoted = dataset.quoting == "standard" or (dataset.quoting == "auto" and not tabs)
    # Spreadsheets write semicolons where the comma is the decimal mark.
    separator = "\t" if tabs else ";" if ";" in head[-1] and "," not in head[-1] else ","
    reader = csv.reader(
        itertools.chain(head, lines),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    width = 0
    text = label = -1
    start = 1
    try:
        for row in reader:
            if row and width:
                if len(row) != width:
                    raise UserError(_ragged(f"{path}:{start}", row, width, tabs=tabs, quoted=quoted, conf=conf))
                yield start, row[text], row[label]
            elif row:
                width = len(row)
                _check_separator(f"{path}:{start}", head[-1], width, tabs=tabs, conf=conf)
                names = row if dataset.header else width
                text, label = find_columns(names, dataset.text, dataset.label, f"{path}:{start}", conf)
                if not dataset.header:
                    yield start, row[text], row[label]
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(_misquoted(path, start, dataset, separator, error)) from None


def read_json(path: Path, dataset: Dataset) -> Iterator[Record]:
    """Yield the records of a JSON file: an array, a single key that holds one, or JSON Lines.

    Raises:
        UserError: The file is no such JSON; the message has its line.
    """
    conf = f"conf/datasets/{dataset.name}.yaml"
    content = read_text(path, dataset.encoding, conf)
    if not content.strip():
        raise UserError(f"{path}: the file is empty")
    try:
        value = DECODER.decode(content)
    except json.JSONDecodeError as error:
        if content.lstrip().startswith("{") and _is_object(content.lstrip().splitlines()[0]):
            yield from read_json_lines(path, dataset)
            return
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from None
    if isinstance(value, dict):
        tables = {key: inner for key, inner in value.items() if isinstance(inner, list)}
        if not tables and len(content.strip().splitlines()) == 1 and not any(map(_nested, value.values())):
            yield from read_json_lines(path, dataset)
            return
        if len(tables) != 1 and "data" not in tables:
            found = f"the keys {', '.join(list(value)[:10])}, {len(tables)} of them with a list"
            raise UserError(f"{path}: expected a list of records or one key that holds it, found {found}")
        value = tables["data"] if "data" in tables else next(iter(tables.values()))
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a list of records, found {type(value).__name__}")
    yield from _objects(path, enumerate(value, 1), dataset)


def read_json_lines(path: Path, dataset: Dataset) -> Iterator[Record]:
    """Yield the records of a JSON Lines file, numbered by line.

    Raises:
        UserError: A line is no JSON object.
    """
    lines = read_lines(path, dataset.encoding, f"conf/datasets/{dataset.name}.yaml")
    parsed = ((i, _parsed(path, i, line)) for i, line in enumerate(lines, 1) if line.strip())
    return _objects(path, parsed, dataset)


def read_parquet(path: Path, dataset: Dataset) -> Iterator[Record]:
    """Yield the records of a Parquet file, numbered by row.

    Raises:
        UserError: The file is truncated or no Parquet.
    """
    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            text, label = find_columns(
                names, dataset.text, dataset.label, str(path), f"conf/datasets/{dataset.name}.yaml"
            )
            done = 0
            for batch in table.iter_batches(columns=[names[text], names[label]]):
                columns = [batch.column(batch.schema.get_field_index(names[i])).to_pylist() for i in (text, label)]
                yield from zip(itertools.count(done + 1), *columns, strict=False)
                done += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: truncated, damaged or no Parquet: {str(error).splitlines()[0]}") from error


def _objects(path: Path, numbered: Iterable[tuple[int, Any]], dataset: Dataset) -> Iterator[Record]:
    numbered = iter(numbered)
    peeked = list(itertools.islice(numbered, PEEKED))
    if not peeked:
        return
    everything = itertools.chain(peeked, numbered)
    for number, value in peeked:
        if not isinstance(value, dict):
            raise UserError(_no_object(path, number, value))
    names = list(dict.fromkeys(key for _, value in peeked for key in value))
    text, label = (
        names[i]
        for i in find_columns(names, dataset.text, dataset.label, str(path), f"conf/datasets/{dataset.name}.yaml")
    )
    for number, value in everything:
        if not isinstance(value, dict):
            raise UserError(_no_object(path, number, value))
        yield number, value.get(text), value.get(label)


def _no_object(path: Path, number: int, value: object) -> str:
    hint = "; for one JSON array set format: json" if isinstance(value, list) else ""
    return f'{path}:{number}: a record must be an object {{"text": ..., "label": ...}}, found {value!r:.60}{hint}'


def _parsed(path: Path, number: int, line: str) -> object:
    try:
        return DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{number}: not valid JSON: {error.msg} (column {error.colno})") from None


def _is_object(line: str) -> bool:
    try:
        return isinstance(DECODER.decode(line), dict)
    except json.JSONDecodeError:
        return False


def _nested(value: object) -> bool:
    return isinstance(value, dict | list)


def _check_separator(where: str, first: str, width: int, *, tabs: bool, conf: str) -> None:
    if width > 1:
        return
    other = "," if tabs else "\t"
    hint = f"; it has {'commas' if tabs else 'tabs'}: set format: {'csv' if tabs else 'tsv'} in {conf}"
    raise UserError(f"{where}: one column only, {first.strip()!r:.60}{hint if other in first else ''}")


def _ragged(where: str, row: list[str], width: int, *, tabs: bool, quoted: bool, conf: str) -> str:
    sign = "tab" if tabs else "separator"
    hint = f"a text with a {sign} in it must stand in quotes" if quoted else f"a text must hold no {sign}"
    other = "none" if quoted else "standard"
    instead = "are ordinary characters" if quoted else "enclose fields"
    return (
        f"{where}: {len(row)} fields, expected {width}: {' | '.join(row)!r:.80}; {hint}. "
        f'If quotes (") {instead} in this file, set quoting: {other} in {conf}'
    )


def _misquoted(path: Path, start: int, dataset: Dataset, separator: str, error: csv.Error) -> str:
    """Find the line of the quote that opened the broken field, which may lie below the record's first line."""
    conf = f"conf/datasets/{dataset.name}.yaml"
    lines = itertools.islice(read_lines(path, dataset.encoding, conf), start - 1, None)
    record = "".join(lines)
    # Complete fields from the record's start: quoted with doubled quotes inside, or plain.
    field = rf'(?:"(?:[^"]|"")*"|[^"{separator}\r\n][^{separator}\r\n]*|)(?:{separator}|(?=\r|\n))'
    end = 0
    while (match := re.compile(field).match(record, end)) and match.end() > end:
        end = match.end()
    line = start + len(re.findall(r"\r\n|\r|\n", record[:end]))
    never = "is never closed" if "end of data" in str(error) else "does not close at the field's end"
    return (
        f'{path}:{line}: a quote (") opens a field there and {never} ({error}). If quotes are ordinary '
        f"characters in this file, set quoting: none in {conf}; inside a quoted field they are doubled"
    )
