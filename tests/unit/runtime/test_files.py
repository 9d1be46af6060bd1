import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from labeltune.runtime import files
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import digest, unchanged, untouched, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"b": 1, "a": "好"})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before == '{\n  "a": "好",\n  "b": 1\n}\n'.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("old")
    with files.replacing(folder) as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_prepared_table_reads_back_every_character(tmp_path: Path) -> None:
    texts = ["NA", "null", "", "1.50", 'a "quoted", comma', "two\nlines", "é 好 \u2028", "007"]
    table = pd.DataFrame({"id": [str(i) for i in range(len(texts))], "text": texts})
    files.write_table(tmp_path / "x.csv", table)
    assert files.read_prepared(tmp_path / "x.csv")["text"].tolist() == texts


def test_an_input_that_changes_while_it_is_used_is_noticed(tmp_path: Path) -> None:
    table = tmp_path / "raw" / "table.csv"
    write_text(table, "a")
    with untouched(tmp_path / "raw"), unchanged({"table": table}) as hashes:
        assert hashes == {"table": digest(table)}
    with pytest.raises(UserError, match=r"table\.csv changed while it was read"), untouched(tmp_path / "raw"):
        write_text(table, "bb")
    with pytest.raises(UserError, match=r"new\.csv changed while it was read"), untouched(tmp_path / "raw"):
        write_text(table.with_name("new.csv"), "c")
    with pytest.raises(UserError, match=r"table\.csv changed while it was in use"), unchanged({"table": table}):
        write_text(table, "cc")
    with pytest.raises(UserError, match=r"table\.csv changed while it was in use"), unchanged({"table": table}):
        table.unlink()


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".classifier.{ended.pid}.part"
    left.mkdir()
    (left / "half").write_text("x", encoding="utf-8")
    other = tmp_path / f".classifier.{os.getppid()}.part"
    other.mkdir()
    write_text(tmp_path / "classifier", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "classifier"]
