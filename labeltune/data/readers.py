"""Reading table files row by row: CSV, TSV, JSON, JSON Lines, Parquet and plain text."""

import codecs
import csv
import itertools
import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import parquet

from labeltune.config.data import Dataset
from labeltune.data.columns import find_columns
from labeltune.runtime.errors import UserError

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WIDE = ("gb18030", "big5", "shift_jis", "euc_kr")
SNIFFED = 1 << 16


def read_lines(path: Path, encoding: str, conf: str) -> Iterator[str]:
    """Yield a text file's lines with their ends, as the csv module wants them.

    Args:
        path: The file; its byte order mark, if any, decides over `encoding`.
        encoding: The declared encoding, or several as in `codec_of`.
        conf: The file with the key `encoding`, for the messages.

    Raises:
        UserError: The encoding is unknown, some byte is not in it, or there is a NUL byte.
    """
    codec = codec_of(path, encoding, conf)
    try:
        with path.open(encoding=codec, newline="") as handle:
            for number, line in enumerate(handle, 1):
                if "\0" in line:
                    raise UserError(_nul(path, number, codec, conf))
                yield line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeDecodeError:
        raise UserError(_undecodable(path, codec, conf)) from None


def read_text(path: Path, encoding: str, conf: str) -> str:
    """Return a whole text file; errors are those of `read_lines`."""
    return "".join(read_lines(path, encoding, conf))


def codec_of(path: Path, encoding: str, conf: str) -> str:
    """Return the codec to read with: that of the byte order mark, else the declared one.

    Args:
        path: The file.
        encoding: One encoding, or several as in `utf-8, latin-1`: the first that reads the whole file is
            taken, for collections whose files differ.
        conf: The file with the key `encoding`, for the messages.

    Raises:
        UserError: Python knows no such text encoding.
    """
    with path.open("rb") as handle:
        head = handle.read(4)
    for mark, codec in MARKS.items():
        if head.startswith(mark):
            return codec
    declared = [_known(name.strip(), conf) for name in encoding.split(",")]
    for codec in declared[:-1]:
        try:
            path.read_text(encoding=codec)
        except UnicodeDecodeError:
            continue
        return codec
    return declared[-1]


def _known(encoding: str, conf: str) -> str:
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except LookupError:
        raise UserError(
            f"{conf}: encoding: {encoding!r} is unknown; usual are utf-8, utf-16, latin-1, cp1252, {', '.join(WIDE)}"
        ) from None


def _nul(path: Path, number: int, codec: str, conf: str) -> str:
    with path.open("rb") as handle:
        wider = _utf16(handle.read(SNIFFED))
    hint = f"it looks like UTF-16: set encoding: {wider} in {conf}" if wider else "the file is damaged or not text"
    return f"{path}:{number}: a NUL byte, read as {codec}; {hint}"


def _undecodable(path: Path, codec: str, conf: str) -> str:
    data = path.read_bytes()
    try:
        # The codec that drops the mark counts its offsets from behind it.
        data.decode("utf-8" if codec == "utf-8-sig" else codec)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(codec, errors="ignore")
        number = len(re.findall(r"\r\n|\r|\n", before)) + 1
        found = f"{path}:{number}: byte {error.start} (0x{data[error.start]:02x}) is not {codec}"
    else:
        raise AssertionError(f"{path} changed while it was read")
    able = _decodable(data, besides=codec)
    if not able:
        return f"{found}, and none of the usual encodings reads the file: it is damaged or not text ({conf})"
    return f"{found}; the file can be read as {', '.join(able)}: set encoding: {able[0]} in {conf}"


def likely_encoding(path: Path) -> str:
    """The encoding that a text file most likely is in.

    Raises:
        UserError: it is in none of the usual ones.
    """
    data = path.read_bytes()
    if any(data.startswith(mark) for mark in MARKS):
        return "utf-8"  # the mark decides over what is declared
    if b"\0" not in data and _reads(data, "utf-8"):
        return "utf-8"
    able = _decodable(data, besides="")
    if not able:
        raise UserError(f"{path} is in none of the usual encodings: it is damaged or no text")
    return able[0]


def _decodable(data: bytes, besides: str) -> list[str]:
    """List the usual encodings that read all the bytes into assigned characters, the likeliest first."""
    runs = re.findall(rb"[\x80-\xff]+", data)
    # Accented letters stand alone between ASCII ones, the bytes of Chinese or Korean in pairs and more.
    accents = sum(len(run) for run in runs) < 1.5 * len(runs)
    wider = _utf16(data[:SNIFFED])
    usual = [wider] if wider else ["utf-8", "cp1252", *WIDE] if accents else ["utf-8", *WIDE, "cp1252"]
    able = [codec for codec in usual if codec != besides and _reads(data, codec)]
    # Every byte is a character of latin-1: worth a word only where nothing else fits.
    return able[:3] if able or b"\0" in data or besides == "iso8859-1" else ["latin-1"]


def _reads(data: bytes, codec: str) -> bool:
    try:
        characters = set(data.decode(codec))
    except UnicodeDecodeError:
        return False
    return all(unicodedata.category(character) not in ("Co", "Cn") for character in characters)


def _utf16(data: bytes) -> str | None:
    """ASCII characters, of which every table has some, are half NUL bytes in UTF-16."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if max(even, odd) < max(4, len(data) // 100) or min(even, odd) > max(even, odd) // 10:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "txt")
CHUNK = 1024
"""Rows that are held at a time: enough to sort by length, few enough to lose little when stopped."""
Row = dict[str, Any]


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
    parsed = ((i, _parse_line(path, i, line)) for i, line in enumerate(lines, 1) if line.strip())
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


def _parse_line(path: Path, number: int, line: str) -> object:
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
