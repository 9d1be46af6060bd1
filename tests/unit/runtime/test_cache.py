"""Folders of the cache: filled once, verified at each use, filled anew where a file changed, used where only read."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from labeltune.runtime import cache, files
from labeltune.runtime.errors import UserError

CONTENT = {"rows/a.tsv": b"ham\thello\n", "rows/b.tsv": b"spam\tbuy\n"}
Change = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELTUNE_CACHE", str(tmp_path / "cache"))


def fill(folder: Path) -> None:
    (folder / "rows").mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} is filled again")


def make_old(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))


def flip_a_bit(folder: Path) -> None:
    """With the size and the time of change that it had."""
    path = folder / "rows/a.tsv"
    before = path.stat()
    path.write_bytes(b"ham\thellp\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Change] = {
    "a.tsv changed": flip_a_bit,
    "a.tsv has 3 of 10 bytes": lambda folder: (folder / "rows/a.tsv").write_bytes(b"ham"),
    "b.tsv is missing": lambda folder: (folder / "rows/b.tsv").unlink(),
    "c.tsv does not belong to it": lambda folder: (folder / "rows/c.tsv").write_bytes(b"spam\tmore\n"),
    ".data.json changed": lambda folder: folder.with_name(".data.json").write_text('{"files": {}, "sha256": "0"}'),
    "the list of its files is missing": lambda folder: folder.with_name(".data.json").unlink(),
}


@pytest.fixture
def folder() -> Path:
    return cache.cached_folder("datasets/data", "data", fill)


def test_a_folder_is_filled_once_and_listed_beside_itself(folder: Path) -> None:
    assert folder == cache.cache_dir() / "datasets/data"
    assert content(folder) == CONTENT
    assert cache.cached_folder("datasets/data", "data", never) == folder
    assert sorted(path.name for path in folder.parent.iterdir()) == [".data.json", ".data.lock", "data"]


@pytest.mark.parametrize(("problem", "change"), CHANGES.items(), ids=CHANGES)
def test_a_changed_folder_is_filled_anew_and_named(
    folder: Path, problem: str, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    files._digest_of.cache_clear()  # as in another process: each verifies the bytes once
    change(folder)
    cache.cached_folder("datasets/data", "data", fill)
    assert content(folder) == CONTENT
    said = capsys.readouterr().out
    assert str(folder) in said
    assert problem in said
    cache.cached_folder("datasets/data", "data", never)


def test_a_change_within_one_process_is_noticed(folder: Path) -> None:
    make_old(folder)
    cache.cached_folder("datasets/data", "data", never)
    (folder / "rows/a.tsv").write_bytes(b"ham\thellp\n")
    cache.cached_folder("datasets/data", "data", fill)
    assert content(folder) == CONTENT


def test_unchanged_files_are_hashed_once_per_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(folder)
    hashed: list[str] = []
    whole = files.digest
    monkeypatch.setattr(files, "digest", lambda path: hashed.append(path.name) or whole(path))
    for _ in range(3):
        cache.cached_folder("datasets/data", "data", never)
    assert sorted(hashed) == ["a.tsv", "b.tsv"]
    make_racy = folder / "rows/a.tsv"
    os.utime(make_racy)  # a file as young as this may change without its time of change telling
    for _ in range(2):
        cache.cached_folder("datasets/data", "data", never)
    assert sorted(hashed) == ["a.tsv", "a.tsv", "a.tsv", "b.tsv"]


def test_a_damaged_folder_stays_where_it_cannot_be_filled(folder: Path) -> None:
    flip_a_bit(folder)
    damaged = content(folder)

    def fail(partial: Path) -> None:
        partial.mkdir()
        raise UserError("no connection")

    for _ in range(2):
        with pytest.raises(UserError, match="no connection"):
            cache.cached_folder("datasets/data", "data", fail)
    assert content(folder) == damaged


@pytest.fixture
def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache on a read-only disk, also where the tests run as root."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("nothing is written to a cache that may only be read")

    monkeypatch.setattr(cache.os, "access", lambda path, mode: mode != os.W_OK)
    for name in ("FileLock", "replacing", "write_json"):
        monkeypatch.setattr(cache, name, refuse)
    return folder


def test_a_whole_cache_that_may_only_be_read_is_used(read_only: Path) -> None:
    assert cache.cached_folder("datasets/data", "data", never) == read_only


@pytest.mark.parametrize("problem", ["a.tsv changed", "b.tsv is missing", ".data.json changed"])
def test_a_damaged_cache_that_may_only_be_read_is_refused_by_name(read_only: Path, problem: str) -> None:
    CHANGES[problem](read_only)
    with pytest.raises(UserError) as caught:
        cache.cached_folder("datasets/data", "data", never)
    for part in (str(read_only), problem, "labeltune fetch", "LABELTUNE_CACHE"):
        assert part in str(caught.value)


def test_an_older_cache_that_may_only_be_read_is_used_and_said_to_be_unverified(
    read_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CHANGES["the list of its files is missing"](read_only)
    assert cache.cached_folder("datasets/data", "data", never) == read_only
    assert "without verifying" in capsys.readouterr().out


def test_a_second_process_waits_and_finds_what_the_first_one_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()
    monkeypatch.setattr(cache, "say", lambda text: waiting.set())
    filled = []

    def fill_slowly(folder: Path) -> None:
        filled.append(folder)
        assert waiting.wait(60)
        fill(folder)

    threads = [
        threading.Thread(target=cache.cached_folder, args=("datasets/data", "data", fill_slowly)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(filled) == 1
    assert content(cache.cache_dir() / "datasets/data") == CONTENT
