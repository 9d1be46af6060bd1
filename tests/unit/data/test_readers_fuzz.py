"""Thousands of damaged and odd files: each is read, or refused by a message that names it, in training and prediction.

`make fuzz` sets LABELTUNE_FUZZ to the number of files; every one of them is made by its number alone.
"""

import datetime as dt
import gzip
import io
import json
import os
import random
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from labeltune.config.data import Dataset
from labeltune.data.cleaning import read_corrections
from labeltune.data.labels import LabelSet
from labeltune.data.loading import read_split
from labeltune.runtime.errors import UserError
from labeltune.serving.tables import Table

FILES = int(os.environ.get("LABELTUNE_FUZZ", "2000"))
CHUNKS = 16
RAW = Path("data/raw/mine")
TEXTS = ["hello", "buy now", "好的，谢谢", "naïve café", "a, b", 'she said "no"', "two\nlines", "1", "", "🎬 x"]
LABELS = ["ham", "spam", "差评", "0", "true", ""]
ODD = [
    b"\0", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xff\xfe\0\0", b'"', b'""', b"'", b",", b";", b"|", b"\t",
    b"\r", b"\n", b"\r\n", b"\n\n", b"\\", b"\\u", b"\\ud800", b"\\udc00", b"{", b"}", b"[", b"]", b"{}", b"[]",
    b"[[", b"null", b"NaN", b"Infinity", b"-", b"1e999999999", b"1e-999999999", b"9" * 5000, b"[" * 3000,
    b'{"a":' * 3000, b"true", b"sep=,\n", b"sep=", b"\xc3", b"\xed\xa0\x80", b"\x80", b"\x1a", b"\x85",
    b"\xe2\x80\xa8", b"text", b"label", b":", b"text,text", b"__label__", b"<html>", b"PAR1", b"ARROW1", b"\x1f\x8b",
    b"PK\x03\x04", b"0.0", b"-0", b'{"text": 1}',
]  # fmt: skip


def values(draw: random.Random) -> list[dict[str, Any]]:
    names = draw.choice([("text", "label"), ("label", "text"), ("id", "text", "label"), ("内容", "标签"), ("a", "b")])
    return [
        {name: draw.choice(LABELS if name in ("label", "标签", "b") else TEXTS) for name in names}
        for _ in range(draw.randrange(9))
    ]


def delimited(draw: random.Random, separator: str) -> bytes:
    rows = values(draw) or [{"text": "x", "label": "y"}]
    quoted = [[f'"{cell}"' if separator in cell or "\n" in cell else cell for cell in row.values()] for row in rows]
    lines = [separator.join(one) for one in [list(rows[0]), *quoted]]
    return (
        draw.choice(["\n", "\r\n"]).join(lines).encode(draw.choice(["utf-8", "utf-8", "utf-16", "gb18030"]), "replace")
    )


def lines(draw: random.Random) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in values(draw)).encode()


def document(draw: random.Random) -> bytes:
    rows = values(draw)
    shapes = [
        rows,
        {"data": rows},
        {"a": rows, "b": rows},
        {name: [row.get(name) for row in rows] for name in ("text", "label")},
        {"text": {"0": "a"}, "label": {"0": "b"}},
        [{"data": row, "annotations": [{"result": [{}]}]} for row in rows],
        {"columns": ["text", "label"], "data": [["a", "b"]]},
        {"columns": 3, "data": [3]},
        {},
        [],
        [[]],
        [None],
        "x",
        {"data": {}},
    ]
    return json.dumps(draw.choice(shapes), ensure_ascii=draw.random() < 0.5).encode()


def cells(draw: random.Random) -> Any:
    """A column of an odd type."""
    return draw.choice(
        [
            pa.array(["a", "b", None]),
            pa.array([b"\xff", b"b", b"c"]),
            pa.array([b"\xff", b"b", b"c"]).view(pa.binary()),
            pa.array([1, 2, None]),
            pa.array([1.5, float("nan"), float("inf")]),
            pa.array([None, None, None]),
            pa.array([["a"], [], None]),
            pa.array([["a", "b"], ["c"], ["d"]]),
            pa.array([{"a": 1}, None, {"a": 2}]),
            pa.array(["a", "b", "a"]).dictionary_encode(),
            pa.array([True, False, None]),
            pa.array([2**63 - 1, -(2**63), 0]),
            pa.array([dt.date(1, 1, 1), dt.date(9999, 12, 31), None]),
            pa.array([2**31 - 1, -(2**31), 0], pa.date32()),
            pa.array([2**62, -(2**62), 0], pa.timestamp("us")),
            pa.array([2**62, 1, 0], pa.timestamp("ns")),
            pa.array([2**62, 1, 0], pa.timestamp("s", tz="UTC")),
            pa.array([2**62, 1, 0], pa.duration("s")),
            pa.array([1, 2, 3], pa.time64("ns")),
            pa.array([Decimal("1e20"), None, Decimal("0.01")]),
            pa.array([dt.time(1, 2), None, None]),
            pa.array(["x", "y", "z"], pa.large_string()),
            pa.StringArray.from_buffers(
                3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"\xff\xfea")
            ),
        ]
    )


def odd_table(draw: random.Random) -> Any:
    names = draw.choice(
        [["text", "label"], ["label", "text"], ["text", "text"], ["text", "label", ""], ["内容", "标签"]]
    )
    metadata = draw.choice(
        [
            None,
            {"huggingface": "{}"},
            {
                "huggingface": json.dumps(
                    {
                        "info": {
                            "features": {
                                "label": {
                                    "_type": "ClassLabel",
                                    "names": draw.choice([["ham", "spam"], [], "ham", [1, 2, 3, 4]]),
                                }
                            }
                        }
                    }
                )
            },
        ]
    )
    return pa.Table.from_arrays([cells(draw) for _ in names], names=names).replace_schema_metadata(metadata)


def columnar(draw: random.Random, kind: str) -> bytes:
    sink = io.BytesIO()
    table = odd_table(draw)
    try:
        if kind == "parquet":
            parquet.write_table(table, sink)
        else:
            opened = ipc.new_file if draw.random() < 0.5 else ipc.new_stream
            with opened(sink, table.schema) as writer:
                writer.write_table(table)
    except (pa.ArrowException, ValueError, OverflowError):
        return b"PAR1"  # a type that the format does not have
    return sink.getvalue()


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "a.csv": lambda draw: delimited(draw, draw.choice([",", ";", "|", "\t"])),
    "a.tsv": lambda draw: delimited(draw, "\t"),
    "a.dat": lambda draw: draw.choice([document, lines, lambda one: delimited(one, ",")])(draw),
    "a.txt": lambda draw: "\n".join(draw.choice(TEXTS) for _ in range(5)).encode(),
    "a.json": document,
    "a.jsonl": lines,
    "a.csv.gz": lambda draw: gzip.compress(mutated(delimited(draw, ","), draw), mtime=0),
    "a.jsonl.gz": lambda draw: gzip.compress(mutated(lines(draw), draw), mtime=0),
    "a.parquet": lambda draw: columnar(draw, "parquet"),
    "a.arrow": lambda draw: columnar(draw, "arrow"),
}


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, dropped, doubled and put in, none to six times."""
    data = bytearray(content)
    for _ in range(draw.choice([0, 1, 1, 2, 3, 6])):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.choice([0, 1, 1, 4, 20]))
        data[start:end] = draw.choice(
            [
                draw.choice(ODD),
                draw.choice(ODD),
                b"",
                draw.randbytes(1),
                bytes(data[start:end]) * 2,
                bytes(byte ^ 1 << draw.randrange(8) for byte in data[start:end]),
            ]
        )
    return bytes(data)


def train(name: str) -> None:
    read_split(Dataset(name="mine", source="files", folder=str(RAW), all=name), "all")


def predict(name: str) -> None:
    table = Table.survey(RAW / name)
    for chunk in table.chunks():
        table.values(chunk, table.text)
    table.schema()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_file_is_read_or_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], chunk: int
) -> None:
    monkeypatch.chdir(tmp_path)
    RAW.mkdir(parents=True)
    warnings.simplefilter("ignore")
    failures: list[str] = []
    for number in range(chunk, FILES, CHUNKS):
        draw = random.Random(number)
        name = draw.choice(list(KINDS))
        (RAW / name).write_bytes(mutated(KINDS[name](draw), draw))
        for read in (train, predict):
            try:
                read(name)
            except UserError as error:
                if name not in str(error) and "conf/datasets/mine.yaml" not in str(error):
                    failures.append(f"file {number}, {read.__name__} {name}: refused without its name: {error}")
            except Exception as error:
                failures.append(f"file {number}, {read.__name__} {name}: {type(error).__name__}: {error!s:.200}")
    assert not failures, "\n".join([f"{len(failures)} failures", *failures[:20]])


def test_every_file_of_corrections_is_read_or_refused_by_line() -> None:
    labels = LabelSet(names=("ham", "spam"), words=("ham", "spam"))
    for number in range(FILES // 4):
        draw = random.Random(number)
        rows = [{"text": draw.choice(TEXTS), "label": draw.choice(["ham", "spam"])} for _ in range(4)]
        content = mutated("\n".join(json.dumps(row) for row in rows).encode(), draw)
        try:
            read_corrections(content, Path("data/raw/corrections.jsonl"), labels)
        except UserError as error:
            if "corrections.jsonl" not in str(error):
                pytest.fail(f"file {number}: refused without its name: {error}")
