"""Tables to be labelled: read whole before the first row is labelled, and from a pipe as rows come."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from labeltune.runtime.errors import UserError
from labeltune.serving import tables
from labeltune.serving.tables import Table, Writer


def arriving(*blocks: bytes, format: str = "txt", **options: str) -> list[list[dict[str, Any]]]:
    return list(tables.stream_lines(iter([*blocks, b""]).__next__, format=format, **{"text": "text"} | options))


def test_rows_of_a_pipe_come_as_they_are_there() -> None:
    euro = "\ufeffone €\r\ntwo".encode()
    found = arriving(euro[:8], euro[8:], b" 2\n\nthr", b"ee")
    assert found == [[{"text": "one €"}], [{"text": "two 2"}, {"text": ""}], [{"text": "three"}]]
    assert arriving("你好\n".encode("gb18030"), encoding="gb18030") == [[{"text": "你好"}]]
    assert arriving(b'{"text": "a", "n": 1}\n\n"b"\n', format="jsonl") == [[{"text": "a", "n": 1}, {"text": "b"}]]
    assert arriving() == []


@pytest.mark.parametrize(
    ("blocks", "options", "message"),
    [
        ([b'"a"\n', b'"b"\n{'], {"format": "jsonl"}, "-:3: not valid JSON"),
        ([b'{"body": "a"}\n'], {"format": "jsonl"}, "no 'text' in {'body': 'a'}; name it with --text-column"),
        ([b"a\n", b"\xff\n"], {}, "-:2 or later: .*name the encoding with --encoding"),
        ([b"\xe2\x82"], {}, "-:1 or later: .*unexpected end of data"),
        ([], {"encoding": "klingon"}, "--encoding: 'klingon' is unknown"),
        ([], {"format": "csv"}, "--format: 'csv' can't come through a pipe, only txt and jsonl"),
    ],
)
def test_a_bad_pipe_is_told(blocks: list[bytes], options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        arriving(*blocks, **options)


def surveyed(path: Path, content: str, **options: Any) -> Table:
    path.write_text(content, encoding="utf-8")
    return Table.survey(path, **options)


def test_a_survey_counts_the_rows_and_names_every_column_that_any_row_has(tmp_path: Path) -> None:
    lines = [{"text": "a", "n": 1}, {"text": "b"}, {"n": 2, "text": "c", "late": None}]
    table = surveyed(tmp_path / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert (table.rows, table.text, table.columns) == (3, "text", ("text", "n", "late"))
    assert surveyed(tmp_path / "a.txt", "one\ntwo\n").columns == ("text",)


def test_chunks_are_the_rows_in_order_from_any_row_on(tmp_path: Path) -> None:
    table = surveyed(tmp_path / "a.csv", "text\n" + "".join(f"t{i}\n" for i in range(7)))
    found = [[row["text"] for row in chunk] for chunk in table.chunks(skip=2, size=3)]
    assert found == [["t2", "t3", "t4"], ["t5", "t6"]]


def test_class_numbers_are_read_as_their_names(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    features = {"info": {"features": {"label": {"names": ["ham", "spam"], "_type": "ClassLabel"}}}}
    rows = pa.table({"text": ["a", "b"], "label": [1, 0]})
    parquet.write_table(rows.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    table = Table.survey(path)
    (chunk,) = table.chunks()
    assert table.values(chunk, "label") == ["spam", "ham"]
    assert table.values(chunk, "text") == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("missing.csv", {}, "missing.csv: no such file"),
        ("a.csv", {"format": "xml"}, "a.csv: 'xml' is not a known format; name one of csv, "),
        ("a.csv", {"text": "body"}, "no column 'body'. There are: text. Name one with --text-column"),
    ],
)
def test_what_cannot_be_surveyed_is_refused(tmp_path: Path, name: str, options: dict[str, str], message: str) -> None:
    (tmp_path / "a.csv").write_text("text\nhello\n")
    with pytest.raises(UserError, match=message):
        Table.survey(tmp_path / name, **options)


def test_a_field_that_the_row_has_a_column_of_gets_another_name(tmp_path: Path) -> None:
    table = surveyed(tmp_path / "a.csv", "text,label,predicted_label\na,b,c\n")
    assert tables.columns_of(table) == {
        "label": "predicted_predicted_label", "confidence": "confidence", "probabilities": "probabilities",
        "abstained": "abstained", "truncated": "truncated",
    }  # fmt: skip


def test_types_of_answers_follow_those_of_the_rows(tmp_path: Path) -> None:
    table = surveyed(tmp_path / "a.jsonl", '{"text": "a", "n": 1}\n{"text": "b", "n": 2.5, "none": null}\n')
    types = {field.name: str(field.type) for field in tables.schema_of(table)}
    assert types == {
        "text": "string", "n": "double", "none": "string", "label": "string", "confidence": "double",
        "probabilities": "string", "abstained": "bool", "truncated": "bool",
    }  # fmt: skip


@pytest.mark.parametrize("kind", tables.WRITTEN)
def test_what_is_written_in_two_parts_is_read_as_one_table(tmp_path: Path, kind: str) -> None:
    rows = [
        {"text": text, "label": "ham", "confidence": 0.5, "probabilities": {"ham": 0.5}, "abstained": abstained,
         "truncated": False}
        for text, abstained in (("a,\n b", True), ('"é"', False), ("\r", False))
    ]  # fmt: skip
    table = surveyed(tmp_path / "in.txt", "a\n")
    path = tmp_path / f"out.{kind}"
    with Writer(path, kind, table, tables.schema_of(table)) as writer:
        writer.write(rows[:2])
        writer.write(rows[2:])
    (found,) = Table.survey(path).chunks()
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert [str(row["abstained"]).lower() for row in found] == ["true", "false", "false"]
    given = found[0]["probabilities"]
    assert (given if isinstance(given, dict) else json.loads(given)) == {"ham": 0.5}


@pytest.mark.parametrize("escape", [True, False])
def test_a_cell_that_a_spreadsheet_would_compute_is_counted_and_escaped_where_that_is_asked_for(
    tmp_path: Path, escape: bool
) -> None:
    formulas = ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "\r=1", "＝1", '=HYPERLINK("http://x")']
    plain = ["-12.5", "+49", "-1e-3", "-5%", "1+1", "a=b", "-", "", "'=1", " text"]
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "a", "=head": "x"}) + "\n")
    table = Table.survey(tmp_path / "in.jsonl")
    for kind in tables.WRITTEN:
        path = tmp_path / f"out.{kind}"
        with Writer(path, kind, table, tables.schema_of(table), escape_formulas=escape) as writer:
            writer.write([
                {"text": text, "=head": "x", "label": text, "confidence": 0.5, "probabilities": {text: 0.5},
                 "abstained": False, "truncated": False}
                for text in formulas + plain
            ])  # fmt: skip
        (found,) = Table.survey(path, text="text").chunks()
        changed = escape and kind == "csv"
        mark = "'" * changed
        assert [row["label"] for row in found] == [mark + text for text in formulas] + plain
        assert f"{mark}=head" in found[0]
        assert writer.formulas == (2 * len(formulas) + 1) * (kind == "csv")
