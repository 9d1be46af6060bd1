"""Transformers folders and ONNX graphs give the classifier's own logits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labeltune.export.bundle import predict
from labeltune.export.export import EXACT
from labeltune.inference.classifier import Classifier
from tests.unit.export.conftest import TEXTS, exported, trained

Bases = Callable[..., Path]


SEVERAL = {"words": ("ham", "free prize")}


@pytest.mark.parametrize(
    ("architecture", "train", "kind"),
    [
        ("llama", {}, "LlamaForSequenceClassification"),
        ("llama", {"method": "full", "head": "linear", "depth": 2, "layers": 1}, "LlamaForSequenceClassification"),
        ("gemma3_text", {"depth": 2, "layers": 1}, "Gemma3TextForSequenceClassification"),
        ("qwen2", {**SEVERAL, "label_score": "first_token"}, "Qwen2ForSequenceClassification"),
        ("gpt2", {"method": "full"}, "GPT2ForSequenceClassification"),
        ("bert", {"head": "linear"}, "BertForSequenceClassification"),
        ("roberta", {"head": "linear", "method": "full"}, "RobertaForSequenceClassification"),
        ("mpnet", {"head": "linear"}, "MPNetForSequenceClassification"),
        ("modernbert", {"head": "linear"}, "ModernBertForSequenceClassification"),
        ("llama", {"head": "linear", "pooling": "mean", "depth": 2}, None),
        ("gpt2", {"head": "mlp"}, None),
        ("bert", {"head": "mlp", "pooling": "mean"}, None),
        ("mpnet", {"head": "linear", "method": "full", "pooling": "mean", "depth": 2}, None),
        ("modernbert", {"head": "mlp", "method": "full"}, None),
        ("qwen3", {"label_score": "contextual"}, None),
        ("llama", {"method": "probe", "head": "linear", "depth": 2}, None),
        ("bert", {"method": "probe", "head": "linear"}, None),
    ],
)
def test_a_transformers_folder_gives_the_same_logits(
    tiny_base: Bases, tmp_path: Path, architecture: str, train: dict[str, Any], kind: str | None
) -> None:
    classifier = trained(tiny_base(architecture), tmp_path / "classifier", **train)
    folder, own, compared = exported(classifier, tmp_path, "merged")
    assert compared.logit < 2e-5
    assert compared.keeps(EXACT)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == dict(zip("01", classifier.record.labels.names, strict=True))
    assert config["architectures"] == [kind or "PooledClassifier"]
    assert own == (kind is None) == (folder / "pooled.py").is_file() == ("auto_map" in config)
    assert config.get("backbone", config)["num_hidden_layers" if architecture != "gpt2" else "n_layer"] == (
        train.get("depth", 3)
    )
    assert str(tiny_base(architecture)) not in (folder / "config.json").read_text()


@pytest.mark.parametrize(
    ("architecture", "train"),
    [
        ("llama", {**SEVERAL, "label_score": "contextual"}),
        ("gemma3_text", {"head": "mlp", "pooling": "mean", "depth": 2, "layers": 1}),
        ("bert", {"head": "linear"}),
        ("mpnet", {"head": "linear", "method": "full", "pooling": "mean", "depth": 2}),
    ],
    ids=["several tokens", "mean", "encoder", "relative positions"],
)
@pytest.mark.slow
def test_a_graph_gives_the_same_logits(
    tiny_base: Bases, tmp_path: Path, architecture: str, train: dict[str, Any]
) -> None:
    classifier = trained(tiny_base(architecture), tmp_path / "classifier", **train)
    folder, _, compared = exported(classifier, tmp_path, "onnx")
    assert compared.logit < 2e-5
    assert compared.keeps(EXACT)
    assert (folder / "model.onnx").is_file()
    whole, one = (predict.Classifier(folder).predict(TEXTS[:rows])[0] for rows in (len(TEXTS), 1))
    assert one["logits"] == pytest.approx(whole["logits"], abs=1e-5)


@pytest.mark.slow
def test_a_graph_in_8_bits_is_near_and_smaller(tiny_base: Bases, tmp_path: Path) -> None:
    trained(tiny_base("llama", hidden_size=64), tmp_path / "classifier", head="linear")
    sizes = []
    for to, most in (("onnx", 2e-5), ("onnx-int8", 0.1)):
        folder, _, compared = exported(Classifier.load(tmp_path / "classifier"), tmp_path, to)
        assert compared.logit < most
        sizes.append((folder / "model.onnx").stat().st_size)
    assert compared.logit > 2e-5
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("architecture", "train", "to"),
    [
        ("llama", {"head": "linear"}, "merged"),
        ("llama", {}, "merged"),
        ("gpt2", {"head": "mlp"}, "merged"),
        ("bert", {"head": "linear"}, "merged"),
        pytest.param("qwen3", {"label_score": "contextual", **SEVERAL}, "onnx", marks=pytest.mark.slow),
    ],
)
def test_biases_of_the_labels_go_with_every_export_and_the_answers_stay_those_of_least_cost(
    tiny_base: Bases, tmp_path: Path, architecture: str, train: dict[str, Any], to: str
) -> None:
    classifier = trained(tiny_base(architecture), tmp_path / "classifier", bias=(-1.5, 1.5), **train)
    folder, own, compared = exported(classifier, tmp_path, to)
    assert compared.logit < 2e-5
    assert compared.keeps(EXACT)
    assert own == (to == "merged" and architecture != "bert")  # a decoder's linear head has no bias in Transformers
    plain = Classifier.load(tmp_path / "classifier").predict(TEXTS)
    answered = [answer["label"] for answer in predict.Classifier(folder).predict(TEXTS)]
    assert answered == [plain.names[guess] for guess in plain.logits.argmax(axis=1)]
