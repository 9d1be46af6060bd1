"""Measure the classifier on the test rows."""

import time
from pathlib import Path

import numpy as np
import torch

from labeltune.config import base
from labeltune.config.evaluation import Evaluate
from labeltune.console import terminal
from labeltune.evaluation import confidence, metrics, prevalence
from labeltune.inference.classifier import Classifier
from labeltune.modeling import device
from labeltune.runtime import errors, files

TEST = Path("data/prepared/test.csv")
CLASSIFIER = Path("models/classifier")
METRICS, CONFIDENCE = Path("metrics/metrics.json"), Path("metrics/confidence_analysis.json")
SUMMARY = Path("metrics/summary.json")
PREDICTIONS = Path("data/predictions/test.csv")
COSTS = Path("costs/evaluate.json")


def main() -> None:
    """Write metrics, confidence_analysis and summary under metrics/, data/predictions/test.csv, costs/evaluate.json."""
    settings = base.section("evaluate", Evaluate)
    classifier = Classifier.load(CLASSIFIER)
    record, used = classifier.record, classifier.record.calibration
    torch.set_num_threads(device.choose_threads(record.train.threads))
    limit = None if settings.batch_tokens == "auto" else settings.batch_tokens
    bootstrap = {"seed": settings.seed, "resamples": settings.resamples}
    with files.unchanged({"test": TEST}):
        rows = files.read_prepared(TEST)
        started = time.perf_counter()
        with terminal.progress("predicting the test rows", len(rows)) as progress:
            texts = rows["text"].tolist()
            answers = classifier.on_rows().predict(texts, allow_blank=True, batch_tokens=limit, progress=progress)
        spent = time.perf_counter() - started
        names, given, guesses = record.labels.names, answers.probabilities, answers.guesses
        labels = np.array(record.labels.index(rows["label"].tolist()))
        figures = metrics.summarise(labels, given, names, guesses)
        figures["intervals"] = metrics.intervals(labels, given, guesses, **bootstrap)
        figures["prevalence"] = prevalence.in_use(answers.logits, labels, used, names, **bootstrap)
        trust = confidence.analyse(answers.logits, labels, used, names)
        files.write_table(PREDICTIONS, answers.table(rows))
        files.write_metrics(METRICS, figures)
        files.write_metrics(CONFIDENCE, trust)
        files.write_metrics(SUMMARY, metrics.summary(figures, trust))
        files.write_metrics(COSTS, device.costs(spent, len(rows), classifier.folders))
    metrics.show(figures, METRICS, PREDICTIONS)
    confidence.show_confidence(trust, CONFIDENCE)


if __name__ == "__main__":
    errors.run(main)
