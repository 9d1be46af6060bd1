"""Classifiers that fine-tune nothing go the same way as others: calibrated, measured, asked and exported."""

import contextlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from labeltune.cli import main
from labeltune.inference.classifier import Classifier
from labeltune.runtime.errors import UserError
from labeltune.serving.chat.messages import Messages
from labeltune.serving.http_api import create_app
from stages import train
from tests.conftest import make_project
from tests.integration.test_stages import change, fingerprint, run_all
from tests.lexicon import fill_lexicons

PROBE = "method: probe, head: linear, pooling: mean, depth: 3"


def project_of(folder: Path, base_folder: Path, settings: str) -> None:
    """Run every stage with other settings of the training, and with the tests' lexicons, as a test's own runs have."""
    make_project(folder, base_folder)
    with pytest.MonkeyPatch.context() as patched, contextlib.chdir(folder):
        fill_lexicons(folder / "cache")
        patched.setenv("LABELTUNE_CACHE", str(folder / "cache"))
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


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """A project with a classifier of n-grams."""
    folder = tmp_path_factory.mktemp("ngrams")
    project_of(folder, base_folder, "method: ngrams")
    return folder


def test_ngrams_go_through_every_stage_without_their_base_model(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(counted)
    figures = json.loads(Path("metrics/train.json").read_text())
    assert set(figures["regression"]) == {"kind", "C", "features"}
    assert json.loads(Path("metrics/metrics.json").read_text())["accuracy"] > 0.9
    held = {path.name for path in Path("models/classifier").iterdir()}
    assert held == {"README.md", "labeltune.json", "manifest.json", "ngrams.json", "ngrams.npz"}
    content = json.loads(Path("models/classifier/labeltune.json").read_text())
    assert (content["base"], content["machine"]) == ({"model": None, "files": {}}, None)
    card = Path("models/classifier/README.md").read_text()
    assert "a text classifier of n-grams" in card
    assert "TF-IDF of words and characters, and a logistic regression;" in card
    assert "base model's licence" not in card
    assert "Prompt" not in card
    for name in ("plots/report.html", "plots/loss.png", "plots/training_metrics.pdf"):
        assert Path(name).stat().st_size > 0


@pytest.mark.slow
def test_the_same_ngrams_have_the_same_bytes(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(counted)
    first = fingerprint(counted)
    run_all()
    again = fingerprint(counted)
    assert {name for name in first if first[name] != again[name]} <= {"plots/report.html", "plots/report.md"}


WITHOUT = """
import sys
from labeltune import Classifier
for answer in Classifier.load("models/classifier").predict(["win a free prize now", "see you at home"]):
    print(answer.label)
print(sorted({"torch", "transformers", "peft", "safetensors"} & set(sys.modules)))
"""


def test_asking_ngrams_imports_neither_torch_nor_transformers(counted: Path) -> None:
    found = subprocess.run([sys.executable, "-c", WITHOUT], cwd=counted, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["spam", "ham", "[]"], found.stderr


def test_ngrams_are_trained_without_their_base_model(
    counted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(counted)
    monkeypatch.setattr("labeltune.modeling.base_models.open_base", lambda *_: pytest.fail("a base model was opened"))
    before = Path("models/trained/ngrams.npz").read_bytes()
    train.main()
    assert Path("models/trained/ngrams.npz").read_bytes() == before


def test_an_export_of_ngrams_is_refused_with_what_to_do_instead(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(counted)
    for to in ("merged", "onnx", "hub-folder"):
        with pytest.raises(UserError, match=r"neither a Transformers model nor an ONNX graph.*`labeltune predict`"):
            main.main(["export", "models/classifier", "--to", to, "--out", "export"])
    assert not Path("export").exists()


@pytest.mark.parametrize("kind", ["probed", "counted"])
def test_it_is_asked_in_every_way(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(request.getfixturevalue(kind))
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


@pytest.mark.parametrize(
    ("kind", "language", "words"),
    [
        ("probed", "en", "a regression on the hidden states"),
        ("probed", "zh", "逻辑回归"),
        ("counted", "en", "TF-IDF of words and characters with a logistic regression"),
        ("counted", "zh", "词和字符的 TF-IDF"),
    ],
)
def test_the_chat_says_how_it_was_made(kind: str, language: str, words: str, request: pytest.FixtureRequest) -> None:
    record = Classifier.load(request.getfixturevalue(kind) / "models/classifier").record
    assert words in Messages.of(record, language).greeting()


@pytest.mark.slow
@pytest.mark.parametrize("to", ["merged", "onnx"])
def test_a_probe_is_exported(probed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, to: str) -> None:
    monkeypatch.chdir(probed)
    main.main(["export", "models/classifier", "--to", to, "--out", str(tmp_path / to)])
    checked = json.loads((tmp_path / to / "verification.json").read_text())
    assert checked["agreement"] == 1
