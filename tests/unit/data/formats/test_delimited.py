"""CSV and TSV: which separator a first line has."""

from pathlib import Path

import pytest

from labeltune.data.formats.delimited import DelimitedFile


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("text,label", ("text", "label")),
        ("text;label", ("text", "label")),
        ("text|label", ("text", "label")),
        ("text;a|b", ("text", "a|b")),
        ("text,a;b", ("text", "a;b")),
        ('"a, b";label', ("a, b", "label")),
        ('"a;b",label', ("a;b", "label")),
        ("sep=#\ntext#label", ("text", "label")),
        ("text", ("text",)),
    ],
)
def test_the_first_line_tells_the_separator(tmp_path: Path, header: str, columns: tuple[str, ...]) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"{header}\n")
    assert DelimitedFile(file, "utf-8", None, tabs=False, quoting="auto").open(header=True).columns == columns
