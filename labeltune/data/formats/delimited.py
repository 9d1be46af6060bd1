"""Reading CSV and TSV: the separator, quotes, the header, and the position of malformed lines."""

import csv
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from labeltune.data.encodings import read_lines
from labeltune.data.formats.rows import Place, Row, Rows, check_names
from labeltune.runtime.errors import UserError

SEPARATOR_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*', re.IGNORECASE)
"""First line by which a CSV file declares its separator to Excel."""
SEPARATORS = ";|"
"""Separators to try if the first line has no comma."""
Quoting = Literal["auto", "standard", "none"]


@dataclass(frozen=True)
class DelimitedFile:
    """A CSV or TSV file and the options to read it."""

    path: Path
    encoding: str
    conf: str | None
    tabs: bool
    quoting: Quoting

    def open(self, *, header: bool) -> Rows:
        """Open the file for reading; `header` states whether its first line names the columns.

        Raises:
            UserError: The file is empty, or its first line can't be read.
        """
        # The module's own limit is 128 KiB a field. A C long, which has 32 bits on Windows.
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        lines = read_lines(self.path, self.encoding, self.conf)
        head: list[str] = []
        declared = None
        for line in lines:
            found = SEPARATOR_LINE.fullmatch(line) if declared is None and not "".join(head).strip() else None
            declared = found[1] if found else declared
            head.append(line if line.strip() and not found else "\n")  # blank, but counted: lines are numbered
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
            check_names(names, where)
        columns = tuple(name if header and name.strip() else f"unnamed_{i}" for i, name in enumerate(names, 1))
        nameless = {column for column, name in zip(columns, names, strict=True) if column != name} if header else set()

        def take(wanted: Sequence[str] | None) -> Iterator[tuple[Place, Row]]:
            rows = self._records(reader, separator, reader.line_num + 1)
            for number, row in rows if header else itertools.chain([(start, names)], rows):
                if len(row) != width:
                    raise UserError(self._ragged(f"{self.path}:{number}", row, width, quoted=quoted))
                cells = dict(zip(columns, row, strict=True))
                # Spreadsheets write empty columns at the right edge: only their non-empty cells are kept.
                yield number, {name: cells[name] for name in cells if cells[name] or name not in nameless}

        return Rows(columns=columns, header=tuple(names) if header else width, where=where, take=take)

    def _records(self, reader: Any, separator: str, start: int) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows that are not blank, with the number of their first line."""
        try:
            for row in reader:
                if row:
                    yield start, row
                start = reader.line_num + 1
        except csv.Error as error:
            raise UserError(self._misquoted(start, separator, error)) from None

    def _separator(self, first: str) -> str:
        """Detect the separator; spreadsheets write semicolons if the decimal mark is a comma, databases often bars."""
        bare = re.sub(r'"[^"]*"', "", first)
        if self.tabs or "," in bare:
            return "\t" if self.tabs else ","
        return next((sign for sign in SEPARATORS if sign in bare), ",")

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
        """Return advice for a file whose quotes differ from those of its format."""
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
        """Return the line of the quote that opened the broken field, which may follow the record's first line."""
        lines = itertools.islice(read_lines(self.path, self.encoding, self.conf), start - 1, None)
        record = "".join(lines)
        # Complete fields from the start of the record: quoted, with doubled quotes inside, or unquoted.
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
