"""Rows of every format and encoding, and what is said of files that are not as declared."""

import codecs
import json
import os
import sys
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from labeltune.config.data import Dataset
from labeltune.data.loading import read_split
from labeltune.runtime.errors import UserError

RAW = Path("data/raw/mine")
CONF = "conf/datasets/mine.yaml"
HELLO = [("a.csv:2", "hello", "ham"), ("a.csv:3", "buy", "spam")]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project with a folder for rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABELTUNE_CACHE", str(tmp_path / "cache"))
    RAW.mkdir(parents=True)


def write(name: str, content: str | bytes, encoding: str = "utf-8") -> None:
    path = RAW / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))


def mine(value="a.csv", **keys) -> Dataset:
    return Dataset(name="mine", source="files", folder=str(RAW), **{"all": value, **keys})


def read(value="a.csv", split="all", **keys) -> list[tuple[str, str | None, str | None]]:
    frame = read_split(mine(value, **keys), split)
    assert list(frame.columns) == ["id", "text", "label"]
    assert frame["id"].is_unique
    return list(frame.itertuples(index=False, name=None))


def refused(value="a.csv", **keys) -> str:
    with pytest.raises(UserError) as caught:
        read_split(mine(value, **keys), "all")
    return str(caught.value)


# --- CSV and TSV


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ("text,label\nhello,ham\nbuy,spam\n", {}),
        ("text,label\r\nhello,ham\r\nbuy,spam", {}),
        ("Label ,SENTENCE\nham,hello\nspam,buy\n", {}),
        ("text;label\nhello;ham\nbuy;spam\n", {}),
        ("text\tlabel\nhello\tham\nbuy\tspam\n", {}),
        ("text\tlabel\nhello\tham\nbuy\tspam\n", {"format": "tsv"}),
        ("whatever,label\nhello,ham\nbuy,spam\n", {}),
        ("v1,v2,,\nham,hello,,\nspam,buy,,\n", {"label": "v1", "text": "v2"}),
        ("v1,v2,v3\nx,hello,ham\ny,buy,spam\n", {"label": 2, "text": 1}),
    ],
)
def test_delimited(content, keys):
    write("a.csv", content)
    assert read(**keys) == HELLO


def test_without_header_and_with_quotes_as_characters():
    write("a.tsv", 'ham\tsay "hi\nspam\t"buy" now"\n')
    rows = [("a.tsv:1", 'say "hi', "ham"), ("a.tsv:2", '"buy" now"', "spam")]
    assert read("a.tsv", header=False, label=0, text=1) == rows


def test_ids_are_first_lines_of_records():
    write("a.csv", '\n\ntext,label\n"two\nlines, ""quoted""",ham\n\nlast,spam\n')
    assert read() == [("a.csv:4", 'two\nlines, "quoted"', "ham"), ("a.csv:7", "last", "spam")]


def test_huge_fields_and_blank_values():
    huge = "x" * 1_000_000
    write("a.csv", f'text,label\n"{huge}", 1.0 \n,\n')
    assert read() == [("a.csv:2", huge, "1.0"), ("a.csv:3", "", "")]


@pytest.mark.parametrize(
    ("content", "keys", "said"),
    [
        ("", {}, ["data/raw/mine/a.csv: the file is empty"]),
        ("text,label\n", {}, [f"{CONF}: all: a.csv holds no rows"]),
        ("text,label\nhello,ham\none, two,spam\n", {}, ["a.csv:3: 3 fields, expected 2", "quoting: none", CONF]),
        ('text,label\n"a\nb",ham\nlonely\n', {}, ["a.csv:4: 1 fields, expected 2"]),
        ("text\tlabel\na\tb\tc\n", {"format": "tsv"}, ["a.csv:2: 3 fields, expected 2", "quoting: standard"]),
        ('text,label\na,ham\n"b,ham\nc,spam\n', {}, ["a.csv:3: a quote", "never closed", "quoting: none", CONF]),
        ('text,label\n"a\nb","c\nd,e\n', {}, ["a.csv:3: a quote", "never closed"]),
        ('text,label\n"say" hello,ham\n', {}, ["a.csv:2: a quote", "does not close", "quoting: none"]),
        ("text\tlabel\na\tb\n", {"format": "csv"}, ["a.csv:1: one column only", "tabs: set format: tsv", CONF]),
        ("text,label\na,b\n", {"format": "tsv"}, ["a.csv:1: one column only", "commas: set format: csv", CONF]),
        ("alone\na\n", {}, ["a.csv:1: one column only"]),
        ("text,label\na\0b,ham\n", {}, ["a.csv:2: a NUL byte", "damaged or not text"]),
    ],
)
def test_delimited_refused(content, keys, said):
    write("a.csv", content)
    message = refused(**keys)
    for part in said:
        assert part in message


# --- encodings


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-8"),
        ("utf-32", "utf-8"),
        ("utf-8-sig", "gb18030"),
        ("utf-16-le", "utf-16-le"),
        ("gb18030", "gb18030"),
        ("gb18030", "utf-8, gbk"),
        ("utf-8", "utf-8, gbk"),
        ("big5", "Big5"),
    ],
)
def test_encodings(encoding, declared):
    write("a.csv", "text,label\n你好,好\n", encoding)
    assert read(encoding=declared) == [("a.csv:2", "你好", "好")]


def test_big_endian_mark_counts():
    write("a.csv", codecs.BOM_UTF16_BE + "text,label\nä,b\n".encode("utf-16-be"))
    assert read() == [("a.csv:2", "ä", "b")]


@pytest.mark.parametrize(
    ("content", "encoding", "declared", "said"),
    [
        (
            "text,label\n中文评论内容,好\n",
            "gb18030",
            "utf-8",
            ["a.csv:2: byte 11 (0xd6) is not utf-8", "set encoding: gb18030"],
        ),
        (
            "text,label\nok,ok\ncafé au lait,gut\n",
            "latin-1",
            "utf-8",
            ["a.csv:3: byte 20 (0xe9)", "set encoding: cp1252"],
        ),
        ("text,label\nok,fine\n", "utf-16-le", "utf-8", ["a.csv:1: a NUL byte", "set encoding: utf-16-le"]),
        ("text,label\n评论,好\n", "utf-16-be", "utf-8", ["is not utf-8", "set encoding: utf-16-be in"]),
        (
            "text,label\n评论不错,好\n",
            "utf-8",
            "gb18030",
            ["a.csv:2: byte ", "is not gb18030", "set encoding: utf-8 in"],
        ),
        ("text,label\n評論,好\n", "utf-8", "ascii", ["a.csv:2: byte 11 (0xe8) is not ascii", "set encoding: utf-8 in"]),
        (b"text,label\n\xff\x00\x81,b\n", None, "utf-8", ["a.csv:2: byte 11 (0xff)", "damaged or not text"]),
        ("text,label\na,b\n", "utf-8", "utf-9", [f"{CONF}: encoding: 'utf-9' is unknown", "gb18030"]),
        ("text,label\na,b\n", "utf-8", "rot13", [f"{CONF}: encoding: 'rot13' is unknown"]),
    ],
)
def test_encodings_refused(content, encoding, declared, said):
    write("a.csv", content, encoding) if encoding else write("a.csv", content)
    message = refused(encoding=declared)
    for part in said:
        assert part in message


def test_the_position_of_a_wrong_byte_counts_the_mark():
    write("a.csv", codecs.BOM_UTF8 + b"text,label\r\nab,\xff\r\n")
    assert "a.csv:2: byte 18 (0xff)" in refused()


# --- JSON


RECORDS = [{"text": "hello", "label": "ham"}, {"text": "buy", "label": "spam"}]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        json.dumps({"data": RECORDS}),
        json.dumps({"version": "1", "rows": RECORDS}),
        json.dumps({"other": [], "data": RECORDS}),
        "\n".join(map(json.dumps, RECORDS)),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.dat"])
def test_json(content, name):
    write(name, content)
    assert read(name) == [(f"{name}:1", "hello", "ham"), (f"{name}:2", "buy", "spam")]


def test_a_single_record_of_json_lines():
    write("a.json", json.dumps(RECORDS[0]) + "\n")
    assert read("a.json") == [("a.json:1", "hello", "ham")]


def test_json_lines_are_numbered_by_line():
    write("a.jsonl", '{"id": 1, "label": "x"}\n\n{"text": "t", "label": null}\n')
    assert read("a.jsonl") == [("a.jsonl:1", None, "x"), ("a.jsonl:3", "t", None)]


def test_raw_values_become_canonical_strings():
    values = ['" a "', "1", "1.0", "1.50", "1e2", "true", "false", "null", "NaN", "12345678901234567890", "1e999999999"]
    write("a.jsonl", "".join(f'{{"text": {value}, "label": {value}}}\n' for value in values))
    rows = read("a.jsonl")
    labels = ["a", "1", "1", "1.50", "100", "true", "false", None, None, "12345678901234567890", "1E+999999999"]
    assert [row[2] for row in rows] == labels
    assert [row[1] for row in rows] == [" a ", *labels[1:]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '[\n{"text": "a",\n"label" "b"}]', ["a.json:3: not valid JSON: Expecting ':'"]),
        ("a.json", '{"text": "a", "label": "b"}\n{"text": oops}\n', ["a.json:2: not valid JSON"]),
        ("a.json", '{"train": [], "test": []}', ["a.json: expected a list of records", "train, test"]),
        ("a.json", '{"a": [{"text": "x"}], "b": [{"text": "y"}]}', ["a.json: expected a list of records", "a, b"]),
        ("a.json", "3", ["a.json: expected a list of records, found int"]),
        ("a.json", " \n", ["a.json: the file is empty"]),
        ("a.json", "[]", ["holds no rows"]),
        ("a.json", '["a", "b"]', ["a.json: no column has a usual name of a label; columns: text"]),
        ("a.json", '[{"text": "a"}, 3]', ["a.json:2: a record must be an object"]),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text"}\n', ["a.jsonl:2: not valid JSON"]),
        ("a.jsonl", '[{"text": "a", "label": "b"}]\n', ["a.jsonl:1: a record must be", "set format: json"]),
        ("a.jsonl", '{"text": "a", "label": "b"}\n' * 1001 + "7\n", ["a.jsonl:1002: a record must be"]),
        (
            "a.jsonl",
            '{"text": "a", "label": ["b", "c"]}\n',
            ["a.jsonl:1: several labels ['b', 'c']", "label: in"],
        ),
        ("a.jsonl", '{"text": {"b": 1}, "label": "c"}\n', ["a.jsonl:1: one value is expected, found dict", "text: in"]),
        ("a.jsonl", '{"a": 1, "b": 2, "c": 3}\n', ["a.jsonl: no column", "columns: a, b, c", CONF]),
    ],
)
def test_json_refused(name, content, said):
    write(name, content)
    message = refused(name)
    for part in said:
        assert part in message


# --- Parquet


def test_parquet_over_several_batches():
    count = 70_000
    table = pa.table(
        {
            "label": pa.array(["x", "y"] * (count // 2)).dictionary_encode(),
            "text": [f"t{i}" for i in range(count)],
            "more": [[1]] * count,
        }
    )
    parquet.write_table(table, RAW / "a.parquet")
    rows = read("a.parquet")
    assert rows[0] == ("a.parquet:1", "t0", "x")
    assert rows[-1] == (f"a.parquet:{count}", f"t{count - 1}", "y")


def test_parquet_values():
    table = pa.table({"text": ["a", None], "label": pa.array([2.0, float("nan")])})
    parquet.write_table(table, RAW / "whatever")
    assert read("whatever") == [("whatever:1", "a", "2"), ("whatever:2", None, None)]


@pytest.mark.parametrize(("cut", "said"), [(100, "truncated, damaged or no Parquet"), (None, "columns: x, y")])
def test_parquet_refused(cut, said):
    parquet.write_table(pa.table({"x": ["a"], "y": ["b"]}), RAW / "a.parquet")
    write("a.parquet", (RAW / "a.parquet").read_bytes()[:cut])
    message = refused("a.parquet")
    assert "data/raw/mine/a.parquet: " in message
    assert said in message


def test_class_numbers_become_the_names_that_the_file_records():
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    rows.to_parquet(RAW / "a.parquet")
    rows.save_to_disk(RAW / "saved")
    expected = [("a", "yes"), ("b", "no"), ("c", None)]
    assert [row[1:] for row in read("a.parquet")] == [row[1:] for row in read("saved")] == expected
    assert read("saved")[0][0] == "data-00000-of-00001.arrow:1"


# --- several labels, splits by a column, columns that are not read


def test_a_list_of_one_label_is_that_label():
    write("a.jsonl", '{"text": "a", "label": ["x "]}\n{"text": "b", "label": []}\n')
    assert [row[2] for row in read("a.jsonl")] == ["x", None]


SPLIT = "text,label,part\na,x,train\nb,y,Dev\nc,x,test\nd,y,0\n"


@pytest.mark.parametrize(
    ("split", "keys", "texts"),
    [
        ("train", {"validation": "a.csv"}, ["a", "d"]),
        ("validation", {"validation": "a.csv"}, ["b"]),
        ("test", {"validation": "a.csv"}, ["c"]),
        ("test", {}, ["b", "c"]),
    ],
)
def test_a_column_says_the_split(split, keys, texts):
    write("a.csv", SPLIT)
    found = read(None, split, train="a.csv", test="a.csv", split_column="part", **keys)
    assert [text for _, text, _ in found] == texts


def test_a_value_that_names_no_split_is_refused():
    write("a.csv", SPLIT + "e,x,holdout\n")
    with pytest.raises(UserError, match=r"a.csv:6: 'holdout' in column part names no split: it is one of train, "):
        read(None, "train", train="a.csv", test="a.csv", split_column="part")
    with pytest.raises(UserError, match=r"a.csv:1: no column 'split'; there are text, label, part: edit split_column"):
        read(None, "train", train="a.csv", test="a.csv", split_column="split")


@pytest.mark.parametrize("keys", [{"all": "a.csv"}, {"source": "hub", "hub": "a/b", "train": "x", "test": "y"}])
def test_a_split_column_needs_files_and_splits(keys):
    with pytest.raises(ValidationError, match="'split_column' "):
        Dataset(name="mine", **{"source": "files", "folder": str(RAW), "split_column": "part", **keys})


def test_columns_that_are_not_read_are_named(capsys):
    write("a.csv", "id,text,title,label,\n1,a,b,x,\n2,c,d,y,\n")
    read()
    assert "mine: columns of all that are not read: id, title\n" in capsys.readouterr().out
    write("a.csv", "text,label,,\na,x,,\n")
    read()
    assert "not read" not in capsys.readouterr().out


def test_texts_without_labels_are_left_out_by_name(capsys):
    for name in ("neg/1.txt", "pos/1.txt", "unsup/1.txt"):
        write(f"train/{name}", "text")
    assert [row[2] for row in read("train")] == ["neg", "pos"]
    assert "data/raw/mine/train/unsup is left out" in capsys.readouterr().out


def test_several_labels_are_refused_unless_they_are_listed():
    write("a.csv", "text,label\na,x\nb,y\nc,x|y\n")
    message = refused()
    assert "'x|y' look like several labels with '|' between" in message
    assert f"list them as labels: in {CONF}" in message
    assert len(read(labels={"x": "x", "y": "y", "x|y": "both"})) == 3


# --- folders, lines and shards


def test_folder_of_texts():
    write("all/sport/2.txt", "two\n")
    write("all/sport/1.txt", "one\n")
    write("all/art/x", "paint")
    write("all/.DS_Store", b"\0")
    write("all/README.md", "about")
    rows = [("art/x", "paint", "art"), ("sport/1.txt", "one\n", "sport"), ("sport/2.txt", "two\n", "sport")]
    assert read("all") == rows
    assert read("all/", format="folder") == rows


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="file names are Unicode there")
def test_a_file_whose_name_is_not_unicode_is_refused():
    for label in ("a", "b"):
        write(f"all/{label}/1.txt", "text")
    Path(os.fsdecode(bytes(RAW / "all" / "a") + b"/caf\xe9.txt")).write_text("x")
    assert "caf\\xe9.txt': the name is not UTF-8" in refused("all")


def test_lines_of_files_and_of_a_folder():
    write("l/neg.txt", "bad\r\n\n")
    write("l/pos.txt", "good\nfine")
    negative = [("neg.txt:1", "bad", "neg"), ("neg.txt:2", "", "neg")]
    rows = [*negative, ("pos.txt:1", "good", "pos"), ("pos.txt:2", "fine", "pos")]
    assert read("l") == rows
    assert read("l", format="lines") == rows
    assert read({"neg": "l/neg.txt", "pos": "l/pos.txt"}) == rows


def test_shards_are_read_in_sorted_order():
    write("s/b.csv", "label,text\nx,second\n")
    write("s/a.csv", "text,label\nfirst,y\n")
    write("s/_SUCCESS", "")
    rows = [("a.csv:2", "first", "y"), ("b.csv:2", "second", "x")]
    assert read("s") == rows
    assert read("s/*.csv") == rows
    assert read("s", format="csv") == rows


def test_shards_of_one_name_have_distinct_ids():
    for part in "ab":
        write(f"{part}/x.jsonl", json.dumps({"text": part, "label": 1}))
    assert read("*/x.jsonl") == [("a/x.jsonl:1", "a", "1"), ("b/x.jsonl:1", "b", "1")]


def test_splits_are_read_by_their_key():
    for name in ("train", "test"):
        write(f"{name}.csv", f"text,label\n{name},x\n")
    keys = {"value": None, "train": "train.csv", "test": "test.csv"}
    assert read(split="test", **keys) == [("test.csv:2", "test", "x")]
    with pytest.raises(UserError, match=r"mine\.yaml: validation is null; given are train, test"):
        read(split="validation", **keys)


@pytest.mark.parametrize(
    ("value", "keys", "said"),
    [
        ("b.csv", {}, ["all: no file data/raw/mine/b.csv; data/raw/mine holds a.csv, f/, g.csv, m/, n/, p/"]),
        ("x/b.csv", {}, ["there is no folder data/raw/mine/x"]),
        ("*.tsv", {}, ["no file data/raw/mine/*.tsv"]),
        ("../a.csv", {}, ["'../a.csv' must be a path inside data/raw/mine"]),
        ("/a.csv", {}, ["must be a path inside"]),
        ("a.csv", {"format": "folder"}, ["needs a folder with a sub-folder per class"]),
        ("a.csv", {"format": "lines"}, ["format: lines needs {label: file}"]),
        ({"x": "a.csv"}, {"format": "csv"}, ["is a file per class with one text per line, not csv"]),
        ({"x": "a.csv"}, {}, ["x: a.csv is not a text file with one text per line"]),
        ({"x": "no.txt"}, {}, ["x: no file data/raw/mine/no.txt"]),
        ("m", {}, ["the format of data/raw/mine/m can't be detected", "a.csv, b.jsonl"]),
        ("m/*", {}, ["files of several formats: a.csv (csv), b.jsonl (jsonl)"]),
        ("m", {"format": "parquet"}, ["no .parquet or .pq file in data/raw/mine/m"]),
        ("m", {"format": "folder"}, ["has no sub-folder per class"]),
        ("n", {}, ["data/raw/mine/n/train/sport is a folder inside a class folder"]),
        ("g.csv", {}, ["g.csv: the compressed data is damaged or cut off"]),
        ("f", {}, ["f/c/bin.txt:1: a NUL byte"]),
        ("p/a.txt", {}, ["p/a.txt:1: one column only"]),
    ],
)
def test_files_refused(value, keys, said):
    write("a.csv", "text,label\na,b\n")
    write("m/a.csv", "text,label\na,b\n")
    write("m/b.jsonl", '{"text": "a", "label": "b"}')
    write("n/train/sport/1.txt", "x")
    write("f/c/bin.txt", b"a\0")
    write("g.csv", b"\x1f\x8b\x08rest")
    write("p/a.txt", "just prose\n")
    message = refused(value, **keys)
    for part in said:
        assert part in message
    assert CONF in message or "data/raw/mine" in message


# --- the Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that the Hub's library takes for a data set."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = datasets.Dataset.from_dict({"sentence": ["a", "b", None], "label": [1, 0, -1]}, features=features)
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    rows.to_parquet(folder / "train-00000-of-00001.parquet")
    return Dataset(name="far", source="hub", hub="hub", all="train")


def test_hub_rows_have_class_names(hub):
    rows = read_split(hub, "all").itertuples(index=False, name=None)
    assert list(rows) == [("train:1", "a", "yes"), ("train:2", "b", "no"), ("train:3", None, None)]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"all": "dev"}, ["conf/datasets/far.yaml: hub: hub, all: dev", "train"]),
        ({"hub": "gone"}, ["conf/datasets/far.yaml: hub: gone could not be loaded", "labeltune fetch RECIPE"]),
        ({"all": {"x": "train"}}, ["conf/datasets/far.yaml: all:", "the name of a split"]),
        ({"text": "text"}, ["hub: hub: no column 'text'", "sentence, label", "Edit text: in conf/datasets/far.yaml"]),
    ],
)
def test_hub_refused(hub, monkeypatch, keys, said):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        read_split(hub.model_copy(update=keys), "all")
    for part in said:
        assert part in str(caught.value)


def test_nulls_stay_none():
    write("a.jsonl", '{"text": null, "label": null}\n')
    frame = read_split(mine("a.jsonl"), "all")
    assert frame.loc[0, "text"] is None
    assert isinstance(frame, pd.DataFrame)
