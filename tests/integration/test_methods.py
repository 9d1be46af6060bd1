"""Classifiers that fine-tune nothing go the same way as others: calibrated, measured, asked and exported."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from labeltune.cli import main
from labeltune.inference.classifier import Classifier
from labeltune.serving.chat.messages import Messages
from labeltune.serving.http_api import create_app
from tests.conftest import make_project
from tests.integration.test_stages import change, fingerprint, run_all

PROBE = "method: probe, head: linear, pooling: mean, depth: 3"


def project_of(folder: Path, base_folder: Path, settings: str) -> None:
    """Run every stage with other settings of the training."""
    make_project(folder, base_folder)
    with contextlib.chdir(folder):
        change("conf/recipes/test.yaml", "layers: 2", settings)
        change("conf/datasets/messages.yaml", "text: text", "text: text\nexamples: [win a prize now, see you at lunch]")
        run_all()


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """A project with a probe."""
    folder = tmp_path_factory.mktemp("probe")
    project_of(folder, base_folder, PROBE)
    return folder


def test_a_probe_goes_through_every_stage(probed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(probed)
    figures = json.loads(Path("metrics/train.json").read_text())
    assert set(figures["regression"]) == {"C"}
    assert figures["parameters"]["trainable"] == 2 * 32 + 2
    assert json.loads(Path("metrics/metrics.json").read_text())["accuracy"] > 0.5
    assert not list(Path(".checkpoints").glob("*/step-*"))
    card = Path("models/classifier/README.md").read_text()
    assert "a logistic regression on its pooled hidden states" in card
    assert "learning rate" not in card
    for name in ("plots/report.html", "plots/loss.png", "plots/training_metrics.pdf"):
        assert Path(name).stat().st_size > 0


@pytest.mark.slow
def test_the_same_probe_has_the_same_bytes(probed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(probed)
    first = fingerprint(probed)
    run_all()
    again = fingerprint(probed)
    assert {name for name in first if first[name] != again[name]} <= {"plots/report.html", "plots/report.md"}


def test_a_probe_is_asked_in_every_way(
    probed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(probed)
    rows = pd.read_csv("data/predictions/test.csv", keep_default_na=False)
    classifier = Classifier.load("models/classifier")
    answers = classifier.predict(rows["text"].tolist())
    np.testing.assert_allclose(answers.probabilities[:, 1], rows["p_spam"], atol=1e-6)
    with TestClient(create_app(classifier)) as client:
        found = client.post("/predict", json={"texts": rows["text"].tolist()}).json()["results"]
    assert [one["label"] for one in found] == rows["prediction"].tolist()
    main.main(["predict", "models/classifier", "--json", "--text", rows["text"][0]])
    told = json.loads(capsys.readouterr().out)
    assert told | {"confidence": 0, "probabilities": 0} == {
        "text": rows["text"][0], **asdict(answers[0]), "confidence": 0, "probabilities": 0,
    }  # fmt: skip


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_chat_says_how_a_probe_was_made(probed: Path, language: str) -> None:
    record = Classifier.load(probed / "models/classifier").record
    said = Messages.of(record, language).greeting()
    assert ("a regression on the hidden states" if language == "en" else "逻辑回归") in said


@pytest.mark.slow
@pytest.mark.parametrize("to", ["merged", "onnx"])
def test_a_probe_is_exported(probed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, to: str) -> None:
    monkeypatch.chdir(probed)
    main.main(["export", "models/classifier", "--to", to, "--out", str(tmp_path / to)])
    checked = json.loads((tmp_path / to / "verification.json").read_text())
    assert checked["agreement"] == 1
