"""Data sets as people have them on disk: which file is which split, and the Hub where the folder is not there."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from pydantic import ValidationError

from labeltune.config import base
from labeltune.config.data import Dataset
from labeltune.data.discovery import find_source
from labeltune.data.loading import pin_revision, read_split
from labeltune.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
COMMIT = "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb"


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shipped(name: str) -> Dataset:
    """A data set of conf/datasets as a recipe resolves it."""
    values = base.read_yaml(ROOT / f"conf/datasets/{name}.yaml")
    return Dataset.model_validate({"name": name} | {key: value for key, value in values.items() if key != "about"})


def put(path: str, rows: list[dict[str, Any]]) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(file)
    elif file.suffix == ".tsv":
        pd.DataFrame(rows).to_csv(file, sep="\t", index=False, quoting=csv.QUOTE_NONE)
    else:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def splits_of(dataset: Dataset) -> dict[str, Any]:
    return {
        split: getattr(dataset, split) for split in ("all", "train", "validation", "test") if getattr(dataset, split)
    }


REVIEWS = [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]


@pytest.mark.parametrize(
    ("name", "there", "expected"),
    [
        ("sst2", ["data/train.json"], {"all": "data/train.json"}),
        (
            "sst2",
            ["data/train.json", "data/dev.json", "data/test.json"],
            {"train": "data/train.json", "test": "data/dev.json"},
        ),
        ("sst2", ["data/train.json", "data/test.json"], {"train": "data/train.json", "test": "data/test.json"}),
        (
            "r8",
            ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
            {"train": "data/train-00000-of-00001.parquet", "test": "data/test-00000-of-00001.parquet"},
        ),
        ("r8", ["data/train-00000-of-00001.parquet"], {"all": "data/train-00000-of-00001.parquet"}),
        (
            "chnsenticorp",
            ["data/train.jsonl", "data/test.jsonl"],
            {"train": "data/train.jsonl", "test": "data/test.jsonl"},
        ),
        (
            "chnsenticorp",
            ["data/train.jsonl", "data/dev.jsonl", "data/test.jsonl"],
            {"train": "data/train.jsonl", "validation": "data/dev.jsonl", "test": "data/test.jsonl"},
        ),
        (
            "chnsenticorp",
            ["data/train.jsonl", "data/dev.jsonl"],  # one file can't be both
            {"train": "data/train.jsonl", "test": "data/dev.jsonl"},
        ),
    ],
)
def test_the_files_that_are_there_make_the_splits(
    name: str, there: list[str], expected: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = shipped(name)
    rows = REVIEWS if name != "r8" else [{"text": "profits", "label": "earn"}, {"text": "oil", "label": "crude"}]
    for file in there:
        put(f"{dataset.folder}/{file}", rows)
    located = find_source(dataset)
    assert splits_of(located) == expected
    said = capsys.readouterr().out
    assert expected["test"] in said if "test" in expected else "split by prepare.split" in said
    assert find_source(located) == located
    assert located.provenance()["folder"] == dataset.folder
    for split in expected:
        frame = read_split(located, split)
        assert set(frame["label"]) <= set(dataset.labels or {})
        assert len(frame) == 2


def test_the_collection_of_messages_is_found_by_its_own_header() -> None:
    dataset = shipped("sms-spam-collection")
    put(
        "data/raw/sms_spam/data/SMSSpamCollection.tsv",
        [{"Label": "ham", "SMS": 'say "hi'}, {"Label": "spam", "SMS": "win"}],
    )
    frame = read_split(find_source(dataset), "all")
    assert frame[["label", "text"]].to_numpy().tolist() == [["ham", 'say "hi'], ["spam", "win"]]


def test_a_validation_file_without_a_test_file_is_not_left_over() -> None:
    put("data/raw/mine/train.jsonl", REVIEWS)
    put("data/raw/mine/dev.jsonl", REVIEWS)
    mine = Dataset(
        name="mine",
        source="files",
        folder="data/raw/mine",
        train="train.jsonl",
        validation=["dev.jsonl"],
        test=["test.jsonl"],
    )
    with pytest.raises(UserError, match=r"conf/datasets/mine.yaml: test: .* none of \['test.jsonl'\].*dev.jsonl"):
        find_source(mine)


def test_without_the_folder_the_rows_come_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()
    for split in ("train", "validation"):
        put(f"stanfordnlp/sst2/data/{split}-00000-of-00001.parquet", [{"idx": 0, "sentence": split, "label": 1}])
    located = pin_revision(find_source(shipped("sst2")))  # a folder on disk passes for one of the Hub
    assert "data/raw/sst2 does not exist: using the rows of stanfordnlp/sst2 from the Hub" in capsys.readouterr().out
    assert splits_of(located) == {"train": "train", "test": "validation"}
    assert located.provenance() == {
        "source": "hub", "hub": "stanfordnlp/sst2", "revision": COMMIT, "train": "train", "test": "validation"
    }  # fmt: skip
    assert read_split(located, "test").to_numpy().tolist() == [["validation:1", "validation", "1"]]


def test_with_neither_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        pin_revision(find_source(shipped("r8")))
    for part in (
        "dxgp/R8",
        "labeltune fetch RECIPE",
        "put its files into data/raw/r8",
        "conf/datasets/r8.yaml",
        "dvc add",
    ):
        assert part in str(caught.value)


class Builder:
    """What the Hub's library knows of a data set before its rows are read."""

    def __init__(self, commit: str) -> None:
        self.hash = commit


@pytest.mark.parametrize("asked", [None, "main", COMMIT])
def test_the_commit_is_recorded_whatever_was_asked_for(monkeypatch: pytest.MonkeyPatch, asked: str | None) -> None:
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *given, **options: Builder(COMMIT))
    far = Dataset(name="far", source="hub", hub="a/b", all="train", revision=asked)
    assert pin_revision(far).revision == COMMIT


def test_another_commit_in_the_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *given, **options: Builder("0" * 40))
    far = Dataset(name="far", source="hub", hub="a/b", all="train", revision=COMMIT)
    with pytest.raises(UserError, match=f"revision: {COMMIT} of a/b is not in the cache, which holds {'0' * 40}"):
        pin_revision(far)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"hub": None}, "'hub_splits' needs source: files, and the key 'hub'"),
        ({"hub_splits": {"train": "train"}}, "'train' needs 'test' beside it"),
        ({"hub_splits": {"middle": "train"}}, "hub_splits"),
        ({"source": "hub"}, "a list of files to look for needs source: files"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Dataset.model_validate(shipped("sst2").model_dump() | keys)
