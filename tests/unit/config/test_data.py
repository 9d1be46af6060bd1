"""Settings of data sets and of `prepare`: impossible combinations, and where rows come from."""

from typing import Any

import pytest
from pydantic import ValidationError

from labeltune.config.data import Dataset, Prepare, Split


def dataset(**keys: Any) -> Dataset:
    return Dataset.model_validate({"name": "rows", "source": "files", "folder": "data/raw/rows", **keys})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "give either 'all' .* or 'train' with 'test'"),
        ({"all": "a", "train": "b"}, "give either 'all'"),
        ({"train": "a"}, "'train' needs 'test' beside it"),
        ({"all": "a", "test": "b"}, "'all' is split by prepare"),
        ({"all": "a", "validation": "b"}, "'all' is split by prepare"),
        ({"source": "hub", "hub": "a/b", "train": "a", "test": ["b", "c"]}, "a list of files .* needs source: files"),
        ({"all": "a", "split_column": "s"}, "'split_column' needs 'train' and 'test'"),
        (
            {"source": "hub", "hub": "a/b", "train": "a", "test": "b", "split_column": "s"},
            "'split_column' is for files",
        ),
        ({"all": "a", "hub_splits": {"all": "train"}}, "'hub_splits' needs source: files, and the key 'hub'"),
        ({"all": "a", "hub": "a/b", "hub_splits": {"train": "train"}}, "'train' needs 'test' beside it"),
    ],
)
def test_impossible_data_sets_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        dataset(**keys)


def test_the_same_rows_on_the_hub_have_the_hubs_splits() -> None:
    here = dataset(
        train="train.csv", test="test.csv", hub="owner/name", hub_splits={"train": "train", "test": "validation"}
    )
    there = here.on_hub()
    assert (there.source, there.train, there.validation, there.test) == ("hub", "train", None, "validation")
    assert there.folder == here.folder
    assert there.hub_splits is None


@pytest.mark.parametrize(
    ("keys", "recorded"),
    [
        ({"all": "a.csv"}, {"source": "files", "folder": "data/raw/rows", "all": "a.csv"}),
        (
            {"source": "hub", "hub": "a/b", "revision": "v1", "train": "a", "test": "b"},
            {"source": "hub", "hub": "a/b", "revision": "v1", "train": "a", "test": "b"},
        ),
    ],
)
def test_the_record_holds_the_keys_of_the_source_that_are_set(keys: dict[str, Any], recorded: dict[str, Any]) -> None:
    assert dataset(**keys).provenance() == recorded


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (0.1, 0.2, 0.7), (0.34, 0.33, 0.33)])
def test_shares_that_are_1_in_decimals_are_taken(shares: tuple[float, float, float]) -> None:
    train, validation, test = shares  # as floating-point numbers, some of these sums are not 1
    assert Split(train=train, validation=validation, test=test).test == test


@pytest.mark.parametrize(("train", "total"), [(0.8, "1.1"), (0.6, "0.9"), (0.7001, "1.0001")])
def test_shares_that_are_not_1_are_refused(train: float, total: str) -> None:
    with pytest.raises(ValidationError, match=f"train \\+ validation \\+ test must be 1, not {total}"):
        Split(train=train)


@pytest.mark.parametrize(
    "path", ["corrections.jsonl", "/data/raw/c.jsonl", "data/raw/../c.jsonl", "data/rawer/c.jsonl"]
)
def test_corrections_lie_where_dvc_sees_that_they_change(path: str) -> None:
    with pytest.raises(ValidationError, match="corrections must lie below data/raw"):
        Prepare(seed=1, corrections=path)
    assert Prepare(seed=1, corrections="data/raw/c.jsonl").corrections == "data/raw/c.jsonl"


@pytest.mark.parametrize("threshold", [0.49, 1.0])
def test_a_threshold_of_near_copies_that_tells_nothing_is_refused(threshold: float) -> None:
    with pytest.raises(ValidationError, match="near_threshold"):
        Prepare(seed=1, near_threshold=threshold)
