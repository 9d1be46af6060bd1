"""Fit confidence on the validation rows, and make the classifier whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from labeltune.config import base
from labeltune.config.data import Dataset
from labeltune.config.evaluation import Calibrate
from labeltune.console import terminal
from labeltune.data.prevalence import FILE, Prevalence
from labeltune.evaluation import calibration
from labeltune.inference import artifact
from labeltune.inference.classifier import Classifier
from labeltune.inference.model_card import model_card
from labeltune.modeling import device
from labeltune.runtime import errors, files

PREPARED = Path("data/prepared")
VALIDATION = PREPARED / "validation.csv"
TRAINED = Path("models/trained")
CLASSIFIER = Path("models/classifier")
PREDICTIONS = Path("data/predictions/validation.csv")


def main() -> None:
    """Write models/classifier/ and data/predictions/validation.csv."""
    settings, examples = base.section("calibrate", Calibrate), base.section("dataset", Dataset).examples
    classifier = Classifier.load(TRAINED)
    record = classifier.record
    torch.set_num_threads(device.choose_threads(record.train.threads))
    with files.unchanged({"validation": VALIDATION, "prevalence": PREPARED / FILE}):
        prevalence = Prevalence.load(PREPARED)
        rows = files.read_prepared(VALIDATION)
        with terminal.progress("predicting the validation rows", len(rows)) as progress:
            answers = classifier.predict(rows["text"].tolist(), allow_blank=True, progress=progress)
        labels = np.array(record.labels.index(rows["label"].tolist()))
        weights = calibration.trained_weights(record.train, record.labels, prevalence)
        world = calibration.World.of(settings.prevalence, prevalence, record.labels)
        fitted = calibration.calibrate(answers.logits, labels, settings, weights, world)
        record = replace(record, calibration=fitted, examples=examples)
        artifact.save_calibrated(CLASSIFIER, TRAINED, record, model_card(record))
        files.write_table(PREDICTIONS, replace(answers, calibration=fitted.measured).table(rows))
    calibration.show_calibration(fitted, CLASSIFIER)


if __name__ == "__main__":
    errors.run(main)
