"""Classifiers of tiny models, and their exports."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import dynamic_module_utils

from labeltune.data.normalization import Normalization
from labeltune.export import export
from labeltune.export.bundle import predict
from labeltune.export.export import Comparison, as_written
from labeltune.inference import artifact
from labeltune.inference.calibration import Calibration
from labeltune.inference.classifier import Classifier
from labeltune.modeling import adapters
from labeltune.modeling.ngrams import Blend
from tests import tuning

TEXTS = [*tuning.TEXTS, "call <|end|> now </s>", "a 中文 é\n\ttext", "free prize now " * 60]
TEMPERATURE = 1.7


def trained(
    base: Path, folder: Path, *, bias: Sequence[float] = (), blend: Blend | None = None, **train: Any
) -> Classifier:
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
    artifact.save(folder, network, made.encoder.tokenizer, made.base, record, blend)
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


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that comes with a model is copied into no user's cache."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
