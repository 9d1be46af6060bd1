"""Answers: one by one they say what the arrays say, whoever asks and however many at once."""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from labeltune.data.normalization import UNCHANGED, Normalization
from labeltune.inference import artifact
from labeltune.inference.artifact import load_record
from labeltune.inference.calibration import Calibration
from labeltune.inference.classifier import Answer, Classifier, Predictions
from labeltune.modeling.base_models import load_tokenizer
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import digest, write_json
from tests import tuning

LOGITS = np.array([[0.0, np.log(3.0)], [2.0, 2.0], [np.log(19.0), 0.0]], dtype=np.float32)


@pytest.fixture
def predictions() -> Predictions:
    fitted = Calibration(temperature=1.0, fitted=True, threshold=0.8)
    return Predictions(names=("no", "yes"), logits=LOGITS, truncated=[False, True, False], calibration=fitted)


def test_an_answer_holds_what_its_row_says(predictions: Predictions) -> None:
    first, second, third = predictions
    assert first == Answer(
        label="yes",
        confidence=pytest.approx(0.75),
        probabilities={"no": pytest.approx(0.25), "yes": pytest.approx(0.75)},
        abstained=True,
        truncated=False,
    )
    assert second.truncated
    assert (third.label, third.confidence, third.abstained) == ("no", pytest.approx(0.95), False)


def test_answers_and_arrays_agree(predictions: Predictions) -> None:
    assert [answer.confidence for answer in predictions] == predictions.confidence.tolist()
    assert [answer.abstained for answer in predictions] == predictions.abstained
    assert [list(answer.probabilities.values()) for answer in predictions] == predictions.probabilities.tolist()


def test_after_class_weights_the_answer_is_the_networks_and_the_confidence_its_own(predictions: Predictions) -> None:
    weighted = replace(predictions, calibration=Calibration(bias=[np.log(2.0), -np.log(2.0)], threshold=0.5))
    first = weighted[0]
    assert (first.label, first.confidence, first.abstained) == ("yes", pytest.approx(3 / 7), True)
    assert first.probabilities["no"] == pytest.approx(4 / 7)
    assert [answer.confidence for answer in weighted] == weighted.confidence.tolist()
    assert [answer.label for answer in weighted] == [weighted.names[guess] for guess in weighted.guesses]


def test_a_part_keeps_its_rows(predictions: Predictions) -> None:
    assert list(predictions[1:]) == list(predictions)[1:]


TEXTS = [" ".join(words) for words in itertools.permutations(["win", "a", "free", "prize", "now", "home"], 3)][:40]


@pytest.fixture(scope="module")
def folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuning.saved(base_folder, tmp_path_factory.mktemp("predict") / "classifier")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return Classifier.load(str(folder))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_raw_text_is_answered_as_its_prepared_form(classifier: Classifier) -> None:
    normalize = Normalization(unicode="NFC", whitespace="collapse")
    trained = replace(classifier, encoder=replace(classifier.encoder, normalization=normalize))
    raw = ["free\n\nentry  now\u200b", "\ufeffcafe\u0301 opens ", *tuning.TEXTS]
    prepared = [normalize(text) for text in raw]
    np.testing.assert_array_equal(trained.predict(raw).logits, trained.predict(prepared).logits)
    assert not np.array_equal(classifier.predict(raw).logits, classifier.predict(prepared).logits)


def test_the_normalization_is_kept_with_the_classifier_and_one_without_it_loads(folder: Path, tmp_path: Path) -> None:
    normalization = Normalization(unicode="NFKC", whitespace="strip")
    artifact.save_calibrated(tmp_path / "kept", folder, replace(load_record(folder), normalization=normalization), "")
    assert load_record(tmp_path / "kept").normalization == normalization
    assert Classifier.load(tmp_path / "kept").encoder.normalization == normalization
    path = tmp_path / "kept" / artifact.RECORD
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["normalization"]  # as before there was one
    path.write_text(json.dumps(content), encoding="utf-8")
    manifest = tmp_path / "kept" / artifact.MANIFEST
    hashes = json.loads(manifest.read_text(encoding="utf-8"))
    hashes["sha256"][artifact.RECORD] = digest(path)
    manifest.write_text(json.dumps(hashes), encoding="utf-8")
    assert load_record(tmp_path / "kept").normalization == UNCHANGED


def test_answers_do_not_depend_on_what_else_is_asked(classifier: Classifier) -> None:
    together = classifier.predict(TEXTS)
    assert len({answer.label for answer in together}) == 2
    assert 0 < sum(together.abstained) < len(TEXTS)
    for given in (
        classifier.predict(TEXTS, batch_tokens=1),
        classifier.predict(iter(TEXTS), batch_tokens=100_000),
        list(classifier.stream(iter(TEXTS), together=7)),
        [classifier.predict(text)[0] for text in TEXTS],
    ):
        for answer, expected in zip(given, together, strict=True):
            assert (answer.label, answer.abstained) == (expected.label, expected.abstained)
            assert answer.confidence == pytest.approx(expected.confidence, abs=1e-5)


def test_threads_that_share_a_classifier_get_the_answers_of_one(classifier: Classifier, two_threads: None) -> None:
    parts = [TEXTS[i::4] for i in range(4)] * 4
    alone = [classifier.predict(part, batch_tokens=40).logits for part in parts]
    with ThreadPoolExecutor(8) as pool:
        shared = list(pool.map(lambda part: classifier.predict(part, batch_tokens=40).logits, parts))
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one, other)
    assert torch.get_num_threads() == 2


def test_a_stream_without_end_takes_texts_as_they_are_needed(classifier: Classifier) -> None:
    taken = itertools.count()
    stream = classifier.stream((f"win {next(taken)}" for _ in itertools.repeat(None)), together=5)
    assert len(list(itertools.islice(stream, 6))) == 6
    assert next(taken) == 10


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "there is no text to label"),
        (["a", " \n"], r"texts\[1\] is blank: ' \\n'"),
        (["a", None], r"texts\[1\] is no string: None"),
        (["a", "\ud83d"], r"texts\[1\] is not valid Unicode"),
    ],
)
def test_what_is_no_text_is_refused(classifier: Classifier, texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        classifier.predict(texts)


def test_a_kept_blank_row_is_answered_where_that_is_allowed(classifier: Classifier) -> None:
    assert len(classifier.predict(["", "win"], allow_blank=True)) == 2


def test_pickles_and_files_of_others_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "chat_template.json").write_text("{}")
    with pytest.raises(UserError, match=r"copy is damaged \(not a part of it: chat_template.json\)"):
        Classifier.load(copy)
    (copy / "chat_template.json").unlink()
    weights, manifest = copy / "adapter_model.safetensors", copy / "manifest.json"
    weights.rename(copy / "adapter_model.bin")
    hashes = json.loads(manifest.read_text())["sha256"]
    with pytest.raises(UserError, match="copy holds adapter_model.bin: pickles, which can run code"):
        Classifier.load(copy)
    del hashes[weights.name]
    write_json(manifest, {"sha256": hashes | {"adapter_model.bin": digest(copy / "adapter_model.bin")}})
    with pytest.raises(UserError, match="manifest.json is damaged: it names no weights"):
        Classifier.load(copy)
    write_json(manifest, {"sha256": hashes | {"adapter_model.bin": "", "x.safetensors": ""}})
    with pytest.raises(UserError, match="pickles"):
        Classifier.load(copy)


@pytest.mark.parametrize(
    "name",
    [".hidden", ".cache/x.json", "modeling.py", "tokenizer.so", "folder/x.json", ".json", "templates.JSON", "pipe"],
)
@pytest.mark.parametrize("listed", [False, True])
def test_nothing_but_the_kinds_of_a_classifier_is_let_in(folder: Path, tmp_path: Path, name: str, listed: bool) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    odd = copy / name
    odd.parent.mkdir(exist_ok=True)
    if name == "pipe":
        os.mkfifo(odd)  # reading it would wait for ever
    else:
        odd.write_text("{}")
    if listed:
        content = json.loads((copy / "manifest.json").read_text())["sha256"]
        write_json(copy / "manifest.json", {"sha256": content | {name: digest(odd) if odd.is_file() else ""}})
    top = name.partition("/")[0]
    with pytest.raises(UserError, match=rf"copy is damaged \(of a kind that no classifier has: {re.escape(top)}"):
        Classifier.load(copy)


def test_code_that_comes_with_a_classifier_is_not_run_and_nobody_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    file = copy / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {
        "tokenizer_class": "Strange",
        "auto_map": {"AutoTokenizer": ["strangers/model--tokenization.Strange", None]},
    }
    write_json(file, settings)
    hashes = json.loads((copy / "manifest.json").read_text())["sha256"]
    write_json(copy / "manifest.json", {"sha256": hashes | {file.name: digest(file)}})
    with pytest.raises(
        UserError, match=r"tokenizer_config.json: auto_map: this model needs Python code from its folder"
    ):
        Classifier.load(copy)
    assert asked == []


def test_an_artefact_of_a_tokenizer_with_several_chat_templates_loads(base_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_folder, base)
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(base)
    assert load_record(tuning.saved(base, tmp_path / "kept")).labels


def test_adapters_of_another_size_are_refused(folder: Path, base_folder: Path, tmp_path: Path) -> None:
    other = tuning.saved(base_folder, tmp_path / "other", lora={"rank": 2})
    copy, name = tmp_path / "copy", "adapter_model.safetensors"
    shutil.copytree(folder, copy)
    shutil.copy(other / name, copy / name)
    hashes = json.loads((copy / "manifest.json").read_text())["sha256"]
    write_json(copy / "manifest.json", {"sha256": hashes | {name: digest(copy / name)}})
    with pytest.raises(UserError, match="does not fit the model it describes"):
        Classifier.load(copy)
