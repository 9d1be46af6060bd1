"""Predict changed copies of the test rows."""

from pathlib import Path

import torch

from labeltune import conf, flips, hardware, outputs, robustness, terminal
from labeltune.evaluation import Robustness
from labeltune.predict import Classifier

PREDICTIONS = Path("data/predictions/test.csv")
CLASSIFIER = Path("models/classifier")
METRICS = Path("metrics/robustness_result.json")
ROWS = Path("data/robustness")


def main() -> None:
    """Write metrics/robustness_result.json, data/robustness/rows.csv and data/robustness/flips.csv."""
    settings = conf.section("robustness", Robustness)
    classifier = Classifier.load(CLASSIFIER)
    torch.set_num_threads(hardware.choose_threads(classifier.record.train.threads))
    with outputs.unchanged({"predictions": PREDICTIONS}):
        given = robustness.Given.read(PREDICTIONS, classifier.record.labels)
        trials = robustness.plan(given, settings)
        answers = robustness.predict(classifier, given, trials)
        result = robustness.measure(given, trials, answers, settings)
        rows = flips.rows(given, trials, answers)
        outputs.write_table(ROWS / "rows.csv", rows)
        outputs.write_table(ROWS / "flips.csv", flips.worst(rows, settings.severity, settings.worst))
        outputs.write_json(METRICS, result)
    robustness.show(result, METRICS, ROWS)


if __name__ == "__main__":
    terminal.run(main)
