"""The rows of one data set, collected: nothing lost, nothing of others, and of no file that changed meanwhile."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from labeltune.config.data import Dataset
from labeltune.data import collection, loading
from labeltune.data.collection import Collected, collect
from labeltune.data.loading import read_split
from labeltune.runtime.errors import UserError
from stages import collect as stage
from stages import configure, prepare

FOLDER, OUT = Path("data/raw/mine"), Path("data/collected")
ROWS = [
    {"text": "two\nlines\r\nand\u2028more\x85", "label": "a"},
    {"text": 'a "quote", \\ and a tab\t', "label": " b "},
    {"text": None, "label": None},
    {"text": "", "label": 3},
    {"text": "差评 😀", "label": "差"},
]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A data set of odd rows, in JSON as some tools write it."""
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    (FOLDER / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    return Dataset(name="mine", source="files", folder=str(FOLDER), all="a.json", text="text", label="label")


def digests() -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in OUT.iterdir()}


def test_collected_rows_are_the_rows_as_they_are_read(mine: Dataset) -> None:
    assert collect(mine, None, OUT) == {"all": 5}
    collected = Collected.read(OUT)
    assert list(collected.frames) == ["all"]
    pd.testing.assert_frame_equal(collected.frames["all"], read_split(mine, "all"))
    assert collected.frames["all"].to_numpy()[2].tolist() == ["a.json:3", None, None]
    assert collected.source == mine.provenance()
    assert collected.corrections == b""


def test_given_splits_are_kept_apart(mine: Dataset) -> None:
    dataset = mine.model_copy(update={"all": None, "train": "a.json", "test": "a.json"})
    assert collect(mine, None, OUT) == {"all": 5}
    assert collect(dataset, None, OUT) == {"train": 5, "test": 5}
    assert list(Collected.read(OUT).frames) == ["train", "test"]  # nothing stays of what lay there


def test_other_rows_and_unused_corrections_change_no_byte(mine: Dataset) -> None:
    collect(mine, None, OUT)
    before = digests()
    other = Path("data/raw/other/b.csv")
    other.parent.mkdir()
    other.write_text("label,text\nham,hello\n", encoding="utf-8")
    said = Path("data/raw/corrections.jsonl")
    said.write_text('{"text": "one", "label": "a"}\n', encoding="utf-8")
    collect(mine, None, OUT)
    assert digests() == before
    collect(mine, str(said), OUT)
    assert Collected.read(OUT).corrections == said.read_bytes()


@pytest.mark.parametrize("changed", ["data/raw/mine/a.json", "data/raw/corrections.jsonl"])
def test_a_file_that_changes_while_it_is_read_ends_it(
    mine: Dataset, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("data/raw/corrections.jsonl").write_text("{}\n", encoding="utf-8")

    def read(dataset: Dataset, split: str) -> pd.DataFrame:
        frame = loading.read_split(dataset, split)
        with Path(changed).open("a", encoding="utf-8") as file:
            file.write("\n")
        return frame

    monkeypatch.setattr(collection, "read_split", read)
    with pytest.raises(UserError, match=f"{changed} changed while it was"):
        collect(mine, "data/raw/corrections.jsonl", OUT)
    assert not OUT.exists()


def test_prepare_by_hand_takes_the_rows_of_now_and_dvc_those_that_were_collected(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> int:
        prepare.main()
        return json.loads(Path("metrics/data.json").read_text(encoding="utf-8"))["rows_read"]["all"]

    configure.main()
    assert rows() == 60  # nothing was collected
    with Path("data/raw/messages/messages.csv").open("a", encoding="utf-8") as table:
        table.write("ham,another message at home for lunch\n")
    monkeypatch.setenv("DVC_STAGE", "prepare")
    assert rows() == 60
    stage.main()
    assert rows() == 61
    with Path("data/raw/messages/messages.csv").open("a", encoding="utf-8") as table:
        table.write("ham,and another one later\n")
    monkeypatch.delenv("DVC_STAGE")
    assert rows() == 62
