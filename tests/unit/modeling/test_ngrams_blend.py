"""A classifier whose network answers together with an n-gram model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeltune.data.normalization import Normalization
from labeltune.inference import artifact
from labeltune.inference.classifier import Classifier
from labeltune.inference.model_card import model_card
from labeltune.modeling import ngrams
from labeltune.modeling.ngrams import Blend, Weights
from labeltune.runtime.errors import UserError
from tests import tuning
from tests.conftest import spam_rows
from tests.tuning import TEXTS

Bases = Callable[..., Path]
WEIGHTS = Weights(network=0.5, ngrams=2.0)


def spam_model() -> ngrams.Ngrams:
    rows = spam_rows(20)
    texts, labels = [text for _, text in rows], np.array([int(label == "spam") for label, _ in rows])
    return ngrams.fit(texts, labels, texts, labels, 2)


def blended(base: Path, folder: Path) -> tuple[Classifier, Classifier]:
    """The same network on disk, alone and in a blend."""
    made = tuning.plan(base, method="full", head="linear")
    network = made.build()
    record = replace(tuning.record(made), normalization=Normalization(whitespace="collapse"))
    blend = Blend(weights=WEIGHTS, model=spam_model())
    artifact.save(folder / "alone", network, made.encoder.tokenizer, made.base, record)
    artifact.save(folder / "blended", network, made.encoder.tokenizer, made.base, record, blend)
    return Classifier.load(folder / "alone"), Classifier.load(folder / "blended")


def test_the_logits_are_the_weighted_sum_of_both_models(tiny_base: Bases, tmp_path: Path) -> None:
    alone, both = blended(tiny_base("llama"), tmp_path)
    expected = 0.5 * alone.predict(TEXTS).logits + 2.0 * spam_model().logits(TEXTS)
    np.testing.assert_allclose(both.predict(TEXTS).logits, expected, rtol=1e-5, atol=1e-6)
    assert both.record.blend == WEIGHTS
    assert alone.record.blend is None


def test_texts_are_normalized_for_the_ngrams_as_for_the_network(tiny_base: Bases, tmp_path: Path) -> None:
    _, both = blended(tiny_base("llama"), tmp_path)
    plain = both.predict(["free prize now", "see you"]).logits
    np.testing.assert_array_equal(both.predict(["\n free \t prize  now", " see\u200b you "]).logits, plain)


def test_a_blend_survives_calibration_and_is_told_in_the_card(tiny_base: Bases, tmp_path: Path) -> None:
    alone, both = blended(tiny_base("llama"), tmp_path)
    artifact.save_calibrated(tmp_path / "classifier", tmp_path / "blended", both.record, "a card")
    again = Classifier.load(tmp_path / "classifier")
    np.testing.assert_array_equal(again.predict(TEXTS).logits, both.predict(TEXTS).logits)
    told = " ".join(model_card(both.record).split())
    assert "0.500 times the network's logits and 2.000 times the n-gram model's" in told
    assert "n-gram" not in model_card(alone.record)


@pytest.mark.parametrize("name", [ngrams.VOCABULARY, ngrams.WEIGHTS])
def test_changed_or_missing_files_of_the_ngrams_are_refused(tiny_base: Bases, tmp_path: Path, name: str) -> None:
    blended(tiny_base("llama"), tmp_path)
    path = tmp_path / "blended" / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match=f"changed: {name}"):
        Classifier.load(tmp_path / "blended")
    path.unlink()
    with pytest.raises(UserError, match=f"missing: {name}"):
        Classifier.load(tmp_path / "blended")
