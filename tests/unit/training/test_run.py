"""Training runs: every method ends in a classifier that can be saved, and nothing is deleted before it is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
from labeltune.training.selection import Selection
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


BAD = {"head": "linear", "head_initialization": "random", "learning_rate": 1e-6, "layers": 1, "epochs": 1.0}
"""A training that learns nothing."""


def test_a_cheaper_classifier_that_is_better_is_taken_with_the_reason(
    base_folder: Path, spam: LabelSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = task(base_folder, spam, **BAD, blend="none", select="auto")
    classifier = Classifier.load(saved(made, tmp_path))
    figures = json.loads((tmp_path / "train.json").read_text())
    assert figures["select"]["taken"] == classifier.record.train.method == "ngrams"
    assert set(figures["select"]["cheaper"]) == {"ngrams", "probe"}
    assert classifier.record.chosen["method"].startswith("ngrams: an n-gram model labels 100.0% of 40 validation rows")
    assert classifier.record.validation["accuracy"] == 1
    assert figures["validation"]["accuracy"] == 1
    assert not list((tmp_path / "root/.checkpoints").glob("*/step-*"))
    assert "train.select: auto takes a cheaper classifier" in " ".join(capsys.readouterr().out.split())


def test_a_probe_that_is_better_is_taken_and_loads_as_one(
    base_folder: Path, spam: LabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(trained: Any, cheaper: Any, labels: Any, *, takes: bool) -> Selection:
        assert takes
        return Selection(better="probe", reason="why", figures={"better": "probe"})

    made = task(base_folder, spam, **BAD, blend="none", select="auto")
    with monkeypatch.context() as patch:
        patch.setattr(run, "judge", found)
        classifier = Classifier.load(saved(made, tmp_path))
    assert classifier.record.train.method == "probe"
    alone = Classifier.load(
        saved(task(base_folder, spam, **PROBE | {"depth": "all", "pooling": "auto", "blend": "none"}), tmp_path / "p")
    )
    texts = made.rows["validation"]["text"].tolist()
    np.testing.assert_array_equal(classifier.predict(texts).logits, alone.predict(texts).logits)


def test_a_classifier_that_is_as_good_as_cheaper_ones_stays(base_folder: Path, spam: LabelSet, tmp_path: Path) -> None:
    texts = [f"win a free prize now {i}" if i % 2 else f"see you at home {i}" for i in range(40)]
    made = task(base_folder, spam, **PROBE, blend="none", select="auto")
    assert len(texts) == len(made.rows["train"])
    frame = made.rows["train"].assign(text=texts, label=["spam" if i % 2 else "ham" for i in range(40)])
    frame["prompt"] = "Text: " + frame["text"]
    made = replace(made, rows={"train": frame, "validation": frame})
    classifier = Classifier.load(saved(made, tmp_path))
    assert classifier.record.train.method == "probe"
    assert json.loads((tmp_path / "train.json").read_text())["select"]["better"] is None


def test_class_weights_are_not_undone_by_a_comparison_of_accuracies(
    base_folder: Path, spam: LabelSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = task(base_folder, spam, **BAD, blend="none", select="auto", class_weights="balanced")
    assert Classifier.load(saved(made, tmp_path)).record.train.method == "lora"
    assert "select" not in json.loads((tmp_path / "train.json").read_text())
    assert "train.select: auto compares nothing" in " ".join(capsys.readouterr().out.split())
