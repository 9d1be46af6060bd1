"""One reader: training and prediction read every odd file alike, or refuse it alike."""

import bz2
import codecs
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from labeltune.config.data import Dataset
from labeltune.data.loading import read_split
from labeltune.data.readers import detect_format, open_rows
from labeltune.runtime.errors import UserError
from labeltune.serving.tables import Table

RAW = Path("data/raw/mine")
TWO = [("hello", "ham"), ("buy now", "spam")]
OBJECTS = [{"text": text, "label": label} for text, label in TWO]
Pairs = list[tuple[str | None, str | None]]


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RAW.mkdir(parents=True)


def trained(name: str) -> Pairs:
    frame = read_split(Dataset(name="mine", source="files", folder=str(RAW), all=name), "all")
    return list(frame[["text", "label"]].itertuples(index=False, name=None))


def predicted(name: str, label: str = "label") -> Pairs:
    """Texts as they are labelled, and the label column as it is read beside them."""
    table = Table.survey(RAW / name)
    column = next(name for name in table.columns if name.strip().casefold() == label)
    chunks = list(table.chunks())
    assert sum(map(len, chunks)) == table.rows
    found = [zip(table.values(chunk, table.text), table.values(chunk, column), strict=True) for chunk in chunks]
    return [(text, value and value.strip()) for pairs in found for text, value in pairs]


def write(name: str, content: str | bytes) -> None:
    (RAW / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def studio(text: str, choices: list[str], cancelled: list[str] | None = None) -> dict:
    """A task as Label Studio exports it."""

    def annotation(chosen: list[str], **keys: bool) -> dict:
        result = {"type": "choices", "from_name": "label", "to_name": "text", "value": {"choices": chosen}}
        return {"id": 3, "result": [result], **keys}

    spoilt = [] if cancelled is None else [annotation(cancelled, was_cancelled=True)]
    return {"id": 1, "data": {"text": text}, "annotations": [*spoilt, annotation(choices)], "predictions": []}


ROWS = "text,label\nhello,ham\nbuy now,spam\n"
ODD: dict[str, tuple[str, str | bytes]] = {
    "plain": ("a.csv", ROWS),
    "leading blank lines": ("a.csv", "\n \ntext;label\nhello;ham\nbuy now;spam\n"),
    "semicolons": ("a.csv", ROWS.replace(",", ";")),
    "semicolons, a comma inside quotes": ("a.csv", '"label";"text";"a, b"\nham;hello;1\nspam;buy now;2\n'),
    "bars": ("a.csv", ROWS.replace(",", "|")),
    "bars, a comma in a text": ("a.csv", 'text|label|note\nhello|ham|"a, b"\nbuy now|spam|c, d\n'),
    "columns of pandas": (
        "a.json",
        json.dumps({key: {i: row[key] for i, row in enumerate(OBJECTS)} for key in OBJECTS[0]}),
    ),
    "lists of pandas": ("a.json", json.dumps({key: [row[key] for row in OBJECTS] for key in OBJECTS[0]})),
    "split of pandas": ("a.json", json.dumps({"columns": ["text", "label"], "index": [0, 1], "data": TWO})),
    "table of pandas": ("a.json", json.dumps({"schema": {"fields": [{"name": "text"}]}, "data": OBJECTS})),
    "Label Studio": ("a.json", json.dumps([studio(text, [label]) for text, label in TWO])),
    "Label Studio, a cancelled annotation": (
        "a.json",
        json.dumps([studio(text, [label], cancelled=["ham"]) for text, label in TWO]),
    ),
    "tabs under .csv": ("a.csv", ROWS.replace(",", "\t")),
    "tabs under .tab": ("a.tab", ROWS.replace(",", "\t")),
    "another ending": ("a.dat", ROWS.replace(",", "\t")),
    "a line for Excel": ("a.csv", "sep=;\r\nText;Label\r\nhello;ham\r\nbuy now;spam\r\n"),
    "a line for Excel with another sign": ("a.csv", '"sep=|"\ntext|label\nhello|ham\nbuy now|spam\n'),
    "byte order mark": ("a.csv", codecs.BOM_UTF8 + ROWS.encode()),
    "two byte order marks": ("a.csv", codecs.BOM_UTF8 * 2 + ROWS.encode()),
    "utf-16": ("a.csv", ROWS.encode("utf-16")),
    "utf-16, big end first": ("a.csv", codecs.BOM_UTF16_BE + ROWS.encode("utf-16-be")),
    "utf-32": ("a.csv", ROWS.encode("utf-32")),
    "carriage returns": ("a.csv", ROWS.replace("\n", "\r")),
    "no end of line": ("a.csv", ROWS.rstrip()),
    "blank lines between": ("a.csv", ROWS.replace("\n", "\n\n")),
    "names with blanks and capitals": ("a.csv", ROWS.replace("text,label", " Text ,LABEL")),
    "empty columns": ("a.csv", "text;label;;\r\nhello;ham;;\r\nbuy now;spam;;\r\n"),
    "empty columns, an unusual name": ("a.csv", "phrase,label,,\nhello,ham,,\nbuy now,spam,,\n"),
    "a name that is a label": ("a.csv", "comment,label\nhello,ham\nbuy now,spam\n"),
    "a JSON list": ("a.json", json.dumps(OBJECTS)),
    "nested JSON": ("a.json", json.dumps({"version": "1", "data": OBJECTS}, indent=1)),
    "JSON lines under .json": ("a.json", "\n".join(map(json.dumps, OBJECTS))),
    "several objects a line under .json": ("a.json", "".join(map(json.dumps, OBJECTS))),
    "objects over several lines": ("a.json", "\n".join(json.dumps(value, indent=2) for value in OBJECTS)),
    "JSON without an ending": ("a", json.dumps(OBJECTS)),
    "JSON lines": ("a.jsonl", "\n\n".join(map(json.dumps, OBJECTS))),
    "several objects a line": ("a.jsonl", " ".join(map(json.dumps, OBJECTS))),
    "JSON with a mark": ("a.jsonl", codecs.BOM_UTF8 + "\n".join(map(json.dumps, OBJECTS)).encode()),
    "gzip": ("a.csv.gz", gzip.compress(ROWS.encode())),
    "gzip with semicolons and a mark": (
        "a.csv.gz",
        gzip.compress(codecs.BOM_UTF8 + ROWS.replace(",", ";").encode()),
    ),
    "gzip of lines": ("a.jsonl.gz", gzip.compress("\n".join(map(json.dumps, OBJECTS)).encode())),
    "gzip without its ending": ("a.csv", gzip.compress(ROWS.encode())),
    "bzip2": ("a.tsv.bz2", bz2.compress(ROWS.replace(",", "\t").encode())),
    "xz": ("a.json.xz", lzma.compress(json.dumps(OBJECTS).encode())),
}


@pytest.mark.parametrize(("name", "content"), ODD.values(), ids=ODD.keys())
def test_an_odd_file_is_read_alike(name: str, content: str | bytes) -> None:
    write(name, content)
    assert trained(name) == predicted(name) == TWO


VALUES: dict[str, tuple[str, str, Pairs]] = {
    "quoted line breaks": (
        "a.csv",
        'text,label\n"two\r\nlines, ""quoted""",ham\n"one\rmore",spam\n',
        [('two\r\nlines, "quoted"', "ham"), ("one\rmore", "spam")],
    ),
    "quotes in TSV": (
        "a.tsv",
        'text\tlabel\nsay "hi\tham\n"buy" now"\tspam\n',
        [('say "hi', "ham"), ('"buy" now"', "spam")],
    ),
    "numbers and truth": (
        "a.jsonl",
        "".join(f'{{"text": {one}, "label": "x"}}\n' for one in ("1.50", "3.0", "1e2", "true", "null", "NaN", '"t"')),
        [(text, "x") for text in ("1.50", "3", "100", "true", None, None, "t")],
    ),
    "missing and blank": ("a.csv", "text,label\n,\n ,x\n", [("", ""), (" ", "x")]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "expected"), VALUES.values(), ids=VALUES.keys())
def test_values_are_read_alike(name: str, content: str, expected: Pairs) -> None:
    write(name, content)
    assert trained(name) == predicted(name) == expected


BAD: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("a.csv", "", "a.csv: the file is empty"),
    "blank": ("a.json", " \n", "a.json: the file is empty"),
    "ragged": ("a.csv", "text,label\nhello,ham\none, two,spam\n", "a.csv:3: 3 fields, expected 2"),
    "commas under .tsv": ("a.tsv", ROWS, "a.tsv:1: one column only"),
    "a quote that never closes": ("a.csv", 'text,label\na,ham\n"b,ham\n', "a.csv:3: a quote"),
    "names that stand twice": ("a.csv", "text,label,text\na,b,c\n", "a.csv:1: column names stand twice: text"),
    "two texts": ("a.csv", "text,review,label\na,b,c\n", "a.csv:1: text and review may each be the text"),
    "no bytes of UTF-8": ("a.csv", "text,label\nschön,gut\n".encode("latin-1"), "a.csv:2: byte 14 (0xf6) is not utf-8"),
    "a NUL byte": ("a.csv", "text,label\na\0b,c\n", "a.csv:2: a NUL byte"),
    "UTF-16 without a mark": ("a.csv", ROWS.encode("utf-16-le"), "a.csv:1: a NUL byte"),
    "UTF-16 cut off": ("a.csv", ROWS.encode("utf-16")[:-1], "a.csv"),
    "half a surrogate pair": ("a.jsonl", '{"text": "\\uD83D", "label": "x"}\n', "a.jsonl:1: not valid Unicode"),
    "half of one in a document": ("a.json", '[{"text": "\\ud83d", "label": "x"}]', "a.json:1: not valid Unicode"),
    "no object": ("a.jsonl", '{"text": "a", "label": "b"}\n3\n', "a.jsonl:2: a record must be an object"),
    "a list for a text": ("a.jsonl", '{"text": ["a"], "label": "b"}\n', "a.jsonl:1: one value is expected, found list"),
    "nested too deeply": ("a.json", "[" * 100_000, "a.json:1: not readable JSON"),
    "a number of many digits": ("a.jsonl", f'{{"text": {"9" * 5000}, "label": 1}}', "a.jsonl:1: not readable JSON"),
    "a spreadsheet": ("a.xlsx", b"PK\x03\x04" + bytes(9), "a.xlsx is a spreadsheet: save the sheet as CSV"),
    "an archive": ("a.csv", b"PK\x03\x04" + bytes(9), "a.csv is a ZIP archive: unpack it"),
    "a spreadsheet under .csv": ("a.csv", b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "a.csv is a spreadsheet"),
    "a TAR archive": ("a.tar.gz", gzip.compress(bytes(99)), "a.tar.gz is a TAR archive: unpack it"),
    "zstd": ("a.csv.zst", b"\x28\xb5\x2f\xfd" + bytes(9), "a.csv.zst is a zstd file: unpack it"),
    "an old spreadsheet": ("a.csv", b"\xd0\xcf\x11\xe0" + bytes(9), "a.csv is a file of an older Office program"),
    "a database": ("a.csv", b"SQLite format 3\0", "a.csv is an SQLite database: export the table as CSV"),
    "a web page": ("a.csv", "\ufeff\n<HTML><table>", "a.csv is a web page or XML: export the table as CSV"),
    "fastText": ("a.dat", "__label__ham hello\n", "a.dat has the format of fastText"),
    "packed Parquet": ("a.parquet.gz", gzip.compress(b"PAR1"), "a.parquet.gz is compressed as a whole"),
    "gzip cut off": ("a.csv.gz", gzip.compress(ROWS.encode())[:-9], "a.csv.gz: the compressed data is damaged or cut"),
    "no Parquet": ("a.parquet", b"PAR1 no", "a.parquet: truncated, damaged or no Parquet"),
    "no Arrow": ("a.arrow", b"no", "a.arrow: truncated, damaged or no Arrow"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_alike(name: str, content: str | bytes, message: str) -> None:
    write(name, content)
    for read in (trained, predicted):
        with pytest.raises(UserError) as caught:
            read(name)
        assert message in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.pq", "stream.arrow", "file.arrow"])
def test_columnar_files_are_read_alike_and_in_part(name: str) -> None:
    table = pa.table({"label": ["ham", "spam"], "more": [[1], []], "text": ["hello", "buy now"]})
    if name.startswith("a."):
        parquet.write_table(table, RAW / name)
    else:
        create = ipc.new_stream if name == "stream.arrow" else ipc.new_file
        with create(RAW / name, table.schema) as writer:
            writer.write_table(table)
    assert trained(name) == predicted(name) == TWO
    rows = open_rows(RAW / name, detect_format(RAW / name, "utf-8"))
    assert list(rows.take(["label"])) == [(1, {"label": "ham"}), (2, {"label": "spam"})]


def test_texts_that_are_not_utf8_in_parquet_are_refused() -> None:
    broken = pa.array([b"fine", b"\xff\xfe"]).view(pa.string())
    parquet.write_table(pa.table({"text": broken, "label": ["a", "b"]}), RAW / "a.parquet")
    for read in (trained, predicted):
        with pytest.raises(UserError, match="truncated, damaged or no Parquet"):
            read("a.parquet")


def test_rows_of_one_line_have_distinct_ids() -> None:
    write("a.jsonl", "".join(map(json.dumps, OBJECTS)) + "\n" + json.dumps(OBJECTS[0]))
    frame = read_split(Dataset(name="mine", source="files", folder=str(RAW), all="a.jsonl"), "all")
    assert frame["id"].tolist() == ["a.jsonl:1", "a.jsonl:1.2", "a.jsonl:2"]


def test_what_stands_in_a_column_without_a_name_is_kept() -> None:
    write("a.csv", "text,label,,\nhello,ham,,\nbuy now,spam,,note\n")
    table = Table.survey(RAW / "a.csv")
    assert table.columns == ("text", "label", "unnamed_4")
    assert [row.get("unnamed_4") for chunk in table.chunks() for row in chunk] == [None, "note"]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_rows_are_read_in_bounded_memory(format: str) -> None:
    count = 60_000
    path = RAW / f"a.{format}"
    if format == "parquet":
        parquet.write_table(pa.table({"text": ["a text of some words"] * count, "label": ["x"] * count}), path)
    else:
        line = "a text of some words,x\n" if format == "csv" else '{"text": "a text of some words", "label": "x"}\n'
        path.write_text("text,label\n" * (format == "csv") + line * count)
    tracemalloc.start()
    rows = sum(1 for _ in open_rows(path, format).take(None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == count
    assert peak < 3_000_000
