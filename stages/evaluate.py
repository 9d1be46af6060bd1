"""Measure the trained classifier on the test rows."""

from pathlib import Path

import numpy as np
import torch

from labeltune import conf, hardware, metrics, outputs, terminal
from labeltune.evaluation import Evaluate
from labeltune.predict import Classifier

TEST = Path("data/prepared/test.csv")
CLASSIFIER = Path("models/classifier")
METRICS = Path("metrics/metrics.json")
PREDICTIONS = Path("data/predictions/test.csv")


def main() -> None:
    """Write metrics/metrics.json and data/predictions/test.csv."""
    settings = conf.section("evaluate", Evaluate)
    classifier = Classifier.load(CLASSIFIER)
    torch.set_num_threads(hardware.choose_threads(classifier.record.train.threads))
    limit = None if settings.batch_tokens == "auto" else settings.batch_tokens
    with outputs.unchanged({"test": TEST}):
        rows = outputs.read_prepared(TEST)
        with terminal.progress("predicting the test rows", len(rows)) as progress:
            predictions = classifier.predict(rows["text"].tolist(), batch_tokens=limit, progress=progress)
        names = classifier.record.labels.names
        labels = np.array(classifier.record.labels.index(rows["label"].tolist()))
        figures = metrics.summarise(labels, predictions.probabilities, names)
        outputs.write_table(PREDICTIONS, predictions.table(rows, names))
        outputs.write_json(METRICS, figures)
    metrics.show(figures, METRICS, PREDICTIONS)


if __name__ == "__main__":
    terminal.run(main)
