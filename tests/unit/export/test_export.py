"""Exports against the classifier that they were made from; what answers is Transformers or onnxruntime alone."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import dynamic_module_utils

from labeltune.data.normalization import Normalization
from labeltune.export import export, model_card
from labeltune.export.bundle import predict
from labeltune.export.export import EXACT, Comparison, as_written
from labeltune.inference import artifact
from labeltune.inference.calibration import Calibration
from labeltune.inference.classifier import Classifier
from labeltune.modeling import adapters
from labeltune.runtime.errors import UserError
from tests import tuning
from tests.tuning import ANSWERS

Bases = Callable[..., Path]
TEXTS = [*tuning.TEXTS, "call <|end|> now </s>", "a 中文 é\n\ttext", "free prize now " * 60]
TEMPERATURE = 1.7
SEVERAL = {"words": ("ham", "free prize")}


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that comes with a model is copied into no user's cache."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))


def trained(base: Path, folder: Path, *, bias: Sequence[float] = (), **train: Any) -> Classifier:
    """A classifier on disk whose trainable weights are random, and calibrated."""
    made = tuning.plan(base, **train)
    torch.manual_seed(0)
    network = made.build()
    for parameter in network.parameters():  # adapters begin at zero
        if parameter.requires_grad and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    record = replace(
        tuning.record(made, adapters.label_prior(network)),
        calibration=Calibration(temperature=TEMPERATURE, bias=list(bias), fitted=True, rows=7, threshold=0.7),
        examples=["free cash now", "the call of you"],
        normalization=Normalization(unicode="NFC", whitespace="collapse"),
    )
    artifact.save(folder, network, made.encoder.tokenizer, made.base, record)
    return Classifier.load(folder)


def exported(classifier: Classifier, tmp_path: Path, to: str) -> tuple[Path, bool, Comparison]:
    """Write an export, and put its answers beside the classifier's."""
    texts = [*TEXTS, *map(as_written, TEXTS)]
    expected = classifier.predict(texts)
    np.testing.assert_allclose(expected.logits[: len(TEXTS)], expected.logits[len(TEXTS) :], atol=1e-5)
    assert np.ptp(expected.logits[:, 0] - expected.logits[:, 1]) > 0.1
    folder = tmp_path / to
    folder.mkdir()
    own = export.write(classifier, tmp_path / "classifier", to, folder)
    return folder, own, export.compare(expected, predict.Classifier(folder).predict(texts))


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


def test_label_words_of_several_tokens_have_no_form_in_transformers(
    tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no prepared rows are
    trained(tiny_base("llama"), tmp_path / "classifier", **SEVERAL)
    with pytest.raises(UserError, match="--to onnx, or set a verbalizer"):
        export.export(tmp_path / "classifier", to="merged", out=tmp_path / "out", rows=None)
    assert [path.name for path in tmp_path.iterdir()] == ["classifier"]


@pytest.mark.parametrize(
    ("architecture", "train"),
    [
        ("llama", {**SEVERAL, "label_score": "contextual"}),
        ("gemma3_text", {"head": "mlp", "pooling": "mean", "depth": 2, "layers": 1}),
        ("bert", {"head": "linear"}),
    ],
    ids=["several tokens", "mean", "encoder"],
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


@pytest.mark.parametrize(("architecture", "encoder"), [("llama", False), ("bert", True)])
def test_texts_become_the_same_tokens(tiny_base: Bases, tmp_path: Path, architecture: str, encoder: bool) -> None:
    classifier = trained(tiny_base(architecture), tmp_path / "classifier", head="linear", max_length=20)
    folder = tmp_path / "out"
    folder.mkdir()
    export.write(classifier, tmp_path / "classifier", "merged", folder)
    alone = predict.Classifier(folder)
    texts = [*TEXTS, "", " ", "<|end|>", "</s>", "free prize call now win cash see you at home"]
    encoded = classifier.encoder.encode(texts)
    assert [alone.tokens(text) for text in texts] == list(zip(encoded.input_ids, encoded.truncated, strict=True))
    assert sum(encoded.truncated) >= 2


def rows_file(folder: Path, labels: tuple[str, str] = ("ham", "spam")) -> Path:
    path = folder / "rows.csv"
    rows = [f'{labels[answer]},"{text}"' for text, answer in zip(tuning.TEXTS, ANSWERS, strict=True)]
    path.write_text("\n".join(["label,text", *rows]) + "\n")
    return path


@pytest.mark.slow
def test_an_export_runs_where_there_is_no_labeltune(
    tiny_base: Bases, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = trained(tiny_base("llama"), tmp_path / "classifier", head="linear", pooling="mean")
    out = tmp_path / "out"
    export.export(tmp_path / "classifier", to="hub-folder", out=out, rows=rows_file(tmp_path))
    printed = capsys.readouterr().out
    assert "14 of 14 answers agree (100.00%)" in printed
    assert "trust_remote_code=True" in printed
    assert "temperature 1.700" in printed
    checked = json.loads((out / "verification.json").read_text())
    assert (checked["rows"], checked["agreement"], checked["changed_rows"]) == (14, 1.0, [])
    assert 0 < checked["largest_logit_difference"] < 1e-5

    card = ModelCard.load(out / "README.md")
    assert card.data.base_model == "tiny"
    accuracy = next(result for result in card.data.eval_results or [] if result.metric_type == "accuracy")
    right = [answer.label == "hs"[truth] + ("am", "pam")[truth]
             for answer, truth in zip(classifier.predict(tuning.TEXTS), ANSWERS, strict=True)]  # fmt: skip
    assert accuracy.metric_value == pytest.approx(sum(right) / 7, abs=1e-4)
    assert "This export on 7 test rows" in card.text

    snippet = card.text.split("```python\n")[1].split("```")[0].replace("a text", tuning.TEXTS[0])
    code = f"import sys; sys.modules['labeltune'] = None\n{snippet}"
    environment = {"HF_MODULES_CACHE": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=out, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith(classifier.predict(tuning.TEXTS[:1])[0].label)


def wrong(expected: list[dict[str, Any]]) -> Callable[..., list[dict[str, Any]]]:
    """Answers as they are, but with the labels' probabilities exchanged in one of them."""
    values = expected[0]["probabilities"]
    expected[0]["probabilities"] = dict(zip(values, reversed(values.values()), strict=True))
    expected[0]["label"] = next(name for name in values if name != expected[0]["label"])
    return lambda folder, texts, progress: expected


def test_an_export_that_answers_otherwise_is_not_kept(
    tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = trained(tiny_base("llama"), tmp_path / "classifier")
    given = [
        {
            "label": answer.label,
            "probabilities": answer.probabilities,
            "logits": row,
            "truncated": answer.truncated,
        }
        for predictions in [classifier.predict([*tuning.TEXTS, *map(as_written, tuning.TEXTS)])]
        for answer, row in zip(predictions, (predictions.logits / TEMPERATURE).tolist(), strict=True)
    ]
    monkeypatch.setattr(export, "answers", wrong(given))
    with pytest.raises(UserError, match="not kept: 13 of 14 answers agree"):
        export.export(tmp_path / "classifier", to="merged", out=tmp_path / "out", rows=rows_file(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier", "rows.csv"]


def test_an_export_whose_program_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "predict.py").write_text("raise SystemExit('no such operator')\n")
    with pytest.raises(UserError, match="no such operator"):
        export.answers(tmp_path, ["a"], lambda rows: None)


def test_what_an_export_can_not_be_made_with_is_refused(
    tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "classifier"
    trained(tiny_base("llama"), folder)
    monkeypatch.chdir(tmp_path)

    def refused(message: str, to: str = "merged", out: Path = tmp_path / "out", rows: Path | None = None) -> None:
        with pytest.raises(UserError, match=message):
            export.export(folder, to=to, out=out, rows=rows)

    refused("is no export; name another folder", out=folder)
    refused("no label of this classifier is called \\['eggs'\\]", rows=rows_file(tmp_path, ("eggs", "spam")))
    refused("the classifier's examples has no column `label`", to="hub-folder")
    content = json.loads((folder / "labeltune.json").read_text())
    artifact.save_calibrated(tmp_path / "bare", folder, replace(artifact.load_record(folder), examples=[]), "")
    assert content["examples"]
    with pytest.raises(UserError, match="give a file of texts with --rows"):
        export.export(tmp_path / "bare", to="merged", out=tmp_path / "out", rows=None)
    assert not (tmp_path / "out").exists()


def test_a_comparison_counts_answers_and_ignores_what_softmax_does_not_see() -> None:
    compared = Comparison(rows=1000, changed=[3], logit=0.5, probability=0.0005, cut=[])
    assert compared.keeps(EXACT)
    assert not replace(compared, changed=[3, 4]).keeps(EXACT)
    assert not replace(compared, probability=0.002).keeps(EXACT)
    assert not replace(compared, cut=[7]).keeps(EXACT)


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["call the doctor", "win a prize now"], "en"),
        (["房间太小了", "很好"], "zh"),
        (["rufen Sie uns an", "gewinnen Sie jetzt"], None),
        (["メールを送る"], None),
    ],
)
def test_the_language_is_named_only_where_it_can_be_told(texts: list[str], code: str | None) -> None:
    assert model_card.spoken(texts) == code
