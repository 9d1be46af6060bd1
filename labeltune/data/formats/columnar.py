"""Reading Parquet and Arrow files, including those that the datasets library saved."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

from labeltune.data.formats.rows import CHUNK, Place, Row, Rows, check_names
from labeltune.runtime.errors import UserError


def table_schema(path: Path, format: str) -> pa.Schema:
    """Return the schema of a Parquet or Arrow file.

    Raises:
        UserError: The file is damaged or in another format.
    """
    with _readable(path):
        if format == "parquet":
            schema = parquet.read_schema(path)
        else:
            with _open_arrow(path) as stream:
                schema = stream.schema
        for name in schema.names:  # are decoded only now
            name.encode()
        return schema


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the library's errors into a message for the user.

    Raises:
        UserError: The file is damaged, or a value has no counterpart in Python.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        kind = "no Parquet" if path.suffix.lower() != ".arrow" else "no Arrow"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: truncated, damaged or {kind}: {reason}") from error


def _open_arrow(path: Path) -> Any:
    """Open the file of an Arrow table: in the format for files, or for streams as the datasets library writes it."""
    with path.open("rb") as handle:
        whole = handle.read(6) == b"ARROW1"
    return (ipc.open_file if whole else ipc.open_stream)(pa.memory_map(str(path)))


def open_columnar(path: Path, format: str) -> Rows:
    """Open a Parquet or Arrow file.

    Raises:
        UserError: As in `table_schema`, or two columns have one name; a damaged batch raises it when it is reached.
    """
    schema = table_schema(path, format)
    check_names(schema.names, str(path))

    def take(wanted: Sequence[str] | None) -> Iterator[tuple[Place, Row]]:
        number = 0
        batches = _batches(path, format, wanted)
        while True:
            # An error in the code that uses a row must not be reported as an error of the file.
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
            chosen.validate(full=True)  # damaged offsets would be read beyond the buffer
            for start in range(0, len(chosen), CHUNK):
                yield chosen.slice(start, CHUNK)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the class names of columns with class numbers, which the datasets library keeps in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(one) for one in kind["names"]]
            for name, kind in features.items()
            if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and isinstance(kind.get("names"), list)
            if name in schema.names and pa.types.is_integer(schema.field(name).type)
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}
