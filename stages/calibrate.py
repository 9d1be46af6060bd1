"""Fit confidence on the validation rows, and make the classifier whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from labeltune import artefact, calibration, conf, hardware, outputs, terminal
from labeltune.evaluation import Calibrate
from labeltune.origins import Dataset
from labeltune.predict import Classifier

VALIDATION = Path("data/prepared/validation.csv")
TRAINED = Path("models/trained")
CLASSIFIER = Path("models/classifier")
PREDICTIONS = Path("data/predictions/validation.csv")


def main() -> None:
    """Write models/classifier/ and data/predictions/validation.csv."""
    settings, examples = conf.section("calibrate", Calibrate), conf.section("dataset", Dataset).examples
    classifier = Classifier.load(TRAINED)
    record = classifier.record
    torch.set_num_threads(hardware.choose_threads(record.train.threads))
    with outputs.unchanged({"validation": VALIDATION}):
        rows = outputs.read_prepared(VALIDATION)
        with terminal.progress("predicting the validation rows", len(rows)) as progress:
            answers = classifier.predict(rows["text"].tolist(), allow_blank=True, progress=progress)
        labels = np.array(record.labels.index(rows["label"].tolist()))
        fitted = calibration.calibrate(answers.logits, labels, settings)
        artefact.save_calibrated(CLASSIFIER, TRAINED, replace(record, calibration=fitted, examples=examples))
        outputs.write_table(PREDICTIONS, replace(answers, calibration=fitted).table(rows))
    calibration.show(fitted, CLASSIFIER)


if __name__ == "__main__":
    terminal.run(main)
