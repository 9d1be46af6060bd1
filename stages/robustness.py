"""Predict changed copies of the test rows."""

from pathlib import Path

import torch

from labeltune.config import base
from labeltune.config.evaluation import Robustness
from labeltune.evaluation.robustness import evaluate
from labeltune.inference.classifier import Classifier
from labeltune.modeling import device
from labeltune.runtime import errors, files

PREDICTIONS = Path("data/predictions/test.csv")
CLASSIFIER = Path("models/classifier")
METRICS = Path("metrics/robustness_result.json")
ROWS = Path("data/robustness")


def main() -> None:
    """Write metrics/robustness_result.json, data/robustness/rows.csv and data/robustness/flips.csv."""
    settings = base.section("robustness", Robustness)
    classifier = Classifier.load(CLASSIFIER).on_rows()
    torch.set_num_threads(device.choose_threads(classifier.record.train.threads))
    with files.unchanged({"predictions": PREDICTIONS}):
        given = evaluate.Given.read(PREDICTIONS, classifier.record.labels, classifier.record.calibration)
        trials = evaluate.plan(given, settings)
        answers = evaluate.predict(classifier, given, trials)
        result = evaluate.measure(given, trials, answers, settings)
        rows = evaluate.rows(given, trials, answers)
        files.write_table(ROWS / "rows.csv", rows)
        files.write_table(ROWS / "flips.csv", evaluate.worst(rows, settings.severity, settings.worst))
        files.write_metrics(METRICS, result)
    evaluate.show(result, METRICS, ROWS)


if __name__ == "__main__":
    errors.run(main)
