"""Reading JSON, JSON Lines and files of one text per line as records."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from labeltune.data.formats.rows import Place, Row, Rows
from labeltune.runtime.errors import UserError

PEEKED = 1000
"""Number of JSON records whose keys are the columns: the first one may lack a key whose value is null."""
WHITESPACE = re.compile(r"\s*")
# Decimals keep the text of a number. The decoder is created once; json.loads would create one per line.
DECODER = json.JSONDecoder(parse_float=Decimal)


def rows_of_lines(
    stream: Iterable[str], format: str, path: Path, first: int = 1, conf: str | None = None
) -> Iterator[tuple[Place, Row]]:
    """Yield the rows of a stream of lines.

    Args:
        stream: The lines.
        format: `txt`, one text per line, or `jsonl`, one text or object per line.
        path: The file, for messages.
        first: Number of the first line.
        conf: As in `open_rows`.

    Raises:
        UserError: A line is neither a text nor an object.
    """
    for number, line in enumerate(stream, first):
        if format == "txt":
            yield number, {"text": line.rstrip("\r\n")}
        else:
            for place, value in _parse(path, line.rstrip(), number):
                yield place, _object(path, place, value, conf)


def open_records(path: Path, records: Iterator[tuple[Place, Row]]) -> Rows:
    """Open records as a table, whose columns are the keys of the first `PEEKED` ones."""
    peeked = list(itertools.islice(records, PEEKED))
    columns = tuple(dict.fromkeys(key for _, row in peeked for key in row))
    return Rows(columns=columns, header=columns, where=str(path), take=lambda wanted: itertools.chain(peeked, records))


def records_of_document(path: Path, content: str) -> Iterator[tuple[Place, Row]]:
    """Return the records of a JSON file.

    They are an array, the value of a single key, objects one after another, or columns as pandas writes them.

    Raises:
        UserError: It is not valid JSON, or holds no records.
    """
    if not content.strip():
        raise UserError(f"{path}: the file is empty")
    values = list(_parse(path, content, 1))
    value = values[0][1]
    if len(values) == 1 and not isinstance(value, str):
        if isinstance(value, dict):
            columns = _records_of_columns(value)
            if columns is not None:
                return ((place, row) for place, row in enumerate(columns, 1))
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


def _records_of_columns(value: dict[str, Any]) -> list[Row] | None:
    """Convert the column formats of pandas to records; returns None for any other object.

    >>> _records_of_columns({"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}})
    [{'text': 'a', 'label': 'x'}, {'text': 'b', 'label': 'y'}]
    >>> _records_of_columns({"text": ["a"], "label": ["x"]})
    [{'text': 'a', 'label': 'x'}]
    >>> _records_of_columns({"columns": ["text", "label"], "index": [0], "data": [["a", "x"]]})
    [{'text': 'a', 'label': 'x'}]
    """
    names, cells = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(cells, list) and all(isinstance(name, str) for name in names):
        if all(isinstance(row, list) and len(row) == len(names) for row in cells):
            return [dict(zip(names, row, strict=True)) for row in cells]
        return None
    columns = list(value.values())
    if len(columns) < 2:
        return None
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        return [{name: column[key] for name, column in value.items()} for key in columns[0]]
    if columns[0] and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        flat = not any(isinstance(cell, dict) for column in columns for cell in column)
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)] if flat else None
    return None


def _flattened(record: Row) -> Row:
    """Convert a Label Studio task to a record: its data, and the choices of its annotations under their names.

    >>> result = {"type": "choices", "from_name": "mood", "value": {"choices": ["good"]}}
    >>> _flattened({"id": 7, "data": {"text": "fine"}, "annotations": [{"result": [result]}]})
    {'text': 'fine', 'mood': 'good'}
    """
    if not isinstance(record.get("data"), dict) or not isinstance(record.get("annotations"), list):
        return record
    chosen: dict[str, list[Any]] = {}
    for annotation in record["annotations"]:
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        results = annotation.get("result")
        for result in results if isinstance(results, list) else []:
            value = result.get("value") if isinstance(result, dict) else None
            choices = value.get("choices") if isinstance(value, dict) else None
            if isinstance(choices, list):
                given = chosen.setdefault(str(result.get("from_name")), [])
                given += [choice for choice in choices if choice not in given]
    return record["data"] | {name: given[0] if len(given) == 1 else given for name, given in chosen.items()}


def _parse(path: Path, content: str, first: int) -> Iterator[tuple[Place, Any]]:
    """Yield the JSON values of a text and the lines on which they begin; the first line has the number `first`."""
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
    """Refuse half of a surrogate pair, which JSON can escape but no encoded file can contain."""
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
    return _flattened(value)
