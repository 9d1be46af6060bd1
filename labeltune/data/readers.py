"""Reading tables row by row: CSV, TSV, JSON, JSON Lines, Parquet, Arrow and plain text.

Training, prediction, `labeltune init` and `labeltune export` read rows with `open_rows`, so that a file means the same
to all of them. Rows are read lazily, in bounded memory; only a JSON document is read as a whole.
"""

import re
from pathlib import Path

from labeltune.data.encodings import COMPRESSED, UNPACK, read_lines, read_text
from labeltune.data.formats.columnar import open_columnar
from labeltune.data.formats.delimited import DelimitedFile, Quoting
from labeltune.data.formats.json_records import open_records, records_of_document, rows_of_lines
from labeltune.data.formats.rows import Rows
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
    ".feather": "arrow",
}
"""Suffix of a file -> format of its table."""
COLUMNAR = ("parquet", "arrow")
SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
HEAD = 512
"""Number of first bytes that determine the kind of a file."""
ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a zstd file",
}
TAR = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
MARKUP = (b"<!doctype", b"<html", b"<table", b"<?xml")
FOREIGN = {
    b"\xd0\xcf\x11\xe0": "a file of an older Office program",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an array of NumPy",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"\x80\x04\x95": "a pickle of Python",
}
"""First bytes -> kind of the file."""
FASTTEXT = "__label__"


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
        format: A format of `FORMATS`, or `txt` with one text per line.
        encoding: Encoding of a text file; a byte order mark takes precedence over it.
        header: Whether the first line of CSV and TSV names the columns.
        quoting: Whether `"` quotes a field; `auto`: standard in CSV, none in TSV.
        conf: The file with the keys that describe the format, for messages; None on the command line.

    Raises:
        UserError: The file can't be read with these options; a malformed row raises it when it is reached.
    """
    if format in COLUMNAR:
        return open_columnar(path, format)
    if format in ("csv", "tsv"):
        return DelimitedFile(path, encoding, conf, tabs=format == "tsv", quoting=quoting).open(header=header)
    if format == "json":
        return open_records(path, records_of_document(path, read_text(path, encoding, conf)))
    return open_records(path, rows_of_lines(read_lines(path, encoding, conf), format, path, conf=conf))


def detect_format(path: Path, encoding: str, conf: str | None = None) -> str:
    """Detect the format of a table from its first bytes, its name and its first line.

    Tabs without a comma are TSV under the name .csv, too. A file of another name is taken for JSON, TSV or CSV by its
    first line.

    Raises:
        UserError: The file is not a table, or not in the encoding.
    """
    head = check_kind(path)
    for magic, kind in ((b"PAR1", "parquet"), (b"ARROW1", "arrow")):
        if head.startswith(magic):
            return kind
    format = FORMATS.get(format_suffix(path))
    if format not in ("csv", None):
        return str(format)
    first = next((line for line in read_lines(path, encoding, conf) if line.strip()), "").lstrip()
    if first.startswith(FASTTEXT):
        raise UserError(
            f"{path} has the format of fastText, {first.strip()!r:.60}: write the label and the text as two columns of "
            "a CSV file"
        )
    if format is None and first.startswith(("[", "{")):
        return "json"
    return "tsv" if "\t" in first and "," not in first else "csv"


def check_kind(path: Path) -> bytes:
    """Return the first bytes of a file, and refuse spreadsheets, archives, web pages and other files that are no table.

    Raises:
        UserError: The file is one of these.
    """
    with path.open("rb") as handle:
        head = handle.read(HEAD)
    if format_suffix(path) in SPREADSHEETS or b"[Content_Types].xml" in head:
        raise UserError(f"{path} is a spreadsheet: save the sheet as CSV in UTF-8")
    archive = next((kind for magic, kind in ARCHIVES.items() if head.startswith(magic)), None)
    if path.name.casefold().endswith(TAR):
        archive = "a TAR archive"
    if archive:
        raise UserError(f"{path} is {archive}: unpack it")
    foreign = next((kind for magic, kind in FOREIGN.items() if head.startswith(magic)), None)
    if foreign is None and head.removeprefix(b"\xef\xbb\xbf").lstrip()[:9].lower().startswith(MARKUP):
        foreign = "a web page or XML"
    if foreign:
        raise UserError(f"{path} is {foreign}: export the table as CSV in UTF-8")
    packed = any(re.match(magic, head) for magic in UNPACK)
    if packed and FORMATS.get(format_suffix(path)) in COLUMNAR:
        raise UserError(f"{path} is compressed as a whole, which Parquet and Arrow files need not be: unpack it")
    return head


def format_suffix(path: Path) -> str:
    """Return the suffix that names the format, without that of a compression.

    >>> format_suffix(Path("rows.csv.gz"))
    '.csv'
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
