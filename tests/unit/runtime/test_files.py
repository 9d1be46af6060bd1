import errno
import json
import os
import stat
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


WRITE_AND_STOP = """
import sys, pathlib
from labeltune.runtime.files import replacing
with replacing(pathlib.Path(sys.argv[1])) as part:
    part.mkdir()
    (part / "half").write_text("x")
    print(part.name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_cleared_away_and_what_another_writes_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_AND_STOP, str(tmp_path / "classifier")]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        names = [writer.stdout.readline().decode().strip() for writer in writers if writer.stdout]
        writers[0].kill()
        writers[0].wait()
        write_text(tmp_path / "classifier", "whole")
        assert {path.name for path in tmp_path.iterdir()} == {names[1], "classifier"}
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


@pytest.mark.parametrize(
    ("owner", "age", "gone"),
    [
        ("{host}-{pid}-{started}", 30, False),  # this process
        ("{host}-{pid}-1000000", 0, True),  # an earlier one of the same id
        ("{host}-4194305-{started}", 0, True),  # an id that no process has
        ("00000000-4194305-{started}", 0, False),  # another container's or machine's, whose ids say nothing here
        ("00000000-4194305-{started}", 6, False),
        ("00000000-4194305-{started}", 8, True),
    ],
)
@pytest.mark.parametrize("folder", [True, False])
def test_what_is_left_is_judged_by_machine_id_and_start(
    tmp_path: Path, owner: str, age: int, gone: bool, folder: bool
) -> None:
    host, pid, started = files._owner().split("-")
    left = tmp_path / f".x.{owner.format(host=host, pid=pid, started=started)}.part"
    if folder:
        left.mkdir()
    within = left / "half" if folder else left
    within.write_text("x")
    for path in {within, left}:
        os.utime(path, (path.stat().st_mtime - age * 24 * 3600,) * 2)
    files.sweep(tmp_path)
    assert left.exists() != gone


def test_a_machine_is_told_from_a_container_and_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = set()
    for node, namespace in (("a", "pid:[1]"), ("b", "pid:[1]"), ("a", "pid:[2]"), ("a", "pid:[1]")):
        monkeypatch.setattr(files.platform, "node", lambda node=node: node)
        monkeypatch.setattr(files.Path, "readlink", lambda path, namespace=namespace: Path(namespace))
        hosts.add(files._host.__wrapped__())
    assert len(hosts) == 3


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("old", [None, "file", "folder"])
def test_in_no_moment_is_neither_old_nor_new_there_and_all_is_synced_before_anything_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool, old: str | None
) -> None:
    """Every step that changes the disk is followed by a look at what a power cut would leave."""
    path, synced = tmp_path / "made" / "x", []

    def content(place: Path) -> str:
        return (place / "file" if place.is_dir() else place).read_text()

    if old:
        path.parent.mkdir()
        if old == "folder":
            path.mkdir()
        (path / "file" if old == "folder" else path).write_text("old")
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    entry, delete, move = files.sync_entry, files._delete, os.replace

    def sync_entry(place: Path) -> None:
        entry(place)
        synced.append(place)

    def look() -> None:
        there = {content(each) for each in path.parent.iterdir()}
        assert "new" in there or "old" in there

    def replace(one: Path, other: Path) -> None:
        assert any(place.name.endswith(".part") for place in synced)
        move(one, other)
        look()

    def discard(place: Path) -> None:
        assert content(path) == "new"
        assert path.parent in synced
        delete(place)
        look()

    monkeypatch.setattr(files, "sync_entry", sync_entry)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(files, "_delete", discard)
    with replacing(path) as part:
        if old == "folder":
            part.mkdir()
        (part / "file" if old == "folder" else part).write_text("new")
    monkeypatch.undo()
    assert content(path) == "new"
    assert [each.name for each in path.parent.iterdir()] == ["x"]
    if old is None:  # the folder that was made is on the disk as well
        assert tmp_path in synced
    if old == "folder":
        assert any(place.name == "file" for place in synced)


def test_an_old_folder_comes_back_where_its_successor_did_not_come(tmp_path: Path) -> None:
    host = files._owner().split("-")[0]
    (tmp_path / f".x.{host}-4194305-1000000.old").mkdir()
    (tmp_path / f".x.{host}-4194305-1000000.old" / "file").write_text("old")
    files.sweep(tmp_path, "x")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["x", "x/file"]
    (tmp_path / f".x.{host}-4194305-1000001.old").mkdir()
    files.sweep(tmp_path, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_old_folder_comes_back_where_its_successor_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").mkdir()
    move = os.replace

    def refuse(one: Path, other: Path) -> None:
        if one.suffix == ".part":
            raise OSError(5, "input/output error")
        move(one, other)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="input/output"), replacing(tmp_path / "x") as part:
        part.mkdir()
        (part / "file").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["x"]


def test_a_folder_is_exchanged_in_one_step_where_linux_can(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    assert files._exchange(tmp_path / "a", tmp_path / "b") == (sys.platform == "linux")
    if sys.platform == "linux":
        assert (tmp_path / "a" / "b").is_file()
    assert not files._exchange(tmp_path / "a", tmp_path / "missing")


def test_a_folder_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "model", "a")
    with pytest.raises(UserError, match=r"model is a file, and a folder is"), replacing(tmp_path / "model") as partial:
        partial.mkdir()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["a"]


def test_where_folders_cannot_be_synced_files_still_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no folders here")
        synced.append(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "x", "a")
    assert len(synced) == 1
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        write_text(tmp_path / "x", "b")
    assert (tmp_path / "x").read_text() == "a"


def test_what_cannot_be_deleted_yet_is_left_for_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda path, ignore_errors=False: None)
        with replacing(tmp_path / "x") as part:
            part.mkdir()
            (part / "new").write_text("")
    assert (tmp_path / "x" / "new").exists()


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
