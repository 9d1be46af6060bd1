import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dvc.fs import LocalFileSystem
from dvc_data.hashfile.istextfile import istextfile
from hypothesis import given, settings
from hypothesis import strategies as st

from labeltune.runtime import files
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import digest, replacing, unchanged, untouched, write_text


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


@pytest.mark.parametrize(
    "labels",
    [("正面的", "负面的", "中性的", "其他的"), ("положительный", "отрицательный"), ("إيجابي", "سلبي", "محايد")],
    ids=["Chinese", "Cyrillic", "Arabic"],
)
def test_dvc_takes_figures_for_text_whatever_script_the_labels_are_in(tmp_path: Path, labels: tuple[str, ...]) -> None:
    figures = {"accuracy": 0.5, "confusion_matrix": {name: dict.fromkeys(labels, 1) for name in labels}}
    path = tmp_path / "metrics.json"
    files.write_metrics(path, figures)
    assert istextfile(str(path), LocalFileSystem())
    assert json.loads(path.read_text(encoding="utf-8")) == figures
    files.write_json(path, figures)
    assert not istextfile(str(path), LocalFileSystem())  # else this shows nothing


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


TEXTS = st.text(
    st.sampled_from("a,;\"'\r\n\t \0\\=\ufeff\u2028\x85\x1c é好😀") | st.characters(exclude_categories=["Cs"])
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_a_table_gives_back_every_text(texts: list[str]) -> None:
    rows = pd.DataFrame({"id": [str(i) for i in range(len(texts))], "text": texts, "label": texts[::-1], "p_a": 0.1})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        files.write_table(path, rows)
        for found in (files.read_prepared(path), files.read_predictions(path)):
            assert found["text"].tolist() == texts
            assert found["label"].tolist() == texts[::-1]


def test_an_ordinary_table_has_the_bytes_of_pandas(tmp_path: Path) -> None:
    texts = ["NA", "", 'a "quoted", comma', "two\nlines", "é 好 \u2028", " x "]
    rows = pd.DataFrame({"text": texts, "p": [0.1, 1e-17, 1 / 3, 5.0, np.nan, 1e22], "n": range(6), "yes": [True] * 6})
    files.write_table(tmp_path / "x.csv", rows)
    assert (tmp_path / "x.csv").read_bytes() == rows.to_csv(index=False, lineterminator="\n").encode()
    assert (tmp_path / "x.csv").read_bytes().startswith(b"text,p,n,yes\nNA,0.1,0,True\n,1e-17,1,True\n")


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


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    """Spark writes X.csv as a folder of parts."""
    (tmp_path / "X.csv").mkdir()
    (tmp_path / "X.csv" / "part-0").write_text("a")
    with pytest.raises(UserError, match=r"X\.csv is a folder"), replacing(tmp_path / "X.csv") as partial:
        partial.write_text("b")
    assert [path.name for path in tmp_path.rglob("*")] == ["X.csv", "part-0"]


def test_a_file_of_the_user_that_looks_like_a_part_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".out.csv.old.part").write_text("a")
    write_text(tmp_path / "out.csv", "b")
    assert (tmp_path / ".out.csv.old.part").read_text() == "a"
