"""Training runs: every method ends in a classifier that can be saved, and nothing is deleted before it is."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from labeltune.config.data import Dataset
from labeltune.config.model import Model, Prompt, Train
from labeltune.data.labels import LabelSet
from labeltune.data.normalization import UNCHANGED
from labeltune.inference.classifier import Classifier
from labeltune.modeling.device import Machine
from labeltune.training import run
from labeltune.training.run import Task
from tests.conftest import spam_rows

LORA = {"head": "linear", "pooling": "mean", "layers": 1, "epochs": 1.0, "batch_size": 8}
NGRAMS = {"method": "ngrams"}
PROBE = {"method": "probe", "head": "linear", "pooling": "mean", "depth": 2}


def prepared(start: int, stop: int) -> pd.DataFrame:
    """Rows as `prepare` writes them, of each class."""
    given = spam_rows(stop)[2 * start :]
    return pd.DataFrame(
        {
            "id": [f"row {i}" for i in range(len(given))],
            "label": [label for label, _ in given],
            "text": [text for _, text in given],
            "prompt": [f"Text: {text}" for _, text in given],
        }
    )


def task(base_folder: Path, spam: LabelSet, **train: Any) -> Task:
    return Task(
        train=Train.model_validate({"seed": 1, **train}),
        model=Model(name="tiny", source="files", folder=str(base_folder)),
        prompt=Prompt(template="Text: {text}"),
        dataset=Dataset(name="tiny", source="files", folder="x", all="x.csv"),
        machine=Machine(dtype="fp32", attention="eager", kernels="fused", threads=1),
        labels=spam,
        rows={"train": prepared(0, 20), "validation": prepared(20, 40)},
        hashes={"train": "1", "validation": "2"},
        source={"source": "files"},
        normalization=UNCHANGED,
    )


@pytest.fixture(autouse=True)
def _own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))


def saved(made: Task, folder: Path) -> Path:
    """Train and save as the stage does."""
    with run.training(made, curves=folder / "curves") as trained:
        trained.save(folder / "model", folder / "train.json", folder / "costs.json", folder / "curves")
    return folder / "model"


@pytest.mark.parametrize("train", [LORA, PROBE, NGRAMS], ids=["lora", "probe", "ngrams"])
def test_a_run_is_saved_with_its_figures_and_answers(
    base_folder: Path, spam: LabelSet, tmp_path: Path, train: dict[str, Any]
) -> None:
    made = task(base_folder, spam, **train)
    folder = saved(made, tmp_path)
    classifier = Classifier.load(folder)
    assert classifier.record.rows == {"train": 40, "validation": 40}
    answers = classifier.predict(made.rows["validation"]["text"].tolist())
    right = [answer.label for answer in answers] == made.rows["validation"]["label"]
    assert classifier.record.validation["accuracy"] == pytest.approx(right.mean())
    assert list(pd.read_csv(tmp_path / "curves/validation.csv")) == ["step", "epoch", "loss", "accuracy", "macro_f1"]


@pytest.mark.parametrize("train", [LORA, PROBE, NGRAMS], ids=["lora", "probe", "ngrams"])
def test_checkpoints_stay_until_the_classifier_is_saved_and_the_next_run_ends_with_the_same_bytes(
    base_folder: Path, spam: LabelSet, tmp_path: Path, train: dict[str, Any]
) -> None:
    made = task(base_folder, spam, **train)
    with pytest.raises(OSError, match="disk"), run.training(made, curves=tmp_path / "curves"):
        raise OSError("disk full")
    kept = list((tmp_path / "root/.checkpoints").glob("*/step-*"))
    assert bool(kept) == (train is LORA)
    again = saved(made, tmp_path)
    assert not list((tmp_path / "root/.checkpoints").glob("*/step-*"))
    whole = saved(task(base_folder, spam, **train), tmp_path / "whole")
    for file in again.iterdir():
        assert file.read_bytes() == (whole / file.name).read_bytes(), file.name
