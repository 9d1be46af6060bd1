"""Parquet and Arrow: what the schema says."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from labeltune.data.formats.columnar import open_columnar, table_schema
from labeltune.data.readers import detect_format
from labeltune.runtime.errors import UserError

TABLE = pa.table({"text": ["a", "b"], "label": pa.array(["x", "y"]).dictionary_encode()})


def test_feather_is_arrow(tmp_path: Path) -> None:
    feather.write_feather(TABLE, tmp_path / "a.feather")
    assert detect_format(tmp_path / "a.feather", "utf-8") == "arrow"
    rows = open_columnar(tmp_path / "a.feather", "arrow")
    assert [row for _, row in rows.take(["label"])] == [{"label": "x"}, {"label": "y"}]


def test_columns_of_one_name_are_refused_and_damage_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_arrays([[1], [2]], names=["text", "text"]), file)
    with pytest.raises(UserError, match=r"a\.parquet: column names stand twice: text"):
        open_columnar(file, "parquet")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"a\.parquet: truncated, damaged or no Parquet"):
        table_schema(file, "parquet")


def test_column_names_that_are_no_utf8_are_refused_by_name(tmp_path: Path) -> None:
    """The library decodes them when they are asked for, after the schema has been read."""
    file = tmp_path / "a.arrow"
    feather.write_feather(pa.table({"words": ["a"]}), file, compression="uncompressed")
    file.write_bytes(file.read_bytes().replace(b"words", b"wo\xffds"))
    with pytest.raises(UserError, match=r"a\.arrow: truncated, damaged or no Arrow"):
        open_columnar(file, "arrow")


def test_names_of_classes_belong_to_numbers_alone(tmp_path: Path) -> None:
    """The metadata may outlive a change of the column's type."""
    features = {"label": {"_type": "ClassLabel", "names": ["ham", "spam"]}}
    noted = {"huggingface": json.dumps({"info": {"features": features}})}
    for labels, classes in (([0, 1], {"label": ["ham", "spam"]}), (["ham", "spam"], {}), ([0.0, 1.0], {})):
        table = pa.table({"text": ["a", "b"], "label": labels}).replace_schema_metadata(noted)
        parquet.write_table(table, tmp_path / "a.parquet")
        assert open_columnar(tmp_path / "a.parquet", "parquet").classes == classes
