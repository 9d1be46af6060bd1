"""The script of an export: the same tokens and answers as the classifier, without labeltune."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labeltune.data.normalization import Normalization
from labeltune.export import export, model_card
from labeltune.export.bundle import predict
from labeltune.export.export import EXACT
from labeltune.modeling import ngrams
from labeltune.modeling.ngrams import Blend, Weights
from tests import tuning
from tests.tuning import ANSWERS
from tests.unit.export.conftest import TEXTS, exported, trained

Bases = Callable[..., Path]


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


FORMS = [("NFC", "collapse"), ("NFKC", "strip"), ("none", "keep"), ("none", "collapse"), ("NFC", "keep")]


@pytest.fixture
def folder(tiny_base: Bases, tmp_path: Path) -> Path:
    """An export as a Transformers folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    export.write(trained(tiny_base("llama"), tmp_path / "classifier"), tmp_path / "classifier", "merged", folder)
    return folder


def test_texts_are_normalized_as_the_classifier_does(folder: Path) -> None:
    alone = predict.Classifier(folder)
    texts = [" a\n\tb ", "cafe\u0301 ﬁ Ａ", "\ufeffx\u200by\u2028z", "", "  ", "\u00a0a\u3000b\u00a0", "a\x1fb\x85"]
    for unicode, whitespace in FORMS:
        alone.settings["normalization"] = {"unicode": unicode, "whitespace": whitespace}
        expected = Normalization(unicode=unicode, whitespace=whitespace)  # type: ignore[arg-type]
        assert [alone.normalized(text) for text in texts] == [expected(text) for text in texts]


def test_answers_say_what_the_logits_say(folder: Path) -> None:
    alone = predict.Classifier(folder)
    alone.settings["threshold"] = 0.8
    answer = alone._answer(np.array([0.0, np.log(3.0)]), True)
    assert answer == {
        "label": alone.settings["labels"][1],
        "confidence": pytest.approx(0.75),
        "probabilities": dict(zip(alone.settings["labels"], [pytest.approx(0.25), pytest.approx(0.75)], strict=True)),
        "abstained": True,
        "truncated": True,
        "logits": [0.0, pytest.approx(np.log(3.0))],
    }


def test_answers_come_in_the_order_of_the_texts_whatever_their_lengths(folder: Path) -> None:
    alone = predict.Classifier(folder)
    texts = ["free prize now " * (i % 5) + f"call {i}" for i in range(predict.ROWS + 3)]
    together = alone.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        assert alone.predict([text])[0]["logits"] == pytest.approx(answer["logits"], abs=1e-5)


@pytest.mark.parametrize("given", ["arguments", "standard input"])
def test_the_script_answers_arguments_or_lines_with_a_line_of_json_each(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    texts = ["win cash", 'see "you"\nlater']
    monkeypatch.setattr(predict, "__file__", str(folder / "predict.py"))
    monkeypatch.setattr(sys, "argv", ["predict.py", *(texts if given == "arguments" else [])])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*map(json.dumps, texts), ""])))
    predict.main()
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = predict.Classifier(folder).predict(texts)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    assert [answer["logits"] for answer in answers] == [pytest.approx(answer["logits"]) for answer in expected]


@pytest.mark.parametrize("kind", ngrams.KINDS)
def test_the_program_computes_the_ngrams_logits_as_scikit_learn_does(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngrams, "KINDS", {kind: ngrams.KINDS[kind]})
    texts = [*tuning.TEXTS, "Free CASH: 50% off!!", "房间很脏 free", "a b", "see you\u2028at home"]
    labels = np.array([*ANSWERS, 1, 2, 0, 2])
    model = ngrams.fit(texts, labels, texts, labels, 3)
    model.save(tmp_path)
    alone = predict.Ngrams(tmp_path)
    for text in [*texts, *TEXTS, "", "!", "\u200b", "I\u0307ß_9", "free free free", "🙂🙂 x"]:
        np.testing.assert_allclose(alone.logits(text), model.logits([text])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("to", ["merged", "onnx"])
def test_an_export_of_a_blend_answers_as_the_blend_does(tiny_base: Bases, tmp_path: Path, to: str) -> None:
    texts = [*tuning.TEXTS, *tuning.TEXTS]
    model = ngrams.fit(texts, np.array([*ANSWERS, *ANSWERS]), texts, np.array([*ANSWERS, *ANSWERS]), 2)
    blend = Blend(weights=Weights(network=0.6, ngrams=1.5), model=model)
    classifier = trained(tiny_base("llama"), tmp_path / "classifier", blend=blend, head="linear", bias=[0.4, -0.4])
    folder, _, compared = exported(classifier, tmp_path, to)
    assert compared.keeps(EXACT), str(compared)
    card = model_card.export_card(
        classifier.record, onnx=to == "onnx", own=False, texts=texts, compared="", figures=None
    )
    assert "whose logits only `predict.py` adds" in " ".join(card.split())
    (folder / ngrams.WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError):
        predict.Classifier(folder)
